package depgraph

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
)

// tracer walks a graph and ties elements.
type tracer struct {
	elements
	g     *model.Graph
	norms bool
}

// like are ops whose output is, element by element, of their first input.
var like = map[model.Op]bool{
	"Abs": true, "Neg": true, "Sign": true, "Exp": true, "Log": true, "Sqrt": true, "Reciprocal": true, "Floor": true, "Ceil": true, "Round": true,
	"Tanh": true, "Erf": true, "Sigmoid": true, "Softplus": true, "Softsign": true, "Mish": true, "Relu": true, "Gelu": true, "LeakyRelu": true,
	"Elu": true, "Celu": true, "Selu": true, "HardSigmoid": true, "HardSwish": true, "ThresholdedRelu": true, "Swish": true, "Identity": true,
	"Dropout": true, "Clip": true, "Cast": true, "Not": true,
}

// stretch are ops that broadcast all their inputs.
var stretch = map[model.Op]bool{
	"Add": true, "Sub": true, "Mul": true, "Div": true, "Pow": true, "Max": true, "Min": true, "Sum": true, "Mean": true, "PRelu": true, "Where": true,
	"Equal": true, "Less": true, "Greater": true, "LessOrEqual": true, "GreaterOrEqual": true, "And": true, "Or": true,
}

func trace(g *model.Graph, norms bool) *tracer {
	t := &tracer{elements: elements{at: map[place]int{}}, g: g, norms: norms}
	for _, v := range g.Inputs {
		t.pinValue(v, "is an input of the network")
	}
	for _, n := range g.Nodes {
		t.node(n)
	}
	for _, v := range g.Outputs {
		t.pinValue(v, "is an output of the network")
	}
	return t
}

func (t *tracer) shape(v model.ValueID) []int {
	if v == model.NoValue {
		return nil
	}
	return t.g.Values[v].Shape
}

// axis is the span of axis a of a value, counted from the end if negative.
func (t *tracer) axis(v model.ValueID, a int) *span {
	s := t.shape(v)
	if a < 0 {
		a += len(s)
	}
	if a < 0 || a >= len(s) {
		return nil
	}
	return t.span(place{v: v, axis: a}, s[a])
}

func (t *tracer) weight(w *model.Weight, a int) *span {
	if w == nil || a >= len(w.Shape) {
		return nil
	}
	return t.span(place{w: w, v: model.NoValue, axis: a}, w.Shape[a])
}

func (t *tracer) pinValue(v model.ValueID, why string) {
	for a := range t.shape(v) {
		t.pin(t.axis(v, a), why)
	}
}

// opaque pins whatever a node touches.
func (t *tracer) opaque(n *model.Node, why string) {
	for _, v := range slices.Concat(n.In, n.Outs) {
		t.pinValue(v, fmt.Sprintf("node %q (%s): %s", n.Name, n.Op, why))
	}
	for _, w := range []*model.Weight{n.Weight, n.Bias} {
		if w != nil {
			for a := range w.Shape {
				t.pin(t.weight(w, a), fmt.Sprintf("node %q (%s): %s", n.Name, n.Op, why))
			}
		}
	}
}

// through ties axis a of two values.
func (t *tracer) through(x, y model.ValueID, a, b int) {
	p, q := t.axis(x, a), t.axis(y, b)
	switch {
	case p == nil || q == nil:
		t.pin(p, "meets a dimension of another size")
		t.pin(q, "meets a dimension of another size")
	case p.n != q.n:
		t.pin(p, "meets a dimension of another size")
		t.pin(q, "meets a dimension of another size")
	default:
		t.same(p, q, 0, 0, p.n)
	}
}

// pinAxis pins an axis of a value for what a node does with it.
func (t *tracer) pinAxis(n *model.Node, v model.ValueID, a int) {
	t.pin(t.axis(v, a), fmt.Sprintf("node %q (%s) computes over it", n.Name, n.Op))
}

func (t *tracer) ints(n *model.Node, i int) ([]int64, bool) {
	if i >= len(n.In) || n.In[i] == model.NoValue {
		return nil, false
	}
	return integers(t.g.Constants[n.In[i]])
}

// integers are the numbers of an integer constant.
func integers(c *model.Tensor) ([]int64, bool) {
	if c == nil {
		return nil, false
	}
	switch d := c.Data.(type) {
	case []int64:
		return d, true
	case []int32:
		out := make([]int64, len(d))
		for i, v := range d {
			out[i] = int64(v)
		}
		return out, true
	}
	return nil, false
}

