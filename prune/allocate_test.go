package prune

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLevels(t *testing.T) {
	got := levels([]float64{0, 1, 0.5}, []float64{1, 1, 1}, 0.7, 0.08)
	require.InDeltaSlice(t, []float64{0.78, 0.62, 0.70}, got, 1e-12)
	got = levels([]float64{3, 3}, []float64{5, 1}, 0.7, 0.08) // nothing to tell them apart
	require.InDeltaSlice(t, []float64{0.7, 0.7}, got, 1e-12)
	got = levels([]float64{0, 1}, []float64{3, 1}, 0.5, 0.1) // the mean is over weights
	require.InDelta(t, 0.5, (3*got[0]+got[1])/4, 1e-12)
}

func TestAllocatedRuns(t *testing.T) {
	cfg := tinyConfig()
	cfg.Layers = 3
	c := randomCalib(cfg.Vocab, 4, 30)
	for _, a := range []Allocation{OWL{}, OWL{M: 3, Lambda: 0.2}, Sensitivity{}, Sensitivity{Windows: 9, Lambda: 0.1}} {
		var first map[string]string
		for _, threads := range []int{1, 3} {
			g := randomGraph(t, cfg, 1)
			o := f32
			o.Allocate, o.Threads = a, threads
			rep, err := Run(context.Background(), g, Wanda{Calib: c}, Unstructured{0.6, ScopeLayer}, o)
			require.NoError(t, err)
			require.InDelta(t, 0.6, rep.Sparsity, 0.003)
			lo, hi := 1.0, 0.0
			for _, l := range rep.Layers {
				lo, hi = min(lo, l.Sparsity), max(hi, l.Sparsity)
			}
			if a.Name() == "owl" { // pruning a model of noise may not hurt at all
				require.InDelta(t, 2*a.span(), hi-lo, 0.006) // of 200 weights none is counted half
			}
			require.Less(t, hi-lo, 2*a.span()+0.006, a.Name())
			_, err = Verify(g, rep.Recipe)
			require.NoError(t, err)
			if first == nil {
				first = rep.Recipe
			}
			require.Equal(t, first, rep.Recipe)
		}
	}
	g := randomGraph(t, cfg, 1)
	for _, bad := range []Allocation{OWL{Lambda: -1}, OWL{M: -1}, Sensitivity{Lambda: 2}} {
		_, err := Run(context.Background(), g, Wanda{Calib: c}, Unstructured{Sparsity: 0.6}, Options{Allocate: bad})
		require.ErrorIs(t, err, ErrMethod)
	}
	_, err := Run(context.Background(), g, Wanda{Calib: c}, Pattern24, Options{Allocate: OWL{}})
	require.ErrorIs(t, err, ErrMethod)
	_, err = Run(context.Background(), g, Magnitude{}, Unstructured{Sparsity: 0.6}, Options{Allocate: OWL{}})
	require.ErrorIs(t, err, ErrMethod)
}

// OWL's measure, on a block whose outliers are planted.
func TestOutliersCountsLargeScores(t *testing.T) {
	cfg := tinyConfig()
	g := randomGraph(t, cfg, 1)
	targets, err := Targets(g, nil, nil)
	require.NoError(t, err)
	r := &run{ctx: context.Background(), g: g, p: Unstructured{Sparsity: 0.5}, targets: targets, rep: &Report{}, patterns: make([]Pattern, len(targets))}
	f, layers, err := r.openFlow(randomCalib(cfg.Vocab, 2, 30))
	require.NoError(t, err)
	groups := r.groups(layers[0])
	require.NoError(t, f.x.load(f.nodes(layers[0])))
	var grams []*gram
	n := 0
	for _, grp := range groups {
		gr := newGram(g.Values[grp.input].Width, false)
		gr.tokens = 1
		for i := range gr.diag {
			gr.diag[i] = 4
		}
		grams = append(grams, gr)
		for _, i := range grp.targets {
			w := f.x.weights[targets[i]]
			n += len(w)
			for j := range w {
				w[j] = 0.1
			}
		}
	}
	w := f.x.weights[targets[0]]
	w[3], w[77], w[100] = -9, 9, 0.3
	require.InDelta(t, 2/float64(n), outliers(r, f, groups, grams, 5), 1e-12)
}
