package ptxsim

import (
	"math"
	"math/big"
	"testing"

	"github.com/x448/float16"
)

// half16 rounds an exact value to f16 or bf16 bits by way of big.Float.
func half16(t dtype, x *big.Float) uint64 {
	var sign uint64
	if x.Sign() < 0 {
		sign = 0x8000 // kept by results that round to zero
	}
	if t == tF16 {
		return sign | uint64(float16.Fromfloat32(float32(roundBig(x, 10, -14, 15, big.ToNearestEven))).Bits())
	}
	return sign | uint64(math.Float32bits(float32(roundBig(x, 7, -126, 127, big.ToNearestEven)))>>16)
}

func TestHalfOps(t *testing.T) {
	dec := func(t dtype, b uint64) float64 {
		if t == tF16 {
			return float64(float16.Frombits(uint16(b)).Float32())
		}
		return float64(math.Float32frombits(uint32(b) << 16))
	}
	fma := func(t dtype) func(a, b, c uint64) uint64 {
		return func(a, b, c uint64) uint64 {
			x, y, z := dec(t, a&0xffff), dec(t, b&0xffff), dec(t, c&0xffff)
			s := x*y + z
			switch {
			case s != s:
				return 0x7fff
			case math.IsInf(s, 0) || s == 0:
				return half16Inf(t, s)
			}
			p := new(big.Float).SetPrec(2200).Mul(exact(x), exact(y))
			return half16(t, p.Add(p, exact(z)))
		}
	}
	two := func(f func(a, b, c uint64) uint64) func(a, b, c uint64) uint64 {
		return func(a, b, c uint64) uint64 {
			return f(a&0xffff, b&0xffff, c&0xffff) | f(a>>16&0xffff, b>>16&0xffff, c>>16&0xffff)<<16
		}
	}
	one := func(t dtype) uint64 {
		if t == tF16 {
			return 0x3c00
		}
		return 0x3f80
	}
	add := func(t dtype) func(a, b, c uint64) uint64 {
		return func(a, b, _ uint64) uint64 { return fma(t)(a, one(t), b) }
	}
	sub := func(t dtype) func(a, b, c uint64) uint64 {
		return func(a, b, _ uint64) uint64 { return fma(t)(a, one(t), b^0x8000) }
	}
	mul := func(t dtype) func(a, b, c uint64) uint64 {
		return func(a, b, _ uint64) uint64 { return fma(t)(a, b, (a^b)&0x8000) }
	}
	maxOf := func(t dtype) func(a, b, c uint64) uint64 {
		return func(a, b, _ uint64) uint64 {
			x, y := dec(t, a), dec(t, b)
			switch {
			case x != x && y != y:
				return 0x7fff
			case x != x:
				return b
			case y != y:
				return a
			case x > y || x == y && a < b:
				return a
			}
			return b
		}
	}
	runCases(t, []opCase{
		{"f16 f16 f16 f16", "fma.rn.f16 d, a, b, c;", fma(tF16)},
		{"b32 b32 b32 b32", "fma.rn.f16x2 d, a, b, c;", two(fma(tF16))},
		{"b16 b16 b16 b16", "fma.rn.bf16 d, a, b, c;", fma(tBF16)},
		{"b32 b32 b32 b32", "fma.rn.bf16x2 d, a, b, c;", two(fma(tBF16))},
		{"f16 f16 f16", "add.f16 d, a, b;", add(tF16)},
		{"f16 f16 f16", "sub.f16 d, a, b;", sub(tF16)},
		{"f16 f16 f16", "mul.f16 d, a, b;", mul(tF16)},
		{"b32 b32 b32", "add.f16x2 d, a, b;", two(add(tF16))},
		{"b32 b32 b32", "sub.rn.f16x2 d, a, b;", two(sub(tF16))},
		{"b32 b32 b32", "mul.f16x2 d, a, b;", two(mul(tF16))},
		{"b32 b32 b32", "add.rn.bf16x2 d, a, b;", two(add(tBF16))},
		{"b32 b32 b32", "mul.rn.bf16x2 d, a, b;", two(mul(tBF16))},
		{"f16 f16 f16", "max.f16 d, a, b;", maxOf(tF16)},
		{"b32 b32 b32", "max.f16x2 d, a, b;", two(maxOf(tF16))},
		{"b32 b32", "neg.f16x2 d, a;", func(a, _, _ uint64) uint64 { return a ^ 0x80008000 }},
		{"b32 b32", "abs.bf16x2 d, a;", func(a, _, _ uint64) uint64 { return a &^ 0x80008000 }},
		{"f16 f16", "ex2.approx.f16 d, a;", func(a, _, _ uint64) uint64 {
			x := dec(tF16, a)
			if x != x {
				return 0x7fff
			}
			return uint64(fmtF16.encode(math.Exp2(x), roundNearest, false))
		}},
		{"b16 b16 b16", "set.eq.f16.f16 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(dec(tF16, a) == dec(tF16, b)) * 0x3c00 }},
		{"b32 b32 b32", "set.lt.f16x2.f16x2 d, a, b;", two(func(a, b, _ uint64) uint64 { return b2u(dec(tF16, a) < dec(tF16, b)) * 0x3c00 })},
		{"pred b16 b16", "setp.gt.f16 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(dec(tF16, a) > dec(tF16, b)) }},
	})
}

// half16Inf gives infinities and zeros.
func half16Inf(t dtype, s float64) uint64 {
	var r uint64
	if math.Signbit(s) {
		r = 0x8000
	}
	if math.IsInf(s, 0) {
		if t == tF16 {
			return r | 0x7c00
		}
		return r | 0x7f80
	}
	return r
}
