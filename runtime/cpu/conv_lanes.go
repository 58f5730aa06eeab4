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

// laneConv is a 2-D convolution of float32 with output positions in the lanes of
// vector registers, dense or sparse:
//
//	out[oc, oh, ow] = act(sum_k W[oc, k] in[c, oh*s + kh*d - pad, ...] + bias[oc]),  k = (c, kh, kw)
//
// The input is copied once into planes with its padding, one for each phase of
// the stride: there every kernel element reads neighbouring positions at a fixed
// offset, output rows one after the other with a gap of a few columns between
// them. Nothing is unrolled. A sparse weight is a list of (offset, value) for each
// output channel: what is zero costs nothing, and the others cost what they cost
// dense (the idea of Park et al. 2017, Elsen et al. 2020).
type laneConv struct {
	st    *runtime.TensorStep
	m     product // for its counters and bias
	block int     // output channels of a block of dense weights; 1 for sparse ones
	lanes int     // positions at once
	w     []float32
	ptr   []int32 // sparse: where each channel's values start in w and elem
	elem  []int32 // sparse: kernel element k of each value
	bias  []float32
	floor float32

	shape  []int
	win    *tensorop.Window
	off    []int32 // byte offset of each kernel element (dense) or value (sparse)
	plain  bool    // 1x1 without stride and padding: the input is read where it is
	last   []int32 // off for its last block
	pieces int     // sparse: parts of the columns of a row, and where they start in w
	cuts   []int32
	hs, ws int // size of a phase's plane
	ps     int // numbers of one, whole vectors: a 1x1 kernel's reads are aligned
	ld     int // positions with gaps, in whole blocks
	bufs   []laneBuffer

	src, dst []float32 // of the run in progress
}

// laneBuffer is a worker's padded input and output with gaps.
type laneBuffer struct{ in, out []float32 }

// convArgs is the argument of the kernels; the layout is known to asm/conv.
type convArgs struct {
	dst, src, off, w unsafe.Pointer
	n, ld            int
	bias             unsafe.Pointer
	floor            float32
	more             int32 // add to dst, not to bias
}

// vectorLanes are the numbers of the longest vector.
const vectorLanes = 16

// laneElements is how many kernel elements a dense kernel takes at most at once: what they
// read of the input for one block of positions stays in the first-level cache
// while all output channels pass over it.
const laneElements = 144

// newLaneConv takes a step over if its shape and type fit the kernels, nil if not.
func newLaneConv(st *runtime.TensorStep) (*laneConv, error) {
	rows, dense, sparseLanes := laneShape()
	layout := st.Kernel.Layout
	if rows == 0 || len(st.Shape) != 4 || st.Kernel.Weight != sparse.F32 || layout != sparse.LayoutDense && layout != sparse.LayoutCSR {
		return nil, nil
	}
	oc, cols := st.Weight.Dims()
	s := &laneConv{st: st, block: rows, lanes: dense, floor: float32(math.Inf(-1))}
	if st.Relu {
		s.floor = 0
	}
	w, err := sparse.Read(st.Weight)
	if err != nil {
		return nil, err
	}
	nnz := int64(len(w))
	if layout == sparse.LayoutCSR {
		s.block, s.lanes = 1, sparseLanes
		s.ptr = make([]int32, 1, oc+1)
		for r := range oc {
			for k, v := range w[r*cols : (r+1)*cols] {
				if v != 0 {
					s.w, s.elem = append(s.w, v), append(s.elem, int32(k))
				}
			}
			s.ptr = append(s.ptr, int32(len(s.w)))
		}
		nnz = int64(len(s.w))
	} else {
		s.w = make([]float32, (oc+rows-1)/rows*rows*cols)
		for r := range oc {
			for k, v := range w[r*cols : (r+1)*cols] {
				s.w[(r/rows*cols+k)*rows+r%rows] = v
			}
		}
	}
	s.bias = make([]float32, (oc+rows-1)/rows*rows)
	copy(s.bias, st.Bias)
	s.m = product{rows: oc, cols: cols, kernel: st.Kernel, nnz: nnz, size: s.bytes().Total()}
	return s, nil
}

