package depgraph

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Small builds the network without what was removed: an ordinary graph that shares no memory that
// changes with the old one.
func (p *Plan) Small() (*model.Graph, error) {
	b := &build{p: p, g: clone(p.g), weights: map[*model.Weight]*model.Weight{}}
	b.g.Values = slices.Clone(p.g.Values)
	for i := range b.g.Values {
		b.g.Values[i].Shape = p.shape(place{v: model.ValueID(i)}, b.g.Values[i].Shape)
	}
	for v, t := range p.g.Constants {
		c, err := p.constant(v, t)
		if err != nil {
			return nil, err
		}
		b.g.Constants[v] = c
	}
	for _, w := range p.g.Weights {
		c, err := p.weight(w)
		if err != nil {
			return nil, err
		}
		b.weights[w] = c
		b.g.Weights = append(b.g.Weights, c)
	}
	for _, n := range p.g.Nodes {
		c := *n
		c.In, c.Outs = slices.Clone(n.In), slices.Clone(n.Outs)
		if n.Weight != nil {
			c.Weight = b.weights[n.Weight]
		}
		if n.Bias != nil {
			c.Bias = b.weights[n.Bias]
		}
		op := *n.Attr.(*model.TensorOp)
		op.Attrs = maps.Clone(op.Attrs)
		c.Attr = &op
		if err := b.adapt(n, &c, &op); err != nil {
			return nil, err
		}
		b.g.Nodes = append(b.g.Nodes, &c)
	}
	b.drop()
	if err := b.g.Check(); err != nil {
		return nil, fmt.Errorf("depgraph: %w", err)
	}
	return b.g, nil
}

// drop forgets constants that were replaced for all their readers.
func (b *build) drop() {
	read := map[model.ValueID]bool{}
	for _, n := range b.g.Nodes {
		for _, v := range n.In {
			read[v] = true
		}
	}
	for v := range b.g.Constants {
		if !read[v] && !slices.Contains(b.g.Outputs, v) {
			delete(b.g.Constants, v)
		}
	}
}

// clone is a graph's frame, without nodes, weights and constants.
func clone(g *model.Graph) *model.Graph {
	c := &model.Graph{Name: g.Name, Arch: g.Arch, Inputs: slices.Clone(g.Inputs), Outputs: slices.Clone(g.Outputs), Opsets: maps.Clone(g.Opsets),
		Constants: map[model.ValueID]*model.Tensor{}, Source: g.Source}
	c.Source.Meta = maps.Clone(g.Source.Meta)
	return c
}

type build struct {
	p       *Plan
	g       *model.Graph
	weights map[*model.Weight]*model.Weight
}

// shape is a shape after pruning.
func (p *Plan) shape(at place, s []int) []int {
	if s == nil {
		return nil
	}
	out := slices.Clone(s)
	for a, d := range s {
		at.axis = a
		out[a] = p.left(at, d)
	}
	return out
}

func (p *Plan) constant(v model.ValueID, t *model.Tensor) (*model.Tensor, error) {
	for a := range t.Shape {
		keep, ok := p.keep[place{v: v, axis: a}]
		if !ok {
			continue
		}
		out := &model.Tensor{Elem: t.Elem, Shape: slices.Clone(t.Shape)}
		out.Shape[a] = len(keep)
		switch d := t.Data.(type) {
		case []float32:
			out.Data = take(d, t.Shape, a, keep)
		case []float64:
			out.Data = take(d, t.Shape, a, keep)
		case []uint16:
			out.Data = take(d, t.Shape, a, keep)
		case []int64:
			out.Data = take(d, t.Shape, a, keep)
		case []int32:
			out.Data = take(d, t.Shape, a, keep)
		case []int8:
			out.Data = take(d, t.Shape, a, keep)
		case []uint8:
			out.Data = take(d, t.Shape, a, keep)
		case []bool:
			out.Data = take(d, t.Shape, a, keep)
		default:
			return nil, fmt.Errorf("depgraph: constant %q of %v: %w", p.g.Values[v].Name, t.Elem, ErrGraph)
		}
		t = out
	}
	return t, nil
}

// around is how many blocks stand before an axis and how many numbers an index of it
// holds: index k of block o begins at (o*shape[axis]+k)*inner.
func around(shape []int, axis int) (outer, inner int) {
	outer, inner = 1, 1
	for a, d := range shape {
		if a < axis {
			outer *= d
		} else if a > axis {
			inner *= d
		}
	}
	return outer, inner
}

// take keeps some indices of one axis.
func take[T any](x []T, shape []int, axis int, keep []int) []T {
	outer, inner := around(shape, axis)
	out := make([]T, 0, outer*inner*len(keep))
	for o := range outer {
		for _, k := range keep {
			at := (o*shape[axis] + k) * inner
			out = append(out, x[at:at+inner]...)
		}
	}
	return out
}

func (p *Plan) weight(w *model.Weight) (*model.Weight, error) {
	at := place{v: model.NoValue, w: w}
	shape := p.shape(at, w.Shape)
	if slices.Equal(shape, w.Shape) {
		c := *w
		return &c, nil
	}
	x, err := sparse.Read(w.Data)
	if err != nil {
		return nil, fmt.Errorf("depgraph: %q: %w", w.Name, err)
	}
	was := slices.Clone(w.Shape)
	for a := range was {
		at.axis = a
		if keep, ok := p.keep[at]; ok {
			x = take(x, was, a, keep)
			was[a] = len(keep)
		}
	}
	rows := shape[0]
	if w.Rank1() {
		rows = 1
	}
	return &model.Weight{Name: w.Name, Shape: shape, Data: sparse.NewDense(rows, len(x)/max(1, rows), x)}, nil
}

