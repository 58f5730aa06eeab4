package tensorop

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// recurrent runs LSTM, GRU and RNN: X [seq, batch, in] (layout 1: [batch, seq, in]),
// W [dirs, gates*hidden, in], R [dirs, gates*hidden, hidden], B [dirs, 2*gates*hidden].
type recurrent struct {
	c                                   *Call
	gates, seq, batch, in, hidden, dirs int
	x                                   []float32 // [seq, batch, in]
	w, r, b, p                          []float32
	lens                                []int
	acts                                []func(float64) float64
	clip                                float64
	y, yh, yc                           []float32
}

var gateCount = map[model.Op]int{"LSTM": 4, "GRU": 3, "RNN": 1}

func rnn(c *Call) ([]*T, error) {
	r := &recurrent{c: c, gates: gateCount[c.Node.Op], hidden: c.int("hidden_size", 0), clip: c.float("clip", 0)}
	var t [3]*T
	for i := range t {
		var err error
		if t[i], err = c.tensor(i); err != nil {
			return nil, err
		}
		if len(t[i].Shape) != 3 {
			return nil, fmt.Errorf("input %d: %v: %w", i, t[i].Shape, ErrShape)
		}
	}
	x := t[0]
	batchFirst := c.int("layout", 0) != 0
	var err error
	if batchFirst {
		if x, err = Transpose(x, []int{1, 0, 2}); err != nil {
			return nil, err
		}
	}
	r.seq, r.batch, r.in = x.Shape[0], x.Shape[1], x.Shape[2]
	if r.hidden == 0 {
		r.hidden = t[2].Shape[2]
	}
	dir := c.str("direction", "forward")
	r.dirs = 1
	if dir == "bidirectional" {
		r.dirs = 2
	} else if dir != "forward" && dir != "reverse" {
		return nil, fmt.Errorf("direction %.20q: %w", dir, ErrAttribute)
	}
	g := r.gates * r.hidden
	if !slices.Equal(t[1].Shape, []int{r.dirs, g, r.in}) || !slices.Equal(t[2].Shape, []int{r.dirs, g, r.hidden}) {
		return nil, fmt.Errorf("x %v, w %v, r %v, hidden %d: %w", x.Shape, t[1].Shape, t[2].Shape, r.hidden, ErrShape)
	}
	for i, p := range []*[]float32{&r.x, &r.w, &r.r} {
		if *p, err = asFloats([]*T{x, t[1], t[2]}[i]); err != nil {
			return nil, err
		}
	}
	if r.b, err = r.optional(3, r.dirs*2*g); err != nil {
		return nil, err
	}
	if r.p, err = r.optional(7, r.dirs*3*r.hidden); err != nil {
		return nil, err
	}
	if r.lens, err = c.intsIn(4); err != nil {
		return nil, err
	}
	if r.lens == nil {
		r.lens = slices.Repeat([]int{r.seq}, r.batch)
	}
	if len(r.lens) != r.batch {
		return nil, fmt.Errorf("%d lengths of %d items: %w", len(r.lens), r.batch, ErrShape)
	}
	if err := r.activations(); err != nil {
		return nil, err
	}
	if c.int("input_forget", 0) != 0 {
		return nil, fmt.Errorf("input_forget: %w", ErrUnsupported)
	}
	state := r.dirs * r.batch * r.hidden
	h, err := r.initial(5, state, batchFirst)
	if err != nil {
		return nil, err
	}
	cell, err := r.initial(6, state, batchFirst)
	if err != nil {
		return nil, err
	}
	y, err := make0(model.ElemF32, r.seq, r.dirs, r.batch, r.hidden)
	if err != nil {
		return nil, err
	}
	r.y, r.yh, r.yc = y.Data.([]float32), h, cell
	for d := range r.dirs {
		r.run(d, dir == "reverse" || d == 1)
	}
	yh := model.F32Tensor(r.yh, r.dirs, r.batch, r.hidden)
	yc := model.F32Tensor(r.yc, r.dirs, r.batch, r.hidden)
	if batchFirst {
		if y, err = Transpose(y, []int{2, 0, 1, 3}); err != nil {
			return nil, err
		}
		for _, p := range []**T{&yh, &yc} {
			if *p, err = Transpose(*p, []int{1, 0, 2}); err != nil {
				return nil, err
			}
		}
	}
	if c.Node.Op == "LSTM" {
		return []*T{y, yh, yc}, nil
	}
	return []*T{y, yh}, nil
}

