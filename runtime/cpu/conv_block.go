package cpu

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// blockLanes is the number of channels that lie together in an image in blocks,
// [N, C/16, H, W, 16]: one vector of AVX-512, two of AVX2. Lanes past the last channel hold
// anything.
const blockLanes = 16

// channelBlocks is how many blocks hold a number of channels.
func channelBlocks(channels int) int { return parts(channels, blockLanes) }

// halfLanes is half a vector: the last block of a convolution's channels is computed
// by halves, so that 24 cost no more than one vector and a half where the processor
// takes 512 bits in two cycles.
const halfLanes = blockLanes / 2

// channelHalves is how many halves of vectors hold a number of channels.
func channelHalves(channels int) int { return parts(channels, halfLanes) }

// blockConv is a dense 2-D convolution of float32 with output channels in the lanes:
//
//	out[oc, oh, ow] = act(sum_k W[oc, k] in[c, oh*s + kh*d - pad, ...] + bias[oc] + res[oc, oh, ow])
//
// Up to 24 sums, 0.5 to 4 vectors of channels for 6 to 16 pixels, stay in registers
// over all k; what a pixel has in a channel is broadcast. So the input may be in
// blocks or not, no column of the output is computed for nothing, and a 1x1
// convolution is a matrix product over all its pixels. The output is in blocks. A
// 3x3 convolution of stride 1 multiplies in Winograd's domain (conv_winograd.go).
type blockConv struct {
	st      *runtime.TensorStep
	k       *blockKernels
	m       product // for its counters
	cb, kb  int     // blocks of input and output channels
	groups  []blockGroup
	bias    []float32 // kb blocks
	floor   float32
	blocked bool         // the input is in blocks
	tiles   *winogradMap // nil: directly
	add     *opStep      // of in[1], for shapes that are not the output's

	// into is where the output goes: blocks first to first+kb-1 of total.
	first, total int

	shape      []int // [N, C, H, W] of the input that the following is for
	win        *tensorop.Window
	rows, cols int // of the output as it is dealt out; 1 and all pixels where a 1x1 kernel reads them in a row
	flat, pad  bool
	per        int     // rows (of one row: pixels) of a part
	parts      int     // of an image
	ld, plane  int     // numbers from row to row and from plane to plane of what is read
	off        []int32 // bytes from an output pixel's first input to that of each k
	bufs       []blockBuffer

	src, dst, res []float32 // of the run in progress
}

// blockGroup is 1 to 8 halves of vectors of output channels, from block at on, that are
// computed together: w[k][halves*8], or that for each of 36 points.
type blockGroup struct {
	at, halves int
	w          []float32
}

func (g *blockGroup) width() int { return g.halves * halfLanes }

// blockBuffer is a worker's.
type blockBuffer struct {
	args blockArgs
	in   []float32 // padded input
	tile tileBuffer
}

// blockArgs is the argument of the kernels; the layout is known to asm/convblock.
type blockArgs struct {
	dst, src, off, w, bias, res         unsafe.Pointer
	n, count, step, pix, vec, srcStride int
	floor                               float32
	_                                   [3]uint64 // the kernel's own
}

// wantsBlocks reports whether a step runs as a blockConv.
func wantsBlocks(g *model.Graph, st *runtime.TensorStep) bool {
	if blocks() == nil || st.Choice == nil || st.Node.Op != model.OpConv || len(st.Shape) != 4 || st.Kernel.Weight != sparse.F32 || st.Kernel.Layout != sparse.LayoutDense {
		return false
	}
	for _, v := range []model.ValueID{st.Node.In[0], st.Out} {
		if g.Values[v].Elem != model.ElemF32 {
			return false
		}
	}
	// Few channels leave lanes empty: positions fill them (conv_lanes.go).
	return st.Shape[0] >= halfLanes && 8*st.Shape[0] >= 5*halfLanes*channelHalves(st.Shape[0])
}

func newBlockConv(st *runtime.TensorStep) (*blockConv, error) {
	w, err := sparse.Read(st.Weight)
	if err != nil {
		return nil, err
	}
	oc, cols := st.Weight.Dims()
	s := &blockConv{st: st, k: blocks(), cb: channelBlocks(st.Shape[1]), kb: channelBlocks(oc), floor: float32(math.Inf(-1))}
	s.total = s.kb
	if st.Relu {
		s.floor = 0
	}
	s.bias = make([]float32, s.kb*blockLanes)
	copy(s.bias, st.Bias)
	n := parts(s.kb, s.k.groupBlocks())
	for i := range n {
		at, end := i*s.kb/n, (i+1)*s.kb/n
		s.groups = append(s.groups, blockGroup{at: at, halves: min(2*end, channelHalves(oc)) - 2*at})
	}
	if winograd(st) {
		s.tiles = &winogradMap{}
		s.winogradWeights(w)
	} else {
		for i := range s.groups {
			g := &s.groups[i]
			width := g.width()
			g.w = make([]float32, cols*width)
			for r := range min(width, oc-g.at*blockLanes) {
				for k, v := range w[(g.at*blockLanes+r)*cols:][:cols] {
					g.w[k*width+r] = v
				}
			}
		}
	}
	s.m = product{rows: oc, cols: cols, kernel: st.Kernel, nnz: int64(len(w)), size: s.bytes().Total()}
	return s, nil
}

