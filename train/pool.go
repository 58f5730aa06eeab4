package train

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
)

// maxPool keeps where each maximum came from; the gradient goes there. Ties take the first.
type maxPool struct {
	in, out model.ValueID
	a       model.Pool
	from    []int32 // [rows, out], -1 where a window lies in the padding alone
}

// averagePool: the mean of a window.
type averagePool struct {
	in, out model.ValueID
	a       model.Pool
}

func (n *Net) poolLayer(node *model.Node, a model.Pool) (layer, error) {
	in, out := node.In[0], node.Out
	if node.Op == model.OpGlobalAveragePool {
		a.Out = model.Image{C: a.In.C, H: 1, W: 1}
		a.KernelH, a.KernelW, a.StrideH, a.StrideW, a.PadTop, a.PadLeft = a.In.H, a.In.W, 1, 1, 0, 0
	}
	if w := n.graph.Values[in].Width; w != a.In.Size() {
		return nil, geometry(node, "input", a.In, w)
	}
	if w := n.graph.Values[out].Width; w != a.Out.Size() || a.Out.C != a.In.C {
		return nil, geometry(node, "output", a.Out, w)
	}
	if a.KernelH < 1 || a.KernelW < 1 || a.StrideH < 1 || a.StrideW < 1 || a.PadTop < 0 || a.PadLeft < 0 {
		return nil, fmt.Errorf("train: node %q (%s): %+v: %w", node.Name, node.Op, a, ErrGraph)
	}
	if node.Op == model.OpMaxPool {
		return &maxPool{in: in, out: out, a: a}, nil
	}
	return &averagePool{in, out, a}, nil
}

// window is the part of an input channel that output (oh, ow) sees, empty in the padding.
func window(a model.Pool, oh, ow int) (h0, h1, w0, w1 int) {
	h0, w0 = oh*a.StrideH-a.PadTop, ow*a.StrideW-a.PadLeft
	h1, w1 = min(h0+a.KernelH, a.In.H), min(w0+a.KernelW, a.In.W)
	h0, w0 = min(max(h0, 0), a.In.H), min(max(w0, 0), a.In.W)
	return h0, max(h0, h1), w0, max(w0, w1)
}

// eachWindow visits all windows of a row's image: o is the output's index, base the channel's.
func eachWindow(a model.Pool, f func(o, base, h0, h1, w0, w1 int)) {
	o := 0
	for c := range a.In.C {
		for oh := range a.Out.H {
			for ow := range a.Out.W {
				h0, h1, w0, w1 := window(a, oh, ow)
				f(o, c*a.In.H*a.In.W, h0, h1, w0, w1)
				o++
			}
		}
	}
}

func (l *maxPool) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	l.from = resize(l.from, len(y))
	nin, nout := l.a.In.Size(), l.a.Out.Size()
	s.eachRow(nin, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			img, out, from := x[i*nin:(i+1)*nin], y[i*nout:(i+1)*nout], l.from[i*nout:(i+1)*nout]
			if l.quarters() {
				l.quarter(img, out, from)
				continue
			}
			eachWindow(l.a, func(o, base, h0, h1, w0, w1 int) {
				best := int32(-1)
				for h := h0; h < h1; h++ {
					for w := w0; w < w1; w++ {
						at := base + h*l.a.In.W + w
						if best < 0 || img[at] > img[best] {
							best = int32(at)
						}
					}
				}
				from[o], out[o] = best, 0
				if best >= 0 {
					out[o] = img[best]
				}
			})
		}
	})
}

// quarters reports whether windows are the usual 2x2 ones side by side, all inside the image.
func (l *maxPool) quarters() bool {
	a := l.a
	return a.KernelH == 2 && a.KernelW == 2 && a.StrideH == 2 && a.StrideW == 2 && a.PadTop == 0 && a.PadLeft == 0 && 2*a.Out.H <= a.In.H && 2*a.Out.W <= a.In.W
}

// quarter is forward for one image of such windows.
func (l *maxPool) quarter(img, out []float32, from []int32) {
	o, w := 0, l.a.In.W
	for c := range l.a.In.C {
		for oh := range l.a.Out.H {
			at := (c*l.a.In.H + 2*oh) * w
			top, bottom := img[at:at+w], img[at+w:at+2*w]
			for ow := range l.a.Out.W {
				best, pos := top[2*ow], at+2*ow
				if v := top[2*ow+1]; v > best {
					best, pos = v, at+2*ow+1
				}
				if v := bottom[2*ow]; v > best {
					best, pos = v, at+w+2*ow
				}
				if v := bottom[2*ow+1]; v > best {
					best, pos = v, at+w+2*ow+1
				}
				out[o], from[o] = best, int32(pos)
				o++
			}
		}
	}
}

func (l *maxPool) backward(s *state) {
	if s.isInput(l.in) {
		return
	}
	dy, dx := s.grad(l.out), s.gradTo(l.in)
	nin, nout := l.a.In.Size(), l.a.Out.Size()
	s.eachRow(nout, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			for o, at := range l.from[i*nout : (i+1)*nout] {
				if at >= 0 {
					dx[i*nin+int(at)] += dy[i*nout+o]
				}
			}
		}
	})
}

// divisor is what an average divides by.
func (l *averagePool) divisor(h0, h1, w0, w1 int) float32 {
	if l.a.CountPad {
		return float32(l.a.KernelH * l.a.KernelW)
	}
	return float32(max(1, (h1-h0)*(w1-w0)))
}

func (l *averagePool) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	nin, nout := l.a.In.Size(), l.a.Out.Size()
	s.eachRow(nin, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			img, out := x[i*nin:(i+1)*nin], y[i*nout:(i+1)*nout]
			eachWindow(l.a, func(o, base, h0, h1, w0, w1 int) {
				var sum float32
				for h := h0; h < h1; h++ {
					for _, v := range img[base+h*l.a.In.W+w0 : base+h*l.a.In.W+w1] {
						sum += v
					}
				}
				out[o] = sum / l.divisor(h0, h1, w0, w1)
			})
		}
	})
}

func (l *averagePool) backward(s *state) {
	if s.isInput(l.in) {
		return
	}
	dy, dx := s.grad(l.out), s.gradTo(l.in)
	nin, nout := l.a.In.Size(), l.a.Out.Size()
	s.eachRow(nin, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			img, out := dx[i*nin:(i+1)*nin], dy[i*nout:(i+1)*nout]
			eachWindow(l.a, func(o, base, h0, h1, w0, w1 int) {
				d := out[o] / l.divisor(h0, h1, w0, w1)
				for h := h0; h < h1; h++ {
					for w := w0; w < w1; w++ {
						img[base+h*l.a.In.W+w] += d
					}
				}
			})
		}
	})
}
