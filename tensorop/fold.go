package tensorop

import (
	"slices"

	"github.com/sparserun/sparserun/model"
)

// heavy are ops that folding leaves alone: their work is not bounded by the size
// of what they read and write.
var heavy = map[model.Op]bool{"Conv": true, "ConvTranspose": true, "MatMul": true, "Gemm": true, "Einsum": true, "LSTM": true, "GRU": true, "RNN": true,
	"Attention": true, "MatMulInteger": true, "ConvInteger": true, "QLinearConv": true, "QLinearMatMul": true, "MaxPool": true, "AveragePool": true, "LpPool": true}

// Fold computes what depends on nothing but constants, and says of every value
// what can be known: Values get Elem and Shape, Constants the results, and the
// nodes that made them go. The graph's nodes must be in order. A result is kept
// only if its size is known beforehand and spend agrees to its bytes.
func Fold(g *model.Graph, spend func(bytes int64) bool) {
	kept := g.Nodes[:0]
	for _, n := range g.Nodes {
		in, consts := make([]Kind, len(n.In)), make([]*T, len(n.In))
		all := true
		for i, v := range n.In {
			if v == model.NoValue {
				continue
			}
			in[i] = Kind{g.Values[v].Elem, g.Values[v].Shape}
			consts[i] = g.Constants[v]
			all = all && consts[i] != nil
		}
		out := Infer(n, in, consts)
		for i, v := range n.Outs {
			if v == model.NoValue || i >= len(out) {
				continue
			}
			// What follows from the inputs is surer than what the file says.
			if out[i].Elem.Supported() {
				g.Values[v].Elem = out[i].Elem
			}
			if out[i].Shape != nil {
				g.Values[v].Shape = sharper(out[i].Shape, g.Values[v].Shape)
			}
		}
		if t := shapeConstant(n, in); t != nil {
			g.Constants[n.Out] = t
			continue
		}
		if all && !heavy[n.Op] && len(n.In) > 0 && foldNode(g, n, out, consts, spend) {
			continue
		}
		kept = append(kept, n)
	}
	g.Nodes = kept
}

// sharper fills free dimensions of a from b where the ranks agree.
func sharper(a, b []int) []int {
	if len(a) != len(b) {
		return a
	}
	out := slices.Clone(a)
	for i, d := range out {
		if d < 0 {
			out[i] = b[i]
		}
	}
	return out
}

// shapeConstant is the result of a Shape whose input's shape is wholly known.
func shapeConstant(n *model.Node, in []Kind) *T {
	if n.Op != "Shape" || len(in) != 1 || in[0].Shape == nil || slices.Contains(in[0].Shape, -1) {
		return nil
	}
	op := n.Attr.(*model.TensorOp)
	if op.Domain != "" || len(op.Attrs) > 0 {
		return nil
	}
	out := make([]int64, len(in[0].Shape))
	for i, d := range in[0].Shape {
		out[i] = int64(d)
	}
	return model.I64Tensor(out, len(out))
}

func foldNode(g *model.Graph, n *model.Node, out []Kind, consts []*T, spend func(int64) bool) bool {
	if len(n.Outs) != 1 || out[0].Shape == nil || !out[0].Elem.Supported() || Has(n) != nil {
		return false
	}
	size, err := model.Elements(out[0].Elem, out[0].Shape)
	if err != nil || slices.Contains(out[0].Shape, -1) || !spend(int64(size)*int64(out[0].Elem.Size())) {
		return false
	}
	t, err := Run(&Call{Node: n, In: consts, Outs: 1})
	if err != nil || len(t) != 1 || t[0] == nil || t[0].Seq {
		return false // running the graph will say what is wrong
	}
	g.Constants[n.Out] = t[0]
	g.Values[n.Out].Elem, g.Values[n.Out].Shape = t[0].Elem, t[0].Shape
	return true
}
