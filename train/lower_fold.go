package train

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// A file whose batch is free computes with shapes while it runs: targets of Reshape, masks of ones,
// positions. Lowering computes once what follows from constants and shapes alone, for a batch of one
// and of two. What is the same for both, or the same for every sample, is a constant of the network;
// it is not trained, as the file has no place for it. Anything else is refused where it is used.

// folded is a value that follows from constants and shapes, for batches of one and two.
type folded [2]*model.Tensor

// tableRows are whole rows of a constant table, picked by indices that follow from shapes: embeddings of
// positions. Where they are added to a value, the table is trained.
type tableRows struct {
	table model.ValueID
	at    []int32 // of the table's numbers, [shape]
	shape []int
}

// maxFolded bounds the numbers that a node's result may have, and maxKnown those of all.
const (
	maxFolded = 1 << 22
	maxKnown  = 1 << 25
)

// fold computes a node's results if all that it reads is known; false: it is not.
func (l *lowerer) fold(n *model.Node, op *model.TensorOp) (bool, error) {
	if n.Weight != nil || len(n.Outs) == 0 {
		return false, nil
	}
	x, ok := l.at[n.In[0]]
	if n.Op == "Shape" && ok {
		return true, l.shapeOf(n, op, x)
	}
	for _, v := range n.In {
		if v != model.NoValue && l.src.Constants[v] == nil && l.known[v][0] == nil {
			return false, nil
		}
	}
	results := make([]folded, len(n.Outs))
	for k := range 2 {
		in, kinds := make([]*model.Tensor, len(n.In)), make([]tensorop.Kind, len(n.In))
		for i, v := range n.In {
			if v == model.NoValue {
				continue
			}
			if in[i] = l.known[v][k]; in[i] == nil {
				in[i] = l.src.Constants[v]
			}
			kinds[i] = tensorop.Kind{Elem: in[i].Elem, Shape: append([]int{}, in[i].Shape...)} // nil would say that it is not known
		}
		for _, o := range tensorop.Infer(n, kinds, in) {
			if o.Shape == nil || !l.spend(o.Shape) {
				return false, l.refuse(n, fmt.Sprintf("follows from constants; want a shape known beforehand of at most %d numbers, got %v", maxFolded, o.Shape))
			}
		}
		out, err := tensorop.Run(&tensorop.Call{Node: n, In: in, Outs: len(n.Outs)})
		if err != nil {
			return false, l.refuse(n, err.Error())
		}
		for i := range min(len(out), len(results)) {
			results[i][k] = out[i]
		}
	}
	for i, v := range n.Outs {
		if v != model.NoValue {
			l.known[v] = results[i]
		}
	}
	if n.Op == "Gather" && op.Attrs["axis"].I == 0 {
		l.pickedRows(n)
	}
	return true, nil
}

// spend says whether a shape is known and not too large, and counts its numbers.
func (l *lowerer) spend(shape []int) bool {
	size := 1
	for _, d := range shape {
		if d < 0 || d > 0 && size > maxFolded/d {
			return false
		}
		size *= d
	}
	l.spent += size
	return l.spent <= maxKnown
}

func (l *lowerer) shapeOf(n *model.Node, op *model.TensorOp, x shaped) error {
	var f folded
	for k := range f {
		d := []int64{int64(k + 1)}
		for _, v := range x.dims {
			d = append(d, int64(v))
		}
		lo, hi := int64(0), int64(len(d))
		for name, at := range map[string]*int64{"start": &lo, "end": &hi} {
			if a, ok := op.Attrs[name]; ok {
				if *at = a.I; a.I < 0 {
					*at += int64(len(d))
				}
				*at = max(0, min(*at, int64(len(d))))
			}
		}
		d = d[lo:max(lo, hi)]
		f[k] = model.I64Tensor(d, len(d))
	}
	if x.cut != nil {
		return l.refuse(n, "reads a Slice that waits for its Pad")
	}
	l.known[n.Out] = f
	return nil
}

// pickedRows remembers which rows of a table a folded Gather has taken.
func (l *lowerer) pickedRows(n *model.Node) {
	t, ids := l.src.Constants[n.In[0]], l.constant(n.In[1])
	if t == nil || ids == nil || t.Elem != model.ElemF32 || len(t.Shape) != 2 || !l.steady(n.Out) {
		return
	}
	rows, cols := t.Shape[0], t.Shape[1]
	r := tableRows{table: n.In[0], shape: append(slices.Clone(ids.Shape), cols)}
	for _, id := range integers(ids) {
		if id < 0 {
			id += int64(rows)
		}
		for c := range cols {
			r.at = append(r.at, int32(int(id)*cols+c))
		}
	}
	l.rows[n.Out] = r
}

