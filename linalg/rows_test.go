package linalg

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// lengths are the odd sizes: empty, one, tails of every kernel, whole vectors.
var lengths = []int{0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 200, 576}

// guard makes a vector of n with sentinels around it, which check verifies.
func guard(n int) (x []float32, check func(t *testing.T)) {
	const pad = 17
	all := make([]float32, n+2*pad)
	for i := range all {
		all[i] = 12345
	}
	return all[pad : pad+n : pad+n], func(t *testing.T) {
		t.Helper()
		for i, v := range all {
			if (i < pad || i >= pad+n) && v != 12345 {
				t.Fatalf("wrote at %d of %d", i-pad, n)
			}
		}
	}
}

// TestElementwise: add, mul and scale are correctly rounded; those with exp are within
// 2^-21 (4 ulp) relative: 2 ulp of the polynomial, the rest of the divisions and products.
// GELU's tanh form takes exp of up to -80, whose rounding alone is a relative 80*2^-23; by
// erf it has an absolute error of 1e-7 * max(|x|, 1) instead, see its comment.
func TestElementwise(t *testing.T) {
	sig := func(x float64) float64 { return 1 / (1 + math.Exp(-x)) }
	cases := []struct {
		name     string
		run      func(dst, x, y []float32)
		want     func(x, y float64) float64
		rel, abs float64
	}{
		{"add", Add, func(x, y float64) float64 { return x + y }, 0x1p-24, 0},
		{"mul", Mul, func(x, y float64) float64 { return x * y }, 0x1p-24, 0},
		{"scale", func(d, x, _ []float32) { Scale(d, 1.7, x) }, func(x, _ float64) float64 { return float64(float32(1.7)) * x }, 0x1p-24, 0},
		{"sigmoid", func(d, x, _ []float32) { Sigmoid(d, x) }, func(x, _ float64) float64 { return sig(x) }, 0x1p-21, 1e-38},
		{"silugate", SiLUGate, func(x, y float64) float64 { return x * sig(x) * y }, 0x1p-21, 1e-38},
		{"gelutanh", func(d, x, _ []float32) { GELUTanh(d, x) }, func(x, _ float64) float64 {
			// As a sigmoid: 1+tanh cancels where x is very negative.
			return x * sig(2*math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x))
		}, 2e-5, 1e-38},
		{"gelu", func(d, x, _ []float32) { GELU(d, x) }, func(x, _ float64) float64 { return x / 2 * math.Erfc(-x/math.Sqrt2) }, 0x1p-23, 1e-7},
	}
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, c := range cases {
			for _, n := range lengths {
				x, y := randomVector(rng, n), randomVector(rng, n)
				for i := range x {
					x[i] *= float32(math.Pow(10, float64(rng.IntN(3)-1)))
				}
				dst, check := guard(n)
				c.run(dst, x, y)
				check(t)
				for i := range dst {
					want := c.want(float64(x[i]), float64(y[i]))
					if d := math.Abs(float64(dst[i]) - want); !(d <= c.rel*math.Abs(want)+c.abs*math.Max(1, math.Abs(float64(x[i])))) {
						t.Fatalf("%s n %d: x %g y %g: want %g, got %g", c.name, n, x[i], y[i], want, dst[i])
					}
				}
				// In place, and the same wherever an element lies.
				again := append([]float32(nil), x...)
				c.run(again, again, y)
				require.Equal(t, bits(dst), bits(again), c.name)
				if n > 1 {
					c.run(again[1:], x[1:], y[1:])
					require.Equal(t, bits(dst[1:]), bits(again[1:]), c.name)
				}
			}
		}
	})
}

// TestExp sweeps the whole range: 2^-22.3 (2e-7) relative where the result is a normal
// number, 0 or tiny below.
func TestExp(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		worst := 0.0
		x, dst := make([]float32, 1), make([]float32, 1)
		for f := -87.33; f <= 88.37; f += 0.00137 {
			x[0] = float32(f)
			s := ExpSum(dst, x, 0)
			require.Equal(t, s, dst[0])
			want := math.Exp(float64(x[0]))
			worst = math.Max(worst, math.Abs(float64(dst[0])/want-1))
		}
		t.Logf("exp: largest relative error %.3g", worst)
		require.Less(t, worst, 2e-7)
		// Whole vectors and their tails.
		x, dst = make([]float32, 39), make([]float32, 39)
		for _, v := range []float64{-88, -200, math.Inf(-1), math.NaN()} {
			for i := range x {
				x[i] = float32(v)
			}
			s := ExpSum(dst, x, 0)
			require.False(t, s > 39e-38, "exp(%g): sum %g", v, s)
			for _, e := range dst {
				require.Equal(t, v != v, e != e, "exp(%g) is %g", v, e)
				require.False(t, e > 1e-38, "exp(%g) is %g", v, e)
			}
		}
	})
}

