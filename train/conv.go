package train

import (
	"fmt"
	"sync"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// conv: every image becomes a matrix of patches [inC/groups * kH * kW, outH * outW] (im2col),
// and y = W * patches + b. dW = dy * patches^T, d patches = W^T * dy.
type conv struct {
	in, out model.ValueID
	a       model.Conv
	w, b    *Param
	plain   bool      // 1x1 without stride or padding: the image is its patches
	partial []float32 // dW (and db) of chunks of images
}

// convChunk is how many images share one partial sum of dW. It is fixed, so that the
// order of the sum does not depend on threads.
const convChunk = 8

func (n *Net) conv(node *model.Node, a model.Conv) (layer, error) {
	a.Groups, a.DilationH, a.DilationW = max(a.Groups, 1), max(a.DilationH, 1), max(a.DilationW, 1)
	in, out := node.In[0], node.Out
	if w := n.graph.Values[in].Width; w != a.In.Size() {
		return nil, geometry(node, "input", a.In, w)
	}
	if w := n.graph.Values[out].Width; w != a.Out.Size() {
		return nil, geometry(node, "output", a.Out, w)
	}
	if a.In.C%a.Groups != 0 || a.Out.C%a.Groups != 0 || a.StrideH < 1 || a.StrideW < 1 || a.KernelH < 1 || a.KernelW < 1 {
		return nil, fmt.Errorf("train: node %q (%s): %+v: %w", node.Name, node.Op, a, ErrGraph)
	}
	w, err := n.param(node, node.Weight, a.Out.C*a.In.C/a.Groups*a.KernelH*a.KernelW)
	if err != nil {
		return nil, err
	}
	b, err := n.bias(node, a.Out.C)
	if err != nil {
		return nil, err
	}
	plain := a.KernelH == 1 && a.KernelW == 1 && a.StrideH == 1 && a.StrideW == 1 && a.PadTop == 0 && a.PadLeft == 0 && a.In.H == a.Out.H && a.In.W == a.Out.W
	return &conv{in: in, out: out, a: a, w: w, b: b, plain: plain}, nil
}

func geometry(node *model.Node, what string, i model.Image, width int) error {
	return fmt.Errorf("train: node %q (%s): %s %+v: want width %d, got %d: %w", node.Name, node.Op, what, i, i.Size(), width, ErrGraph)
}

var patchPool = sync.Pool{New: func() any { return new([]float32) }}

// sizes: rows of a patch matrix, its columns, and out channels, per group.
func (l *conv) sizes() (k, pixels, outC int) {
	return l.a.In.C / l.a.Groups * l.a.KernelH * l.a.KernelW, l.a.Out.H * l.a.Out.W, l.a.Out.C / l.a.Groups
}

func (l *conv) forward(s *state) {
	x, y := s.values[l.in], s.value(l.out)
	k, pixels, outC := l.sizes()
	s.pool.Run(s.rows, func(i int) {
		buf := patchPool.Get().(*[]float32)
		defer patchPool.Put(buf)
		img := x[i*l.a.In.Size():][:l.a.In.Size()]
		for g := range l.a.Groups {
			p := l.patches(buf, img, g)
			o := i*l.a.Out.Size() + g*outC*pixels
			linalg.Gemm(nil, false, false, outC, pixels, k, 1, l.w.W[g*outC*k:], k, p, pixels, 0, y[o:], pixels)
		}
		if l.b != nil {
			for c, v := range l.b.W {
				row := y[i*l.a.Out.Size()+c*pixels:][:pixels]
				for j := range row {
					row[j] += v
				}
			}
		}
	})
}

func (l *conv) backward(s *state) {
	x, dy := s.values[l.in], s.grad(l.out)
	k, pixels, outC := l.sizes()
	size := len(l.w.W)
	if l.b != nil {
		size += l.a.Out.C
	}
	var dx []float32
	if !s.isInput(l.in) {
		dx = s.gradTo(l.in)
	}
	chunks := (s.rows + convChunk - 1) / convChunk
	l.partial = resize(l.partial, chunks*size)
	clear(l.partial)
	s.pool.Run(chunks, func(chunk int) {
		buf, dbuf := patchPool.Get().(*[]float32), patchPool.Get().(*[]float32)
		defer patchPool.Put(buf)
		defer patchPool.Put(dbuf)
		dw := l.partial[chunk*size : (chunk+1)*size]
		for i := chunk * convChunk; i < min(s.rows, (chunk+1)*convChunk); i++ {
			img := x[i*l.a.In.Size():][:l.a.In.Size()]
			for g := range l.a.Groups {
				p := l.patches(buf, img, g)
				d := dy[i*l.a.Out.Size()+g*outC*pixels:]
				linalg.Gemm(nil, false, true, outC, k, pixels, 1, d, pixels, p, pixels, 1, dw[g*outC*k:], k)
				if dx == nil {
					continue
				}
				to := dx[i*l.a.In.Size():][:l.a.In.Size()]
				if l.plain {
					linalg.Gemm(nil, true, false, k, pixels, outC, 1, l.w.W[g*outC*k:], k, d, pixels, 1, to[g*k*pixels:], pixels)
					continue
				}
				*dbuf = resize(*dbuf, k*pixels)
				linalg.Gemm(nil, true, false, k, pixels, outC, 1, l.w.W[g*outC*k:], k, d, pixels, 0, *dbuf, pixels)
				l.scatter(to, *dbuf, g)
			}
			if l.b != nil {
				for c := range l.a.Out.C {
					var sum float32
					for _, v := range dy[i*l.a.Out.Size()+c*pixels:][:pixels] {
						sum += v
					}
					dw[len(l.w.W)+c] += sum
				}
			}
		}
	})
	s.eachElement(len(l.w.W), func(lo, hi int) {
		for c := range chunks {
			linalg.Add(l.w.Grad[lo:hi], l.w.Grad[lo:hi], l.partial[c*size+lo:c*size+hi])
		}
	})
	if l.b != nil {
		for c := range chunks {
			linalg.Add(l.b.Grad, l.b.Grad, l.partial[c*size+len(l.w.W):(c+1)*size])
		}
	}
}

// patches lays out one group of an image: row (c, kh, kw), column (oh, ow).
func (l *conv) patches(buf *[]float32, img []float32, group int) []float32 {
	a := l.a
	channels := a.In.C / a.Groups
	if l.plain {
		return img[group*channels*a.In.H*a.In.W:]
	}
	k, pixels, _ := l.sizes()
	*buf = resize(*buf, k*pixels)
	l.walk(group, func(row, oh, lo, hi, from int) {
		dst := (*buf)[row*pixels+oh*a.Out.W:][:a.Out.W]
		clear(dst[:lo])
		clear(dst[hi:])
		if a.StrideW == 1 {
			copy(dst[lo:hi], img[from:])
			return
		}
		for j := lo; j < hi; j++ {
			dst[j] = img[from+(j-lo)*a.StrideW]
		}
	})
	return *buf
}

// scatter adds patches back to where they came from.
func (l *conv) scatter(img, patches []float32, group int) {
	a := l.a
	_, pixels, _ := l.sizes()
	l.walk(group, func(row, oh, lo, hi, from int) {
		src := patches[row*pixels+oh*a.Out.W:][:a.Out.W]
		for j := lo; j < hi; j++ {
			img[from+(j-lo)*a.StrideW] += src[j]
		}
	})
}

// walk visits every row of output pixels of every row of the patch matrix: columns lo..hi-1
// come from the image at from, from+StrideW, ...; the others lie in the padding.
func (l *conv) walk(group int, f func(row, oh, lo, hi, from int)) {
	a := l.a
	channels := a.In.C / a.Groups
	row := 0
	for c := group * channels; c < (group+1)*channels; c++ {
		for kh := range a.KernelH {
			for kw := range a.KernelW {
				// The image column of output column j is j*StrideW + w0.
				w0 := kw*a.DilationW - a.PadLeft
				lo := 0
				if w0 < 0 {
					lo = min(a.Out.W, (-w0+a.StrideW-1)/a.StrideW)
				}
				hi := lo
				if w0 < a.In.W {
					hi = max(lo, min(a.Out.W, (a.In.W-1-w0)/a.StrideW+1))
				}
				for oh := range a.Out.H {
					h := oh*a.StrideH + kh*a.DilationH - a.PadTop
					if h < 0 || h >= a.In.H || hi == lo {
						f(row, oh, 0, 0, 0)
						continue
					}
					f(row, oh, lo, hi, (c*a.In.H+h)*a.In.W+w0+lo*a.StrideW)
				}
				row++
			}
		}
	}
}
