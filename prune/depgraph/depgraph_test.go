package depgraph

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/train"
)

// outputs runs a graph on rows of noise, the same for graphs of equal inputs.
func outputs(t *testing.T, g *model.Graph, rows int) []float32 {
	t.Helper()
	s, err := runtime.New(g, cpu.New(cpu.Threads(2)), runtime.WithOptions(runtime.Options{DType: sparse.F32, Sparse: runtime.SparseOff, Chunk: rows}))
	require.NoError(t, err)
	defer s.Close()
	shape := append([]int{}, g.Values[g.Inputs[0]].Shape...)
	n := 1
	for i, d := range shape {
		if d < 0 {
			shape[i] = rows
		}
		n *= shape[i]
	}
	rng := rand.New(rand.NewPCG(11, 1))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	y, err := s.RunFloats(context.Background(), x, shape...)
	require.NoError(t, err)
	return y
}

// close holds two outputs together: sums run in another order where terms are missing, and every
// layer rounds to 2^-24 of its largest term; 20 layers and sums of thousands leave 1e-4.
func closeTo(t *testing.T, want, got []float32, what string) {
	t.Helper()
	require.Len(t, got, len(want), what)
	top := 0.0
	for _, v := range want {
		top = math.Max(top, math.Abs(float64(v)))
	}
	require.NotZero(t, top, what)
	for i := range want {
		require.InDelta(t, want[i], got[i], 1e-4*top, "%s: output %d", what, i)
	}
}

// check prunes a graph and compares the small network, through a file, with the masked dense one.
func check(t *testing.T, g *model.Graph, o Options, rows int) Report {
	t.Helper()
	what := fmt.Sprintf("%s %+v", g.Name, o.Score)
	before := outputs(t, g, rows)
	p, err := New(g, o)
	require.NoError(t, err, what)
	small, err := p.Small()
	require.NoError(t, err)
	masked, err := p.Masked()
	require.NoError(t, err)
	require.Equal(t, before, outputs(t, g, rows), "the graph itself is as it was")
	r := p.Report()
	require.Positive(t, r.Removed, what)
	require.Equal(t, r.MACs[1], MACs(small), what)
	require.Less(t, r.Parameters[1], r.Parameters[0])
	require.Equal(t, r.Parameters[1], parameters(small, nil))
	closeTo(t, outputs(t, masked, rows), outputs(t, small, rows), what)
	path := filepath.Join(t.TempDir(), "small.onnx")
	require.NoError(t, loader.Save(small, path, loader.SaveOptions{}))
	again, err := loader.Open(path)
	require.NoError(t, err)
	defer again.Close()
	closeTo(t, outputs(t, masked, rows), outputs(t, again, rows), what+", from its file")
	require.Equal(t, r.MACs[1], MACs(again))
	return r
}

func open(t *testing.T, name string) *model.Graph {
	g, err := loader.Open(testenv.Data(t, name))
	require.NoError(t, err)
	t.Cleanup(func() { g.Close() })
	return g
}

func plain(t *testing.T, g *model.Graph) *model.Graph {
	tg, err := train.Tensors(g)
	require.NoError(t, err)
	return tg
}

// TestReal: networks as they are in the field, by every score.
func TestReal(t *testing.T) {
	mlp, err := train.MLP(3, 20, 33, 17, 5)
	require.NoError(t, err)
	for _, c := range []struct {
		g    *model.Graph
		rows int
	}{
		{plain(t, mlp), 7}, {plain(t, train.LeNet5(1)), 3}, {plain(t, train.ResNet20(1)), 2},
		{open(t, "lenet/lenet5_original.onnx"), 3}, {open(t, "resnet/resnet20.onnx"), 2}, {open(t, "onnx/mnist.onnx"), 1},
	} {
		for _, s := range Scores {
			if s == Taylor {
				continue // TestTaylor
			}
			t.Run(fmt.Sprint(c.g.Name, "/", s), func(t *testing.T) {
				r := check(t, c.g, Options{Ratio: 0.3, Score: s, Seed: 5}, c.rows)
				require.InDelta(t, 0.3, float64(r.Removed)/float64(r.Units), 0.04)
			})
		}
		t.Run(fmt.Sprint(c.g.Name, "/global"), func(t *testing.T) { check(t, c.g, Options{Ratio: 0.4, Scope: Global}, c.rows) })
	}
}

// TestSqueezeNet: concatenations all the way, pruned weights, a global average behind a convolution.
func TestSqueezeNet(t *testing.T) {
	g := open(t, "squeezenet/squeezenet_deepcompression.onnx")
	r := check(t, g, Options{Ratio: 0.25, RoundTo: 8}, 1)
	for _, x := range r.Groups {
		require.Zero(t, x.Kept%8, "%v", x)
	}
}

// TestGroups: what belongs together in ResNet-20 with padded shortcuts: the first stage's 16 channels are
// channels 8..23 of the second's and 24..39 of the third's; inner channels are on their own.
func TestGroups(t *testing.T) {
	p, err := New(open(t, "resnet/resnet20.onnx"), Options{})
	require.NoError(t, err)
	sizes := map[int]int{}
	for _, g := range p.groups {
		sizes[len(g.units)]++
	}
	// 16 of all stages, 16 of the last two, 32 of the last; inner 16, 32, 64 of three blocks each.
	require.Equal(t, map[int]int{16: 5, 32: 4, 64: 3}, sizes)

	p, err = New(plain(t, train.LeNet5(1)), Options{})
	require.NoError(t, err)
	require.Len(t, p.groups, 3) // conv1 20, conv2 50 with 16 columns of fc1 each, fc1 500
	require.Len(t, p.groups[1].units, 50)
	for _, m := range p.groups[1].units[0].members {
		if s := p.t.spans[m.span]; s.w != nil && s.w.Name == "fc1.weight" {
			require.Len(t, m.at, 16)
		}
	}
}