func (t *tracer) node(n *model.Node) {
	op, ok := n.Attr.(*model.TensorOp)
	if !ok || op.Domain != "" || len(n.In) == 0 || n.In[0] == model.NoValue {
		t.opaque(n, "is not known here")
		return
	}
	x, y := n.In[0], n.Out
	if t.shape(x) == nil || t.shape(y) == nil {
		t.opaque(n, "shapes that are not known before it runs")
		return
	}
	rank := len(t.shape(x))
	if len(n.In) < 2 && (n.Op == "MatMul" || n.Op == "Gather") {
		t.opaque(n, "an input is missing")
		return
	}
	if a, ok := op.Attrs["axis"]; ok && (a.I < -int64(rank) || a.I > int64(rank)) {
		t.opaque(n, "an axis that it has not")
		return
	}
	attr := func(name string, absent int) int {
		a, ok := op.Attrs[name]
		v := absent
		if ok {
			v = int(a.I)
		}
		if v < 0 {
			v += rank
		}
		return v
	}
	switch {
	case like[n.Op]:
		for _, o := range n.Outs {
			if o != model.NoValue {
				t.each(x, o)
			}
		}
		return
	case stretch[n.Op]:
		t.broadcast(n)
		return
	}
	switch n.Op {
	case "Conv":
		t.conv(n, op)
	case model.OpLinear:
		for a := range rank - 1 {
			t.through(x, y, a, a)
		}
		t.tie(n, t.axis(x, -1), t.weight(n.Weight, 1))
		t.tie(n, t.axis(y, -1), t.weight(n.Weight, 0))
		if n.Bias != nil {
			t.tie(n, t.axis(y, -1), t.weight(n.Bias, 0))
		}
	case "MatMul":
		t.matmul(n)
	case "BatchNormalization", "InstanceNormalization":
		t.each(x, y)
		for _, c := range n.In[1:] {
			t.through(x, c, 1, 0)
		}
	case "LayerNormalization", "RMSNormalization":
		t.each(x, y)
		first := attr("axis", -1)
		for a := first; a < rank; a++ {
			if !t.norms {
				t.pin(t.axis(x, a), fmt.Sprintf("node %q (%s) takes its mean over it (norms are not to be pruned)", n.Name, n.Op))
			}
			for _, c := range n.In[1:] {
				t.through(x, c, a, a-rank+len(t.shape(c)))
			}
		}
	case "Softmax", "LogSoftmax", "Hardmax":
		t.each(x, y)
		absent := -1
		if op.Version < 13 {
			absent = 1
		}
		for a := attr("axis", absent); a < rank; a++ {
			t.pinAxis(n, x, a)
			if op.Version >= 13 {
				break
			}
		}
	case "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool":
		if len(n.Outs) > 1 && n.Outs[1] != model.NoValue {
			t.opaque(n, "gives indices")
			return
		}
		t.channels(n)
	case "Resize", "Upsample":
		if len(n.In) > 3 && n.In[3] != model.NoValue || t.shape(x)[1] != t.shape(y)[1] {
			t.opaque(n, "sizes of all dimensions")
			return
		}
		t.channels(n)
	case "Transpose":
		perm := op.Attrs["perm"].Ints
		for a := range rank {
			from := rank - 1 - a
			if len(perm) == rank {
				from = int(perm[a])
			}
			t.through(x, y, from, a)
		}
	case "Flatten", "Reshape", "Squeeze", "Unsqueeze":
		t.reshape(n)
	case "Concat":
		t.concat(n, attr("axis", 1))
	case "Split":
		t.split(n, attr("axis", 0))
	case "Slice":
		t.slice(n, op)
	case "Pad":
		t.pad(n, op)
	case "Gather":
		a, it := attr("axis", 0), len(t.shape(n.In[1]))
		t.pinAxis(n, x, a)
		for i := range rank {
			if i < a {
				t.through(x, y, i, i)
			} else if i > a {
				t.through(x, y, i, i-1+it)
			}
		}
		for i := range it {
			t.pinAxis(n, y, a+i)
		}
	case "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare":
		t.reduce(n, op)
	default:
		t.opaque(n, "is not known here")
	}
}

