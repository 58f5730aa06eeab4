package cpu

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// blockPool is a MaxPool of an image in blocks:
//
//	out[oh, ow] = max over kh, kw of in[oh*s + kh - pad, ow*s + kw - pad], lane by lane
//
// What lies in the padding does not count; NaN stays NaN.
type blockPool struct {
	node     *model.Node
	channels int

	win      *tensorop.Window
	off      []int32 // bytes of the whole window, row by row
	bufs     []poolBuffer
	src, dst []float32
}

// poolBuffer is a worker's; off is a window cut at an edge.
type poolBuffer struct {
	args blockArgs
	off  []int32
}

func (s *blockPool) run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error) {
	x := in[0]
	if s.win == nil || s.win.In[0] != x.Shape[2] || s.win.In[1] != x.Shape[3] {
		w, err := tensorop.PoolWindow(s.node, []int{x.Shape[0], s.channels, x.Shape[2], x.Shape[3]})
		if err != nil {
			return nil, fmt.Errorf("node %q (%s): %w: %w", s.node.Name, s.node.Op, err, runtime.ErrShape)
		}
		if float64(w.Kernel[0])*float64(w.Kernel[1]) > 1<<20 || float64(w.In[0])*float64(w.In[1]) > 1<<24 {
			return nil, fmt.Errorf("node %q (%s): windows of %v over %v: %w", s.node.Name, s.node.Op, w.Kernel, w.In, runtime.ErrMemory)
		}
		s.win, s.off, s.bufs = w, nil, make([]poolBuffer, p.pool.threads)
		for i := range w.Kernel[0] {
			for j := range w.Kernel[1] {
				s.off = append(s.off, int32(4*blockLanes*(i*w.In[1]+j)))
			}
		}
	}
	y, err := p.bufs.tensor(x.Shape[0], x.Shape[1], s.win.Out[0], s.win.Out[1], blockLanes)
	if err != nil {
		return nil, err
	}
	s.src, s.dst = x.Data.([]float32), y.Data.([]float32)
	if y.Len() > 0 {
		p.pool.run(s, x.Shape[0]*x.Shape[1])
	}
	s.src, s.dst = nil, nil
	return []*model.Tensor{y}, nil
}

// inside is the part of window i of a dimension that is not padding.
func inside(w *tensorop.Window, d, i int) (lo, hi int) {
	lo = i*w.Stride[d] - w.Before[d]
	return max(0, lo), min(w.In[d], lo+w.Kernel[d])
}

// part pools a block of channels of an image.
func (s *blockPool) part(worker, i int) {
	w, b, k := s.win, &s.bufs[worker], blocks()
	src, dst := s.src[i*size(w.In)*blockLanes:], s.dst[i*size(w.Out)*blockLanes:]
	// Columns x0 to x1-1 see whole windows.
	x0 := min(w.Out[1], (max(0, w.Before[1])+w.Stride[1]-1)/w.Stride[1])
	x1 := x0
	if last := w.In[1] - w.Kernel[1] + w.Before[1]; last >= 0 {
		x1 = max(x0, min(w.Out[1], last/w.Stride[1]+1))
	}
	for oh := range w.Out[0] {
		h0, h1 := inside(w, 0, oh)
		row := dst[oh*w.Out[1]*blockLanes:][:w.Out[1]*blockLanes]
		if h0 >= h1 {
			for k := range row {
				row[k] = float32(math.Inf(-1))
			}
			continue
		}
		if x1 > x0 {
			at := (h0*w.In[1] + x0*w.Stride[1] - w.Before[1]) * blockLanes
			b.args = blockArgs{dst: unsafe.Pointer(&row[x0*blockLanes]), src: unsafe.Pointer(&src[at]), off: unsafe.Pointer(&s.off[0]),
				n: (h1 - h0) * w.Kernel[1], count: x1 - x0, step: 4 * blockLanes * w.Stride[1]}
			k.max(&b.args)
		}
		for ow := range w.Out[1] {
			if ow >= x0 && ow < x1 {
				continue
			}
			w0, w1 := inside(w, 1, ow)
			if w0 >= w1 {
				for k := range blockLanes {
					row[ow*blockLanes+k] = float32(math.Inf(-1))
				}
				continue
			}
			b.off = b.off[:0]
			for k := range h1 - h0 {
				b.off = append(b.off, s.off[k*w.Kernel[1]:][:w1-w0]...)
			}
			b.args = blockArgs{dst: unsafe.Pointer(&row[ow*blockLanes]), src: unsafe.Pointer(&src[(h0*w.In[1]+w0)*blockLanes]), off: unsafe.Pointer(&b.off[0]), n: len(b.off), count: 1}
			k.max(&b.args)
		}
	}
	b.args = blockArgs{}
}

func (s *blockPool) count() (runtime.OpKey, runtime.OpCounter) {
	return runtime.OpKey{Op: s.node.Op, Layout: sparse.LayoutDense}, runtime.OpCounter{}
}

// blockMean is a GlobalAveragePool of an image in blocks, summed in float64; its output
// [N, C, 1, 1] is not.
type blockMean struct {
	node     *model.Node
	channels int
	args     blockArgs
}

func (s *blockMean) run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error) {
	x := in[0]
	n, cb, positions := x.Shape[0], x.Shape[1], x.Shape[2]*x.Shape[3]
	y, err := p.bufs.tensor(n, s.channels, 1, 1)
	if err != nil {
		return nil, err
	}
	src, dst := x.Data.([]float32), y.Data.([]float32)
	var mean [blockLanes]float32
	for i := range n * cb {
		to := dst[i/cb*s.channels:][:s.channels][i%cb*blockLanes:]
		if positions == 0 {
			for k := range to[:min(blockLanes, len(to))] {
				to[k] = float32(math.NaN())
			}
			continue
		}
		s.args = blockArgs{dst: unsafe.Pointer(&mean[0]), src: unsafe.Pointer(&src[i*positions*blockLanes]), n: positions}
		blocks().mean(&s.args)
		copy(to, mean[:])
	}
	s.args = blockArgs{}
	return []*model.Tensor{y}, nil
}

func (s *blockMean) count() (runtime.OpKey, runtime.OpCounter) {
	return runtime.OpKey{Op: s.node.Op, Layout: sparse.LayoutDense}, runtime.OpCounter{}
}
