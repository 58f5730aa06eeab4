package prune

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

func denseOf(l *layer) sparse.Matrix { return sparse.NewDense(l.rows, l.cols, l.w) }

// randomCalib draws token ids.
func randomCalib(vocab, windows, length int) Calib {
	rng := rand.New(rand.NewPCG(11, 12))
	c := Calib{}
	for range windows {
		w := make([]int32, length)
		for i := range w {
			w[i] = int32(rng.IntN(vocab))
		}
		c.Windows = append(c.Windows, w)
	}
	return c
}

// calibratedMethods are all methods that look at data, ready to run.
func calibratedMethods(c Calib) []Method {
	return []Method{Wanda{Calib: c}, DSnoT{Calib: c}, Wanda{Calib: c, Variant: true}, RIA{Calib: c}, SparseGPT{Calib: c}, ALPS{Calib: c}, Best{Calib: c},
		Resolved{Of: Magnitude{}, Calib: c}, Resolved{Of: SparseGPT{Calib: c}, Calib: c}}
}

func TestCalibratedRunsAreTheSameAtAnyThreadCount(t *testing.T) {
	cfg := tinyConfig()
	c := randomCalib(cfg.Vocab, 7, 30)
	for _, m := range calibratedMethods(c) {
		for _, p := range []Pattern{Pattern24, NM{4, 8}, Unstructured{Sparsity: 0.5}} {
			if m.check(p) != nil {
				continue
			}
			var first map[string]string
			var weights map[string][]float32
			for _, threads := range []int{1, 2, 5} {
				g := randomGraph(t, cfg, 1)
				o := f32
				o.Threads = threads
				rep, err := Run(context.Background(), g, m, p, o)
				require.NoError(t, err, "%s %v", m.Name(), p)
				if first == nil {
					first, weights = rep.Recipe, readAll(t, g)
				}
				require.Equal(t, first, rep.Recipe)
				require.Equal(t, weights, readAll(t, g))
				_, err = Verify(g, rep.Recipe)
				require.NoError(t, err, "%s %v", m.Name(), p)
				require.InDelta(t, p.Target(), rep.Sparsity, 0.01)
				require.Equal(t, 210, rep.Calibration.Tokens)
				for _, l := range rep.Layers {
					require.Greater(t, l.Error, 0.0, l.Name)
					require.Less(t, l.Error, 1.0, l.Name)
				}
			}
		}
	}
}

func TestCalibratedKeepsZeros(t *testing.T) {
	cfg := tinyConfig()
	for _, m := range calibratedMethods(randomCalib(cfg.Vocab, 4, 30)) {
		g := randomGraph(t, cfg, 1)
		_, err := Run(context.Background(), g, Magnitude{}, Unstructured{Sparsity: 0.3}, f32)
		require.NoError(t, err)
		zero := readAll(t, g)
		o := f32
		o.KeepZeros = true
		_, err = Run(context.Background(), g, m, Unstructured{Sparsity: 0.5}, o)
		require.NoError(t, err)
		for name, f := range readAll(t, g) {
			for i, x := range f {
				if zero[name][i] == 0 {
					require.Zero(t, x, "%s %s %d", m.Name(), name, i)
				}
			}
		}
	}
}

func TestCalibWindows(t *testing.T) {
	ids := make([]int32, 100)
	for i := range ids {
		ids[i] = int32(i)
	}
	c, err := CalibWindows(ids, 30, 3, 0)
	require.NoError(t, err)
	require.Equal(t, int32(60), c.Windows[2][0])
	a, err := CalibWindows(ids, 30, 8, 5)
	require.NoError(t, err)
	b, _ := CalibWindows(ids, 30, 8, 5)
	require.Equal(t, a, b)
	for _, w := range a.Windows {
		require.Len(t, w, 30)
		require.Equal(t, w[0]+29, w[29])
	}
	for _, bad := range [][2]int{{30, 4}, {101, 1}, {0, 1}, {10, 0}} {
		_, err = CalibWindows(ids, bad[0], bad[1], 0)
		require.ErrorIs(t, err, ErrCalib)
	}
	for _, c := range []Calib{{}, {Windows: [][]int32{{}}}, {Windows: [][]int32{{1, 2}, {1}}}, {Windows: [][]int32{{1, 23}}}, {Windows: [][]int32{{-1, 2}}}} {
		_, err = c.describe(23)
		require.ErrorIs(t, err, ErrCalib)
	}
	one, _ := Calib{Windows: [][]int32{{1, 2}}}.describe(23)
	two, _ := Calib{Windows: [][]int32{{2, 1}}}.describe(23)
	require.NotEqual(t, one.SHA256, two.SHA256)
}

func TestCalibratedRefuses(t *testing.T) {
	cfg := tinyConfig()
	c := randomCalib(cfg.Vocab, 2, 30)
	long := randomCalib(cfg.Vocab, 1, 65) // context is 64
	_, err := Apply(randomGraph(t, cfg, 1), Wanda{Calib: long}, Pattern24)
	require.ErrorIs(t, err, ErrCalib)
	_, err = Apply(randomGraph(t, cfg, 1), Wanda{}, Pattern24)
	require.ErrorIs(t, err, ErrCalib)
	_, err = Apply(&model.Graph{Weights: randomGraph(t, cfg, 1).Weights, Nodes: randomGraph(t, cfg, 1).Nodes}, Wanda{Calib: c}, Pattern24)
	require.Error(t, err)
	_, err = Apply(randomGraph(t, cfg, 1), SparseGPT{Calib: c}, Unstructured{0.5, ScopeGlobal})
	require.ErrorIs(t, err, ErrMethod)
	for _, scope := range []Scope{ScopeRow, ScopeLayer} { // alpha holds neither exactly, as verify would find
		_, err = Apply(randomGraph(t, cfg, 1), Wanda{Calib: c, Variant: true}, Unstructured{0.5, scope})
		require.ErrorIs(t, err, ErrMethod)
	}
	g := randomGraph(t, cfg, 1)
	_, err = Run(context.Background(), g, Wanda{Calib: c}, Pattern24, Options{Include: []string{"model.embed_tokens.*"}})
	require.ErrorIs(t, err, ErrTarget)
	ctx, cancel := context.WithCancel(context.Background())
	o := Options{Progress: func(done, _ int, _ LayerReport) {
		if done == 3 {
			cancel()
		}
	}}
	_, err = Run(ctx, randomGraph(t, cfg, 1), SparseGPT{Calib: c}, Pattern24, o)
	require.ErrorIs(t, err, context.Canceled)
}

// The executor's dense pass must see what the pruned pass of earlier blocks put out.
func TestLaterBlocksSeePrunedInputs(t *testing.T) {
	cfg := tinyConfig()
	c := randomCalib(cfg.Vocab, 4, 30)
	masks := func(include []string) string {
		g := randomGraph(t, cfg, 1)
		o := f32
		o.Include = include
		rep, err := Run(context.Background(), g, SparseGPT{Calib: c}, Unstructured{Sparsity: 0.7}, o)
		require.NoError(t, err)
		return rep.Recipe["prune.mask.model.layers.1.mlp.down_proj.weight"]
	}
	require.NotEqual(t, masks([]string{"*.layers.*"}), masks([]string{"*.layers.1.*"}))
}
