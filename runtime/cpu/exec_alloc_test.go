package cpu_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// compiled hands out the Program of a session's plan, below the session.
func compiled(t testing.TB, g *model.Graph, b *cpu.Backend, o runtime.Options) (runtime.Program, *runtime.Plan) {
	s, err := runtime.New(g, b, runtime.WithOptions(o), runtime.WithTableDir("off"))
	require.NoError(t, err)
	require.NoError(t, s.Close())
	p, err := b.Compile(s.Plan())
	require.NoError(t, err)
	return p, s.Plan()
}

// TestDecodeAllocates holds a decode step of a whole model to zero allocations, with
// and without counters, in every type.
func TestDecodeAllocates(t *testing.T) {
	dir := testenv.Data(t, "stories260K/config.json")
	eachISA(t, func(t *testing.T) {
		for _, dtype := range []sparse.DType{sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.Int4} {
			for _, threads := range []int{1, 3} {
				g, err := loader.Open(dir[:len(dir)-len("/config.json")])
				require.NoError(t, err)
				b := cpu.New(cpu.Threads(threads))
				p, _ := compiled(t, g, b, runtime.Options{DType: dtype, Context: 512})
				table := make([]int32, 16)
				for i := range table {
					table[i] = int32(15 - i)
				}
				logits := make([]float32, 512)
				tok, pos, seq, sel := []int32{403}, []int32{0}, []int32{0}, []int32{0}
				in := []runtime.View{{Rows: 1, Cols: 1, I32: tok}, {Rows: 1, Cols: 1, I32: pos}, {Rows: 1, Cols: 1, I32: seq}, {Rows: 1, Cols: 16, I32: table}, {Rows: 1, Cols: 1, I32: sel}}
				out := []runtime.View{{Rows: 1, Cols: 512, F32: logits}}
				var c runtime.Counters
				for _, counters := range []*runtime.Counters{nil, &c} {
					pos[0] = 0
					n := testing.AllocsPerRun(200, func() {
						if err := p.Run(context.Background(), in, out, counters); err != nil {
							t.Fatal(err)
						}
						pos[0]++
					})
					require.Zero(t, n, "%v, %d threads", dtype, threads)
				}
				require.NoError(t, p.Close())
				require.NoError(t, b.Close())
				require.NoError(t, g.Close())
			}
		}
	})
}

// TestLinearAllocates holds every Linear kernel to zero allocations, once its scratch
// memory is there.
func TestLinearAllocates(t *testing.T) {
	const rows, cols = 100, 172
	w := make([]float32, rows*cols)
	for i := range w {
		if i%4 < 2 { // holds 2:4
			w[i] = float32(i%17) - 8
		}
	}
	eachISA(t, func(t *testing.T) {
		b := cpu.New(cpu.Threads(2))
		defer b.Close()
		for _, layout := range sparse.Layouts {
			for _, dtype := range []sparse.DType{sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.Int4} {
				act := sparse.F32
				if dtype.Quantised() {
					act = sparse.Int8
				}
				k := runtime.Kernel{Op: model.OpLinear, Layout: layout, Weight: dtype, Act: act}
				l, err := b.Linear(sparse.NewDense(rows, cols, w), k, 0, 130)
				require.NoError(t, err)
				for _, batch := range []int{1, 3, 64, 130} {
					x := make([]float32, batch*cols)
					l.Run(x)
					require.Zero(t, testing.AllocsPerRun(20, func() { l.Run(x) }), "%v, batch %d", k, batch)
				}
				l.Close()
			}
		}
	})
}
