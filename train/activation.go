package train

import (
	"math"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// alias: y = x, without a copy.
type alias struct{ in, out model.ValueID }

func (l *alias) forward(s *state) { s.values[l.out] = s.values[l.in] }

func (l *alias) backward(s *state) { addGrad(s, l.in, s.grad(l.out)) }

// addGrad adds g to the gradient of a value.
func addGrad(s *state, v model.ValueID, g []float32) {
	if s.isInput(v) {
		return
	}
	if !s.written[v] {
		copy(s.gradFor(v), g)
		return
	}
	d := s.grads[v]
	s.eachElement(len(d), func(lo, hi int) { linalg.Add(d[lo:hi], d[lo:hi], g[lo:hi]) })
}

// eachElement splits n elements.
func (s *state) eachElement(n int, f func(lo, hi int)) {
	if n < 1<<14 {
		f(0, n)
		return
	}
	s.pool.Split(n, 64, f)
}

// add: y = a + b; da = db = dy.
type add struct{ a, b, out model.ValueID }

func (l *add) forward(s *state) {
	a, b, y := s.values[l.a], s.values[l.b], s.value(l.out)
	s.eachElement(len(y), func(lo, hi int) { linalg.Add(y[lo:hi], a[lo:hi], b[lo:hi]) })
}

func (l *add) backward(s *state) {
	dy := s.grad(l.out)
	addGrad(s, l.a, dy)
	addGrad(s, l.b, dy)
}

// mul: y = a * b; da = dy*b, db = dy*a.
type mul struct{ a, b, out model.ValueID }

func (l *mul) forward(s *state) {
	a, b, y := s.values[l.a], s.values[l.b], s.value(l.out)
	s.eachElement(len(y), func(lo, hi int) { linalg.Mul(y[lo:hi], a[lo:hi], b[lo:hi]) })
}

func (l *mul) backward(s *state) {
	a, b, dy := s.values[l.a], s.values[l.b], s.grad(l.out)
	for _, side := range []struct {
		to    model.ValueID
		other []float32
	}{{l.a, b}, {l.b, a}} {
		d := s.gradTo(side.to)
		s.eachElement(len(d), func(lo, hi int) {
			for i := lo; i < hi; i++ {
				d[i] += dy[i] * side.other[i]
			}
		})
	}
}

// relu: y = max(x, 0); dx = dy where x > 0.
type relu struct{ in, out model.ValueID }

func (l *relu) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	s.eachElement(len(y), func(lo, hi int) {
		for i, v := range x[lo:hi] {
			y[lo+i] = max(v, 0)
		}
	})
}

func (l *relu) backward(s *state) {
	y, dy := s.values[l.out], s.grad(l.out)
	pointwise(s, l.in, func(i int) float32 {
		if y[i] > 0 {
			return dy[i]
		}
		return 0
	})
}

// pointwise adds f(i) to every element of a value's gradient.
func pointwise(s *state, v model.ValueID, f func(i int) float32) {
	if s.isInput(v) {
		return
	}
	d, beta := s.gradBeta(v)
	s.eachElement(len(d), func(lo, hi int) {
		if beta == 0 {
			for i := lo; i < hi; i++ {
				d[i] = f(i)
			}
			return
		}
		for i := lo; i < hi; i++ {
			d[i] += f(i)
		}
	})
}

// silu: y = x*sigmoid(x); with g = sigmoid(x), dx = dy * (g + y*(1-g)).
type silu struct{ in, out model.ValueID }

func (l *silu) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	s.eachElement(len(y), func(lo, hi int) {
		linalg.Sigmoid(y[lo:hi], x[lo:hi])
		linalg.Mul(y[lo:hi], y[lo:hi], x[lo:hi])
	})
}

