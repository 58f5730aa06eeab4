package train

import (
	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// rmsNorm: y = x * r * w with r = 1/sqrt(mean(x^2) + eps), over groups of columns; dx = r *
// (w*dy - x * r^2 * mean(x*w*dy)), dw = sum of dy*x*r.
type rmsNorm struct {
	in, out model.ValueID
	w       *Param
	eps     float32
	group   int
	r       []float32 // [rows, groups]
}

func (l *rmsNorm) forward(s *state) {
	x, y, n := s.values[l.in], s.value(l.out), l.group
	l.r = resize(l.r, len(y)/n)
	groups := s.width(l.out) / n
	s.eachRow(s.width(l.out), func(lo, hi int) {
		for i := lo * groups; i < hi*groups; i++ {
			l.r[i] = linalg.RMSNorm(y[i*n:(i+1)*n], x[i*n:(i+1)*n], l.w.W, l.eps)
		}
	})
}

func (l *rmsNorm) backward(s *state) {
	x, dy, n := s.values[l.in], s.grad(l.out), l.group
	dx := s.gradTo(l.in)
	groups := s.width(l.out) / n
	s.eachRow(s.width(l.out), func(lo, hi int) {
		for i := lo * groups; i < hi*groups; i++ {
			xr, dr, out, r := x[i*n:(i+1)*n], dy[i*n:(i+1)*n], dx[i*n:(i+1)*n], l.r[i]
			var dot float64
			for j, v := range xr {
				dot += float64(v * l.w.W[j] * dr[j])
			}
			c := float32(dot/float64(n)) * r * r
			for j, v := range xr {
				out[j] += r * (l.w.W[j]*dr[j] - v*c)
			}
		}
	})
	rows := s.rows * groups
	s.eachColumn(n, func(lo, hi int) {
		dw := l.w.Grad[lo:hi]
		for i := range rows {
			xr, dr, r := x[i*n+lo:i*n+hi], dy[i*n+lo:i*n+hi], l.r[i]
			for j, v := range xr {
				dw[j] += dr[j] * v * r
			}
		}
	})
}

// layerNorm: y = h*w + b with h = (x - mean) * r; dx = r * (w*dy - mean(w*dy) - h*mean(w*dy*h)),
// over groups of as many columns as w has.
type layerNorm struct {
	in, out model.ValueID
	w, b    *Param
	eps     float32
	mean, r []float32 // [rows]
}

func (l *layerNorm) forward(s *state) {
	x, y, n := s.values[l.in], s.value(l.out), len(l.w.W)
	groups := s.width(l.out) / n
	l.mean, l.r = resize(l.mean, s.rows*groups), resize(l.r, s.rows*groups)
	var bias []float32
	if l.b != nil {
		bias = l.b.W
	}
	s.eachRow(n*groups, func(lo, hi int) {
		for i := lo * groups; i < hi*groups; i++ {
			l.mean[i], l.r[i] = linalg.LayerNorm(y[i*n:(i+1)*n], x[i*n:(i+1)*n], l.w.W, bias, l.eps)
		}
	})
}

func (l *layerNorm) backward(s *state) {
	x, dy, n := s.values[l.in], s.grad(l.out), len(l.w.W)
	groups := s.width(l.out) / n
	dx := s.gradTo(l.in)
	s.eachRow(n*groups, func(lo, hi int) {
		for i := lo * groups; i < hi*groups; i++ {
			xr, dr, out, m, r := x[i*n:(i+1)*n], dy[i*n:(i+1)*n], dx[i*n:(i+1)*n], l.mean[i], l.r[i]
			var sum, dot float64
			for j, v := range xr {
				g := l.w.W[j] * dr[j]
				sum += float64(g)
				dot += float64(g * (v - m) * r)
			}
			a, c := float32(sum/float64(n)), float32(dot/float64(n))
			for j, v := range xr {
				out[j] += r * (l.w.W[j]*dr[j] - a - (v-m)*r*c)
			}
		}
	})
	rows := s.rows * groups
	s.eachColumn(n, func(lo, hi int) {
		dw := l.w.Grad[lo:hi]
		for i := range rows {
			xr, dr, m, r := x[i*n+lo:i*n+hi], dy[i*n+lo:i*n+hi], l.mean[i], l.r[i]
			for j, v := range xr {
				dw[j] += dr[j] * (v - m) * r
			}
		}
	})
	if l.b != nil {
		sumRows(s, l.b.Grad, dy, n)
	}
}
