package prune

import (
	"context"
	"fmt"
	"math"
	"strconv"
)

// DSnoT repairs Wanda's mask without touching weights (Zhang et al. 2023, "dynamic
// sparse no training"). Per output row, err is what the pruned weights would have
// added to the output, summed over a window of typical inputs: the sum of
// W_j * sum(x_j). A cycle regrows the pruned weight of err's sign with the largest
// |W_j sum(x_j)| / var(x_j) and prunes the kept weight of the smallest Wanda score
// among those of the opposite sign (with N:M, in the same group); it ends when
// |err| <= Threshold, changes sign, or after Cycles. Variances are over all tokens.
type DSnoT struct {
	Calib     Calib
	Cycles    int     // 0: 50
	Threshold float64 // 0: 0.1
}

func (DSnoT) Name() string    { return "dsnot" }
func (m DSnoT) calib() Calib  { return m.Calib }
func (DSnoT) needsGram() bool { return false }
func (DSnoT) scope() Scope    { return ScopeRow }

func (m DSnoT) fill() DSnoT {
	if m.Cycles == 0 {
		m.Cycles = 50
	}
	if m.Threshold == 0 {
		m.Threshold = 0.1
	}
	return m
}

func (m DSnoT) recipe(kv map[string]string) {
	m = m.fill()
	kv["prune.cycles"] = strconv.Itoa(m.Cycles)
	kv["prune.threshold"] = strconv.FormatFloat(m.Threshold, 'g', -1, 64)
}

func (m DSnoT) check(p Pattern) error {
	u, isU := p.(Unstructured)
	if _, ok := p.(Block); ok || isU && u.Scope != ScopeAuto && u.Scope != ScopeRow || m.Cycles < 0 || !(m.Threshold >= 0) {
		return fmt.Errorf("prune: dsnot %v, %d cycles, threshold %v: weights are swapped within rows; want N:M or a sparsity per row: %w", p, m.Cycles, m.Threshold, ErrMethod)
	}
	return nil
}

func (m DSnoT) solve(_ context.Context, l *layer) error {
	m = m.fill()
	keys := l.wandaKeys()
	mask, err := maskOf(keys, l.rows, l.cols, l.pattern)
	if err != nil {
		return err
	}
	mean, variance := l.gram.moments()
	group := l.cols
	if nm, ok := l.pattern.(NM); ok {
		group = nm.Of
	}
	before := append([]float32(nil), l.w...)
	l.pool.Split(l.rows, 1, func(lo, hi int) {
		keep, add := make([]bool, l.cols), make([]float64, l.cols)
		for r := lo; r < hi; r++ {
			w := l.w[r*l.cols : (r+1)*l.cols]
			for c, v := range w {
				keep[c] = mask.Kept(r, c)
				add[c] = float64(v) * mean[c] * float64(l.gram.window)
			}
			m.row(keep, add, variance, keys[r*l.cols:(r+1)*l.cols], group)
			for c, k := range keep {
				if !k {
					w[c] = 0
				}
			}
		}
	})
	l.error = l.errorDiag(before)
	return nil
}

// row repairs the mask of one row. add is what each weight adds to the output.
func (m DSnoT) row(keep []bool, add, variance []float64, keys []uint32, group int) {
	var err float64
	for c, k := range keep {
		if !k {
			err += add[c]
		}
	}
	for range m.Cycles {
		if math.Abs(err) <= m.Threshold {
			return
		}
		grow, prune := m.pair(keep, add, variance, keys, group, math.Signbit(err))
		if grow < 0 {
			return
		}
		next := err - add[grow] + add[prune]
		if math.Signbit(next) != math.Signbit(err) {
			return
		}
		keep[grow], keep[prune] = true, false
		err = next
	}
}

// pair chooses what to regrow and what to prune for it; -1: nothing is left.
func (m DSnoT) pair(keep []bool, add, variance []float64, keys []uint32, group int, negative bool) (grow, prune int) {
	grow, prune = -1, -1
	var best float64
	for c, k := range keep {
		if k || add[c] == 0 || math.Signbit(add[c]) != negative || !(variance[c] > 0) {
			continue
		}
		if s := math.Abs(add[c]) / variance[c]; s > best {
			// With N:M there must be something to give in the same group.
			if p := weakest(keep, add, keys, c/group*group, min(len(keep), (c/group+1)*group), negative); p >= 0 {
				best, grow, prune = s, c, p
			}
		}
	}
	return grow, prune
}

// weakest is the kept weight of the smallest score whose sign is not err's.
func weakest(keep []bool, add []float64, keys []uint32, lo, hi int, negative bool) int {
	at := -1
	for c := lo; c < hi; c++ {
		if keep[c] && add[c] != 0 && math.Signbit(add[c]) != negative && (at < 0 || keys[c] < keys[at]) {
			at = c
		}
	}
	return at
}