func (l *silu) backward(s *state) {
	x, y, dy := s.values[l.in], s.values[l.out], s.grad(l.out)
	d := s.gradTo(l.in)
	s.eachElement(len(d), func(lo, hi int) {
		var g [256]float32
		for ; lo < hi; lo += len(g) {
			n := min(len(g), hi-lo)
			linalg.Sigmoid(g[:n], x[lo:lo+n])
			for i, sg := range g[:n] {
				d[lo+i] += dy[lo+i] * (sg + y[lo+i]*(1-sg))
			}
		}
	})
}

// siluGate: y = silu(a) * b; da = dy * b * (g + a*g*(1-g)) with g = sigmoid(a), db = dy * a * g.
type siluGate struct{ a, b, out model.ValueID }

func (l *siluGate) forward(s *state) {
	a, b, y := s.values[l.a], s.values[l.b], s.value(l.out)
	s.eachElement(len(y), func(lo, hi int) { linalg.SiLUGate(y[lo:hi], a[lo:hi], b[lo:hi]) })
}

func (l *siluGate) backward(s *state) {
	a, b, dy := s.values[l.a], s.values[l.b], s.grad(l.out)
	da, db := s.gradTo(l.a), s.gradTo(l.b)
	s.eachElement(len(da), func(lo, hi int) {
		var g [256]float32
		for ; lo < hi; lo += len(g) {
			n := min(len(g), hi-lo)
			linalg.Sigmoid(g[:n], a[lo:lo+n])
			for i, sg := range g[:n] {
				x, y, d := a[lo+i], b[lo+i], dy[lo+i]
				silu := x * sg
				da[lo+i] += d * y * (sg + silu*(1-sg))
				db[lo+i] += d * silu
			}
		}
	})
}

// gelu: y = x*P(x); dx = dy * (P(x) + x*p(x)), P and p the normal distribution and density; for
// the tanh form the derivative of that form.
type gelu struct {
	in, out model.ValueID
	tanh    bool
}

func (l *gelu) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	f := linalg.GELU
	if l.tanh {
		f = linalg.GELUTanh
	}
	s.eachElement(len(y), func(lo, hi int) { f(y[lo:hi], x[lo:hi]) })
}

func (l *gelu) backward(s *state) {
	x, dy := s.values[l.in], s.grad(l.out)
	slope := geluSlope
	if l.tanh {
		slope = geluTanhSlope
	}
	pointwise(s, l.in, func(i int) float32 { return dy[i] * float32(slope(float64(x[i]))) })
}

func geluSlope(x float64) float64 {
	return math.Erfc(-x/math.Sqrt2)/2 + x*math.Exp(-x*x/2)/math.Sqrt(2*math.Pi)
}

func geluTanhSlope(x float64) float64 {
	c := math.Sqrt(2 / math.Pi)
	t := math.Tanh(c * (x + 0.044715*x*x*x))
	return (1+t)/2 + x/2*(1-t*t)*c*(1+3*0.044715*x*x)
}

// softmax over every n columns of a row: dx = y * (dy - sum(dy*y)).
type softmax struct {
	in, out model.ValueID
	n       int
}

func (l *softmax) forward(s *state) {
	x, y, n := s.values[l.in], s.value(l.out), l.n
	groups := s.width(l.out) / n
	s.eachRow(n*groups, func(lo, hi int) {
		for i := lo * groups; i < hi*groups; i++ {
			linalg.Softmax(y[i*n:(i+1)*n], x[i*n:(i+1)*n], 1)
		}
	})
}

func (l *softmax) backward(s *state) {
	y, dy, n := s.values[l.out], s.grad(l.out), l.n
	groups := s.width(l.out) / n
	dx := s.gradTo(l.in)
	s.eachRow(n*groups, func(lo, hi int) {
		for i := lo * groups; i < hi*groups; i++ {
			yr, dr, xr := y[i*n:(i+1)*n], dy[i*n:(i+1)*n], dx[i*n:(i+1)*n]
			dot := linalg.Dot(yr, dr)
			for j, v := range yr {
				xr[j] += v * (dr[j] - dot)
			}
		}
	})
}
