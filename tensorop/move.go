package tensorop

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
)

func transpose(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	rank := len(x.Shape)
	perm := c.ints("perm")
	if perm == nil {
		for i := range rank {
			perm = append(perm, rank-1-i)
		}
	}
	return one(Transpose(x, perm))
}

// Transpose: dimension i of the result is dimension perm[i] of x.
func Transpose(x *T, perm []int) (*T, error) {
	rank := len(x.Shape)
	if _, err := axes(perm, rank); err != nil || len(perm) != rank {
		return nil, fmt.Errorf("transpose of %v by %v: %w", x.Shape, perm, ErrShape)
	}
	st := steps(x.Shape)
	shape := make([]int, rank)
	from := make([]int, rank)
	for i, p := range perm {
		p, _ = axis(p, rank)
		shape[i], from[i] = x.Shape[p], st[p]
	}
	// Trailing dimensions that stay where they are move as one run.
	run, tail := 1, rank
	for tail > 0 && from[tail-1] == run {
		run *= shape[tail-1]
		tail--
	}
	return picked(x, positions(shape[:tail], from[:tail], 0), run, shape...)
}

// positions lists start + sum(index*step) over all indices of a shape, in order.
func positions(shape, step []int, start int) []int {
	n := product(shape)
	out := make([]int, 0, n)
	if n == 0 {
		return out
	}
	out = append(out, start)
	for d, size := range shape {
		next := make([]int, 0, len(out)*size)
		for _, p := range out {
			for i := range size {
				next = append(next, p+i*step[d])
			}
		}
		out = next
	}
	return out
}

func concat(c *Call) ([]*T, error) {
	ts := make([]*T, len(c.In))
	for i := range ts {
		var err error
		if ts[i], err = c.tensor(i); err != nil {
			return nil, err
		}
	}
	return one(c.concat(ts, c.int("axis", 1)))
}

// Concat joins tensors along a dimension.
func Concat(ts []*T, ax int) (*T, error) { return (*Call)(nil).concat(ts, ax) }

func (c *Call) concat(ts []*T, ax int) (*T, error) {
	if len(ts) == 0 {
		return nil, fmt.Errorf("no tensors: %w", ErrShape)
	}
	first := ts[0]
	ax, err := axis(ax, len(first.Shape))
	if err != nil {
		return nil, err
	}
	shape := append([]int(nil), first.Shape...)
	shape[ax] = 0
	for _, t := range ts {
		if len(t.Shape) != len(shape) || t.Elem != first.Elem {
			return nil, fmt.Errorf("concat of %v %v and %v %v: %w", first.Elem, first.Shape, t.Elem, t.Shape, ErrShape)
		}
		for i, d := range t.Shape {
			if i != ax && d != shape[i] {
				return nil, fmt.Errorf("concat of %v and %v along %d: %w", first.Shape, t.Shape, ax, ErrShape)
			}
		}
		shape[ax] += t.Shape[ax]
	}
	out, err := c.result(first.Elem, shape...)
	if err != nil {
		return nil, err
	}
	outer, inner := product(shape[:ax]), product(shape[ax+1:])
	o := column(out)
	at := 0
	for _, t := range ts {
		n := t.Shape[ax] * inner
		src := column(t)
		for i := range outer {
			o.copy(i*shape[ax]*inner+at, src, i*n, n)
		}
		at += n
	}
	return out, nil
}

// cut is part [from, from+n) of a dimension.
func cut(x *T, ax, from, n int) (*T, error) {
	shape := append([]int(nil), x.Shape...)
	shape[ax] = n
	out, err := make0(x.Elem, shape...)
	if err != nil {
		return nil, err
	}
	outer, inner := product(shape[:ax]), product(shape[ax+1:])
	o, s := column(out), column(x)
	for i := range outer {
		o.copy(i*n*inner, s, (i*x.Shape[ax]+from)*inner, n*inner)
	}
	return out, nil
}

