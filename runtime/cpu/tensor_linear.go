package cpu

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tensorop"
)

// product multiplies rows of activations by a packed weight, any number of them:
// its memory for the form that the kernel reads grows with the largest batch.
type product struct {
	w          packed
	rows, cols int // of the weight
	bias       []float32
	kernel     runtime.Kernel
	size       int64 // bytes of the packed weight
	nnz        int64 // weights that are multiplied, for one row of activations

	lin   linearStep // cuts for threads
	x     acts
	mem   *region
	room  int // rows that mem has room for
	out   []float32
	ld    int
	calls int64 // rows of the last run
}

func (m *product) cut(threads int) {
	m.lin.parts = []linear{{w: m.w, rows: m.rows, residual: -1}}
	m.lin.cut(threads)
}

// mul: out[t*ld + r] = sum_c W[r,c] x[t,c] + bias[r] for n rows t of x.
func (m *product) mul(p *tensorProgram, out []float32, ld int, x []float32, n int) error {
	f := m.w.form()
	if n > m.room {
		if m.mem != nil {
			p.work.Add(-int64(len(m.mem.bytes())))
			m.mem.free()
			m.mem = nil
		}
		mem, err := alloc((formBytes(f, n, m.cols) + 63) &^ 63)
		if err != nil {
			return fmt.Errorf("workspace of %d rows: %w", n, err)
		}
		m.mem, m.room = mem, n
		m.x.mem[f] = mem.bytes()
		p.work.Add(int64(len(mem.bytes())))
	}
	m.x.rows, m.x.cols, m.x.f32 = n, m.cols, x
	m.x.begin(f)
	m.lin.x = &m.x
	m.lin.making.run(p.pool, m.lin.x, f)
	m.out, m.ld = out, ld
	p.pool.run(m, m.lin.deal())
	m.calls = int64(n)
	m.out, m.x.f32 = nil, nil
	return nil
}

func (m *product) part(worker, i int) {
	c, x, t0 := m.lin.share(worker, i)
	m.w.mul(m.out[t0*m.ld:], m.ld, x, epilogue{bias: m.bias}, c.r0, c.r1)
}

func (m *product) free() { m.mem.free() }

// counted is the work of n rows of activations.
func (m *product) counted(op model.Op, n int64) (runtime.OpKey, runtime.OpCounter) {
	dense := int64(m.rows) * int64(m.cols)
	bits := int64(m.kernel.Weight.Bits())
	return runtime.OpKey{Op: op, Layout: m.kernel.Layout}, runtime.OpCounter{
		Bytes: m.size, DenseBytes: dense * bits / 8, FLOPs: 2 * m.nnz * n, DenseFLOPs: 2 * dense * n}
}

// linearTensorStep: out[..., r] = in[..., :] * weight[r, :] + bias[r].
type linearTensorStep struct {
	st *runtime.TensorStep
	m  product
}

func (s *linearTensorStep) run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error) {
	x := in[0]
	f, err := floatInput(s.st, x)
	if err != nil {
		return nil, err
	}
	k := len(x.Shape)
	if k == 0 || x.Shape[k-1] != s.m.cols {
		return nil, fmt.Errorf("node %q (%s): want [... %d], got %v: %w", s.st.Node.Name, s.st.Node.Op, s.m.cols, x.Shape, runtime.ErrShape)
	}
	shape := append(append([]int(nil), x.Shape[:k-1]...), s.m.rows)
	y, err := p.bufs.tensor(shape...)
	if err != nil {
		return nil, err
	}
	out := y.Data.([]float32)
	n := len(f) / s.m.cols
	// Batches of any size in pieces whose activations stay in the cache.
	for t := 0; t < n; t += maxTensorRows {
		c := min(maxTensorRows, n-t)
		if err := s.m.mul(p, out[t*s.m.rows:], s.m.rows, f[t*s.m.cols:(t+c)*s.m.cols], c); err != nil {
			return nil, err
		}
	}
	s.m.calls = int64(n)
	if s.st.Relu {
		for i, v := range out {
			out[i] = max(v, 0)
		}
	}
	return floatOutput(y, x.Elem)
}

func (s *linearTensorStep) count() (runtime.OpKey, runtime.OpCounter) {
	return s.m.counted(model.OpLinear, s.m.calls)
}

func (s *linearTensorStep) free() { s.m.free() }

// maxTensorRows is the largest number of rows that are multiplied at once.
const maxTensorRows = 512

// floatInput reads activations as float32; a half-precision network has
// half-precision ones.
func floatInput(st *runtime.TensorStep, x *model.Tensor) ([]float32, error) {
	if x == nil || x.Elem != model.ElemF32 && x.Elem != model.ElemF16 && x.Elem != model.ElemBF16 {
		e := model.ElemNone
		if x != nil {
			e = x.Elem
		}
		return nil, fmt.Errorf("node %q (%s): want float activations, got %v: %w", st.Node.Name, st.Node.Op, e, runtime.ErrShape)
	}
	if f, ok := x.Data.([]float32); ok {
		return f, nil
	}
	t, err := tensorop.Cast(x, model.ElemF32, true)
	if err != nil {
		return nil, err
	}
	return t.Data.([]float32), nil
}

func floatOutput(y *model.Tensor, e model.Elem) ([]*model.Tensor, error) {
	y, err := tensorop.Cast(y, e, true)
	return []*model.Tensor{y}, err
}
