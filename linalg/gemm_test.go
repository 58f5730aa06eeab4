package linalg

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// eachISA runs f under every family of kernels that the machine has.
func eachISA(t *testing.T, f func(t *testing.T)) {
	for _, s := range ISAs() {
		t.Run(s.String(), func(t *testing.T) {
			before, err := ForceISA(s)
			require.NoError(t, err)
			defer ForceISA(before)
			f(t)
		})
	}
}

func randomVector(rng *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	return x
}

// gemmCase is a product with strides wider than the rows.
type gemmCase struct {
	m, n, k        int
	transA, transB bool
	alpha, beta    float32
}

// reference computes the product in float64 and with it the sum of |a||b|, which
// bounds the rounding error.
func (g gemmCase) reference(a []float32, lda int, b []float32, ldb int, c []float32, ldc int) (want, bound []float64) {
	want, bound = make([]float64, g.m*g.n), make([]float64, g.m*g.n)
	for i := range g.m {
		for j := range g.n {
			var s, abs float64
			for p := range g.k {
				x, y := i*lda+p, p*ldb+j
				if g.transA {
					x = p*lda + i
				}
				if g.transB {
					y = j*ldb + p
				}
				v := float64(a[x]) * float64(b[y])
				s += v
				abs += math.Abs(v)
			}
			s *= float64(g.alpha)
			abs *= math.Abs(float64(g.alpha))
			if g.beta != 0 {
				s += float64(g.beta) * float64(c[i*ldc+j])
				abs += math.Abs(float64(g.beta) * float64(c[i*ldc+j]))
			}
			want[i*g.n+j], bound[i*g.n+j] = s, abs
		}
	}
	return want, bound
}

func gemmCases() []gemmCase {
	var out []gemmCase
	sizes := []int{1, 7, 8, 16, 33, 50, 97}
	i := 0
	for _, m := range sizes {
		for _, n := range sizes {
			for _, k := range []int{0, 1, 7, 33, 260} {
				g := gemmCase{m: m, n: n, k: k, transA: i%2 == 1, transB: i%4 >= 2, alpha: 1}
				switch i % 3 {
				case 1:
					g.beta = 1
				case 2:
					g.alpha, g.beta = 0.5, -2
				}
				out = append(out, g)
				i++
			}
		}
	}
	// Several blocks of columns and of depth, and strides of whole pages.
	return append(out,
		gemmCase{m: 19, n: 1030, k: 519, transB: true, alpha: 1},
		gemmCase{m: 260, n: 49, k: 512, alpha: 1, beta: 1},
		gemmCase{m: 0, n: 5, k: 5, alpha: 1}, gemmCase{m: 5, n: 0, k: 5, alpha: 1})
}

// TestGemm compares every kernel with a float64 sum. Tolerance: a chain of k fused
// multiply-adds errs by at most k*2^-24 of the sum of |a||b|; the bound (k+3)*2^-24
// leaves room for alpha and beta.
func TestGemm(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(1, 2))
		for _, g := range gemmCases() {
			ra, ca := g.m, g.k
			if g.transA {
				ra, ca = ca, ra
			}
			rb, cb := g.k, g.n
			if g.transB {
				rb, cb = cb, rb
			}
			lda, ldb, ldc := ca+3, cb+5, g.n+2
			if g.k == 512 {
				lda = 512
			}
			a, b, c := randomVector(rng, ra*lda+8), randomVector(rng, rb*ldb+8), randomVector(rng, g.m*ldc+8)
			if g.beta == 0 {
				c[0] = float32(math.NaN()) // must not be read
			}
			want, bound := g.reference(a, lda, b, ldb, c, ldc)
			var first []float32
			for _, threads := range []int{1, 2, 3, 7} {
				got := append([]float32(nil), c...)
				Gemm(NewPool(threads), g.transA, g.transB, g.m, g.n, g.k, g.alpha, a, lda, b, ldb, g.beta, got, ldc)
				for i := range g.m {
					for j := range g.n {
						at := i*g.n + j
						if d := math.Abs(float64(got[i*ldc+j]) - want[at]); !(d <= float64(g.k+3)*0x1p-24*bound[at]) {
							t.Fatalf("%+v: c[%d,%d]: want %g, got %g", g, i, j, want[at], got[i*ldc+j])
						}
					}
				}
				for i := range got {
					if i%ldc >= g.n || i/ldc >= g.m {
						require.Equal(t, math.Float32bits(c[i]), math.Float32bits(got[i]), "%+v: wrote outside C at %d", g, i)
					}
				}
				if first == nil {
					first = got
				}
				require.Equal(t, bits(first), bits(got), "%+v: %d threads", g, threads)
			}
		}
	})
}

