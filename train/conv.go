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
	out := *buf
	l.walk(group, func(row, lo, hi, top, bottom, from int) {
		dst := out[row*pixels : (row+1)*pixels]
		clear(dst[:top*a.Out.W])
		clear(dst[bottom*a.Out.W:])
		for oh := top; oh < bottom; oh++ {
			d := dst[oh*a.Out.W : (oh+1)*a.Out.W]
			clear(d[:lo])
			clear(d[hi:])
			if a.StrideW == 1 {
				copyShort(d[lo:hi], img[from:])
			} else {
				for j := lo; j < hi; j++ {
					d[j] = img[from+(j-lo)*a.StrideW]
				}
			}
			from += a.StrideH * a.In.W
		}
	})
	return out
}

// copyShort copies len(dst) numbers; rows of small images are not worth a call to copy.
func copyShort(dst, src []float32) {
	for len(dst) >= 8 && len(src) >= 8 {
		a, b, c, d, e, f, g, h := src[0], src[1], src[2], src[3], src[4], src[5], src[6], src[7]
		dst[0], dst[1], dst[2], dst[3], dst[4], dst[5], dst[6], dst[7] = a, b, c, d, e, f, g, h
		dst, src = dst[8:], src[8:]
	}
	for i := range dst {
		dst[i] = src[i]
	}
}

// scatter adds patches back to where they came from.
func (l *conv) scatter(img, patches []float32, group int) {
	a := l.a
	_, pixels, _ := l.sizes()
	l.walk(group, func(row, lo, hi, top, bottom, from int) {
		src := patches[row*pixels : (row+1)*pixels]
		for oh := top; oh < bottom; oh++ {
			s := src[oh*a.Out.W+lo : oh*a.Out.W+hi]
			if a.StrideW == 1 {
				to := img[from : from+len(s)]
				for j, v := range s {
					to[j] += v
				}
			} else {
				for j, v := range s {
					img[from+j*a.StrideW] += v
				}
			}
			from += a.StrideH * a.In.W
		}
	})
}

// walk visits every row of the patch matrix: output rows top..bottom-1 and columns lo..hi-1 come
// from the image, the first of them from position from, the others lie in the padding.
func (l *conv) walk(group int, f func(row, lo, hi, top, bottom, from int)) {
	a := l.a
	channels := a.In.C / a.Groups
	row := 0
	for c := group * channels; c < (group+1)*channels; c++ {
		for kh := range a.KernelH {
			h0 := kh*a.DilationH - a.PadTop
			top, bottom := inside(h0, a.StrideH, a.In.H, a.Out.H)
			for kw := range a.KernelW {
				w0 := kw*a.DilationW - a.PadLeft
				lo, hi := inside(w0, a.StrideW, a.In.W, a.Out.W)
				if lo == hi || top == bottom {
					f(row, 0, 0, 0, 0, 0)
				} else {
					f(row, lo, hi, top, bottom, (c*a.In.H+h0+top*a.StrideH)*a.In.W+w0+lo*a.StrideW)
				}
				row++
			}
		}
	}
}

// inside is the range of outputs j < out whose input j*stride + at lies in 0..in-1.
func inside(at, stride, in, out int) (lo, hi int) {
	if at < 0 {
		lo = min(out, (-at+stride-1)/stride)
	}
	hi = lo
	if at < in {
		hi = max(lo, min(out, (in-1-at)/stride+1))
	}
	return lo, hi
}
