package ptxsim

import "math"

// rounding is how a result is brought to its format.
type rounding uint8

const (
	roundNearest  rounding = iota // rn, rni: ties to even
	roundZero                     // rz, rzi
	roundDown                     // rm, rmi
	roundUp                       // rp, rpi
	roundNearestA                 // rna: ties away from zero
)

var roundingByName = map[string]rounding{
	"rn": roundNearest, "rz": roundZero, "rm": roundDown, "rp": roundUp, "rna": roundNearestA,
	"rni": roundNearest, "rzi": roundZero, "rmi": roundDown, "rpi": roundUp,
}

// floatFormat describes a binary format with an implicit leading bit.
type floatFormat struct {
	mant   int    // stored mantissa bits
	bias   int    // exponent bias
	maxFin uint32 // largest finite magnitude
	inf    uint32 // infinity, or NaN where the format has none
	nan    uint32
	sign   uint32
}

var (
	fmtF16  = floatFormat{10, 15, 0x7bff, 0x7c00, 0x7fff, 0x8000}
	fmtBF16 = floatFormat{7, 127, 0x7f7f, 0x7f80, 0x7fff, 0x8000}
	fmtF32  = floatFormat{23, 127, 0x7f7fffff, 0x7f800000, 0x7fffffff, 0x80000000}
	fmtTF32 = floatFormat{10, 127, 0x3fbff, 0x3fc00, 0x3ffff, 0x40000}
	fmtE4M3 = floatFormat{3, 7, 0x7e, 0x7f, 0x7f, 0x80} // OCP: no infinity
	fmtE5M2 = floatFormat{2, 15, 0x7b, 0x7c, 0x7f, 0x80}
)

// encode rounds x to the format. x may be the round-to-odd image of an exact
// value, which rounds like the exact value itself.
func (f *floatFormat) encode(x float64, mode rounding, satfinite bool) uint32 {
	b := math.Float64bits(x)
	var sign uint32
	if b>>63 != 0 {
		sign = f.sign
	}
	exp := int(b >> 52 & 0x7ff)
	m := b & (1<<52 - 1)
	switch {
	case exp == 0x7ff && m != 0:
		return f.nan
	case exp == 0x7ff:
		if satfinite {
			return sign | f.maxFin
		}
		return sign | f.inf
	case exp == 0 && m == 0:
		return sign
	case exp == 0: // a float64 subnormal is below every target's range
		exp = 1
	default:
		m |= 1 << 52
	}
	e := exp - 1023
	shift, emin := 52-f.mant, 1-f.bias
	if e < emin {
		shift = min(shift+emin-e, 63)
	}
	q, rem, half := m>>shift, m&(1<<shift-1), uint64(1)<<(shift-1)
	neg := sign != 0
	up := false
	switch mode {
	case roundNearest:
		up = rem > half || rem == half && q&1 == 1
	case roundNearestA:
		up = rem >= half
	case roundDown:
		up = neg && rem != 0
	case roundUp:
		up = !neg && rem != 0
	}
	if up {
		q++
	}
	out := uint64(q)
	if e >= emin {
		out = uint64(e+f.bias)<<f.mant + q - 1<<f.mant
	}
	if out > uint64(f.maxFin) {
		toward := mode == roundZero || mode == roundDown && !neg || mode == roundUp && neg
		if satfinite || toward {
			return sign | f.maxFin
		}
		return sign | f.inf
	}
	return sign | uint32(out)
}

// halfToFloat widens an f16; exact.
func halfToFloat(h uint32) float32 {
	f := math.Float32frombits(h&0x7fff<<13) * 0x1p112
	b := math.Float32bits(f)
	if h&0x7c00 == 0x7c00 {
		b |= 0x7f800000
	}
	return math.Float32frombits(b | h&0x8000<<16)
}

// floatToHalf rounds to nearest even.
func floatToHalf(x float32) uint32 {
	b := math.Float32bits(x)
	sign, a := b>>16&0x8000, b&0x7fffffff
	switch {
	case a > 0x7f800000:
		return 0x7fff
	case a >= 0x477ff000: // rounds to 2^16 or is beyond
		return sign | 0x7c00
	case a < 0x38800000: // below 2^-14: subnormal; adding 0.5 aligns the ulp of f16
		f := math.Float32frombits(a) + 0.5
		return sign | (math.Float32bits(f) - 0x3f000000)
	}
	a += 0xfff + a>>13&1
	return sign | (a>>13 - 0x1c000)
}

