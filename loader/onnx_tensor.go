package loader

import (
	"encoding/binary"
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sparserun/sparserun/model"
)

// tensorProto is a TensorProto before its numbers are read.
type tensorProto struct {
	at       int64
	name     string
	dims     []int
	elem     model.Elem
	raw      *wire   // raw_data
	typed    []field // float_data, int32_data, ...: in pieces
	external map[string]string
	outside  bool // data_location EXTERNAL
}

// Numbers of TensorProto's fields that hold data.
const (
	tensorFloats  = 4
	tensorInt32s  = 5
	tensorStrings = 6
	tensorInt64s  = 7
	tensorRaw     = 9
	tensorDoubles = 10
	tensorUint64s = 11
)

const maxRank = 32

// tensor reads a TensorProto but for its numbers.
func (d *onnx) tensor(w wire) (*tensorProto, error) {
	t := &tensorProto{at: w.off}
	err := w.each(func(x field) (err error) {
		switch x.num {
		case 1:
			return x.numbers(protowire.VarintType, func(v uint64) error {
				if int64(v) < 0 || v > math.MaxInt32*1024 {
					return fault(ErrShape, t.name, x.at, "dimension", "0 or more", int64(v))
				}
				if len(t.dims) >= maxRank {
					return fault(ErrLimit, t.name, x.at, "dimensions", fmt.Sprint("at most ", maxRank), "more")
				}
				t.dims = append(t.dims, int(v))
				return nil
			})
		case 2:
			v, err := x.integer()
			if err != nil {
				return err
			}
			if v < 0 || v > 255 || !model.Elem(v).Supported() {
				return fault(ErrUnsupported, t.name, x.at, "data type of a tensor", "a type of numbers, booleans or strings", v)
			}
			t.elem = model.Elem(v)
		case 3:
			return fault(ErrUnsupported, t.name, x.at, "tensor in segments", nil, nil)
		case tensorFloats, tensorInt32s, tensorStrings, tensorInt64s, tensorDoubles, tensorUint64s:
			if x.typ == protowire.BytesType && x.num != tensorStrings && x.body.size() == 0 {
				return nil // an empty packed list says nothing
			}
			if len(t.typed) >= maxItems {
				return fault(ErrLimit, t.name, x.at, "pieces of a tensor's data", fmt.Sprint("at most ", maxItems), "more")
			}
			t.typed = append(t.typed, x)
		case 8:
			t.name, err = x.str()
		case tensorRaw:
			if err := x.want(protowire.BytesType); err != nil {
				return err
			}
			if t.raw != nil {
				return fault(ErrFormat, t.name, x.at, "raw_data occurs twice", nil, nil)
			}
			t.raw = &x.body
		case 13:
			if t.external == nil {
				t.external = map[string]string{}
			}
			k, v, err := stringPair(x)
			if err != nil {
				return err
			}
			if _, ok := t.external[k]; ok || len(t.external) > 16 {
				return fault(ErrFormat, t.name, x.at, "key of external_data occurs twice", nil, k)
			}
			t.external[k] = v
		case 14:
			v, err := x.integer()
			if err != nil {
				return err
			}
			if v != 0 && v != 1 {
				return fault(ErrFormat, t.name, x.at, "data_location", "0 or 1", v)
			}
			t.outside = v == 1
		}
		return err
	})
	if err != nil {
		return nil, named(err, t.name)
	}
	if t.elem == model.ElemNone {
		return nil, fault(ErrFormat, t.name, t.at, "data type of a tensor", "a type", "none")
	}
	return t, nil
}

// named adds a tensor's name to an error that has none yet.
func named(err error, name string) error {
	if e, ok := err.(*Error); ok && e.Tensor == "" {
		e.Tensor = name
	}
	return err
}

func stringPair(x field) (k, v string, err error) {
	if err := x.want(protowire.BytesType); err != nil {
		return "", "", err
	}
	err = x.body.each(func(y field) (err error) {
		switch y.num {
		case 1:
			k, err = y.str()
		case 2:
			v, err = y.str()
		}
		return err
	})
	return k, v, err
}