// constant is a value that is the same in every sample, nil where it is none.
func (l *lowerer) constant(v model.ValueID) *model.Tensor {
	if t := l.src.Constants[v]; t != nil {
		return t
	}
	if l.steady(v) {
		return l.known[v][0]
	}
	return nil
}

// steady says whether a folded value is the same for both batches, or for every sample of them.
func (l *lowerer) steady(v model.ValueID) bool {
	f := l.known[v]
	if f[0] == nil || f[1] == nil || f[0].Elem != f[1].Elem {
		return false
	}
	times := 1
	if !slices.Equal(f[0].Shape, f[1].Shape) {
		a, b := f[0].Shape, f[1].Shape
		if len(a) == 0 || len(a) != len(b) || a[0] != 1 || b[0] != 2 || !slices.Equal(a[1:], b[1:]) {
			return false
		}
		times = 2
	}
	switch a := f[0].Data.(type) {
	case []float32:
		return slices.Equal(slices.Repeat(a, times), f[1].Data.([]float32))
	case []int64:
		return slices.Equal(slices.Repeat(a, times), f[1].Data.([]int64))
	case []int32:
		return slices.Equal(slices.Repeat(a, times), f[1].Data.([]int32))
	case []bool:
		return slices.Equal(slices.Repeat(a, times), f[1].Data.([]bool))
	}
	return false
}

// integers of a tensor, nil where it holds none.
func integers(t *model.Tensor) []int64 {
	switch d := t.Data.(type) {
	case []int64:
		return d
	case []int32:
		out := make([]int64, len(d))
		for i, v := range d {
			out[i] = int64(v)
		}
		return out
	}
	return nil
}

// target is the shape that a Reshape asks for, the batch in front, whatever it is.
func (l *lowerer) target(n *model.Node) []int64 {
	if len(n.In) < 2 || n.In[1] == model.NoValue {
		return nil
	}
	f := l.known[n.In[1]]
	if f[0] == nil || f[1] == nil {
		return l.ints(n, 1)
	}
	a, b := integers(f[0]), integers(f[1])
	if len(a) == 0 || len(a) != len(b) || !slices.Equal(a[1:], b[1:]) {
		return nil
	}
	return a
}

// fixed emits x with a constant that is not trained: added to it, or multiplied with it.
func (l *lowerer) fixed(n *model.Node, op model.Op, x shaped, name string, f []float32, shape []int) error {
	neutral := float32(0)
	if op == opScale {
		neutral = 1
	}
	if !slices.ContainsFunc(f, func(v float32) bool { return v != neutral }) {
		if _, err := l.stretch(n, x, shape); err != nil {
			return err
		}
		l.at[n.Out] = x
		return nil
	}
	at, err := l.stretch(n, x, shape)
	if err != nil {
		return err
	}
	w := &model.Weight{Name: name, Shape: []int{len(f)}, Data: sparse.NewDense(1, len(f), slices.Clone(f))}
	l.frozen[w] = true
	return l.emit(n, op, x.dims, at, w, nil, x.id)
}

// where takes one of a value and a constant, or of two values, by a constant condition: both times
// zeros and ones, added.
func (l *lowerer) where(n *model.Node) error {
	if len(n.In) != 3 {
		return l.refuse(n, "want three inputs")
	}
	c := l.constant(n.In[0])
	if c == nil {
		return l.refuse(n, "want a constant condition")
	}
	cond, ok := c.Data.([]bool)
	x, okx := l.at[n.In[1]]
	y, oky := l.at[n.In[2]]
	if !ok || okx == oky || x.ids || y.ids || x.cut != nil || y.cut != nil {
		return l.refuse(n, "want a condition, a value and a constant")
	}
	other := l.constant(n.In[2])
	if oky {
		x, other = y, l.constant(n.In[1])
	}
	fill, ok := []float32(nil), false
	if other != nil {
		fill, ok = other.Data.([]float32)
	}
	if !ok || len(fill) != 1 {
		return l.refuse(n, "want a number beside the value")
	}
	keep, rest := make([]float32, len(cond)), make([]float32, len(cond))
	for i, v := range cond {
		if v == okx {
			keep[i] = 1
		} else {
			rest[i] = fill[0]
		}
	}
	masked := *n
	masked.Name += ".masked"
	if err := l.fixed(&masked, opScale, x, n.Name+".keep", keep, c.Shape); err != nil {
		return err
	}
	return l.fixed(n, opShift, l.at[n.Out], n.Name+".fill", rest, c.Shape)
}
