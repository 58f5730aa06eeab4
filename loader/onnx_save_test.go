package loader

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// TestONNXSaveNames: weights keep their names and values their shapes, however often a file is written. A recipe of
// pruning names weights, and structured pruning wants shapes.
func TestONNXSaveNames(t *testing.T) {
	for _, file := range []string{"bert.onnx", "bert14.onnx"} {
		g, err := Open(filepath.Join("..", "train", "testdata", file))
		require.NoError(t, err)
		defer g.Close()
		for range 2 {
			path := filepath.Join(t.TempDir(), file)
			require.NoError(t, Save(g, path, SaveOptions{}))
			again, err := Open(path)
			require.NoError(t, err)
			defer again.Close()
			require.Equal(t, len(g.Weights), len(again.Weights))
			for _, w := range g.Weights {
				x, err := again.Weight(w.Name)
				require.NoError(t, err)
				require.Equal(t, w.Shape, x.Shape, w.Name)
				want, err := sparse.Read(w.Data)
				require.NoError(t, err)
				got, err := sparse.Read(x.Data)
				require.NoError(t, err)
				require.Equal(t, want, got, w.Name)
			}
			shapes := map[string][]int{}
			for _, v := range again.Values {
				shapes[v.Name] = v.Shape
			}
			known := 0
			for _, n := range g.Nodes {
				v := g.Values[n.Out]
				require.Equal(t, v.Shape, shapes[v.Name], v.Name)
				if v.Shape != nil {
					known++
				}
			}
			require.NotZero(t, known)
			g = again
		}
	}
}

// TestONNXSaveBothWays: a weight that one node reads flat and another turned is there twice, under two names.
func TestONNXSaveBothWays(t *testing.T) {
	w := &model.Weight{Name: "w", Shape: []int{2, 3}, Data: sparse.NewDense(2, 3, []float32{1, 2, 3, 4, 5, 6})}
	node := func(name string, in, out model.ValueID) *model.Node {
		return &model.Node{Name: name, Op: model.OpLinear, In: []model.ValueID{in}, Out: out, Outs: []model.ValueID{out}, Weight: w, Attr: &model.TensorOp{Version: 17}}
	}
	g := &model.Graph{Name: "g", Arch: "onnx", Opsets: map[string]int{"": 17}, Constants: map[model.ValueID]*model.Tensor{}, Weights: []*model.Weight{w},
		Values: []model.Value{{Name: "x", Elem: model.ElemF32, Shape: []int{-1, 3}}, {Name: "y", Elem: model.ElemF32, Shape: []int{-1, 2}},
			{Name: "p", Elem: model.ElemF32, Shape: []int{-1, 4, 3}}, {Name: "q", Elem: model.ElemF32, Shape: []int{-1, 4, 2}}},
		Inputs: []model.ValueID{0, 2}, Outputs: []model.ValueID{1, 3}, Nodes: []*model.Node{node("a", 0, 1), node("b", 2, 3)}}
	path := filepath.Join(t.TempDir(), "both.onnx")
	require.NoError(t, Save(g, path, SaveOptions{}))
	again, err := Open(path)
	require.NoError(t, err)
	defer again.Close()
	require.Len(t, again.Linears(), 2)
	for _, n := range again.Linears() {
		got, err := sparse.Read(n.Weight.Data)
		require.NoError(t, err)
		require.Equal(t, []float32{1, 2, 3, 4, 5, 6}, got, n.Name)
	}
}
