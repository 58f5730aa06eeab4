package prune

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/sparse"
)

// Scores of weights are compared as uint32 keys: the bit pattern of a float32
// that is not negative sorts like the number, so no comparison depends on
// rounding, and integers (Random) fit as well.

// key turns a score that is neither negative nor NaN into its key.
func key(score float32) uint32 { return math.Float32bits(score) &^ (1 << 31) }

// dropSmallest calls drop with the positions of exactly k of the keys: the
// smallest, and of equal ones the first.
func dropSmallest(keys []uint32, k int, drop func(i int)) {
	if k <= 0 {
		return
	}
	if k >= len(keys) {
		for i := range keys {
			drop(i)
		}
		return
	}
	var h histogram
	for _, x := range keys {
		h.addHigh(x)
	}
	h.splitHigh(int64(k))
	for _, x := range keys {
		h.addLow(x)
	}
	cut, ties := h.splitLow()
	for i, x := range keys {
		switch {
		case x < cut:
			drop(i)
		case x == cut && ties > 0:
			ties--
			drop(i)
		}
	}
}

// histogram finds the k-th smallest of a stream of keys in two passes over it:
// the first counts the high 16 bits, the second the low 16 bits of the bucket
// that holds the k-th. It needs no copy of the keys, so a whole model can
// compete for one budget.
type histogram struct {
	high, low [1 << 16]int64
	left      int64  // how many of the k are in the chosen bucket
	bucket    uint32 // high bits of the k-th smallest
}

func (h *histogram) addHigh(x uint32) { h.high[x>>16]++ }

// splitHigh chooses the bucket of the k-th smallest, k >= 1.
func (h *histogram) splitHigh(k int64) {
	for b, n := range h.high {
		if k <= n {
			h.bucket, h.left = uint32(b), k
			return
		}
		k -= n
	}
}

func (h *histogram) addLow(x uint32) {
	if x>>16 == h.bucket {
		h.low[x&0xffff]++
	}
}

// splitLow returns the k-th smallest key and how many keys equal to it belong
// to the k smallest.
func (h *histogram) splitLow() (cut uint32, ties int64) {
	k := h.left
	for b, n := range h.low {
		if k <= n {
			return h.bucket<<16 | uint32(b), k
		}
		k -= n
	}
	return math.MaxUint32, 0
}

// fullMask keeps everything.
func fullMask(rows, cols int) *sparse.Mask {
	m := sparse.NewMask(rows, cols)
	for r := range rows {
		row := m.Row(r)
		for i := range row {
			row[i] = ^uint64(0)
		}
		if t := cols % 64; t != 0 {
			row[len(row)-1] = 1<<t - 1
		}
	}
	return m
}

// maskOf applies a pattern to the keys of a matrix [rows, cols]. ScopeGlobal is
// not its business: see cutGlobal.
func maskOf(keys []uint32, rows, cols int, p Pattern) (*sparse.Mask, error) {
	m := fullMask(rows, cols)
	switch p := p.(type) {
	case NM:
		keep := make([]bool, cols)
		for r := range rows {
			keepNM(keys[r*cols:(r+1)*cols], p, keep)
			for c, k := range keep {
				if !k {
					m.Drop(r, c)
				}
			}
		}
	case Block:
		dropBlocks(keys, rows, cols, p, m)
	case Unstructured:
		switch p.Scope {
		case ScopeLayer:
			dropSmallest(keys, budget(rows*cols, p.Sparsity), func(i int) { m.Drop(i/cols, i%cols) })
		case ScopeRow:
			k := budget(cols, p.Sparsity)
			idx := make([]int32, cols)
			for r := range rows {
				dropRow(keys[r*cols:(r+1)*cols], k, idx, func(c int) { m.Drop(r, c) })
			}
		default:
			return nil, fmt.Errorf("prune: scope %q: %w", string(p.Scope), ErrPattern)
		}
	default:
		return nil, fmt.Errorf("prune: pattern %v: %w", p, ErrPattern)
	}
	return m, nil
}

// dropRow is dropSmallest for a short run of keys, for which sorting positions
// is faster than 2*65536 counters. idx is scratch of len(keys).
func dropRow(keys []uint32, k int, idx []int32, drop func(i int)) {
	for i := range idx {
		idx[i] = int32(i)
	}
	slices.SortFunc(idx, func(a, b int32) int {
		if keys[a] != keys[b] {
			if keys[a] < keys[b] {
				return -1
			}
			return 1
		}
		return int(a - b)
	})
	for _, i := range idx[:k] {
		drop(int(i))
	}
}

// keepNM marks what stays of every group of Of keys of a row: all but the
// smallest, of equal ones the last.
func keepNM(keys []uint32, p NM, keep []bool) {
	var rank [8]int // how many keys of the group rank before each
	before := rank[:]
	if p.Of > len(before) {
		before = make([]int, p.Of)
	}
	for g := 0; g < len(keys); g += p.Of {
		grp := keys[g:min(g+p.Of, len(keys))]
		before := before[:len(grp)]
		clear(before)
		for j := 1; j < len(grp); j++ {
			for i := range j {
				if grp[j] < grp[i] {
					before[i]++
				} else {
					before[j]++
				}
			}
		}
		drop := len(grp) - p.keep(len(grp))
		for i, n := range before {
			keep[g+i] = n >= drop
		}
	}
}

// dropBlocks drops whole tiles by the mean of their scores.
func dropBlocks(keys []uint32, rows, cols int, p Block, m *sparse.Mask) {
	across := (cols + p.Cols - 1) / p.Cols
	tiles := make([]uint32, 0, (rows+p.Rows-1)/p.Rows*across)
	for r := 0; r < rows; r += p.Rows {
		for c := 0; c < cols; c += p.Cols {
			r1, c1 := min(r+p.Rows, rows), min(c+p.Cols, cols)
			var sum float64
			for i := r; i < r1; i++ {
				for _, x := range keys[i*cols+c : i*cols+c1] {
					sum += float64(math.Float32frombits(x))
				}
			}
			tiles = append(tiles, key(float32(sum/float64((r1-r)*(c1-c)))))
		}
	}
	dropSmallest(tiles, budget(len(tiles), p.Sparsity), func(t int) {
		r, c := t/across*p.Rows, t%across*p.Cols
		for i := r; i < min(r+p.Rows, rows); i++ {
			for j := c; j < min(c+p.Cols, cols); j++ {
				m.Drop(i, j)
			}
		}
	})
}
