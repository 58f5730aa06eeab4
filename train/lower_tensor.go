package train

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
)

// Ops of tensors of any rank: what moves numbers becomes a pick, what computes over the last
// dimension works on groups of a row, products of two values run batch by batch.

// Ops that lowering makes beside those of package model.
const (
	opPoint  model.Op = "Pointwise" // attr point
	opPick   model.Op = "Pick"      // attr picked
	opMean   model.Op = "Mean"      // attr meant
	opConcat model.Op = "Concat"    // attr []piece, one an input
	opMatMul model.Op = "MatMul"    // attr product
	opShift  model.Op = "Shift"     // out = in + bias[attr], attr []int32
	opScale  model.Op = "Scale"     // out = in * weight[attr], attr []int32
	opTable  model.Op = "Table"     // rows of weight by the input's numbers
)

// groups is the attribute of ops that work on so many neighbouring columns at a time.
type groups int

// picked says which number of the input's row an output is; negative: zero.
type picked []int32

// meant says to which output every number of the input's row goes; an output is the mean of n.
type meant struct {
	to []int32
	n  int
}

// piece is where an input's runs of numbers stand in a concatenation.
type piece struct{ outer, run, at, stride int }

// product is out[i] = a[i] * b[i] for i below batch, [m k] times [k n]; a or b stays where its
// step is zero.
type product struct{ batch, m, k, n int }

// offset is the position of an index, row-major.
func offset(dims, at []int) int {
	p := 0
	for i, d := range dims {
		p = p*d + at[i]
	}
	return p
}

// each visits all indices of a shape in order.
func each(dims []int, f func(at []int)) {
	at := make([]int, len(dims))
	for {
		f(at)
		i := len(dims) - 1
		for ; i >= 0; i-- {
			if at[i]++; at[i] < dims[i] {
				break
			}
			at[i] = 0
		}
		if i < 0 {
			return
		}
	}
}

// pick emits a node whose output at an index is the input's number at from(index).
func (l *lowerer) pick(n *model.Node, x shaped, dims []int, from func(at []int) int) error {
	if len(dims) == 0 || slices.Min(dims) < 1 || !bounded(of(0, dims...).img) {
		return l.refuse(n, fmt.Sprintf("output %v: want 1 to %d numbers a sample", dims, maxRow))
	}
	var p picked
	scratch := make([]int, len(dims))
	each(dims, func(at []int) {
		copy(scratch, at)
		p = append(p, int32(from(scratch)))
	})
	return l.emit(n, opPick, dims, p, nil, nil, x.id)
}

// axis of a tensor, batch included, as one of a sample's; false for the batch and what is not there.
func axis(a int64, rank int) (int, bool) {
	if a < 0 {
		a += int64(rank) + 1
	}
	return int(a) - 1, a >= 1 && a <= int64(rank)
}

// reshape: a row's numbers stay where they are.
func (l *lowerer) reshape(n *model.Node, op *model.TensorOp, x shaped) error {
	size := x.img.Size()
	var dims []int
	switch n.Op {
	case "Flatten":
		if a, ok := op.Attrs["axis"]; ok && a.I != 1 {
			return l.refuse(n, "want axis 1")
		}
		dims = []int{size}
	case "Reshape":
		t := l.target(n)
		at, known := -1, 1
		for i, d := range t {
			if i == 0 {
				continue // the batch: whatever it is called, the rest must be a sample
			}
			if d == 0 && i-1 < len(x.dims) && !x.lead {
				d = int64(x.dims[i-1])
			}
			if d < -1 || d == 0 || d > maxRow || d == -1 && at >= 0 {
				return l.refuse(n, fmt.Sprintf("want a shape of %d numbers a sample, got %v", size, t))
			}
			if d == -1 {
				at = i - 1
			} else if known *= int(d); known > maxRow {
				return l.refuse(n, fmt.Sprintf("want a shape of %d numbers a sample, got %v", size, t))
			}
			dims = append(dims, int(d))
		}
		if at >= 0 && t[0] != -1 && size%known == 0 {
			dims[at] = size / known
			known = size
		}
		// Heads that go with the batch, as products of three dimensions want it.
		if len(dims) > 0 && at < 0 && known > 0 && known < size && size%known == 0 && (t[0] == -1 || t[0] == int64(size/known) && l.known[n.In[1]][0] != nil) {
			s := of(x.id, slices.Insert(dims, 0, size/known)...)
			s.lead = true
			l.at[n.Out] = s
			return nil
		}
		if len(dims) == 0 || known != size || slices.Min(dims) < 1 {
			return l.refuse(n, fmt.Sprintf("want a shape of %d numbers a sample, got %v", size, t))
		}
	default:
		list := op.Attrs["axes"].Ints
		if len(n.In) > 1 {
			list = l.ints(n, 1)
		}
		dims = slices.Clone(x.dims)
		rank := len(dims)
		if n.Op == "Unsqueeze" {
			rank += len(list)
		}
		var axes []int
		for _, a := range list {
			i, ok := axis(a, rank)
			if !ok {
				return l.refuse(n, fmt.Sprintf("want axes of a sample, got %v", list))
			}
			axes = append(axes, i)
		}
		slices.Sort(axes)
		if len(axes) == 0 || len(slices.Compact(slices.Clone(axes))) != len(axes) {
			return l.refuse(n, fmt.Sprintf("want axes that are constant, got %v", list))
		}
		for k, i := range axes {
			if n.Op == "Unsqueeze" {
				dims = slices.Insert(dims, i, 1)
			} else if i -= k; dims[i] == 1 && len(dims) > 1 {
				dims = slices.Delete(dims, i, i+1)
			} else {
				return l.refuse(n, fmt.Sprintf("axis %d is not 1 of %v", i, x.dims))
			}
		}
	}
	l.at[n.Out] = of(x.id, dims...)
	return nil
}

