package prune

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// TestCriteriaResNet: a network with batch norms and residual adds is ranked whole, and its running
// statistics stay what they were.
func TestCriteriaResNet(t *testing.T) {
	n, err := train.New(train.ResNet20(3), linalg.NewPool(2))
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(1, 1))
	data := &train.Items{Width: 3072, X: make([]float32, 6*3072), Y: []int32{0, 1, 2, 3, 4, 5}}
	for i := range data.X {
		data.X[i] = float32(rng.NormFloat64())
	}
	require.Len(t, n.Prunable(), 22, "19 convolutions, two shortcuts, the classifier")
	before := n.Snapshot()
	s := Samples{Data: data, Batches: 2, Batch: 3}
	for _, c := range []Criterion{SNIP{s}, Taylor{s}, Fisher{s}} {
		for m, scores := range ranked(t, n, c) {
			var sum float64
			for _, x := range scores {
				require.GreaterOrEqual(t, x, float32(0))
				sum += float64(x)
			}
			require.False(t, math.IsInf(sum, 0) || sum == 0, "%s matrix %d", c.Name(), m)
		}
		require.Equal(t, before, n.Snapshot(), c.Name())
	}
}

// TestCriteriaStories: on a trained language model SNIP, Taylor and Fisher do less harm than random pruning,
// and the matrices that are pruned are those of Targets.
func TestCriteriaStories(t *testing.T) {
	g, calib, eval := stories(t)
	n, err := train.New(g, linalg.NewPool(2))
	require.NoError(t, err)
	var names, want []string
	for _, p := range n.Prunable() {
		names = append(names, p.Name)
	}
	targets, err := Targets(g, nil, nil)
	require.NoError(t, err)
	for _, w := range targets {
		want = append(want, w.Name)
	}
	require.ElementsMatch(t, want, names)
	data, err := train.NewText(calib.Windows[:16], 128)
	require.NoError(t, err)
	held, err := train.NewText(eval.Windows[:8], 128)
	require.NoError(t, err)
	before := n.Snapshot()
	ppl := map[string]float64{}
	s := Samples{Data: data, Batches: 4, Batch: 4}
	for _, c := range []Criterion{Random{Seed: 1}, SNIP{s}, Taylor{s}, Fisher{s}, Magnitude{}} {
		rep, err := TuneNet(t.Context(), n, Tuning{Criterion: c, Pattern: Unstructured{Sparsity: 0.3}, Fit: train.Options{Eval: held, EvalBatch: 4}})
		require.NoError(t, err)
		ppl[c.Name()] = rep.Value
		require.NoError(t, setMasks(n.Prunable(), make([]*sparse.Mask, len(names))))
		require.NoError(t, n.Restore(before))
	}
	t.Logf("perplexity at 30 %%: %v", ppl)
	for name, x := range ppl {
		if name != "random" {
			require.Less(t, x, ppl["random"], name)
		}
	}
}
