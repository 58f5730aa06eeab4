package prune

import (
	"context"
	"fmt"
	"strconv"
)

// Defaults of the methods that fit weights to outputs.
const (
	defaultDamping    = 0.01
	defaultIterations = 15
	maxSplittingSteps = 300
)

// ALPS chooses the mask by operator splitting (see splitting) and then solves the
// kept weights again (Meng et al. 2024). Unstructured patterns share one budget
// over the matrix.
type ALPS struct {
	Calib   Calib
	Damping float64 // ridge of the fit, times the mean diagonal; 0: 0.01
	// Growth is the exponent on the factors by which the penalty grows; 0: 2.
	// With 1, as published, the mask is slightly better in twice the time.
	Growth     float64
	Iterations int // of conjugate gradients; 0: 15
}

func (ALPS) Name() string    { return "alps" }
func (m ALPS) calib() Calib  { return m.Calib }
func (ALPS) needsGram() bool { return true }
func (ALPS) scope() Scope    { return ScopeLayer }

func (m ALPS) fill() ALPS {
	if m.Damping == 0 {
		m.Damping = defaultDamping
	}
	if m.Growth == 0 {
		m.Growth = 2
	}
	if m.Iterations == 0 {
		m.Iterations = defaultIterations
	}
	return m
}

func (m ALPS) recipe(kv map[string]string) {
	m = m.fill()
	kv["prune.damping"] = strconv.FormatFloat(m.Damping, 'g', -1, 64)
	kv["prune.growth"] = strconv.FormatFloat(m.Growth, 'g', -1, 64)
	kv["prune.iterations"] = strconv.Itoa(m.Iterations)
}

func (m ALPS) check(p Pattern) error {
	u, isU := p.(Unstructured)
	if _, ok := p.(Block); ok || isU && u.Scope == ScopeGlobal {
		return fmt.Errorf("prune: %v: the weights of a row are solved together, a matrix at a time; want N:M or a sparsity per layer or row (blocks: wanda+resolve): %w", p, ErrMethod)
	}
	if !(m.Damping >= 0) || !(m.Growth >= 0) || m.Iterations < 0 {
		return fmt.Errorf("prune: alps: damping %v, growth %v, iterations %d: %w", m.Damping, m.Growth, m.Iterations, ErrMethod)
	}
	return nil
}

func (m ALPS) solve(ctx context.Context, l *layer) error {
	m = m.fill()
	l.zeroDead()
	goal := append([]float32(nil), l.w...)
	ridge := m.Damping * l.gram.meanDiag()
	if err := l.admm(ctx, goal, ridge, m.Growth, maxSplittingSteps); err != nil {
		return err
	}
	if err := l.resolve(ctx, goal, ridge, m.Iterations); err != nil {
		return err
	}
	l.damping = m.Damping
	return l.finishFit(ctx, goal, m.Damping)
}

// finishFit quantises where that is asked for and measures the error.
func (l *layer) finishFit(ctx context.Context, goal []float32, damping float64) error {
	if l.quant != nil {
		f, err := l.gram.factorise(l.pool, damping, l.log)
		if err != nil {
			return err
		}
		l.damping = f.damping
		if err := l.spread(ctx, f); err != nil {
			return err
		}
	}
	l.error = l.outputError(goal)
	return nil
}

// Resolved is another method's mask with the kept weights solved again by least
// squares against the dense layer's output: "wanda+resolve".
type Resolved struct {
	Of         Method
	Calib      Calib
	Damping    float64 // ridge, times the mean diagonal; 0: 0.01
	Iterations int     // of conjugate gradients; 0: 60
}

func (m Resolved) Name() string  { return m.Of.Name() + "+resolve" }
func (m Resolved) calib() Calib  { return m.Calib }
func (Resolved) needsGram() bool { return true }
func (m Resolved) recipe(kv map[string]string) {
	m.Of.recipe(kv)
	m = m.fill()
	kv["prune.resolve.damping"] = strconv.FormatFloat(m.Damping, 'g', -1, 64)
	kv["prune.resolve.iterations"] = strconv.Itoa(m.Iterations)
	if _, ok := bestOf(m); ok {
		kv["prune.resolve.streams"] = "2" // at first it was ALPS that was solved again
	}
}

func (m Resolved) fill() Resolved {
	if m.Damping == 0 {
		m.Damping = defaultDamping
	}
	if m.Iterations == 0 {
		m.Iterations = 60
	}
	return m
}

func (m Resolved) scope() Scope {
	if c, ok := m.Of.(calibrated); ok {
		return c.scope()
	}
	return ScopeLayer
}

func (m Resolved) check(p Pattern) error {
	if m.Of == nil {
		return fmt.Errorf("prune: resolve of no method: %w", ErrMethod)
	}
	if u, ok := p.(Unstructured); ok && u.Scope == ScopeGlobal {
		return fmt.Errorf("prune: %s %v: matrices are pruned one after another; want a sparsity per layer or row: %w", m.Name(), p, ErrMethod)
	}
	switch m.Of.(type) {
	case scorer, calibrated:
		return m.Of.check(p)
	}
	return fmt.Errorf("prune: resolve of %s: %w", m.Of.Name(), ErrMethod)
}

func (m Resolved) solve(ctx context.Context, l *layer) error {
	m = m.fill()
	goal := append([]float32(nil), l.w...)
	switch of := m.Of.(type) {
	case scorer:
		keys := make([]uint32, len(l.w))
		of.score(keys, l.w, l.name)
		l.freeze(keys)
		if err := l.cut(keys); err != nil {
			return err
		}
	case calibrated:
		q := l.quant // the mask first, then the codes
		l.quant = nil
		if err := of.solve(ctx, l); err != nil {
			return err
		}
		l.quant = q
	}
	l.keepNonzero()
	if err := l.resolve(ctx, goal, m.Damping*l.gram.meanDiag(), m.Iterations); err != nil {
		return err
	}
	return l.finishFit(ctx, goal, m.Damping)
}

// keepNonzero settles the mask on the weights that are not zero.
func (l *layer) keepNonzero() {
	l.keep = make([]bool, len(l.w))
	for i, v := range l.w {
		l.keep[i] = v != 0
	}
}
