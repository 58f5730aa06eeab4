package prune

import (
	"context"
	"fmt"
	"math"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/sparse"
)

// quantiser turns the weights of a layer into integer codes, a scale for every
// Group columns of a row: weight = (code - zero) * scale. Zero is exact, so that
// pruned weights cost nothing. Scales are rounded to f16 before they are used, as
// they will be stored.
type quantiser struct {
	t          sparse.DType // Int8 or Int4
	group      int          // columns per scale
	asymmetric bool
	lo, hi     float32 // the codes
	rows, cols int
	scales     []float32 // [rows, groups]
	zeros      []int8    // [rows, groups]; nil: symmetric
	codes      []int8    // [rows, cols]
}

func newQuantiser(s Store, rows, cols int) *quantiser {
	q := &quantiser{t: s.DType, group: s.Group, asymmetric: s.Asymmetric, lo: -128, hi: 127, rows: rows, cols: cols}
	if s.DType == sparse.Int4 {
		q.lo, q.hi = -8, 7
	}
	if q.group == 0 {
		q.group = max(1, cols)
	}
	n := rows * q.groups()
	q.scales, q.codes = make([]float32, n), make([]int8, rows*cols)
	if q.asymmetric {
		q.zeros = make([]int8, n)
	}
	return q
}

func (q *quantiser) groups() int { return (q.cols + q.group - 1) / q.group }

// shrinks are the fractions of the full range that fit tries: cutting the largest
// weights short can cost less than coarse steps for all others.
var shrinks = []float32{1, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6}

