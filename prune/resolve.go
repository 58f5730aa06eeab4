package prune

import (
	"context"
	"math"

	"github.com/sparserun/sparserun/linalg"
)

// resolveRows is how many rows are solved together: enough for a product with
// the Gram matrix to run at full speed. Fixed, so that results do not depend on
// the number of threads.
const resolveRows = 96

// resolve solves the kept weights of every row again, the mask being settled:
// the least-squares fit of goal's output,
//
//	min over x with the row's support: (goal-x) (H + ridge I) (goal-x)^T,
//
// by conjugate gradients on the masked system, preconditioned by the diagonal,
// started from the weights at hand. At most iterations steps; a row stops when
// its residual has fallen to 1e-5 of the right-hand side.
//
// The mask is l.keep; l.w holds the start and receives the solution.
func (l *layer) resolve(ctx context.Context, goal []float32, ridge float64, iterations int) error {
	d := l.cols
	a := make([]float32, d*d)
	l.gram.damped(a, ridge)
	inv := make([]float32, d)
	for i := range inv {
		inv[i] = 1 / a[i*d+i]
	}
	packed := linalg.PackB(l.pool, true, d, d, a, d) // symmetric
	tiles := (l.rows + resolveRows - 1) / resolveRows
	l.pool.Run(tiles, func(t int) {
		if ctx.Err() != nil {
			return
		}
		r0 := t * resolveRows
		n := min(resolveRows, l.rows-r0)
		c := &conjugate{n: n, d: d, a: packed, inv: inv, x: l.w[r0*d : (r0+n)*d], keep: l.keep[r0*d : (r0+n)*d]}
		c.solve(goal[r0*d:(r0+n)*d], iterations)
	})
	return ctx.Err()
}

// conjugate is the method of conjugate gradients on n rows at once.
type conjugate struct {
	n, d int
	a    *linalg.Packed // [d, d]
	inv  []float32      // 1/diagonal
	x    []float32      // [n, d]
	keep []bool         // [n, d]
}

func (c *conjugate) solve(goal []float32, iterations int) {
	n, d := c.n, c.d
	r, p, ap := make([]float32, n*d), make([]float32, n*d), make([]float32, n*d)
	rz, limit, live := make([]float64, n), make([]float64, n), make([]bool, n)
	// Residual of the start: (goal - x) A, masked.
	for i, g := range goal {
		if !c.keep[i] {
			c.x[i] = 0
		}
		p[i] = g - c.x[i]
	}
	linalg.GemmPacked(nil, false, n, 1, p, d, c.a, 0, r, d, nil)
	// The size of the right-hand side sets the scale of what is small.
	linalg.GemmPacked(nil, false, n, 1, goal, d, c.a, 0, ap, d, nil)
	active := 0
	for i := range n {
		var s, b float64
		for j := i * d; j < (i+1)*d; j++ {
			z := c.inv[j-i*d]
			if !c.keep[j] {
				r[j], p[j] = 0, 0
				continue
			}
			p[j] = r[j] * z
			s += float64(r[j]) * float64(p[j])
			b += float64(ap[j]) * float64(ap[j]*z)
		}
		rz[i], limit[i] = s, b*1e-10
		live[i] = s > limit[i]
		if live[i] {
			active++
		}
	}
	for it := 0; it < iterations && active > 0; it++ {
		linalg.GemmPacked(nil, false, n, 1, p, d, c.a, 0, ap, d, nil)
		for i := range n {
			if !live[i] {
				continue
			}
			if !c.step(i, r, p, ap, rz) || rz[i] <= limit[i] {
				live[i] = false
				active--
				clear(p[i*d : (i+1)*d])
			}
		}
	}
}

// step advances row i; false when its direction has no curvature left.
func (c *conjugate) step(i int, r, p, ap []float32, rz []float64) bool {
	lo, hi := i*c.d, (i+1)*c.d
	x, r, p, ap, keep := c.x[lo:hi], r[lo:hi], p[lo:hi], ap[lo:hi], c.keep[lo:hi]
	var pap float64
	for j, v := range p {
		pap += float64(v) * float64(ap[j]) // p is 0 outside the mask
	}
	if !(pap > 0) {
		return false
	}
	alpha := float32(rz[i] / pap)
	var s float64
	for j, v := range p {
		if !keep[j] {
			continue
		}
		x[j] += alpha * v
		r[j] -= alpha * ap[j]
		s += float64(r[j]) * float64(r[j]*c.inv[j])
	}
	if math.IsNaN(s) {
		return false
	}
	beta := float32(s / rz[i])
	rz[i] = s
	for j := range p {
		if keep[j] {
			p[j] = r[j]*c.inv[j] + beta*p[j]
		}
	}
	return true
}
