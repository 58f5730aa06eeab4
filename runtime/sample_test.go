package runtime

import (
	"math"
	"math/rand/v2"
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

// TestDrawKeeps: whatever the filters, only tokens that a plain sort would keep are
// drawn, and all of them are.
func TestDrawKeeps(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for round := range 60 {
		logits := make([]float32, 1+r.IntN(60))
		for i := range logits {
			logits[i] = float32(r.NormFloat64()) * float32(r.IntN(4))
			if r.IntN(5) == 0 {
				logits[i] = float32(math.Inf(-1))
			}
		}
		logits[r.IntN(len(logits))] = 1
		o := Sampling{Temperature: 0.3 + 2*r.Float64(), Seed: uint64(round)}
		if r.IntN(2) == 0 {
			o.TopK = 2 + r.IntN(20)
		}
		if r.IntN(2) == 0 {
			o.TopP = 0.05 + 0.9*r.Float64()
		}
		if r.IntN(3) == 0 {
			o.MinP = r.Float64() / 2
		}
		// The reference: filter, sort, cut, in the order of llama.cpp's samplers.
		order := make([]int, 0, len(logits))
		p := make([]float64, len(logits))
		best := float64(logits[Argmax(logits)])
		for i, l := range logits {
			if p[i] = math.Exp((float64(l) - best) / o.Temperature); p[i] > 0 && p[i] >= o.MinP {
				order = append(order, i)
			}
		}
		slices.SortStableFunc(order, func(a, b int) int {
			if logits[a] > logits[b] {
				return -1
			} else if logits[a] < logits[b] {
				return 1
			}
			return 0
		})
		if o.TopK > 0 && len(order) > o.TopK {
			order = order[:o.TopK]
		}
		var sum, acc float64
		for _, i := range order {
			sum += p[i]
		}
		if o.TopP > 0 {
			for n, i := range order {
				if acc += p[i]; acc >= o.TopP*sum {
					order = order[:n+1]
					break
				}
			}
		}
		const n = 4000
		got := draws(t, o, logits, n)
		sum = 0
		for _, i := range order {
			sum += p[i]
		}
		for _, i := range order {
			want := n * p[i] / sum
			require.InDelta(t, want, got[int32(i)], 6*math.Sqrt(want)+3, "round %d: %+v: token %d of %v", round, o, i, logits)
			delete(got, int32(i))
		}
		require.Empty(t, got, "round %d: %+v: %v", round, o, logits)
	}
}

func TestExpNegative(t *testing.T) {
	for x := 0.0; x >= -depthNats; x -= 0.00371 {
		require.InEpsilon(t, math.Exp(x), expNegative(x), 1e-8, x)
	}
}