func (s *blockConv) bytes() sparse.Bytes {
	var b sparse.Bytes
	for _, g := range s.groups {
		b.Values += 4 * int64(len(g.w))
	}
	return b
}

// run convolves in[0]; in[1], where there is one, is added before the activation.
func (s *blockConv) run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error) {
	y, err := s.output(p, in, nil)
	if !errors.Is(err, errApart) {
		return []*model.Tensor{y}, err
	}
	floor := s.floor
	s.floor = float32(math.Inf(-1))
	defer func() { s.floor = floor }()
	if y, err = s.output(p, in[:1], nil); err != nil {
		return nil, err
	}
	p.bufs.hold(y)
	defer p.bufs.release(y)
	return s.add.run(p, []*model.Tensor{y, in[1]})
}

// errApart is for what is added in another shape: it is broadcast by the Add itself.
var errApart = errors.New("added in another shape")

// output convolves into a part of y, all of a new tensor where that is nil.
func (s *blockConv) output(p *tensorProgram, in []*model.Tensor, y *model.Tensor) (*model.Tensor, error) {
	x := in[0]
	f, err := floatInput(s.st, x)
	if err != nil {
		return nil, err
	}
	shape := x.Shape
	if s.blocked {
		shape = []int{x.Shape[0], s.st.Shape[1], x.Shape[2], x.Shape[3]}
	}
	if err := s.geometry(p, shape); err != nil {
		return nil, err
	}
	want := []int{shape[0], s.total, s.win.Out[0], s.win.Out[1], blockLanes}
	if len(in) > 1 && !slices.Equal(in[1].Shape, want) {
		return nil, errApart
	}
	if y == nil {
		if y, err = p.bufs.tensor(want...); err != nil {
			return nil, err
		}
	} else if !slices.Equal(y.Shape, want) {
		return nil, fmt.Errorf("node %q (%s): output %v beside %v: %w", s.st.Node.Name, s.st.Node.Op, want, y.Shape, runtime.ErrShape)
	}
	s.src, s.dst, s.res = f, y.Data.([]float32), nil
	if len(in) > 1 {
		s.res = in[1].Data.([]float32)
	}
	switch n := shape[0]; {
	case y.Len() == 0:
	case s.tiles != nil:
		s.winograd(p)
	default:
		p.pool.run(s, n*s.parts)
	}
	s.m.calls = int64(size(s.win.Out) * shape[0])
	s.src, s.dst, s.res = nil, nil, nil
	return y, nil
}

// blockPart is how many bytes of the input a part reads at most: every group of
// output channels passes over them, and they should stay in the second-level cache.
const blockPart = 384 << 10

// geometry prepares for inputs of a shape: the batch may change without work.
func (s *blockConv) geometry(p *tensorProgram, shape []int) error {
	if len(shape) == 4 && s.win != nil && slices.Equal(shape[1:], s.shape[1:]) {
		s.shape[0] = shape[0]
		return nil
	}
	w, _, err := tensorop.ConvWindow(s.st.Node, shape, s.st.Shape)
	if err != nil {
		return fmt.Errorf("node %q (%s): %w: %w", s.st.Node.Name, s.st.Node.Op, err, runtime.ErrShape)
	}
	unit, planes := 1, shape[1] // numbers of a pixel that lie together
	if s.blocked {
		unit, planes = blockLanes, s.cb
	}
	s.pad = w.Before[0] != 0 || w.Before[1] != 0 || w.After[0] != 0 || w.After[1] != 0
	high, wide := w.In[0]+w.Before[0]+w.After[0], w.In[1]+w.Before[1]+w.After[1]
	// A worker's padded input, and offsets in 32 bits.
	if float64(high)*float64(wide)*float64(planes*unit) > 1<<28 || float64(size(w.Out))*float64(s.total) > 1<<28 {
		return fmt.Errorf("node %q (%s): padded input of %v: %w", s.st.Node.Name, s.st.Node.Op, shape, runtime.ErrMemory)
	}
	s.shape, s.win = append([]int(nil), shape...), w
	s.bufs = make([]blockBuffer, p.pool.threads)
	if s.tiles != nil {
		s.tiles.size(s, p.pool.threads)
		return nil
	}
	s.rows, s.cols = w.Out[0], w.Out[1]
	sh, span := w.Stride[0], (w.Kernel[0]-1)*w.Dilation[0]+1
	s.flat = !s.pad && w.Kernel[0]*w.Kernel[1]*w.Stride[0]*w.Stride[1] == 1
	items, cost := s.rows, sh*wide*planes*unit // what is dealt out, and the numbers that one reads
	if s.flat {
		s.rows, s.cols = 1, size(w.Out)
		items, cost = s.cols, planes*unit
	}
	s.per = max(1, min(items, blockPart/4/max(1, cost)))
	if t := p.pool.threads; t > 1 { // parts enough for the workers of one image
		s.per = max(1, min(s.per, parts(items, 2*t)))
	}
	s.parts = parts(items, s.per)
	s.per = parts(items, s.parts)
	s.ld, s.plane = wide*unit, w.In[0]*w.In[1]*unit
	if s.pad {
		s.plane = ((s.per-1)*sh + span) * s.ld
	}
	area := w.Kernel[0] * w.Kernel[1]
	s.off = make([]int32, s.m.cols)
	for k := range s.off {
		c, kh, kw := k/area, k%area/w.Kernel[1], k%w.Kernel[1]
		s.off[k] = int32(4 * (c/unit*s.plane + c%unit + kh*w.Dilation[0]*s.ld + kw*w.Dilation[1]*unit))
	}
	return nil
}

