package train

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/model"
)

// arithmetic: two values of one shape; or a value and a constant: a number, or an array that
// broadcasts, which is trained (a bias, a gain, positions).
func (l *lowerer) arithmetic(n *model.Node) error {
	if len(n.In) != 2 {
		return l.refuse(n, "want two inputs")
	}
	x, okx := l.at[n.In[0]]
	y, oky := l.at[n.In[1]]
	for _, s := range []shaped{x, y} {
		if s.cut != nil || s.ids {
			return l.refuse(n, "want values that are computed")
		}
	}
	if okx && oky {
		return l.both(n, x, y)
	}
	v, c, first := n.In[0], n.In[1], false // first: the constant comes first
	if !okx {
		x, v, c, first = y, c, v, true
	}
	if r, ok := l.rows[c]; ok && n.Op == "Add" {
		return l.addRows(n, x, r)
	}
	t := l.constant(c)
	if t == nil {
		return l.refuse(n, "want two values, or a value and a constant")
	}
	f, ok := t.Data.([]float32)
	if !ok {
		return l.refuse(n, fmt.Sprintf("want a constant of float32, got %v", t.Elem))
	}
	if len(f) == 1 {
		k := float64(f[0])
		p := map[model.Op]point{"Add": affine(1, k), "Sub": affine(1, -k), "Mul": affine(k, 0), "Div": affine(1/k, 0)}[n.Op]
		if first && n.Op == "Sub" {
			p = affine(-1, k)
		}
		if first && n.Op == "Div" {
			p = overValue(k)
		} else if k == 0 && n.Op == "Div" {
			return l.refuse(n, "divides by zero")
		}
		return l.emit(n, opPoint, x.dims, p, nil, nil, x.id)
	}
	if n.Op == "Sub" || n.Op == "Div" {
		return l.refuse(n, "want a number, not an array, to take off or divide by")
	}
	if l.src.Constants[c] == nil || l.masks(n, f) {
		op := opShift
		if n.Op == "Mul" {
			op = opScale
		}
		return l.fixed(n, op, x, l.src.Values[c].Name, f, t.Shape)
	}
	if n.Op == "Add" && l.biased(n, x, v, c, t) {
		maker := l.maker[x.id]
		b, err := l.vector(n, c, x.dims[0])
		if !x.image() {
			b, err = l.vector(n, c, len(f))
		}
		if err != nil {
			return err
		}
		maker.Bias = b
		l.at[n.Out] = x
		return nil
	}
	at, err := l.stretch(n, x, t.Shape)
	if err != nil {
		return err
	}
	w, err := l.vector(n, c, len(f))
	if err != nil {
		return err
	}
	op := opShift
	if n.Op == "Mul" {
		op = opScale
	}
	return l.emit(n, op, x.dims, at, w, nil, x.id)
}

// masks says whether an array that is added is a mask of attention, which is not trained: zeros, or numbers
// that leave nothing, in front of a Softmax.
func (l *lowerer) masks(n *model.Node, f []float32) bool {
	r := l.reader[n.Out]
	return n.Op == "Add" && l.readers[n.Out] == 1 && r.Op == "Softmax" && (slices.Min(f) <= -1e4 || slices.Min(f) == 0 && slices.Max(f) == 0)
}

// biased says whether a constant is the bias of the Conv or Linear that made x and has none.
func (l *lowerer) biased(n *model.Node, x shaped, v, c model.ValueID, t *model.Tensor) bool {
	maker := l.maker[x.id]
	if maker == nil || maker.Bias != nil || maker.Op != model.OpConv && maker.Op != model.OpLinear || l.readers[v] != 1 || x.id != maker.Out {
		return false
	}
	channel := 1 // the dimension counted from the end that a bias by channel has
	if maker.Op == model.OpConv {
		channel = 3
		if !x.image() {
			return false
		}
	}
	for i, d := range t.Shape {
		if d != 1 && len(t.Shape)-i != channel {
			return false
		}
	}
	return t.Len() == x.dims[len(x.dims)-channel]
}

