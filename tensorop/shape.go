package tensorop

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
)

func shapeOf(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	rank := len(x.Shape)
	bound := func(name string, missing int) int {
		v := c.int(name, missing)
		if v < 0 {
			v += rank
		}
		return max(0, min(rank, v))
	}
	lo, hi := bound("start", 0), bound("end", rank)
	out := []int64{}
	for i := lo; i < hi; i++ {
		out = append(out, int64(x.Shape[i]))
	}
	return []*T{model.I64Tensor(out, len(out))}, nil
}

func sizeOf(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	return []*T{model.I64Tensor([]int64{int64(x.Len())})}, nil
}

func reshape(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	want := c.ints("shape")
	if c.version() >= 5 {
		if _, err := c.need(1); err != nil {
			return nil, err
		}
		if want, err = c.intsIn(1); err != nil {
			return nil, err
		}
	}
	out := make([]int, len(want))
	free, known := -1, 1
	for i, d := range want {
		switch {
		case d == -1 && free < 0:
			free = i
			continue
		case d < 0:
			return nil, fmt.Errorf("reshape of %v to %v: %w", x.Shape, want, ErrShape)
		case d == 0 && c.int("allowzero", 0) == 0:
			if i >= len(x.Shape) {
				return nil, fmt.Errorf("reshape of %v to %v: %w", x.Shape, want, ErrShape)
			}
			d = x.Shape[i]
		}
		out[i] = d
		if known *= d; known > 1<<48 {
			return nil, fmt.Errorf("reshape of %v to %v: %w", x.Shape, want, ErrShape)
		}
	}
	if free >= 0 {
		if known == 0 || x.Len()%known != 0 {
			return nil, fmt.Errorf("reshape of %v to %v: %w", x.Shape, want, ErrShape)
		}
		out[free] = x.Len() / known
	}
	if product(out) != x.Len() {
		return nil, fmt.Errorf("reshape of %v to %v: %w", x.Shape, want, ErrShape)
	}
	return []*T{reshaped(x, out...)}, nil
}

func flatten(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	ax := c.int("axis", 1)
	if ax != len(x.Shape) {
		if ax, err = axis(ax, len(x.Shape)); err != nil {
			return nil, err
		}
	}
	return []*T{reshaped(x, product(x.Shape[:ax]), product(x.Shape[ax:]))}, nil
}

// listed are dimensions given as attribute (before opset 13) or input 1.
func (c *Call) listed(from int) ([]int, bool, error) {
	if c.version() < from {
		l := c.ints("axes")
		return l, l != nil, nil
	}
	l, err := c.intsIn(1)
	return l, l != nil, err
}

func squeeze(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	list, given, err := c.listed(13)
	if err != nil {
		return nil, err
	}
	set, err := axes(list, len(x.Shape))
	if err != nil {
		return nil, err
	}
	out := []int{}
	for i, d := range x.Shape {
		if given && set[i] || !given && d == 1 {
			if d != 1 {
				return nil, fmt.Errorf("squeeze of dimension %d of %v: %w", i, x.Shape, ErrShape)
			}
			continue
		}
		out = append(out, d)
	}
	return []*T{reshaped(x, out...)}, nil
}

func unsqueeze(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	list, _, err := c.listed(13)
	if err != nil {
		return nil, err
	}
	set, err := axes(list, len(x.Shape)+len(list))
	if err != nil {
		return nil, err
	}
	out := make([]int, 0, len(set))
	k := 0
	for _, s := range set {
		if s {
			out = append(out, 1)
		} else {
			out = append(out, x.Shape[k])
			k++
		}
	}
	return []*T{reshaped(x, out...)}, nil
}

func expand(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	if _, err := c.need(1); err != nil {
		return nil, err
	}
	want, err := c.intsIn(1)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(want, func(d int) bool { return d < 0 }) {
		return nil, fmt.Errorf("expand to %v: %w", want, ErrShape)
	}
	shape, err := broadcast(x.Shape, want)
	if err != nil {
		return nil, err
	}
	return one(Expand(x, shape))
}

// Expand repeats x along dimensions of size 1 and new ones in front.
func Expand(x *T, shape []int) (*T, error) {
	if slices.Equal(x.Shape, shape) {
		return x, nil
	}
	out, err := make0(x.Elem, shape...)
	if err != nil {
		return nil, err
	}
	st := stretch(x.Shape, shape)
	inner, step := 1, 0
	if n := len(shape); n > 0 {
		inner, step = shape[n-1], st[n-1]
	}
	o, s := column(out), column(x)
	walk(shape, [][]int{st}, func(p int, at []int) {
		if step == 0 {
			o.fill(p, inner, s, at[0])
		} else {
			o.copy(p, s, at[0], inner)
		}
	})
	return out, nil
}

// constantOfShape also bounds what a file may ask for: make0 refuses.
func constantOfShape(c *Call) ([]*T, error) {
	if _, err := c.need(0); err != nil {
		return nil, err
	}
	shape, err := c.intsIn(0)
	if err != nil {
		return nil, err
	}
	v := model.F32Tensor([]float32{0}, 1)
	if a := c.op.Attrs["value"]; a.T != nil {
		v = a.T
	}
	if v.Len() != 1 {
		return nil, fmt.Errorf("value of shape %v: %w", v.Shape, ErrAttribute)
	}
	out, err := make0(v.Elem, shape...)
	if err != nil {
		return nil, err
	}
	column(out).fill(0, out.Len(), column(v), 0)
	return []*T{out}, nil
}

func rangeOp(c *Call) ([]*T, error) {
	var v [3]*T
	for i := range v {
		var err error
		if v[i], err = c.tensor(i); err != nil {
			return nil, err
		}
		if v[i].Len() != 1 || v[i].Elem != v[0].Elem {
			return nil, fmt.Errorf("bounds of %v %v: %w", v[i].Elem, v[i].Shape, ErrShape)
		}
	}
	f := make([]float64, 3)
	for i := range v {
		x, err := asF64(v[i])
		if err != nil {
			return nil, err
		}
		f[i] = x[0]
	}
	if f[2] == 0 {
		return nil, fmt.Errorf("step 0: %w", ErrAttribute)
	}
	n := (f[1] - f[0]) / f[2]
	if !(n <= 1<<40) {
		return nil, fmt.Errorf("%v numbers: %w", n, ErrShape)
	}
	size := max(0, int(ceil(n)))
	if _, err := model.Elements(v[0].Elem, []int{size}); err != nil {
		return nil, fmt.Errorf("%d numbers: %w", size, ErrShape)
	}
	tmp, err := make0(model.ElemF64, size)
	if err != nil {
		return nil, err
	}
	d := tmp.Data.([]float64)
	for i := range d {
		d[i] = f[0] + float64(i)*f[2]
	}
	return one(Cast(tmp, v[0].Elem, true))
}

func ceil(x float64) float64 {
	n := float64(int64(x))
	if n < x {
		n++
	}
	return n
}

func cast(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	to := model.Elem(c.int("to", 0))
	if a := c.op.Attrs["to"]; a.Kind == model.AttrString { // opset below 6
		to = 0
	}
	if c.Node.Op == "CastLike" {
		y, err := c.tensor(1)
		if err != nil {
			return nil, err
		}
		to = y.Elem
	}
	if !to.Supported() {
		return nil, fmt.Errorf("cast to type %d: %w", to, ErrType)
	}
	return one(Cast(x, to, c.int("saturate", 1) != 0))
}
