package simdriver

import (
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/cuda"
	"github.com/sparserun/sparserun/cuda/ptxsim"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/backendtest"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// open makes a backend on a simulated device with the PTX that nvcc emitted.
func open(t testing.TB, cfg ptxsim.Config) (*cuda.Backend, *Driver) {
	t.Helper()
	path := filepath.Join(testenv.Root(), "cuda", "build", "kernels_80.ptx")
	ptx, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("no PTX (make cuda-ptx): %v", err)
	}
	if cfg.Major == 0 {
		cfg.Major, cfg.Minor = 8, 0
	}
	d := Open(cfg)
	b, err := cuda.New(func() (cuda.Driver, error) { return d, nil }, []cuda.Image{{PTX: ptx, MinCC: 80}})
	require.NoError(t, err)
	t.Cleanup(func() { b.Close() })
	return b, d
}

func stories(t testing.TB, pruned bool) *model.Graph {
	t.Helper()
	g, err := loader.Open(filepath.Dir(testenv.Data(t, "stories260K/config.json")))
	require.NoError(t, err)
	t.Cleanup(func() { g.Close() })
	if pruned {
		_, err = prune.Run(context.Background(), g, prune.Magnitude{}, prune.Pattern24, prune.Options{Store: prune.Store{DType: sparse.F32}})
		require.NoError(t, err)
	}
	return g
}

func greedy(t testing.TB, g *model.Graph, b runtime.Backend, o runtime.Options, n int) (*runtime.Result, *runtime.Counters) {
	t.Helper()
	s, err := runtime.New(g, b, runtime.WithOptions(o))
	require.NoError(t, err)
	defer s.Close()
	r, err := s.Generate(context.Background(), "Once upon a time", runtime.GenerateOptions{MaxTokens: n})
	require.NoError(t, err)
	return r, s.Counters()
}

// TestStoriesLikeCPU: the kernels' PTX, executed, writes the CPU's greedy text,
// dense and 2:4, in float32.
func TestStoriesLikeCPU(t *testing.T) {
	b, _ := open(t, ptxsim.Config{Seed: 1})
	host := cpu.New()
	defer host.Close()
	for _, pruned := range []bool{false, true} {
		g := stories(t, pruned)
		o := runtime.Options{DType: sparse.F32, Context: 128, Chunk: 16}
		if pruned {
			o.Sparse, o.Layout = runtime.SparseForce, sparse.LayoutNM24
		}
		want, _ := greedy(t, g, host, o, 16)
		got, c := greedy(t, g, b, o, 16)
		require.Equal(t, want.Tokens, got.Tokens, "2:4 %v", pruned)
		require.Equal(t, want.Text, got.Text)
		require.Positive(t, c.Memory.Device)
		layout := sparse.LayoutDense
		if pruned {
			layout = sparse.LayoutNM24
		}
		require.Positive(t, c.Ops[runtime.OpKey{Op: model.OpLinear, Layout: layout, Phase: runtime.Decode}].Calls)
	}
}

// logitsOf runs tokens in one sequence and returns all logits.
func logitsOf(t testing.TB, g *model.Graph, b runtime.Backend, o runtime.Options, ids []int32) []float32 {
	t.Helper()
	s, err := runtime.New(g, b, runtime.WithOptions(o))
	require.NoError(t, err)
	defer s.Close()
	q := s.NewSequence()
	defer q.Close()
	var out []float32
	require.NoError(t, q.ExtendAll(context.Background(), ids, func(_ int, l []float32) error {
		out = append(out, l...)
		return nil
	}))
	return out
}

// rounded gives the graph's Linears, and an embedding that shares its weight with one,
// the weights as a type and layout store them, so that a float32 run multiplies exactly
// what the device multiplies.
func rounded(t testing.TB, g *model.Graph, c sparse.DType, l sparse.Layout) *model.Graph {
	t.Helper()
	group := 0
	if c == sparse.Int4 {
		group = 64
	}
	stored := map[*model.Weight]*model.Weight{}
	for _, n := range g.Nodes {
		if n.Op != model.OpLinear || stored[n.Weight] != nil {
			continue
		}
		layout := l
		if cnt, err := sparse.CountZeros(n.Weight.Data); err != nil || !cnt.Hold24 {
			layout = sparse.LayoutDense
		}
		m, err := sparse.Pack(n.Weight.Data, layout, c, group)
		require.NoError(t, err)
		w := *n.Weight
		w.Data = m
		stored[n.Weight] = &w
	}
	for _, n := range g.Nodes {
		if w := stored[n.Weight]; w != nil {
			n.Weight = w
		}
	}
	return g
}