// stretch says which number of a constant meets each of a sample's.
func (l *lowerer) stretch(n *model.Node, x shaped, shape []int) ([]int32, error) {
	s := slices.Clone(shape)
	for len(s) > len(x.dims) && s[0] == 1 { // the batch's dimension
		s = s[1:]
	}
	for len(s) < len(x.dims) {
		s = slices.Insert(s, 0, 1)
	}
	ok := len(s) == len(x.dims)
	for i := range x.dims {
		ok = ok && (s[i] == x.dims[i] || s[i] == 1)
	}
	if !ok {
		return nil, l.refuse(n, fmt.Sprintf("want a constant that broadcasts to %v, got %v", x.dims, shape))
	}
	var to []int32
	c := make([]int, len(s))
	each(x.dims, func(at []int) {
		for i := range c {
			c[i] = min(at[i], s[i]-1)
		}
		to = append(to, int32(offset(s, c)))
	})
	return to, nil
}

// addRows adds rows of a table, which is trained.
func (l *lowerer) addRows(n *model.Node, x shaped, r tableRows) error {
	at, err := l.stretch(n, x, r.shape)
	if err != nil {
		return err
	}
	for i, v := range at {
		at[i] = r.at[v]
	}
	w, err := l.vector(n, r.table, l.src.Constants[r.table].Len())
	if err != nil {
		return err
	}
	return l.emit(n, opShift, x.dims, at, w, nil, x.id)
}

// pow raises to the powers of decomposed norms and of GELU's cubic.
func (l *lowerer) pow(n *model.Node, x shaped) error {
	var f []float32
	if _, ok := l.at[n.In[0]]; ok && len(n.In) == 2 {
		if t := l.constant(n.In[1]); t != nil {
			f, _ = t.Data.([]float32)
		}
	}
	if len(f) == 1 {
		switch f[0] {
		case 0.5:
			return l.emit(n, opPoint, x.dims, pointwiseOps["Sqrt"], nil, nil, x.id)
		case 2:
			return l.emit(n, opPoint, x.dims, point{func(x float32) float32 { return x * x }, func(x, _ float32) float32 { return 2 * x }}, nil, nil, x.id)
		case 3:
			return l.emit(n, opPoint, x.dims, point{func(x float32) float32 { return x * x * x }, func(x, _ float32) float32 { return 3 * x * x }}, nil, nil, x.id)
		}
	}
	return l.refuse(n, "want a constant power of 0.5, 2 or 3")
}

// both: two values, of which one may be broadcast (squeeze and excite, norms), by copying it. The second is
// negated to be taken off, inverted to divide by it.
func (l *lowerer) both(n *model.Node, x, y shaped) error {
	op := model.OpAdd
	if n.Op == "Mul" || n.Op == "Div" {
		op = model.OpMul
	}
	if p, ok := map[model.Op]point{"Sub": affine(-1, 0), "Div": overValue(1)}[n.Op]; ok {
		second := *n
		second.Name += ".second"
		if err := l.emit(&second, opPoint, y.dims, p, nil, nil, y.id); err != nil {
			return err
		}
		y = l.at[n.Out]
	}
	if !slices.Equal(x.dims, y.dims) {
		if len(x.dims) != len(y.dims) {
			return l.refuse(n, fmt.Sprintf("want two values of one rank, as the batch of one would meet another dimension: %v and %v", x.dims, y.dims))
		}
		for _, s := range []struct{ small, large *shaped }{{&x, &y}, {&y, &x}} {
			if at, err := l.stretch(n, *s.large, s.small.dims); err == nil {
				copied := *n
				copied.Name += ".stretched"
				if err := l.emit(&copied, opPick, s.large.dims, picked(at), nil, nil, s.small.id); err != nil {
					return err
				}
				*s.small = l.at[n.Out]
				break
			}
		}
		if !slices.Equal(x.dims, y.dims) {
			return l.refuse(n, fmt.Sprintf("want two values of one shape, got %v and %v", x.dims, y.dims))
		}
	}
	return l.emit(n, op, x.dims, nil, nil, nil, x.id, y.id)
}

