package cpu

import (
	"context"
	"fmt"
	goruntime "runtime"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// Tensor graphs: convolutions and Linears multiply packed weights with the same
// kernels as language models; every other op is tensorop's.

// CompileTensors implements runtime.TensorBackend.
func (b *Backend) CompileTensors(plan *runtime.TensorPlan) (runtime.TensorProgram, error) {
	return b.compileTensors(plan, false)
}

// compileTensors: see arrange for blocked.
func (b *Backend) compileTensors(plan *runtime.TensorPlan, blocked bool) (runtime.TensorProgram, error) {
	p := &tensorProgram{pool: b.pool, plan: plan, bytes: make([]sparse.Bytes, len(plan.Steps)), lin: linalg.NewPool(b.pool.threads), order: arrange(plan, blocked)}
	b.pool.retain()
	shared := map[tensorPackKey]packed{}
	var s scratch
	for _, at := range p.order.steps {
		st, err := p.compile(at, shared, &s)
		if err != nil {
			p.release()
			b.pool.release()
			return nil, fmt.Errorf("cpu: compile: %w", err)
		}
		p.steps = append(p.steps, st)
	}
	return p, nil
}

var _ runtime.TensorBackend = (*Backend)(nil)

type tensorPackKey struct {
	w *model.Weight
	k runtime.Kernel
}

// tensorProgram is a compiled tensor graph.
type tensorProgram struct {
	pool    *pool
	lin     *linalg.Pool
	plan    *runtime.TensorPlan
	order   *arrangement
	steps   []tensorStep // in that order
	packs   []packed
	bytes   []sparse.Bytes
	weights sparse.Bytes
	work    atomic.Int64
	closed  atomic.Bool

	turning []turnBuffer    // see turned
	vals    []*model.Tensor // of the Run in progress, by value
	bufs    buffers
}

// tensorStep computes a node's outputs from its inputs.
type tensorStep interface {
	run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error)
	// count says what the last run did.
	count() (k runtime.OpKey, c runtime.OpCounter)
}

func (p *tensorProgram) compile(at *placed, shared map[tensorPackKey]packed, s *scratch) (tensorStep, error) {
	i := at.i
	st := &p.plan.Steps[i]
	n := st.Node
	switch {
	case at.kind == blockedConv:
		return p.blockConv(at)
	case at.kind == blockedPool && at.blocks:
		return &blockPool{node: n, channels: at.channels}, nil
	case at.kind == blockedMean && p.order.form[at.in[0]] > 0:
		return &blockMean{node: n, channels: p.order.form[at.in[0]]}, nil
	}
	if st.Weight == nil {
		return &opStep{node: n, relu: st.Relu}, nil
	}
	if st.Choice == nil { // grouped: no matrix product
		return p.grouped(st)
	}
	if n.Op == model.OpConv {
		l, err := newLaneConv(st)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", n.Weight.Name, err)
		}
		if l != nil {
			p.weights, p.bytes[i] = p.weights.Add(l.bytes()), l.bytes()
			return l, nil
		}
	}
	if n.Op == model.OpConv && st.Kernel.Layout == sparse.LayoutDense && st.Kernel.Weight == sparse.F32 {
		return p.denseConv(i, st)
	}
	kernel := st.Kernel
	kernel.Op = model.OpLinear
	key := tensorPackKey{n.Weight, kernel}
	w := shared[key]
	if w == nil || st.Weight != n.Weight.Data {
		var err error
		if w, err = pack(st.Weight, kernel, p.plan.Group, s); err != nil {
			return nil, fmt.Errorf("%q: %w", n.Weight.Name, err)
		}
		p.packs = append(p.packs, w)
		p.weights = p.weights.Add(w.bytes())
		if st.Weight == n.Weight.Data {
			shared[key] = w
		}
	}
	p.bytes[i] = w.bytes()
	rows, cols := st.Weight.Dims()
	m := product{w: w, rows: rows, cols: cols, bias: st.Bias, size: w.bytes().Total()}
	nnz := int64(rows) * int64(cols)
	if st.Kernel.Layout != sparse.LayoutDense {
		nnz -= int64(st.Choice.Sparsity * float64(nnz))
	}
	m.nnz = nnz
	m.kernel = st.Kernel
	m.cut(p.pool.threads)
	if n.Op == model.OpConv {
		return &convStep{st: st, m: m}, nil
	}
	return &linearTensorStep{st: st, m: m}, nil
}

