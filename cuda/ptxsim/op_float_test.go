package ptxsim

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"
)

// roundBig rounds an exact finite value to a binary format by the definition,
// with big integers: the oracle of floatFormat.encode.
func roundBig(x *big.Float, mant, emin, emax int, mode big.RoundingMode) float64 {
	if x.Sign() == 0 {
		return 0
	}
	exp := x.MantExp(nil) - 1 // x = m * 2^exp, 1 <= m < 2
	ulp := max(exp, emin) - mant
	scaled := new(big.Float).SetMantExp(x, -ulp)
	i, acc := scaled.Int(nil) // toward zero
	if acc != big.Exact {
		frac := new(big.Float).Sub(scaled, new(big.Float).SetInt(i))
		half := frac.Cmp(big.NewFloat(0.5))
		if x.Sign() < 0 {
			half = -frac.Cmp(big.NewFloat(-0.5))
		}
		up := false
		switch mode {
		case big.ToNearestEven:
			up = half > 0 || half == 0 && i.Bit(0) == 1
		case big.ToNegativeInf:
			up = x.Sign() < 0
		case big.ToPositiveInf:
			up = x.Sign() > 0
		}
		if up {
			i.Add(i, big.NewInt(int64(x.Sign())))
		}
	}
	f, _ := new(big.Float).SetMantExp(new(big.Float).SetInt(i), ulp).Float64()
	limit := math.Ldexp(2-math.Ldexp(1, -mant), emax)
	if math.Abs(f) > limit {
		toward := mode == big.ToZero || mode == big.ToNegativeInf && f > 0 || mode == big.ToPositiveInf && f < 0
		if toward {
			return math.Copysign(limit, f)
		}
		return math.Inf(x.Sign())
	}
	return f
}

var bigModes = map[string]big.RoundingMode{"rn": big.ToNearestEven, "rz": big.ToZero, "rm": big.ToNegativeInf, "rp": big.ToPositiveInf}

func exact(x float64) *big.Float { return new(big.Float).SetPrec(2200).SetFloat64(x) }

// f32Of rounds an exact sum or product, given as operands, to float32 bits.
func f32Big(x *big.Float, mode string) uint64 {
	return uint64(math.Float32bits(float32(roundBig(x, 23, -126, 127, bigModes[mode]))))
}

func isFinite(v ...float64) bool {
	for _, x := range v {
		if math.IsNaN(x) || math.IsInf(x, 0) {
			return false
		}
	}
	return true
}

func f32(b uint64) float32 { return math.Float32frombits(uint32(b)) }

func bits32(x float32) uint64 {
	if x != x {
		return 0x7fffffff
	}
	return uint64(math.Float32bits(x))
}

