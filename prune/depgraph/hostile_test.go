package depgraph

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
)

// TestHostile: what a file declares costs no time or memory without bound, and panics nothing.
func TestHostile(t *testing.T) {
	attr := func(name string, v int64) map[string]model.Attribute {
		return map[string]model.Attribute{name: {Kind: model.AttrInt, I: v}}
	}
	for _, c := range []struct {
		name  string
		op    model.Op
		attrs map[string]model.Attribute
		x, y  []int
	}{
		{"a dimension of 2^40", "Relu", nil, []int{1, 1 << 40}, []int{1, 1 << 40}},
		{"dimensions of 2^24", "Transpose", nil, []int{1 << 24, 1 << 24}, []int{1 << 24, 1 << 24}},
		{"an axis of -2^62", "LayerNormalization", attr("axis", -1<<62), []int{1, 4}, []int{1, 4}},
		{"an axis of 2^62", "Concat", attr("axis", 1<<62), []int{1, 4}, []int{1, 4}},
		{"an axis beyond the last", "Softmax", attr("axis", 3), []int{1, 4}, []int{1, 4}},
		{"a Split into fewer dimensions", "Split", attr("axis", 1), []int{1, 4}, []int{4}},
		{"a MatMul of one input", "MatMul", nil, []int{1, 4}, []int{1, 4}},
		{"a Gather of one input", "Gather", nil, []int{1, 4}, []int{1, 4}},
		{"products beyond 2^64", "Flatten", nil, []int{1, 1 << 22, 1 << 21, 1 << 22}, []int{1, 2}},
	} {
		g := &model.Graph{Name: c.name, Arch: "onnx", Opsets: map[string]int{"": 17}, Constants: map[model.ValueID]*model.Tensor{},
			Values: []model.Value{{Name: "x", Elem: model.ElemF32, Shape: c.x}, {Name: "y", Elem: model.ElemF32, Shape: c.y}},
			Inputs: []model.ValueID{0}, Outputs: []model.ValueID{1}}
		g.Nodes = []*model.Node{{Name: "n", Op: c.op, In: []model.ValueID{0}, Out: 1, Outs: []model.ValueID{1}, Attr: &model.TensorOp{Version: 17, Attrs: c.attrs}}}
		require.True(t, g.Tensors())
		_, err := New(g, Options{Ratio: 0.5})
		require.ErrorIs(t, err, ErrGraph, c.name)
	}
}
