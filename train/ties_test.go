package train

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
)

// TestTies: tied weights stay equal through training, move by the sum of their gradients, and
// the pruned ones stay zero.
func TestTies(t *testing.T) {
	g, err := MLP(1, 6, 8, 3)
	require.NoError(t, err)
	n, err := New(g, linalg.NewPool(2))
	require.NoError(t, err)
	p := n.Param("fc1.weight")
	code := make([]int32, len(p.W))
	for i := range code {
		code[i] = int32(i%5) - 1
	}
	before := append([]float32(nil), p.W...)
	require.NoError(t, p.Tie(code, 4))
	require.Equal(t, before[1], p.W[6])
	require.Equal(t, before[0], p.W[0])
	require.Equal(t, before[5], p.W[5]) // code -1 is nobody's

	rng := rand.New(rand.NewPCG(5, 5))
	b := &Batch{Rows: 9, X: randomVector(rng, 54, 1), Targets: []int32{0, 1, 2, 0, 1, 2, 0, 1, 2}}
	_, err = n.Gradients(b, CrossEntropy{})
	require.NoError(t, err)
	tied := append([]float32(nil), p.Grad...)
	require.NoError(t, p.Tie(nil, 0))
	_, err = n.Gradients(b, CrossEntropy{})
	require.NoError(t, err)
	sums := make([]float32, 4)
	for i, c := range code {
		if c >= 0 {
			sums[c] += p.Grad[i]
		}
	}
	for i, c := range code {
		if c >= 0 {
			require.Equal(t, sums[c], tied[i])
		} else {
			require.Equal(t, p.Grad[i], tied[i])
		}
	}

	for _, o := range []Optimiser{SGD{Momentum: 0.9}, AdamW(0.01)} {
		require.NoError(t, p.Tie(code, 4))
		_, err = Fit(context.Background(), n, &Items{Width: 6, X: b.X, Y: b.Targets}, Options{Steps: 20, Batch: 4, Rate: 0.05, Optimiser: o}, nil)
		require.NoError(t, err)
		for i, c := range code {
			if c >= 0 {
				require.Equal(t, p.W[c+1], p.W[i])
			}
		}
		require.NotEqual(t, p.W[0], p.W[5])
	}
	require.ErrorIs(t, p.Tie(code, 3), ErrOption)
	require.ErrorIs(t, p.Tie(code[1:], 4), ErrOption)
	require.ErrorIs(t, p.Tie(code, 1<<20), ErrOption)
}