func (r *recurrent) optional(i, n int) ([]float32, error) {
	t := r.c.in(i)
	if t == nil {
		return make([]float32, n), nil
	}
	if t.Len() != n {
		return nil, fmt.Errorf("input %d: %v, want %d numbers: %w", i, t.Shape, n, ErrShape)
	}
	return asFloats(t)
}

func (r *recurrent) initial(i, n int, batchFirst bool) ([]float32, error) {
	t := r.c.in(i)
	if t == nil || i == 6 && r.c.Node.Op != "LSTM" {
		return make([]float32, n), nil
	}
	if batchFirst && len(t.Shape) == 3 {
		var err error
		if t, err = Transpose(t, []int{1, 0, 2}); err != nil {
			return nil, err
		}
	}
	if t.Len() != n {
		return nil, fmt.Errorf("input %d: %v, want %d numbers: %w", i, t.Shape, n, ErrShape)
	}
	f, err := asFloats(t)
	return slices.Clone(f), err
}

func (r *recurrent) activations() error {
	names := r.c.op.Attrs["activations"].Strings
	alpha, beta := r.c.op.Attrs["activation_alpha"].Floats, r.c.op.Attrs["activation_beta"].Floats
	def := map[model.Op][]string{"LSTM": {"Sigmoid", "Tanh", "Tanh"}, "GRU": {"Sigmoid", "Tanh"}, "RNN": {"Tanh"}}[r.c.Node.Op]
	if len(names) == 0 {
		for range r.dirs {
			names = append(names, def...)
		}
	}
	if len(names) != r.dirs*len(def) {
		return fmt.Errorf("%d activations: %w", len(names), ErrAttribute)
	}
	next := func(l *[]float32, missing float64) float64 {
		if len(*l) == 0 {
			return missing
		}
		v := (*l)[0]
		*l = (*l)[1:]
		return float64(v)
	}
	for _, n := range names {
		switch n {
		case "Sigmoid":
			r.acts = append(r.acts, sigmoid)
		case "Tanh":
			r.acts = append(r.acts, math.Tanh)
		case "Relu":
			r.acts = append(r.acts, func(x float64) float64 { return math.Max(x, 0) })
		case "Softsign":
			r.acts = append(r.acts, func(x float64) float64 { return x / (1 + math.Abs(x)) })
		case "Softplus":
			r.acts = append(r.acts, softplus)
		case "Affine":
			a, b := next(&alpha, 1), next(&beta, 0)
			r.acts = append(r.acts, func(x float64) float64 { return a*x + b })
		case "LeakyRelu":
			a := next(&alpha, 0.01)
			r.acts = append(r.acts, func(x float64) float64 { return math.Max(x, 0) + a*math.Min(x, 0) })
		case "ThresholdedRelu":
			a := next(&alpha, 1)
			r.acts = append(r.acts, func(x float64) float64 {
				if x > a {
					return x
				}
				return 0
			})
		case "Elu":
			a := next(&alpha, 1)
			r.acts = append(r.acts, func(x float64) float64 { return math.Max(x, 0) + a*math.Expm1(math.Min(x, 0)) })
		case "HardSigmoid":
			a, b := next(&alpha, 0.2), next(&beta, 0.5)
			r.acts = append(r.acts, func(x float64) float64 { return math.Max(0, math.Min(1, a*x+b)) })
		case "ScaledTanh":
			a, b := next(&alpha, 1), next(&beta, 1)
			r.acts = append(r.acts, func(x float64) float64 { return a * math.Tanh(b*x) })
		default:
			return fmt.Errorf("activation %.20q: %w", n, ErrUnsupported)
		}
	}
	return nil
}