func bfloatToFloat(h uint32) float32 { return math.Float32frombits(h << 16) }

// floatToBfloat rounds to nearest even.
func floatToBfloat(x float32) uint32 {
	b := math.Float32bits(x)
	if b&0x7fffffff > 0x7f800000 {
		return 0x7fff
	}
	return (b + 0x7fff + b>>16&1) >> 16
}

// decodeFP8 widens e4m3 or e5m2; exact.
func decodeFP8(b uint32, f *floatFormat) float32 {
	s := float32(1)
	if b&0x80 != 0 {
		s = -1
	}
	a := b & 0x7f
	e, m := int(a>>f.mant), float64(a&(1<<f.mant-1))
	switch {
	case a == f.nan && f.inf == f.nan, f.inf != f.nan && a > f.inf:
		return float32(math.NaN())
	case a == f.inf && f.inf != f.nan:
		return s * float32(math.Inf(1))
	case e == 0:
		return s * float32(math.Ldexp(m, 1-f.bias-f.mant))
	}
	return s * float32(math.Ldexp(m+float64(int(1)<<f.mant), e-f.bias-f.mant))
}

// decodeFloat widens the low bits of x, of type t, to float64; exact.
func decodeFloat(x uint64, t dtype) float64 {
	switch t {
	case tF16:
		return float64(halfToFloat(uint32(x)))
	case tBF16:
		return float64(bfloatToFloat(uint32(x)))
	case tF32:
		return float64(math.Float32frombits(uint32(x)))
	case tTF32:
		return float64(math.Float32frombits(uint32(x) &^ 0x1fff))
	case tE4M3:
		return float64(decodeFP8(uint32(x), &fmtE4M3))
	case tE5M2:
		return float64(decodeFP8(uint32(x), &fmtE5M2))
	}
	return math.Float64frombits(x)
}

// encodeFloat rounds x to type t.
func encodeFloat(x float64, t dtype, mode rounding, satfinite bool) uint64 {
	switch t {
	case tF16:
		return uint64(fmtF16.encode(x, mode, satfinite))
	case tBF16:
		return uint64(fmtBF16.encode(x, mode, satfinite))
	case tF32:
		if mode == roundNearest && !satfinite {
			return uint64(canonNaN(float32(x)))
		}
		return uint64(fmtF32.encode(x, mode, satfinite))
	case tTF32:
		b := fmtTF32.encode(x, mode, satfinite)
		return uint64(b) << 13
	case tE4M3:
		return uint64(fmtE4M3.encode(x, mode, satfinite))
	case tE5M2:
		return uint64(fmtE5M2.encode(x, mode, satfinite))
	}
	return math.Float64bits(x)
}

// sumOdd returns a+b rounded to odd: inexact sums get an odd last bit, so that
// a later rounding to at most 51 bits equals one rounding of the exact sum.
func sumOdd(a, b float64) float64 {
	s := a + b
	if math.IsInf(s, 0) || s != s {
		return s
	}
	bb := s - a
	err := (a - (s - bb)) + (b - bb)
	if err == 0 {
		return s
	}
	bits := math.Float64bits(s)
	if bits&1 == 0 {
		if (err > 0) == (s > 0) {
			bits++
		} else {
			bits--
		}
	}
	return math.Float64frombits(bits)
}

// sumFor is sumOdd with the zero that the rounding mode wants: an exact zero sum
// of opposite terms is -0 when rounding down (IEEE 754, 6.3).
func sumFor(mode rounding, a, b float64) float64 {
	s := sumOdd(a, b)
	if s == 0 && mode == roundDown && (a != 0 || math.Signbit(a) != math.Signbit(b)) {
		return math.Copysign(0, -1)
	}
	return s
}

// fma32 is the correctly rounded a*b+c of float32. The product is exact in
// float64; only sums near a rounding tie or below the normal range need care.
func fma32(a, b, c float32) float32 {
	p := float64(a) * float64(b)
	s := p + float64(c)
	bits := math.Float64bits(s)
	if bits&0x1fffffff != 0x10000000 && (math.Abs(s) >= 0x1p-126 || s == 0) {
		return float32(s)
	}
	return float32(sumOdd(p, float64(c)))
}

// flush replaces a subnormal float32 by a zero of its sign (.ftz).
func flush(b uint32) uint32 {
	if b&0x7f800000 == 0 {
		return b & 0x80000000
	}
	return b
}
