package oip

import (
	"encoding/binary"
	"math"

	"github.com/sparserun/sparserun/model"
)

// datatypes are the protocol's names of element types. BF16 is Triton's addition.
var datatypes = []struct {
	name string
	elem model.Elem
	size int // bytes of an element in a binary tensor; 0: BYTES
}{
	{"BOOL", model.ElemBool, 1},
	{"UINT8", model.ElemU8, 1}, {"UINT16", model.ElemU16, 2}, {"UINT32", model.ElemU32, 4}, {"UINT64", model.ElemU64, 8},
	{"INT8", model.ElemI8, 1}, {"INT16", model.ElemI16, 2}, {"INT32", model.ElemI32, 4}, {"INT64", model.ElemI64, 8},
	{"FP16", model.ElemF16, 2}, {"BF16", model.ElemBF16, 2}, {"FP32", model.ElemF32, 4}, {"FP64", model.ElemF64, 8},
	{"BYTES", model.ElemString, 0},
}

func elemOf(datatype string) (model.Elem, int, error) {
	for _, d := range datatypes {
		if d.name == datatype {
			return d.elem, d.size, nil
		}
	}
	return 0, 0, bad("unknown datatype %q", clip(datatype))
}

// datatypeOf is "" for types that the protocol does not have.
func datatypeOf(e model.Elem) string {
	for _, d := range datatypes {
		if d.elem == e {
			return d.name
		}
	}
	return ""
}

const maxRank = 16

// shapeOf checks a shape and counts its elements; nothing is allocated by it.
func shapeOf(e model.Elem, dims []int64) (shape []int, n int, err error) {
	if len(dims) > maxRank {
		return nil, 0, bad("want at most %d dimensions, got %d", maxRank, len(dims))
	}
	for _, d := range dims {
		if d < 0 || d > math.MaxInt32 {
			return nil, 0, bad("want dimensions from 0 to %d, got %d", math.MaxInt32, d)
		}
		shape = append(shape, int(d))
	}
	if n, err = model.Elements(e, shape); err != nil {
		return nil, 0, bad("shape %v: %v", dims, err)
	}
	return shape, n, nil
}

// tensorOf is a tensor that has its n numbers still to come, of size bytes each (0:
// strings).
func tensorOf(datatype string, dims []int64) (t *model.Tensor, n, size int, err error) {
	e, size, err := elemOf(datatype)
	if err != nil {
		return nil, 0, 0, err
	}
	shape, n, err := shapeOf(e, dims)
	if err != nil {
		return nil, 0, 0, err
	}
	return &model.Tensor{Elem: e, Shape: shape}, n, size, nil
}

// decodeRaw makes a tensor of its little-endian bytes, which must be just those that
// the shape asks for.
func decodeRaw(datatype string, dims []int64, b []byte) (*model.Tensor, error) {
	t, n, size, err := tensorOf(datatype, dims)
	if err != nil {
		return nil, err
	}
	if size == 0 {
		t.Data, err = decodeBytes(n, b)
		return t, err
	}
	// n and size are bounded by model.MaxTensor: no overflow.
	if n*size != len(b) {
		return nil, bad("%s of shape %v is %d bytes, got %d", datatype, dims, n*size, len(b))
	}
	switch t.Elem {
	case model.ElemBool:
		x := make([]bool, n)
		for i := range x {
			if b[i] > 1 {
				return nil, bad("want 0 or 1 as BOOL, got %d", b[i])
			}
			x[i] = b[i] == 1
		}
		t.Data = x
	case model.ElemU8:
		t.Data = append([]uint8{}, b...)
	case model.ElemI8:
		t.Data = decode(n, func(i int) int8 { return int8(b[i]) })
	case model.ElemU16, model.ElemF16, model.ElemBF16:
		t.Data = decode(n, func(i int) uint16 { return binary.LittleEndian.Uint16(b[2*i:]) })
	case model.ElemI16:
		t.Data = decode(n, func(i int) int16 { return int16(binary.LittleEndian.Uint16(b[2*i:])) })
	case model.ElemU32:
		t.Data = decode(n, func(i int) uint32 { return binary.LittleEndian.Uint32(b[4*i:]) })
	case model.ElemI32:
		t.Data = decode(n, func(i int) int32 { return int32(binary.LittleEndian.Uint32(b[4*i:])) })
	case model.ElemF32:
		t.Data = decode(n, func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])) })
	case model.ElemU64:
		t.Data = decode(n, func(i int) uint64 { return binary.LittleEndian.Uint64(b[8*i:]) })
	case model.ElemI64:
		t.Data = decode(n, func(i int) int64 { return int64(binary.LittleEndian.Uint64(b[8*i:])) })
	case model.ElemF64:
		t.Data = decode(n, func(i int) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])) })
	}
	return t, nil
}

func decode[T any](n int, at func(i int) T) []T {
	x := make([]T, n)
	for i := range x {
		x[i] = at(i)
	}
	return x
}

// decodeBytes reads n elements, each its length in four bytes and then itself.
func decodeBytes(n int, b []byte) ([]string, error) {
	if n > len(b)/4 {
		return nil, bad("BYTES of %d elements are at least %d bytes, got %d", n, 4*n, len(b))
	}
	x := make([]string, n)
	for i := range x {
		if len(b) < 4 {
			return nil, bad("BYTES end before element %d of %d", i, n)
		}
		size := binary.LittleEndian.Uint32(b)
		if b = b[4:]; uint64(size) > uint64(len(b)) {
			return nil, bad("BYTES element %d is said to have %d bytes, %d are left", i, size, len(b))
		}
		x[i] = string(b[:size])
		b = b[size:]
	}
	if len(b) > 0 {
		return nil, bad("BYTES of %d elements have %d bytes too many", n, len(b))
	}
	return x, nil
}

// appendRaw is the opposite of decodeRaw.
func appendRaw(b []byte, t *model.Tensor) []byte {
	switch x := t.Data.(type) {
	case []bool:
		for _, v := range x {
			if v {
				b = append(b, 1)
			} else {
				b = append(b, 0)
			}
		}
	case []uint8:
		b = append(b, x...)
	case []int8:
		for _, v := range x {
			b = append(b, byte(v))
		}
	case []uint16:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint16(b, v)
		}
	case []int16:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint16(b, uint16(v))
		}
	case []uint32:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint32(b, v)
		}
	case []int32:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint32(b, uint32(v))
		}
	case []float32:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		}
	case []uint64:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
	case []int64:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint64(b, uint64(v))
		}
	case []float64:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(v))
		}
	case []string:
		for _, v := range x {
			b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
			b = append(b, v...)
		}
	}
	return b
}