func split(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	ax, err := axis(c.int("axis", 0), len(x.Shape))
	if err != nil {
		return nil, err
	}
	sizes := c.ints("split")
	if c.version() >= 13 {
		if sizes, err = c.intsIn(1); err != nil {
			return nil, err
		}
	}
	if sizes == nil {
		n := c.int("num_outputs", c.Outs)
		if n < 1 || n > 1<<16 {
			return nil, fmt.Errorf("%d outputs: %w", n, ErrAttribute)
		}
		per := (x.Shape[ax] + n - 1) / n
		left := x.Shape[ax]
		for range n {
			sizes = append(sizes, min(per, left))
			left -= min(per, left)
		}
	}
	return parts(x, ax, sizes)
}

// parts cuts a dimension into pieces.
func parts(x *T, ax int, sizes []int) ([]*T, error) {
	sum := 0
	for _, n := range sizes {
		if n < 0 {
			return nil, fmt.Errorf("parts %v: %w", sizes, ErrShape)
		}
		sum += n
	}
	if sum != x.Shape[ax] {
		return nil, fmt.Errorf("parts %v of %v along %d: %w", sizes, x.Shape, ax, ErrShape)
	}
	var out []*T
	at := 0
	for _, n := range sizes {
		t, err := cut(x, ax, at, n)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
		at += n
	}
	return out, nil
}

func slice(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	var starts, ends, list, by []int
	if c.version() < 10 {
		starts, ends, list = c.ints("starts"), c.ints("ends"), c.ints("axes")
	} else {
		for i, p := range []*[]int{&starts, &ends, &list, &by} {
			if *p, err = c.intsIn(i + 1); err != nil {
				return nil, err
			}
		}
	}
	rank := len(x.Shape)
	if list == nil {
		for i := range starts {
			list = append(list, i)
		}
	}
	if _, err := axes(list, rank); err != nil {
		return nil, err
	}
	if len(ends) != len(starts) || len(list) != len(starts) || by != nil && len(by) != len(starts) {
		return nil, fmt.Errorf("starts %v, ends %v, axes %v, steps %v: %w", starts, ends, list, by, ErrShape)
	}
	shape := append([]int(nil), x.Shape...)
	step := steps(x.Shape)
	start := 0
	moved := -1 // the last dimension that is cut
	for i, a := range list {
		a, _ = axis(a, rank)
		d, s := x.Shape[a], 1
		if by != nil {
			s = by[i]
		}
		lo, hi := starts[i], ends[i]
		if lo < 0 {
			lo += d
		}
		if hi < 0 {
			hi += d
		}
		n := 0
		switch {
		case s > 0:
			lo, hi = max(0, min(d, lo)), max(0, min(d, hi))
			n = (hi - lo + s - 1) / s
		case s < 0:
			lo, hi = max(0, min(d-1, lo)), max(-1, min(d-1, hi))
			n = (lo - hi - s - 1) / -s
		default:
			return nil, fmt.Errorf("step 0: %w", ErrAttribute)
		}
		start += lo * step[a]
		shape[a] = max(0, n)
		step[a] *= s
		if n != d || s != 1 {
			moved = max(moved, a)
		}
	}
	if moved < 0 {
		return []*T{x}, nil
	}
	if product(shape) == 0 {
		return one(make0(x.Elem, shape...))
	}
	// Whole dimensions behind the last cut move as one run.
	tail := moved + 1
	run := product(x.Shape[tail:])
	if step[moved] == run { // and that dimension's part too, taken one by one
		run *= shape[moved]
		tail--
	}
	return one(picked(x, positions(shape[:tail], step[:tail], start), run, shape...))
}