// adapt changes attributes and constants that hold sizes.
func (b *build) adapt(old, n *model.Node, op *model.TensorOp) error {
	axis := func(v model.ValueID, a int) (was, now int, keep []int, changed bool) {
		s := b.p.g.Values[v].Shape
		keep, changed = b.p.keep[place{v: v, axis: a}]
		return s[a], b.p.left(place{v: v, axis: a}, s[a]), keep, changed
	}
	switch old.Op {
	case "Conv":
		// Depthwise: as many groups as channels are left.
		if g := op.Attrs["group"]; g.I > 1 && old.Weight != nil && old.Weight.Shape[1] == 1 {
			g.I = int64(b.g.Values[n.In[0]].Shape[1])
			op.Attrs["group"] = g
		}
	case "Reshape":
		t, _ := integers(b.p.g.Constants[old.In[1]])
		now := slices.Clone(t)
		for a, d := range b.g.Values[n.Out].Shape {
			if a < len(now) && now[a] > 0 && d >= 0 {
				now[a] = int64(d)
			}
		}
		b.replace(n, 1, t, now)
	case "Split":
		sizes := make([]int64, len(old.Outs))
		a, changed := splitAxis(b.p.g, old, op), false
		for i, v := range old.Outs {
			was, now, _, _ := axis(v, a)
			sizes[i] = int64(now)
			changed = changed || was != now
		}
		if !changed {
			return nil
		}
		if op.Version < 13 {
			op.Attrs["split"] = model.Attribute{Kind: model.AttrInts, Ints: sizes}
			return nil
		}
		delete(op.Attrs, "num_outputs")
		n.In = n.In[:1]
		n.In = append(n.In, b.fresh(old.Name+".sizes", sizes))
	case "Slice":
		return b.slice(old, n, op)
	case "Pad":
		pads, _ := padsOf(b.p.g, old, op)
		now := slices.Clone(pads)
		rank := len(b.p.g.Values[old.Out].Shape)
		for a := range rank {
			was, _, keep, changed := axis(old.Out, a)
			if !changed {
				continue
			}
			before, end := int(pads[a]), was-int(pads[rank+a])
			now[a], now[rank+a] = 0, 0
			for _, k := range keep {
				if k < before {
					now[a]++
				} else if k >= end {
					now[rank+a]++
				}
			}
		}
		if op.Version < 11 {
			op.Attrs["pads"] = model.Attribute{Kind: model.AttrInts, Ints: now}
			return nil
		}
		b.replace(n, 1, pads, now)
	}
	return nil
}

func splitAxis(g *model.Graph, n *model.Node, op *model.TensorOp) int {
	a := int(op.Attrs["axis"].I)
	if a < 0 {
		a += len(g.Values[n.In[0]].Shape)
	}
	return a
}

// slice moves the limits of channels that are cut out with a step of one.
func (b *build) slice(old, n *model.Node, op *model.TensorOp) error {
	cuts, _ := sliceOf(b.p.g, old, op)
	if cuts == nil {
		return nil // opaque: nothing of it went
	}
	var starts, ends []int64
	for a, c := range cuts {
		at := place{v: old.In[0], axis: a}
		keep, changed := b.p.keep[at]
		if !changed || c.given < 0 {
			continue
		}
		if starts == nil {
			if op.Version < 10 {
				starts, ends = slices.Clone(op.Attrs["starts"].Ints), slices.Clone(op.Attrs["ends"].Ints)
			} else {
				s, _ := integers(b.p.g.Constants[old.In[1]])
				e, _ := integers(b.p.g.Constants[old.In[2]])
				starts, ends = slices.Clone(s), slices.Clone(e)
			}
		}
		lo := 0
		for _, k := range keep {
			if k < c.lo {
				lo++
			}
		}
		starts[c.given] = int64(lo)
		ends[c.given] = int64(lo + b.g.Values[n.Out].Shape[a])
	}
	if starts == nil {
		return nil
	}
	if op.Version < 10 {
		op.Attrs["starts"], op.Attrs["ends"] = model.Attribute{Kind: model.AttrInts, Ints: starts}, model.Attribute{Kind: model.AttrInts, Ints: ends}
		return nil
	}
	n.In[1], n.In[2] = b.fresh(old.Name+".starts", starts), b.fresh(old.Name+".ends", ends)
	return nil
}

// replace gives a node a constant of its own where its numbers changed; others may read the old one.
func (b *build) replace(n *model.Node, i int, was, now []int64) {
	if !slices.Equal(was, now) {
		n.In[i] = b.fresh(n.Name+".shape", now)
	}
}

func (b *build) fresh(name string, x []int64) model.ValueID {
	taken := func(s string) bool {
		return slices.ContainsFunc(b.g.Values, func(v model.Value) bool { return v.Name == s })
	}
	for i, base := 0, name; taken(name); i++ {
		name = fmt.Sprintf("%s_%d", base, i)
	}
	b.g.Values = append(b.g.Values, model.Value{Name: name, Elem: model.ElemI64, Shape: []int{len(x)}})
	v := model.ValueID(len(b.g.Values) - 1)
	b.g.Constants[v] = model.I64Tensor(x, len(x))
	return v
}