func (s *laneConv) bytes() sparse.Bytes {
	return sparse.Bytes{Values: 4 * int64(len(s.w)), Metadata: 4 * int64(len(s.ptr)+len(s.elem))}
}

func (s *laneConv) run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error) {
	x := in[0]
	f, err := floatInput(s.st, x)
	if err != nil {
		return nil, err
	}
	if err := s.geometry(p, x.Shape); err != nil {
		return nil, err
	}
	y, err := p.bufs.tensor(x.Shape[0], s.m.rows, s.win.Out[0], s.win.Out[1])
	if err != nil {
		return nil, err
	}
	s.src, s.dst = f, y.Data.([]float32)
	n := x.Shape[0]
	switch {
	case y.Len() == 0:
	case n == 1 && p.pool.threads > 1:
		s.alone(p)
	default:
		p.pool.run(s, n)
	}
	s.m.calls = int64(size(s.win.Out) * n)
	s.src, s.dst = nil, nil
	return floatOutput(y, x.Elem)
}

// alone convolves one image, its positions dealt out.
func (s *laneConv) alone(p *tensorProgram) {
	b := s.buffer(0)
	s.fill(b.in, s.src)
	blocks := s.ld / s.lanes
	work := blocks * s.lanes * int(s.m.nnz)
	per := max(1, min(blocks, (blocks+2*p.pool.threads-1)/(2*p.pool.threads)), blocks*grain/max(1, work))
	p.pool.run(&aloneJob{s, b, per, blocks}, parts(blocks, per))
	s.deliver(s.dst, b.out)
}

// aloneJob is blocks of one image's positions. Blocks share the padded input and
// the output with gaps; a corner of the buffer each worker has for itself.
type aloneJob struct {
	s           *laneConv
	b           *laneBuffer
	per, blocks int
}

func (j *aloneJob) part(worker, i int) {
	b := *j.b
	own := j.s.buffer(worker)
	if j.s.win.Out[1] == j.s.ws {
		b.out = own.out
	}
	if j.s.plain {
		b.in = own.in
	}
	j.s.multiply(&b, j.s.src, j.s.dst, i*j.per, min((i+1)*j.per, j.blocks))
}

func (s *laneConv) buffer(worker int) *laneBuffer {
	b := &s.bufs[worker]
	if b.in == nil {
		if s.plain {
			b.in = make([]float32, s.shape[1]*s.lanes)
		} else {
			b.in = make([]float32, s.shape[1]*s.win.Stride[0]*s.win.Stride[1]*s.ps+s.slack())
		}
		if s.win.Out[1] == s.ws {
			b.out = make([]float32, s.corner()*s.lanes)
		} else {
			b.out = make([]float32, (s.m.rows+s.block)*s.ld)
		}
	}
	return b
}

// part convolves image i.
func (s *laneConv) part(worker, i int) {
	b := s.buffer(worker)
	plane := size(s.win.In)
	src, dst := s.src[i*s.shape[1]*plane:(i+1)*s.shape[1]*plane], s.dst[i*s.m.rows*size(s.win.Out):]
	s.fill(b.in, src)
	s.multiply(b, src, dst, 0, s.ld/s.lanes)
	s.deliver(dst, b.out)
}

// slack is how far past the last plane a block of positions may reach.
func (s *laneConv) slack() int { return s.ld + s.win.Kernel[0]*s.win.Dilation[0]*s.ws }