func TestEncodeRoundsAsDefined(t *testing.T) {
	formats := []struct {
		f                *floatFormat
		t                dtype
		mant, emin, emax int
	}{
		{&fmtF16, tF16, 10, -14, 15}, {&fmtBF16, tBF16, 7, -126, 127}, {&fmtF32, tF32, 23, -126, 127}, {&fmtE5M2, tE5M2, 2, -14, 15},
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, f := range formats {
		for i := 0; i < 20000; i++ {
			x := math.Ldexp(1+r.Float64(), f.emin-f.mant-3+r.IntN(f.emax-f.emin+f.mant+6))
			if i%4 == 0 { // exactly between two neighbours, and just beside
				m := math.Floor(r.Float64() * math.Ldexp(1, f.mant+1))
				x = math.Ldexp(m+0.5, f.emin-f.mant+r.IntN(f.emax-f.emin))
				x += float64(r.IntN(3)-1) * x * 0x1p-50
			}
			if r.IntN(2) == 0 {
				x = -x
			}
			for name, mode := range bigModes {
				got := decodeFloat(uint64(f.f.encode(x, roundingByName[name], false)), f.t)
				want := roundBig(exact(x), f.mant, f.emin, f.emax, mode)
				if got != want {
					t.Fatalf("%s %s of %g: got %g, want %g", f.t, name, x, got, want)
				}
			}
		}
	}
}

// TestHalfAgainstLibrary compares with github.com/x448/float16 over every value.
func TestHalfAgainstLibrary(t *testing.T) {
	for h := 0; h < 1<<16; h++ {
		want := float16.Frombits(uint16(h)).Float32()
		got := halfToFloat(uint32(h))
		if want != want {
			require.True(t, got != got, "%#x", h)
			continue
		}
		if math.Float32bits(want) != math.Float32bits(got) || floatToHalf(got) != uint32(h) {
			t.Fatalf("%#x: got %g, want %g; back %#x", h, got, want, floatToHalf(got))
		}
	}
	r := rand.New(rand.NewPCG(3, 4))
	for i := 0; i < 1<<20; i++ {
		x := math.Float32frombits(r.Uint32())
		if i%2 == 0 { // within the range of f16, where rounding happens
			x = float32(math.Ldexp(r.Float64()*2-1, r.IntN(44)-27))
		}
		if x != x {
			continue
		}
		if got := floatToHalf(x); got != uint32(float16.Fromfloat32(x).Bits()) || got != fmtF16.encode(float64(x), roundNearest, false) {
			t.Fatalf("f16 of %g: %#x, library %#x", x, got, float16.Fromfloat32(x).Bits())
		}
		if got, want := floatToBfloat(x), fmtBF16.encode(float64(x), roundNearest, false); got != want {
			t.Fatalf("bf16 of %g: %#x, want %#x", x, got, want)
		}
	}
}

// TestFP8Tables checks the corners of the OCP formats (OFP8 1.0, table 1).
func TestFP8Tables(t *testing.T) {
	for b, want := range map[uint32]float64{0x7e: 448, 0x08: 0x1p-6, 0x07: 7 * 0x1p-9, 0x01: 0x1p-9, 0x38: 1, 0xb8: -1, 0x00: 0} {
		require.Equal(t, want, decodeFloat(uint64(b), tE4M3), "e4m3 %#x", b)
	}
	for b, want := range map[uint32]float64{0x7b: 57344, 0x04: 0x1p-14, 0x03: 3 * 0x1p-16, 0x01: 0x1p-16, 0x3c: 1, 0x7c: math.Inf(1)} {
		require.Equal(t, want, decodeFloat(uint64(b), tE5M2), "e5m2 %#x", b)
	}
	require.True(t, math.IsNaN(decodeFloat(0x7f, tE4M3)))
	require.True(t, math.IsNaN(decodeFloat(0x7d, tE5M2)))
	for _, f := range []dtype{tE4M3, tE5M2} {
		for b := uint64(0); b < 256; b++ {
			if v := decodeFloat(b, f); v == v {
				require.Equal(t, b, encodeFloat(v, f, roundNearest, false), "%s %#x", f, b)
			}
		}
	}
	require.Equal(t, uint64(0x7e), encodeFloat(1000, tE4M3, roundNearest, true))
	require.Equal(t, uint64(0x7e), encodeFloat(464, tE4M3, roundNearest, true), "464 is the tie above 448")
	require.Equal(t, uint64(0x7f), encodeFloat(1000, tE4M3, roundNearest, false))
	require.Equal(t, uint64(0x7b), encodeFloat(math.Inf(1), tE5M2, roundNearest, true))
}

func TestFma32IsCorrectlyRounded(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for i := 0; i < 200000; i++ {
		f := func() float32 { return math.Float32frombits(r.Uint32()) }
		a, b, c := f(), f(), f()
		if i%2 == 0 { // close exponents: cancellation and ties
			c = float32(math.Ldexp(float64(float32(r.Float64())), r.IntN(60)-30)) * float32(1-2*r.IntN(2))
			a, b = float32(r.Float64()*8), float32(math.Ldexp(r.Float64(), r.IntN(50)-25))
		}
		if i%16 == 0 { // a product of few bits and a sum half an ulp off
			a, b = 1+float32(r.IntN(8))*0x1p-12, 1+float32(r.IntN(8))*0x1p-12
			c = float32(r.IntN(1<<12)) * 0x1p-23
		}
		if i%16 == 2 { // a product on a tie of float32, moved off it by less than float64 sees
			a, b = 1+float32(2*r.IntN(64)+1)*0x1p-12, 1+0x1p-12
			c = float32(math.Ldexp(float64(1-2*r.IntN(2)), -60-r.IntN(60)))
		}
		if i%32 == 1 { // subnormal results
			a, b, c = a*0x1p-70, b*0x1p-70, c*0x1p-130
		}
		if !isFinite(float64(a), float64(b), float64(c)) {
			continue
		}
		p := new(big.Float).SetPrec(2200).Mul(exact(float64(a)), exact(float64(b)))
		s := p.Add(p, exact(float64(c)))
		want := float32(roundBig(s, 23, -126, 127, big.ToNearestEven))
		if got := fma32(a, b, c); got != want {
			t.Fatalf("fma(%g, %g, %g): got %g, want %g", a, b, c, got, want)
		}
	}
}

// binary32 is the reference of a rounded f32 operation.
func binary32(mode string, f func(z, x, y *big.Float) *big.Float, plain func(x, y float32) float32) func(a, b, c uint64) uint64 {
	return func(a, b, _ uint64) uint64 {
		x, y := float64(f32(a)), float64(f32(b))
		p := plain(f32(a), f32(b))
		if !isFinite(x, y) || p == 0 && (x == 0 || y == 0 || x == -y) || p != p {
			return bits32(p)
		}
		z := new(big.Float).SetPrec(2200)
		return f32Big(f(z, exact(x), exact(y)), mode) | uint64(math.Float32bits(p))&0x80000000
	}
}

func TestFloat32Ops(t *testing.T) {
	add := func(z, x, y *big.Float) *big.Float { return z.Add(x, y) }
	sub := func(z, x, y *big.Float) *big.Float { return z.Sub(x, y) }
	mul := func(z, x, y *big.Float) *big.Float { return z.Mul(x, y) }
	padd := func(x, y float32) float32 { return x + y }
	psub := func(x, y float32) float32 { return x - y }
	pmul := func(x, y float32) float32 { return x * y }
	ftz := func(x uint64) uint64 {
		if x&0x7f800000 == 0 {
			return x & 0x80000000
		}
		return x
	}
	fma := func(a, b, c uint64) uint64 {
		return bits32(float32(math.FMA(float64(f32(a)), float64(f32(b)), float64(f32(c)))))
	}
	un := func(f func(float64) float64) func(a, b, c uint64) uint64 {
		return func(a, _, _ uint64) uint64 { return bits32(float32(f(float64(f32(a))))) }
	}
	runCases(t, []opCase{
		{"f32 f32 f32", "add.f32 d, a, b;", func(a, b, _ uint64) uint64 { return bits32(f32(a) + f32(b)) }},
		{"f32 f32 f32", "sub.f32 d, a, b;", func(a, b, _ uint64) uint64 { return bits32(f32(a) - f32(b)) }},
		{"f32 f32 f32", "mul.f32 d, a, b;", func(a, b, _ uint64) uint64 { return bits32(f32(a) * f32(b)) }},
		{"f32 f32 f32", "add.rz.f32 d, a, b;", binary32("rz", add, padd)},
		{"f32 f32 f32", "add.rm.f32 d, a, b;", func(a, b, c uint64) uint64 {
			if x, y := f32(a), f32(b); x == -y && (x != 0 || a != b) {
				return 0x80000000 // exact zero sums are -0 when rounding down
			}
			return binary32("rm", add, padd)(a, b, c)
		}},
		{"f32 f32 f32", "sub.rp.f32 d, a, b;", binary32("rp", sub, psub)},
		{"f32 f32 f32", "mul.rz.f32 d, a, b;", binary32("rz", mul, pmul)},
		{"f32 f32 f32", "mul.rp.f32 d, a, b;", binary32("rp", mul, pmul)},
		{"f32 f32 f32", "mul.ftz.f32 d, a, b;", func(a, b, _ uint64) uint64 { return ftz(bits32(f32(ftz(a)) * f32(ftz(b)))) }},
		{"f32 f32 f32", "add.ftz.f32 d, a, b;", func(a, b, _ uint64) uint64 { return ftz(bits32(f32(ftz(a)) + f32(ftz(b)))) }},
		{"f32 f32 f32", "add.sat.f32 d, a, b;", func(a, b, _ uint64) uint64 {
			s := f32(a) + f32(b)
			if !(s > 0) {
				return 0
			}
			return bits32(min(s, 1))
		}},
		{"f32 f32 f32", "div.rn.f32 d, a, b;", func(a, b, _ uint64) uint64 { return bits32(f32(a) / f32(b)) }},
		{"f32 f32 f32", "div.approx.f32 d, a, b;", func(a, b, _ uint64) uint64 { return bits32(f32(a) / f32(b)) }},
		{"f32 f32 f32", "min.f32 d, a, b;", func(a, b, _ uint64) uint64 {
			x, y := f32(a), f32(b)
			if x != x {
				return bits32(y)
			}
			if y != y {
				return bits32(x)
			}
			return bits32(min(x, y))
		}},
		{"f32 f32 f32", "max.f32 d, a, b;", func(a, b, _ uint64) uint64 {
			x, y := f32(a), f32(b)
			if x != x {
				return bits32(y)
			}
			if y != y {
				return bits32(x)
			}
			return bits32(max(x, y))
		}},
		{"f32 f32 f32", "max.NaN.f32 d, a, b;", func(a, b, _ uint64) uint64 { return bits32(max(f32(a), f32(b))) }},
		{"f32 f32", "neg.f32 d, a;", func(a, _, _ uint64) uint64 { return a ^ 0x80000000 }},
		{"f32 f32", "abs.f32 d, a;", func(a, _, _ uint64) uint64 { return a &^ 0x80000000 }},
		{"f32 f32 f32", "copysign.f32 d, a, b;", func(a, b, _ uint64) uint64 { return b&0x7fffffff | a&0x80000000 }},
		{"f32 f32", "ex2.approx.f32 d, a;", un(math.Exp2)},
		{"f32 f32", "ex2.approx.ftz.f32 d, a;", func(a, _, _ uint64) uint64 { return ftz(bits32(float32(math.Exp2(float64(f32(ftz(a))))))) }},
		{"f32 f32", "lg2.approx.f32 d, a;", un(math.Log2)},
		{"f32 f32", "sin.approx.f32 d, a;", un(math.Sin)},
		{"f32 f32", "cos.approx.f32 d, a;", un(math.Cos)},
		{"f32 f32", "tanh.approx.f32 d, a;", un(math.Tanh)},
		{"f32 f32", "sqrt.rn.f32 d, a;", un(math.Sqrt)},
		{"f32 f32", "rcp.rn.f32 d, a;", func(a, _, _ uint64) uint64 { return bits32(1 / f32(a)) }},
		{"f32 f32", "rcp.approx.ftz.f32 d, a;", func(a, _, _ uint64) uint64 { return ftz(bits32(1 / f32(ftz(a)))) }},
		{"f32 f32", "rsqrt.approx.f32 d, a;", func(a, _, _ uint64) uint64 {
			if f32(a) == 0 {
				return 0x7f800000 | a
			}
			return bits32(float32(1 / math.Sqrt(float64(f32(a)))))
		}},
		{"f32 f32", "{.reg .f32 x; and.b32 x, a, 0x3fffffff; or.b32 x, x, 0x3f000000; fma.rn.f32 d, x, x, 0f3F800000;}", func(a, b, c uint64) uint64 {
			x := a&0x3fffffff | 0x3f000000
			return fma(x, x, 0x3f800000)
		}},
		{"f32 f32 f32 f32", "fma.rn.f32 d, a, b, c;", func(a, b, c uint64) uint64 {
			x, y, z := float64(f32(a)), float64(f32(b)), float64(f32(c))
			if !isFinite(x, y, z) || x*y+z == 0 {
				return bits32(float32(x*y + z))
			}
			p := new(big.Float).SetPrec(2200).Mul(exact(x), exact(y))
			if p.Add(p, exact(z)).Sign() < 0 {
				return f32Big(p, "rn") | 0x80000000
			}
			return f32Big(p, "rn")
		}},
		{"pred f32", "testp.normal.f32 d, a;", func(a, _, _ uint64) uint64 {
			x := math.Abs(float64(f32(a)))
			return b2u(x >= 0x1p-126 && !math.IsInf(x, 0))
		}},
		{"pred f32", "testp.subnormal.f32 d, a;", func(a, _, _ uint64) uint64 { return b2u(a&0x7f800000 == 0 && a&0x7fffff != 0) }},
		{"pred f32", "testp.notanumber.f32 d, a;", func(a, _, _ uint64) uint64 { return b2u(f32(a) != f32(a)) }},
		{"pred f32 f32", "setp.lt.f32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(f32(a) < f32(b)) }},
		{"pred f32 f32", "setp.gt.f32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(f32(a) > f32(b)) }},
		{"pred f32 f32", "setp.ltu.f32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(!(f32(a) >= f32(b))) }},
		{"pred f32 f32", "setp.neu.f32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(f32(a) != f32(b)) }},
		{"pred f32 f32", "setp.ne.f32 d, a, b;", func(a, b, _ uint64) uint64 {
			return b2u(f32(a) < f32(b) || f32(a) > f32(b))
		}},
		{"pred f32 f32", "setp.nan.f32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(f32(a) != f32(a) || f32(b) != f32(b)) }},
		{"pred f32 f32", "setp.num.f32 d, a, b;", func(a, b, _ uint64) uint64 { return b2u(f32(a) == f32(a) && f32(b) == f32(b)) }},
		{"f64 f64 f64 f64", "fma.rn.f64 d, a, b, c;", func(a, b, c uint64) uint64 {
			return math.Float64bits(math.FMA(math.Float64frombits(a), math.Float64frombits(b), math.Float64frombits(c)))
		}},
		{"f64 f64 f64", "add.f64 d, a, b;", func(a, b, c uint64) uint64 {
			return math.Float64bits(math.Float64frombits(a) + math.Float64frombits(b))
		}},
		{"f64 f64 f64", "div.rn.f64 d, a, b;", func(a, b, c uint64) uint64 {
			return math.Float64bits(math.Float64frombits(a) / math.Float64frombits(b))
		}},
	})
}
