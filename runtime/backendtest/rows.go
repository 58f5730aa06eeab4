package backendtest

import (
	"math"
	"testing"

	"github.com/sparserun/sparserun/model"
)

// unit is half a unit in the last place of a float32, relative.
const unit = 1.0 / (1 << 24)

// rows tests the ops that treat every row alone.
func (s *suite) rows(t *testing.T) {
	for _, width := range []int{1, 7, 33, 64, 172, 576} {
		for _, batch := range []int{1, 2, 9, 64} {
			s.elementwise(t, batch, width)
			s.softmax(t, batch, width)
			s.rmsNorm(t, batch, width, 0)
			if width%2 == 0 {
				s.rmsNorm(t, batch, width, width/2)
			}
		}
	}
	for _, c := range []struct{ heads, dim int }{{1, 2}, {8, 8}, {3, 64}, {2, 6}, {5, 80}, {1, 128}} {
		s.rope(t, c.heads, c.dim)
	}
}

func (s *suite) elementwise(t *testing.T, batch, width int) {
	for _, c := range []struct {
		op model.Op
		f  func(a, b float64) float64
		// tol is the allowed error relative to the size of result and operands.
		tol float64
	}{
		{model.OpAdd, func(a, b float64) float64 { return a + b }, 2 * unit},
		{model.OpMul, func(a, b float64) float64 { return a * b }, 2 * unit},
		// silu needs exp, which good float32 versions get within a few units; 16 is
		// loose enough for those of GPUs.
		{model.OpSiLUGate, func(a, b float64) float64 { return a / (1 + math.Exp(-a)) * b }, 16 * unit},
		{model.OpReLU, func(a, _ float64) float64 { return max(a, 0) }, 0},
	} {
		id := name(c.op, " ", batch, "x", width)
		r := rng(id)
		n := newNet(64, 0)
		a, b := n.input(width), n.input(width)
		in := []model.ValueID{a, b}
		if c.op == model.OpReLU {
			in = in[:1]
		}
		y := n.node(c.op, width, nil, nil, nil, in...)
		p := s.program(t, n.output(y))
		xs, ys := normal(r, batch*width), normal(r, batch*width)
		for i := range xs {
			switch r.IntN(20) {
			case 0:
				xs[i] = 0
			case 1: // where exp over- or underflows, silu is the gate itself or zero
				xs[i] *= 100
			}
		}
		want, bound := make([]float64, len(xs)), make([]float64, len(xs))
		for i := range xs {
			u, v := float64(xs[i]), float64(ys[i])
			want[i] = c.f(u, v)
			// Far below zero silu falls as exp does: rounding u by a share shifts the exponent.
			bound[i] = math.Abs(want[i])*(c.tol+(4+math.Abs(u))*s.round) + 1e-36 + s.tiny()
			if c.op == model.OpAdd {
				bound[i] = (math.Abs(u)+math.Abs(v))*(c.tol+2*s.round) + s.tiny() // summands and sum
			}
			if c.op == model.OpSiLUGate && u < -80 {
				bound[i] = 1e-30 + s.tiny() // exp(80) and up: as good as zero
			}
		}
		equal(t, id, run(t, p, batch, width, floats(batch, width, xs), floats(batch, width, ys)), want, bound)
	}
}

func (s *suite) softmax(t *testing.T, batch, width int) {
	id := name("Softmax ", batch, "x", width)
	r := rng(id)
	n := newNet(64, 0)
	p := s.program(t, n.output(n.node(model.OpSoftmax, width, nil, nil, nil, n.input(width))))
	xs := normal(r, batch*width)
	for i := range xs {
		xs[i] = 5*xs[i] + 200 // exp(200) overflows float32: the maximum must be taken off
	}
	want, bound := make([]float64, len(xs)), make([]float64, len(xs))
	for i := range batch {
		row := xs[i*width : (i+1)*width]
		top, sum := math.Inf(-1), 0.0
		for _, v := range row {
			top = max(top, float64(v))
		}
		for _, v := range row {
			sum += math.Exp(float64(v) - top)
		}
		for c, v := range row {
			want[i*width+c] = math.Exp(float64(v)-top) / sum
			// exp of a float32 difference, a sum of positive terms and a division; the
			// inputs, when rounded, shift the exponent.
			bound[i*width+c] = want[i*width+c]*(float64(width)/8+32)*unit + want[i*width+c]*s.round*280 + 1e-30 + s.tiny()
		}
	}
	equal(t, id, run(t, p, batch, width, floats(batch, width, xs)), want, bound)
}

func (s *suite) rmsNorm(t *testing.T, batch, width, group int) {
	id := name("RMSNorm ", batch, "x", width, " in ", group)
	r := rng(id)
	attr := model.RMSNorm{Eps: 1e-5, Width: group}
	if group == 0 {
		group = width
	}
	w := normal(r, group)
	n := newNet(64, 0)
	p := s.program(t, n.output(n.node(model.OpRMSNorm, width, attr, vector("w", w), nil, n.input(width))))
	xs := normal(r, batch*width)
	clear(xs[:group]) // zeros: only eps is left
	want, bound := make([]float64, len(xs)), make([]float64, len(xs))
	for i := 0; i < len(xs); i += group {
		var sum float64
		for _, v := range xs[i : i+group] {
			sum += float64(v) * float64(v)
		}
		inv := 1 / math.Sqrt(sum/float64(group)+float64(attr.Eps))
		for c, v := range xs[i : i+group] {
			want[i+c] = float64(v) * inv * float64(w[c])
			// The sum of squares, positive terms, and a few roundings.
			bound[i+c] = math.Abs(want[i+c])*((float64(group)/8+16)*unit+2*s.round) + s.tiny()
		}
	}
	equal(t, id, run(t, p, batch, width, floats(batch, width, xs)), want, bound)
}

func (s *suite) rope(t *testing.T, heads, dim int) {
	id := name("RoPE ", heads, "x", dim)
	r := rng(id)
	attr := model.RoPE{HeadDim: dim, Scale: 1.25}
	for i := range dim / 2 {
		attr.InvFreq = append(attr.InvFreq, math.Pow(10000, -2*float64(i)/float64(dim)))
	}
	width := heads * dim
	n := newNet(64, 0)
	n.g.Config = &model.Config{Context: 4096}
	x, at := n.input(width), n.input(1)
	p := s.program(t, n.output(n.node(model.OpRoPE, width, attr, nil, nil, x, at)))
	for _, batch := range []int{1, 9, 64} {
		xs := normal(r, batch*width)
		pos := make([]int32, batch)
		for i := range pos {
			pos[i] = int32(r.IntN(4096))
		}
		pos[0] = 4095
		want, bound := make([]float64, len(xs)), make([]float64, len(xs))
		for i := range batch {
			for h := range heads {
				for k := range dim / 2 {
					a := float64(pos[i]) * attr.InvFreq[k]
					c, sn := math.Cos(a)*1.25, math.Sin(a)*1.25
					j := i*width + h*dim + k
					u, v := float64(xs[j]), float64(xs[j+dim/2])
					want[j], want[j+dim/2] = u*c-v*sn, v*c+u*sn
					// Two products of rounded factors and a sum.
					e := (math.Abs(u) + math.Abs(v)) * 1.25 * (4*unit + 2*s.round)
					bound[j], bound[j+dim/2] = e, e+s.tiny()
				}
			}
		}
		equal(t, name(id, " ", batch), run(t, p, batch, width, floats(batch, width, xs), ints(pos...)), want, bound)
	}
}