// fill copies an image into its padded planes; the padding stays zero.
func (s *laneConv) fill(buf, src []float32) {
	if s.plain {
		return
	}
	w := s.win
	sh, sw := w.Stride[0], w.Stride[1]
	for c := range s.shape[1] {
		for h := range w.In[0] {
			row := src[(c*w.In[0]+h)*w.In[1]:][:w.In[1]]
			y := h + w.Before[0]
			if y < 0 || y/sh >= s.hs {
				continue
			}
			base := (c*sh + y%sh) * sw
			if sw == 1 {
				from, to := max(0, -w.Before[1]), max(0, w.Before[1])
				if from < len(row) && to < s.ws {
					copy(buf[base*s.ps+y/sh*s.ws+to:][:s.ws-to], row[from:])
				}
				continue
			}
			for i, v := range row {
				if x := i + w.Before[1]; x >= 0 && x/sw < s.ws {
					buf[(base+x%sw)*s.ps+y/sh*s.ws+x/sw] = v
				}
			}
		}
	}
}

// multiply computes blocks b0 to b1-1 of positions. Where the output has no gaps,
// whole blocks go where they belong; what sticks out goes through a corner of the
// buffer.
func (s *laneConv) multiply(b *laneBuffer, src, dst []float32, b0, b1 int) {
	a := convArgs{floor: s.floor}
	positions, tight := size(s.win.Out), s.win.Out[1] == s.ws
	for blk := b0; blk < b1; blk++ {
		at := blk * s.lanes
		off, whole := s.off, !tight || at+s.lanes <= positions
		switch {
		case !s.plain:
			a.src = unsafe.Pointer(&b.in[at])
		case whole:
			a.src = unsafe.Pointer(&src[at])
		default: // the last block would read past the input
			for c := range s.shape[1] {
				copy(b.in[c*s.lanes:(c+1)*s.lanes], src[c*positions+at:(c+1)*positions])
			}
			a.src, off = unsafe.Pointer(&b.in[0]), s.last
		}
		step := s.m.cols
		if s.ptr == nil && (!tight || whole && s.m.rows%s.block == 0) { // the corner holds one block of channels
			pieces := max(1, (s.m.cols+laneElements-1)/laneElements)
			step = (s.m.cols + pieces - 1) / pieces
		}
		if s.ptr != nil {
			s.sparse(&a, b, dst, off, at, tight, whole)
			continue
		}
		for k0 := 0; k0 < s.m.cols; k0 += max(1, step) {
			s.channels(&a, b, dst, off, at, k0, step, tight, whole)
		}
	}
}

// channels computes a block of positions for all output channels of a dense weight, over
// kernel elements k0 to k0+step-1.
func (s *laneConv) channels(a *convArgs, b *laneBuffer, dst []float32, off []int32, at, k0, step int, tight, whole bool) {
	positions := size(s.win.Out)
	vecs := min(3, (s.win.Out[0]*s.ws-at+s.lanes/3-1)/(s.lanes/3)) // the last block may need fewer
	for r := 0; r < s.m.rows; r += s.block {
		direct := tight && whole && r+s.block <= s.m.rows
		switch {
		case direct:
			a.dst, a.ld = unsafe.Pointer(&dst[r*positions+at]), 4*positions
		case tight:
			a.dst, a.ld = unsafe.Pointer(&b.out[0]), 4*s.lanes
		default:
			a.dst, a.ld = unsafe.Pointer(&b.out[r*s.ld+at]), 4*s.ld
		}
		a.bias = unsafe.Pointer(&s.bias[r])
		k1 := min(k0+step, s.m.cols)
		a.off, a.n, a.w = unsafe.Pointer(&off[k0]), k1-k0, unsafe.Pointer(&s.w[r*s.m.cols+k0*s.block])
		a.more, a.floor = int32(k0), s.floor
		if k1 < s.m.cols {
			a.floor = float32(math.Inf(-1))
		}
		a.dense(vecs)
		if tight && !direct {
			for i := range min(s.block, s.m.rows-r) {
				copy(dst[(r+i)*positions+at:(r+i+1)*positions], b.out[i*s.lanes:(i+1)*s.lanes])
			}
		}
	}
}

