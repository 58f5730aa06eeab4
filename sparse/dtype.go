package sparse

import (
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// DType is the type of stored numbers.
type DType uint8

// The types that layouts hold, then the block-quantised types of GGUF, which
// occur only as a file's own form.
const (
	F32 DType = iota + 1
	F16
	BF16
	Int8
	Int4
	FP8 // e4m3fn, as in OCP 8-bit floating point
	F64
	Int16
	Int32
	Int64
	Uint8
	Bool
	Q4_0
	Q4_1
	Q5_0
	Q5_1
	Q8_0
	Q4_K
	Q5_K
	Q6_K
)

var dtypeNames = [...]string{
	F32: "f32", F16: "f16", BF16: "bf16", Int8: "int8", Int4: "int4", FP8: "fp8", F64: "f64",
	Int16: "int16", Int32: "int32", Int64: "int64", Uint8: "uint8", Bool: "bool",
	Q4_0: "q4_0", Q4_1: "q4_1", Q5_0: "q5_0", Q5_1: "q5_1", Q8_0: "q8_0", Q4_K: "q4_k", Q5_K: "q5_k", Q6_K: "q6_k",
}

// String is the name used in flags and JSON.
func (t DType) String() string {
	if int(t) < len(dtypeNames) && dtypeNames[t] != "" {
		return dtypeNames[t]
	}
	return fmt.Sprintf("dtype(%d)", uint8(t))
}

// MarshalText writes the name used in flags and JSON.
func (t DType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a name as String writes it.
func (t *DType) UnmarshalText(b []byte) error {
	v, err := ParseDType(string(b))
	*t = v
	return err
}

var _ json.Marshaler = Bytes{}

// ParseDType reads a name as String writes it.
func ParseDType(s string) (DType, error) {
	for t, n := range dtypeNames {
		if n != "" && n == strings.ToLower(s) {
			return DType(t), nil
		}
	}
	return 0, fmt.Errorf("sparse: unknown type %q", s)
}

// Bits is the size of one number in bits; for GGUF's block types the mean with
// the block's scales.
func (t DType) Bits() float64 {
	switch t {
	case F64, Int64:
		return 64
	case F32, Int32:
		return 32
	case F16, BF16, Int16:
		return 16
	case Int8, FP8, Uint8, Bool:
		return 8
	case Int4:
		return 4
	case Q4_0, Q4_K:
		return 4.5
	case Q4_1:
		return 5
	case Q5_0, Q5_K:
		return 5.5
	case Q5_1:
		return 6
	case Q8_0:
		return 8.5
	case Q6_K:
		return 6.5625
	}
	return 0
}

// Quantised reports whether numbers of the type need a Quant to mean anything.
func (t DType) Quantised() bool { return t == Int8 || t == Int4 || t == FP8 }

// F16ToF32 widens an IEEE 754 binary16 bit pattern; exact.
func F16ToF32(h uint16) float32 {
	// Moving the 15 magnitude bits to f32's place and scaling by 2^112 fixes the
	// exponent bias, subnormals included, without a branch per case.
	const magic = (254 - 15) << 23
	m := uint32(h&0x7fff) << 13
	f := math.Float32frombits(m) * math.Float32frombits(magic)
	if h&0x7c00 == 0x7c00 { // infinity or NaN: the exponent saturates
		f = math.Float32frombits(m | 0x7f800000)
	}
	return math.Float32frombits(math.Float32bits(f) | uint32(h&0x8000)<<16)
}

// F32ToF16 rounds to IEEE 754 binary16, to nearest even; overflow is infinity.
func F32ToF16(f float32) uint16 {
	b := math.Float32bits(f)
	sign := uint16(b>>16) & 0x8000
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000: // NaN: keep it quiet, keep the high payload bits
		return sign | 0x7e00 | uint16(b>>13)&0x3ff
	case b >= 0x477ff000: // rounds to 65536 or more
		return sign | 0x7c00
	case b < 0x38800000: // subnormal: adding 0.5 aligns the point, the FPU rounds to even
		s := math.Float32frombits(b) + 0.5
		return sign | uint16(math.Float32bits(s)-math.Float32bits(0.5))
	}
	return sign | uint16((b-(112<<23)+0xfff+(b>>13)&1)>>13)
}

// BF16ToF32 widens a bfloat16 bit pattern; exact.
func BF16ToF32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// F32ToBF16 rounds to bfloat16, to nearest even.
func F32ToBF16(f float32) uint16 {
	b := math.Float32bits(f)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + (b>>16)&1) >> 16)
}

// FP8ToF32 widens an e4m3fn bit pattern (OCP 8-bit floating point, no
// infinities, S.1111.111 is NaN); exact.
func FP8ToF32(b byte) float32 {
	sign := uint32(b&0x80) << 24
	e, m := uint32(b>>3)&15, uint32(b)&7
	switch {
	case e == 15 && m == 7:
		return math.Float32frombits(sign | 0x7fc00000)
	case e == 0:
		f := float32(m) / 512
		return math.Float32frombits(math.Float32bits(f) | sign)
	}
	return math.Float32frombits(sign | (e+120)<<23 | m<<20)
}