// decode reads a tensor's numbers: from raw_data, from one list of numbers, or
// from another file, and from exactly one of them.
func (d *onnx) decode(t *tensorProto) (*model.Tensor, error) {
	n, err := model.Elements(t.elem, t.dims)
	if err != nil {
		return nil, fault(ErrShape, t.name, t.at, "shape", "dimensions whose product has a meaning", fmt.Sprint(t.dims))
	}
	sources := 0
	for _, has := range []bool{t.raw != nil && (t.raw.size() > 0 || len(t.typed) == 0), len(t.typed) > 0, t.outside} {
		if has {
			sources++
		}
	}
	if sources > 1 {
		return nil, fault(ErrFormat, t.name, t.at, "data", "one of raw_data, a list of numbers and external data", fmt.Sprint(sources, " of them"))
	}
	if t.external != nil && !t.outside {
		return nil, fault(ErrFormat, t.name, t.at, "external_data without data_location EXTERNAL", nil, nil)
	}
	if sources == 0 && n > 0 {
		return nil, fault(ErrShape, t.name, t.at, "data", fmt.Sprint(n, " numbers of ", t.elem), "none")
	}
	switch {
	case t.outside:
		return d.external(t, n)
	case len(t.typed) > 0:
		return d.typed(t, n)
	}
	if t.elem == model.ElemString && n > 0 {
		return nil, fault(ErrFormat, t.name, t.at, "strings in raw_data", "string_data", nil)
	}
	var w wire
	if t.raw != nil {
		w = *t.raw
	}
	want := rawBytes(t.elem, n)
	if w.size() != want {
		return nil, fault(ErrShape, t.name, t.at, "bytes of raw_data", fmt.Sprintf("%d of %v %v", want, t.elem, t.dims), w.size())
	}
	return d.fill(t, n, func(b []byte, off int64) error { return w.f.read(b, w.off+off) })
}

// rawBytes is the size of n packed elements.
func rawBytes(e model.Elem, n int) int64 {
	bits := e.Bits()
	if bits >= 8 {
		return int64(n) * int64(bits/8)
	}
	per := 8 / bits
	return int64((n + per - 1) / per)
}

// fill reads n packed little-endian elements, a piece at a time.
func (d *onnx) fill(t *tensorProto, n int, read func(b []byte, off int64) error) (*model.Tensor, error) {
	if err := d.f.spend(int64(n)*int64(t.elem.Size()), t.name, t.at); err != nil {
		return nil, err
	}
	out, err := model.NewTensor(t.elem, t.dims...)
	if err != nil {
		return nil, err
	}
	buf, done := borrow(chunk)
	defer done()
	bits := max(1, t.elem.Bits())
	step := chunk * 8 / bits
	for i := 0; i < n; i += step {
		k := min(step, n-i)
		b := buf[:rawBytes(t.elem, k)]
		if err := read(b, int64(i)*int64(bits)/8); err != nil {
			return nil, named(err, t.name)
		}
		unpackElems(out.Data, t.elem, i, k, b)
	}
	return out, nil
}

// unpackElems writes k elements from b to data[i:].
func unpackElems(data any, e model.Elem, i, k int, b []byte) {
	le := binary.LittleEndian
	switch d := data.(type) {
	case []float32:
		for j := range k {
			d[i+j] = math.Float32frombits(le.Uint32(b[4*j:]))
		}
	case []float64:
		for j := range k {
			d[i+j] = math.Float64frombits(le.Uint64(b[8*j:]))
		}
	case []int64:
		for j := range k {
			d[i+j] = int64(le.Uint64(b[8*j:]))
		}
	case []uint64:
		for j := range k {
			d[i+j] = le.Uint64(b[8*j:])
		}
	case []int32:
		for j := range k {
			d[i+j] = int32(le.Uint32(b[4*j:]))
		}
	case []uint32:
		for j := range k {
			d[i+j] = le.Uint32(b[4*j:])
		}
	case []int16:
		for j := range k {
			d[i+j] = int16(le.Uint16(b[2*j:]))
		}
	case []uint16:
		for j := range k {
			d[i+j] = le.Uint16(b[2*j:])
		}
	case []bool:
		for j := range k {
			d[i+j] = b[j] != 0
		}
	case []int8:
		for j := range k {
			d[i+j] = int8(subByte(e, b, j))
			if e == model.ElemI4 {
				d[i+j] = d[i+j] << 4 >> 4
			} else if e == model.ElemI2 {
				d[i+j] = d[i+j] << 6 >> 6
			}
		}
	case []uint8:
		for j := range k {
			d[i+j] = subByte(e, b, j)
		}
	}
}

