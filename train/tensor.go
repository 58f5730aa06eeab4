package train

import (
	"math"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// point is y = f(x) with f' given x and y.
type point struct {
	f     func(x float32) float32
	slope func(x, y float32) float32
}

var pointwiseOps = map[model.Op]point{
	// 1/(1+exp(-x)); y(1-y)
	"Sigmoid": {func(x float32) float32 { return float32(1 / (1 + math.Exp(-float64(x)))) }, func(_, y float32) float32 { return y * (1 - y) }},
	// tanh x; 1-y^2
	"Tanh": {func(x float32) float32 { return float32(math.Tanh(float64(x))) }, func(_, y float32) float32 { return 1 - y*y }},
	// erf x; 2/sqrt(pi) exp(-x^2)
	"Erf": {func(x float32) float32 { return float32(math.Erf(float64(x))) },
		func(x, _ float32) float32 { return float32(2 / math.Sqrt(math.Pi) * math.Exp(-float64(x)*float64(x))) }},
	// x^2+... of decomposed norms; the root of what is not negative
	"Sqrt": {func(x float32) float32 { return float32(math.Sqrt(float64(x))) }, func(_, y float32) float32 { return 0.5 / y }},
	"Exp":  {func(x float32) float32 { return float32(math.Exp(float64(x))) }, func(_, y float32) float32 { return y }},
	"Neg":  {func(x float32) float32 { return -x }, func(_, _ float32) float32 { return -1 }},
}

// affine is y = a*x + b.
func affine(a, b float64) point {
	return point{func(x float32) float32 { return float32(a)*x + float32(b) }, func(_, _ float32) float32 { return float32(a) }}
}

// overValue is y = a / x; -y/x.
func overValue(a float64) point {
	return point{func(x float32) float32 { return float32(a) / x }, func(x, y float32) float32 { return -y / x }}
}

// clipped is y = min(max(x, lo), hi); the slope is one between the bounds.
func clipped(lo, hi float32) point {
	return point{func(x float32) float32 { return min(max(x, lo), hi) }, func(x, _ float32) float32 {
		if x > lo && x < hi {
			return 1
		}
		return 0
	}}
}

// pointLayer applies a point to every number.
type pointLayer struct {
	in, out model.ValueID
	p       point
}

func (l *pointLayer) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	s.eachElement(len(y), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			y[i] = l.p.f(x[i])
		}
	})
}

func (l *pointLayer) backward(s *state) {
	x, y, dy := s.values[l.in], s.values[l.out], s.grad(l.out)
	pointwise(s, l.in, func(i int) float32 { return dy[i] * l.p.slope(x[i], y[i]) })
}

// pick: y[j] = x[from[j]], 0 where from is negative; dx[from[j]] += dy[j].
type pick struct {
	in, out model.ValueID
	from    picked
}

func (l *pick) forward(s *state) {
	x, y, m, n := s.values[l.in], s.value(l.out), s.width(l.in), s.width(l.out)
	s.eachRow(n, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			src, dst := x[i*m:(i+1)*m], y[i*n:(i+1)*n]
			for j, f := range l.from {
				dst[j] = 0
				if f >= 0 {
					dst[j] = src[f]
				}
			}
		}
	})
}

func (l *pick) backward(s *state) {
	if s.isInput(l.in) {
		return
	}
	dy, dx, m, n := s.grad(l.out), s.gradTo(l.in), s.width(l.in), s.width(l.out)
	s.eachRow(n, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			src, dst := dy[i*n:(i+1)*n], dx[i*m:(i+1)*m]
			for j, f := range l.from {
				if f >= 0 {
					dst[f] += src[j]
				}
			}
		}
	})
}

// mean: y[to[j]] is the mean of its x[j].
type mean struct {
	in, out model.ValueID
	m       meant
}

func (l *mean) forward(s *state) {
	x, y, m, n := s.values[l.in], s.value(l.out), s.width(l.in), s.width(l.out)
	scale := 1 / float32(l.m.n)
	s.eachRow(m, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			dst := y[i*n : (i+1)*n]
			clear(dst)
			for j, v := range x[i*m : (i+1)*m] {
				dst[l.m.to[j]] += v
			}
			for j := range dst {
				dst[j] *= scale
			}
		}
	})
}

func (l *mean) backward(s *state) {
	dy, m, n := s.grad(l.out), s.width(l.in), s.width(l.out)
	scale := 1 / float32(l.m.n)
	pointwise(s, l.in, func(i int) float32 { return dy[i/m*n+int(l.m.to[i%m])] * scale })
}

// concat lays runs of its inputs side by side.
type concat struct {
	in     []model.ValueID
	out    model.ValueID
	pieces []piece
}

