package loader

import (
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// BenchmarkReadModel reads and unpacks every weight of SmolLM2, row blocks of
// each weight on 1 or 2 goroutines.
func BenchmarkReadModel(b *testing.B) {
	for _, mode := range []struct {
		name string
		opts []Option
	}{{"pread", nil}, {"mmap", []Option{WithMmap()}}} {
		for _, workers := range []int{1, 2} {
			b.Run(mode.name+"/"+string(rune('0'+workers)), func(b *testing.B) {
				g, err := Open(testenv.Model(b), mode.opts...)
				require.NoError(b, err)
				defer g.Close()
				for b.Loop() {
					var wg sync.WaitGroup
					for k := range workers {
						wg.Go(func() {
							for i := k; i < len(g.Weights); i += workers {
								if err := sparse.EachRow(g.Weights[i].Data, func(int, []float32) error { return nil }); err != nil {
									b.Error(err)
								}
							}
						})
					}
					wg.Wait()
				}
				b.ReportMetric(float64(g.Parameters())*float64(b.N)/b.Elapsed().Seconds()/1e6, "Mweights/s")
			})
		}
	}
}

func BenchmarkOpenModel(b *testing.B) {
	path := testenv.Model(b)
	for b.Loop() {
		g, err := Open(path)
		require.NoError(b, err)
		require.NoError(b, g.Close())
	}
}

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
