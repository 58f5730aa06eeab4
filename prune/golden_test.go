package prune

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
)

// golden is testdata/golden.json, made by golden.py with numpy in float64.
type golden struct {
	Rows, Cols, Tokens, Block int
	W, X                      []float32
	Want                      map[string][]float64
}

func readGolden(t testing.TB) golden {
	t.Helper()
	b, err := os.ReadFile("testdata/golden.json")
	require.NoError(t, err)
	var g golden
	require.NoError(t, json.Unmarshal(b, &g))
	return g
}

// layerOf is a layer with the Gram matrix of inputs x.
func layerOf(t testing.TB, w, x []float32, rows, cols int, p Pattern, threads int) *layer {
	t.Helper()
	pool := linalg.NewPool(threads)
	g := newGram(cols, true)
	g.add(pool, x, len(x)/cols)
	return &layer{name: "w", rows: rows, cols: cols, w: append([]float32(nil), w...), gram: g, pattern: p, pool: pool, log: t.Logf}
}

// sameWeights compares masks exactly and weights within tol of the largest.
func sameWeights(t *testing.T, want []float64, got []float32, tol float64) {
	t.Helper()
	var top float64
	for _, v := range want {
		top = max(top, math.Abs(v))
	}
	for i, v := range want {
		require.Equal(t, v == 0, got[i] == 0, "mask at %d: want %v, got %v", i, v, got[i])
		require.InDelta(t, v, float64(got[i]), tol*top, "weight %d", i)
	}
}

func TestMethodsEqualNumpy(t *testing.T) {
	g := readGolden(t)
	for name, want := range g.Want {
		method, pattern, _ := strings.Cut(name, " ")
		p, err := ParsePattern(pattern)
		require.NoError(t, err)
		var m calibrated
		switch method {
		case "sparsegpt":
			m = SparseGPT{Block: g.Block}
		case "wanda":
			m = Wanda{}
		case "wanda-alpha":
			m = Wanda{Variant: true}
		case "ria":
			m = RIA{}
		case "dsnot":
			m = DSnoT{}
		default:
			continue
		}
		p = resolveScope(p, m.scope())
		for _, threads := range []int{1, 3} {
			l := layerOf(t, g.W, g.X, g.Rows, g.Cols, p, threads)
			if !m.needsGram() {
				l.gram = newGram(g.Cols, false)
				l.gram.add(l.pool, g.X, g.Tokens)
			}
			l.gram.window = 8
			require.NoError(t, m.solve(context.Background(), l), name)
			// Single precision against double over 44 dependent steps.
			sameWeights(t, want, l.w, 2e-5)
		}
	}
}

func TestResolveEqualsDirectSolve(t *testing.T) {
	g := readGolden(t)
	l := layerOf(t, g.W, g.X, g.Rows, g.Cols, Pattern24, 2)
	l.keep = make([]bool, len(l.w))
	for i, v := range g.Want["sparsegpt 2:4"] {
		l.keep[i] = v != 0
	}
	require.NoError(t, l.resolve(context.Background(), g.W, 0.01*l.gram.meanDiag(), 60))
	sameWeights(t, g.Want["resolve 2:4"], l.w, 1e-4) // conjugate gradients stop at a residual of 1e-5
}

// randomLayer has correlated inputs of very different sizes.
func randomLayer(t testing.TB, seed uint64, rows, cols, tokens int, p Pattern) *layer {
	rng := rand.New(rand.NewPCG(seed, 9))
	normal := func(n int) []float32 {
		f := make([]float32, n)
		for i := range f {
			f[i] = float32(rng.NormFloat64())
		}
		return f
	}
	mix, z := normal(cols*cols), normal(tokens*cols)
	x := make([]float32, tokens*cols)
	for i := range cols {
		mix[i*cols+i] += 3
		s := float32(math.Exp(rng.NormFloat64()))
		for j := range cols {
			mix[j*cols+i] *= s
		}
	}
	linalg.Gemm(nil, false, false, tokens, cols, cols, 1, z, cols, mix, cols, 0, x, cols)
	return layerOf(t, normal(rows*cols), x, rows, cols, p, 2)
}

