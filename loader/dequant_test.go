package loader

import (
	"math/rand/v2"
	"testing"
)

func BenchmarkUnpack(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, f := range formats {
		b.Run(f.t.String(), func(b *testing.B) {
			const n = 1 << 16
			raw := make([]byte, f.rowBytes(n))
			for i := range raw {
				raw[i] = byte(rng.Uint32()) & 0x3f // keeps every scale finite
			}
			dst := make([]float32, n)
			for b.Loop() {
				f.unpack(dst, raw)
			}
			b.ReportMetric(n*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
		})
	}
}
