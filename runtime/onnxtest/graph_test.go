package onnxtest

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestGraphs: what the loader makes of the reference models: weights that pruning
// knows, constants folded, shapes inferred to the output.
func TestGraphs(t *testing.T) {
	for _, c := range []struct {
		file    string
		linears int
		params  int64 // of those
		nodes   int
		out     []int
	}{
		{"lenet/lenet300100_sparse.onnx", 3, 266200, 5, []int{-1, 10}},
		{"lenet/lenet300100_sparse_sparseinit_coo.onnx", 3, 266200, 5, []int{-1, 10}},
		{"lenet/lenet5_original.onnx", 4, 430500, 8, []int{-1, 10}},
		{"onnx/mnist.onnx", 3, 200 + 3200 + 2560, 11, []int{1, 10}},
		{"resnet/resnet20.onnx", 20, 432 + 6*2304 + 4608 + 5*9216 + 18432 + 5*36864 + 640, 0, []int{-1, 10}},
		{"squeezenet/squeezenet_deepcompression.onnx", 26, 1244448, 0, []int{-1, 1000}},
	} {
		t.Run(c.file, func(t *testing.T) {
			g, err := loader.Open(testenv.Data(t, c.file))
			require.NoError(t, err)
			defer g.Close()
			ops := map[model.Op]int{}
			for _, n := range g.Nodes {
				ops[n.Op]++
			}
			t.Log(len(g.Nodes), ops, len(g.Constants))
			require.Len(t, g.Linears(), c.linears)
			var params int64
			for _, n := range g.Linears() {
				r, k := n.Weight.Data.Dims()
				params += int64(r * k)
			}
			require.Equal(t, c.params, params)
			if c.nodes > 0 {
				require.Len(t, g.Nodes, c.nodes)
			}
			require.Equal(t, c.out, g.Values[g.Outputs[0]].Shape)
			require.Equal(t, model.ElemF32, g.Values[g.Outputs[0]].Elem)
		})
	}
}

// TestSparseInitializers: both index forms give the weights of the dense file, as CSR.
func TestSparseInitializers(t *testing.T) {
	open := func(name string) *model.Graph {
		g, err := loader.Open(testenv.Data(t, "lenet/"+name+".onnx"))
		require.NoError(t, err)
		t.Cleanup(func() { g.Close() })
		return g
	}
	dense := open("lenet300100_sparse")
	for _, name := range []string{"lenet300100_sparse_sparseinit_linear", "lenet300100_sparse_sparseinit_coo"} {
		g := open(name)
		for i, n := range g.Linears() {
			require.Equal(t, sparse.LayoutCSR, n.Weight.Data.Layout())
			a, err := sparse.Read(n.Weight.Data)
			require.NoError(t, err)
			b, err := sparse.Read(dense.Linears()[i].Weight.Data)
			require.NoError(t, err)
			require.Equal(t, b, a)
			require.Equal(t, dense.Linears()[i].Weight.Name, n.Weight.Name)
		}
		require.Less(t, g.WeightBytes().Total(), dense.WeightBytes().Total()/15)
	}
}