// The updates must pay: SparseGPT loses less output than zeroing the same
// weights, and solving again loses less than SparseGPT.
func TestUpdatesReduceTheOutputError(t *testing.T) {
	for seed := range uint64(3) {
		for _, p := range []Pattern{Pattern24, NM{4, 8}, NM{1, 4}, Unstructured{Sparsity: 0.5}, Unstructured{Sparsity: 0.8}} {
			l := randomLayer(t, seed, 19, 172, 400, p)
			before := append([]float32(nil), l.w...)
			require.NoError(t, SparseGPT{}.solve(context.Background(), l))
			require.NoError(t, checkHeld(l))
			updated := l.error

			solved := append([]float32(nil), l.w...)
			l.keep = make([]bool, len(l.w))
			for i, v := range l.w {
				if l.keep[i] = v != 0; v != 0 {
					l.w[i] = before[i]
				}
			}
			require.Less(t, updated, l.outputError(before), "%v seed %d: zeroing alone", p, seed)
			copy(l.w, solved)
			require.NoError(t, l.resolve(context.Background(), before, 0, 100))
			again := l.outputError(before)
			require.Less(t, again, updated, "%v seed %d: solving again", p, seed)

			copy(l.w, before)
			l.pattern = resolveScope(p, ScopeLayer)
			require.NoError(t, ALPS{}.solve(context.Background(), l))
			require.NoError(t, checkHeld(l))
			require.Less(t, l.error, again, "%v seed %d: ALPS", p, seed)
		}
	}
}

// checkHeld checks the pattern on the weights of a layer.
func checkHeld(l *layer) error { return Holds(denseOf(l), l.pattern) }

// U_ii^2 is the corner of the inverse of the trailing Gram matrix: the optimal
// brain surgeon's denominator, not its square root (sparsegpt issue 43).
func TestFactorDiagonalIsTheSurgeonsDenominator(t *testing.T) {
	const d = 24
	l := randomLayer(t, 1, 3, d, 100, Pattern24)
	f, err := l.gram.factorise(l.pool, 0.01, l.log)
	require.NoError(t, err)
	for i := range d {
		n := d - i
		a := make([]float64, n*n)
		for r := range n {
			for c := range n {
				a[r*n+c] = float64(l.gram.h[(i+r)*d+i+c])
			}
			a[r*n+r] += f.ridge
		}
		require.NoError(t, linalg.Cholesky(nil, a, n))
		e := make([]float64, n)
		e[0] = 1
		linalg.CholeskySolve(nil, a, n, e, 1)
		u := float64(f.u[i*d+i])
		require.InEpsilon(t, e[0], u*u, 1e-5)
	}
}

// A Gram matrix without full rank is damped more, and the log says so.
func TestDampingEscalates(t *testing.T) {
	const d = 40
	rng := rand.New(rand.NewPCG(1, 1))
	x := make([]float32, 3*d) // rank 3
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	l := layerOf(t, make([]float32, 2*d), x, 2, d, Pattern24, 1)
	for i := range l.gram.h {
		l.gram.h[i] *= 1 + 1e-3*float32(rng.NormFloat64()) // and not quite a Gram matrix
	}
	var lines []string
	log := func(format string, args ...any) { lines = append(lines, format) }
	f, err := l.gram.factorise(nil, 1e-7, log)
	require.NoError(t, err)
	require.Greater(t, f.damping, 1e-7)
	require.NotEmpty(t, lines)

	for i := range l.gram.h {
		l.gram.h[i] = float32(math.NaN())
	}
	l.gram.factor = nil
	_, err = l.gram.factorise(nil, 1, log)
	require.ErrorIs(t, err, ErrCalib)
}
