package prune

import (
	"context"
	"fmt"
	"math"
	"strconv"
)

// RIA prunes by relative importance and activation: (|W_ij| / column sum +
// |W_ij| / row sum) * ||X_j||^Power, compared over the whole matrix unless the
// pattern says otherwise (Zhang et al. 2024). The weights that stay are not
// changed.
type RIA struct {
	Calib Calib
	Power float64 // of the channel norms; 0: 0.5
}

func (RIA) Name() string    { return "ria" }
func (m RIA) calib() Calib  { return m.Calib }
func (RIA) needsGram() bool { return false }
func (RIA) scope() Scope    { return ScopeLayer }

func (m RIA) power() float64 {
	if m.Power == 0 {
		return 0.5
	}
	return m.Power
}

func (m RIA) recipe(kv map[string]string) {
	kv["prune.power"] = strconv.FormatFloat(m.power(), 'g', -1, 64)
}

func (m RIA) check(p Pattern) error {
	if u, ok := p.(Unstructured); ok && u.Scope == ScopeGlobal {
		return fmt.Errorf("prune: ria %v: matrices are pruned one after another; want a sparsity per layer or row: %w", p, ErrMethod)
	}
	return nil
}

func (m RIA) solve(_ context.Context, l *layer) error {
	row, col := make([]float64, l.rows), make([]float64, l.cols)
	for i, v := range l.w {
		a := math.Abs(float64(v))
		row[i/l.cols] += a
		col[i%l.cols] += a
	}
	act := l.gram.norms()
	for i, v := range act {
		act[i] = float32(math.Pow(float64(v), m.power()))
	}
	keys := make([]uint32, len(l.w))
	for i, v := range l.w {
		if a := math.Abs(float64(v)); a > 0 { // so neither sum is 0
			keys[i] = key(float32((a/col[i%l.cols] + a/row[i/l.cols]) * float64(act[i%l.cols])))
		}
	}
	l.freeze(keys)
	return l.cut(keys)
}
