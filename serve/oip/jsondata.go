package oip

import (
	"encoding/json"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/strictjson"
)

// decodeJSON reads a tensor's data: an array, flat or nested as the shape is.
func decodeJSON(datatype string, dims []int64, r *strictjson.Reader) (*model.Tensor, error) {
	t, n, _, err := tensorOf(datatype, dims)
	if err != nil {
		return nil, err
	}
	switch t.Elem {
	case model.ElemBool:
		t.Data, err = readData(r, t.Shape, n, (*strictjson.Reader).Bool)
	case model.ElemU8:
		t.Data, err = readData(r, t.Shape, n, unsigned[uint8](8))
	case model.ElemU16:
		t.Data, err = readData(r, t.Shape, n, unsigned[uint16](16))
	case model.ElemU32:
		t.Data, err = readData(r, t.Shape, n, unsigned[uint32](32))
	case model.ElemU64:
		t.Data, err = readData(r, t.Shape, n, unsigned[uint64](64))
	case model.ElemI8:
		t.Data, err = readData(r, t.Shape, n, signed[int8](8))
	case model.ElemI16:
		t.Data, err = readData(r, t.Shape, n, signed[int16](16))
	case model.ElemI32:
		t.Data, err = readData(r, t.Shape, n, signed[int32](32))
	case model.ElemI64:
		t.Data, err = readData(r, t.Shape, n, signed[int64](64))
	case model.ElemF16:
		t.Data, err = readData(r, t.Shape, n, half(sparse.F32ToF16, sparse.F16ToF32))
	case model.ElemBF16:
		t.Data, err = readData(r, t.Shape, n, half(sparse.F32ToBF16, sparse.BF16ToF32))
	case model.ElemF32:
		t.Data, err = readData(r, t.Shape, n, func(r *strictjson.Reader) (float32, error) {
			x, err := float(r, 32)
			return float32(x), err
		})
	case model.ElemF64:
		t.Data, err = readData(r, t.Shape, n, func(r *strictjson.Reader) (float64, error) { return float(r, 64) })
	case model.ElemString:
		t.Data, err = readData(r, t.Shape, n, func(r *strictjson.Reader) (string, error) {
			s, err := r.Str()
			return strings.Clone(s), err // not the body as a whole
		})
	}
	if err != nil {
		return nil, err
	}
	return t, nil
}

// readData reads n elements. Memory grows with what is there, not with what a shape
// claims.
func readData[T any](r *strictjson.Reader, shape []int, n int, one func(*strictjson.Reader) (T, error)) ([]T, error) {
	x := make([]T, 0, min(n, 1024))
	if len(shape) == 0 && r.Peek() != '[' { // a scalar
		v, err := one(r)
		return append(x, v), err
	}
	var level func(dim int) error
	level = func(dim int) error {
		count, nested := 0, false
		err := r.Array(func(i int) error {
			inner := r.Peek() == '['
			if i > 0 && inner != nested {
				return bad("data is nested unevenly")
			}
			nested = inner
			count++
			if inner {
				if dim+1 >= len(shape) {
					return bad("data is nested deeper than shape %v", shape)
				}
				return level(dim + 1)
			}
			if len(x) == n {
				return bad("shape %v has %d elements, data has more", shape, n)
			}
			v, err := one(r)
			x = append(x, v)
			return err
		})
		switch {
		case err != nil:
			return err
		case !nested && dim == 0: // flat, or one dimension
			return nil
		case !nested && dim != len(shape)-1 && count > 0:
			return bad("data is nested less deep than shape %v", shape)
		case count != shape[dim]:
			return bad("want %d elements in dimension %d of data, got %d", shape[dim], dim, count)
		}
		return nil
	}
	if r.Peek() != '[' {
		return nil, bad("want an array as data")
	}
	if err := level(0); err != nil {
		return nil, err
	}
	if len(x) != n {
		return nil, bad("shape %v has %d elements, data has %d", shape, n, len(x))
	}
	return x, nil
}

func signed[T int8 | int16 | int32 | int64](bits int) func(*strictjson.Reader) (T, error) {
	return func(r *strictjson.Reader) (T, error) {
		text, err := number(r)
		if err != nil {
			return 0, err
		}
		x, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			return 0, bad("want an integer of %d bits, got %s", bits, clip(text))
		}
		return T(x), nil
	}
}

func unsigned[T uint8 | uint16 | uint32 | uint64](bits int) func(*strictjson.Reader) (T, error) {
	return func(r *strictjson.Reader) (T, error) {
		text, err := number(r)
		if err != nil {
			return 0, err
		}
		x, err := strconv.ParseUint(text, 10, bits)
		if err != nil {
			return 0, bad("want an integer of %d bits without a sign, got %s", bits, clip(text))
		}
		return T(x), nil
	}
}

func float(r *strictjson.Reader, bits int) (float64, error) {
	text, err := number(r)
	if err != nil {
		return 0, err
	}
	x, err := strconv.ParseFloat(text, bits)
	if err != nil {
		return 0, bad("want a number of %d bits, got %s", bits, clip(text))
	}
	return x, nil
}

func half(to func(float32) uint16, from func(uint16) float32) func(*strictjson.Reader) (uint16, error) {
	return func(r *strictjson.Reader) (uint16, error) {
		x, err := float(r, 32)
		h := to(float32(x))
		if err == nil && math.IsInf(float64(from(h)), 0) {
			err = bad("want a number of 16 bits, got %g", x)
		}
		return h, err
	}
}

func number(r *strictjson.Reader) (string, error) {
	if c := r.Peek(); c != '-' && (c < '0' || c > '9') {
		return "", bad("want numbers as data")
	}
	return r.Number()
}

// jsonData is a tensor's data as JSON has it, flat.
func jsonData(name string, t *model.Tensor) (any, error) {
	finite := func(x float64) error {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return bad("output %q has a number that JSON cannot write (%v): ask for binary_data", name, x)
		}
		return nil
	}
	halves := func(from func(uint16) float32) (any, error) {
		src := t.Data.([]uint16)
		x := make([]float32, len(src))
		for i, h := range src {
			x[i] = from(h)
			if err := finite(float64(x[i])); err != nil {
				return nil, err
			}
		}
		return x, nil
	}
	switch t.Elem {
	case model.ElemF16:
		return halves(sparse.F16ToF32)
	case model.ElemBF16:
		return halves(sparse.BF16ToF32)
	}
	switch x := t.Data.(type) {
	case []float32:
		for _, v := range x {
			if err := finite(float64(v)); err != nil {
				return nil, err
			}
		}
	case []float64:
		for _, v := range x {
			if err := finite(v); err != nil {
				return nil, err
			}
		}
	case []string:
		for _, v := range x {
			if !utf8.ValidString(v) {
				return nil, bad("output %q has bytes that are no UTF-8: ask for binary_data", name)
			}
		}
	case []uint8: // encoding/json would write base64
		ints := make([]uint16, len(x))
		for i, v := range x {
			ints[i] = uint16(v)
		}
		return ints, nil
	}
	if t.Len() == 0 {
		return json.RawMessage("[]"), nil
	}
	return t.Data, nil
}
