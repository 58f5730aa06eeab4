package backendtest

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

var (
	linearShapes = [][2]int{{1, 1}, {7, 33}, {33, 7}, {172, 64}, {64, 172}, {1, 576}, {33, 172}, {100, 576}}
	batches      = []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 64}
)

// exactGroup is a divisor of every scale group in use: each run of so many columns
// holds the largest code, so that quantising loses nothing and a kernel has no
// rounding to hide behind.
const exactGroup = 32

// linear runs every kernel over shapes, densities, batches and epilogues.
func (s *suite) linear(t *testing.T) {
	for _, k := range s.has() {
		groups := []int{0}
		if k.Weight.Quantised() {
			groups = nil
			for _, g := range []int{0, 32, 64, 128} {
				if s.groups == nil || s.groups(k, g) {
					groups = append(groups, g)
				}
			}
		}
		t.Run(k.String(), func(t *testing.T) {
			for i, shape := range linearShapes {
				for j, density := range []float64{0, 0.1, 0.5, 1} {
					// Scale groups and epilogues take turns over shapes and densities.
					s.linearCase(t, k, groups[(i+3*j)%len(groups)], shape[0], shape[1], density, i+j)
				}
			}
		})
	}
}

// tiny is the bound where numbers are subnormal in half precision.
func (s *suite) tiny() float64 {
	if s.round == 0 {
		return 0
	}
	return tiny
}

// Epilogues that a Linear may carry; the cases take turns.
const (
	plainSum = iota
	withBias
	residualInPlace
	residualElsewhere
	biasAndResidual
	epilogues
)

func (s *suite) linearCase(t *testing.T, k runtime.Kernel, group, rows, cols int, density float64, variant int) {
	id := name(k, " g", group, " [", rows, " ", cols, "] density ", density)
	r := rng(id)
	w := weights(r, k, rows, cols, density)
	n := newNet(64, 0)
	n.kernel, n.plan.Group = k, group
	x := n.input(cols)
	variant %= epilogues
	var bias *model.Weight
	var b []float32
	if variant == withBias || variant == biasAndResidual {
		b = normal(r, rows)
		bias = vector("bias", b)
	}
	// The residual comes from an input, through an Add with itself in place of a copy.
	res := n.input(rows)
	twice := n.node(model.OpAdd, rows, nil, nil, nil, res, res)
	// A second Linear of the same input: backends may run both as one.
	other := n.node(model.OpLinear, rows, nil, matrix("other", rows, cols, w), nil, x)
	out := n.node(model.OpLinear, rows, nil, matrix("w", rows, cols, w), bias, x)
	st := n.last()
	switch variant {
	case residualInPlace:
		st.Out, st.Residual = int(twice), int(twice)
		n.plan.Buffers[out] = n.plan.Buffers[twice]
	case residualElsewhere, biasAndResidual:
		st.Residual = int(twice)
	}
	sum := n.node(model.OpAdd, rows, nil, nil, nil, out, other)
	n.last().In[0] = st.Out
	p := s.program(t, n.output(sum))
	for _, batch := range batches {
		xs := activations(r, k, batch, cols)
		rs := normal(r, batch*rows)
		want, bound := make([]float64, batch*rows), make([]float64, batch*rows)
		for i := range batch {
			for o := range rows {
				var y, size float64
				for c, v := range xs[i*cols : (i+1)*cols] {
					q := float64(v) * float64(w[o*cols+c])
					y += q
					size += math.Abs(q)
				}
				y, size = 2*y, 2*size
				if b != nil {
					y += float64(b[o])
					size += math.Abs(float64(b[o]))
				}
				if variant >= residualInPlace {
					y += 2 * float64(rs[i*rows+o])
					size += 2 * math.Abs(float64(rs[i*rows+o]))
				}
				want[i*rows+o] = y
				// A float32 sum of n terms in any order is off by at most n half units of
				// the terms' size (Higham, section 4.2); 8 more for scales, bias, residual.
				// Where activations are rounded, the inputs are, and each of the values on
				// the way, none of which is larger than size: 4 roundings of the whole.
				bound[i*rows+o] = size*(float64(cols+8)/(1<<24)+4*s.roundOf(k)) + s.tiny()
			}
		}
		equal(t, name(id, " epilogue ", variant, " batch ", batch), run(t, p, batch, rows, floats(batch, cols, xs), floats(batch, rows, rs)), want, bound)
	}
	if k.Act == sparse.Int8 {
		s.int8Case(t, p, r, id, w, b, variant, rows, cols)
	}
}

