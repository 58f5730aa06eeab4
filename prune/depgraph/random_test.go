package depgraph

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// maker builds tensor graphs node by node; shapes follow by inference.
type maker struct {
	g   *model.Graph
	rng *rand.Rand
}

func newMaker(name string, seed uint64, shape ...int) (*maker, model.ValueID) {
	m := &maker{&model.Graph{Name: name, Arch: "onnx", Opsets: map[string]int{"": 17}, Constants: map[model.ValueID]*model.Tensor{}}, rand.New(rand.NewPCG(seed, 3))}
	x := m.value("x", model.ElemF32, shape)
	m.g.Inputs = []model.ValueID{x}
	return m, x
}

func (m *maker) value(name string, e model.Elem, shape []int) model.ValueID {
	m.g.Values = append(m.g.Values, model.Value{Name: name, Elem: e, Shape: shape})
	return model.ValueID(len(m.g.Values) - 1)
}

func (m *maker) shape(v model.ValueID) []int { return m.g.Values[v].Shape }

func (m *maker) floats(n int, mean float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(mean + m.rng.NormFloat64()*0.4)
	}
	return x
}

func (m *maker) constant(t *model.Tensor) model.ValueID {
	v := m.value(fmt.Sprintf("c%d", len(m.g.Values)), t.Elem, t.Shape)
	m.g.Constants[v] = t
	return v
}

func (m *maker) vector(n int, mean float64) model.ValueID {
	return m.constant(model.F32Tensor(m.floats(n, mean), n))
}

func (m *maker) ints(x ...int64) model.ValueID { return m.constant(model.I64Tensor(x, len(x))) }

// node appends a node; outs shapes are inferred, or given for the ops that have none.
func (m *maker) node(op model.Op, attrs map[string]model.Attribute, w, bias *model.Weight, shape []int, in ...model.ValueID) model.ValueID {
	n := &model.Node{Op: op, Name: fmt.Sprintf("%s%d", op, len(m.g.Nodes)), In: in, Weight: w, Bias: bias, Attr: &model.TensorOp{Version: 17, Attrs: attrs}}
	if shape == nil {
		kinds, consts := make([]tensorop.Kind, len(in)), make([]*model.Tensor, len(in))
		for i, v := range in {
			kinds[i], consts[i] = tensorop.Kind{Elem: m.g.Values[v].Elem, Shape: m.shape(v)}, m.g.Constants[v]
		}
		n.Outs = []model.ValueID{0}
		shape = tensorop.Infer(n, kinds, consts)[0].Shape
	}
	n.Out = m.value(n.Name+".out", model.ElemF32, shape)
	n.Outs = []model.ValueID{n.Out}
	m.g.Nodes = append(m.g.Nodes, n)
	for _, x := range []*model.Weight{w, bias} {
		if x != nil {
			m.g.Weights = append(m.g.Weights, x)
		}
	}
	return n.Out
}

func (m *maker) weight(shape ...int) *model.Weight {
	n := 1
	for _, d := range shape {
		n *= d
	}
	rows := shape[0]
	if len(shape) == 1 {
		rows = 1
	}
	w := m.floats(n, 0)
	for i := range w {
		w[i] *= float32(2 / math.Sqrt(float64(max(1, n/shape[0]))))
	}
	return &model.Weight{Name: fmt.Sprintf("w%d", len(m.g.Weights)+100*len(m.g.Nodes)), Shape: shape, Data: sparse.NewDense(rows, n/rows, w)}
}

func (m *maker) bias(n int) *model.Weight {
	b := m.weight(n)
	b.Name += ".bias"
	return b
}

func (m *maker) conv(x model.ValueID, out, kernel, groups int) model.ValueID {
	s := m.shape(x)
	p := kernel / 2
	attrs := map[string]model.Attribute{"kernel_shape": {Kind: model.AttrInts, Ints: []int64{int64(kernel), int64(kernel)}}, "group": {Kind: model.AttrInt, I: int64(groups)},
		"pads": {Kind: model.AttrInts, Ints: []int64{int64(p), int64(p), int64(p), int64(p)}}}
	return m.node("Conv", attrs, m.weight(out, s[1]/groups, kernel, kernel), m.bias(out), []int{s[0], out, s[2], s[3]}, x)
}

func (m *maker) linear(x model.ValueID, out int) model.ValueID {
	s := slices.Clone(m.shape(x))
	in := s[len(s)-1]
	s[len(s)-1] = out
	return m.node(model.OpLinear, nil, m.weight(out, in), m.bias(out), s, x)
}

func (m *maker) batchNorm(x model.ValueID) model.ValueID {
	c := m.shape(x)[1]
	v := m.floats(c, 1)
	for i := range v {
		v[i] = max(v[i], 0.2)
	}
	return m.node(model.OpBatchNorm, nil, nil, nil, nil, x, m.vector(c, 1), m.vector(c, 0), m.vector(c, 0), m.constant(model.F32Tensor(v, c)))
}

