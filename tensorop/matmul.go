package tensorop

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

func matmul(c *Call) ([]*T, error) {
	a, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	b, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	return one(MatMul(c.Pool, a, b))
}

// MatMul is numpy's: the last two dimensions are matrices, those in front
// broadcast, and one dimension alone is a row on the left, a column on the right.
func MatMul(p *linalg.Pool, a, b *T) (*T, error) {
	if a.Elem != b.Elem {
		return nil, fmt.Errorf("operands are %v and %v: %w", a.Elem, b.Elem, ErrType)
	}
	as, bs := a.Shape, b.Shape
	if len(as) == 0 || len(bs) == 0 {
		return nil, fmt.Errorf("product of %v and %v: %w", as, bs, ErrShape)
	}
	if len(as) == 1 {
		as = []int{1, as[0]}
	}
	if len(bs) == 1 {
		bs = []int{bs[0], 1}
	}
	m, k, n := as[len(as)-2], as[len(as)-1], bs[len(bs)-1]
	if bs[len(bs)-2] != k {
		return nil, fmt.Errorf("product of %v and %v: %w", a.Shape, b.Shape, ErrShape)
	}
	batch, err := broadcast(as[:len(as)-2], bs[:len(bs)-2])
	if err != nil {
		return nil, err
	}
	out, err := make0(a.Elem, append(slices.Clone(batch), m, n)...)
	if err != nil {
		return nil, err
	}
	var mul func(o, x, y int)
	switch d := a.Data.(type) {
	case []float32:
		e, o := b.Data.([]float32), out.Data.([]float32)
		mul = func(i, x, y int) {
			linalg.Gemm(p, false, false, m, n, k, 1, d[x:x+m*k], k, e[y:y+k*n], n, 0, o[i:i+m*n], n)
		}
	case []float64:
		e, o := b.Data.([]float64), out.Data.([]float64)
		mul = func(i, x, y int) {
			linalg.Gemm64(p, false, false, m, n, k, 1, d[x:x+m*k], k, e[y:y+k*n], n, 0, o[i:i+m*n], n)
		}
	case []int32:
		mul = intProduct(out.Data.([]int32), d, b.Data.([]int32), m, n, k)
	case []int64:
		mul = intProduct(out.Data.([]int64), d, b.Data.([]int64), m, n, k)
	case []uint32:
		mul = intProduct(out.Data.([]uint32), d, b.Data.([]uint32), m, n, k)
	case []uint64:
		mul = intProduct(out.Data.([]uint64), d, b.Data.([]uint64), m, n, k)
	default:
		return nil, fmt.Errorf("operands are %v: %w", a.Elem, ErrType)
	}
	if k > 0 && m > 0 && n > 0 {
		sa, sb := stretch(as[:len(as)-2], batch), stretch(bs[:len(bs)-2], batch)
		pa, pb := positions(batch, sa, 0), positions(batch, sb, 0)
		for i := range pa {
			mul(i*m*n, pa[i]*m*k, pb[i]*k*n)
		}
	}
	shape := out.Shape
	if len(b.Shape) == 1 {
		shape = shape[:len(shape)-1]
	}
	if len(a.Shape) == 1 {
		i := len(batch)
		shape = append(slices.Clone(shape[:i]), shape[i+1:]...)
	}
	return reshaped(out, shape...), nil
}

func intProduct[I integer](o, a, b []I, m, n, k int) func(i, x, y int) {
	return func(at, x, y int) {
		for r := range m {
			row := o[at+r*n : at+(r+1)*n]
			for j := range k {
				v := a[x+r*k+j]
				for cc, w := range b[y+j*n : y+(j+1)*n] {
					row[cc] += v * w
				}
			}
		}
	}
}

