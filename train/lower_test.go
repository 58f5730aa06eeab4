package train

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// tensorGraph builds tensor graphs in the form the ONNX loader gives them.
type tensorGraph struct {
	g  *model.Graph
	at model.ValueID
}

func newTensorGraph(shape ...int) *tensorGraph {
	t := &tensorGraph{g: &model.Graph{Name: "t", Opsets: map[string]int{"": 17}, Constants: map[model.ValueID]*model.Tensor{}}}
	t.at = t.value("input", shape...)
	t.g.Inputs = []model.ValueID{t.at}
	return t
}

func (t *tensorGraph) value(name string, shape ...int) model.ValueID {
	t.g.Values = append(t.g.Values, model.Value{Name: name, Shape: shape, Elem: model.ElemF32})
	return model.ValueID(len(t.g.Values) - 1)
}

func (t *tensorGraph) constant(name string, x *model.Tensor) model.ValueID {
	v := t.value(name, x.Shape...)
	t.g.Constants[v] = x
	return v
}

func (t *tensorGraph) ints(x ...int64) model.ValueID {
	return t.constant("ints", model.I64Tensor(x, len(x)))
}

func (t *tensorGraph) node(op model.Op, name string, attrs map[string]model.Attribute, w, b *model.Weight, in ...model.ValueID) model.ValueID {
	out := t.value(name)
	t.g.Nodes = append(t.g.Nodes, &model.Node{Op: op, Name: name, In: in, Out: out, Outs: []model.ValueID{out}, Weight: w, Bias: b, Attr: &model.TensorOp{Version: 17, Attrs: attrs}})
	t.at = out
	return out
}

func (t *tensorGraph) finish() *model.Graph {
	t.g.Outputs = []model.ValueID{t.at}
	return t.g
}

func ints(x ...int64) model.Attribute { return model.Attribute{Kind: model.AttrInts, Ints: x} }

// residual is a small residual network as a tensor graph: conv with an added bias, batch norm, a
// shortcut of Slice and Pad, SAME pooling, Flatten, Gemm, Softmax.
func residual(rng *rand.Rand) *model.Graph {
	weight := func(name string, shape ...int) *model.Weight {
		cols := 1
		for _, d := range shape[1:] {
			cols *= d
		}
		return &model.Weight{Name: name, Shape: shape, Data: sparse.NewDense(shape[0], cols, randomVector(rng, shape[0]*cols, 0.4))}
	}
	t := newTensorGraph(-1, 2, 6, 6)
	same := map[string]model.Attribute{"auto_pad": {Kind: model.AttrString, S: "SAME_UPPER"}, "strides": ints(1, 1)}
	x := t.node("Conv", "stem", same, weight("stem.weight", 2, 2, 3, 3), nil, t.at)
	x = t.node("Add", "stem.add", nil, nil, nil, x, t.constant("stem.bias", model.F32Tensor(randomVector(rng, 2, 1), 2, 1, 1)))
	x = t.node("Relu", "stem.relu", nil, nil, nil, x)
	a := map[string]model.Attribute{"pads": ints(1, 1, 1, 1), "strides": ints(2, 2), "dilations": ints(1, 1), "kernel_shape": ints(3, 3)}
	c := t.node("Conv", "conv", a, weight("conv.weight", 4, 2, 3, 3), nil, x)
	v := func(name string, n int, at float32) model.ValueID {
		f := randomVector(rng, n, 0.1)
		for i := range f {
			f[i] += at
		}
		return t.constant(name, model.F32Tensor(f, n))
	}
	c = t.node("BatchNormalization", "bn", map[string]model.Attribute{"epsilon": {F: 1e-3}, "momentum": {F: 0.8}}, nil, nil, c, v("gamma", 4, 1), v("beta", 4, 0), v("mean", 4, 0), v("var", 4, 1))
	s := t.node("Slice", "slice", nil, nil, nil, x, t.ints(0, 0), t.ints(1<<62, 6), t.ints(-2, 3), t.ints(2, 2))
	s = t.node("Pad", "pad", map[string]model.Attribute{"mode": {S: "constant"}}, nil, nil, s, t.ints(0, 1, 0, 0, 0, 1, 0, 0), t.constant("zero", model.F32Tensor([]float32{0})))
	x = t.node("Add", "sum", nil, nil, nil, c, s)
	x = t.node("AveragePool", "pool", map[string]model.Attribute{"kernel_shape": ints(2, 2), "strides": ints(2, 2), "ceil_mode": {I: 1}}, nil, nil, x)
	x = t.node("Reshape", "flat", nil, nil, nil, x, t.ints(0, -1))
	fc := weight("fc.weight", 5, 16)
	x = t.node(model.OpLinear, "fc", nil, fc, &model.Weight{Name: "fc.bias", Shape: []int{5}, Data: sparse.NewDense(1, 5, randomVector(rng, 5, 1))}, x)
	t.node("Softmax", "prob", nil, nil, nil, x)
	for _, n := range t.g.Nodes {
		if n.Weight != nil {
			t.g.Weights = append(t.g.Weights, n.Weight)
		}
	}
	return t.finish()
}