func (l *lowerer) transpose(n *model.Node, op *model.TensorOp, x shaped) error {
	perm := op.Attrs["perm"].Ints
	rank := len(x.dims)
	if x.lead && len(perm) == rank && perm[0] == 0 { // as if the batch stood before it
		full := []int64{0}
		for _, p := range perm {
			full = append(full, p+1)
		}
		perm = full
	}
	if len(perm) != rank+1 || perm[0] != 0 {
		return l.refuse(n, fmt.Sprintf("want a permutation that leaves the batch in front, got %v", perm))
	}
	dims, from := make([]int, rank), make([]int, rank)
	seen := make([]bool, rank)
	for i, p := range perm[1:] {
		if p < 1 || p > int64(rank) || seen[p-1] {
			return l.refuse(n, fmt.Sprintf("no permutation: %v", perm))
		}
		seen[p-1] = true
		from[i], dims[i] = int(p)-1, x.dims[p-1]
	}
	src := make([]int, rank)
	err := l.pick(n, x, dims, func(at []int) int {
		for i, f := range from {
			src[f] = at[i]
		}
		return offset(x.dims, src)
	})
	return l.leads(n, x.lead, err)
}

// leads marks a node's output, if it was made.
func (l *lowerer) leads(n *model.Node, lead bool, err error) error {
	if err == nil {
		s := l.at[n.Out]
		s.lead = lead
		l.at[n.Out] = s
	}
	return err
}

// span is what a Slice takes of a dimension: n numbers from lo on, in steps.
type span struct{ lo, n, step int }

// whole says whether the span covers a dimension from its start in steps.
func (s span) whole(d int) bool { return s.lo == 0 && s.step > 0 && s.n == (d-1)/s.step+1 }

func (l *lowerer) cuts(n *model.Node, op *model.TensorOp, x shaped) ([]span, error) {
	starts, ends, axes, steps := l.ints(n, 1), l.ints(n, 2), l.ints(n, 3), l.ints(n, 4)
	if op.Version > 0 && op.Version < 10 {
		starts, ends, axes = op.Attrs["starts"].Ints, op.Attrs["ends"].Ints, op.Attrs["axes"].Ints
	}
	if len(starts) == 0 || len(ends) != len(starts) || len(axes) != len(starts) || steps != nil && len(steps) != len(starts) {
		return nil, l.refuse(n, "want constant starts, ends and axes")
	}
	out := make([]span, len(x.dims))
	for i, d := range x.dims {
		out[i] = span{0, d, 1}
	}
	for i, a := range axes {
		k, ok := axis(a, len(x.dims))
		step := int64(1)
		if steps != nil {
			step = steps[i]
		}
		if !ok || step < 1 || step > maxRow {
			return nil, l.refuse(n, fmt.Sprintf("want axes of a sample and steps forward, got axis %d, step %d", a, step))
		}
		d := int64(x.dims[k])
		lo, hi := starts[i], ends[i]
		if lo < 0 {
			lo += d
		}
		if hi < 0 {
			hi += d
		}
		lo, hi = max(0, min(lo, d)), max(0, min(hi, d))
		if lo >= hi {
			return nil, l.refuse(n, "takes nothing")
		}
		out[k] = span{int(lo), int((hi-lo-1)/step) + 1, int(step)}
	}
	return out, nil
}

