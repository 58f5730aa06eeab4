package loader

import (
	"fmt"
	"io"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// onnxFile is the bytes of a protobuf message, read at offsets through a window,
// never as a whole: tensors' bytes go straight to where they stay.
type onnxFile struct {
	src  io.ReaderAt
	name string
	size int64
	win  []byte // what is read at the moment
	at   int64  // where it starts
	left int64  // bytes that decoding may still allocate
}

const (
	onnxWindow = 64 << 10
	maxString  = 1 << 20 // of a name or a key
	// maxItems bounds what a graph lists: nodes, values, attributes of a node.
	maxItems = 1 << 20
)

// spend takes n bytes off the memory that the file may cost.
func (f *onnxFile) spend(n int64, tensor string, off int64) error {
	if n < 0 || n > f.left {
		return fault(ErrLimit, tensor, off, "memory for what the file asks for", fmt.Sprint("at most ", f.left, " bytes more"), n)
	}
	f.left -= n
	return nil
}

// peek is the bytes at off, at most n and as many as there are before end.
func (f *onnxFile) peek(off, end int64, n int) ([]byte, error) {
	n = int(min(int64(n), end-off))
	if off < f.at || off+int64(n) > f.at+int64(len(f.win)) {
		k := int(min(onnxWindow, f.size-off))
		if cap(f.win) < k {
			f.win = make([]byte, onnxWindow)
		}
		f.win, f.at = f.win[:k], off
		if err := f.read(f.win, off); err != nil {
			f.win = f.win[:0]
			return nil, err
		}
	}
	return f.win[off-f.at:][:n], nil
}

// read fills b from off.
func (f *onnxFile) read(b []byte, off int64) error {
	if off < 0 || off > f.size || int64(len(b)) > f.size-off {
		return fault(ErrTruncated, "", off, "read", fmt.Sprint(len(b), " bytes"), max(0, f.size-off))
	}
	if n, err := f.src.ReadAt(b, off); n < len(b) {
		if err == io.EOF || err == nil {
			return fault(ErrTruncated, "", off, "read", fmt.Sprint(len(b), " bytes"), n)
		}
		return osError(f.name, err)
	}
	return nil
}

// wire walks the fields of one message, bytes [off, end) of the file.
type wire struct {
	f        *onnxFile
	off, end int64
}

// field is one field of a message: a number, or the bytes that a sub-message, a
// string or packed numbers take.
type field struct {
	num  protowire.Number
	typ  protowire.Type
	at   int64 // of the tag
	u    uint64
	body wire // of BytesType
}

func (w *wire) varint(what string) (uint64, error) {
	b, err := w.f.peek(w.off, w.end, 10)
	if err != nil {
		return 0, err
	}
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		if len(b) < 10 {
			return 0, fault(ErrTruncated, "", w.off, what, "a varint that ends before its message", fmt.Sprint(len(b), " bytes"))
		}
		return 0, fault(ErrFormat, "", w.off, what, "a varint of at most 10 bytes", "more")
	}
	w.off += int64(n)
	return v, nil
}

// next reads a field; ok is false at the end of the message.
func (w *wire) next() (x field, ok bool, err error) {
	if w.off >= w.end {
		return x, false, nil
	}
	x.at = w.off
	tag, err := w.varint("protobuf tag")
	if err != nil {
		return x, false, err
	}
	num, typ := protowire.DecodeTag(tag)
	if num < 1 || num > protowire.MaxValidNumber {
		return x, false, fault(ErrFormat, "", x.at, "protobuf field number", "1 to 2^29-1", tag>>3)
	}
	x.num, x.typ = num, typ
	switch typ {
	case protowire.VarintType:
		x.u, err = w.varint("protobuf varint")
	case protowire.Fixed32Type, protowire.Fixed64Type:
		n := 4
		if typ == protowire.Fixed64Type {
			n = 8
		}
		var b []byte
		if b, err = w.f.peek(w.off, w.end, n); err != nil {
			return x, false, err
		}
		if len(b) < n {
			return x, false, fault(ErrTruncated, "", w.off, "protobuf number", fmt.Sprint(n, " bytes"), len(b))
		}
		if n == 4 {
			v, _ := protowire.ConsumeFixed32(b)
			x.u = uint64(v)
		} else {
			x.u, _ = protowire.ConsumeFixed64(b)
		}
		w.off += int64(n)
	case protowire.BytesType:
		var n uint64
		if n, err = w.varint("protobuf length"); err != nil {
			return x, false, err
		}
		if n > uint64(w.end-w.off) {
			return x, false, fault(ErrTruncated, "", x.at, fmt.Sprint("protobuf length of field ", num), fmt.Sprint("at most the ", w.end-w.off, " bytes left"), n)
		}
		x.body = wire{w.f, w.off, w.off + int64(n)}
		w.off += int64(n)
	default:
		return x, false, fault(ErrFormat, "", x.at, "protobuf wire type", "varint, fixed or bytes", int(typ))
	}
	return x, err == nil, err
}

