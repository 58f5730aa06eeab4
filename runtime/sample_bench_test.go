package runtime

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkSampler draws from a vocabulary of 50,000.
func BenchmarkSampler(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, 50000)
	for i := range logits {
		logits[i] = float32(3 * r.NormFloat64())
	}
	for _, o := range []Sampling{{}, {Temperature: 1}, {Temperature: 1, TopP: 0.9}, {Temperature: 0.8, TopK: 40, TopP: 0.95}, {Temperature: 1, MinP: 0.05}, {Temperature: 1, FrequencyPenalty: 0.5}} {
		s, err := NewSampler(o)
		require.NoError(b, err)
		x := make([]float32, len(logits))
		b.Run(fmt.Sprintf("t%g-k%d-p%g-m%g-f%g", o.Temperature, o.TopK, o.TopP, o.MinP, o.FrequencyPenalty), func(b *testing.B) {
			for b.Loop() {
				copy(x, logits)
				s.Next(x)
			}
		})
	}
}