// TestLower: the lowered network computes what the same network made of our own ops computes.
func TestLower(t *testing.T) {
	src := residual(rand.New(rand.NewPCG(1, 1)))
	got, err := New(src, linalg.NewPool(2))
	require.NoError(t, err)

	b := newBuilder("same", 1, model.Image{C: 2, H: 6, W: 6})
	b.conv("stem", 2, 3, 1, 1, true)
	b.relu("relu")
	stem := b.at
	b.conv("conv", 4, 3, 2, 1, false)
	b.batchNorm("bn")
	bn := b.g.Nodes[len(b.g.Nodes)-1]
	attr := bn.Attr.(model.BatchNorm)
	attr.Eps, attr.Momentum = 1e-3, 0.2
	bn.Attr = attr
	main := b.at
	b.at, b.img = stem, model.Image{C: 2, H: 6, W: 6}
	b.conv("short", 4, 1, 2, 0, false)
	b.node(model.OpAdd, "sum", b.img, nil, nil, nil, main)
	o := model.Image{C: 4, H: 2, W: 2}
	b.node(model.OpAveragePool, "pool", o, model.Pool{In: b.img, Out: o, KernelH: 2, KernelW: 2, StrideH: 2, StrideW: 2}, nil, nil)
	b.linear("fc", 5)
	want, err := New(b.finish(), linalg.NewPool(2))
	require.NoError(t, err)

	names := map[string]string{"stem.weight": "stem.weight", "stem.bias": "stem.bias", "conv.weight": "conv.weight", "gamma": "bn.weight", "beta": "bn.bias", "pad": "short.weight", "fc.weight": "fc.weight", "fc.bias": "fc.bias"}
	require.Len(t, got.Params, len(names))
	for from, to := range names {
		copy(want.Param(to).W, got.Param(from).W)
	}
	require.Equal(t, []float32{0, 0, 1, 0, 0, 1, 0, 0}, got.Param("pad").W)
	require.True(t, got.Param("pad").Frozen)
	copy(want.stats[0].mean, got.stats[0].mean)
	copy(want.stats[0].variance, got.stats[0].variance)
	batch := &Batch{Rows: 9, X: randomVector(rand.New(rand.NewPCG(2, 2)), 9*72, 1), Targets: []int32{0, 1, 2, 3, 4, 0, 1, 2, 3}}
	for _, training := range []bool{false, true} {
		x, err := got.Forward(batch, training)
		require.NoError(t, err)
		y, err := want.Forward(batch, training)
		require.NoError(t, err)
		require.Equal(t, y, x)
	}
	lx, err := got.Gradients(batch, CrossEntropy{})
	require.NoError(t, err)
	ly, err := want.Gradients(batch, CrossEntropy{})
	require.NoError(t, err)
	require.Equal(t, ly, lx)
	for from, to := range names {
		require.Equal(t, want.Param(to).Grad, got.Param(from).Grad, from)
	}

	// Steps move everything but the shortcut, and Store puts constants where they were.
	st := (SGD{}).start(got.Params)
	stepAll(nil, st, got.Params, 0.1, 1)
	require.Equal(t, []float32{0, 0, 1, 0, 0, 1, 0, 0}, got.Param("pad").W)
	require.NoError(t, got.Store())
	seen := 0
	for v, c := range src.Constants {
		name := src.Values[v].Name
		switch name {
		case "gamma", "beta", "stem.bias":
			require.Equal(t, got.Param(name).W, c.Data)
			require.NoError(t, c.Check())
			seen++
		case "mean":
			require.Equal(t, got.stats[0].mean, c.Data)
			seen++
		case "var":
			require.Equal(t, got.stats[0].variance, c.Data)
			seen++
		}
	}
	require.Equal(t, 5, seen)
	fc, err := sparse.Read(src.Weights[2].Data)
	require.NoError(t, err)
	require.Equal(t, got.Param("fc.weight").W, fc)
}