// TestFLOPs: the share of multiply-adds is reached, and not by much more than a unit of rounding.
func TestFLOPs(t *testing.T) {
	g := open(t, "resnet/resnet20.onnx")
	require.Equal(t, int64(40551040), MACs(g)) // 40.55 M: by hand 442368 + 6*2359296 + 1179648 + 5*2359296 + 1179648 + 5*2359296 + 640 (and no shortcut has weights)
	for _, scope := range []Scope{Local, Global} {
		for _, round := range []int{1, 8} {
			r := check(t, g, Options{Ratio: 0.3, FLOPs: true, Scope: scope, RoundTo: round}, 1)
			cut := 1 - float64(r.MACs[1])/float64(r.MACs[0])
			require.GreaterOrEqual(t, cut, 0.3)
			require.Less(t, cut, 0.3+0.01*float64(round))
		}
	}
	_, err := New(g, Options{Ratio: 0.999999, FLOPs: true})
	require.ErrorIs(t, err, ErrOption)
}

// TestTaylor: the score is |sum of w*g| over rows and columns, with train's gradients.
func TestTaylor(t *testing.T) {
	mlp, err := train.MLP(3, 6, 9, 4)
	require.NoError(t, err)
	g := plain(t, mlp)
	n, err := train.New(g, linalg.NewPool(1))
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(2, 2))
	b := &train.Batch{Rows: 5, X: make([]float32, 30), Targets: []int32{0, 1, 2, 3, 0}}
	for i := range b.X {
		b.X[i] = float32(rng.NormFloat64())
	}
	_, err = n.Gradients(b, train.CrossEntropy{})
	require.NoError(t, err)
	grads := map[string][]float32{}
	for _, p := range n.Params {
		grads[p.Name] = p.Grad
	}
	p, err := New(g, Options{Ratio: 0.34, Score: Taylor, Gradients: grads})
	require.NoError(t, err)
	w1, w2 := n.Param("fc1.weight"), n.Param("fc2.weight")
	rows, cols := make([]float64, 9), make([]float64, 9)
	var meanR, meanC float64
	for u := range 9 {
		for i := range 6 {
			rows[u] += float64(w1.W[u*6+i] * w1.Grad[u*6+i])
		}
		for o := range 4 {
			cols[u] += float64(w2.W[o*9+u] * w2.Grad[o*9+u])
		}
		rows[u], cols[u] = math.Abs(rows[u]), math.Abs(cols[u])
		meanR, meanC = meanR+rows[u]/9, meanC+cols[u]/9
	}
	for _, u := range p.groups[0].units {
		at := u.members[0].at[0]
		require.InDelta(t, (rows[at]/meanR+cols[at]/meanC)/2, u.score, 1e-6)
	}
	_, err = New(g, Options{Ratio: 0.3, Score: Taylor})
	require.ErrorIs(t, err, ErrOption)
}

// TestMedian: the unit nearest to the others goes first.
func TestMedian(t *testing.T) {
	d := distances([][]float32{{0, 0}, {3, 4}, {0, 1}})
	require.InDeltaSlice(t, []float64{6, 5 + math.Sqrt(18), 1 + math.Sqrt(18)}, d, 1e-5)
}

func TestIgnoreAndErrors(t *testing.T) {
	g := plain(t, train.LeNet5(1))
	p, err := New(g, Options{Ratio: 0.5, Ignore: []string{"conv*"}})
	require.NoError(t, err)
	require.Len(t, p.groups, 1)
	for _, o := range []Options{{Ratio: 1}, {Ratio: -0.1}, {RoundTo: -1}, {Score: "best"}, {Scope: "row"}, {Ignore: []string{"nothing"}}, {Ignore: []string{"["}}} {
		_, err := New(g, o)
		require.ErrorIs(t, err, ErrOption, "%+v", o)
	}
	_, err = New(train.LeNet5(1), Options{})
	require.ErrorIs(t, err, ErrGraph)
	one, err := train.MLP(1, 4, 3)
	require.NoError(t, err)
	_, err = New(plain(t, one), Options{Ratio: 0.5})
	require.ErrorIs(t, err, ErrGraph)
	require.Contains(t, err.Error(), "output of the network")
}

// TestBlocks: the seven blocks of ResNet-20 that keep their shape can go; what is left computes what
// the network does with those branches at zero.
func TestBlocks(t *testing.T) {
	g := open(t, "resnet/resnet20.onnx")
	require.Len(t, Blocks(g), 7)
	small, names, err := DropBlocks(g, 3, nil)
	require.NoError(t, err)
	require.Len(t, names, 3)
	require.InDelta(t, 0.35, 1-float64(MACs(small))/float64(MACs(g)), 0.01)
	// The same by zeroing each branch's batch norm.
	gone := map[string]bool{}
	for _, n := range names {
		gone[n] = true
	}
	masked := clone(g)
	masked.Values, masked.Nodes, masked.Weights = g.Values, g.Nodes, g.Weights
	for v, c := range g.Constants {
		masked.Constants[v] = c
	}
	for _, b := range blocks(g) {
		if !gone[b.add.Name] {
			continue
		}
		last := b.branch[len(b.branch)-1]
		require.Equal(t, model.OpBatchNorm, last.Op)
		for _, v := range last.In[1:3] {
			masked.Constants[v] = model.F32Tensor(make([]float32, g.Constants[v].Len()), g.Constants[v].Shape...)
		}
	}
	closeTo(t, outputs(t, masked, 2), outputs(t, small, 2), "blocks")
	_, _, err = DropBlocks(g, 8, nil)
	require.ErrorIs(t, err, ErrOption)
}
