package prune

import (
	"fmt"

	"github.com/sparserun/sparserun/linalg"
)

// maxDamping ends the escalation: beyond it H is no more than a multiple of I.
const maxDamping = 1e3

// factor is the damped Gram matrix H + damping*mean(diag H)*I of a layer's inputs
// and the triangle that SparseGPT walks.
type factor struct {
	damping float64
	ridge   float64   // damping * mean diagonal: what was added
	u       []float32 // [d, d] upper, U^T U = (H + ridge I)^-1
}

// factorise damps and factorises H. A channel that was always zero counts as one
// of unit variance (the reference's "dead" rule). Where the damped matrix is not
// positive definite, damping goes up tenfold and log says so: nothing is replaced
// in silence.
func (g *gram) factorise(pool *linalg.Pool, damping float64, log func(string, ...any)) (*factor, error) {
	if g.factor != nil && g.asked == damping {
		return g.factor, nil
	}
	g.asked = damping
	d := g.d
	a := make([]float64, d*d)
	for try := damping; ; try *= 10 {
		if !(try <= maxDamping) {
			return nil, fmt.Errorf("gram matrix [%d %d] not positive definite at damping %g: %w", d, d, try/10, ErrCalib)
		}
		for i, v := range g.h {
			a[i] = float64(v)
		}
		mean := g.fixDead(a)
		for i := range d {
			a[i*d+i] += try * mean
		}
		u, err := linalg.InverseFactor(pool, a, d)
		if err != nil {
			log("prune: gram matrix [%d %d] not positive definite at damping %g (%v), trying %g", d, d, try, err, try*10)
			if try == 0 {
				try = 1e-5
			}
			continue
		}
		f := &factor{damping: try, ridge: try * mean, u: make([]float32, d*d)}
		for i, v := range u {
			f.u[i] = float32(v)
		}
		g.factor = f
		return f, nil
	}
}

// fixDead sets the diagonal of channels that were always zero to 1 and returns
// the mean of the diagonal.
func (g *gram) fixDead(a []float64) float64 {
	var sum float64
	for i := range g.d {
		p := &a[i*g.d+i]
		if *p == 0 {
			*p = 1
		}
		sum += *p
	}
	return sum / float64(max(1, g.d))
}

// damped writes (H + ridge I) with dead channels fixed into dst.
func (g *gram) damped(dst []float32, ridge float64) {
	copy(dst, g.h)
	for i := range g.d {
		p := &dst[i*g.d+i]
		if *p == 0 {
			*p = 1
		}
		*p += float32(ridge)
	}
}

// energy is the sum over rows of v H v^T, in order: what inputs make of v.
func (g *gram) energy(pool *linalg.Pool, v []float32, rows int) float64 {
	d := g.d
	part := make([]float64, rows)
	pool.Split(rows, 64, func(lo, hi int) {
		const step = 64
		buf := make([]float32, step*d)
		for r := lo; r < hi; r += step {
			n := min(step, hi-r)
			linalg.Gemm(nil, false, false, n, d, d, 1, v[r*d:], d, g.h, d, 0, buf, d)
			for i := range n {
				for c, x := range buf[i*d : (i+1)*d] {
					part[r+i] += float64(x) * float64(v[(r+i)*d+c])
				}
			}
		}
	})
	var sum float64
	for _, s := range part {
		sum += s
	}
	return sum
}

// outputError is |(W-W')X| / |WX|.
func (l *layer) outputError(before []float32) float64 {
	diff := make([]float32, len(before))
	for i, v := range before {
		diff[i] = v - l.w[i]
	}
	return ratio(l.gram.energy(l.pool, diff, l.rows), l.gram.energy(l.pool, before, l.rows))
}