// TestReductions: dot and the norms. n*2^-24 of the sum of magnitudes bounds any order
// of summation.
func TestReductions(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(5, 6))
		for _, n := range lengths {
			x, y, w, b := randomVector(rng, n), randomVector(rng, n), randomVector(rng, n), randomVector(rng, n)
			var s, abs, sq, mean, top float64
			top = math.Inf(-1)
			for i := range x {
				p := float64(x[i]) * float64(y[i])
				s, abs, sq, mean = s+p, abs+math.Abs(p), sq+float64(x[i])*float64(x[i]), mean+float64(x[i])
				top = math.Max(top, float64(x[i]))
			}
			require.InDelta(t, s, float64(Dot(x, y)), float64(n+1)*0x1p-24*abs+1e-30, "dot %d", n)
			require.Equal(t, float32(top), Max(x), "max %d", n)

			z := append([]float32(nil), y...)
			Axpy(-0.3, x, z)
			for i := range z {
				want := float64(y[i]) + float64(float32(-0.3))*float64(x[i])
				require.InDelta(t, want, float64(z[i]), 0x1p-23*(math.Abs(want)+math.Abs(float64(y[i]))), "axpy %d", n)
			}
			if n == 0 {
				continue
			}
			dst, check := guard(n)
			RMSNorm(dst, x, w, 1e-5)
			check(t)
			r := 1 / math.Sqrt(sq/float64(n)+1e-5)
			for i := range dst {
				want := float64(x[i]) * r * float64(w[i])
				require.InDelta(t, want, float64(dst[i]), float64(n+8)*0x1p-24*math.Abs(want), "rmsnorm %d", n)
			}
			LayerNorm(dst, x, w, b, 1e-5)
			mean /= float64(n)
			r = 1 / math.Sqrt(math.Max(0, sq/float64(n)-mean*mean)+1e-5)
			for i := range dst {
				want := (float64(x[i])-mean)*r*float64(w[i]) + float64(b[i])
				require.InDelta(t, want, float64(dst[i]), 1e-6*(math.Abs(want)+r+10), "layernorm %d", n)
			}
			Softmax(dst, x, 0.7)
			check(t)
			var total float64
			for i := range x {
				total += math.Exp(float64(float32(0.7)) * (float64(x[i]) - top))
			}
			for i := range dst {
				want := math.Exp(float64(float32(0.7))*(float64(x[i])-top)) / total
				// x - max errs by an ulp of x, which exp turns into a relative error.
				require.InDelta(t, want, float64(dst[i]), want*(float64(n)*0x1p-24+2e-6), "softmax %d", n)
			}
		}
	})
}

func TestRope(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(7, 8))
		for _, half := range []int{1, 4, 7, 8, 16, 32, 33} {
			inv := make([]float64, half)
			for i := range inv {
				inv[i] = math.Pow(10000, -float64(i)/float64(half))
			}
			r := NewRope(inv, 1, 100)
			x := randomVector(rng, 3*2*half)
			y := append([]float32(nil), x...)
			r.Rotate(y, 99)
			for h := range 3 {
				for i := range half {
					a, b := float64(x[h*2*half+i]), float64(x[h*2*half+half+i])
					s, c := math.Sincos(99 * inv[i])
					require.InDelta(t, a*c-b*s, float64(y[h*2*half+i]), 1e-6)
					require.InDelta(t, b*c+a*s, float64(y[h*2*half+half+i]), 1e-6)
				}
			}
			r.Unrotate(y, 99)
			require.InDeltaSlice(t, x, y, 2e-6)
		}
	})
}

// TestHalf compares all 65,536 half values, bit for bit, with the portable conversion,
// and that one with the arithmetic meaning of the format.
func TestHalf(t *testing.T) {
	src := make([]uint16, 1<<16)
	want, back := make([]float32, 1<<16), make([]uint16, 1<<16)
	for i := range src {
		src[i] = uint16(i)
	}
	halfToFloatPortable(want, src)
	for i, f := range want {
		e, m := i>>10&31, float64(i&1023)
		v := math.Ldexp(1024+m, e-25)
		if e == 0 {
			v = math.Ldexp(m, -24)
		} else if e == 31 {
			v = math.Inf(1)
			if m != 0 {
				v = math.NaN()
			}
		}
		if i>>15 != 0 {
			v = -v
		}
		require.True(t, float32(v) == f || v != v && f != f, "%#x: want %g, got %g", i, v, f)
	}
	eachISA(t, func(t *testing.T) {
		got := make([]float32, 1<<16)
		F16ToF32(got, src)
		require.Equal(t, bits(want), bits(got))
		F32ToF16(back, got)
		for i, h := range back {
			if got[i] == got[i] {
				require.Equal(t, src[i], h)
			}
		}
		BF16ToF32(got, src)
		for i, f := range got {
			require.Equal(t, uint32(i)<<16, math.Float32bits(f))
		}
		// Rounding: values between halves, ties and the edges, against the portable twin.
		rng := rand.New(rand.NewPCG(9, 10))
		in, a, b := make([]float32, 4099), make([]uint16, 4099), make([]uint16, 4099)
		for i := range in {
			in[i] = math.Float32frombits(rng.Uint32())
			if i%2 == 0 {
				in[i] = want[rng.IntN(1<<15)] * (1 + float32(rng.IntN(5)-2)*0x1p-12)
			}
		}
		copy(in, []float32{65519.99, 65520, 65504, 0x1p-24, 0x1p-25, 0x1.8p-25, 0x1p-14, 0x1.ffep-15, 0x1.fffp-15})
		F32ToF16(a, in)
		floatToHalfPortable(b, in)
		require.Equal(t, b, a)
	})
}

func BenchmarkRows(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 4096
	x, y, z := randomVector(rng, n), randomVector(rng, n), make([]float32, n)
	for _, s := range ISAs() {
		for name, f := range map[string]func(){
			"dot": func() { Dot(x, y) }, "silugate": func() { SiLUGate(z, x, y) }, "softmax": func() { Softmax(z, x, 1) },
			"gelu": func() { GELU(z, x) }, "rmsnorm": func() { RMSNorm(z, x, y, 1e-5) }, "axpy": func() { Axpy(1e-9, x, z) },
		} {
			b.Run(fmt.Sprintf("%s/%v", name, s), func(b *testing.B) {
				before, _ := ForceISA(s)
				defer ForceISA(before)
				for b.Loop() {
					f()
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/element")
			})
		}
	}
}
