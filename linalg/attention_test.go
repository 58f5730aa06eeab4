package linalg

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// attentionReference is the definition, in float64.
func attentionReference(s AttentionShape, seqs []int, q, k, v []float32) []float64 {
	out := make([]float64, len(q))
	start := 0
	for _, n := range seqs {
		for h := range s.Heads {
			kv := h / (s.Heads / s.KVHeads)
			for i := range n {
				w := make([]float64, i+1)
				sum, first := 0.0, 0
				if s.Window > 0 {
					first = max(0, i+1-s.Window)
				}
				for j := first; j <= i; j++ {
					var d float64
					for x := range s.HeadDim {
						d += float64(q[(start+i)*s.Heads*s.HeadDim+h*s.HeadDim+x]) * float64(k[(start+j)*s.KVHeads*s.HeadDim+kv*s.HeadDim+x])
					}
					w[j] = math.Exp(d * float64(s.Scale))
					sum += w[j]
				}
				for j := first; j <= i; j++ {
					for x := range s.HeadDim {
						out[(start+i)*s.Heads*s.HeadDim+h*s.HeadDim+x] += w[j] / sum * float64(v[(start+j)*s.KVHeads*s.HeadDim+kv*s.HeadDim+x])
					}
				}
			}
		}
		start += n
	}
	return out
}

// TestAttention: scores are of order 3, so an ulp of a score and of exp gives about 1e-6.
func TestAttention(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(15, 16))
		for _, c := range []struct {
			shape AttentionShape
			seqs  []int
		}{
			{AttentionShape{Heads: 1, KVHeads: 1, HeadDim: 4, Scale: 0.5}, []int{1}},
			{AttentionShape{Heads: 4, KVHeads: 2, HeadDim: 8, Scale: 0.35}, []int{7, 0, 1, 33}},
			{AttentionShape{Heads: 3, KVHeads: 1, HeadDim: 64, Scale: 0.125}, []int{65, 130}},
			{AttentionShape{Heads: 2, KVHeads: 2, HeadDim: 33, Scale: 0.2, Window: 5}, []int{1, 70, 5}},
			{AttentionShape{Heads: 2, KVHeads: 1, HeadDim: 16, Scale: 0.2, Window: 100}, []int{190}},
		} {
			rows := 0
			for _, n := range c.seqs {
				rows += n
			}
			s := c.shape
			q, k, v := randomVector(rng, rows*s.Heads*s.HeadDim), randomVector(rng, rows*s.KVHeads*s.HeadDim), randomVector(rng, rows*s.KVHeads*s.HeadDim)
			want := attentionReference(s, c.seqs, q, k, v)
			var first []float32
			for _, threads := range []int{1, 2, 4} {
				got := make([]float32, len(q))
				Attention(NewPool(threads), s, c.seqs, q, k, v, got)
				for i := range want {
					require.InDelta(t, want[i], float64(got[i]), 5e-6, "%+v at %d", c, i)
				}
				if first == nil {
					first = got
				}
				require.Equal(t, first, got)
			}
		}
	})
}
