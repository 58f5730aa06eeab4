package prune

import (
	"context"
	"fmt"
	"strconv"

	"github.com/sparserun/sparserun/linalg"
)

// SparseGPT prunes column after column and lets the columns that follow make up
// for what was lost (Frantar & Alistarh 2023).
//
// With U upper and U^T U = (X^T X + damping)^-1, U_ii^2 is entry (0,0) of the
// inverse of the trailing submatrix i.. of the damped Gram matrix: the
// denominator of the optimal brain surgeon, when columns before i are settled.
// So the score of a weight is w^2 / U_ii^2 - the square of U's diagonal, as U is
// a Cholesky factor and not the inverse - and its error e = (w-q)/U_ii is spread
// over the rest of the row by w_j -= e*U_ij.
type SparseGPT struct {
	Calib   Calib
	Damping float64 // times the mean diagonal; 0: 0.01
	Block   int     // columns whose mask is chosen together; 0: 128
}

func (SparseGPT) Name() string    { return "sparsegpt" }
func (s SparseGPT) calib() Calib  { return s.Calib }
func (SparseGPT) needsGram() bool { return true }
func (SparseGPT) scope() Scope    { return ScopeAuto }
func (s SparseGPT) fill() SparseGPT {
	if s.Damping == 0 {
		s.Damping = 0.01
	}
	if s.Block == 0 {
		s.Block = 128
	}
	return s
}

func (s SparseGPT) recipe(kv map[string]string) {
	s = s.fill()
	kv["prune.damping"] = strconv.FormatFloat(s.Damping, 'g', -1, 64)
	kv["prune.block"] = strconv.Itoa(s.Block)
}

func (s SparseGPT) check(p Pattern) error {
	u, isU := p.(Unstructured)
	if _, ok := p.(Block); ok || isU && u.Scope != ScopeAuto {
		return fmt.Errorf("prune: sparsegpt %v: its scope is a block of columns: %w", p, ErrMethod)
	}
	if !(s.Damping >= 0) || s.Block < 0 {
		return fmt.Errorf("prune: sparsegpt: damping %v, block %d: %w", s.Damping, s.Block, ErrMethod)
	}
	return nil
}

func (s SparseGPT) solve(ctx context.Context, l *layer) error {
	s = s.fill()
	f, err := l.gram.factorise(l.pool, s.Damping, l.log)
	if err != nil {
		return err
	}
	before := append([]float32(nil), l.w...)
	if err := l.sweep(ctx, f, s.Block); err != nil {
		return err
	}
	l.damping = f.damping
	l.error = l.outputError(before)
	return nil
}

// sweep is SparseGPT's walk over the columns of l.w: it chooses the mask by the
// pattern, block columns at a time, and updates the weights that stay.
func (l *layer) sweep(ctx context.Context, f *factor, block int) error {
	rows, cols, w := l.rows, l.cols, l.w
	nm, isNM := l.pattern.(NM)
	if isNM { // a group lies inside one block
		block = max(nm.Of, block/nm.Of*nm.Of)
	}
	l.zeroDead()
	errs := make([]float32, rows*block)
	drop := make([]bool, rows*block)
	for c0 := 0; c0 < cols; c0 += block {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(block, cols-c0)
		clear(drop)
		if !isNM {
			keys := make([]uint32, rows*n)
			l.pool.Split(rows, 1, func(lo, hi int) {
				for r := lo; r < hi; r++ {
					l.obsKeys(keys[r*n:(r+1)*n], r, c0, f)
				}
			})
			dropSmallest(keys, budget(rows*n, l.pattern.Target()), func(i int) { drop[i/n*block+i%n] = true })
		}
		l.pool.Split(rows, 1, func(lo, hi int) {
			keys, keep := make([]uint32, nm.Of), make([]bool, nm.Of)
			for r := lo; r < hi; r++ {
				row := w[r*cols+c0 : r*cols+c0+n]
				e, d := errs[r*block:r*block+n], drop[r*block:r*block+n]
				for i, v := range row {
					if isNM && i%nm.Of == 0 {
						k := keys[:min(nm.Of, n-i)]
						l.obsKeys(k, r, c0+i, f)
						keepNM(k, nm, keep)
						for c := range k {
							d[i+c] = !keep[c]
						}
					}
					v = row[i]
					q := v
					if d[i] || l.frozen != nil && l.frozen[r*cols+c0+i] {
						q = 0
					}
					u := f.u[(c0+i)*cols+c0+i : (c0+i)*cols+c0+n]
					e[i] = (v - q) / u[0]
					row[i] = q
					if e[i] != 0 && i+1 < n {
						linalg.Axpy(-e[i], u[1:], row[i+1:])
					}
				}
			}
		})
		if rest := c0 + n; rest < cols {
			linalg.Gemm(l.pool, false, false, rows, cols-rest, n, -1, errs, block, f.u[c0*cols+rest:], cols, 1, w[rest:], cols)
		}
	}
	return nil
}

// obsKeys are the scores w^2 / U_ii^2 of a run of columns of a row.
func (l *layer) obsKeys(keys []uint32, r, c0 int, f *factor) {
	for i := range keys {
		c := c0 + i
		s := l.w[r*l.cols+c] / f.u[c*l.cols+c]
		keys[i] = key(float32(s * s))
		if l.frozen != nil && l.frozen[r*l.cols+c] {
			keys[i] = 0
		}
		if keys[i] == infinity {
			keys[i]-- // a square beyond float32 is still a number
		}
	}
}

// infinity is the key of +Inf.
const infinity = 0x7f800000

// zeroDead clears weights whose input was always zero: nothing can be said of them.
func (l *layer) zeroDead() {
	for c, s := range l.gram.diag {
		if s == 0 {
			for r := range l.rows {
				l.w[r*l.cols+c] = 0
			}
		}
	}
}