// each ties two values of one shape, axis by axis.
func (t *tracer) each(x, y model.ValueID) {
	for a := range t.shape(x) {
		t.through(x, y, a, a)
	}
}

// channels ties the first two axes; the others are space, which an op works on.
func (t *tracer) channels(n *model.Node) {
	for a := range t.shape(n.In[0]) {
		if a < 2 {
			t.through(n.In[0], n.Out, a, a)
		} else {
			t.pinAxis(n, n.In[0], a)
			t.pinAxis(n, n.Out, a)
		}
	}
}

// tie ties a value's axis to a weight's.
func (t *tracer) tie(n *model.Node, a, b *span) {
	if a == nil || b == nil || a.n != b.n {
		why := fmt.Sprintf("node %q (%s): weight of another size", n.Name, n.Op)
		t.pin(a, why)
		t.pin(b, why)
		return
	}
	t.same(a, b, 0, 0, a.n)
}

// broadcast: axes meet from the end; one of size 1 stands for all.
func (t *tracer) broadcast(n *model.Node) {
	rank := len(t.shape(n.Out))
	for _, v := range n.In {
		if v == model.NoValue {
			continue
		}
		s := t.shape(v)
		if s == nil && t.g.Constants[v] == nil { // a constant without dimensions is a number
			t.opaque(n, "shapes that are not known before it runs")
			return
		}
		for a, d := range s {
			if d != 1 {
				t.through(v, n.Out, a, a+rank-len(s))
			}
		}
	}
}

// conv: groups of one input channel (depthwise) carry their channel through; wider groups lose the
// same position of every group, so that they stay equally wide.
func (t *tracer) conv(n *model.Node, op *model.TensorOp) {
	if n.Weight == nil || len(n.Weight.Shape) < 3 {
		t.opaque(n, "a weight that is computed")
		return
	}
	x, y := n.In[0], n.Out
	t.through(x, y, 0, 0)
	for a := 2; a < len(t.shape(x)); a++ {
		t.pinAxis(n, x, a)
		t.pinAxis(n, y, a)
	}
	in, out, rows, cols := t.axis(x, 1), t.axis(y, 1), t.weight(n.Weight, 0), t.weight(n.Weight, 1)
	t.tie(n, out, rows)
	if n.Bias != nil {
		t.tie(n, out, t.weight(n.Bias, 0))
	}
	groups := 1
	if a, ok := op.Attrs["group"]; ok {
		groups = int(a.I)
	}
	o, i := n.Weight.Shape[0], n.Weight.Shape[1]
	switch {
	case groups == 1:
		t.tie(n, in, cols)
	case groups < 1 || in == nil || in.n != groups*i || o%groups != 0:
		t.opaque(n, "groups that do not fit its channels")
	case i == 1:
		for j := range o {
			t.union(in.base+j/(o/groups), out.base+j)
		}
	default:
		for j := range in.n {
			t.union(in.base+j, cols.base+j%i)
		}
		if per := o / groups; per > 1 {
			for j := range o {
				t.union(out.base+j, out.base+j%per)
			}
		} else {
			t.pinAxis(n, y, 1)
		}
	}
}

func (t *tracer) matmul(n *model.Node) {
	a, b, y := n.In[0], n.In[1], n.Out
	ra, rb, ry := len(t.shape(a)), len(t.shape(b)), len(t.shape(y))
	if ra < 2 || rb < 2 || ry != max(ra, rb) {
		t.opaque(n, "a product of vectors")
		return
	}
	t.pinAxis(n, a, -1)
	t.pinAxis(n, b, -2)
	t.through(a, y, ra-2, ry-2)
	t.through(b, y, rb-1, ry-1)
	for _, v := range []model.ValueID{a, b} {
		s := t.shape(v)
		for i := range len(s) - 2 {
			if s[i] != 1 {
				t.through(v, y, i, i+ry-len(s))
			}
		}
	}
}

func (t *tracer) concat(n *model.Node, axis int) {
	off := 0
	out := t.axis(n.Out, axis)
	for _, v := range n.In {
		s := t.shape(v)
		if s == nil || out == nil || axis >= len(s) || s[axis] < 0 {
			t.opaque(n, "shapes that are not known before it runs")
			return
		}
		for a := range s {
			if a != axis {
				t.through(v, n.Out, a, a)
			}
		}
		if p := t.axis(v, axis); p != nil {
			t.same(p, out, 0, off, p.n)
		} else {
			t.pinAt(out, off, s[axis], fmt.Sprintf("node %q (%s): a part of one", n.Name, n.Op))
		}
		off += s[axis]
	}
}

