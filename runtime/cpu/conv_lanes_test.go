package cpu

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

func ints(v ...int64) model.Attribute { return model.Attribute{Kind: model.AttrInts, Ints: v} }

// TestConvLanes compares convolutions of odd geometries, dense and sparse, with
// the reference of tensorop, on every instruction set.
func TestConvLanes(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	noise := func(n int, zeros float64) []float32 {
		x := make([]float32, n)
		for i := range x {
			if rng.Float64() >= zeros {
				x[i] = float32(rng.NormFloat64())
			}
		}
		return x
	}
	before := linalg.ISA()
	defer func() { _, _ = linalg.ForceISA(before) }()
	for _, isa := range linalg.ISAs() {
		_, err := linalg.ForceISA(isa)
		require.NoError(t, err)
		for _, c := range []struct {
			n, ch, h, w, oc, kh, kw int
			attrs                   map[string]model.Attribute
		}{
			{1, 1, 1, 1, 1, 1, 1, nil},
			{2, 3, 7, 5, 9, 3, 3, map[string]model.Attribute{"pads": ints(1, 1, 1, 1)}},
			{3, 4, 9, 8, 33, 1, 1, nil},
			{1, 2, 11, 13, 7, 3, 5, map[string]model.Attribute{"pads": ints(0, 2, 1, 3), "strides": ints(2, 3)}},
			{1, 3, 10, 10, 8, 3, 2, map[string]model.Attribute{"dilations": ints(2, 3), "strides": ints(2, 1), "pads": ints(2, 0, 0, 1)}},
			{2, 1, 28, 28, 20, 5, 5, nil},
			{1, 5, 6, 40, 17, 2, 3, map[string]model.Attribute{"pads": ints(-1, 1, 0, -2)}},
			// A sparse weight in pieces of its columns, and every number of vectors.
			{1, 200, 1, 5, 5, 1, 1, nil}, {1, 200, 1, 13, 5, 1, 1, nil}, {1, 200, 1, 21, 5, 1, 1, nil}, {1, 200, 1, 29, 5, 1, 1, nil},
			{1, 200, 1, 37, 5, 1, 1, nil}, {1, 200, 1, 45, 5, 1, 1, nil}, {1, 200, 1, 53, 5, 1, 1, nil}, {1, 200, 1, 61, 5, 1, 1, nil},
			{1, 200, 1, 75, 5, 1, 1, nil}, {1, 200, 1, 91, 5, 1, 1, nil}, {2, 200, 1, 107, 5, 1, 1, nil}, {1, 200, 1, 150, 5, 1, 1, nil},
			{1, 60, 9, 9, 6, 3, 3, map[string]model.Attribute{"pads": ints(1, 1, 1, 1)}},
			{1, 2, 5, 5, 4, 3, 3, map[string]model.Attribute{"auto_pad": {Kind: model.AttrString, S: "SAME_LOWER"}, "strides": ints(2, 2)}},
		} {
			for _, zeros := range []float64{0, 0.7, 1} {
				for _, layout := range []sparse.Layout{sparse.LayoutDense, sparse.LayoutCSR} {
					for _, relu := range []bool{false, true} {
						w := noise(c.oc*c.ch*c.kh*c.kw, zeros)
						bias := noise(c.oc, 0)
						x := model.F32Tensor(noise(c.n*c.ch*c.h*c.w, 0), c.n, c.ch, c.h, c.w)
						shape := []int{c.oc, c.ch, c.kh, c.kw}
						n := &model.Node{Op: model.OpConv, Name: "conv", Outs: []model.ValueID{1}, Attr: &model.TensorOp{Version: 17, Attrs: c.attrs}}
						want, err := tensorop.Run(&tensorop.Call{Node: n, In: []*model.Tensor{x, model.F32Tensor(w, shape...), model.F32Tensor(bias, c.oc)}, Outs: 1})
						require.NoError(t, err)
						n.Weight = &model.Weight{Name: "w", Shape: shape, Data: sparse.NewDense(c.oc, c.ch*c.kh*c.kw, w)}
						n.Bias = &model.Weight{Name: "b", Shape: []int{c.oc}, Data: sparse.NewDense(1, c.oc, bias)}
						n.In, n.Out = []model.ValueID{0}, 1
						g := &model.Graph{Opsets: map[string]int{"": 17}, Values: []model.Value{{Name: "x"}, {Name: "y"}}, Inputs: []model.ValueID{0}, Outputs: []model.ValueID{1}, Nodes: []*model.Node{n}}
						k := runtime.Kernel{Op: model.OpLinear, Layout: layout, Weight: sparse.F32, Act: sparse.F32}
						b := New(Threads(2))
						p, err := b.CompileTensors(&runtime.TensorPlan{Graph: g, Steps: []runtime.TensorStep{{Node: n, Out: 1, Weight: n.Weight.Data, Shape: shape, Bias: bias, Relu: relu,
							Kernel: k, Choice: &runtime.Choice{Kernel: k, Sparsity: zeros}}}})
						require.NoError(t, err)
						y, err := p.Run(context.Background(), []*model.Tensor{x}, &runtime.Counters{})
						require.NoError(t, err)
						require.NoError(t, p.Close())
						require.Equal(t, want[0].Shape, y[0].Shape)
						for i, v := range want[0].Data.([]float32) {
							if relu {
								v = max(v, 0)
							}
							// Up to 125 products of standard normals, summed in another order.
							require.InDelta(t, v, y[0].Data.([]float32)[i], 1e-5*math.Sqrt(float64(c.ch*c.kh*c.kw))*4, "%v %v %v relu %v element %d", isa, c, layout, relu, i)
						}
					}
				}
			}
		}
	}
}
