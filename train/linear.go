package train

import (
	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// embedding: y[i] = W[token i].
type embedding struct {
	out model.ValueID
	w   *Param
}

func (l *embedding) forward(s *state) {
	y, n := s.value(l.out), s.width(l.out)
	for i, t := range s.batch.Tokens {
		copy(y[i*n:(i+1)*n], l.w.W[int(t)*n:])
	}
}

func (l *embedding) backward(s *state) {
	dy, n := s.grad(l.out), s.width(l.out)
	s.eachColumn(n, func(lo, hi int) {
		for i, t := range s.batch.Tokens {
			linalg.Axpy(1, dy[i*n+lo:i*n+hi], l.w.Grad[int(t)*n+lo:int(t)*n+hi])
		}
	})
}

// linear: y = x W^T + b; dx = dy W, dW = dy^T x, db = sum of the rows of dy.
type linear struct {
	in, out model.ValueID
	w, b    *Param
	reps    int // matrices' rows in a row of the values: positions of a sequence
}

func (l *linear) forward(s *state) {
	x, y, m, n := s.values[l.in], s.value(l.out), s.width(l.in)/l.reps, s.width(l.out)/l.reps
	linalg.Gemm(s.pool, false, true, s.rows*l.reps, n, m, 1, x, m, l.w.W, m, 0, y, n)
	if l.b != nil {
		s.eachRow(n*l.reps, func(lo, hi int) {
			for i := lo * l.reps; i < hi*l.reps; i++ {
				linalg.Add(y[i*n:(i+1)*n], y[i*n:(i+1)*n], l.b.W)
			}
		})
	}
}

func (l *linear) backward(s *state) {
	x, dy, m, n := s.values[l.in], s.grad(l.out), s.width(l.in)/l.reps, s.width(l.out)/l.reps
	linalg.Gemm(s.pool, true, false, n, m, s.rows*l.reps, 1, dy, n, x, m, 1, l.w.Grad, m)
	if l.b != nil {
		sumRows(s, l.b.Grad, dy, n)
	}
	if !s.isInput(l.in) {
		dx, beta := s.gradBeta(l.in)
		linalg.Gemm(s.pool, false, false, s.rows*l.reps, m, n, 1, dy, n, l.w.W, m, beta, dx, m)
	}
}

// sumRows: dst += the sum of the rows of x [rows, width], in order.
func sumRows(s *state, dst, x []float32, width int) {
	rows := len(x) / width
	s.eachColumn(width, func(lo, hi int) {
		for i := range rows {
			linalg.Axpy(1, x[i*width+lo:i*width+hi], dst[lo:hi])
		}
	})
}
