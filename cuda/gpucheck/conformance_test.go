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
// driver there is.
func TestConformance(t *testing.T) {
	b, err := cuda.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	t.Logf("%+v", b.Info())
	backendtest.Run(t, func() runtime.Backend { return keep{b} }, backendtest.ActRounding(1.0/2048),
		backendtest.Groups(func(k runtime.Kernel, g int) bool { return k.Weight != sparse.Int8 || g == 0 }))
}

// keep is a backend that outlives its Close.
type keep struct{ *cuda.Backend }

func (keep) Close() error { return nil }