func (r *recurrent) clipped(x float64) float64 {
	if r.clip > 0 {
		return math.Max(-r.clip, math.Min(r.clip, x))
	}
	return x
}

// run is one direction over the sequence.
func (r *recurrent) run(d int, reverse bool) {
	h, g := r.hidden, r.gates*r.hidden
	w, rec := r.w[d*g*r.in:(d+1)*g*r.in], r.r[d*g*h:(d+1)*g*h]
	bw, br := r.b[d*2*g:d*2*g+g], r.b[d*2*g+g:(d+1)*2*g]
	hid, cell := r.yh[d*r.batch*h:(d+1)*r.batch*h], r.yc[d*r.batch*h:(d+1)*r.batch*h]
	gx, gh := make([]float32, r.batch*g), make([]float32, r.batch*g)
	n := len(r.acts) / r.dirs
	acts := r.acts[d*n : (d+1)*n]
	for s := range r.seq {
		// Item b is at step s of its own length: the reverse direction starts at its end.
		for b := range r.batch {
			if s >= r.lens[b] {
				continue
			}
			t := s
			if reverse {
				t = r.lens[b] - 1 - s
			}
			if t < 0 || t >= r.seq {
				continue
			}
			xr, hr := r.x[(t*r.batch+b)*r.in:][:r.in], hid[b*h:(b+1)*h]
			a, q := gx[b*g:(b+1)*g], gh[b*g:(b+1)*g]
			linalg.Gemm(nil, false, true, 1, g, r.in, 1, xr, r.in, w, r.in, 0, a, g)
			linalg.Gemm(nil, false, true, 1, g, h, 1, hr, h, rec, h, 0, q, g)
			for i := range g {
				a[i] += bw[i]
				q[i] += br[i]
			}
			r.cell(d, a, q, hr, cell[b*h:(b+1)*h], acts, rec, br)
			copy(r.y[((t*r.dirs+d)*r.batch+b)*h:][:h], hr)
		}
	}
}

func (r *recurrent) cell(d int, a, q, hid, cell []float32, acts []func(float64) float64, rec, br []float32) {
	h := r.hidden
	switch r.c.Node.Op {
	case "RNN":
		for i := range h {
			hid[i] = float32(acts[0](r.clipped(float64(a[i] + q[i]))))
		}
	case "LSTM": // gates i, o, f, c; peepholes i, o, f
		p := r.p[d*3*h : (d+1)*3*h]
		for i := range h {
			sum := func(k int) float64 { return float64(a[k*h+i] + q[k*h+i]) }
			c0 := float64(cell[i])
			in := acts[0](r.clipped(sum(0) + float64(p[i])*c0))
			f := acts[0](r.clipped(sum(2) + float64(p[2*h+i])*c0))
			c1 := f*c0 + in*acts[1](r.clipped(sum(3)))
			o := acts[0](r.clipped(sum(1) + float64(p[h+i])*c1))
			cell[i], hid[i] = float32(c1), float32(o*acts[2](c1))
		}
	case "GRU": // gates z, r, h
		z, reset := make([]float64, h), make([]float64, h)
		for i := range h {
			z[i] = acts[0](r.clipped(float64(a[i] + q[i])))
			reset[i] = acts[0](r.clipped(float64(a[h+i] + q[h+i])))
		}
		if r.c.int("linear_before_reset", 0) == 0 {
			rh := make([]float32, h)
			for i := range h {
				rh[i] = float32(reset[i]) * hid[i]
			}
			linalg.Gemm(nil, false, true, 1, h, h, 1, rh, h, rec[2*h*h:], h, 0, q[2*h:], h)
			for i := range h {
				q[2*h+i] += br[2*h+i]
			}
		} else {
			for i := range h {
				q[2*h+i] *= float32(reset[i])
			}
		}
		for i := range h {
			n := acts[1](r.clipped(float64(a[2*h+i] + q[2*h+i])))
			hid[i] = float32((1-z[i])*n + z[i]*float64(hid[i]))
		}
	}
}