func intAttr(i int) map[string]model.Attribute {
	return map[string]model.Attribute{"axis": {Kind: model.AttrInt, I: int64(i)}}
}

// split cuts the channels in two parts of the given sizes.
func (m *maker) split(x model.ValueID, a int) (model.ValueID, model.ValueID) {
	s := m.shape(x)
	n := &model.Node{Op: "Split", Name: fmt.Sprintf("Split%d", len(m.g.Nodes)), In: []model.ValueID{x, m.ints(int64(a), int64(s[1]-a))}, Attr: &model.TensorOp{Version: 17, Attrs: intAttr(1)}}
	for _, c := range []int{a, s[1] - a} {
		n.Outs = append(n.Outs, m.value(fmt.Sprintf("%s.%d", n.Name, len(n.Outs)), model.ElemF32, []int{s[0], c, s[2], s[3]}))
	}
	n.Out = n.Outs[0]
	m.g.Nodes = append(m.g.Nodes, n)
	return n.Outs[0], n.Outs[1]
}

func (m *maker) finish(y model.ValueID) *model.Graph {
	m.g.Outputs = []model.ValueID{y}
	return m.g
}

// random is a small network of everything that channels go through.
func random(seed uint64) *model.Graph {
	m, x := newMaker(fmt.Sprint("random", seed), seed, -1, 3, 6, 6)
	x = m.conv(x, 4+m.rng.IntN(9), 3, 1)
	for range 3 + m.rng.IntN(6) {
		c := m.shape(x)[1]
		switch m.rng.IntN(13) {
		case 0:
			x = m.node("Relu", nil, nil, nil, nil, m.batchNorm(x))
		case 1: // residual
			y := m.conv(m.node("Relu", nil, nil, nil, nil, m.conv(x, 3+m.rng.IntN(8), 3, 1)), c, 1, 1)
			x = m.node("Add", nil, nil, nil, nil, y, x)
		case 2: // dense block
			x = m.node("Concat", intAttr(1), nil, nil, nil, m.conv(x, 2+m.rng.IntN(5), 3, 1), x, m.batchNorm(x))
		case 3: // depthwise, with a multiplier
			x = m.conv(x, c*(1+m.rng.IntN(2)), 3, c)
		case 4: // grouped
			x = m.conv(m.conv(x, 12, 1, 1), 9, 3, 3)
		case 5: // squeeze and excite
			s := m.node("GlobalAveragePool", nil, nil, nil, nil, x)
			s = m.node("Sigmoid", nil, nil, nil, nil, m.conv(m.node("Relu", nil, nil, nil, nil, m.conv(s, 5, 1, 1)), c, 1, 1))
			x = m.node("Mul", nil, nil, nil, nil, x, s)
		case 6: // two halves
			if c < 4 {
				continue
			}
			a, b := m.split(x, c/2)
			x = m.node("Concat", intAttr(1), nil, nil, nil, b, m.conv(a, 4, 1, 1))
		case 7: // a padded shortcut
			y := m.node("Pad", nil, nil, nil, nil, x, m.ints(0, 2, 0, 0, 0, 3, 0, 0))
			x = m.node("Add", nil, nil, nil, nil, y, m.conv(x, c+5, 3, 1))
		case 8: // a slice of the channels
			if c < 5 {
				continue
			}
			x = m.node("Slice", nil, nil, nil, nil, x, m.ints(1), m.ints(int64(c-1)), m.ints(1))
		case 9: // per-channel scale and offset
			x = m.node("Mul", nil, nil, nil, nil, x, m.constant(model.F32Tensor(m.floats(c, 1), c, 1, 1)))
			x = m.node("Add", nil, nil, nil, nil, m.constant(model.F32Tensor(m.floats(c, 0), 1, c, 1, 1)), x)
		case 10:
			x = m.node("Tanh", nil, nil, nil, nil, m.conv(x, 3+m.rng.IntN(6), 3, 1))
		case 11: // there and back
			t := m.node("Transpose", map[string]model.Attribute{"perm": {Kind: model.AttrInts, Ints: []int64{0, 2, 3, 1}}}, nil, nil, nil, x)
			x = m.node("Transpose", map[string]model.Attribute{"perm": {Kind: model.AttrInts, Ints: []int64{0, 3, 1, 2}}}, nil, nil, nil, m.linear(t, c+1))
		case 12:
			x = m.node("InstanceNormalization", nil, nil, nil, nil, x, m.vector(c, 1), m.vector(c, 0))
		}
	}
	if m.rng.IntN(2) == 0 {
		x = m.node("GlobalAveragePool", nil, nil, nil, nil, x)
	}
	s := m.shape(x)
	if m.rng.IntN(2) == 0 {
		x = m.node("Flatten", intAttr(1), nil, nil, nil, x)
	} else {
		x = m.node("Reshape", nil, nil, nil, nil, x, m.ints(-1, int64(s[1]*s[2]*s[3])))
	}
	x = m.node("Relu", nil, nil, nil, nil, m.linear(x, 10))
	return m.finish(m.linear(x, 4))
}