func (l *lowerer) layerNorm(n *model.Node, op *model.TensorOp, x shaped) error {
	a, ok := op.Attrs["axis"]
	if last := int64(len(x.dims)); ok && a.I != -1 && a.I != last || len(n.In) < 2 || len(n.Outs) > 1 && n.Outs[1] != model.NoValue {
		return l.refuse(n, "want the last axis, a gain and one output")
	}
	width := x.dims[len(x.dims)-1]
	gain, err := l.vector(n, n.In[1], width)
	if err != nil {
		return err
	}
	var bias *model.Weight
	if len(n.In) > 2 && n.In[2] != model.NoValue {
		if bias, err = l.vector(n, n.In[2], width); err != nil {
			return err
		}
	}
	eps := float32(1e-5)
	if e, ok := op.Attrs["epsilon"]; ok {
		eps = e.F
	}
	return l.emit(n, model.OpLayerNorm, x.dims, model.LayerNorm{Eps: eps}, gain, bias, x.id)
}

// matmul: the last two dimensions are matrices, those before them alike.
func (l *lowerer) matmul(n *model.Node) error {
	if len(n.In) != 2 {
		return l.refuse(n, "want two inputs")
	}
	a, okA := l.at[n.In[0]]
	b, okB := l.at[n.In[1]]
	if !okA || !okB || a.cut != nil || b.cut != nil || a.ids || b.ids || a.lead != b.lead {
		return l.refuse(n, "want two values (a constant of rank 2 is a Linear)")
	}
	r := len(a.dims)
	if r < 2 || len(b.dims) != r || !slices.Equal(a.dims[:r-2], b.dims[:r-2]) || a.dims[r-1] != b.dims[r-2] {
		return l.refuse(n, fmt.Sprintf("want matrices that fit, got %v and %v", a.dims, b.dims))
	}
	p := product{batch: 1, m: a.dims[r-2], k: a.dims[r-1], n: b.dims[r-1]}
	for _, d := range a.dims[:r-2] {
		p.batch *= d
	}
	return l.leads(n, a.lead, l.emit(n, opMatMul, slices.Concat(a.dims[:r-2], []int{p.m, p.n}), p, nil, nil, a.id, b.id))
}

// mean over axes of a sample.
func (l *lowerer) mean(n *model.Node, op *model.TensorOp, x shaped) error {
	list := op.Attrs["axes"].Ints
	if op.Version >= 18 {
		list = l.ints(n, 1)
	}
	keep := true
	if a, ok := op.Attrs["keepdims"]; ok {
		keep = a.I != 0
	}
	gone := map[int]bool{}
	for _, a := range list {
		k, ok := axis(a, len(x.dims))
		if !ok {
			return l.refuse(n, "want axes of a sample")
		}
		gone[k] = true
	}
	var dims, kept []int
	count := 1
	for i, d := range x.dims {
		switch {
		case gone[i]:
			count *= d
			kept = append(kept, 1)
			if keep {
				dims = append(dims, 1)
			}
		default:
			kept, dims = append(kept, d), append(dims, d)
		}
	}
	if len(gone) == 0 || len(dims) == 0 {
		return l.refuse(n, "want some axes of a sample, not all")
	}
	m := meant{n: count}
	c := make([]int, len(kept))
	each(x.dims, func(at []int) {
		for i := range c {
			c[i] = min(at[i], kept[i]-1)
		}
		m.to = append(m.to, int32(offset(kept, c)))
	})
	return l.emit(n, opMean, dims, m, nil, nil, x.id)
}

// clip bounds by constants.
func (l *lowerer) clip(n *model.Node, op *model.TensorOp, x shaped) error {
	lo, hi := float32(math.Inf(-1)), float32(math.Inf(1))
	if a, ok := op.Attrs["min"]; ok {
		lo = a.F
	}
	if a, ok := op.Attrs["max"]; ok {
		hi = a.F
	}
	for i, to := range []*float32{&lo, &hi} {
		if i+1 < len(n.In) && n.In[i+1] != model.NoValue {
			t := l.constant(n.In[i+1])
			if t == nil {
				return l.refuse(n, "want constant bounds")
			}
			f, ok := t.Data.([]float32)
			if !ok || len(f) != 1 {
				return l.refuse(n, "want bounds of one float32")
			}
			*to = f[0]
		}
	}
	return l.emit(n, opPoint, x.dims, clipped(lo, hi), nil, nil, x.id)
}
