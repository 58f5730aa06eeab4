package loader

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/sparse"
)

const (
	maxHeader     = 100_000_000 // the format's own limit
	maxDimensions = 8
	maxMetadata   = 1 << 14
)

var safeTypes = map[string]sparse.DType{
	"F64": sparse.F64, "F32": sparse.F32, "F16": sparse.F16, "BF16": sparse.BF16, "F8_E4M3": sparse.FP8,
	"I64": sparse.Int64, "I32": sparse.Int32, "I16": sparse.Int16, "I8": sparse.Int8, "U8": sparse.Uint8, "BOOL": sparse.Bool,
}

// safeTensor is one entry of a safetensors header.
type safeTensor struct {
	src   *source
	name  string
	t     sparse.DType
	shape []int
	off   int64 // in the file
	size  int64
}

// readSafetensors parses a header by the rules of the format: 8 bytes of length,
// then a JSON object of tensors whose data follow each other without hole or
// overlap to the end of the file. Stricter than the reference, it also insists
// on the spec's leading '{' and unique keys.
func readSafetensors(src *source) (tensors []*safeTensor, meta map[string]string, err error) {
	if src.size < 8 {
		return nil, nil, fault(ErrTruncated, "", -1, "file size", "at least 8 bytes", src.size)
	}
	var b [8]byte
	if err := src.readAt(b[:], 0); err != nil {
		return nil, nil, err
	}
	n := le64(b[:])
	switch {
	case n > maxHeader:
		return nil, nil, fault(ErrLimit, "", 0, "header length", fmt.Sprint("at most ", maxHeader), n)
	case int64(n) > src.size-8:
		return nil, nil, fault(ErrTruncated, "", 0, "header length", fmt.Sprint("at most the ", src.size-8, " bytes left"), n)
	case n < 2:
		return nil, nil, fault(ErrFormat, "", 0, "header length", "at least 2", n)
	}
	head := make([]byte, n)
	if err := src.readAt(head, 8); err != nil {
		return nil, nil, err
	}
	if head[0] != '{' {
		return nil, nil, fault(ErrFormat, "", 8, "header", "'{' first", string(head[:1]))
	}
	r, err := newJSON(head, 8)
	if err != nil {
		return nil, nil, err
	}
	meta = map[string]string{}
	base, room := int64(8+n), src.size-8-int64(n)
	err = r.Object(func(key string) error {
		if key == "__metadata__" {
			return r.Object(func(k string) (err error) {
				if len(meta) == maxMetadata {
					return fault(ErrLimit, k, r.at(), "metadata", fmt.Sprint("at most ", maxMetadata, " keys"), nil)
				}
				meta[k], err = r.Str()
				return err
			})
		}
		if len(tensors) == maxTensors {
			return fault(ErrLimit, key, r.at(), "number of tensors", fmt.Sprint("at most ", maxTensors), nil)
		}
		t, err := safeEntry(r, key, base, room)
		if err == nil {
			t.src = src
			tensors = append(tensors, t)
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, nil, err
	}
	return tensors, meta, contiguous(tensors, base, src.size)
}

// safeEntry reads {"dtype": ..., "shape": [...], "data_offsets": [begin, end]}.
func safeEntry(r *jsonReader, name string, base, room int64) (*safeTensor, error) {
	t := &safeTensor{name: name}
	at := r.at()
	var dtype string
	var offs []int
	have := 0
	err := r.Object(func(key string) (err error) {
		have++
		switch key {
		case "dtype":
			dtype, err = r.Str()
		case "shape":
			t.shape = []int{}
			err = r.Array(func(i int) error {
				if i == maxDimensions {
					return fault(ErrLimit, name, r.at(), "dimensions", fmt.Sprint("at most ", maxDimensions), nil)
				}
				n, err := r.Uint()
				t.shape = append(t.shape, n)
				return err
			})
		case "data_offsets":
			err = r.Array(func(i int) error {
				if i == 2 {
					return r.Fail("two offsets")
				}
				n, err := r.Uint()
				offs = append(offs, n)
				return err
			})
		default:
			err = fault(ErrFormat, name, r.at(), "key of a tensor", "dtype, shape or data_offsets", key)
		}
		return err
	})
	if err != nil {
		if e, ok := err.(*Error); ok && e.Tensor == "" {
			e.Tensor = name
		}
		return nil, err
	}
	if have != 3 || len(offs) != 2 {
		return nil, fault(ErrFormat, name, at, "tensor", "dtype, shape and two data_offsets", nil)
	}
	typ, ok := safeTypes[dtype]
	if !ok {
		return nil, fault(ErrUnsupported, name, at, "dtype", "F64 F32 F16 BF16 F8_E4M3 I64 I32 I16 I8 U8 BOOL", dtype)
	}
	t.t = typ
	total, nonzero := int64(formats[typ].bytes), int64(8)
	for _, d := range t.shape { // a zero does not excuse what stands beside it
		if nonzero > math.MaxInt64/max(1, int64(d)) {
			return nil, fault(ErrShape, name, at, "size", "less than 2^63 bytes", fmt.Sprint(t.shape))
		}
		nonzero *= max(1, int64(d))
		total *= int64(d)
	}
	begin, end := int64(offs[0]), int64(offs[1])
	switch {
	case begin > end:
		return nil, fault(ErrShape, name, at, "data_offsets", "begin <= end", fmt.Sprint(offs))
	case end > room:
		return nil, fault(ErrTruncated, name, at, "data_offsets", fmt.Sprint("at most the ", room, " bytes of data"), fmt.Sprint(offs))
	case end-begin != total:
		return nil, fault(ErrShape, name, at, "data", fmt.Sprintf("%d bytes for %s %v", total, dtype, t.shape), end-begin)
	}
	t.off, t.size = base+begin, total
	return t, nil
}

// contiguous demands data without hole or overlap up to the end of the file.
func contiguous(tensors []*safeTensor, base, size int64) error {
	order := slices.Clone(tensors)
	slices.SortStableFunc(order, func(a, b *safeTensor) int {
		switch {
		case a.off != b.off:
			return int(max(-1, min(1, a.off-b.off)))
		default:
			return int(max(-1, min(1, a.size-b.size)))
		}
	})
	at := base
	for _, t := range order {
		if t.off != at {
			what := "hole before its data"
			if t.off < at {
				what = "data overlap the tensor before"
			}
			return fault(ErrShape, t.name, t.off, what, fmt.Sprint("offset ", at), t.off)
		}
		at += t.size
	}
	if at != size {
		return fault(ErrShape, "", at, "bytes after the last tensor", 0, size-at)
	}
	return nil
}

// matrix is the tensor as rows: the first dimension by the product of the rest.
func (t *safeTensor) matrix(o *options) *stored {
	m := &stored{src: t.src, name: t.name, off: t.off, r: 1, c: 1, f: formats[t.t], nonfinite: o.nonFinite}
	for i, d := range t.shape {
		if i == 0 && len(t.shape) > 1 {
			m.r = d
		} else {
			m.c *= d
		}
	}
	if m.c == 0 {
		m.r = 0 // rows of nothing: 2^40 of them are as empty, and quicker
	}
	return m
}

// bytes reads the tensor's raw bytes.
func (t *safeTensor) bytes() ([]byte, error) {
	b := make([]byte, t.size)
	return b, t.src.view(t.off, len(b), func(v []byte) error {
		copy(b, v)
		return nil
	})
}

func (t *safeTensor) fail(sentinel error, what string, want, got any) error {
	return inFile(fault(sentinel, t.name, t.off, what, want, got), t.src.name)
}