// Run implements runtime.TensorProgram.
func (p *tensorProgram) Run(ctx context.Context, in []*model.Tensor, c *runtime.Counters) ([]*model.Tensor, error) {
	select {
	case p.pool.lease <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-p.pool.lease }()
	if p.closed.Load() {
		return nil, fmt.Errorf("cpu: program: %w", runtime.ErrClosed)
	}
	g := p.plan.Graph
	if len(in) != len(g.Inputs) {
		return nil, fmt.Errorf("cpu: want %d inputs, got %d: %w", len(g.Inputs), len(in), runtime.ErrShape)
	}
	p.bufs.begin()
	p.vals = make([]*model.Tensor, len(g.Values))
	defer func() { p.vals = nil }()
	for v, t := range g.Constants {
		p.vals[v] = t
	}
	for i, v := range g.Inputs {
		p.vals[v] = in[i]
	}
	p.pool.rouse(p.pool.threads)
	if err := p.loop(ctx, c); err != nil {
		return nil, err
	}
	out := make([]*model.Tensor, len(g.Outputs))
	for i, v := range g.Outputs {
		if out[i] = p.vals[v]; out[i] == nil {
			return nil, fmt.Errorf("cpu: output %.80q was not computed: %w", g.Values[v].Name, runtime.ErrUnsupported)
		}
	}
	goruntime.KeepAlive(p)
	return out, nil
}

func (p *tensorProgram) loop(ctx context.Context, c *runtime.Counters) error {
	var args, turned []*model.Tensor
	last := time.Now()
	for i, s := range p.steps {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := p.order.steps[i]
		args, turned = args[:0], turned[:0]
		for k, v := range at.in {
			if v == model.NoValue {
				args = append(args, nil)
				continue
			}
			x := p.vals[v]
			if blocks := p.order.wants(at, k); blocks != (p.order.form[v] > 0) {
				var err error
				if x, err = p.turned(x, p.order.form[v], blocks); err != nil {
					return fmt.Errorf("cpu: node %q (%s): %w", at.op.Node.Name, at.op.Node.Op, err)
				}
				p.bufs.hold(x)
				turned = append(turned, x)
			}
			args = append(args, x)
		}
		if err := p.step(at, s, args); err != nil {
			return fmt.Errorf("cpu: %w", err)
		}
		for _, x := range turned {
			p.bufs.release(x)
		}
		for _, v := range at.free {
			p.bufs.release(p.vals[v])
			p.vals[v] = nil
		}
		if c != nil {
			now := time.Now()
			key, did := s.count()
			did.Calls, did.Time = 1, now.Sub(last)
			c.Count(key, did)
			last = now
		}
	}
	return nil
}

// step runs one step and keeps its outputs in their form.
func (p *tensorProgram) step(at *placed, s tensorStep, args []*model.Tensor) error {
	if at.total > 0 { // into a Concat's output
		y, err := s.(*blockConv).output(p, args, p.vals[at.outs[0]])
		if err == nil && p.vals[at.outs[0]] == nil {
			p.vals[at.outs[0]] = y
			p.bufs.hold(y)
		}
		return err
	}
	out, err := s.run(p, args)
	if err != nil {
		return err
	}
	for k, v := range at.outs {
		if v == model.NoValue || k >= len(out) {
			continue
		}
		y := out[k]
		if blocks := p.order.form[v] > 0; blocks != at.blocks {
			p.bufs.hold(y)
			if y, err = p.turned(out[k], at.channels, blocks); err != nil {
				return fmt.Errorf("node %q (%s): %w", at.op.Node.Name, at.op.Node.Op, err)
			}
			p.bufs.release(out[k])
		}
		p.vals[v] = y
		p.bufs.hold(y)
	}
	return nil
}

