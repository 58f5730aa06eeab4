package linalg

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGram: products of 256 rows at a time in float32, so (256+calls)*2^-24 of the sum of
// magnitudes for float64 accumulators.
func TestGram(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(11, 12))
		for _, c := range []struct{ n, k int }{{1, 1}, {7, 33}, {300, 7}, {33, 200}, {520, 401}} {
			ld := c.k + 3
			x := randomVector(rng, c.n*ld)
			var first []float64
			for _, threads := range []int{1, 2, 5} {
				h, h32 := make([]float64, c.k*c.k), make([]float32, c.k*c.k)
				for range 2 {
					Gram(NewPool(threads), h, x, c.n, c.k, ld)
				}
				Gram(NewPool(threads), h32, x, c.n, c.k, ld)
				if first == nil {
					first = h
					for i := range c.k {
						for j := range c.k {
							var s, abs float64
							for r := range c.n {
								v := float64(x[r*ld+i]) * float64(x[r*ld+j])
								s, abs = s+v, abs+math.Abs(v)
							}
							require.InDelta(t, 2*s, h[i*c.k+j], 2*260*0x1p-24*abs, "%+v h[%d,%d]", c, i, j)
							require.InDelta(t, s, float64(h32[i*c.k+j]), 260*0x1p-24*abs, "%+v h[%d,%d]", c, i, j)
							require.Equal(t, h[i*c.k+j], h[j*c.k+i])
						}
					}
				}
				require.Equal(t, first, h)
			}
		}
	})
}

// positive makes a well-conditioned symmetric matrix G G^T / n + I.
func positive(rng *rand.Rand, n int) []float64 {
	g, a := make([]float64, n*n), make([]float64, n*n)
	for i := range g {
		g[i] = rng.NormFloat64()
	}
	for i := range n {
		a[i*n+i] = 1
	}
	Gemm64(nil, false, true, n, n, n, 1/float64(n), g, n, g, n, 1, a, n)
	return a
}

// TestCholesky checks L L^T = A, the inverse factor U^T U A = I and solves, over sizes
// around the block; eigenvalues lie in 1..5, so errors stay near n * 1e-16.
func TestCholesky(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(13, 14))
		for _, n := range []int{1, 2, 7, 63, 64, 65, 130, 333} {
			a := positive(rng, n)
			var first []float64
			for _, threads := range []int{1, 2, 5} {
				p := NewPool(threads)
				l := append([]float64(nil), a...)
				require.NoError(t, Cholesky(p, l, n))
				if first == nil {
					first = l
				}
				require.Equal(t, first, l, "%d threads", threads)
			}
			for i := range n {
				for j := range n {
					if j > i {
						require.Zero(t, first[i*n+j])
					}
					var s float64
					for q := range min(i, j) + 1 {
						s += first[i*n+q] * first[j*n+q]
					}
					require.InDelta(t, a[i*n+j], s, 1e-13)
				}
			}
			p := NewPool(2)
			u, err := InverseFactor(p, a, n)
			require.NoError(t, err)
			for i := range n {
				for j := range i {
					require.Zero(t, u[i*n+j], "U is upper")
				}
			}
			inv, unit := make([]float64, n*n), make([]float64, n*n)
			Gemm64(p, true, false, n, n, n, 1, u, n, u, n, 0, inv, n)
			Gemm64(p, false, false, n, n, n, 1, inv, n, a, n, 0, unit, n)
			for i := range n {
				for j := range n {
					want := 0.0
					if i == j {
						want = 1
					}
					require.InDelta(t, want, unit[i*n+j], 1e-12, "n %d", n)
				}
			}
			const m = 5
			x, b := make([]float64, m*n), make([]float64, m*n)
			for i := range x {
				x[i] = rng.NormFloat64()
			}
			Gemm64(nil, false, false, m, n, n, 1, x, n, a, n, 0, b, n)
			CholeskySolve(p, first, n, b, m)
			require.InDeltaSlice(t, x, b, 1e-12)
		}
	})
}

func TestCholeskyNotPositive(t *testing.T) {
	for name, spoil := range map[string]func(a []float64, n int){
		"negative": func(a []float64, n int) { a[100*n+100] = -5 },
		"zero":     func(a []float64, n int) { clear(a[100*n : 101*n]); clearColumn(a, n, 100) },
		"nan":      func(a []float64, n int) { a[100*n+100] = math.NaN() },
		"infinite": func(a []float64, n int) { a[100*n+100] = math.Inf(1) },
	} {
		t.Run(name, func(t *testing.T) {
			const n = 150
			a := positive(rand.New(rand.NewPCG(1, 1)), n)
			spoil(a, n)
			err := Cholesky(nil, a, n)
			require.ErrorIs(t, err, ErrNotPositive)
			require.ErrorContains(t, err, "pivot 100")
		})
	}
}

func clearColumn(a []float64, n, j int) {
	for i := range n {
		a[i*n+j] = 0
	}
}

func BenchmarkCholesky1536(b *testing.B) {
	const n = 1536
	a := positive(rand.New(rand.NewPCG(1, 1)), n)
	p := NewPool(2)
	l := make([]float64, n*n)
	b.Run("cholesky", func(b *testing.B) {
		for b.Loop() {
			copy(l, a)
			_ = Cholesky(p, l, n)
		}
	})
	b.Run("inverseFactor", func(b *testing.B) {
		for b.Loop() {
			_, _ = InverseFactor(p, a, n)
		}
	})
	b.Run("gram2048rows", func(b *testing.B) {
		x := randomVector(rand.New(rand.NewPCG(1, 1)), 2048*n)
		for b.Loop() {
			Gram(p, l, x, 2048, n, n)
		}
	})
}