func gemm(c *Call) ([]*T, error) {
	a, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	b, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	if len(a.Shape) != 2 || len(b.Shape) != 2 || a.Elem != b.Elem {
		return nil, fmt.Errorf("product of %v %v and %v %v: %w", a.Elem, a.Shape, b.Elem, b.Shape, ErrShape)
	}
	ta, tb := c.int("transA", 0) != 0, c.int("transB", 0) != 0
	if ta {
		if a, err = Transpose(a, []int{1, 0}); err != nil {
			return nil, err
		}
	}
	if tb {
		if b, err = Transpose(b, []int{1, 0}); err != nil {
			return nil, err
		}
	}
	y, err := MatMul(c.Pool, a, b)
	if err != nil {
		return nil, err
	}
	scale := func(t *T, name string) (*T, error) {
		f := c.float(name, 1)
		if f == 1 {
			return t, nil
		}
		s, err := Cast(model.F32Tensor([]float32{float32(f)}), t.Elem, true)
		if err != nil {
			return nil, err
		}
		return arithmetic("Mul", c, t, s, t.Shape)
	}
	if y, err = scale(y, "alpha"); err != nil {
		return nil, err
	}
	if bias := c.in(2); bias != nil && c.float("beta", 1) != 0 {
		if bias, err = scale(bias, "beta"); err != nil {
			return nil, err
		}
		shape, err := broadcast(y.Shape, bias.Shape)
		if err != nil || !slices.Equal(shape, y.Shape) {
			return nil, fmt.Errorf("bias %v of %v: %w", bias.Shape, y.Shape, ErrShape)
		}
		return one(arithmetic("Add", c, y, bias, shape))
	}
	return []*T{y}, nil
}

// einsum sums products over the letters that the result does not have. Two
// operands become a batched matrix product; more are taken from the left.
func einsum(c *Call) ([]*T, error) {
	eq := strings.ReplaceAll(c.str("equation", ""), " ", "")
	left, right, explicit := strings.Cut(eq, "->")
	terms := strings.Split(left, ",")
	if len(terms) != len(c.In) || len(eq) > 1<<10 {
		return nil, fmt.Errorf("equation %.80q of %d operands: %w", eq, len(c.In), ErrAttribute)
	}
	size := map[rune]int{}
	var labels [][]rune
	ell := 0 // dimensions that ... stands for
	for i, s := range terms {
		t, err := c.tensor(i)
		if err != nil {
			return nil, err
		}
		if n := len(t.Shape) - (len(s) - 3); strings.Contains(s, "...") {
			if n < 0 || n > maxEllipsis {
				return nil, fmt.Errorf("term %.40q of %v: %w", s, t.Shape, ErrShape)
			}
			ell = max(ell, n)
		}
	}
	for i, s := range terms {
		n := len(c.In[i].Shape) - (len(s) - 3)
		l := letters(s, n, ell)
		if len(l) != len(c.In[i].Shape) {
			return nil, fmt.Errorf("term %.40q of %v: %w", s, c.In[i].Shape, ErrShape)
		}
		for d, r := range l {
			v := c.In[i].Shape[d]
			if old, ok := size[r]; ok && old != v && old != 1 && v != 1 {
				return nil, fmt.Errorf("letter %c is %d and %d: %w", r, old, v, ErrShape)
			}
			size[r] = max(size[r], v)
			if v == 0 {
				size[r] = 0
			}
		}
		labels = append(labels, l)
	}
	out := letters(right, ell, ell)
	if !explicit {
		out = implicit(labels, ell)
	}
	for i, r := range out {
		if _, ok := size[r]; !ok || slices.Contains(out[:i], r) {
			return nil, fmt.Errorf("equation %.80q: result: %w", eq, ErrAttribute)
		}
	}
	acc, err := diagonal(c.In[0], labels[0])
	if err != nil {
		return nil, err
	}
	for i := 1; i < len(labels); i++ {
		next, err := diagonal(c.In[i], labels[i])
		if err != nil {
			return nil, err
		}
		later := slices.Concat(append(labels[i+1:len(labels):len(labels)], out)...)
		if acc, err = contract(c, acc, next, later); err != nil {
			return nil, err
		}
	}
	return one(acc.arrange(out, size))
}

const maxEllipsis = 16

// letters spells a term; the n dimensions of ... get names of their own, aligned
// on the right of ell.
func letters(s string, n, ell int) []rune {
	var out []rune
	for i := 0; i < len(s); i++ {
		if strings.HasPrefix(s[i:], "...") {
			for k := ell - max(0, n); k < ell; k++ {
				out = append(out, rune(0x100+k))
			}
			i += 2
			continue
		}
		out = append(out, rune(s[i]))
	}
	return out
}

