package train

import (
	"fmt"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// compile makes the layer of a node.
func (n *Net) compile(node *model.Node) (layer, error) {
	g := n.graph
	width := func(v model.ValueID) int { return g.Values[v].Width }
	wrong := func(want any) error {
		return fmt.Errorf("train: node %q (%s): attributes: want %T, got %T: %w", node.Name, node.Op, want, node.Attr, ErrGraph)
	}
	want := 1
	switch node.Op {
	case model.OpSiLUGate, model.OpAdd, model.OpMul:
		want = 2
	case model.OpAttention:
		want = 3
	}
	if len(node.In) < want {
		return nil, fmt.Errorf("train: node %q (%s): want %d inputs, got %d: %w", node.Name, node.Op, want, len(node.In), ErrGraph)
	}
	in, out := node.In[0], node.Out
	unary := func(l layer) (layer, error) {
		if width(in) != width(out) {
			return nil, fmt.Errorf("train: node %q (%s): want width %d, got %d: %w", node.Name, node.Op, width(in), width(out), ErrGraph)
		}
		return l, nil
	}
	switch node.Op {
	case model.OpEmbedding:
		w, err := n.param(node, node.Weight, g.Values[out].Width*vocab(g))
		return &embedding{out, w}, err
	case model.OpLinear:
		reps := 1
		if node.Weight != nil {
			if r, c := node.Weight.Data.Dims(); c > 0 && width(in)%c == 0 && width(in)/c*r == width(out) {
				reps = max(1, width(in)/c)
			}
		}
		w, err := n.param(node, node.Weight, width(in)/reps*(width(out)/reps))
		if err != nil {
			return nil, err
		}
		b, err := n.bias(node, width(out)/reps)
		return &linear{in, out, w, b, reps}, err
	case model.OpRMSNorm:
		a, ok := node.Attr.(model.RMSNorm)
		if !ok {
			return nil, wrong(a)
		}
		group := a.Width
		if group == 0 {
			group = width(in)
		}
		w, err := n.param(node, node.Weight, group)
		if err != nil {
			return nil, err
		}
		return unary(&rmsNorm{in: in, out: out, w: w, eps: a.Eps, group: group})
	case model.OpLayerNorm:
		a, ok := node.Attr.(model.LayerNorm)
		if !ok {
			return nil, wrong(a)
		}
		group := width(in)
		if node.Weight != nil { // every position of a sequence by itself
			if _, c := node.Weight.Data.Dims(); c > 0 && width(in)%c == 0 {
				group = c
			}
		}
		w, err := n.param(node, node.Weight, group)
		if err != nil {
			return nil, err
		}
		b, err := n.bias(node, group)
		if err != nil {
			return nil, err
		}
		return unary(&layerNorm{in: in, out: out, w: w, b: b, eps: a.Eps})
	case model.OpRoPE:
		a, ok := node.Attr.(model.RoPE)
		if !ok {
			return nil, wrong(a)
		}
		if g.Config == nil {
			return nil, fmt.Errorf("train: node %q (%s): no language model: %w", node.Name, node.Op, ErrGraph)
		}
		return unary(&rope{in, out, ropeTable{attr: a}, max(1, width(in))})
	case model.OpAttention:
		a, ok := node.Attr.(model.Attention)
		if !ok {
			return nil, wrong(a)
		}
		shape := linalg.AttentionShape{Heads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim, Scale: a.Scale, Window: a.Window}
		return &attention{q: in, k: node.In[1], v: node.In[2], out: out, shape: shape}, nil
	case model.OpSiLUGate:
		return unary(&siluGate{in, node.In[1], out})
	case model.OpAdd:
		return unary(&add{in, node.In[1], out})
	case model.OpMul:
		return unary(&mul{in, node.In[1], out})
	case model.OpReLU:
		return unary(&relu{in, out})
	case model.OpSiLU:
		return unary(&silu{in, out})
	case model.OpGELU:
		a, _ := node.Attr.(model.GELU)
		return unary(&gelu{in, out, a.Tanh})
	case model.OpSoftmax:
		group := width(in)
		if a, ok := node.Attr.(groups); ok {
			group = int(a)
		}
		if group < 1 || width(in)%group != 0 {
			return nil, wrong(groups(0))
		}
		return unary(&softmax{in, out, group})
	case model.OpSelect:
		// Training wants the logits of every row.
		return unary(&alias{in, out})
	case model.OpConv:
		a, ok := node.Attr.(model.Conv)
		if !ok {
			return nil, wrong(a)
		}
		return n.conv(node, a)
	case model.OpMaxPool, model.OpAveragePool, model.OpGlobalAveragePool:
		a, ok := node.Attr.(model.Pool)
		if !ok {
			return nil, wrong(a)
		}
		return n.poolLayer(node, a)
	case model.OpBatchNorm:
		a, ok := node.Attr.(model.BatchNorm)
		if !ok {
			return nil, wrong(a)
		}
		return n.batchNorm(node, a)
	}
	if l, err := n.compileTensor(node); l != nil || err != nil {
		return l, err
	}
	return nil, fmt.Errorf("train: node %q: no backward pass for op %s: %w", node.Name, node.Op, ErrGraph)
}

// compileTensor makes the layer of an op that lowering made; nil where it is none.
func (n *Net) compileTensor(node *model.Node) (layer, error) {
	in, out := node.In[0], node.Out
	switch a := node.Attr.(type) {
	case point:
		return &pointLayer{in, out, a}, nil
	case picked:
		return &pick{in, out, a}, nil
	case meant:
		return &mean{in, out, a}, nil
	case []piece:
		return &concat{node.In, out, a}, nil
	case product:
		return &matmul{in, node.In[1], out, a}, nil
	case []int32:
		w, err := n.param(node, node.Weight, -1)
		return &stretched{in, out, w, a, node.Op == opScale}, err
	case groups:
		w, err := n.param(node, node.Weight, -1)
		return &table{in, out, w, int(a)}, err
	}
	return nil, nil
}

// bias reads a node's bias, nil where it has none.
func (n *Net) bias(node *model.Node, size int) (*Param, error) {
	if node.Bias == nil {
		return nil, nil
	}
	return n.param(node, node.Bias, size)
}

func vocab(g *model.Graph) int {
	if g.Config == nil {
		return -1
	}
	return g.Config.Vocab
}
