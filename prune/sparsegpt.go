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
		s.Damping = defaultDamping
	}
	if s.Block == 0 {
		s.Block = sweepBlock
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
		return fmt.Errorf("prune: sparsegpt %v: its scope is a block of columns; want N:M or a plain sparsity (blocks: wanda+resolve): %w", p, ErrMethod)
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

// sweepBlock is how many columns are settled before the rest of the matrix
// learns of it, and the reference's block of columns that share a budget.
const sweepBlock = 128

// sweep is SparseGPT's walk over the columns of l.w. It chooses the mask by the
// pattern, block columns at a time, unless l.keep has settled it; quantises what
// stays where l.quant says so; and updates the weights to come.
func (l *layer) sweep(ctx context.Context, f *factor, block int) error {
	// A group of the pattern lies inside one block, and so does what shares a scale.
	unit := 1
	if nm, ok := l.pattern.(NM); ok {
		unit = nm.Of
	}
	if q := l.quant; q != nil && q.group < l.cols {
		for n := unit; unit%q.group != 0; unit += n {
		}
	}
	block = max(unit, block/unit*unit)
	l.zeroDead()
	if q := l.quant; q != nil && q.group >= l.cols {
		l.fitRows(f)
	}
	s := &sweeper{l: l, f: f, block: block, errs: make([]float32, l.rows*block), drop: make([]bool, l.rows*block)}
	for c0 := 0; c0 < l.cols; c0 += block {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(block, l.cols-c0)
		s.choose(c0, n)
		l.pool.Split(l.rows, 1, func(lo, hi int) {
			for r := lo; r < hi; r++ {
				s.row(r, c0, n)
			}
		})
		if rest := c0 + n; rest < l.cols {
			linalg.Gemm(l.pool, false, false, l.rows, l.cols-rest, n, -1, s.errs, block, f.u[c0*l.cols+rest:], l.cols, 1, l.w[rest:], l.cols)
		}
	}
	return nil
}

// sweeper is the state of a sweep: a block of columns at work.
type sweeper struct {
	l     *layer
	f     *factor
	block int
	errs  []float32 // [rows, block] errors over U_ii
	drop  []bool    // [rows, block]
}

// choose fills drop for columns c0 .. c0+n as far as it is known before the walk:
// a settled mask, zeros that stay, and all of an unstructured block.
func (s *sweeper) choose(c0, n int) {
	l := s.l
	clear(s.drop)
	if l.keep == nil {
		if _, ok := l.pattern.(NM); !ok {
			keys := make([]uint32, l.rows*n)
			l.pool.Split(l.rows, 1, func(lo, hi int) {
				for r := lo; r < hi; r++ {
					l.obsKeys(keys[r*n:(r+1)*n], r, c0, s.f)
				}
			})
			dropSmallest(keys, budget(l.rows*n, l.pattern.Target()), func(i int) { s.drop[i/n*s.block+i%n] = true })
		}
	}
	for r := range l.rows {
		d := s.drop[r*s.block : r*s.block+n]
		for i := range d {
			at := r*l.cols + c0 + i
			if l.keep != nil && !l.keep[at] || l.frozen != nil && l.frozen[at] {
				d[i] = true
			}
		}
	}
}

// row walks columns c0 .. c0+n of row r.
func (s *sweeper) row(r, c0, n int) {
	l, f, q := s.l, s.f, s.l.quant
	w := l.w[r*l.cols+c0 : r*l.cols+c0+n]
	e, drop := s.errs[r*s.block:r*s.block+n], s.drop[r*s.block:r*s.block+n]
	nm, isNM := l.pattern.(NM)
	isNM = isNM && l.keep == nil
	for i := range w {
		if q != nil && q.group < l.cols && i%q.group == 0 {
			l.fitGroup(r, c0+i, drop[i:min(i+q.group, n)], f)
		}
		if isNM && i%nm.Of == 0 {
			l.dropNM(nm, r, c0+i, drop[i:min(i+nm.Of, n)], f)
		}
		v, to := w[i], float32(0)
		switch {
		case drop[i]:
			if q != nil {
				q.drop(r, c0+i)
			}
		case q != nil:
			to = q.quantise(r, c0+i, v)
		default:
			to = v
		}
		u := f.u[(c0+i)*l.cols+c0+i : (c0+i)*l.cols+c0+n]
		e[i] = (v - to) / u[0]
		w[i] = to
		if e[i] != 0 && i+1 < n {
			linalg.Axpy(-e[i], u[1:], w[i+1:])
		}
	}
}

// dropNM marks what the pattern drops of one group, by the weights as they are now.
func (l *layer) dropNM(nm NM, r, c0 int, drop []bool, f *factor) {
	var k [8]uint32
	var b [8]bool
	keys, keep := k[:], b[:]
	if nm.Of > len(k) {
		keys, keep = make([]uint32, nm.Of), make([]bool, nm.Of)
	}
	keys = keys[:len(drop)]
	l.obsKeys(keys, r, c0, f)
	keepNM(keys, nm, keep)
	for i := range drop {
		drop[i] = drop[i] || !keep[i]
	}
}

// fitGroup fits the scale of the weights that share one and that will stay, as
// far as can be told: an N:M mask ahead is guessed from the weights as they are now.
func (l *layer) fitGroup(r, c0 int, drop []bool, f *factor) {
	importance := make([]float32, len(drop))
	guess := append([]bool(nil), drop...)
	if nm, ok := l.pattern.(NM); ok && l.keep == nil {
		for i := 0; i < len(guess); i += nm.Of {
			l.dropNM(nm, r, c0+i, guess[i:min(i+nm.Of, len(guess))], f)
		}
	}
	for i := range importance {
		if u := f.u[(c0+i)*l.cols+c0+i]; !guess[i] {
			importance[i] = 1 / (u * u)
		}
	}
	l.quant.fit(r, c0, l.w[r*l.cols+c0:r*l.cols+c0+len(drop)], importance)
}

// fitRows fits one scale a row ahead of the walk.
func (l *layer) fitRows(f *factor) {
	l.pool.Split(l.rows, 1, func(lo, hi int) {
		drop := make([]bool, l.cols)
		for r := lo; r < hi; r++ {
			for c := range drop {
				at := r*l.cols + c
				drop[c] = l.keep != nil && !l.keep[at] || l.frozen != nil && l.frozen[at]
			}
			l.fitGroup(r, 0, drop, f)
		}
	})
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