// TestLowerRefuses: what cannot be trained names its node and op.
func TestLowerRefuses(t *testing.T) {
	attr := func(k string, a model.Attribute) map[string]model.Attribute { return map[string]model.Attribute{k: a} }
	for name, f := range map[string]func(t *tensorGraph){
		"unknown op": func(t *tensorGraph) { t.node("Einsum", "bad", nil, nil, nil, t.at) },
		"matmul that does not fit": func(t *tensorGraph) {
			x := t.at
			t.node("MatMul", "bad", nil, nil, nil, x, t.node("Reshape", "r", nil, nil, nil, x, t.ints(-1, 2, 4, 9)))
		},
		"transpose of the batch": func(t *tensorGraph) { t.node("Transpose", "bad", attr("perm", ints(1, 0, 2, 3)), nil, nil, t.at) },
		"concat of the batch": func(t *tensorGraph) {
			t.node("Concat", "bad", attr("axis", model.Attribute{I: 0}), nil, nil, t.at, t.at)
		},
		"concat of unlike": func(t *tensorGraph) {
			x := t.at
			t.node("Concat", "bad", attr("axis", model.Attribute{I: 1}), nil, nil, x, t.node("Flatten", "f", nil, nil, nil, x))
		},
		"gather beyond": func(t *tensorGraph) {
			t.node("Gather", "bad", attr("axis", model.Attribute{I: 1}), nil, nil, t.at, t.ints(2))
		},
		"split of more": func(t *tensorGraph) {
			t.node("Split", "bad", attr("axis", model.Attribute{I: 2}), nil, nil, t.at, t.ints(7))
		},
		"mean of the batch": func(t *tensorGraph) { t.node("ReduceMean", "bad", attr("axes", ints(0)), nil, nil, t.at) },
		"divided by zero": func(t *tensorGraph) {
			t.node("Div", "bad", nil, nil, nil, t.at, t.constant("c", model.F32Tensor([]float32{0})))
		},
		"softmax over channels": func(t *tensorGraph) {
			t.node("Softmax", "bad", attr("axis", model.Attribute{I: 1}), nil, nil, t.at)
			t.node("Relu", "end", nil, nil, nil, t.at)
		},
		"bias of no channel": func(t *tensorGraph) {
			t.node("Add", "bad", nil, nil, nil, t.at, t.constant("c", model.F32Tensor(make([]float32, 5), 5)))
		},
		"reshape":      func(t *tensorGraph) { t.node("Reshape", "bad", nil, nil, nil, t.at, t.ints(2, 71)) },
		"flatten axis": func(t *tensorGraph) { t.node("Flatten", "bad", attr("axis", model.Attribute{I: 2}), nil, nil, t.at) },
		"pool dilation": func(t *tensorGraph) {
			t.node("MaxPool", "bad", map[string]model.Attribute{"kernel_shape": ints(2, 2), "dilations": ints(2, 2)}, nil, nil, t.at)
		},
		"pool padded in two lines": func(t *tensorGraph) {
			t.node("MaxPool", "bad", map[string]model.Attribute{"kernel_shape": ints(2, 2), "auto_pad": {Kind: model.AttrString, S: "SAME\nUPPER"}}, nil, nil, t.at)
		},
		"pool too large": func(t *tensorGraph) { t.node("MaxPool", "bad", attr("kernel_shape", ints(9, 9)), nil, nil, t.at) },
		"pool stride 0": func(t *tensorGraph) {
			t.node("MaxPool", "bad", map[string]model.Attribute{"kernel_shape": ints(2, 2), "strides": ints(0, 1)}, nil, nil, t.at)
		},
		"pool pads huge": func(t *tensorGraph) {
			t.node("MaxPool", "bad", map[string]model.Attribute{"kernel_shape": ints(2, 2), "pads": ints(1<<61, 0, 1<<61, 0)}, nil, nil, t.at)
		},
		"pad of everything": func(t *tensorGraph) {
			t.node("Pad", "bad", nil, nil, nil, t.at, t.ints(0, 1<<60, 0, 0, 0, 1<<60, 0, 0))
		},
		"conv groups huge": func(t *tensorGraph) {
			w := &model.Weight{Name: "w", Shape: []int{2, 2, 1, 1}, Data: sparse.NewDense(2, 2, make([]float32, 4))}
			t.node("Conv", "bad", attr("group", model.Attribute{I: 1<<63 - 1}), w, nil, t.at)
		},
		"conv pads large": func(t *tensorGraph) {
			w := &model.Weight{Name: "w", Shape: []int{2, 2, 1, 1}, Data: sparse.NewDense(2, 2, make([]float32, 4))}
			t.node("Conv", "bad", attr("pads", ints(60000, 60000, 60000, 60000)), w, nil, t.at)
		},
		"conv of no weight": func(t *tensorGraph) { t.node("Conv", "bad", nil, nil, nil, t.at) },
		"pad of pixels":     func(t *tensorGraph) { t.node("Pad", "bad", nil, nil, nil, t.at, t.ints(0, 0, 1, 0, 0, 0, 1, 0)) },
		"slice of the batch": func(t *tensorGraph) {
			t.node("Slice", "bad", nil, nil, nil, t.at, t.ints(1), t.ints(99), t.ints(0), t.ints(1))
		},
		"linear of rank": func(t *tensorGraph) { t.node(model.OpLinear, "bad", nil, vector("w", 2, 1), nil, t.at) },
		"batch norm":     func(t *tensorGraph) { t.node("BatchNormalization", "bad", nil, nil, nil, t.at, t.at, t.at, t.at, t.at) },
	} {
		g := newTensorGraph(-1, 2, 6, 6)
		f(g)
		_, err := New(g.finish(), nil)
		require.ErrorIs(t, err, ErrGraph, name)
		require.ErrorContains(t, err, `"bad"`, name)
		require.NotContains(t, err.Error(), "\n", name)
	}
	g := newTensorGraph(-1, -1, 6, 6)
	_, err := New(g.finish(), nil)
	require.ErrorIs(t, err, ErrGraph)
	g = newTensorGraph(-1, 1<<40, 1<<40, 6)
	_, err = New(g.finish(), nil)
	require.ErrorIs(t, err, ErrGraph)
}

