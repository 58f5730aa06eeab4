package train

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// A source gives the weights of a graph by name and size.
type source func(name string, shape ...int) *model.Weight

// drawn gives random weights: gains around one.
func drawn(seed uint64) source {
	rng := rand.New(rand.NewPCG(seed, 8))
	return func(name string, shape ...int) *model.Weight {
		n := 1
		for _, d := range shape {
			n *= d
		}
		return &model.Weight{Name: name, Shape: shape, Data: sparse.NewDense(shape[0], n/shape[0], randomVector(rng, n, 0.4))}
	}
}

func (t *tensorGraph) param(w *model.Weight) model.ValueID {
	x, err := sparse.Read(w.Data)
	if err != nil {
		panic(err)
	}
	return t.constant(w.Name, model.F32Tensor(x, w.Shape...))
}

func (t *tensorGraph) number(x float32) model.ValueID {
	return t.constant("number", model.F32Tensor([]float32{x}))
}

func op(k string, a model.Attribute) map[string]model.Attribute {
	return map[string]model.Attribute{k: a}
}

// fire is the network of golden_tensor.py: concatenation, a gate that broadcasts, sigmoid, tanh,
// clipping, a slice of channels, means over space.
func fire(w source) *model.Graph {
	t := newTensorGraph(-1, 2, 5, 4)
	s := t.node("Relu", "relu", nil, nil, nil, t.node("Conv", "squeeze", nil, w("squeeze", 3, 2, 1, 1), nil, t.at))
	a := t.node("Conv", "left", nil, w("left", 4, 3, 1, 1), nil, s)
	b := t.node("Conv", "right", op("pads", ints(1, 1, 1, 1)), w("right", 4, 3, 3, 3), nil, s)
	f := t.node("Concat", "concat", op("axis", model.Attribute{I: 1}), nil, nil, a, b)
	g := t.node("ReduceMean", "squeezed", map[string]model.Attribute{"axes": ints(2, 3), "keepdims": {}}, nil, nil, f)
	g = t.node("Sigmoid", "sigmoid", nil, nil, nil, t.node(model.OpLinear, "gate", nil, w("gate", 8, 8), nil, g))
	g = t.node("Unsqueeze", "unsqueeze", op("axes", ints(2, 3)), nil, nil, g)
	f = t.node("Mul", "gated", nil, nil, nil, f, g)
	f = t.node("Mul", "scaled", nil, nil, nil, t.param(w("scale", 8, 1, 1)), f)
	f = t.node("Clip", "clip", nil, nil, nil, t.node("Tanh", "tanh", nil, nil, nil, f), t.number(-0.6), t.number(0.7))
	f = t.node("Slice", "slice", nil, nil, nil, f, t.ints(2), t.ints(6), t.ints(1))
	f = t.node("GlobalAveragePool", "pool", nil, nil, nil, f)
	f = t.node("Squeeze", "flat", op("axes", ints(2, 3)), nil, nil, f)
	t.node(model.OpLinear, "fc", nil, w("fc", 3, 4), nil, f)
	return t.finish()
}

