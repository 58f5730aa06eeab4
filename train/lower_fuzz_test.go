package train

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// FuzzLower makes chains of image ops with the numbers that the fuzzer wants: New must refuse
// them with ErrGraph or give a network whose passes do not panic.
func FuzzLower(f *testing.F) {
	f.Add([]byte{0, 3, 3, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 1, 0})
	f.Add([]byte{1, 3, 1, 2, 2, 0, 5, 0, 5, 1, 0, 3, 2, 2, 0, 0, 1})
	f.Add([]byte{2, 3, 4, 5, 3, 1, 0, 2, 6, 4, 7, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		next := func() int64 {
			if len(b) == 0 {
				return 1
			}
			v := int64(b[0])
			b = b[1:]
			if v > 250 { // now and then something absurd
				v = 1<<40 + v
			} else if v > 240 {
				v = 240 - v
			}
			return v
		}
		g := newTensorGraph(-1, 2, 6, 5)
		channels := int64(2)
		for range 6 {
			if len(b) == 0 {
				break
			}
			op := next() % 8
			attrs := map[string]model.Attribute{"strides": ints(next()%5, next()%5), "pads": ints(next(), next(), next(), next()), "dilations": ints(1+next()%3, 1)}
			kh, kw := 1+next()&3, 1+next()&3
			attrs["kernel_shape"] = ints(kh, kw)
			attrs["ceil_mode"] = model.Attribute{I: next() & 1}
			switch op {
			case 0:
				attrs["group"] = model.Attribute{I: next() % 4}
				w := &model.Weight{Name: "w", Shape: []int{2, int(channels), int(kh), int(kw)}, Data: sparse.NewDense(2, int(channels*kh*kw), make([]float32, 2*channels*kh*kw))}
				channels = 2
				g.node("Conv", "conv", attrs, w, nil, g.at)
			case 1, 2:
				delete(attrs, "dilations")
				attrs["count_include_pad"] = model.Attribute{I: next() & 1}
				g.node([]model.Op{"MaxPool", "AveragePool"}[op-1], "pool", attrs, nil, nil, g.at)
			case 3:
				g.node("Relu", "relu", nil, nil, nil, g.at)
			case 4:
				before, after := next(), next()
				g.node("Pad", "pad", nil, nil, nil, g.at, g.ints(0, before, 0, 0, 0, after, 0, 0))
				channels += max(-1, min(before, 1<<20)) + max(-1, min(after, 1<<20))
			case 5:
				g.node("Slice", "slice", nil, nil, nil, g.at, g.ints(0, 0), g.ints(99, 99), g.ints(2, 3), g.ints(next(), next()))
			case 6:
				g.node("Flatten", "flat", nil, nil, nil, g.at)
			case 7:
				g.node("GlobalAveragePool", "gap", nil, nil, nil, g.at)
			}
			if channels < 1 || channels > 1<<10 {
				return
			}
		}
		if len(g.g.Nodes) == 0 {
			return
		}
		n, err := New(g.finish(), linalg.NewPool(1))
		if err != nil {
			require.ErrorIs(t, err, ErrGraph)
			return
		}
		for _, v := range n.graph.Values {
			if v.Width > 1<<16 {
				return // right, but slow
			}
		}
		batch := &Batch{Rows: 2, X: make([]float32, 120)}
		_, err = n.Gradients(batch, project{make([]float32, 2*n.Width())})
		require.NoError(t, err)
	})
}

