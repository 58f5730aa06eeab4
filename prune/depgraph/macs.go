package depgraph

import "github.com/sparserun/sparserun/model"

// MACs counts the multiply-adds of one sample: convolutions and products of matrices, as the field
// counts FLOPs (twice that). Free dimensions count as one; what has no known shape counts nothing.
func MACs(g *model.Graph) int64 { return macs(g, func(_ place, n int) int { return n }) }

func (p *Plan) macs() int64 { return macs(p.g, p.left) }

func macs(g *model.Graph, left func(place, int) int) int64 {
	dim := func(v model.ValueID, a int) int64 {
		s := g.Values[v].Shape
		if a < 0 {
			a += len(s)
		}
		if a < 0 || a >= len(s) {
			return 0
		}
		return int64(max(1, left(place{v: v, axis: a}, s[a])))
	}
	product := func(v model.ValueID, lo, hi int) int64 {
		n := int64(1)
		for a := lo; a < hi; a++ {
			n *= dim(v, a)
		}
		return n
	}
	weight := func(w *model.Weight) int64 {
		n := int64(1)
		for a, d := range w.Shape {
			n *= int64(left(place{v: model.NoValue, w: w, axis: a}, d))
		}
		return n
	}
	var n int64
	for _, x := range g.Nodes {
		rank := len(g.Values[x.Out].Shape)
		switch {
		case x.Op == "Conv" && x.Weight != nil && rank > 2:
			n += product(x.Out, 2, rank) * weight(x.Weight)
		case x.Op == model.OpLinear && rank > 0:
			n += product(x.Out, 0, rank-1) * weight(x.Weight)
		case x.Op == "MatMul" && rank > 1 && len(x.In) > 1:
			n += product(x.Out, 0, rank) * dim(x.In[0], -1)
		}
	}
	return n
}
