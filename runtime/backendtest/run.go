// Package backendtest is the conformance suite that every backend passes: each
// kernel it claims to have, over odd shapes, batches and densities, against
// references in float64 that share no code with any backend.
package backendtest

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// Option adapts the suite to a backend.
type Option func(*suite)

// ActRounding tells that the backend rounds float activations to u times their size
// (2^-11 for half precision); 0 for float32.
func ActRounding(u float64) Option { return func(s *suite) { s.round = u } }

// KernelRounding is ActRounding for Linears whose kernels round activations further:
// the unit for each kernel (2^-8 for bf16).
func KernelRounding(of func(k runtime.Kernel) float64) Option {
	return func(s *suite) { s.kernelRound = of }
}

// roundOf is the rounding of a Linear's activations.
func (s *suite) roundOf(k runtime.Kernel) float64 {
	if s.kernelRound != nil {
		return max(s.round, s.kernelRound(k))
	}
	return s.round
}

// Groups tells which columns per scale the backend takes for quantised weights (0:
// the whole row); without it, all.
func Groups(ok func(k runtime.Kernel, group int) bool) Option {
	return func(s *suite) { s.groups = ok }
}

// suite is one run of all tests.
type suite struct {
	new    func() runtime.Backend
	round  float64
	groups func(k runtime.Kernel, group int) bool
	// kernelRound is nil where all Linears round alike.
	kernelRound func(k runtime.Kernel) float64
}

// Run tests the backends that open makes; each test opens and closes its own.
func Run(t *testing.T, open func() runtime.Backend, opts ...Option) {
	s := &suite{new: open}
	for _, o := range opts {
		o(s)
	}
	b := open()
	name := b.Name()
	if m, ok := b.(runtime.Timer); ok {
		name = m.Machine()
	}
	t.Logf("backend: %s", name)
	require.NoError(t, b.Close())
	t.Run("Linear", s.linear)
	t.Run("Mixed", s.mixed)
	t.Run("Embedding", s.embedding)
	t.Run("Rows", s.rows)
	t.Run("Attention", s.attention)
	t.Run("Inputs", s.inputs)
	t.Run("Lifetime", s.lifetime)
}

// rng is seeded by the case's name, so that a failure repeats.
func rng(name string) *rand.Rand {
	var h uint64 = 14695981039346656037
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(h, 1))
}

func normal(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// program compiles a plan on a fresh backend.
func (s *suite) program(t *testing.T, p *runtime.Plan) runtime.Program {
	t.Helper()
	b := s.new()
	prog, err := b.Compile(p)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, prog.Close())
		require.NoError(t, b.Close())
	})
	return prog
}

// floats is a float32 view.
func floats(rows, cols int, x []float32) runtime.View {
	return runtime.View{Rows: rows, Cols: cols, F32: x}
}

// ints is an int32 view of one column.
func ints(x ...int32) runtime.View { return runtime.View{Rows: len(x), Cols: 1, I32: x} }

// run runs one batch with counters and returns the only output.
func run(t *testing.T, p runtime.Program, rows, cols int, in ...runtime.View) []float32 {
	t.Helper()
	out := make([]float32, rows*cols)
	for i := range out {
		out[i] = float32(math.NaN()) // what is not written shows
	}
	var c runtime.Counters
	require.NoError(t, p.Run(context.Background(), in, []runtime.View{floats(rows, cols, out)}, &c))
	require.NotEmpty(t, c.Ops)
	return out
}

// tiny is what a few roundings of half precision may be off by where numbers are
// subnormal, half a unit of 2^-24 each.
const tiny = 4.0 / (1 << 25)

// equal holds got to want within the bound of each number.
func equal(t *testing.T, name string, got []float32, want, bound []float64) {
	t.Helper()
	require.Len(t, got, len(want), name)
	for i, w := range want {
		if d := math.Abs(float64(got[i]) - w); !(d <= bound[i]) {
			t.Fatalf("%s: [%d]: want %g, got %g, differs by %.3g, allowed %.3g", name, i, w, got[i], d, bound[i])
		}
	}
}

// has lists the Linear kernels that the backend claims.
func (s *suite) has() []runtime.Kernel {
	b := s.new()
	defer b.Close()
	var out []runtime.Kernel
	for _, l := range sparse.Layouts {
		for _, w := range []sparse.DType{sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.Int4} {
			for _, a := range []sparse.DType{sparse.F32, sparse.Int8} {
				if k := (runtime.Kernel{Op: model.OpLinear, Layout: l, Weight: w, Act: a}); b.Has(k) {
					out = append(out, k)
				}
			}
		}
	}
	return out
}

func name(parts ...any) string { return fmt.Sprint(parts...) }