// pinAt pins n elements of a span.
func (t *tracer) pinAt(s *span, off, n int, why string) {
	for i := range n {
		if r := t.find(s.base + off + i); t.pinned[r] == "" {
			t.pinned[r] = why
		}
	}
}

func (t *tracer) split(n *model.Node, axis int) {
	off, in := 0, t.axis(n.In[0], axis)
	for _, v := range n.Outs {
		s := t.shape(v)
		if v == model.NoValue || in == nil || axis >= len(s) || s[axis] < 0 {
			t.opaque(n, "shapes that are not known before it runs")
			return
		}
		for a := range s {
			if a != axis {
				t.through(n.In[0], v, a, a)
			}
		}
		if p := t.axis(v, axis); p != nil {
			t.same(p, in, 0, off, p.n)
		} else {
			t.pinAt(in, off, s[axis], fmt.Sprintf("node %q (%s): a part of one", n.Name, n.Op))
		}
		off += s[axis]
	}
}

// slice ties what a step of one leaves; other steps are for space.
func (t *tracer) slice(n *model.Node, op *model.TensorOp) {
	c, ok := sliceOf(t.g, n, op)
	if !ok {
		t.opaque(n, "limits that are not constant")
		return
	}
	for a := range t.shape(n.In[0]) {
		in, out := t.axis(n.In[0], a), t.axis(n.Out, a)
		lo, step := c[a].lo, c[a].step
		switch {
		case in == nil:
		case step != 1 || out == nil:
			t.pinAxis(n, n.In[0], a)
			t.pinAxis(n, n.Out, a)
		default:
			t.same(in, out, lo, 0, out.n)
		}
	}
}

// cut is what a Slice takes of an axis.
type cut struct {
	lo, step int
	given    int // which of the Slice's axes this is; -1: none
}

func sliceOf(g *model.Graph, n *model.Node, op *model.TensorOp) ([]cut, bool) {
	s := g.Values[n.In[0]].Shape
	var p [4][]int64
	if op.Version < 10 {
		p[0], p[1], p[2] = op.Attrs["starts"].Ints, op.Attrs["ends"].Ints, op.Attrs["axes"].Ints
	} else {
		for i := range p {
			if i+1 < len(n.In) && n.In[i+1] != model.NoValue {
				var ok bool
				if p[i], ok = integers(g.Constants[n.In[i+1]]); !ok {
					return nil, false
				}
			}
		}
	}
	if p[2] == nil {
		for i := range p[0] {
			p[2] = append(p[2], int64(i))
		}
	}
	out := make([]cut, len(s))
	for i := range out {
		out[i] = cut{0, 1, -1}
	}
	if len(p[2]) != len(p[0]) || len(p[1]) != len(p[0]) || p[3] != nil && len(p[3]) != len(p[0]) {
		return nil, false
	}
	for i, a := range p[2] {
		if a < 0 {
			a += int64(len(s))
		}
		if a < 0 || int(a) >= len(s) {
			return nil, false
		}
		step := int64(1)
		if p[3] != nil {
			step = p[3][i]
		}
		lo := p[0][i]
		if d := s[a]; d >= 0 {
			if lo < 0 {
				lo += int64(d)
			}
			lo = max(0, min(lo, int64(d)))
		}
		out[a] = cut{int(lo), int(step), i}
	}
	return out, true
}

// padsOf are the pads of every axis, before and after.
func padsOf(g *model.Graph, n *model.Node, op *model.TensorOp) ([]int64, bool) {
	rank := len(g.Values[n.In[0]].Shape)
	p := op.Attrs["pads"].Ints
	if op.Version >= 11 {
		if len(n.In) < 2 || len(n.In) > 3 && n.In[3] != model.NoValue {
			return nil, false
		}
		var ok bool
		if p, ok = integers(g.Constants[n.In[1]]); !ok {
			return nil, false
		}
	}
	return p, len(p) == 2*rank
}