// TestLowerFolds: what follows from shapes is known, whatever the batch; numbers that change with the batch are
// refused where they are used. A condition picks numbers, and a mask is not trained.
func TestLowerFolds(t *testing.T) {
	f32 := func(t *tensorGraph, x ...float32) model.ValueID { return t.constant("c", model.F32Tensor(x, len(x))) }
	batch := func(t *tensorGraph, x model.ValueID) model.ValueID { // the number of samples, float32
		n := t.node("Gather", "n", nil, nil, nil, t.node("Shape", "shape", nil, nil, nil, x), t.constant("0", model.I64Tensor([]int64{0})))
		return t.node("Cast", "cast", map[string]model.Attribute{"to": {Kind: model.AttrInt, I: int64(model.ElemF32)}}, nil, nil, n)
	}
	dims := func(t *tensorGraph, x model.ValueID, rest ...int64) model.ValueID { // [batch, rest...]
		n := t.node("Slice", "n", nil, nil, nil, t.node("Shape", "shape", nil, nil, nil, x), t.ints(0), t.ints(1), t.ints(0), t.ints(1))
		return t.node("Concat", "dims", map[string]model.Attribute{"axis": {Kind: model.AttrInt}}, nil, nil, n, t.ints(rest...))
	}
	x := []float32{1, 2, 3, 4, 5, 6, 7, 8}
	for name, c := range map[string]struct {
		f    func(t *tensorGraph)
		want []float32 // for x as two samples of two by two
	}{
		"reshape by the shape": {func(t *tensorGraph) {
			x := t.at
			t.node("Reshape", "r", nil, nil, nil, x, dims(t, x, 4))
		}, x},
		"heads with the batch": {func(t *tensorGraph) {
			x := t.at
			y := t.node("Reshape", "heads", nil, nil, nil, x, t.ints(-1, 2, 1))
			y = t.node("Transpose", "t", map[string]model.Attribute{"perm": ints(0, 2, 1)}, nil, nil, y)
			y = t.node("MatMul", "outer", nil, nil, nil, t.node("Reshape", "again", nil, nil, nil, x, t.ints(-1, 2, 1)), y)
			t.node("Reshape", "back", nil, nil, nil, y, dims(t, x, 8))
		}, []float32{1, 2, 2, 4, 9, 12, 12, 16, 25, 30, 30, 36, 49, 56, 56, 64}},
		"mask of ones": {func(t *tensorGraph) {
			x := t.at
			m := t.node("ConstantOfShape", "ones", map[string]model.Attribute{"value": {T: model.F32Tensor([]float32{1}, 1)}}, nil, nil, dims(t, x, 1, 2))
			m = t.node("Sub", "none", nil, nil, nil, f32(t, 1), m)
			t.node("Add", "masked", nil, nil, nil, x, t.node("Mul", "much", nil, nil, nil, m, f32(t, -1e30)))
		}, x},
		"where": {func(t *tensorGraph) {
			x := t.at
			c := t.constant("lower", &model.Tensor{Elem: model.ElemBool, Shape: []int{2, 2}, Data: []bool{true, false, true, true}})
			y := t.node("Where", "mask", nil, nil, nil, c, x, f32(t, -9))
			t.node("Where", "other", nil, nil, nil, c, f32(t, 0.5), y)
		}, []float32{0.5, -9, 0.5, 0.5, 0.5, -9, 0.5, 0.5}},
		"masks that the file has": {func(t *tensorGraph) {
			last := map[string]model.Attribute{"axis": {Kind: model.AttrInt, I: -1}}
			y := t.node("Add", "none", nil, nil, nil, t.at, t.constant("zeros", model.F32Tensor(make([]float32, 4), 1, 2, 2)))
			y = t.node("Softmax", "s", last, nil, nil, y)
			y = t.node("Add", "causal", nil, nil, nil, y, t.constant("causal", model.F32Tensor([]float32{0, -1e9, 0, 0}, 1, 2, 2)))
			t.node("Softmax", "s2", last, nil, nil, y)
		}, []float32{1, 0, 0.3864837, 0.6135163, 1, 0, 0.3864837, 0.6135163}},
		"two values": {func(t *tensorGraph) {
			x := t.at
			m := t.node("ReduceMean", "mean", map[string]model.Attribute{"axes": ints(2)}, nil, nil, x)
			d := t.node("Sub", "sub", nil, nil, nil, x, m)
			d = t.node("Pow", "pow", nil, nil, nil, d, f32(t, 2))
			t.node("Div", "div", nil, nil, nil, d, m)
		}, []float32{0.25 / 1.5, 0.25 / 1.5, 0.25 / 3.5, 0.25 / 3.5, 0.25 / 5.5, 0.25 / 5.5, 0.25 / 7.5, 0.25 / 7.5}},
		"over a value": {func(t *tensorGraph) { t.node("Div", "div", nil, nil, nil, f32(t, 2), t.at) }, []float32{2, 1, 2. / 3, 0.5, 0.4, 1. / 3, 2. / 7, 0.25}},
	} {
		g := newTensorGraph(-1, 2, 2)
		c.f(g)
		n, err := New(g.finish(), linalg.NewPool(1))
		require.NoError(t, err, name)
		got, err := n.Forward(&Batch{Rows: 2, X: x}, false)
		require.NoError(t, err, name)
		require.Len(t, got, len(c.want), name)
		for i, v := range c.want {
			require.InDelta(t, v, got[i], 1e-6, "%s[%d]", name, i) // a product by an inverse rounds twice
		}
		for _, p := range n.Params {
			require.True(t, p.Frozen, name)
		}
	}
	for name, f := range map[string]func(t *tensorGraph){
		"adds the batch":     func(t *tensorGraph) { x := t.at; t.node("Add", "bad", nil, nil, nil, x, batch(t, x)) },
		"power of the batch": func(t *tensorGraph) { x := t.at; t.node("Pow", "bad", nil, nil, nil, x, batch(t, x)) },
		"power of four":      func(t *tensorGraph) { t.node("Pow", "bad", nil, nil, nil, t.at, f32(t, 4)) },
		"batch in the middle": func(t *tensorGraph) {
			x := t.at
			n := t.node("Slice", "n", nil, nil, nil, t.node("Shape", "shape", nil, nil, nil, x), t.ints(0), t.ints(1), t.ints(0), t.ints(1))
			t.node("Reshape", "bad", nil, nil, nil, x, t.node("Concat", "dims", map[string]model.Attribute{"axis": {Kind: model.AttrInt}}, nil, nil, t.ints(-1), n))
		},
		"sum over heads with the batch": func(t *tensorGraph) {
			x := t.at
			t.node("Relu", "bad", nil, nil, nil, t.node("Reshape", "heads", nil, nil, nil, x, t.ints(-1, 2)))
		},
		"too many ones": func(t *tensorGraph) {
			t.node("ConstantOfShape", "bad", nil, nil, nil, t.ints(1<<20, 1<<20))
		},
		"where by a value": func(t *tensorGraph) {
			x := t.at
			t.node("Where", "bad", nil, nil, nil, x, x, f32(t, 1))
		},
		"where of no number": func(t *tensorGraph) {
			c := t.constant("c", &model.Tensor{Elem: model.ElemBool, Shape: []int{2}, Data: []bool{true, false}})
			t.node("Where", "bad", nil, nil, nil, c, t.at, f32(t, 1, 2))
		},
	} {
		g := newTensorGraph(-1, 2, 2)
		f(g)
		_, err := New(g.finish(), nil)
		require.ErrorIs(t, err, ErrGraph, name)
		require.ErrorContains(t, err, `"bad"`, name)
	}
	// What does not depend on the input is no output, nor is one whose samples are mixed.
	for _, f := range []func(t *tensorGraph){
		func(t *tensorGraph) { t.node("Shape", "shape", nil, nil, nil, t.at) },
		func(t *tensorGraph) { t.node("Reshape", "heads", nil, nil, nil, t.at, t.ints(-1, 2)) },
	} {
		g := newTensorGraph(-1, 2, 2)
		f(g)
		_, err := New(g.finish(), nil)
		require.ErrorIs(t, err, ErrGraph)
	}
}
