package cpu

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tensorop"
)

// convStep is a convolution as a matrix product: what each output position sees
// becomes a row (im2row), the packed weight multiplies the rows, and the result
// is turned from [positions, channels] into [channels, positions].
//
//	rows[(oh, ow), (c, kh, kw)] = in[c, oh*stride + kh*dilation - pad, ...]
type convStep struct {
	st *runtime.TensorStep
	m  product

	shape []int // of the input that win is for
	win   *tensorop.Window
	at    []int32   // position in the input of row element (position, kernel), -1 in the padding
	rows  []float32 // [chunk of positions, cols]
	prod  []float32 // [chunk of positions, channels]

	// The chunk in progress.
	src, dst   []float32
	p0, n, per int
	channels   int
}

// convChunk is the size of the unrolled windows that are multiplied at once, in
// numbers: they should stay in the second-level cache.
const convChunk = 1 << 17

func (s *convStep) run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error) {
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
	out := y.Data.([]float32)
	positions := size(s.win.Out)
	plane := len(f) / max(1, x.Shape[0])
	chunk := max(8, convChunk/s.m.cols&^7)
	for i := range x.Shape[0] {
		s.src, s.dst = f[i*plane:(i+1)*plane], out[i*positions*s.m.rows:(i+1)*positions*s.m.rows]
		for p0 := 0; p0 < positions; p0 += chunk {
			s.p0, s.n = p0, min(chunk, positions-p0)
			s.deal(p, unrollJob{s}, s.n, s.m.cols)
			if err := s.m.mul(p, s.prod, s.m.rows, s.rows[:s.n*s.m.cols], s.n); err != nil {
				return nil, err
			}
			s.deal(p, turnJob{s}, s.m.rows, s.n)
		}
	}
	s.m.calls = int64(positions * x.Shape[0])
	s.src, s.dst = nil, nil
	return floatOutput(y, x.Elem)
}

// deal runs a job over n items of cost numbers each.
func (s *convStep) deal(p *tensorProgram, j job, n, cost int) {
	s.per = n
	if p.pool.threads > 1 && n*cost > grain {
		s.per = max(1, max(grain/max(cost, 1), (n+4*p.pool.threads-1)/(4*p.pool.threads)))
	}
	p.pool.run(j, parts(n, s.per))
}

// geometry prepares for inputs of a shape: the batch may change without work.
func (s *convStep) geometry(p *tensorProgram, shape []int) error {
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
	k, positions := size(win.Kernel), size(win.Out)
	if size(win.In) > 1<<30 || k*positions > 1<<28 {
		return fmt.Errorf("node %q (%s): windows of %v over %v: %w", s.st.Node.Name, s.st.Node.Op, win.Kernel, win.In, runtime.ErrMemory)
	}
	p.work.Add(-int64(4 * (len(s.at) + len(s.rows) + len(s.prod))))
	s.at = make([]int32, positions*k)
	win.Each(func(ki, pi, at int) { s.at[pi*k+ki] = int32(at) })
	chunk := min(positions, max(8, convChunk/s.m.cols&^7))
	s.rows, s.prod = make([]float32, chunk*s.m.cols+16), make([]float32, chunk*s.m.rows)
	p.work.Add(int64(4 * (len(s.at) + len(s.rows) + len(s.prod))))
	s.win, s.shape, s.channels = win, append([]int(nil), shape...), shape[1]
	return nil
}

type unrollJob struct{ s *convStep }

// part unrolls the windows of some positions.
func (j unrollJob) part(_, i int) {
	s := j.s
	k, plane := size(s.win.Kernel), size(s.win.In)
	for t := i * s.per; t < min((i+1)*s.per, s.n); t++ {
		row := s.rows[t*s.m.cols : (t+1)*s.m.cols]
		at := s.at[(s.p0+t)*k : (s.p0+t+1)*k]
		for c := range s.channels {
			src, dst := s.src[c*plane:(c+1)*plane], row[c*k:(c+1)*k]
			for e, p := range at {
				if p < 0 {
					dst[e] = 0
				} else {
					dst[e] = src[p]
				}
			}
		}
	}
}

type turnJob struct{ s *convStep }

// part turns the products of some channels around, with Relu.
func (j turnJob) part(_, i int) {
	s := j.s
	positions := size(s.win.Out)
	r0, r1 := i*s.per, min((i+1)*s.per, s.m.rows)
	for t := range s.n {
		row := s.prod[t*s.m.rows : (t+1)*s.m.rows]
		for r := r0; r < r1; r++ {
			v := row[r]
			if s.st.Relu {
				v = max(v, 0)
			}
			s.dst[r*positions+s.p0+t] = v
		}
	}
}

func (s *convStep) count() (runtime.OpKey, runtime.OpCounter) {
	return s.m.counted(model.OpConv, s.m.calls)
}

func (s *convStep) free() { s.m.free() }

func size(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}