// pad: constant, reflect, edge or wrap; negative pads cut.
func pad(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	rank := len(x.Shape)
	pads := c.ints("pads")
	if pads == nil {
		pads = c.ints("paddings")
	}
	fillWith := model.F32Tensor([]float32{float32(c.float("value", 0))})
	if c.version() >= 11 {
		if pads, err = c.intsIn(1); err != nil {
			return nil, err
		}
		fillWith = c.in(2)
		list, err := c.intsIn(3)
		if err != nil {
			return nil, err
		}
		if list != nil {
			if _, err := axes(list, rank); err != nil || len(pads) != 2*len(list) {
				return nil, fmt.Errorf("pads %v of axes %v: %w", pads, list, ErrShape)
			}
			full := make([]int, 2*rank)
			for i, a := range list {
				a, _ = axis(a, rank)
				full[a], full[rank+a] = pads[i], pads[len(list)+i]
			}
			pads = full
		}
	}
	if len(pads) != 2*rank {
		return nil, fmt.Errorf("%d pads of %d dimensions: %w", len(pads), rank, ErrShape)
	}
	mode := c.str("mode", "constant")
	shape := make([]int, rank)
	maps := make([][]int, rank) // source index of each index, -1: the constant
	for i, d := range x.Shape {
		n := d + pads[i] + pads[rank+i]
		if n < 0 {
			return nil, fmt.Errorf("pads %v of %v: %w", pads, x.Shape, ErrShape)
		}
		shape[i] = n
		if _, err := model.Elements(x.Elem, shape[:i+1]); err != nil {
			return nil, fmt.Errorf("pads %v of %v: %w", pads, x.Shape, ErrShape)
		}
		maps[i] = make([]int, n)
		for k := range n {
			j, err := padIndex(k-pads[i], d, mode)
			if err != nil {
				return nil, err
			}
			maps[i][k] = j
		}
	}
	out, err := make0(x.Elem, shape...)
	if err != nil {
		return nil, err
	}
	if out.Len() == 0 {
		return []*T{out}, nil
	}
	o := column(out)
	if mode == "constant" && fillWith != nil {
		v, err := Cast(fillWith, x.Elem, true)
		if err != nil {
			return nil, err
		}
		if v.Len() != 1 {
			return nil, fmt.Errorf("constant of shape %v: %w", v.Shape, ErrShape)
		}
		o.fill(0, out.Len(), column(v), 0)
	}
	if mode == "constant" && slices.Min(append(pads, 0)) == 0 && rank > 0 { // whole rows
		to, at := steps(shape), 0
		for d := range rank {
			at += pads[d] * to[d]
		}
		run, src := x.Shape[rank-1], column(x)
		for k, p := range positions(x.Shape[:rank-1], to[:rank-1], at) {
			o.copy(p, src, k*run, run)
		}
		return []*T{out}, nil
	}
	step := steps(x.Shape)
	idx := []int{0}
	for d := range rank {
		next := make([]int, 0, len(idx)*shape[d])
		for _, p := range idx {
			for _, j := range maps[d] {
				if p < 0 || j < 0 {
					next = append(next, -1)
				} else {
					next = append(next, p+j*step[d])
				}
			}
		}
		idx = next
	}
	o.gather(column(x), idx, 1)
	return []*T{out}, nil
}

func padIndex(i, n int, mode string) (int, error) {
	if i >= 0 && i < n {
		return i, nil
	}
	switch mode {
	case "constant":
		return -1, nil
	case "edge":
		if n > 0 {
			return max(0, min(n-1, i)), nil
		}
	case "wrap":
		if n > 0 {
			return ((i % n) + n) % n, nil
		}
	case "reflect":
		if n == 1 {
			return 0, nil
		}
		if n > 1 {
			p := 2 * (n - 1)
			i = ((i % p) + p) % p
			if i >= n {
				i = p - i
			}
			return i, nil
		}
	default:
		return 0, fmt.Errorf("mode %.20q: %w", mode, ErrAttribute)
	}
	return 0, fmt.Errorf("%s padding of an empty dimension: %w", mode, ErrShape)
}