// TestLogitsLikeCPU runs a prompt long enough for the tensor-core kernels and
// compares every logit with the CPU's in float32, of the same stored weights.
// Activations are float16 on the device: 11 bits, through 5 layers; bf16 and int8
// products round them to 8. The bounds are shares of the largest logit.
func TestLogitsLikeCPU(t *testing.T) {
	b, _ := open(t, ptxsim.Config{Seed: 2})
	host := cpu.New()
	defer host.Close()
	ids := []int32{1, 403, 407, 261, 378, 432, 383, 286, 261, 376, 298, 315, 421, 395, 317, 426, 338, 401, 396, 267}
	for _, c := range []struct {
		t      sparse.DType
		layout sparse.Layout
		bound  float64
	}{
		{sparse.F32, sparse.LayoutCSR, 1e-4}, {sparse.F16, sparse.LayoutDense, 0.01}, {sparse.F16, sparse.LayoutNM24, 0.01},
		{sparse.F16, sparse.LayoutCSR, 0.01}, {sparse.F16, sparse.LayoutBitmask, 0.01},
		{sparse.BF16, sparse.LayoutDense, 0.04}, {sparse.BF16, sparse.LayoutNM24, 0.04}, {sparse.BF16, sparse.LayoutBitmask, 0.04},
		{sparse.Int8, sparse.LayoutDense, 0.05}, {sparse.Int8, sparse.LayoutNM24, 0.05}, {sparse.Int8, sparse.LayoutCSR, 0.02},
		{sparse.Int4, sparse.LayoutDense, 0.02}, {sparse.Int4, sparse.LayoutNM24, 0.02},
	} {
		t.Run(c.t.String()+"/"+c.layout.String(), func(t *testing.T) {
			o := runtime.Options{DType: c.t, Context: 64, Chunk: 20, Select: 20, Sparse: runtime.SparseOff}
			if c.layout != sparse.LayoutDense {
				o.Sparse, o.Layout = runtime.SparseForce, c.layout
			}
			g := stories(t, c.layout != sparse.LayoutDense)
			got, rows := logitsOf(t, g, b, o, ids), logitsOf(t, g, b.RowMajor(), o, ids)
			ref := o
			ref.DType, ref.Sparse = sparse.F32, runtime.SparseOff
			want := logitsOf(t, rounded(t, g, c.t, c.layout), host, ref, ids)
			near(t, "tiles", want, got, c.bound)
			near(t, "row-major", want, rows, c.bound)
		})
	}
}

// near holds logits to a share of the largest one.
func near(t testing.TB, what string, want, got []float32, bound float64) {
	t.Helper()
	require.Len(t, got, len(want))
	var diff, top float64
	for i := range want {
		diff = max(diff, math.Abs(float64(want[i]-got[i])))
		top = max(top, math.Abs(float64(want[i])))
	}
	t.Logf("%s: largest difference %.4f of logits up to %.1f", what, diff, top)
	require.LessOrEqual(t, diff, bound*top, what)
}

// TestFaults: every driver answer becomes this package's typed error, memory comes
// back, and a lost context says so.
func TestFaults(t *testing.T) {
	g := stories(t, false)
	o := runtime.WithOptions(runtime.Options{Context: 64, Chunk: 4})
	for _, c := range []struct {
		call string
		n    int
		res  ptxsim.Result
		want error
	}{
		{"cuMemAlloc", 1, ptxsim.ErrOutOfMemory, cuda.ErrOutOfMemory},
		{"cuMemAlloc", 20, ptxsim.ErrOutOfMemory, cuda.ErrOutOfMemory},
		{"cuMemcpyHtoD", 5, 700, cuda.ErrLost},
		{"cuLaunchKernel", 3, 719, cuda.ErrLost},
		{"cuLaunchKernel", 30, 702, cuda.ErrLost},
		{"cuMemcpyDtoH", 1, 714, cuda.ErrLost},
	} {
		b, d := open(t, ptxsim.Config{})
		d.Device.FailOn(c.call, c.n, c.res)
		s, err := runtime.New(g, b, o)
		if err == nil {
			_, err = s.GenerateTokens(context.Background(), []int32{1, 2, 3, 4, 5, 6}, runtime.GenerateOptions{MaxTokens: 3})
			_ = s.Close()
		}
		require.ErrorIs(t, err, c.want, "%s call %d", c.call, c.n)
		var de *cuda.DriverError
		require.ErrorAs(t, err, &de)
		if c.want == cuda.ErrOutOfMemory {
			_, _, _, allocations := d.Device.MemInfo()
			require.Zero(t, allocations, "a failed Compile gives its memory back")
		}
	}
	_, err := cuda.New(func() (cuda.Driver, error) { return Open(ptxsim.Config{Major: 7, Minor: 5}), nil }, []cuda.Image{{MinCC: 80}})
	require.ErrorIs(t, err, cuda.ErrArch)
}

