package prune

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// finalStream is the residual stream after the last layer.
func finalStream(t *testing.T, g *model.Graph, c Calib) []float32 {
	t.Helper()
	f, err := newFlow(g, linalg.NewPool(2), c)
	require.NoError(t, err)
	_, _, after, err := blocks(g)
	require.NoError(t, err)
	require.NoError(t, f.advance(context.Background(), after.lo))
	require.Len(t, f.live, 1)
	return f.live[liveAt(g, after.lo)[0]]
}

// What Best is for: the pruned model's residual stream stays nearer to the dense
// model's than any method that fits each layer to its own dense output can keep it.
func TestBestKeepsTheResidualStream(t *testing.T) {
	cfg := tinyConfig()
	cfg.Layers = 4
	c := randomCalib(cfg.Vocab, 20, 40)
	dense := finalStream(t, randomGraph(t, cfg, 1), c)
	for _, p := range []Pattern{Pattern24, Unstructured{Sparsity: 0.6}} {
		miss := func(m Method) float64 {
			g := randomGraph(t, cfg, 1)
			_, err := Run(context.Background(), g, m, p, f32)
			require.NoError(t, err)
			var diff, all float64
			for i, v := range finalStream(t, g, c) {
				d := float64(v - dense[i])
				diff += d * d
				all += float64(dense[i]) * float64(dense[i])
			}
			return ratio(diff, all)
		}
		gpt, alps, best := miss(SparseGPT{Calib: c}), miss(ALPS{Calib: c}), miss(Best{Calib: c})
		t.Logf("%v: sparsegpt %.4f alps %.4f best %.4f", p, gpt, alps, best)
		require.Less(t, alps, gpt)
		require.Less(t, best, 0.9*alps)
		// The kept weights solved again: towards the same goals, not those of a method with one stream.
		require.Less(t, miss(Resolved{Of: Best{Calib: c}, Calib: c}), 0.9*miss(Resolved{Of: ALPS{Calib: c}, Calib: c}))
	}
}

func TestResidualOf(t *testing.T) {
	g := randomGraph(t, tinyConfig(), 1)
	for _, n := range g.Linears() {
		_, ok := residualOf(g, n)
		adds := n.Name[len(n.Name)-6:] == "o_proj" || n.Name[len(n.Name)-9:] == "down_proj"
		require.Equal(t, adds, ok, n.Name)
	}
}