// part convolves some rows of an image, or some pixels of one row.
func (s *blockConv) part(worker, i int) {
	b := &s.bufs[worker]
	w, image := s.win, i/s.parts
	i0 := i % s.parts * s.per
	unit, planes := 1, s.shape[1]
	if s.blocked {
		unit, planes = blockLanes, s.cb
	}
	src := s.src[image*planes*w.In[0]*w.In[1]*unit:]
	positions := size(w.Out)
	r0, r1, from, n := i0, min(i0+s.per, s.rows), 0, s.cols
	switch {
	case s.flat:
		r0, r1, from, n = 0, 1, i0, min(s.per, s.cols-i0)
	case s.pad:
		src = s.padded(b, src, r0, r1, planes, unit)
	default:
		src = src[r0*w.Stride[0]*s.ld:]
	}
	a := &b.args
	a.step, a.n, a.off = 4*unit*w.Stride[1], s.m.cols, unsafe.Pointer(&s.off[0])
	a.pix, a.vec, a.floor = 4*blockLanes, 4*blockLanes*positions, s.floor
	for _, g := range s.groups {
		a.w, a.bias = unsafe.Pointer(&g.w[0]), unsafe.Pointer(&s.bias[g.at*blockLanes])
		for r := r0; r < r1; r++ {
			a.src = unsafe.Pointer(&src[(r-r0)*w.Stride[0]*s.ld+from*unit*w.Stride[1]])
			at := ((image*s.total+s.first+g.at)*positions + r*s.cols + from) * blockLanes
			a.dst = unsafe.Pointer(&s.dst[at])
			a.res = nil
			if s.res != nil {
				a.res = unsafe.Pointer(&s.res[at])
			}
			a.pixels(s.k, g.halves, n)
		}
	}
	a.dst, a.src, a.res = nil, nil, nil
}

// pixels computes n pixels, in tiles of as even a size as fits the registers.
func (a *blockArgs) pixels(k *blockKernels, halves, n int) {
	most := k.pixels(halves)
	tiles := parts(n, most)
	p := parts(n, tiles)
	long := n - tiles*(p-1) // tiles of p pixels; the others have one less
	a.count = long
	k.block(a, halves, p)
	if a.count = tiles - long; a.count > 0 {
		a.src, a.dst = unsafe.Add(a.src, long*p*a.step), unsafe.Add(a.dst, long*p*a.pix)
		if a.res != nil {
			a.res = unsafe.Add(a.res, long*p*a.pix)
		}
		k.block(a, halves, p-1)
	}
}

// padded copies what rows r0 to r1-1 of the output read, with its padding.
func (s *blockConv) padded(b *blockBuffer, src []float32, r0, r1, planes, unit int) []float32 {
	w := s.win
	if b.in == nil {
		b.in = make([]float32, planes*s.plane)
	}
	sh := w.Stride[0]
	from, to := max(0, -w.Before[1])*unit, max(0, w.Before[1])*unit
	wide := w.In[1] * unit
	n := max(0, min(wide-from, s.ld-to))
	for c := range planes {
		for i := range (r1-1-r0)*sh + (w.Kernel[0]-1)*w.Dilation[0] + 1 {
			row := b.in[c*s.plane+i*s.ld:][:s.ld]
			h := r0*sh + i - w.Before[0]
			if h < 0 || h >= w.In[0] {
				clear(row)
				continue
			}
			clear(row[:to])
			copy(row[to:to+n], src[(c*w.In[0]+h)*wide+from:])
			clear(row[to+n:])
		}
	}
	return b.in
}

func (s *blockConv) count() (runtime.OpKey, runtime.OpCounter) {
	return s.m.counted(model.OpConv, s.m.calls)
}
