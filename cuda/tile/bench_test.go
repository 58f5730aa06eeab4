package tile

import (
	"math/rand/v2"
	"testing"

	"github.com/sparserun/sparserun/sparse"
)

// BenchmarkPack is the host's share of loading a layer; MB/s are of dense float32.
func BenchmarkPack(b *testing.B) {
	const n = 2048
	rng := rand.New(rand.NewPCG(1, 2))
	m := sparse.NewDense(n, n, random(rng, n, n))
	for _, c := range []struct {
		name string
		l    sparse.Layout
		t    sparse.DType
	}{{"int4 dense", sparse.LayoutDense, sparse.Int4}, {"int4 nm24", sparse.LayoutNM24, sparse.Int4}, {"f16 nm24", sparse.LayoutNM24, sparse.F16}} {
		packed, err := sparse.Pack(m, c.l, c.t, 64)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(4 * n * n)
			for b.Loop() {
				if _, err := Pack(packed); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("bitmask", func(b *testing.B) {
		b.SetBytes(4 * n * n)
		for b.Loop() {
			if _, err := PackBitmask(m, sparse.F16); err != nil {
				b.Fatal(err)
			}
		}
	})
}
