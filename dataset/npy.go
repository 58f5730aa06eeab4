package dataset

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// maxDims bounds the dimensions of an array.
const maxDims = 16

// NPY reads an array of NumPy's format (NEP 1), versions 1 and 2, in C order, as float32. Its numbers are
// little-endian floats of 4 or 8 bytes or whole numbers of 1 to 8; one that float32 does not hold exactly, as a
// token id above 2^24, is an error.
func NPY(b []byte) (x []float32, shape []int, err error) {
	bad := func(format string, a ...any) ([]float32, []int, error) {
		return nil, nil, fmt.Errorf("npy: "+format+": %w", append(a, ErrData)...)
	}
	if len(b) < 12 || string(b[:6]) != "\x93NUMPY" || b[6] < 1 || b[6] > 2 {
		return bad("want a header of version 1 or 2")
	}
	n, at := int(binary.LittleEndian.Uint16(b[8:])), 10
	if b[6] == 2 {
		n, at = int(binary.LittleEndian.Uint32(b[8:])), 12
	}
	if n > len(b)-at {
		return bad("want a header of %d bytes, got %d", n, len(b)-at)
	}
	head, data := string(b[at:at+n]), b[at+n:]
	_, rest, ok := strings.Cut(head, "'shape': (")
	dims, _, ok2 := strings.Cut(rest, ")")
	if !ok || !ok2 || !strings.Contains(head, "'fortran_order': False") {
		return bad("want a shape and C order, got %.80q", head)
	}
	_, rest, _ = strings.Cut(head, "'descr': '")
	kind, _, _ := strings.Cut(rest, "'")
	read, size := numberOf(kind)
	if read == nil {
		return bad("want little-endian floats or whole numbers, got %.80q", head)
	}
	count := 1
	shape = []int{}
	for _, d := range strings.Split(dims, ",") {
		if d = strings.TrimSpace(d); d == "" {
			continue
		}
		k, err := strconv.Atoi(d)
		if err != nil || k < 0 || len(shape) == maxDims || k > 0 && count > math.MaxInt32/k {
			return bad("want at most %d dimensions of 2^31 numbers, got shape %.80q", maxDims, dims)
		}
		shape, count = append(shape, k), count*k
	}
	if len(data) != size*count {
		return bad("want %d bytes for shape %v, got %d", size*count, shape, len(data))
	}
	x = make([]float32, count)
	for i := range x {
		v := read(data[i*size:])
		if x[i] = float32(v); kind[1] != 'f' && float64(x[i]) != v {
			return bad("number %d: want one that float32 holds, got %.0f", i, v)
		}
	}
	return x, shape, nil
}

// numberOf says how a number of NumPy's type is read, and its bytes; nil where it is not.
func numberOf(kind string) (func([]byte) float64, int) {
	le := binary.LittleEndian
	switch kind {
	case "<f4":
		return func(b []byte) float64 { return float64(math.Float32frombits(le.Uint32(b))) }, 4
	case "<f8":
		return func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) }, 8
	case "|u1":
		return func(b []byte) float64 { return float64(b[0]) }, 1
	case "|i1":
		return func(b []byte) float64 { return float64(int8(b[0])) }, 1
	case "<u2":
		return func(b []byte) float64 { return float64(le.Uint16(b)) }, 2
	case "<i2":
		return func(b []byte) float64 { return float64(int16(le.Uint16(b))) }, 2
	case "<u4":
		return func(b []byte) float64 { return float64(le.Uint32(b)) }, 4
	case "<i4":
		return func(b []byte) float64 { return float64(int32(le.Uint32(b))) }, 4
	case "<u8":
		return func(b []byte) float64 { return float64(le.Uint64(b)) }, 8
	case "<i8":
		return func(b []byte) float64 { return float64(int64(le.Uint64(b))) }, 8
	}
	return nil, 0
}