// Memory implements runtime.TensorProgram.
func (p *tensorProgram) Memory() runtime.Memory {
	return runtime.Memory{Weights: p.weights, Workspace: p.work.Load()}
}

// Bytes implements runtime.TensorProgram.
func (p *tensorProgram) Bytes(step int) sparse.Bytes {
	if step < 0 || step >= len(p.bytes) {
		return sparse.Bytes{}
	}
	return p.bytes[step]
}

// Close implements runtime.TensorProgram: it waits for a Run in progress.
func (p *tensorProgram) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	p.pool.lease <- struct{}{}
	p.release()
	<-p.pool.lease
	p.pool.release()
	return nil
}

func (p *tensorProgram) release() {
	for _, s := range p.steps {
		if f, ok := s.(interface{ free() }); ok {
			f.free()
		}
	}
	for _, w := range p.packs {
		w.free()
	}
	p.packs, p.steps = nil, nil
}

// denseConv keeps a dense float32 weight as it is: linalg lays it out while it
// multiplies, and the result needs no turning around.
func (p *tensorProgram) denseConv(i int, st *runtime.TensorStep) (tensorStep, error) {
	w, err := sparse.Read(st.Weight)
	if err != nil {
		return nil, err
	}
	rows, cols := st.Weight.Dims()
	b := sparse.Bytes{Values: 4 * int64(len(w))}
	p.weights = p.weights.Add(b)
	p.bytes[i] = b
	m := product{rows: rows, cols: cols, bias: st.Bias, kernel: st.Kernel, nnz: int64(len(w)), size: b.Total()}
	return &denseConvStep{st: st, m: m, w: w}, nil
}

// opStep runs a node in tensorop.
type opStep struct {
	node *model.Node
	// Of a convolution in groups: its weight and bias as tensors.
	params []*model.Tensor
	relu   bool
}

func (s *opStep) run(p *tensorProgram, in []*model.Tensor) ([]*model.Tensor, error) {
	out, err := tensorop.Run(&tensorop.Call{Node: s.node, In: append(in[:len(in):len(in)], s.params...), Outs: len(s.node.Outs), Pool: p.lin, Floats: p.bufs.tensor})
	if err != nil || !s.relu {
		return out, err
	}
	f, ok := out[0].Data.([]float32)
	if !ok {
		return nil, fmt.Errorf("node %q (%s): Relu of %v after it: %w", s.node.Name, s.node.Op, out[0].Elem, runtime.ErrShape)
	}
	for i, v := range f {
		f[i] = max(v, 0)
	}
	return out, nil
}

func (s *opStep) count() (runtime.OpKey, runtime.OpCounter) {
	return runtime.OpKey{Op: s.node.Op, Layout: sparse.LayoutDense}, runtime.OpCounter{}
}

// grouped is a convolution in groups as a plain op with its weight as a tensor.
func (p *tensorProgram) grouped(st *runtime.TensorStep) (tensorStep, error) {
	w, err := sparse.Read(st.Weight)
	if err != nil {
		return nil, err
	}
	p.weights.Values += 4 * int64(len(w))
	s := &opStep{node: st.Node, params: []*model.Tensor{model.F32Tensor(w, st.Shape...)}, relu: st.Relu}
	if st.Bias != nil {
		s.params = append(s.params, model.F32Tensor(st.Bias, len(st.Bias)))
	}
	// Its parameters must be of the type of what it multiplies.
	if e := p.plan.Graph.Values[st.Node.In[0]].Elem; e == model.ElemF16 || e == model.ElemBF16 {
		for i, x := range s.params {
			if s.params[i], err = tensorop.Cast(x, e, true); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}