// TestGemmPacked: weights packed before, read through a function or kept in half precision
// give the bits of Gemm on the same values; the epilogue sees every element once.
func TestGemmPacked(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(3, 4))
		for _, d := range [][3]int{{1, 1, 1}, {7, 33, 50}, {33, 100, 300}, {9, 1000, 257}, {130, 49, 1}, {5, 48, 0}, {9, 16, 40}, {9, 64, 40}, {5, 8, 300}} {
			m, n, k := d[0], d[1], d[2]
			half := make([]uint16, n*k)
			w := randomVector(rng, n*k)
			F32ToF16(half, w)
			F16ToF32(w, half)
			a := randomVector(rng, m*k)
			want := make([]float32, m*n)
			Gemm(nil, false, true, m, n, k, 1, a, k, w, k, 0, want, n)
			transposed := make([]float32, n*k)
			for j := range n {
				for i := range k {
					transposed[i*n+j] = w[j*k+i]
				}
			}
			for i, v := range want {
				want[i] = v + float32(i%n)
			}
			bias := func(row, col int, c []float32) {
				for j := range c {
					c[j] += float32(col + j)
				}
			}
			read := func(dst []float32, row, k0 int) { copy(dst, w[row*k+k0:]) }
			p := NewPool(3)
			for name, b := range map[string]*Packed{
				"transposed": PackB(p, true, n, k, w, k), "plain": PackB(p, false, n, k, transposed, n),
				"rows": PackRows(p, n, k, read), "half": PackF16(p, n, k, half, k),
			} {
				got := make([]float32, m*n)
				GemmPacked(p, false, m, 1, a, k, b, 0, got, n, bias)
				require.Equal(t, bits(want), bits(got), "%s %v", name, d)
			}
			got := make([]float32, m*n)
			GemmRows(p, m, n, k, a, k, read, got, n, bias)
			require.Equal(t, bits(want), bits(got), "GemmRows %v", d)
		}
	})
}

// TestGemm64 is TestGemm's short form in float64.
func TestGemm64(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(5, 6))
		for i, d := range [][3]int{{1, 1, 1}, {7, 33, 50}, {33, 100, 300}, {9, 600, 257}, {130, 23, 1}, {64, 64, 512}, {20, 8, 20}, {9, 5, 33}, {17, 16, 7}} {
			m, n, k := d[0], d[1], d[2]
			random := func(n int) []float64 {
				x := make([]float64, n)
				for i := range x {
					x[i] = rng.NormFloat64()
				}
				return x
			}
			a, b, c := random(m*k), random(k*n), random(m*n)
			transA, transB := i%2 == 1, i%3 == 1
			lda, ldb := k, n
			if transA {
				lda = m
			}
			if transB {
				ldb = k
			}
			got := append([]float64(nil), c...)
			Gemm64(NewPool(2), transA, transB, m, n, k, 0.5, a, lda, b, ldb, -1, got, n)
			for i := range m {
				for j := range n {
					s, abs := -c[i*n+j], math.Abs(c[i*n+j])
					for p := range k {
						x, y := i*lda+p, p*ldb+j
						if transA {
							x = p*lda + i
						}
						if transB {
							y = j*ldb + p
						}
						s, abs = s+0.5*a[x]*b[y], abs+math.Abs(a[x]*b[y])
					}
					// Both sums round, hence twice k*2^-53.
					require.InDelta(t, s, got[i*n+j], 2*float64(k+3)*0x1p-53*abs, "%v c[%d,%d]", d, i, j)
				}
			}
		}
	})
}

func bits(x []float32) []uint32 {
	out := make([]uint32, len(x))
	for i, v := range x {
		out[i] = math.Float32bits(v)
	}
	return out
}

func BenchmarkGemm(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	const n, k = 4096, 4096
	w := randomVector(rng, n*k)
	for _, s := range ISAs()[1:] {
		for _, m := range []int{128, 512} {
			x, y := randomVector(rng, m*k), make([]float32, m*n)
			for _, threads := range []int{1, 2} {
				p := NewPool(threads)
				b.Run(fmt.Sprintf("%v/m%d/t%d", s, m, threads), func(b *testing.B) {
					before, _ := ForceISA(s)
					defer ForceISA(before)
					for b.Loop() {
						Gemm(p, false, true, m, n, k, 1, x, k, w, k, 0, y, n)
					}
					b.ReportMetric(2*float64(m)*n*k*float64(b.N)/b.Elapsed().Seconds()/1e9, "GF/s")
				})
			}
		}
	}
}
