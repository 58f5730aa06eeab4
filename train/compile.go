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
		w, err := n.param(node, node.Weight, width(in)*width(out))
		if err != nil {
			return nil, err
		}
		b, err := n.bias(node, width(out))
		return &linear{in, out, w, b, n.graph.Inputs}, err
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
		w, err := n.param(node, node.Weight, width(in))
		if err != nil {
			return nil, err
		}
		b, err := n.bias(node, width(in))
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
		return unary(&softmax{in, out})
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
	return nil, fmt.Errorf("train: node %q: no backward pass for op %s: %w", node.Name, node.Op, ErrGraph)
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
