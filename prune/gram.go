package prune

import (
	"math"

	"github.com/sparserun/sparserun/linalg"
)

// gram is what calibration learns of the inputs X [tokens, d] of some Linears:
// the sums of squares of the channels and, where a method asks for it, the Gram
// matrix H = X^T X. Sums go token by token in the order of the windows, in parts
// of chunkTokens: the number of threads does not change them.
type gram struct {
	d      int
	tokens int
	diag   []float64 // [d]
	h      []float32 // [d, d], nil: not asked for
}

func newGram(d int, full bool) *gram {
	g := &gram{d: d, diag: make([]float64, d)}
	if full {
		g.h = make([]float32, d*d)
	}
	return g
}

// add takes in rows of inputs.
func (g *gram) add(pool *linalg.Pool, x []float32, rows int) {
	g.tokens += rows
	if g.h == nil {
		pool.Split(g.d, 16, func(lo, hi int) {
			for r := range rows {
				for c, v := range x[r*g.d+lo : r*g.d+hi] {
					g.diag[lo+c] += float64(v) * float64(v)
				}
			}
		})
		return
	}
	gramAdd(pool, g.h, x, rows, g.d)
	for i := range g.diag {
		g.diag[i] = float64(g.h[i*g.d+i])
	}
}

// gramAdd: h += x^T x, with x [rows, d]; only tiles on and above the diagonal are
// computed, mirror fills the rest.
func gramAdd(pool *linalg.Pool, h, x []float32, rows, d int) {
	const tile = 192
	n := (d + tile - 1) / tile
	type pair struct{ i, j int }
	var jobs []pair
	for i := range n {
		for j := i; j < n; j++ {
			jobs = append(jobs, pair{i, j})
		}
	}
	pool.Run(len(jobs), func(k int) {
		i, j := jobs[k].i*tile, jobs[k].j*tile
		linalg.Gemm(nil, true, false, min(tile, d-i), min(tile, d-j), rows, 1, x[i:], d, x[j:], d, 1, h[i*d+j:], d)
	})
}

// mirror copies the upper triangle to the lower one.
func mirror(h []float32, d int) {
	for i := range d {
		for j := range i {
			h[i*d+j] = h[j*d+i]
		}
	}
}

// norms are the Euclidean norms of the channels, up to a common factor.
func (g *gram) norms() []float32 {
	out := make([]float32, g.d)
	for i, s := range g.diag {
		out[i] = float32(math.Sqrt(s / float64(max(1, g.tokens))))
	}
	return out
}

// meanDiag is the mean of the diagonal of H.
func (g *gram) meanDiag() float64 {
	var s float64
	for _, v := range g.diag {
		s += v
	}
	return s / float64(max(1, g.d))
}
