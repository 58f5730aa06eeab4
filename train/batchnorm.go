package train

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// batchNorm (Ioffe & Szegedy 2015): y = (x - m) * r * w + b per channel with r = 1/sqrt(var + eps),
// over the batch in training, from the running statistics otherwise. In training dx = w * r *
// (dy - mean(dy) - h * mean(dy*h)) with h = (x - m) * r.
type batchNorm struct {
	in, out        model.ValueID
	attr           model.BatchNorm
	w, b           *Param
	mean, variance []float32 // running, [C]
	m, r           []float32 // of the step
}

func (n *Net) batchNorm(node *model.Node, a model.BatchNorm) (layer, error) {
	in, out := node.In[0], node.Out
	if w := n.graph.Values[in].Width; w != a.In.Size() || n.graph.Values[out].Width != w {
		return nil, geometry(node, "input", a.In, w)
	}
	w, err := n.param(node, node.Weight, a.In.C)
	if err != nil {
		return nil, err
	}
	b, err := n.bias(node, a.In.C)
	if err != nil {
		return nil, err
	}
	if a.Mean == nil || a.Var == nil {
		return nil, fmt.Errorf("train: node %q (%s): no running statistics: %w", node.Name, node.Op, ErrGraph)
	}
	if a.Momentum == 0 {
		a.Momentum = 0.1
	}
	l := &batchNorm{in: in, out: out, attr: a, w: w, b: b, m: make([]float32, a.In.C), r: make([]float32, a.In.C)}
	for _, x := range []struct {
		from *model.Weight
		to   *[]float32
	}{{a.Mean, &l.mean}, {a.Var, &l.variance}} {
		if *x.to, err = sparse.Read(x.from.Data); err != nil || len(*x.to) != a.In.C {
			return nil, fmt.Errorf("train: node %q: %q: want %d numbers, got %d (%v): %w", node.Name, x.from.Name, a.In.C, len(*x.to), err, ErrGraph)
		}
	}
	n.stats = append(n.stats, l)
	return l, nil
}

// eachChannel splits the channels.
func (l *batchNorm) eachChannel(s *state, f func(c int)) {
	s.pool.Split(l.attr.In.C, 1, func(lo, hi int) {
		for c := lo; c < hi; c++ {
			f(c)
		}
	})
}

func (l *batchNorm) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	size, width := l.attr.In.H*l.attr.In.W, l.attr.In.Size()
	l.eachChannel(s, func(c int) {
		mean, variance := float64(l.mean[c]), float64(l.variance[c])
		if s.training {
			count := float64(s.rows * size)
			var sum, sq float64
			for i := range s.rows {
				for _, v := range x[i*width+c*size:][:size] {
					sum += float64(v)
				}
			}
			mean = sum / count
			for i := range s.rows {
				for _, v := range x[i*width+c*size:][:size] {
					d := float64(v) - mean
					sq += d * d
				}
			}
			variance = sq / count
			mo := float64(l.attr.Momentum)
			l.mean[c] = float32((1-mo)*float64(l.mean[c]) + mo*mean)
			// The running variance is unbiased, as in PyTorch.
			l.variance[c] = float32((1-mo)*float64(l.variance[c]) + mo*sq/math.Max(1, count-1))
		}
		m, r := float32(mean), float32(1/math.Sqrt(variance+float64(l.attr.Eps)))
		l.m[c], l.r[c] = m, r
		var b float32
		if l.b != nil {
			b = l.b.W[c]
		}
		for i := range s.rows {
			out := y[i*width+c*size:][:size]
			for j, v := range x[i*width+c*size:][:size] {
				out[j] = (v-m)*r*l.w.W[c] + b
			}
		}
	})
}

func (l *batchNorm) backward(s *state) {
	x, dy := s.values[l.in], s.grad(l.out)
	dx := s.gradTo(l.in)
	size, width := l.attr.In.H*l.attr.In.W, l.attr.In.Size()
	l.eachChannel(s, func(c int) {
		m, r, w := l.m[c], l.r[c], l.w.W[c]
		var sum, dot float64
		for i := range s.rows {
			d := dy[i*width+c*size:][:size]
			for j, v := range x[i*width+c*size:][:size] {
				sum += float64(d[j])
				dot += float64(d[j] * (v - m) * r)
			}
		}
		l.w.Grad[c] += float32(dot)
		if l.b != nil {
			l.b.Grad[c] += float32(sum)
		}
		var a, h float32
		if s.training {
			count := float64(s.rows * size)
			a, h = float32(sum/count), float32(dot/count)
		}
		for i := range s.rows {
			d, out := dy[i*width+c*size:][:size], dx[i*width+c*size:][:size]
			for j, v := range x[i*width+c*size:][:size] {
				out[j] += w * r * (d[j] - a - (v-m)*r*h)
			}
		}
	})
}