// fit chooses scale and zero point of row r's group that starts at column c0, by
// the sum of squared errors of the weights w weighted by importance; pruned
// weights have importance 0.
func (q *quantiser) fit(r, c0 int, w, importance []float32) {
	var lo, hi float32 // zero is always inside
	for i, v := range w {
		if importance[i] > 0 {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	at := r*q.groups() + c0/q.group
	best := math.Inf(1)
	for _, f := range shrinks {
		scale, zero := q.step(lo*f, hi*f)
		if scale == 0 {
			break
		}
		var e float64
		for i, v := range w {
			if p := importance[i]; p > 0 {
				d := v - (q.round(v, scale, zero)-zero)*scale
				e += float64(d * d * p)
			}
		}
		if e < best {
			best = e
			q.scales[at] = scale
			if q.asymmetric {
				q.zeros[at] = int8(zero)
			}
		}
	}
}

// step is the scale, rounded to f16, and the zero point that cover lo..hi.
func (q *quantiser) step(lo, hi float32) (scale, zero float32) {
	if q.asymmetric {
		scale = (hi - lo) / (q.hi - q.lo)
	} else {
		scale = max(hi/q.hi, -lo/q.hi) // a symmetric range, so that -x has a code where x has
	}
	scale = sparse.F16ToF32(sparse.F32ToF16(scale))
	if scale == 0 || math.IsInf(float64(scale), 0) || !q.asymmetric {
		return scale, 0
	}
	return scale, max(q.lo, min(q.hi, float32(math.RoundToEven(float64(q.lo-lo/scale)))))
}

// round is the code of v.
func (q *quantiser) round(v, scale, zero float32) float32 {
	return max(q.lo, min(q.hi, float32(math.RoundToEven(float64(v/scale)))+zero))
}

// quantise gives row r, column c the code of v and returns the weight it stands for.
func (q *quantiser) quantise(r, c int, v float32) float32 {
	at := r*q.groups() + c/q.group
	scale, zero := q.scales[at], float32(0)
	if q.zeros != nil {
		zero = float32(q.zeros[at])
	}
	code := zero
	if scale != 0 && v != 0 {
		code = q.round(v, scale, zero)
	}
	q.codes[r*q.cols+c] = int8(code)
	return (code - zero) * scale
}

// drop gives a pruned weight the code of zero.
func (q *quantiser) drop(r, c int) { q.quantise(r, c, 0) }

// nearest rounds every weight by itself. w receives what the codes stand for.
func (q *quantiser) nearest(pool *linalg.Pool, w []float32) {
	pool.Split(q.rows, 1, func(lo, hi int) {
		importance := make([]float32, q.group)
		for r := lo; r < hi; r++ {
			for c0 := 0; c0 < q.cols; c0 += q.group {
				g := w[r*q.cols+c0 : r*q.cols+min(c0+q.group, q.cols)]
				for i, v := range g {
					importance[i] = 0
					if v != 0 {
						importance[i] = 1
					}
				}
				q.fit(r, c0, g, importance[:len(g)])
				for i, v := range g {
					g[i] = q.quantise(r, c0+i, v)
				}
			}
		}
	})
}

// spread quantises the kept weights of l column after column and lets the kept
// columns that follow make up for the rounding (GPTQ, Frantar et al. 2022, in
// SparseGPT's form): the mask is settled.
func (l *layer) spread(ctx context.Context, f *factor) error {
	return l.sweep(ctx, f, sweepBlock)
}

// pack stores the codes. A weight whose code is that of zero counts as zero.
func (q *quantiser) pack(layout sparse.Layout) (sparse.Matrix, error) {
	quant := &sparse.Quant{Group: q.group, Type: sparse.F16, Scales: q.scales, Zeros: q.zeros}
	if q.group >= q.cols {
		quant.Group = 0
	}
	zero := func(r, c int) float32 {
		if q.zeros == nil {
			return 0
		}
		return float32(q.zeros[r*q.groups()+c/q.group])
	}
	values := func(n int) (sparse.Values, error) { return sparse.MakeValues(q.t, n) }
	if layout == sparse.LayoutDense {
		ld := q.cols
		if q.t == sparse.Int4 {
			ld = (ld + 1) &^ 1
		}
		v, err := values(q.rows * ld)
		if err != nil {
			return nil, err
		}
		for r := range q.rows {
			for c, code := range q.codes[r*q.cols : (r+1)*q.cols] {
				v.Set(r*ld+c, float32(code))
			}
		}
		return &sparse.Dense{R: q.rows, C: q.cols, Values: v, Quant: quant}, nil
	}
	// The canonical forms decide what is stored where; then codes replace values.
	level := make([]float32, len(q.codes)) // code - zero: what the form's zeros are
	for i, code := range q.codes {
		level[i] = float32(code) - zero(i/q.cols, i%q.cols)
	}
	m, err := sparse.Pack(sparse.NewDense(q.rows, q.cols, level), layout, sparse.F32, 0)
	if err != nil {
		return nil, err
	}
	recode := func(old sparse.Values, column func(i int) (r, c int)) (sparse.Values, error) {
		v, err := values(old.Len())
		if err != nil {
			return v, err
		}
		for i := range old.Len() {
			r, c := column(i)
			v.Set(i, old.At(i)+zero(r, min(c, q.cols-1)))
		}
		return v, nil
	}
	switch m := m.(type) {
	case *sparse.NM24:
		per := 2 * m.Groups()
		m.Values, err = recode(m.Values, func(i int) (int, int) { return i / per, i % per / 2 * 4 })
		if err == nil && q.zeros != nil && q.group < q.cols && q.group%4 != 0 {
			err = fmt.Errorf("groups of %d columns split groups of 4: %w", q.group, ErrPattern)
		}
		m.Quant = quant
	case *sparse.Bitmask:
		at := nonzeros(level)
		m.Values, err = recode(m.Values, func(i int) (int, int) { return at[i] / q.cols, at[i] % q.cols })
		m.Quant = quant
	case *sparse.CSR:
		at := nonzeros(level)
		m.Values, err = recode(m.Values, func(i int) (int, int) { return at[i] / q.cols, at[i] % q.cols })
		m.Quant = quant
	}
	return m, err
}

// nonzeros lists the positions of the nonzeros in order.
func nonzeros(w []float32) (at []int) {
	for i, v := range w {
		if v != 0 {
			at = append(at, i)
		}
	}
	return at
}
