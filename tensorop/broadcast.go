package tensorop

import (
	"fmt"
)

// broadcast is the shape that all shapes stretch to (numpy's rule).
func broadcast(shapes ...[]int) ([]int, error) {
	rank := 0
	for _, s := range shapes {
		rank = max(rank, len(s))
	}
	out := make([]int, rank)
	for i := range out {
		out[i] = 1
	}
	for _, s := range shapes {
		for i, d := range s {
			o := &out[rank-len(s)+i]
			switch {
			case d == *o || d == 1:
			case *o == 1:
				*o = d
			default:
				return nil, fmt.Errorf("%v do not broadcast: %w", shapes, ErrShape)
			}
		}
	}
	return out, nil
}

// stretch is the step in elements for each dimension of out when walking a
// tensor of the given shape: 0 where it repeats.
func stretch(shape, out []int) []int {
	st := make([]int, len(out))
	step := 1
	for i := len(shape) - 1; i >= 0; i-- {
		if shape[i] != 1 {
			st[len(out)-len(shape)+i] = step
		}
		step *= shape[i]
	}
	return st
}

// steps are the strides of a dense tensor.
func steps(shape []int) []int {
	st := make([]int, len(shape))
	n := 1
	for i := len(shape) - 1; i >= 0; i-- {
		st[i] = n
		n *= shape[i]
	}
	return st
}

// walk calls f for every run of the last dimension of out with the offsets of
// each operand there; st are their strides by dimension.
func walk(out []int, st [][]int, f func(o int, at []int)) {
	total := product(out)
	if total == 0 {
		return
	}
	at := make([]int, len(st))
	if len(out) == 0 {
		f(0, at)
		return
	}
	inner := out[len(out)-1]
	idx := make([]int, len(out))
	for o := 0; o < total; o += inner {
		f(o, at)
		for d := len(out) - 2; d >= 0; d-- {
			idx[d]++
			for k := range st {
				at[k] += st[k][d]
			}
			if idx[d] < out[d] {
				break
			}
			idx[d] = 0
			for k := range st {
				at[k] -= st[k][d] * out[d]
			}
		}
	}
}

// zip applies f to two operands that stretch to out; with equal shapes or one
// number on the right it is a plain loop.
func zip[A, B, R any](dst []R, a []A, b []B, as, bs, out []int, f func(A, B) R) {
	if len(a) == len(dst) && len(b) == len(dst) {
		b := b[:len(a)]
		dst := dst[:len(a)]
		for i, x := range a {
			dst[i] = f(x, b[i])
		}
		return
	}
	if len(b) == 1 && len(a) == len(dst) {
		y := b[0]
		for i, x := range a {
			dst[i] = f(x, y)
		}
		return
	}
	sa, sb := stretch(as, out), stretch(bs, out)
	n := len(out)
	inner := out[n-1]
	ia, ib := sa[n-1], sb[n-1]
	walk(out, [][]int{sa, sb}, func(o int, at []int) {
		pa, pb := at[0], at[1]
		for i := range inner {
			dst[o+i] = f(a[pa], b[pb])
			pa += ia
			pb += ib
		}
	})
}