func (l *lowerer) concat(n *model.Node, op *model.TensorOp) error {
	var in []model.ValueID
	var list []shaped
	k, total := 0, 0
	for i, v := range n.In {
		x, ok := l.at[v]
		if !ok || x.cut != nil || x.ids {
			return l.refuse(n, "want values, not constants")
		}
		if k, ok = axis(op.Attrs["axis"].I, len(x.dims)); !ok {
			return l.refuse(n, "want an axis of a sample")
		}
		if i > 0 {
			a, b := slices.Clone(x.dims), slices.Clone(list[0].dims)
			if len(a) == len(b) {
				a[k], b[k] = 0, 0
			}
			if !slices.Equal(a, b) {
				return l.refuse(n, fmt.Sprintf("want values alike but for axis %d, got %v and %v", k+1, list[0].dims, x.dims))
			}
		}
		list, in, total = append(list, x), append(in, x.id), total+x.dims[k]
	}
	dims := slices.Clone(list[0].dims)
	dims[k] = total
	outer, inner := 1, 1
	for i, d := range dims {
		if i < k {
			outer *= d
		} else if i > k {
			inner *= d
		}
	}
	var pieces []piece
	at := 0
	for _, x := range list {
		run := x.dims[k] * inner
		pieces = append(pieces, piece{outer, run, at, total * inner})
		at += run
	}
	return l.emit(n, opConcat, dims, pieces, nil, nil, in...)
}

func (l *lowerer) split(n *model.Node, op *model.TensorOp, x shaped) error {
	k, ok := axis(op.Attrs["axis"].I, len(x.dims))
	sizes := op.Attrs["split"].Ints
	if len(n.In) > 1 {
		sizes = l.ints(n, 1)
	}
	if ok && sizes == nil {
		per, d := (x.dims[k]+len(n.Outs)-1)/len(n.Outs), x.dims[k]
		for range n.Outs {
			sizes = append(sizes, int64(min(per, d)))
			d -= min(per, d)
		}
	}
	if !ok || len(sizes) != len(n.Outs) {
		return l.refuse(n, "want an axis of a sample and constant sizes")
	}
	lo := 0
	for i, v := range n.Outs {
		d := int(sizes[i])
		if d < 1 || d > x.dims[k]-lo {
			return l.refuse(n, fmt.Sprintf("sizes %v of %d", sizes, x.dims[k]))
		}
		if v != model.NoValue {
			part := *n
			part.Out = v
			dims := slices.Clone(x.dims)
			dims[k] = d
			first := lo
			if err := l.pick(&part, x, dims, func(at []int) int { at[k] += first; return offset(x.dims, at) }); err != nil {
				return err
			}
		}
		lo += d
	}
	return nil
}

// gather: an embedding, rows of a constant table by the network's input; or one constant index of a
// value, or several.
func (l *lowerer) gather(n *model.Node, op *model.TensorOp) error {
	if len(n.In) != 2 {
		return l.refuse(n, "want two inputs")
	}
	if ids, ok := l.at[n.In[1]]; ok {
		t := l.src.Constants[n.In[0]]
		if t == nil || len(t.Shape) != 2 || op.Attrs["axis"].I != 0 || !ids.ids || ids.id != l.g.Inputs[0] {
			return l.refuse(n, "want rows of a constant table of rank 2, by the network's input")
		}
		w, err := l.vector(n, n.In[0], t.Shape[0]*t.Shape[1])
		if err != nil {
			return err
		}
		return l.emit(n, opTable, append(slices.Clone(ids.dims), t.Shape[1]), groups(t.Shape[1]), w, nil, ids.id)
	}
	x, ok := l.at[n.In[0]]
	k, okAxis := axis(op.Attrs["axis"].I, len(x.dims))
	idx := l.ints(n, 1)
	if !ok || x.cut != nil || x.ids || !okAxis || len(idx) == 0 {
		return l.refuse(n, "want constant indices along an axis of a sample")
	}
	for i, v := range idx {
		if v < 0 {
			v += int64(x.dims[k])
		}
		if v < 0 || v >= int64(x.dims[k]) {
			return l.refuse(n, fmt.Sprintf("index %d of %d", idx[i], x.dims[k]))
		}
		idx = slices.Clone(idx)
		idx[i] = v
	}
	shape := l.constant(n.In[1]).Shape
	dims := slices.Concat(x.dims[:k], shape, x.dims[k+1:])
	if len(shape) > 1 || len(dims) == 0 {
		return l.refuse(n, "want one index or a list of them")
	}
	return l.pick(n, x, dims, func(at []int) int {
		if len(shape) == 0 {
			at = slices.Insert(slices.Clone(at), k, int(idx[0]))
		} else {
			at[k] = int(idx[at[k]])
		}
		return offset(x.dims, at)
	})
}