// deliver leaves the gaps out.
func (s *laneConv) deliver(dst, out []float32) {
	oh, ow := s.win.Out[0], s.win.Out[1]
	if ow == s.ws {
		return
	}
	for r := range s.m.rows {
		for h := range oh {
			copy(dst[(r*oh+h)*ow:(r*oh+h+1)*ow], out[r*s.ld+h*s.ws:])
		}
	}
}

// geometry prepares for inputs of a shape: the batch may change without work.
func (s *laneConv) geometry(p *tensorProgram, shape []int) error {
	if len(shape) == 4 && s.win != nil && shape[1] == s.shape[1] && shape[2] == s.shape[2] && shape[3] == s.shape[3] {
		return nil
	}
	w, _, err := tensorop.ConvWindow(s.st.Node, shape, s.st.Shape)
	if err != nil {
		return fmt.Errorf("node %q (%s): %w: %w", s.st.Node.Name, s.st.Node.Op, err, runtime.ErrShape)
	}
	sh, sw := w.Stride[0], w.Stride[1]
	// Planes hold what any kernel element of any output position reads.
	hs := w.Out[0] + (w.Kernel[0]-1)*w.Dilation[0]/sh
	ws := w.Out[1] + (w.Kernel[1]-1)*w.Dilation[1]/sw
	total := float64(shape[1]) * float64(sh) * float64(sw) * (float64(hs)*float64(ws) + 2*vectorLanes)
	if total > 1<<28 || float64(s.m.rows)*float64(w.Out[0])*float64(ws) > 1<<28 {
		return fmt.Errorf("node %q (%s): padded input of %v: %w", s.st.Node.Name, s.st.Node.Op, shape, runtime.ErrMemory)
	}
	s.win, s.shape, s.hs, s.ws = w, append([]int(nil), shape...), hs, ws
	s.ps = (hs*ws + vectorLanes - 1) / vectorLanes * vectorLanes
	if s.ps%256 == 0 { // planes a multiple of 1 KiB apart meet in few sets of the caches
		s.ps += vectorLanes
	}
	s.ld = (w.Out[0]*ws + s.lanes - 1) / s.lanes * s.lanes
	s.bufs = make([]laneBuffer, p.pool.threads)
	s.plain = w.Kernel[0]*w.Kernel[1]*sh*sw == 1 && w.Before[0]|w.Before[1]|w.After[0]|w.After[1] == 0
	// A sparse weight loads as often as it multiplies: an aligned copy pays.
	s.plain = s.plain && (s.ptr == nil || hs*ws == s.ps)
	if s.plain {
		s.ps = hs * ws
	}
	s.cut(w)
	offset := func(k int) int32 {
		area := w.Kernel[0] * w.Kernel[1]
		c, kh, kw := k/area, k%area/w.Kernel[1]*w.Dilation[0], k%w.Kernel[1]*w.Dilation[1]
		plane := (c*sh+kh%sh)*sw + kw%sw
		return int32(4 * (plane*s.ps + kh/sh*ws + kw/sw))
	}
	s.off = s.offsets(offset)
	if s.plain {
		s.last = s.offsets(func(k int) int32 { return int32(4 * k * s.lanes) })
	}
	return nil
}

// offsets are those of all kernel elements, or of those that a sparse weight keeps.
func (s *laneConv) offsets(f func(k int) int32) []int32 {
	if s.ptr == nil {
		off := make([]int32, s.m.cols)
		for k := range off {
			off[k] = f(k)
		}
		return off
	}
	off := make([]int32, len(s.elem))
	for i, k := range s.elem {
		off[i] = f(int(k))
	}
	return off
}

func (s *laneConv) count() (runtime.OpKey, runtime.OpCounter) {
	return s.m.counted(model.OpConv, s.m.calls)
}
