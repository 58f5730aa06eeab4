package prune

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/linalg"
)

// splitting is the state of the first half of ALPS (Meng et al. 2024): operator
// splitting between "fits the outputs" and "holds the pattern". With S the square
// root of the diagonal of H + ridge I, G = S^-1 (H + ridge I) S^-1 and everything
// in the scaled coordinates w*S, a step is
//
//	B = (G + rho I)^-1 (G*goal - V + rho*D)
//	D = the pattern's largest entries of B + V/rho, the rest 0
//	V = V + rho (B - D)
//
// and rho grows every stepsPerRho steps, the faster the more the support of D
// still changes. Support and V start at nothing, D at the goal.
type splitting struct {
	l       *layer
	d       int
	scale   []float32 // [d]
	g       []float64 // [d, d]
	y       []float32 // G*goal, [rows, d] like all that follow
	b, v, w []float32 // B, V, D
	rhs     []float32
	keys    []uint32
	keep    []bool // support of D
	last    []bool // at the previous change of rho
	rho     float64
}

const stepsPerRho = 3

// admm chooses the mask of l by splitting with at most steps steps, towards the
// outputs of goal. growth is the exponent on ALPS's factors for rho: 1 is as
// published, 2 takes about half the steps for a slightly worse mask. l.keep
// becomes the mask, l.w the weights D, which are to be solved again.
func (l *layer) admm(ctx context.Context, goal []float32, ridge, growth float64, steps int) error {
	s := newSplitting(l, goal, ridge)
	for step := 0; step < steps; step += stepsPerRho {
		if err := ctx.Err(); err != nil {
			return err
		}
		inv, err := s.inverse()
		if err != nil {
			return err
		}
		for range stepsPerRho {
			if err := s.step(inv); err != nil {
				return err
			}
		}
		changed, kept := 0, 0
		for i, k := range s.keep {
			if k {
				kept++
			}
			if k != s.last[i] {
				changed++
			}
		}
		if changed == 0 {
			break
		}
		copy(s.last, s.keep)
		f := 1.1
		switch {
		case changed*10 >= kept:
			f = 1.3
		case changed*200 >= kept:
			f = 1.2
		}
		s.rho *= math.Pow(f, growth)
	}
	l.keep = s.keep
	for i, v := range s.w {
		l.w[i] = v / s.scale[i%s.d]
	}
	return nil
}

func newSplitting(l *layer, goal []float32, ridge float64) *splitting {
	d, n := l.cols, len(l.w)
	s := &splitting{l: l, d: d, scale: make([]float32, d), g: make([]float64, d*d), rho: 0.1,
		y: make([]float32, n), b: make([]float32, n), v: make([]float32, n), w: make([]float32, n), rhs: make([]float32, n),
		keys: make([]uint32, n), keep: make([]bool, n), last: make([]bool, n)}
	a := make([]float32, d*d)
	l.gram.damped(a, ridge)
	for i := range d {
		s.scale[i] = float32(math.Sqrt(float64(a[i*d+i])))
	}
	for i := range d {
		for j := range d {
			s.g[i*d+j] = float64(a[i*d+j]) / (float64(s.scale[i]) * float64(s.scale[j]))
			a[i*d+j] = float32(s.g[i*d+j])
		}
	}
	for i, v := range goal {
		s.w[i] = v * s.scale[i%d]
	}
	linalg.Gemm(l.pool, false, false, l.rows, d, d, 1, s.w, d, a, d, 0, s.y, d)
	return s
}

// inverse is (G + rho I)^-1, packed for the product.
func (s *splitting) inverse() (*linalg.Packed, error) {
	d, pool := s.d, s.l.pool
	a := slices.Clone(s.g)
	for i := range d {
		a[i*d+i] += s.rho
	}
	u, err := linalg.InverseFactor(pool, a, d)
	if err != nil {
		return nil, fmt.Errorf("gram matrix [%d %d] with rho %g: %w", d, d, s.rho, err)
	}
	f, inv := make([]float32, d*d), make([]float32, d*d)
	for i, v := range u {
		f[i] = float32(v)
	}
	linalg.Gemm(pool, true, false, d, d, d, 1, f, d, f, d, 0, inv, d)
	return linalg.PackB(pool, false, d, d, inv, d), nil
}

// step is one round of the three updates. Rows go in tiles of a fixed height.
func (s *splitting) step(inverse *linalg.Packed) error {
	l, d := s.l, s.d
	tiles := (l.rows + resolveRows - 1) / resolveRows
	rho, inv := float32(s.rho), float32(1/s.rho)
	nm, isNM := l.pattern.(NM)
	each := func(f func(lo, hi, rows int)) {
		l.pool.Run(tiles, func(t int) {
			r0 := t * resolveRows
			r1 := min(r0+resolveRows, l.rows)
			f(r0*d, r1*d, r1-r0)
		})
	}
	each(func(lo, hi, rows int) {
		rhs, y, v, w, b, keys := s.rhs[lo:hi], s.y[lo:hi], s.v[lo:hi], s.w[lo:hi], s.b[lo:hi], s.keys[lo:hi]
		for i, x := range w {
			rhs[i] = y[i] - v[i] + rho*x
		}
		linalg.GemmPacked(nil, false, rows, 1, rhs, d, inverse, 0, b, d, nil)
		for i, x := range b {
			w[i] = x + v[i]*inv
			keys[i] = key(w[i])
		}
		if l.frozen != nil {
			for i, z := range l.frozen[lo:hi] {
				if z {
					keys[i] = 0
				}
			}
		}
		if isNM {
			for r := range rows {
				keepNM(keys[r*d:(r+1)*d], nm, s.keep[lo+r*d:lo+(r+1)*d])
			}
		}
	})
	if !isNM {
		m, err := maskOf(s.keys, l.rows, d, resolveScope(l.pattern, ScopeLayer))
		if err != nil {
			return err
		}
		for r := range l.rows {
			for c := range d {
				s.keep[r*d+c] = m.Kept(r, c)
			}
		}
	}
	each(func(lo, hi, _ int) {
		v, w, b := s.v[lo:hi], s.w[lo:hi], s.b[lo:hi]
		if l.frozen != nil { // a group may have more of them than it has to lose
			for i, z := range l.frozen[lo:hi] {
				s.keep[lo+i] = s.keep[lo+i] && !z
			}
		}
		for i, k := range s.keep[lo:hi] {
			if !k {
				w[i] = 0
			}
			v[i] += rho * (b[i] - w[i])
		}
	})
	return nil
}
