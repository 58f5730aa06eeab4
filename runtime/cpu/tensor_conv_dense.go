package cpu

import (
	"fmt"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tensorop"
)

// denseConvStep is a convolution of float32 with a dense weight:
//
//	out[oc, p] = act(sum_k W[oc, k] cols[k, p] + bias[oc]),  k = (c, kh, kw)
//
// cols, what each kernel element sees at each position (im2col), is made for as
// many output rows as stay in the cache; the images of a batch go to different
// workers. A 1x1 convolution reads its input as it stands.
type denseConvStep struct {
	st    *runtime.TensorStep
	m     product // for its counters and bias; multiplies nothing
	w     []float32
	shape []int
	win   *tensorop.Window
	plain bool
	tmp   [][]float32 // scratch of each worker

	// The run in progress.
	src, dst []float32
	pool     *linalg.Pool
}

func (s *denseConvStep) run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error) {
	x := in[0]
	f, err := floatInput(s.st, x)
	if err != nil {
		return nil, err
	}
	if err := s.geometry(p, x.Shape); err != nil {
		return nil, err
	}
	y, err := p.bufs.tensor(append([]int{x.Shape[0], s.m.rows}, s.win.Out...)...)
	if err != nil {
		return nil, err
	}
	s.src, s.dst = f, y.Data.([]float32)
	n := x.Shape[0]
	if s.tmp == nil {
		s.tmp = make([][]float32, p.pool.threads)
	}
	if n >= p.pool.threads {
		p.pool.run(s, n)
	} else {
		s.pool = p.lin
		for i := range n {
			s.part(0, i)
		}
		s.pool = nil
	}
	s.m.calls = int64(size(s.win.Out) * n)
	s.src, s.dst = nil, nil
	return floatOutput(y, x.Elem)
}

// part convolves image i.
func (s *denseConvStep) part(worker, i int) {
	w := s.win
	channels, oc := s.shape[1], s.m.rows
	p, plane := size(w.Out), size(w.In)
	src, dst := s.src[i*channels*plane:(i+1)*channels*plane], s.dst[i*oc*p:(i+1)*oc*p]
	for r := range oc {
		v := float32(0)
		if s.m.bias != nil {
			v = s.m.bias[r]
		}
		row := dst[r*p : (r+1)*p]
		for j := range row {
			row[j] = v
		}
	}
	if s.plain {
		s.multiply(dst, p, src, p, p)
		return
	}
	per := p / w.Out[0] // positions of an output row
	rows := max(1, convChunk/(s.m.cols*per))
	if s.tmp[worker] == nil {
		s.tmp[worker] = make([]float32, s.m.cols*min(rows, w.Out[0])*per)
	}
	cols := s.tmp[worker]
	for r0 := 0; r0 < w.Out[0]; r0 += rows {
		r1 := min(r0+rows, w.Out[0])
		n := (r1 - r0) * per
		s.pool.Split(channels, max(1, grain/(n*size(w.Kernel))), func(lo, hi int) {
			w.ColumnRows(cols[lo*size(w.Kernel)*n:], src[lo*plane:], hi-lo, r0, r1)
		})
		s.multiply(dst[r0*per:], p, cols, n, n)
	}
}

// multiply adds W cols to n columns of dst and applies the activation.
func (s *denseConvStep) multiply(dst []float32, ld int, cols []float32, ldc, n int) {
	oc := s.m.rows
	linalg.Gemm(s.pool, false, false, oc, n, s.m.cols, 1, s.w, s.m.cols, cols, ldc, 1, dst, ld)
	if !s.st.Relu {
		return
	}
	for r := range oc {
		for i, v := range dst[r*ld : r*ld+n] {
			dst[r*ld+i] = max(v, 0)
		}
	}
}

// geometry prepares for inputs of a shape: the batch may change without work.
func (s *denseConvStep) geometry(p *tensorProgram, shape []int) error {
	if s.win != nil && len(shape) == len(s.shape) {
		same := true
		for d := 1; d < len(shape); d++ {
			same = same && shape[d] == s.shape[d]
		}
		if same {
			return nil
		}
	}
	win, _, err := tensorop.ConvWindow(s.st.Node, shape, s.st.Shape)
	if err != nil {
		return fmt.Errorf("node %q (%s): %w: %w", s.st.Node.Name, s.st.Node.Op, err, runtime.ErrShape)
	}
	if size(win.In) > 1<<30 || size(win.Kernel) > 1<<20 || s.m.cols*size(win.Out[1:]) > 1<<28 {
		return fmt.Errorf("node %q (%s): windows of %v over %v: %w", s.st.Node.Name, s.st.Node.Op, win.Kernel, win.In, runtime.ErrMemory)
	}
	s.win, s.shape, s.tmp = win, append([]int(nil), shape...), nil
	s.plain = true
	for d := range win.In {
		s.plain = s.plain && win.Kernel[d] == 1 && win.Stride[d] == 1 && win.Before[d] == 0 && win.After[d] == 0
	}
	return nil
}

func (s *denseConvStep) count() (runtime.OpKey, runtime.OpCounter) {
	return s.m.counted(model.OpConv, s.m.calls)
}