// pad ties what was there; new channels stand alone until something meets them.
func (t *tracer) pad(n *model.Node, op *model.TensorOp) {
	p, ok := padsOf(t.g, n, op)
	if !ok {
		t.opaque(n, "pads that are not constant")
		return
	}
	rank := len(t.shape(n.In[0]))
	mode := op.Attrs["mode"].S
	for a := range rank {
		before, after := int(p[a]), int(p[rank+a])
		in := t.axis(n.In[0], a)
		out := t.axis(n.Out, a)
		if before < 0 || after < 0 || in == nil || out == nil || (before > 0 || after > 0) && mode != "" && mode != "constant" {
			t.pinAxis(n, n.In[0], a)
			t.pinAxis(n, n.Out, a)
			continue
		}
		t.same(in, out, 0, before, in.n)
	}
}

func (t *tracer) reduce(n *model.Node, op *model.TensorOp) {
	x, y := n.In[0], n.Out
	rank := len(t.shape(x))
	axes := op.Attrs["axes"].Ints
	since := 18
	if n.Op == "ReduceSum" {
		since = 13
	}
	if op.Version >= since && len(n.In) > 1 {
		var ok bool
		if axes, ok = t.ints(n, 1); !ok {
			t.opaque(n, "axes that are not constant")
			return
		}
	}
	if len(axes) == 0 {
		t.opaque(n, "reduces everything")
		return
	}
	gone := map[int]bool{}
	for _, a := range axes {
		if a < 0 {
			a += int64(rank)
		}
		gone[int(a)] = true
	}
	keep := true
	if a, ok := op.Attrs["keepdims"]; ok {
		keep = a.I != 0
	}
	at := 0
	for a := range rank {
		if gone[a] {
			t.pinAxis(n, x, a)
			if keep {
				at++
			}
			continue
		}
		t.through(x, y, a, at)
		at++
	}
}

// reshape matches runs of dimensions of equal product from the left. Where one dimension becomes
// several or the other way round, the long one's index goes with the outermost of the others (a
// channel's height times width, a head's columns); the inner ones stay.
func (t *tracer) reshape(n *model.Node) {
	x, y := n.In[0], n.Out
	if n.Op == "Reshape" {
		if _, ok := t.ints(n, 1); !ok {
			t.opaque(n, "a shape that is computed")
			return
		}
	}
	in, out := t.shape(x), t.shape(y)
	i, j := 0, 0
	for i < len(in) || j < len(out) {
		if i < len(in) && j < len(out) && in[i] == out[j] { // free dimensions too, while they match
			t.through(x, y, i, j)
			i, j = i+1, j+1
			continue
		}
		a, b, p, q := i, j, 1, 1
		take := func(s []int, at *int, product *int) bool {
			if *at >= len(s) || s[*at] <= 0 || *product > 1<<40/s[*at] {
				return false
			}
			*product *= s[*at]
			*at++
			return true
		}
		ok := true
		for ok && (p != q || a == i && b == j) {
			if p <= q && a < len(in) {
				ok = take(in, &a, &p)
			} else {
				ok = take(out, &b, &q)
			}
		}
		if !ok {
			why := "is reshaped in a way that depends on a free dimension"
			for ; i < len(in); i++ {
				t.pin(t.axis(x, i), why)
			}
			for ; j < len(out); j++ {
				t.pin(t.axis(y, j), why)
			}
			return
		}
		t.regroup(n, x, y, i, a, j, b)
		i, j = a, b
	}
}

// regroup ties axes i..a-1 of x to axes j..b-1 of y, whose products are equal.
func (t *tracer) regroup(n *model.Node, x, y model.ValueID, i, a, j, b int) {
	wide := func(v model.ValueID, lo, hi int) (s []*span) {
		for k := lo; k < hi; k++ {
			if p := t.axis(v, k); p != nil {
				s = append(s, p)
			}
		}
		return s
	}
	in, out := wide(x, i, a), wide(y, j, b)
	if len(in) > 1 && len(out) > 1 {
		for _, s := range slices.Concat(in, out) {
			t.pin(s, fmt.Sprintf("node %q (%s) mixes dimensions", n.Name, n.Op))
		}
		return
	}
	if len(in) == 0 || len(out) == 0 {
		return
	}
	long, parts := in[0], out
	if len(in) > 1 {
		long, parts = out[0], in
	}
	t.major(long, parts[0], long.n/parts[0].n)
	for _, s := range parts[1:] {
		t.pin(s, fmt.Sprintf("node %q (%s): the inner part of a dimension", n.Name, n.Op))
	}
}
