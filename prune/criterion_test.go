package prune

import (
	"context"
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// criteriaGolden is testdata/criteria.json, which testdata/criteria.py wrote with PyTorch.
type criteriaGolden struct {
	Names   []string
	Weights [][]float32
	X       []float32
	Y       []int32
	SNIP    [][]float64 `json:"snip"`
	Taylor  [][]float64 `json:"taylor"`
	Fisher  [][]float64 `json:"fisher"`
	Move    [][]float64 `json:"movement"`
	LAMP    [][]float64 `json:"lamp"`
	Std     [][]float64 `json:"std"`
	LAMP60  []int       `json:"lamp_60"`
	SNIP60  []int       `json:"snip_60"`
}

// goldenNet is the network of criteria.py: conv 1->3 3x3, ReLU, max pool 2, 12->7, ReLU, 7->4.
func goldenNet(t testing.TB, threads int) (*train.Net, *train.Items, criteriaGolden) {
	raw, err := os.ReadFile("testdata/criteria.json")
	require.NoError(t, err)
	var g criteriaGolden
	require.NoError(t, json.Unmarshal(raw, &g))
	weight := func(i int, shape ...int) *model.Weight {
		rows, cols := shape[0], len(g.Weights[i])/shape[0]
		if len(shape) == 1 {
			rows, cols = 1, shape[0]
		}
		return &model.Weight{Name: g.Names[i], Shape: shape, Data: sparse.NewDense(rows, cols, g.Weights[i])}
	}
	w := []*model.Weight{weight(0, 3, 1, 3, 3), weight(1, 3), weight(2, 7, 12), weight(3, 7), weight(4, 4, 7), weight(5, 4)}
	in, c, p := model.Image{C: 1, H: 6, W: 6}, model.Image{C: 3, H: 4, W: 4}, model.Image{C: 3, H: 2, W: 2}
	gr := &model.Graph{Name: "golden", Weights: w, Inputs: []model.ValueID{0}, Outputs: []model.ValueID{6}}
	for _, width := range []int{36, 48, 48, 12, 7, 7, 4} {
		gr.Values = append(gr.Values, model.Value{Width: width})
	}
	gr.Nodes = []*model.Node{
		{Op: model.OpConv, Name: "conv", In: []model.ValueID{0}, Out: 1, Weight: w[0], Bias: w[1], Attr: model.Conv{In: in, Out: c, KernelH: 3, KernelW: 3, StrideH: 1, StrideW: 1, Groups: 1}},
		{Op: model.OpReLU, Name: "relu1", In: []model.ValueID{1}, Out: 2},
		{Op: model.OpMaxPool, Name: "pool", In: []model.ValueID{2}, Out: 3, Attr: model.Pool{In: c, Out: p, KernelH: 2, KernelW: 2, StrideH: 2, StrideW: 2}},
		{Op: model.OpLinear, Name: "fc1", In: []model.ValueID{3}, Out: 4, Weight: w[2], Bias: w[3]},
		{Op: model.OpReLU, Name: "relu2", In: []model.ValueID{4}, Out: 5},
		{Op: model.OpLinear, Name: "fc2", In: []model.ValueID{5}, Out: 6, Weight: w[4], Bias: w[5]},
	}
	n, err := train.New(gr, linalg.NewPool(threads))
	require.NoError(t, err)
	return n, &train.Items{Width: 36, X: g.X, Y: g.Y}, g
}

func ranked(t testing.TB, n *train.Net, c Criterion) [][]float32 {
	targets := n.Prunable()
	scores := make([][]float32, len(targets))
	for i, p := range targets {
		scores[i] = make([]float32, len(p.W))
	}
	require.NoError(t, c.rank(context.Background(), n, targets, scores))
	return scores
}

// TestCriteriaGolden: scores equal PyTorch's in float64 to 2e-5 of the largest of their matrix (the
// gradients here are float32), at any number of threads, and the network is left as it was.
func TestCriteriaGolden(t *testing.T) {
	for _, threads := range []int{1, 3} {
		n, data, g := goldenNet(t, threads)
		all := Samples{Data: data, Batches: 1, Batch: 40}
		each := Samples{Data: data, Batches: 40, Batch: 1}
		before := n.Snapshot()
		for _, c := range []struct {
			c    Criterion
			want [][]float64
		}{
			{SNIP{all}, g.SNIP}, {SNIP{Samples{Data: data, Batches: 4, Batch: 10, Seed: 3}}, g.SNIP},
			{Taylor{each}, g.Taylor}, {Fisher{Samples{Data: data, Batches: 4, Batch: 10}}, g.Fisher},
			{Movement{Samples: all, Warm: 5, Rate: 0.05}, g.Move}, {LAMP{}, g.LAMP}, {MagnitudeStd{}, g.Std},
		} {
			got := ranked(t, n, c.c)
			require.Len(t, got, 3)
			for m := range got {
				var top float64
				for _, x := range c.want[m] {
					top = math.Max(top, math.Abs(x))
				}
				require.Greater(t, top, 0.0)
				for i, x := range c.want[m] {
					require.InDelta(t, x, float64(got[m][i]), 2e-5*top, "%s, matrix %d, weight %d", c.c.Name(), m, i)
				}
			}
			require.Equal(t, before, n.Snapshot(), c.c.Name())
		}
		for _, c := range []struct {
			c    Criterion
			want []int
		}{{LAMP{}, g.LAMP60}, {SNIP{all}, g.SNIP60}} {
			targets := n.Prunable()
			masks, err := cutMasks(targets, ranked(t, n, c.c), Unstructured{Sparsity: 0.6, Scope: ScopeGlobal}, nil)
			require.NoError(t, err)
			var gone []int
			at := 0
			for m, p := range targets {
				for i := range p.W {
					if !masks[m].Kept(i/p.Cols, i%p.Cols) {
						gone = append(gone, at)
					}
					at++
				}
			}
			require.Equal(t, c.want, gone, c.c.Name())
		}
	}
}

func TestLAMPByHand(t *testing.T) {
	s := make([]float32, 4)
	lamp(s, []float32{1, -2, 3, 0})
	require.Equal(t, []float32{1. / 14, 4. / 13, 1, 0}, s)
	lamp(s, []float32{0, 0, 0, 0})
	require.Equal(t, []float32{0, 0, 0, 0}, s)
	lamp(s, []float32{2, 2, 1, 1}) // of equal weights the later one counts as the larger
	require.Equal(t, []float32{4. / 8, 1, 1. / 10, 1. / 9}, s)
}

// TestLAMPMethod: as a method for files the scores of all matrices share one budget, so that every
// matrix gets a sparsity of its own, and a scaled matrix the same one.
func TestLAMPMethod(t *testing.T) {
	g := randomGraph(t, tinyConfig(), 4)
	w, err := g.Weight("model.layers.0.mlp.up_proj.weight")
	require.NoError(t, err)
	f, err := sparse.Read(w.Data)
	require.NoError(t, err)
	for i := range f {
		f[i] *= 1000
	}
	rows, cols := w.Data.Dims()
	w.Data = sparse.NewDense(rows, cols, f)
	rep, err := Run(context.Background(), g, LAMP{}, Unstructured{Sparsity: 0.6}, Options{Store: Store{DType: sparse.F32}})
	require.NoError(t, err)
	require.InDelta(t, 0.6, rep.Sparsity, 1e-3)
	sizes := map[float64]bool{}
	for _, l := range rep.Layers {
		sizes[l.Sparsity] = true
		require.InDelta(t, 0.6, l.Sparsity, 0.25, l.Name) // magnitude/global would spare all of the scaled one
	}
	require.Greater(t, len(sizes), 3)
	_, err = Verify(g, rep.Recipe)
	require.NoError(t, err)
	_, err = Run(context.Background(), g, LAMP{}, Block{Rows: 2, Cols: 2, Sparsity: 0.5}, Options{})
	require.ErrorIs(t, err, ErrMethod)
}

// TestRandomCriterion prunes the same weights as the method for files.
func TestRandomCriterion(t *testing.T) {
	n, _, _ := goldenNet(t, 1)
	p := n.Prunable()[1]
	masks, err := cutMasks(n.Prunable(), ranked(t, n, Random{Seed: 9}), Unstructured{Sparsity: 0.5, Scope: ScopeLayer}, nil)
	require.NoError(t, err)
	keys := make([]uint32, len(p.W))
	Random{Seed: 9}.score(keys, p.W, p.Name)
	want, err := maskOf(keys, p.Rows, p.Cols, Unstructured{Sparsity: 0.5, Scope: ScopeLayer})
	require.NoError(t, err)
	require.Equal(t, want.Bits, masks[1].Bits)
}

// TestCutMasks: exact budgets, the smallest go, what is masked stays masked whatever its score.
func TestCutMasks(t *testing.T) {
	n, _, _ := goldenNet(t, 1)
	targets := n.Prunable() // 27, 84 and 28 weights
	rng := rand.New(rand.NewPCG(1, 2))
	for _, signed := range []bool{false, true} {
		scores := make([][]float32, len(targets))
		for i, p := range targets {
			for range p.W {
				x := rng.Float32()
				if signed {
					x -= 0.5
				}
				scores[i] = append(scores[i], x)
			}
		}
		first, err := cutMasks(targets, scores, Unstructured{Sparsity: 0.3, Scope: ScopeLayer}, nil)
		require.NoError(t, err)
		require.NoError(t, setMasks(targets, first))
		// Scores turned round: the first ones would now be the last to go.
		for i := range scores {
			for j := range scores[i] {
				scores[i][j] = 1 - scores[i][j]
			}
		}
		for _, c := range []struct {
			p     Pattern
			rates []float64
			want  []int // pruned; nil: in all
			all   int
		}{
			{Unstructured{Sparsity: 0.7, Scope: ScopeLayer}, nil, []int{18, 58, 19}, 95},
			{Unstructured{Sparsity: 0.7, Scope: ScopeGlobal}, nil, nil, 97},
			{Unstructured{Sparsity: 0.1, Scope: ScopeGlobal}, []float64{0.3, 0.5, 1}, []int{8, 42, 28}, 78},
			{NM{Keep: 1, Of: 3}, nil, []int{18, 56, 16}, 90}, // a tail of one column stays
		} {
			masks, err := cutMasks(targets, scores, c.p, c.rates)
			require.NoError(t, err)
			sum := 0
			for i, m := range masks {
				gone := len(targets[i].W) - m.Count()
				sum += gone
				if c.want != nil {
					require.Equal(t, c.want[i], gone, "%v %v matrix %d", c.p, c.rates, i)
				}
				if _, nm := c.p.(NM); nm {
					continue // the pattern decides within each group
				}
				var top, low float32 = -9, 9
				for j := range targets[i].W {
					r, col := j/targets[i].Cols, j%targets[i].Cols
					if !first[i].Kept(r, col) {
						require.False(t, m.Kept(r, col), "%v: a pruned weight returned", c.p)
						continue
					}
					if m.Kept(r, col) {
						low = min(low, scores[i][j])
					} else {
						top = max(top, scores[i][j])
					}
				}
				if c.want != nil {
					require.LessOrEqual(t, top, low, "%v matrix %d", c.p, i)
				}
			}
			require.Equal(t, c.all, sum, "%v %v", c.p, c.rates)
		}
		require.NoError(t, setMasks(targets, make([]*sparse.Mask, len(targets))))
	}
	_, err := cutMasks(targets, ranked(t, n, Magnitude{}), Unstructured{Sparsity: 0.5, Scope: "planet"}, nil)
	require.ErrorIs(t, err, ErrPattern)
	bad := ranked(t, n, Magnitude{})
	bad[1][5] = float32(math.NaN())
	_, err = cutMasks(targets, bad, Unstructured{Sparsity: 0.5, Scope: ScopeGlobal}, nil)
	require.ErrorIs(t, err, ErrWeight)
	bad[1][5] = -1
	_, err = cutMasks(targets, bad, Block{Rows: 2, Cols: 2, Sparsity: 0.5}, nil)
	require.ErrorIs(t, err, ErrMethod)
}

// TestCriteriaErrors: no data, and a network that is nothing but NaN.
func TestCriteriaErrors(t *testing.T) {
	n, data, _ := goldenNet(t, 1)
	targets := n.Prunable()
	scores := ranked(t, n, Magnitude{})
	for _, c := range []Criterion{SNIP{}, Taylor{}, Fisher{}, NewMovement(Samples{}), SNIP{Samples{Data: data, Batches: -1}}} {
		require.ErrorIs(t, c.rank(context.Background(), n, targets, scores), ErrCalib, c.Name())
	}
	targets[0].W[0] = float32(math.NaN())
	for _, c := range []Criterion{SNIP{Samples{Data: data}}, Fisher{Samples{Data: data}}, NewMovement(Samples{Data: data})} {
		require.ErrorIs(t, c.rank(context.Background(), n, targets, scores), train.ErrNaN, c.Name())
	}
}

// TestSchedules against values worked out by hand.
func TestSchedules(t *testing.T) {
	for _, c := range []struct {
		s         Schedule
		t, s0, s1 float64
		want      float64
	}{
		{OneShot, 0, 0, 0.9, 0.9}, {"", 0.5, 0, 0.9, 0.9},
		{Linear, 0, 0.1, 0.9, 0.1}, {Linear, 0.25, 0.1, 0.9, 0.3}, {Linear, 2, 0.1, 0.9, 0.9},
		{Cubic, 0, 0.1, 0.9, 0.1}, {Cubic, 0.5, 0.1, 0.9, 0.8}, {Cubic, 0.9, 0, 1, 0.999}, {Cubic, 1, 0, 0.95, 0.95},
		{Exponential, 0.5, 0, 0.99, 0.9}, {Exponential, 0.5, 0.5, 0.995, 0.95}, {Exponential, 1, 0, 1, 1}, {Exponential, -1, 0.2, 0.9, 0.2},
	} {
		require.InDelta(t, c.want, c.s.At(c.t, c.s0, c.s1), 1e-12, "%s at %g", c.s, c.t)
	}
	require.InDeltaSlice(t, []float64{0.2, 0.36, 0.488, 0.5904, 0.6}, Rounds.Levels(0, 0.6, 0), 1e-12)
	require.InDeltaSlice(t, []float64{0.2}, Rounds.Levels(0, 0.2, 0), 1e-12)
	require.InDeltaSlice(t, []float64{0.6, 0.68, 0.744, 0.75}, Rounds.Levels(0.5, 0.75, 0), 1e-12)
	require.InDeltaSlice(t, []float64{0.3, 0.6, 0.9}, Linear.Levels(0, 0.9, 3), 1e-12)
	require.InDeltaSlice(t, []float64{0.9, 0.99, 0.999}, Exponential.Levels(0, 0.999, 3), 1e-12)
	require.InDeltaSlice(t, []float64{0.7}, OneShot.Levels(0, 0.7, 5), 1e-12)
	for _, s := range []Schedule{OneShot, Linear, Cubic, Exponential, Rounds} {
		p, err := ParseSchedule(string(s))
		require.NoError(t, err)
		require.Equal(t, s, p)
		last := 0.0
		for i := range 101 {
			x := s.At(float64(i)/100, 0, 0.97)
			require.GreaterOrEqual(t, x, last)
			last = x
		}
		require.Equal(t, 0.97, last)
	}
	_, err := ParseSchedule("steps")
	require.ErrorIs(t, err, ErrMethod)
}