// int8Case feeds numbers that int8 cannot hold: the result may be off by half a
// step of each activation, the step being at most the row's largest over 127.
func (s *suite) int8Case(t *testing.T, p runtime.Program, r *rand.Rand, id string, w, b []float32, variant, rows, cols int) {
	const batch = 3
	xs, rs := normal(r, batch*cols), normal(r, batch*rows)
	want, bound := make([]float64, batch*rows), make([]float64, batch*rows)
	for i := range batch {
		var top float64
		for _, v := range xs[i*cols : (i+1)*cols] {
			top = max(top, math.Abs(float64(v)))
		}
		for o := range rows {
			var y, size, terms float64
			for c, v := range xs[i*cols : (i+1)*cols] {
				y += 2 * float64(v) * float64(w[o*cols+c])
				size += 2 * math.Abs(float64(w[o*cols+c]))
			}
			terms = size * top
			if b != nil {
				y += float64(b[o])
				terms += math.Abs(float64(b[o]))
			}
			if variant >= residualInPlace {
				y += 2 * float64(rs[i*rows+o])
				terms += 2 * math.Abs(float64(rs[i*rows+o]))
			}
			want[i*rows+o], bound[i*rows+o] = y, size*top/254*1.001+1e-5+4*s.round*terms+s.tiny()
		}
	}
	equal(t, name(id, " any numbers"), run(t, p, batch, rows, floats(batch, cols, xs), floats(batch, rows, rs)), want, bound)
}

// weights are exact in the kernel's type. Row 0 is empty, row 1 full as far as the
// layout allows.
func weights(r *rand.Rand, k runtime.Kernel, rows, cols int, density float64) []float32 {
	w := make([]float32, rows*cols)
	for o := range rows {
		d := density
		if rows > 2 && o == 0 {
			d = 0
		} else if rows > 2 && o == 1 && density > 0 {
			d = 1
		}
		row := w[o*cols : (o+1)*cols]
		// One scale a row, a power of two.
		scale := math.Ldexp(1, r.IntN(5)-8)
		first := true
		for c := range row {
			if c%exactGroup == 0 {
				first = true
			}
			if r.Float64() >= d || (k.Layout == sparse.LayoutNM24 && count(row[c&^3:c]) == 2) {
				continue
			}
			var v float64
			switch k.Weight {
			case sparse.Int8:
				v = code(r, 127, &first) * scale
			case sparse.Int4:
				v = code(r, 7, &first) * scale
			case sparse.F16:
				v = float64(sparse.F16ToF32(sparse.F32ToF16(float32(r.NormFloat64()))))
			case sparse.BF16:
				v = float64(sparse.BF16ToF32(sparse.F32ToBF16(float32(r.NormFloat64()))))
			default:
				v = r.NormFloat64()
			}
			row[c] = float32(v)
		}
	}
	return w
}

func count(x []float32) int {
	n := 0
	for _, v := range x {
		if v != 0 {
			n++
		}
	}
	return n
}

// code is an integer in [-limit, limit], not 0; the first of a group has the full size.
func code(r *rand.Rand, limit int, first *bool) float64 {
	v := 1 + r.IntN(limit)
	if *first {
		v, *first = limit, false
	}
	if r.IntN(2) == 0 {
		v = -v
	}
	return float64(v)
}

// activations are exact in the kernel's activation type, with a row of zeros.
func activations(r *rand.Rand, k runtime.Kernel, rows, cols int) []float32 {
	if k.Act != sparse.Int8 {
		return normal(r, rows*cols)
	}
	x := make([]float32, rows*cols)
	for i := range rows {
		if i == 1 {
			continue
		}
		scale := math.Ldexp(1, r.IntN(5)-6)
		first := true
		for c := range cols {
			if c%exactGroup == 0 {
				first = true
			}
			x[i*cols+c] = float32(code(r, 127, &first) * scale)
		}
	}
	return x
}

// mixed holds that Linears of one input may run in different layouts: backends share
// the forms of the input that kernels read, and each kernel reads its own.
func (s *suite) mixed(t *testing.T) {
	byWeight := map[sparse.DType][]runtime.Kernel{}
	for _, k := range s.has() {
		if k.Act == runtime.ActType(k.Weight) {
			byWeight[k.Weight] = append(byWeight[k.Weight], k)
		}
	}
	const rows, cols = 70, 192
	for wt, kernels := range byWeight {
		if s.groups != nil && !s.groups(kernels[0], 0) {
			continue
		}
		id := name("mixed ", wt)
		r := rng(id)
		nm := runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutNM24, Weight: wt, Act: kernels[0].Act}
		w := weights(r, nm, rows, cols, 0.5) // 2:4, which every layout holds
		n := newNet(64, 0)
		x := n.input(cols)
		var outs []model.ValueID
		for i, k := range kernels {
			n.kernel = k
			outs = append(outs, n.node(model.OpLinear, rows, nil, matrix(name("w", i), rows, cols, w), nil, x))
		}
		sum := outs[0]
		for _, o := range outs[1:] {
			sum = n.node(model.OpAdd, rows, nil, nil, nil, sum, o)
		}
		p := s.program(t, n.output(sum))
		for _, batch := range []int{1, 3, 8, 33, 64} {
			xs := activations(r, kernels[0], batch, cols)
			want, bound := make([]float64, batch*rows), make([]float64, batch*rows)
			for i := range batch {
				for o := range rows {
					var y, size float64
					for c, v := range xs[i*cols : (i+1)*cols] {
						q := float64(len(kernels)) * float64(v) * float64(w[o*cols+c])
						y += q
						size += math.Abs(q)
					}
					want[i*rows+o] = y
					bound[i*rows+o] = size*(float64(cols+8)/(1<<24)+float64(2+len(kernels))*s.roundOf(kernels[0])) + s.tiny()
				}
			}
			equal(t, name(id, " batch ", batch), run(t, p, batch, rows, floats(batch, cols, xs)), want, bound)
		}
	}
}
