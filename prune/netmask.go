package prune

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// sortByKey sorts positions by key, equal keys by position.
func sortByKey(idx []int32, key func(int32) uint32) {
	slices.SortFunc(idx, func(a, b int32) int {
		if c := cmp.Compare(key(a), key(b)); c != 0 {
			return c
		}
		return cmp.Compare(a, b)
	})
}

// signedKey orders all numbers, negative ones too, as integers.
func signedKey(x float32) uint32 {
	b := math.Float32bits(x)
	if b>>31 != 0 {
		return ^b
	}
	return b | 1<<31
}

// cutMasks turns scores into masks: of all weights that compete the smallest go, after those that
// are masked already, and of equal ones the first. rates, if not nil, are the targets' own
// sparsities and take the place of the pattern's.
func cutMasks(targets []*train.Param, scores [][]float32, p Pattern, rates []float64) ([]*sparse.Mask, error) {
	keys := make([][]uint32, len(targets))
	for t, s := range scores {
		if i := slices.IndexFunc(s, func(x float32) bool { return x != x }); i >= 0 {
			return nil, fmt.Errorf("prune: %q: score of weight %d is not a number: %w", targets[t].Name, i, ErrWeight)
		}
		keys[t] = make([]uint32, len(s))
	}
	order := key
	if slices.ContainsFunc(scores, func(s []float32) bool { return slices.ContainsFunc(s, func(x float32) bool { return x < 0 }) }) {
		if _, ok := p.(Block); ok {
			return nil, fmt.Errorf("prune: blocks by scores that may be negative: %w", ErrMethod)
		}
		order = signedKey
	}
	for t, s := range scores {
		for i, x := range s {
			if unmasked(targets[t], i) {
				keys[t][i] = max(1, order(x)) // 0 is for what is masked
			}
		}
	}
	masks := make([]*sparse.Mask, len(targets))
	u, flat := p.(Unstructured)
	if rates == nil && flat && u.Scope == ScopeGlobal {
		var all []uint32
		var ends []int
		for t, k := range keys {
			masks[t] = fullMask(targets[t].Rows, targets[t].Cols)
			all = append(all, k...)
			ends = append(ends, len(all))
		}
		t := 0
		dropSmallest(all, budget(len(all), u.Sparsity), func(i int) {
			for i >= ends[t] {
				t++
			}
			at, cols := i-ends[t]+len(keys[t]), targets[t].Cols
			masks[t].Drop(at/cols, at%cols)
		})
		return masks, nil
	}
	for t, k := range keys {
		own := p
		if rates != nil {
			own = Unstructured{Sparsity: rates[t], Scope: ScopeLayer}
		}
		var err error
		if masks[t], err = maskOf(k, targets[t].Rows, targets[t].Cols, own); err != nil {
			return nil, fmt.Errorf("prune: %q: %w", targets[t].Name, err)
		}
	}
	return masks, nil
}

// withSparsity is p at another sparsity; N:M has but one.
func withSparsity(p Pattern, s float64) Pattern {
	switch p := p.(type) {
	case Unstructured:
		p.Sparsity = s
		return p
	case Block:
		p.Sparsity = s
		return p
	}
	return p
}

// setMasks puts masks in force.
func setMasks(targets []*train.Param, masks []*sparse.Mask) error {
	for t, p := range targets {
		if err := p.SetMask(masks[t]); err != nil {
			return err
		}
	}
	return nil
}

// getMasks are the masks in force.
func getMasks(targets []*train.Param) []*sparse.Mask {
	out := make([]*sparse.Mask, len(targets))
	for t, p := range targets {
		out[t] = p.Mask()
	}
	return out
}

// masked is the share of the targets' weights that masks hold at zero.
func masked(targets []*train.Param) float64 {
	held, all := 0, 0
	for _, p := range targets {
		all += len(p.W)
		if m := p.Mask(); m != nil {
			held += len(p.W) - m.Count()
		}
	}
	return float64(held) / float64(max(1, all))
}
