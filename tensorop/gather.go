package tensorop

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
)

func gather(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	it, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	idx, err := asInts(it)
	if err != nil {
		return nil, err
	}
	ax, err := axis(c.int("axis", 0), len(x.Shape))
	if err != nil {
		return nil, err
	}
	n := x.Shape[ax]
	shape := append(append(append([]int(nil), x.Shape[:ax]...), it.Shape...), x.Shape[ax+1:]...)
	outer, inner := product(x.Shape[:ax]), product(x.Shape[ax+1:])
	at := make([]int, 0, outer*len(idx))
	for o := range outer {
		for _, i := range idx {
			i, err := axis(i, n)
			if err != nil {
				return nil, fmt.Errorf("index: %w", err)
			}
			at = append(at, (o*n+i)*inner)
		}
	}
	return one(picked(x, at, inner, shape...))
}

// elementPositions: where each index of GatherElements and ScatterElements points.
func elementPositions(c *Call, x, it *T) ([]int, error) {
	idx, err := asInts(it)
	if err != nil {
		return nil, err
	}
	ax, err := axis(c.int("axis", 0), len(x.Shape))
	if err != nil {
		return nil, err
	}
	if len(it.Shape) != len(x.Shape) {
		return nil, fmt.Errorf("indices %v of %v: %w", it.Shape, x.Shape, ErrShape)
	}
	step := steps(x.Shape)
	along := step[ax]
	step[ax] = 0
	for d := range x.Shape {
		if d != ax && it.Shape[d] > x.Shape[d] {
			return nil, fmt.Errorf("indices %v of %v: %w", it.Shape, x.Shape, ErrShape)
		}
	}
	at := positions(it.Shape, step, 0)
	for k, i := range idx {
		if i, err = axis(i, x.Shape[ax]); err != nil {
			return nil, fmt.Errorf("index: %w", err)
		}
		at[k] += i * along
	}
	return at, nil
}

func gatherElements(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	it, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	at, err := elementPositions(c, x, it)
	if err != nil {
		return nil, err
	}
	return one(picked(x, at, 1, it.Shape...))
}

// tuplePositions: where each index tuple of GatherND and ScatterND points, and the
// size of what it points at.
func tuplePositions(x, it *T, batch int) (at []int, run int, err error) {
	idx, err := asInts(it)
	if err != nil {
		return nil, 0, err
	}
	if len(it.Shape) == 0 || batch < 0 || batch >= len(it.Shape) || batch > len(x.Shape) {
		return nil, 0, fmt.Errorf("indices %v of %v: %w", it.Shape, x.Shape, ErrShape)
	}
	k := it.Shape[len(it.Shape)-1]
	if batch+k > len(x.Shape) {
		return nil, 0, fmt.Errorf("indices %v of %v: %w", it.Shape, x.Shape, ErrShape)
	}
	for d := range batch {
		if x.Shape[d] != it.Shape[d] {
			return nil, 0, fmt.Errorf("indices %v of %v: %w", it.Shape, x.Shape, ErrShape)
		}
	}
	step := steps(x.Shape)
	run = product(x.Shape[batch+k:])
	per := product(it.Shape[batch : len(it.Shape)-1])
	size := product(x.Shape[batch:])
	n := product(it.Shape[:len(it.Shape)-1])
	at = make([]int, n)
	for t := range n {
		p := t / max(1, per) * size
		for j := range k {
			i, err := axis(idx[t*k+j], x.Shape[batch+j])
			if err != nil {
				return nil, 0, fmt.Errorf("index: %w", err)
			}
			p += i * step[batch+j]
		}
		at[t] = p
	}
	return at, run, nil
}

func gatherND(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	it, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	b := c.int("batch_dims", 0)
	at, run, err := tuplePositions(x, it, b)
	if err != nil {
		return nil, err
	}
	k := it.Shape[len(it.Shape)-1]
	shape := append(append([]int(nil), it.Shape[:len(it.Shape)-1]...), x.Shape[b+k:]...)
	return one(picked(x, at, run, shape...))
}

