package onnxtest

import (
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// outputs runs a graph on seeded noise.
func outputs(t *testing.T, g *model.Graph, shape ...int) []float32 {
	t.Helper()
	b := cpu.New(cpu.Threads(1))
	defer b.Close()
	s, err := runtime.New(g, b, runtime.WithDense())
	require.NoError(t, err)
	defer s.Close()
	n := 1
	for _, d := range shape {
		n *= d
	}
	rng := rand.New(rand.NewPCG(1, 2))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	y, err := s.RunFloats(context.Background(), x, shape...)
	require.NoError(t, err)
	return y
}

// TestSave: what is saved is an ONNX file that gives the same numbers.
func TestSave(t *testing.T) {
	for _, c := range []struct {
		file  string
		shape []int
	}{
		{"lenet/lenet300100_sparse_sparseinit_coo.onnx", []int{2, 784}}, {"lenet/lenet5_original.onnx", []int{2, 1, 28, 28}},
		{"onnx/mnist.onnx", []int{1, 1, 28, 28}}, {"resnet/resnet20.onnx", []int{2, 3, 32, 32}},
	} {
		t.Run(c.file, func(t *testing.T) {
			g, err := loader.Open(testenv.Data(t, c.file))
			require.NoError(t, err)
			defer g.Close()
			out := filepath.Join(t.TempDir(), "out.onnx")
			require.NoError(t, loader.Save(g, out, loader.SaveOptions{Meta: map[string]string{"sparserun.method": "none"}}))
			h, err := loader.Open(out)
			require.NoError(t, err)
			defer h.Close()
			require.Equal(t, "none", h.Source.Meta["sparserun.method"])
			require.Equal(t, outputs(t, g, c.shape...), outputs(t, h, c.shape...))
			require.Len(t, h.Linears(), len(g.Linears()))
			for i, n := range g.Linears() {
				require.Equal(t, n.Weight.Name, h.Linears()[i].Weight.Name)
				require.Equal(t, n.Weight.Shape, h.Linears()[i].Weight.Shape)
			}
		})
	}
}

// TestPruneSave: a network pruned to 90 % is saved with sparse initializers, is
// smaller, and gives what the pruned graph gives.
func TestPruneSave(t *testing.T) {
	in := testenv.Data(t, "lenet/lenet300100_original.onnx")
	g, err := loader.Open(in)
	require.NoError(t, err)
	defer g.Close()
	_, err = prune.Apply(g, prune.Magnitude{}, prune.Unstructured{Sparsity: 0.9})
	require.NoError(t, err)
	for _, n := range g.Linears() {
		// Half precision: the graph's types stay, so the file's numbers are float32.
		m, err := sparse.Pack(n.Weight.Data, sparse.LayoutCSR, sparse.F16, 0)
		require.NoError(t, err)
		n.Weight.Data = m
	}
	out := filepath.Join(t.TempDir(), "out.onnx")
	require.NoError(t, loader.Save(g, out, loader.SaveOptions{}))
	h, err := loader.Open(out)
	require.NoError(t, err)
	defer h.Close()
	require.Equal(t, outputs(t, g, 3, 784), outputs(t, h, 3, 784))
	a, err := os.Stat(in)
	require.NoError(t, err)
	b, err := os.Stat(out)
	require.NoError(t, err)
	require.Less(t, b.Size(), a.Size()*4/10)
	for _, n := range h.Linears() {
		require.Equal(t, sparse.LayoutCSR, n.Weight.Data.Layout())
	}
}