// bert is the encoder of golden_tensor.py.
func bert(w source) *model.Graph {
	const seq, width, heads = 5, 8, 2
	t := newTensorGraph(-1, seq)
	t.g.Values[0].Elem = model.ElemI64
	linear := func(k string, out, in int, x model.ValueID) model.ValueID {
		b := w(k+".b", out)
		b.Data = sparse.NewDense(1, out, b.Data.(*sparse.Dense).Values.F32)
		return t.node(model.OpLinear, k, nil, w(k+".w", out, in), b, x)
	}
	norm := func(k string, x model.ValueID) model.ValueID {
		return t.node("LayerNormalization", k, nil, nil, nil, x, t.param(w(k+".w", width)), t.param(w(k+".b", width)))
	}
	perm := func(x model.ValueID, p ...int64) model.ValueID {
		return t.node("Transpose", "transpose", op("perm", ints(p...)), nil, nil, x)
	}
	cut := func(k string, h model.ValueID) model.ValueID {
		return perm(t.node("Reshape", "heads", nil, nil, nil, linear(k, width, width, h), t.ints(0, 0, heads, -1)), 0, 2, 1, 3)
	}
	table := t.param(w("table", 11, width))
	h := t.node("Gather", "embed", nil, nil, nil, table, t.g.Inputs[0])
	h = norm("ln0", t.node("Add", "positions", nil, nil, nil, h, t.param(w("position", 1, seq, width))))
	q, k, v := cut("q", h), cut("k", h), cut("v", h)
	s := t.node("Div", "scale", nil, nil, nil, t.node("MatMul", "qk", nil, nil, nil, q, perm(k, 0, 1, 3, 2)), t.number(2))
	s = t.node("Softmax", "softmax", op("axis", model.Attribute{I: -1}), nil, nil, s)
	a := perm(t.node("MatMul", "sv", nil, nil, nil, s, v), 0, 2, 1, 3)
	a = linear("o", width, width, t.node("Reshape", "join", nil, nil, nil, a, t.ints(-1, seq, width)))
	h = norm("ln1", t.node("Add", "first", nil, nil, nil, h, a))
	u := linear("up", 12, width, h)
	e := t.node("Erf", "erf", nil, nil, nil, t.node("Div", "root", nil, nil, nil, u, t.number(math.Sqrt2)))
	e = t.node("Mul", "half", nil, nil, nil, t.node("Mul", "gelu", nil, nil, nil, u, t.node("Add", "one", nil, nil, nil, e, t.number(1))), t.number(0.5))
	h = t.node("Add", "second", nil, nil, nil, h, linear("down", width, 12, e))
	h = t.node("Gather", "cls", op("axis", model.Attribute{I: 1}), nil, nil, h, t.constant("zero", &model.Tensor{Elem: model.ElemI64, Shape: []int{}, Data: []int64{0}}))
	linear("fc", 3, width, h)
	return t.finish()
}

// TestGradientsTensor: the ops of tensor graphs against central differences.
func TestGradientsTensor(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 1))
	// Without ReLU and clipping, whose kinks the differences do not bear.
	smooth := fire(drawn(1))
	for _, n := range smooth.Nodes {
		switch n.Op {
		case "Relu":
			n.Op = "Sigmoid"
		case "Clip":
			n.Op, n.In = "Neg", n.In[:1]
		}
	}
	checkGradients(t, smooth, &Batch{Rows: 3, X: randomVector(rng, 120, 1)})
	b := &Batch{Rows: 3, X: make([]float32, 15)}
	for i := range b.X {
		b.X[i] = float32(rng.IntN(11))
	}
	checkGradients(t, bert(drawn(2)), b)

	// Two halves of the channels, one of which goes twice; a root and an exponential.
	g := newTensorGraph(-1, 6)
	w := drawn(5)
	x := g.node(model.OpLinear, "in", nil, w("in", 6, 6), nil, g.at)
	left, right := g.value("left"), g.value("right")
	g.g.Nodes = append(g.g.Nodes, &model.Node{Op: "Split", Name: "split", In: []model.ValueID{x, g.ints(2, 4)}, Out: left, Outs: []model.ValueID{left, right},
		Attr: &model.TensorOp{Version: 17, Attrs: op("axis", model.Attribute{I: -1})}})
	e := g.node("Sqrt", "sqrt", nil, nil, nil, g.node("Exp", "exp", nil, nil, nil, left))
	s := g.node("Sub", "minus", nil, nil, nil, g.number(2), g.node("Gather", "pick", op("axis", model.Attribute{I: 1}), nil, nil, right, g.ints(3, 3, -4)))
	g.node(model.OpLinear, "out", nil, w("out", 3, 7), nil, g.node("Concat", "join", op("axis", model.Attribute{I: 1}), nil, nil, e, s, left))
	checkGradients(t, g.finish(), &Batch{Rows: 4, X: randomVector(rng, 24, 1)})
}

// TestGradientsShared: a value that a product, its own transpose and a concatenation read.
func TestGradientsShared(t *testing.T) {
	g, w := newTensorGraph(-1, 6), drawn(9)
	x := g.node("Reshape", "matrix", nil, nil, nil, g.node(model.OpLinear, "in", nil, w("in", 6, 6), nil, g.at), g.ints(-1, 2, 3))
	y := g.node("MatMul", "square", nil, nil, nil, x, g.node("Transpose", "turned", op("perm", ints(0, 2, 1)), nil, nil, x))
	g.node("Concat", "join", op("axis", model.Attribute{I: 2}), nil, nil, y, x)
	checkGradients(t, g.finish(), &Batch{Rows: 3, X: randomVector(rand.New(rand.NewPCG(1, 2)), 18, 1)})
}

