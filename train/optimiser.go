package train

import (
	"math"

	"github.com/sparserun/sparserun/linalg"
)

// Optimiser turns gradients into steps. Its values are settings; the state of a run is
// made by start.
type Optimiser interface {
	start(params []*Param) stepper
}

// stepper is an optimiser at work.
type stepper interface {
	// step moves the weights lo..hi-1 of parameter i; t counts from 1.
	step(i int, p *Param, lo, hi int, rate float64, t int)
}

// SGD with momentum, as PyTorch has it: b = Momentum*b + g, w -= rate*b; with Nesterov w -= rate *
// (g + Momentum*b). Decay adds Decay*w to g.
type SGD struct {
	Momentum float64
	Nesterov bool
	Decay    float64
}

// Adam (Kingma & Ba 2015). With Decoupled the decay is taken off the weights (AdamW,
// Loshchilov & Hutter 2019), otherwise it is added to the gradient. Zeros mean 0.9, 0.999, 1e-8.
type Adam struct {
	Beta1, Beta2, Eps float64
	Decay             float64
	Decoupled         bool
}

// AdamW is Adam with decoupled decay.
func AdamW(decay float64) Adam { return Adam{Decay: decay, Decoupled: true} }

// buffers makes zeroed state, one vector for every parameter.
func buffers(params []*Param) [][]float32 {
	out := make([][]float32, len(params))
	for i, p := range params {
		out[i] = make([]float32, len(p.W))
	}
	return out
}

type sgdState struct {
	SGD
	b [][]float32
}

func (o SGD) start(params []*Param) stepper {
	s := &sgdState{SGD: o}
	if o.Momentum != 0 {
		s.b = buffers(params)
	}
	return s
}

func (s *sgdState) step(i int, p *Param, lo, hi int, rate float64, _ int) {
	w, g := p.W[lo:hi], p.Grad[lo:hi]
	lr, mo, decay := float32(rate), float32(s.Momentum), float32(s.Decay)
	if p.NoDecay {
		decay = 0
	}
	if s.b == nil {
		for j, d := range g {
			w[j] -= lr * (d + decay*w[j])
		}
		return
	}
	b := s.b[i][lo:hi]
	for j, d := range g {
		d += decay * w[j]
		v := mo*b[j] + d
		b[j] = v
		if s.Nesterov {
			v = d + mo*v
		}
		w[j] -= lr * v
	}
}

type adamState struct {
	Adam
	m, v [][]float32
}

func (o Adam) start(params []*Param) stepper {
	for _, d := range []struct {
		x *float64
		v float64
	}{{&o.Beta1, 0.9}, {&o.Beta2, 0.999}, {&o.Eps, 1e-8}} {
		if *d.x == 0 {
			*d.x = d.v
		}
	}
	return &adamState{Adam: o, m: buffers(params), v: buffers(params)}
}

func (s *adamState) step(i int, p *Param, lo, hi int, rate float64, t int) {
	w, g, m, v := p.W[lo:hi], p.Grad[lo:hi], s.m[i][lo:hi], s.v[i][lo:hi]
	b1, b2, eps := float32(s.Beta1), float32(s.Beta2), float32(s.Eps)
	a1, a2 := float32(1-s.Beta1), float32(1-s.Beta2) // not 1-b2: that loses five digits
	// m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps)
	lr := float32(rate / (1 - math.Pow(s.Beta1, float64(t))))
	c2 := float32(1 / math.Sqrt(1-math.Pow(s.Beta2, float64(t))))
	var l2, shrink float32
	if !p.NoDecay && s.Decoupled {
		shrink = float32(rate * s.Decay)
	} else if !p.NoDecay {
		l2 = float32(s.Decay)
	}
	if at, ok := p.kept(lo, hi); ok { // the moments of pruned weights stand still
		for _, k := range at {
			j := int(k) - lo
			x, d := w[j], g[j]
			d += l2 * x
			x -= shrink * x
			m[j] = b1*m[j] + a1*d
			v[j] = b2*v[j] + a2*d*d
			w[j] = x - lr*m[j]/(float32(math.Sqrt(float64(v[j])))*c2+eps)
		}
		return
	}
	for j, d := range g {
		x := w[j]
		d += l2 * x
		x -= shrink * x
		m[j] = b1*m[j] + a1*d
		v[j] = b2*v[j] + a2*d*d
		w[j] = x - lr*m[j]/(float32(math.Sqrt(float64(v[j])))*c2+eps)
	}
}

// stepBlock is how many weights one task moves.
const stepBlock = 1 << 14

// stepAll masks the gradients, moves all weights and masks them again, so that a pruned
// weight is zero whatever the optimiser remembers.
func stepAll(pool *linalg.Pool, st stepper, params []*Param, rate float64, t int) {
	for i, p := range params {
		if p.Frozen {
			continue
		}
		p.apply(p.Grad)
		blocks := (len(p.W) + stepBlock - 1) / stepBlock
		pool.Run(blocks, func(b int) { st.step(i, p, b*stepBlock, min(len(p.W), (b+1)*stepBlock), rate, t) })
		p.ties.spread(p.W)
		p.apply(p.W)
	}
}

// gradNorm is the Euclidean norm of all gradients, summed in a fixed order.
func gradNorm(pool *linalg.Pool, params []*Param) float64 {
	var total float64
	for _, p := range params {
		if p.Frozen {
			continue
		}
		p.apply(p.Grad)
		part := make([]float64, (len(p.Grad)+stepBlock-1)/stepBlock)
		pool.Run(len(part), func(b int) {
			g := p.Grad[b*stepBlock : min(len(p.Grad), (b+1)*stepBlock)]
			part[b] = float64(linalg.Dot(g, g))
		})
		for _, v := range part {
			total += v
		}
	}
	return math.Sqrt(total)
}
