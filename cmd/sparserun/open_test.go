package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/testenv"
)

// TestGPUFirst: where --backend auto found a GPU, a network runs on the CPU, and says so once.
func TestGPUFirst(t *testing.T) {
	gr, err := loader.Open(testenv.Data(t, "lenet/lenet300100_sparse.onnx"))
	require.NoError(t, err)
	defer gr.Close()
	c := cpu.New(cpu.Threads(1))
	defer c.Close()
	said := 0
	s, err := runtime.New(gr, gpuFirst{nil, c, func() { said++ }}) // the GPU is not asked for anything
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.Equal(t, 1, said)
}