// TestBadInput: no number of a batch reaches a kernel unchecked.
func TestBadInput(t *testing.T) {
	b, _ := open(t, ptxsim.Config{})
	g := stories(t, false)
	var prog runtime.Program
	s, err := runtime.New(g, grab{b, &prog}, runtime.WithOptions(runtime.Options{Context: 64, Chunk: 4, Select: 2}))
	require.NoError(t, err)
	defer s.Close()
	col := func(v ...int32) runtime.View { return runtime.View{Rows: len(v), Cols: 1, I32: v} }
	good := func() []runtime.View {
		return []runtime.View{col(5), col(0), col(0), {Rows: 1, Cols: 1, I32: []int32{1}}, col(0)}
	}
	out := []runtime.View{{Rows: 1, Cols: 512, F32: make([]float32, 512)}}
	require.NoError(t, prog.Run(context.Background(), good(), out, nil))
	for name, spoil := range map[string]func(v []runtime.View){
		"token":      func(v []runtime.View) { v[model.InTokens] = col(512) },
		"negative":   func(v []runtime.View) { v[model.InTokens] = col(-1) },
		"position":   func(v []runtime.View) { v[model.InPos] = col(32) },
		"sequence":   func(v []runtime.View) { v[model.InSeq] = col(1) },
		"page":       func(v []runtime.View) { v[model.InTables].I32[0] = 2 },
		"table":      func(v []runtime.View) { v[model.InTables].Cols = 2 },
		"select":     func(v []runtime.View) { v[model.InSelect] = col(1) },
		"rows":       func(v []runtime.View) { v[model.InTokens] = col(1, 2, 3, 4, 5) },
		"no rows":    func(v []runtime.View) { v[model.InTokens] = col() },
		"fewer":      func(v []runtime.View) { v[model.InPos] = col() },
		"selections": func(v []runtime.View) { v[model.InSelect] = col(0, 0, 0) },
	} {
		v := good()
		spoil(v)
		err := prog.Run(context.Background(), v, out, nil)
		require.Error(t, err, name)
		require.True(t, errors.Is(err, runtime.ErrShape) || errors.Is(err, runtime.ErrInput) || errors.Is(err, runtime.ErrContext), "%s: %v", name, err)
	}
	require.NoError(t, prog.Run(context.Background(), good(), out, nil))
}

// grab hands out the program that a session compiles.
type grab struct {
	runtime.Backend
	p *runtime.Program
}

func (g grab) Compile(p *runtime.Plan) (runtime.Program, error) {
	prog, err := g.Backend.Compile(p)
	*g.p = prog
	return prog, err
}

// TestConformance holds the backend to what every backend must do.
func TestConformance(t *testing.T) {
	b, _ := open(t, ptxsim.Config{Seed: 3})
	backendtest.Run(t, func() runtime.Backend { return keep{b} }, conform...)
}

// conform is what the device promises: float16 activations, rounded once more where
// bf16 is multiplied; int8 weights have one scale a row.
var conform = []backendtest.Option{
	backendtest.ActRounding(1.0 / 2048),
	backendtest.KernelRounding(func(k runtime.Kernel) float64 {
		if k.Weight == sparse.BF16 {
			return 1.0 / 256
		}
		return 0
	}),
	backendtest.Groups(func(k runtime.Kernel, g int) bool { return k.Weight != sparse.Int8 || g == 0 }),
}

// keep is a backend that outlives its Close: loading the PTX takes a second.
type keep struct{ *cuda.Backend }

func (keep) Close() error { return nil }