func (l *concat) forward(s *state) {
	y, n := s.value(l.out), s.width(l.out)
	s.eachRow(n, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			for k, p := range l.pieces {
				x := s.values[l.in[k]][i*p.outer*p.run:]
				for o := range p.outer {
					copy(y[i*n+o*p.stride+p.at:][:p.run], x[o*p.run:])
				}
			}
		}
	})
}

func (l *concat) backward(s *state) {
	dy, n := s.grad(l.out), s.width(l.out)
	for k, p := range l.pieces {
		if s.isInput(l.in[k]) {
			continue
		}
		dx := s.gradTo(l.in[k])
		s.eachRow(n, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				for o := range p.outer {
					linalg.Axpy(1, dy[i*n+o*p.stride+p.at:][:p.run], dx[(i*p.outer+o)*p.run:][:p.run])
				}
			}
		})
	}
}

// matmul: Y = A B for every sample and batch; dA = dY B^T, dB = A^T dY.
type matmul struct {
	a, b, out model.ValueID
	p         product
}

// eachProduct runs f for every sample and batch, with where its three matrices begin.
func (l *matmul) eachProduct(s *state, f func(a, b, y int)) {
	p := l.p
	s.pool.Run(s.rows, func(i int) {
		for j := i * p.batch; j < (i+1)*p.batch; j++ {
			f(j*p.m*p.k, j*p.k*p.n, j*p.m*p.n)
		}
	})
}

func (l *matmul) forward(s *state) {
	a, b, y, p := s.values[l.a], s.values[l.b], s.value(l.out), l.p
	l.eachProduct(s, func(ia, ib, iy int) {
		linalg.Gemm(nil, false, false, p.m, p.n, p.k, 1, a[ia:], p.k, b[ib:], p.n, 0, y[iy:], p.n)
	})
}

func (l *matmul) backward(s *state) {
	a, b, dy, p := s.values[l.a], s.values[l.b], s.grad(l.out), l.p
	da, db := s.gradTo(l.a), s.gradTo(l.b)
	l.eachProduct(s, func(ia, ib, iy int) {
		linalg.Gemm(nil, false, true, p.m, p.k, p.n, 1, dy[iy:], p.n, b[ib:], p.n, 1, da[ia:], p.k)
		linalg.Gemm(nil, true, false, p.k, p.n, p.m, 1, a[ia:], p.k, dy[iy:], p.n, 1, db[ib:], p.n)
	})
}

// stretched: y = x + w or x * w, with w spread over the row by at.
type stretched struct {
	in, out model.ValueID
	w       *Param
	at      []int32
	times   bool
}

func (l *stretched) forward(s *state) {
	x, y, n := s.values[l.in], s.value(l.out), s.width(l.out)
	s.eachRow(n, func(lo, hi int) {
		for i := lo * n; i < hi*n; i++ {
			if w := l.w.W[l.at[i%n]]; l.times {
				y[i] = x[i] * w
			} else {
				y[i] = x[i] + w
			}
		}
	})
}

func (l *stretched) backward(s *state) {
	x, dy, n := s.values[l.in], s.grad(l.out), s.width(l.out)
	// Sums over rows in order, then over the row in order.
	sum := make([]float32, n)
	s.eachColumn(n, func(lo, hi int) {
		for i := range s.rows {
			for j := lo; j < hi; j++ {
				d := dy[i*n+j]
				if l.times {
					d *= x[i*n+j]
				}
				sum[j] += d
			}
		}
	})
	for j, v := range sum {
		l.w.Grad[l.at[j]] += v
	}
	if !l.times {
		addGrad(s, l.in, dy)
		return
	}
	pointwise(s, l.in, func(i int) float32 { return dy[i] * l.w.W[l.at[i%n]] })
}

// table: rows of w by the input's whole numbers; one that is no row reads the nearest.
type table struct {
	in, out model.ValueID
	w       *Param
	width   int
}

func (l *table) row(x float32) int {
	n := len(l.w.W) / l.width
	if !(x > 0) {
		return 0
	}
	return min(int(min(x, float32(n))), n-1)
}

func (l *table) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	for i, v := range x {
		copy(y[i*l.width:(i+1)*l.width], l.w.W[l.row(v)*l.width:])
	}
}

func (l *table) backward(s *state) {
	x, dy := s.values[l.in], s.grad(l.out)
	s.eachColumn(l.width, func(lo, hi int) {
		for i, v := range x {
			r := l.row(v) * l.width
			linalg.Axpy(1, dy[i*l.width+lo:i*l.width+hi], l.w.Grad[r+lo:r+hi])
		}
	})
}