func copied(x *T) (*T, error) {
	out, err := make0(x.Elem, x.Shape...)
	if err == nil && x.Len() > 0 {
		column(out).copy(0, column(x), 0, x.Len())
	}
	return out, err
}

// scatter writes runs of updates to positions, replacing or combining.
func scatter(c *Call, x, u *T, at []int, run int) ([]*T, error) {
	out, err := copied(x)
	if err != nil {
		return nil, err
	}
	if u.Elem != x.Elem || u.Len() != len(at)*run {
		return nil, fmt.Errorf("updates %v %v of %v %v: %w", u.Elem, u.Shape, x.Elem, x.Shape, ErrShape)
	}
	how := map[string]string{"none": "", "add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}
	op, ok := how[c.str("reduction", "none")]
	if !ok {
		return nil, fmt.Errorf("reduction %.20q: %w", c.str("reduction", ""), ErrAttribute)
	}
	o, s := column(out), column(u)
	if op == "" {
		for k, p := range at {
			o.copy(p, s, k*run, run)
		}
		return []*T{out}, nil
	}
	a, err := asF64(out)
	if err != nil {
		return nil, err
	}
	b, err := asF64(u)
	if err != nil {
		return nil, err
	}
	f := floatOp[float64](op)
	acc := append([]float64(nil), a...)
	for k, p := range at {
		for i := range run {
			acc[p+i] = f(acc[p+i], b[k*run+i])
		}
	}
	return one(Cast(&T{Elem: model.ElemF64, Shape: x.Shape, Data: acc}, x.Elem, true))
}

func scatterElements(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	it, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	u, err := c.tensor(2)
	if err != nil {
		return nil, err
	}
	at, err := elementPositions(c, x, it)
	if err != nil {
		return nil, err
	}
	return scatter(c, x, u, at, 1)
}

func scatterND(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	it, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	u, err := c.tensor(2)
	if err != nil {
		return nil, err
	}
	at, run, err := tuplePositions(x, it, 0)
	if err != nil {
		return nil, err
	}
	return scatter(c, x, u, at, run)
}

func oneHot(c *Call) ([]*T, error) {
	it, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	depth, err := c.scalar(1, 0)
	if err != nil {
		return nil, err
	}
	vals, err := c.tensor(2)
	if err != nil {
		return nil, err
	}
	idx, err := asF64(it)
	if err != nil {
		return nil, err
	}
	ax, err := axis(c.int("axis", -1), len(it.Shape)+1)
	if err != nil {
		return nil, err
	}
	d := int(depth)
	if vals.Len() != 2 || d < 0 || depth > 1<<31 {
		return nil, fmt.Errorf("depth %v, values %v: %w", depth, vals.Shape, ErrShape)
	}
	shape := append(append(append([]int(nil), it.Shape[:ax]...), d), it.Shape[ax:]...)
	out, err := make0(vals.Elem, shape...)
	if err != nil || out.Len() == 0 {
		return []*T{out}, err
	}
	o, v := column(out), column(vals)
	o.fill(0, out.Len(), v, 0)
	inner := product(it.Shape[ax:])
	for k, f := range idx {
		i := int(f)
		if i < 0 {
			i += d
		}
		if i >= 0 && i < d {
			o.fill((k/inner*d+i)*inner+k%inner, 1, v, 1)
		}
	}
	return []*T{out}, nil
}

func nonZero(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	get, err := reader(x)
	if err != nil {
		return nil, err
	}
	var at []int
	for i := range x.Len() {
		if get(i) != 0 {
			at = append(at, i)
		}
	}
	rank := max(1, len(x.Shape))
	out := make([]int64, rank*len(at))
	step := steps(x.Shape)
	for k, p := range at {
		for d := range x.Shape {
			out[d*len(at)+k] = int64(p / step[d])
			p %= step[d]
		}
	}
	return []*T{model.I64Tensor(out, rank, len(at))}, nil
}