func tile(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	rep, err := c.intsIn(1)
	if err != nil {
		return nil, err
	}
	rank := len(x.Shape)
	if c.version() < 6 || c.in(2) != nil { // tiles and axis
		ax, err := c.intsIn(2)
		if err != nil || len(rep) != 1 || len(ax) != 1 {
			return nil, fmt.Errorf("tiles %v along %v: %w", rep, ax, ErrShape)
		}
		a, err := axis(ax[0], rank)
		if err != nil {
			return nil, err
		}
		n := rep[0]
		rep = make([]int, rank)
		for i := range rep {
			rep[i] = 1
		}
		rep[a] = n
	}
	if len(rep) != rank {
		return nil, fmt.Errorf("repeats %v of %v: %w", rep, x.Shape, ErrShape)
	}
	// A repeat is a stretched dimension in front of the one it repeats.
	var wide, thin, shape []int
	for i, d := range x.Shape {
		if rep[i] < 0 {
			return nil, fmt.Errorf("repeats %v: %w", rep, ErrShape)
		}
		wide = append(wide, rep[i], d)
		thin = append(thin, 1, d)
		shape = append(shape, rep[i]*d)
		if _, err := model.Elements(x.Elem, shape); err != nil {
			return nil, fmt.Errorf("repeats %v of %v: %w", rep, x.Shape, ErrShape)
		}
	}
	t, err := Expand(reshaped(x, thin...), wide)
	if err != nil {
		return nil, err
	}
	return []*T{reshaped(t, shape...)}, nil
}

// blocks permutes an image's channels into space and back.
func depthToSpace(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	b := c.int("blocksize", 0)
	if len(x.Shape) != 4 || b < 1 || x.Shape[1]%(b*b) != 0 {
		return nil, fmt.Errorf("blocks of %d of %v: %w", b, x.Shape, ErrShape)
	}
	n, ch, h, w := x.Shape[0], x.Shape[1]/(b*b), x.Shape[2], x.Shape[3]
	t := reshaped(x, n, b, b, ch, h, w)
	perm := []int{0, 3, 4, 1, 5, 2}
	if c.str("mode", "DCR") == "CRD" {
		t, perm = reshaped(x, n, ch, b, b, h, w), []int{0, 1, 4, 2, 5, 3}
	}
	if t, err = Transpose(t, perm); err != nil {
		return nil, err
	}
	return []*T{reshaped(t, n, ch, h*b, w*b)}, nil
}

func spaceToDepth(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	b := c.int("blocksize", 0)
	if len(x.Shape) != 4 || b < 1 || x.Shape[2]%b != 0 || x.Shape[3]%b != 0 {
		return nil, fmt.Errorf("blocks of %d of %v: %w", b, x.Shape, ErrShape)
	}
	n, ch, h, w := x.Shape[0], x.Shape[1], x.Shape[2]/b, x.Shape[3]/b
	t, err := Transpose(reshaped(x, n, ch, h, b, w, b), []int{0, 3, 5, 1, 2, 4})
	if err != nil {
		return nil, err
	}
	return []*T{reshaped(t, n, ch*b*b, h, w)}, nil
}

func trilu(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	k, err := c.scalar(1, 0)
	if err != nil {
		return nil, err
	}
	rank := len(x.Shape)
	if rank < 2 {
		return nil, fmt.Errorf("triangle of %v: %w", x.Shape, ErrShape)
	}
	out, err := make0(x.Elem, x.Shape...)
	if err != nil {
		return nil, err
	}
	r, w := x.Shape[rank-2], x.Shape[rank-1]
	o, s := column(out), column(x)
	for m := range product(x.Shape[:rank-2]) {
		for i := range r {
			edge := max(0, min(w, i+int(k)))
			at := (m*r + i) * w
			if c.int("upper", 1) != 0 {
				o.copy(at+edge, s, at+edge, w-edge)
			} else {
				edge = max(0, min(w, i+int(k)+1))
				o.copy(at, s, at, edge)
			}
		}
	}
	return []*T{out}, nil
}
