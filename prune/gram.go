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
	window int       // tokens of a sequence
	diag   []float64 // [d]
	sum    []float64 // [d], where h is nil
	h      []float32 // [d, d], nil: not asked for
	factor *factor   // of the last factorise, shared by the layers with these inputs
	asked  float64   // its damping as asked for
}

func newGram(d int, full bool) *gram {
	g := &gram{d: d, diag: make([]float64, d), sum: make([]float64, d)}
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
					g.sum[lo+c] += float64(v)
				}
			}
		})
		return
	}
	linalg.Gram(pool, g.h, x, rows, g.d, g.d)
	for i := range g.diag {
		g.diag[i] = float64(g.h[i*g.d+i])
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

// moments are mean and variance of the channels over all tokens; only grams
// without a matrix keep them.
func (g *gram) moments() (mean, variance []float64) {
	mean, variance = make([]float64, g.d), make([]float64, g.d)
	n := float64(max(1, g.tokens))
	for c, s := range g.sum {
		mean[c] = s / n
		variance[c] = max(0, g.diag[c]/n-mean[c]*mean[c])
	}
	return mean, variance
}

// meanDiag is the mean of the diagonal of H.
func (g *gram) meanDiag() float64 {
	var s float64
	for _, v := range g.diag {
		s += v
	}
	return s / float64(max(1, g.d))
}
