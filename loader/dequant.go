package loader

import (
	"math"

	"github.com/sparserun/sparserun/sparse"
)

// A unpacker turns whole blocks of a stored type into float32: len(dst) is a
// multiple of the type's block, len(src) the matching bytes. It reports false
// when it met a number (or a block's scale) that is NaN or infinite. Sums and
// products are rounded one by one, as ggml's reference does: float32(a*b) keeps
// Go from fusing them on machines where it could.
type unpacker func(dst []float32, src []byte) bool

// A format is how one type of number lies in a file.
type format struct {
	t      sparse.DType
	block  int // numbers in a block
	bytes  int // bytes of a block
	scales int // of these, scales and minima
	unpack unpacker
}

// rowBytes is the size of n numbers; n is a multiple of the block.
func (f *format) rowBytes(n int) int { return n / f.block * f.bytes }

var formats = map[sparse.DType]*format{
	sparse.F32:   {sparse.F32, 1, 4, 0, unpackF32},
	sparse.F64:   {sparse.F64, 1, 8, 0, unpackF64},
	sparse.F16:   {sparse.F16, 1, 2, 0, unpackF16},
	sparse.BF16:  {sparse.BF16, 1, 2, 0, unpackBF16},
	sparse.FP8:   {sparse.FP8, 1, 1, 0, unpackFP8},
	sparse.Int8:  {sparse.Int8, 1, 1, 0, unpackInt8},
	sparse.Uint8: {sparse.Uint8, 1, 1, 0, unpackUint8},
	sparse.Bool:  {sparse.Bool, 1, 1, 0, unpackUint8},
	sparse.Int16: {sparse.Int16, 1, 2, 0, unpackInt16},
	sparse.Int32: {sparse.Int32, 1, 4, 0, unpackInt32},
	sparse.Int64: {sparse.Int64, 1, 8, 0, unpackInt64},
	sparse.Q4_0:  {sparse.Q4_0, 32, 18, 2, unpackQ4_0},
	sparse.Q4_1:  {sparse.Q4_1, 32, 20, 4, unpackQ4_1},
	sparse.Q5_0:  {sparse.Q5_0, 32, 22, 2, unpackQ5_0},
	sparse.Q5_1:  {sparse.Q5_1, 32, 24, 4, unpackQ5_1},
	sparse.Q8_0:  {sparse.Q8_0, 32, 34, 2, unpackQ8_0},
	sparse.Q4_K:  {sparse.Q4_K, 256, 144, 16, unpackQ4_K},
	sparse.Q5_K:  {sparse.Q5_K, 256, 176, 16, unpackQ5_K},
	sparse.Q6_K:  {sparse.Q6_K, 256, 210, 18, unpackQ6_K},
}

// Tables: a load is cheaper than a conversion and, for f16, than the case for
// subnormals. The table of f16 is 256 kB, which a level-2 cache holds; real
// weights touch a few kB of it.
var (
	halfTable = table[[1 << 16]float32](func(i int) float32 { return sparse.F16ToF32(uint16(i)) })
	byteTable = table[[256]float32](func(i int) float32 { return float32(int8(i)) })
	fp8Table  = table[[256]float32](func(i int) float32 { return sparse.FP8ToF32(byte(i)) })
)

func table[T [256]float32 | [1 << 16]float32](f func(i int) float32) (t T) {
	for i := range len(t) {
		t[i] = f(i)
	}
	return t
}

const (
	inf32  = 0x7f800000
	mask32 = 0x7fffffff
)

func le16(b []byte) uint16 { return uint16(b[0]) | uint16(b[1])<<8 }

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

func le64(b []byte) uint64 { return uint64(le32(b)) | uint64(le32(b[4:]))<<32 }

// half widens a scale and reports whether it is finite.
func half(b []byte) (float32, bool) {
	h := le16(b)
	return halfTable[h], h&0x7c00 != 0x7c00
}

func unpackF32(dst []float32, src []byte) bool {
	var top uint32
	src = src[:4*len(dst)]
	for i := range dst {
		u := le32(src[4*i : 4*i+4 : 4*i+4])
		dst[i] = math.Float32frombits(u)
		top = max(top, u&mask32)
	}
	return top < inf32
}

// unpackF64 rounds; a number beyond float32 counts as infinite.
func unpackF64(dst []float32, src []byte) bool {
	var top uint32
	for i := range dst {
		f := float32(math.Float64frombits(le64(src[8*i:])))
		dst[i] = f
		top = max(top, math.Float32bits(f)&mask32)
	}
	return top < inf32
}

func unpackF16(dst []float32, src []byte) bool {
	var top uint64
	src = src[:2*len(dst)]
	for len(dst) >= 4 {
		u := le64(src[:8:8])
		// Adding the exponent's lowest bit carries out of a full exponent.
		top |= (u&0x7c007c007c007c00 + 0x0400040004000400)
		d := dst[:4:4]
		d[0] = halfTable[uint16(u)]
		d[1] = halfTable[uint16(u>>16)]
		d[2] = halfTable[uint16(u>>32)]
		d[3] = halfTable[uint16(u>>48)]
		dst, src = dst[4:], src[8:]
	}
	ok := top&0x8000800080008000 == 0
	for i := range dst {
		h := le16(src[2*i:])
		dst[i] = halfTable[h]
		ok = ok && h&0x7c00 != 0x7c00
	}
	return ok
}

func unpackBF16(dst []float32, src []byte) bool {
	var top uint64
	src = src[:2*len(dst)]
	for len(dst) >= 4 {
		u := le64(src[:8:8])
		top |= (u&0x7f807f807f807f80 + 0x0080008000800080)
		d := dst[:4:4]
		d[0] = math.Float32frombits(uint32(u) << 16)
		d[1] = math.Float32frombits(uint32(u) & 0xffff0000)
		d[2] = math.Float32frombits(uint32(u>>32) << 16)
		d[3] = math.Float32frombits(uint32(u>>32) & 0xffff0000)
		dst, src = dst[4:], src[8:]
	}
	ok := top&0x8000800080008000 == 0
	for i := range dst {
		h := le16(src[2*i:])
		dst[i] = sparse.BF16ToF32(h)
		ok = ok && h&0x7f80 != 0x7f80
	}
	return ok
}

func unpackFP8(dst []float32, src []byte) bool {
	ok := true
	for i, b := range src[:len(dst)] {
		dst[i] = fp8Table[b]
		ok = ok && b&0x7f != 0x7f
	}
	return ok
}

func unpackInt8(dst []float32, src []byte) bool {
	for i, b := range src[:len(dst)] {
		dst[i] = byteTable[b]
	}
	return true
}

func unpackUint8(dst []float32, src []byte) bool {
	for i, b := range src[:len(dst)] {
		dst[i] = float32(b)
	}
	return true
}

func unpackInt16(dst []float32, src []byte) bool {
	for i := range dst {
		dst[i] = float32(int16(le16(src[2*i:])))
	}
	return true
}

func unpackInt32(dst []float32, src []byte) bool {
	for i := range dst {
		dst[i] = float32(int32(le32(src[4*i:])))
	}
	return true
}

func unpackInt64(dst []float32, src []byte) bool {
	for i := range dst {
		dst[i] = float32(int64(le64(src[8*i:])))
	}
	return true
}