// TestRandom: whatever the network, the small one computes what the masked one does.
func TestRandom(t *testing.T) {
	for seed := range uint64(150) {
		g := random(seed)
		o := Options{Ratio: 0.4, Score: Scores[seed%2], Scope: []Scope{Local, Global}[seed/2%2]}
		if seed%5 == 0 {
			o.RoundTo = 2
		}
		check(t, g, o, 2)
	}
}

// encoder is BERT's layer over vectors: four heads, learned positions, two layers, mean of all positions.
func encoder(seed uint64) *model.Graph {
	const seq, width, heads, ffn = 5, 16, 4, 24
	m, x := newMaker("encoder", seed, -1, seq, width)
	x = m.node("Add", nil, nil, nil, nil, x, m.constant(model.F32Tensor(m.floats(seq*width, 0), 1, seq, width)))
	x = m.linear(x, width)
	perm := func(x model.ValueID, p ...int64) model.ValueID {
		return m.node("Transpose", map[string]model.Attribute{"perm": {Kind: model.AttrInts, Ints: p}}, nil, nil, nil, x)
	}
	norm := func(x model.ValueID) model.ValueID {
		return m.node(model.OpLayerNorm, intAttr(-1), nil, nil, nil, x, m.vector(width, 1), m.vector(width, 0))
	}
	for range 2 {
		var qkv [3]model.ValueID
		for i := range qkv {
			h := m.node("Reshape", nil, nil, nil, nil, m.linear(x, width), m.ints(0, seq, heads, width/heads))
			qkv[i] = perm(h, 0, 2, 1, 3)
		}
		s := m.node("MatMul", nil, nil, nil, nil, qkv[0], perm(qkv[1], 0, 1, 3, 2))
		s = m.node("Softmax", intAttr(-1), nil, nil, nil, m.node("Mul", nil, nil, nil, nil, s, m.constant(model.F32Tensor([]float32{0.5}, 1))))
		y := perm(m.node("MatMul", nil, nil, nil, nil, s, qkv[2]), 0, 2, 1, 3)
		y = m.linear(m.node("Reshape", nil, nil, nil, nil, y, m.ints(0, seq, width)), width)
		x = norm(m.node("Add", nil, nil, nil, nil, x, y))
		f := m.linear(m.node("Gelu", nil, nil, nil, nil, m.linear(x, ffn)), width)
		x = norm(m.node("Add", nil, nil, nil, nil, f, x))
	}
	for _, n := range m.g.Nodes {
		n.Attr.(*model.TensorOp).Version = 20 // Gelu
	}
	m.g.Opsets[""] = 20
	x = m.node("ReduceMean", map[string]model.Attribute{"keepdims": {Kind: model.AttrInt}}, nil, nil, []int{-1, width}, x, m.ints(1))
	m.g.Nodes[len(m.g.Nodes)-1].Attr.(*model.TensorOp).Version = 20
	return m.finish(m.linear(x, 3))
}

// TestHeads: attention loses whole heads, with their rows of q, k and v and columns of the output; the
// stream behind layer norms stays, unless norms may lose columns.
func TestHeads(t *testing.T) {
	g := encoder(1)
	r := check(t, g, Options{Ratio: 0.25}, 3)
	sizes := map[int]int{}
	for _, x := range r.Groups {
		sizes[x.Units]++
		if x.Units == 4 {
			require.Len(t, x.Weights, 4, "rows of q, k, v and columns of the output: %v", x.Weights)
			require.Equal(t, 3, x.Kept)
		}
	}
	require.Equal(t, map[int]int{4: 2, 24: 2}, sizes)
	require.Contains(t, fmt.Sprint(r.Pinned), "norms are not to be pruned")

	p, err := New(g, Options{Ratio: 0.25, Norms: true})
	require.NoError(t, err)
	small, err := p.Small()
	require.NoError(t, err)
	// Its statistics are of what is left, so there is no masked network to compare with; it runs,
	// and its norms are narrower.
	require.Len(t, outputs(t, small, 2), 6)
	for _, n := range small.Nodes {
		if n.Op == model.OpLayerNorm {
			require.Equal(t, []int{12}, small.Constants[n.In[1]].Shape)
		}
	}
}

// TestOpaque: an op that is not known pins what it touches, and says so.
func TestOpaque(t *testing.T) {
	m, x := newMaker("opaque", 1, -1, 3, 4, 4)
	a := m.conv(x, 6, 3, 1)
	b := m.node("LRN", map[string]model.Attribute{"size": {Kind: model.AttrInt, I: 3}}, nil, nil, nil, a)
	c := m.node("Relu", nil, nil, nil, nil, m.conv(b, 8, 3, 1))
	g := m.finish(m.conv(c, 2, 1, 1))
	r := check(t, g, Options{Ratio: 0.5}, 2)
	require.Len(t, r.Groups, 1)
	require.Equal(t, 8, r.Groups[0].Units)
	require.Contains(t, fmt.Sprint(r.Pinned), `(LRN): is not known here`)
}