// subByte is element j: of those smaller than a byte, the lowest bits come first.
func subByte(e model.Elem, b []byte, j int) byte {
	switch e.Bits() {
	case 4:
		return b[j/2] >> (4 * (j & 1)) & 15
	case 2:
		return b[j/4] >> (2 * (j & 3)) & 3
	}
	return b[j]
}

// typed reads a list of numbers (TensorProto's float_data and so on).
func (d *onnx) typed(t *tensorProto, n int) (*model.Tensor, error) {
	kind := t.typed[0].num
	want := map[model.Elem]protowire.Number{model.ElemF32: tensorFloats, model.ElemString: tensorStrings, model.ElemI64: tensorInt64s,
		model.ElemF64: tensorDoubles, model.ElemU32: tensorUint64s, model.ElemU64: tensorUint64s}[t.elem]
	if want == 0 {
		want = tensorInt32s
	}
	for _, x := range t.typed {
		if x.num != want || x.num != kind {
			return nil, fault(ErrFormat, t.name, x.at, fmt.Sprintf("field of the data of type %v", t.elem), want, x.num)
		}
	}
	// A number takes a byte at least, so that the file bounds what is allocated;
	// ints that take more in memory than in the file are what spend is for.
	if err := d.f.spend(int64(n)*int64(t.elem.Size()), t.name, t.at); err != nil {
		return nil, err
	}
	out, err := model.NewTensor(t.elem, t.dims...)
	if err != nil {
		return nil, err
	}
	slots := n
	per := 1
	if bits := t.elem.Bits(); bits > 0 && bits < 8 {
		per = 8 / bits
		slots = (n + per - 1) / per
	}
	i := 0
	put := func(v uint64) error {
		if i >= slots {
			return fault(ErrShape, t.name, t.at, "numbers of a tensor", fmt.Sprintf("%d of %v %v", slots, t.elem, t.dims), "more")
		}
		switch o := out.Data.(type) {
		case []float32:
			o[i] = math.Float32frombits(uint32(v))
		case []float64:
			o[i] = math.Float64frombits(v)
		case []int64:
			o[i] = int64(v)
		case []uint64:
			o[i] = v
		case []uint32:
			o[i] = uint32(v)
		case []int32:
			o[i] = int32(v)
		case []int16:
			o[i] = int16(v)
		case []uint16:
			o[i] = uint16(v)
		case []bool:
			o[i] = v != 0
		default: // packed ones come as whole bytes
			unpackElems(out.Data, t.elem, i*per, min(per, n-i*per), []byte{byte(v)})
		}
		i++
		return nil
	}
	typ := protowire.VarintType
	switch kind {
	case tensorFloats:
		typ = protowire.Fixed32Type
	case tensorDoubles:
		typ = protowire.Fixed64Type
	}
	for _, x := range t.typed {
		if kind == tensorStrings {
			b, err := x.bytes(maxString)
			if err != nil {
				return nil, named(err, t.name)
			}
			if i >= n {
				return nil, fault(ErrShape, t.name, x.at, "strings of a tensor", n, "more")
			}
			out.Data.([]string)[i] = string(b)
			i++
			continue
		}
		if err := x.numbers(typ, put); err != nil {
			return nil, named(err, t.name)
		}
	}
	if i != slots {
		return nil, fault(ErrShape, t.name, t.at, "numbers of a tensor", fmt.Sprintf("%d of %v %v", slots, t.elem, t.dims), i)
	}
	return out, nil
}