// FuzzLowerFolds makes graphs that compute with shapes, as the fuzzer says: New must refuse them with
// ErrGraph or give a network that computes for two samples what it computes for each alone, and what
// the ops themselves compute.
func FuzzLowerFolds(f *testing.F) {
	f.Add([]byte{0, 0, 1, 1, 2, 0, 1, 4, 2, 9, 0, 3})
	f.Add([]byte{0, 0, 6, 2, 1, 3, 1, 7, 0, 3, 8, 4, 5, 10, 0, 4, 2})
	f.Add([]byte{0, 0, 9, 0, 1, 10, 0, 2, 11, 3, 3, 12, 0, 1, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		next := func(n int) int {
			if len(b) == 0 {
				return 0
			}
			v := int(b[0]) % n
			b = b[1:]
			return v
		}
		g := newTensorGraph(-1, 2, 3)
		number := func() int64 { return []int64{-1, 0, 1, 2, 3, 6, 1 << 40, -7}[next(8)] }
		pool := []model.ValueID{g.at, g.ints(number(), number()), g.constant("f", model.F32Tensor([]float32{float32(next(3)), -1e9}, 2, 1)),
			g.constant("i", model.I64Tensor([]int64{number()})), g.constant("b", &model.Tensor{Elem: model.ElemBool, Shape: []int{3}, Data: []bool{true, false, true}})}
		ops := []model.Op{"Shape", "Gather", "Unsqueeze", "Concat", "ConstantOfShape", "Reshape", "Cast", "Mul", "Sub", "Expand", "Add", "Where", "Div", "Pow", "Transpose", "MatMul"}
		for range 10 {
			if len(b) == 0 {
				break
			}
			op := ops[next(len(ops))]
			attrs := map[string]model.Attribute{"axis": {Kind: model.AttrInt, I: int64(next(4) - 1)}, "to": {Kind: model.AttrInt, I: int64(1 + 6*next(2))}}
			if op == "Transpose" {
				attrs = map[string]model.Attribute{"perm": ints([][]int64{{0, 2, 1}, {0, 1, 2}, {1, 0}, {0, 1}}[next(4)]...)}
			}
			in := []model.ValueID{pool[next(len(pool))]}
			for range map[model.Op]int{"Gather": 1, "Unsqueeze": 1, "Concat": 1, "Reshape": 1, "Mul": 1, "Sub": 1, "Expand": 1, "Add": 1, "Where": 2, "Div": 1, "Pow": 1, "MatMul": 1}[op] {
				in = append(in, pool[next(len(pool))])
			}
			pool = append(pool, g.node(op, "n", attrs, nil, nil, in...))
		}
		n, err := New(g.finish(), linalg.NewPool(1))
		if err != nil {
			require.ErrorIs(t, err, ErrGraph)
			return
		}
		for _, v := range n.graph.Values {
			if v.Width > 1<<16 {
				return // right, but slow
			}
		}
		x := []float32{1, -2, 3, 0.5, 7, -6, 2, 2, -3, 1, 4, 9}
		both, err := n.Forward(&Batch{Rows: 2, X: x}, false)
		require.NoError(t, err)
		both = append([]float32(nil), both...)
		for i := range 2 {
			one, err := n.Forward(&Batch{Rows: 1, X: x[6*i : 6*i+6]}, false)
			require.NoError(t, err)
			for k, v := range one {
				require.Equal(t, math.Float32bits(both[i*len(one)+k]), math.Float32bits(v))
			}
		}
		want := reference(g.g, model.F32Tensor(x, 2, 2, 3))
		if want == nil {
			return // lowering need not be as strict
		}
		require.Equal(t, want.Len(), len(both))
		for i, v := range want.Data.([]float32) {
			if math.Abs(float64(v)) < 1e9 && math.Abs(float64(both[i])) < 1e9 { // an inverse may overflow where a quotient does not
				require.InDelta(t, v, both[i], 1e-5*math.Max(1, math.Abs(float64(v))))
			}
		}
	})
}

// reference runs a graph op by op; nil where one fails or the result is no array of float32.
func reference(g *model.Graph, x *model.Tensor) *model.Tensor {
	at := map[model.ValueID]*model.Tensor{g.Inputs[0]: x}
	for v, c := range g.Constants {
		at[v] = c
	}
	for _, n := range g.Nodes {
		var in []*model.Tensor
		for _, v := range n.In {
			in = append(in, at[v])
		}
		out, err := tensorop.Run(&tensorop.Call{Node: n, In: in, Outs: 1})
		if err != nil {
			return nil
		}
		at[n.Out] = out[0]
	}
	out := at[g.Outputs[0]]
	if out.Elem != model.ElemF32 {
		return nil
	}
	return out
}