// TestArithmetic: numbers on either side of an op; differences alone would not tell a wrong function
// with its own right slope.
func TestArithmetic(t *testing.T) {
	for _, c := range []struct {
		op    model.Op
		first bool
		want  float32
	}{{"Add", false, 5}, {"Add", true, 5}, {"Sub", false, 1}, {"Sub", true, -1}, {"Mul", false, 6}, {"Mul", true, 6}, {"Div", false, 1.5}} {
		g := newTensorGraph(-1, 1)
		in := []model.ValueID{g.at, g.number(2)}
		if c.first {
			in[0], in[1] = in[1], in[0]
		}
		g.node(c.op, "op", nil, nil, nil, in...)
		n, err := New(g.finish(), nil)
		require.NoError(t, err)
		y, err := n.Forward(&Batch{Rows: 1, X: []float32{3}}, false)
		require.NoError(t, err)
		require.Equal(t, []float32{c.want}, y, "%+v", c)
	}
	for op, want := range map[model.Op]float64{"Sigmoid": 1 / (1 + math.Exp(-0.7)), "Tanh": math.Tanh(0.7), "Erf": math.Erf(0.7), "Sqrt": math.Sqrt(0.7), "Exp": math.Exp(0.7), "Neg": -0.7} {
		g := newTensorGraph(-1, 1)
		g.node(op, "op", nil, nil, nil, g.at)
		n, err := New(g.finish(), nil)
		require.NoError(t, err)
		y, err := n.Forward(&Batch{Rows: 1, X: []float32{0.7}}, false)
		require.NoError(t, err)
		require.InDelta(t, want, float64(y[0]), 2e-7, op)
	}
}

// TestGoldenTensor: loss, logits and gradients of PyTorch. Ours are float32: some hundred roundings of
// 2^-24 of the largest term of a gradient, 1e-5.
func TestGoldenTensor(t *testing.T) {
	data, err := os.ReadFile("testdata/golden_tensor.json")
	require.NoError(t, err)
	var cases map[string]struct {
		X       []float32
		Y       []int32
		Loss    float64
		Logits  []float64
		Weights map[string][]float32
		Grads   map[string][]float64
	}
	require.NoError(t, json.Unmarshal(data, &cases))
	for name, make := range map[string]func(source) *model.Graph{"fire": fire, "encoder": bert} {
		c := cases[name]
		used := 0
		g := make(func(name string, shape ...int) *model.Weight {
			n := 1
			for _, d := range shape {
				n *= d
			}
			require.Len(t, c.Weights[name], n, name)
			used++
			return &model.Weight{Name: name, Shape: shape, Data: sparse.NewDense(shape[0], n/shape[0], c.Weights[name])}
		})
		require.Len(t, c.Weights, used)
		n, err := New(g, linalg.NewPool(2))
		require.NoError(t, err)
		require.Len(t, n.Params, used)
		v, err := n.Gradients(&Batch{Rows: len(c.Y), X: c.X, Targets: c.Y}, CrossEntropy{})
		require.NoError(t, err)
		require.InDelta(t, c.Loss, v.Loss, 1e-6)
		for i, x := range n.s.values[n.out] {
			require.InDelta(t, c.Logits[i], float64(x), 3e-6)
		}
		for _, p := range n.Params {
			top := 0.01
			for _, x := range c.Grads[p.Name] {
				top = math.Max(top, math.Abs(x))
			}
			for i, x := range c.Grads[p.Name] {
				require.InDelta(t, x, float64(p.Grad[i]), 1e-5*top, "%s: %s[%d]", name, p.Name, i)
			}
		}
		// Steps reach the file's graph: weights and constants alike.
		stepAll(nil, (SGD{}).start(n.Params), n.Params, 0.1, 1)
		require.NoError(t, n.Store())
		again, err := New(g, linalg.NewPool(2))
		require.NoError(t, err)
		for i, p := range again.Params {
			require.Equal(t, n.Params[i].W, p.W, p.Name)
		}
		for _, x := range g.Constants {
			require.NoError(t, x.Check())
		}
	}
}
