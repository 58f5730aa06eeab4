//go:build cuda

package main

import (
	"testing"

	"github.com/sparserun/sparserun/cuda"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/backendtest"
	"github.com/sparserun/sparserun/sparse"
)

// TestConformance holds the backend to what every backend must do, on whatever
// driver there is; TestRowMajor does so with weights kept for the decode kernels.
func TestConformance(t *testing.T) {
	conform(t, func(b *cuda.Backend) runtime.Backend { return b })
}

func TestRowMajor(t *testing.T) {
	conform(t, func(b *cuda.Backend) runtime.Backend { return b.RowMajor() })
}

func conform(t *testing.T, form func(*cuda.Backend) runtime.Backend) {
	b, err := cuda.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	t.Logf("%+v", b.Info())
	// float16 activations, rounded once more where bf16 is multiplied; int8 weights have
	// one scale a row.
	backendtest.Run(t, func() runtime.Backend { return keep{form(b)} }, backendtest.ActRounding(1.0/2048),
		backendtest.KernelRounding(func(k runtime.Kernel) float64 {
			if k.Weight == sparse.BF16 {
				return 1.0 / 256
			}
			return 0
		}),
		backendtest.Groups(func(k runtime.Kernel, g int) bool { return k.Weight != sparse.Int8 || g == 0 }))
}

// keep is a backend that outlives its Close.
type keep struct{ runtime.Backend }

func (keep) Close() error { return nil }