func implicit(labels [][]rune, ell int) []rune {
	count := map[rune]int{}
	for _, l := range labels {
		for _, r := range l {
			count[r]++
		}
	}
	var out, rest []rune
	for k := range ell {
		out = append(out, rune(0x100+k))
	}
	for r, n := range count {
		if n == 1 && r < 0x100 {
			rest = append(rest, r)
		}
	}
	slices.Sort(rest)
	return append(out, rest...)
}

// labelled is a tensor whose dimensions have names, each once.
type labelled struct {
	t *T
	l []rune
}

// diagonal makes repeated names one.
func diagonal(t *T, l []rune) (labelled, error) {
	st := steps(t.Shape)
	var names []rune
	var shape, step []int
	for d, r := range l {
		if i := slices.Index(names, r); i >= 0 {
			if shape[i] != t.Shape[d] {
				return labelled{}, fmt.Errorf("diagonal of %v: %w", t.Shape, ErrShape)
			}
			step[i] += st[d]
			continue
		}
		names, shape, step = append(names, r), append(shape, t.Shape[d]), append(step, st[d])
	}
	if len(names) == len(l) {
		return labelled{t, l}, nil
	}
	p, err := picked(t, positions(shape, step, 0), 1, shape...)
	return labelled{p, names}, err
}

// arrange sums what is not asked for and orders the rest.
func (x labelled) arrange(out []rune, size map[rune]int) (*T, error) {
	set := make([]bool, len(x.l))
	var kept []rune
	for i, r := range x.l {
		if set[i] = !slices.Contains(out, r); !set[i] {
			kept = append(kept, r)
		}
	}
	t := x.t
	if slices.Contains(set, true) {
		base, inside := groups(t.Shape, set)
		get, err := reader(t)
		if err != nil {
			return nil, err
		}
		sum, err := make0(model.ElemF64, keptShape(t.Shape, set, false)...)
		if err != nil {
			return nil, err
		}
		fold("ReduceSum", sum.Data.([]float64), base, inside, get)
		if t, err = Cast(sum, t.Elem, true); err != nil {
			return nil, err
		}
	}
	var perm, shape []int
	for _, r := range out {
		i := slices.Index(kept, r)
		if i < 0 {
			return nil, fmt.Errorf("a name of the result is in no term: %w", ErrAttribute)
		}
		perm = append(perm, i)
		shape = append(shape, size[r])
	}
	t, err := Transpose(t, perm)
	if err != nil {
		return nil, err
	}
	return Expand(t, shape)
}

// contract multiplies two operands and sums over names that nothing later has.
func contract(c *Call, a, b labelled, later []rune) (labelled, error) {
	var batch, onlyA, onlyB, summed []rune
	for _, r := range a.l {
		switch inB, wanted := slices.Contains(b.l, r), slices.Contains(later, r); {
		case inB && wanted:
			batch = append(batch, r)
		case inB:
			summed = append(summed, r)
		default:
			onlyA = append(onlyA, r)
		}
	}
	for _, r := range b.l {
		if !slices.Contains(a.l, r) {
			onlyB = append(onlyB, r)
		}
	}
	size := map[rune]int{}
	for _, x := range []labelled{a, b} {
		for i, r := range x.l {
			size[r] = max(size[r], x.t.Shape[i])
		}
	}
	dims := func(l []rune) []int {
		out := []int{}
		for _, r := range l {
			out = append(out, size[r])
		}
		return out
	}
	x, err := a.arrange(slices.Concat(batch, onlyA, summed), size)
	if err != nil {
		return labelled{}, err
	}
	y, err := b.arrange(slices.Concat(batch, summed, onlyB), size)
	if err != nil {
		return labelled{}, err
	}
	nb, m, k, n := product(dims(batch)), product(dims(onlyA)), product(dims(summed)), product(dims(onlyB))
	p, err := MatMul(c.Pool, reshaped(x, nb, m, k), reshaped(y, nb, k, n))
	if err != nil {
		return labelled{}, err
	}
	l := slices.Concat(batch, onlyA, onlyB)
	return labelled{reshaped(p, dims(l)...), l}, nil
}