// size is the length of a body.
func (w *wire) size() int64 { return w.end - w.off }

// want holds a field to its wire type.
func (x *field) want(t protowire.Type) error {
	if x.typ != t {
		return fault(ErrFormat, "", x.at, fmt.Sprint("protobuf wire type of field ", x.num), int(t), int(x.typ))
	}
	return nil
}

// each walks a message. The function sees every field once; it ignores those it
// does not know.
func (w wire) each(f func(field) error) error {
	for {
		x, ok, err := w.next()
		if err != nil || !ok {
			return err
		}
		if err := f(x); err != nil {
			return err
		}
	}
}

// str is a string of at most maxString bytes.
func (x *field) str() (string, error) {
	if err := x.want(protowire.BytesType); err != nil {
		return "", err
	}
	b, err := x.bytes(maxString)
	if err != nil {
		return "", err
	}
	if !utf8.Valid(b) {
		return "", fault(ErrFormat, "", x.at, "protobuf string", "UTF-8", nil)
	}
	return string(b), nil
}

func (x *field) bytes(limit int64) ([]byte, error) {
	if err := x.want(protowire.BytesType); err != nil {
		return nil, err
	}
	n := x.body.size()
	if n > limit {
		return nil, fault(ErrLimit, "", x.at, "length of a string", fmt.Sprint("at most ", limit), n)
	}
	if err := x.body.f.spend(n, "", x.at); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	return b, x.body.f.read(b, x.body.off)
}

// integer is an int32 or int64 field.
func (x *field) integer() (int64, error) { return int64(x.u), x.want(protowire.VarintType) }

// numbers reads a repeated numeric field, packed or not, element by element.
func (x *field) numbers(t protowire.Type, f func(uint64) error) error {
	if x.typ == t {
		return f(x.u)
	}
	if err := x.want(protowire.BytesType); err != nil {
		return err
	}
	w := x.body
	for w.off < w.end {
		var v uint64
		var err error
		switch t {
		case protowire.VarintType:
			v, err = w.varint("packed varint")
		default:
			n := 4
			if t == protowire.Fixed64Type {
				n = 8
			}
			var b []byte
			if b, err = w.f.peek(w.off, w.end, n); err == nil && len(b) < n {
				err = fault(ErrTruncated, "", w.off, "packed number", fmt.Sprint(n, " bytes"), len(b))
			}
			if err == nil && n == 4 {
				u, _ := protowire.ConsumeFixed32(b)
				v = uint64(u)
			} else if err == nil {
				v, _ = protowire.ConsumeFixed64(b)
			}
			w.off += int64(n)
		}
		if err != nil {
			return err
		}
		if err := f(v); err != nil {
			return err
		}
	}
	return nil
}

// ints appends a repeated int64 field.
func (x *field) ints(to []int64, limit int) ([]int64, error) {
	err := x.numbers(protowire.VarintType, func(v uint64) error {
		if len(to) >= limit {
			return fault(ErrLimit, "", x.at, "list of integers", fmt.Sprint("at most ", limit), "more")
		}
		if err := x.spend(8); err != nil {
			return err
		}
		to = append(to, int64(v))
		return nil
	})
	return to, err
}

func (x *field) floats(to []float32, limit int) ([]float32, error) {
	err := x.numbers(protowire.Fixed32Type, func(v uint64) error {
		if len(to) >= limit {
			return fault(ErrLimit, "", x.at, "list of numbers", fmt.Sprint("at most ", limit), "more")
		}
		if err := x.spend(4); err != nil {
			return err
		}
		to = append(to, math.Float32frombits(uint32(v)))
		return nil
	})
	return to, err
}

func (x *field) spend(n int64) error {
	if x.body.f == nil {
		return nil // an unpacked number: the file has more bytes for it than we
	}
	return x.body.f.spend(n, "", x.at)
}
