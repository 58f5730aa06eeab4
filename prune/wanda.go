package prune

import (
	"context"
	"fmt"
	"math"
	"strconv"
)

// Wanda prunes by |W_ij| * ||X_j||: weight times the norm of its input channel
// over the calibration data, compared inside each output row, without changing
// the weights that stay (Sun et al. 2023).
type Wanda struct {
	Calib Calib
	// Variant prunes of every row the largest set whose scores sum to at most
	// alpha times the row's, and bisects alpha until the matrix meets the target
	// within 0.001 (the authors' use_variant). Unstructured only.
	Variant bool
}

func (Wanda) Name() string    { return "wanda" }
func (w Wanda) calib() Calib  { return w.Calib }
func (Wanda) needsGram() bool { return false }
func (w Wanda) scope() Scope {
	if w.Variant { // rows share the budget as alpha has it
		return ScopeAuto
	}
	return ScopeRow
}

func (w Wanda) recipe(kv map[string]string) {
	if w.Variant {
		kv["prune.variant"] = "alpha"
	}
}

func (w Wanda) check(p Pattern) error {
	u, ok := p.(Unstructured)
	if ok && u.Scope == ScopeGlobal {
		return fmt.Errorf("prune: wanda %v: matrices are pruned one after another; want a sparsity per layer or row: %w", p, ErrMethod)
	}
	if w.Variant && (!ok || u.Scope != ScopeAuto) {
		return fmt.Errorf("prune: wanda-alpha %v: alpha deals one sparsity out to the rows; want a plain one: %w", p, ErrMethod)
	}
	return nil
}

func (w Wanda) solve(_ context.Context, l *layer) error {
	keys := l.wandaKeys()
	if w.Variant {
		return l.variant(keys, l.pattern.Target())
	}
	return l.cut(keys)
}

// wandaKeys are the scores |W| * norm of the channel.
func (l *layer) wandaKeys() []uint32 {
	keys, norm := make([]uint32, len(l.w)), l.gram.norms()
	l.pool.Split(l.rows, 1, func(lo, hi int) {
		for i := lo * l.cols; i < hi*l.cols; i++ {
			keys[i] = key(l.w[i] * norm[i%l.cols])
		}
	})
	l.freeze(keys)
	return keys
}

// freeze ranks zeros that stay before everything else.
func (l *layer) freeze(keys []uint32) {
	for i, z := range l.frozen {
		if z {
			keys[i] = 0
		}
	}
}

// cut applies the pattern to keys and zeroes what goes.
func (l *layer) cut(keys []uint32) error {
	m, err := maskOf(keys, l.rows, l.cols, l.pattern)
	if err != nil {
		return err
	}
	before := append([]float32(nil), l.w...)
	if err := m.Apply(l.w); err != nil {
		return err
	}
	l.error = l.errorDiag(before)
	return nil
}

// errorDiag is the relative output error with the channels taken as
// uncorrelated: all that the sums of squares can tell.
func (l *layer) errorDiag(before []float32) float64 {
	var diff, all float64
	for r := range l.rows {
		for c, s := range l.gram.diag {
			a := float64(before[r*l.cols+c])
			d := a - float64(l.w[r*l.cols+c])
			diff += float64(s * float64(d*d))
			all += float64(s * float64(a*a))
		}
	}
	return ratio(diff, all)
}

// variant is Wanda's alpha form.
func (l *layer) variant(keys []uint32, target float64) error {
	sorted := make([]int32, len(keys)) // positions of every row, smallest score first
	cum := make([]float64, len(keys))  // their scores, summed up
	l.pool.Split(l.rows, 1, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			row := keys[r*l.cols : (r+1)*l.cols]
			idx, sum, n := sorted[r*l.cols:(r+1)*l.cols], 0.0, 0
			order := make([]int32, l.cols)
			dropRow(row, l.cols, order, func(c int) {
				idx[n] = int32(c)
				sum += float64(math.Float32frombits(row[c]))
				cum[r*l.cols+n] = sum
				n++
			})
		}
	})
	counts := make([]int, l.rows)
	prune := func(alpha float64) float64 {
		total := 0
		for r := range counts {
			row := cum[r*l.cols : (r+1)*l.cols]
			limit := alpha * row[l.cols-1]
			n := 0
			for n < l.cols && row[n] <= limit {
				n++
			}
			counts[r] = n
			total += n
		}
		return float64(total) / float64(len(keys))
	}
	lo, hi, alpha := 0.0, 0.8, 0.4
	got := prune(alpha)
	for math.Abs(got-target) > 0.001 && hi-lo >= 0.001 {
		if got > target {
			hi = alpha
		} else {
			lo = alpha
		}
		alpha = (lo + hi) / 2
		got = prune(alpha)
	}
	before := append([]float32(nil), l.w...)
	for r, n := range counts {
		for _, c := range sorted[r*l.cols : r*l.cols+n] {
			l.w[r*l.cols+int(c)] = 0
		}
	}
	l.error = l.errorDiag(before)
	l.log("prune: %s: alpha %s gives sparsity %.4f", l.name, strconv.FormatFloat(alpha, 'g', 4, 64), got)
	return nil
}
