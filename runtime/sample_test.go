package runtime

import (
	"math"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// draws counts which tokens a sampler gives over many draws of the same logits.
func draws(t *testing.T, o Sampling, logits []float32, n int) map[int32]int {
	s, err := NewSampler(o)
	require.NoError(t, err)
	got := map[int32]int{}
	for range n {
		got[s.Next(slices.Clone(logits))]++
	}
	return got
}

func TestSampling(t *testing.T) {
	l := []float32{1, 3, 2, 0}
	require.Equal(t, map[int32]int{1: 10}, draws(t, Sampling{}, l, 10))
	require.Equal(t, map[int32]int{1: 10}, draws(t, Sampling{Temperature: 5, TopK: 1}, l, 10))
	require.Len(t, draws(t, Sampling{Temperature: 5, TopK: 2}, l, 1000), 2)
	require.Len(t, draws(t, Sampling{Temperature: 1, TopP: 0.6}, l, 1000), 1)
	require.Len(t, draws(t, Sampling{Temperature: 1, TopP: 0.7}, l, 1000), 2)
	require.Len(t, draws(t, Sampling{Temperature: 1, MinP: 0.2}, l, 1000), 2)
	require.Equal(t, map[int32]int{3: 5}, draws(t, Sampling{Bias: map[int32]float32{3: 9, -1: 5, 99: 5}}, l, 5))

	// Frequencies follow softmax(l/T): chi-square of 3 degrees of freedom, 99.9 %: 16.3.
	const n = 40000
	got := draws(t, Sampling{Temperature: 1.5, Seed: 7}, l, n)
	var z float64
	for _, x := range l {
		z += math.Exp(float64(x) / 1.5)
	}
	var chi float64
	for i, x := range l {
		want := n * math.Exp(float64(x)/1.5) / z
		d := float64(got[int32(i)]) - want
		chi += d * d / want
	}
	require.Less(t, chi, 16.3)

	require.Equal(t, draws(t, Sampling{Temperature: 1, Seed: 3}, l, 50), draws(t, Sampling{Temperature: 1, Seed: 3}, l, 50))
}

func TestPenalties(t *testing.T) {
	s, err := NewSampler(Sampling{RepeatPenalty: 2, RepeatLast: 2})
	require.NoError(t, err)
	s.Accept(1)
	require.EqualValues(t, 2, s.Next([]float32{-1, 3, 2}), "3/2 < 2")
	s.Accept(2)
	s.Accept(2) // 1 leaves the window
	require.EqualValues(t, 1, s.Next([]float32{-1, 3, 4}))

	s, err = NewSampler(Sampling{FrequencyPenalty: 1, PresencePenalty: 0.5})
	require.NoError(t, err)
	s.Accept(0)
	s.Accept(0)
	l := []float32{3, 0.4}
	require.EqualValues(t, 0, s.Next(l))
	require.InDelta(t, 0.5, l[0], 1e-6)
}
