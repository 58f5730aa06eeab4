package cpu

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// build makes the steps, in the plan's order but for Linears that join an earlier
// one.
func (c *compiler) build() error {
	built := make([]bool, len(c.plan.Steps))
	for i, s := range c.plan.Steps {
		if built[i] {
			continue
		}
		var err error
		if s.Node.Op == model.OpLinear {
			group := c.group(i, built)
			for _, k := range group {
				built[k] = true
			}
			err = c.linears(group)
		} else {
			err = c.single(i)
		}
		if err != nil {
			return fmt.Errorf("step %d %q: %w", i, s.Node.Name, err)
		}
	}
	return nil
}

// groupReach is how far ahead a Linear looks for others of the same input: k and v
// stand behind the norm of q in some models.
const groupReach = 6

// group lists the steps that run as one with Linear i: later Linears that read the
// same buffer, and that may run before what stands between.
func (c *compiler) group(i int, built []bool) []int {
	st := c.plan.Steps
	out := []int{i}
	for k := i + 1; k < min(len(st), i+groupReach); k++ {
		s := st[k]
		if built[k] || s.Node.Op != model.OpLinear || s.In[0] != st[i].In[0] {
			continue
		}
		ok := true
		for _, t := range st[i:k] {
			ok = ok && t.Out != s.Out && t.Out != s.In[0] && t.Out != s.Residual && t.Residual != s.Out && !slices.Contains(t.In, s.Out)
		}
		if ok {
			out = append(out, k)
		}
	}
	return out
}

// add appends a step that writes to the given buffers.
func (c *compiler) add(s step, m meter, out ...int) {
	c.p.steps = append(c.p.steps, s)
	c.p.meters = append(c.p.meters, m)
	for _, b := range out {
		delete(c.acts, b)
	}
}

// form sees to it that x, the content of buffer b, has form f; it reports whether
// the step at hand has to make it.
func (c *compiler) form(x *acts, b int, f form) (fresh bool, err error) {
	if f == formRows || x.mem[f] != nil {
		return false, nil
	}
	if c.mem[b] == nil {
		c.mem[b] = new([forms]*region)
	}
	r := c.mem[b][f]
	n := formBytes(f, c.rows(c.plan.Buffers[b].Selected), x.cols)
	if r == nil || len(r.bytes()) < n {
		if r, err = alloc(n); err != nil {
			return false, err
		}
		c.p.regions = append(c.p.regions, r)
		c.mem[b][f] = r
	}
	x.mem[f] = r.bytes()
	return true, nil
}

// linears builds one step of the Linears at the given plan steps.
func (c *compiler) linears(group []int) error {
	first := c.plan.Steps[group[0]]
	in, width := first.In[0], c.width(first.Node.In[0])
	x := c.acts[in]
	if x == nil {
		x = &acts{cols: width}
		c.acts[in] = x
	}
	l := &linearStep{in: in, selected: c.plan.Buffers[first.Out].Selected, x: x}
	m := meter{selected: l.selected}
	var total int64
	for _, k := range group {
		s := c.plan.Steps[k]
		rows, cols := s.Node.Weight.Data.Dims()
		if rows != c.width(s.Node.Out) || cols != width {
			return fmt.Errorf("%q: want [%d %d], got [%d %d]: %w", s.Node.Weight.Name, c.width(s.Node.Out), width, rows, cols, runtime.ErrShape)
		}
		bias, err := c.vector(s.Node.Bias, rows)
		if err != nil {
			return err
		}
		key := keyOf(s)
		w := c.packs[key]
		if fresh, err := c.form(x, in, w.form()); err != nil {
			return err
		} else if fresh {
			l.fresh = append(l.fresh, w.form())
		}
		l.parts = append(l.parts, linear{w: w, rows: rows, out: s.Out, residual: s.Residual, bias: bias})
		b := w.bytes()
		c.p.bytes[k] = b
		total += b.Total()
		m.parts = append(m.parts, c.linearMeter(key, b, rows, cols))
	}
	for k := range m.parts {
		m.parts[k].share = 1 / float64(len(group))
		if total > 0 {
			m.parts[k].share = float64(m.parts[k].Bytes) / float64(total)
		}
	}
	l.cut(c.p.pool.threads)
	c.add(l, m)
	for _, k := range group {
		delete(c.acts, c.plan.Steps[k].Out)
	}
	return nil
}

// single builds a step of any other op.
func (c *compiler) single(i int) error {
	s := c.plan.Steps[i]
	n := s.Node
	sel := c.plan.Buffers[s.Out].Selected
	width := c.width(n.Out)
	m := c.meter(n.Op, sel)
	want := func(k int) error {
		if len(s.In) != k {
			return fmt.Errorf("want %d inputs, got %d: %w", k, len(s.In), runtime.ErrShape)
		}
		return nil
	}
	same := func(k int) error {
		if err := want(k); err != nil {
			return err
		}
		for _, v := range n.In {
			if c.width(v) != width {
				return fmt.Errorf("want inputs %d wide, got %d: %w", width, c.width(v), runtime.ErrShape)
			}
		}
		return nil
	}
	rs := rowStep{out: s.Out, width: width, selected: sel}
	for k, b := range s.In {
		if k < len(rs.in) {
			rs.in[k] = b
		}
	}
	switch n.Op {
	case model.OpEmbedding:
		if err := want(1); err != nil {
			return err
		}
		w, err := c.table(s)
		if err != nil {
			return err
		}
		b := c.packs[keyOf(s)].bytes()
		rows, cols := n.Weight.Data.Dims()
		if cols != width || rows < 1 {
			return fmt.Errorf("%q: want width %d, got [%d %d]: %w", n.Weight.Name, width, rows, cols, runtime.ErrShape)
		}
		c.p.bytes[i] = b
		m.parts[0].RowBytes = b.Total() / int64(rows)
		c.add(&embeddingStep{rowStep: rs, w: w}, m, s.Out)
	case model.OpRMSNorm:
		a, ok := n.Attr.(model.RMSNorm)
		if !ok {
			return fmt.Errorf("attributes %T: %w", n.Attr, runtime.ErrUnsupported)
		}
		group := a.Width
		if group == 0 {
			group = width
		}
		if err := same(1); err != nil {
			return err
		}
		if group < 1 || width%group != 0 {
			return fmt.Errorf("norm over %d of %d columns: %w", group, width, runtime.ErrShape)
		}
		w, err := c.vector(n.Weight, group)
		if err != nil {
			return err
		}
		m.parts[0].RowFLOPs = int64(4 * width)
		c.add(&rmsNormStep{rowStep: rs, group: group, eps: a.Eps, w: w}, m, s.Out)
	case model.OpRoPE:
		a, ok := n.Attr.(model.RoPE)
		if !ok {
			return fmt.Errorf("attributes %T: %w", n.Attr, runtime.ErrUnsupported)
		}
		if err := want(2); err != nil {
			return err
		}
		if c.width(n.In[0]) != width || a.HeadDim < 2 || a.HeadDim%2 != 0 || width%a.HeadDim != 0 || len(a.InvFreq) != a.HeadDim/2 {
			return fmt.Errorf("rotation of %d columns in heads of %d by %d frequencies: %w", width, a.HeadDim, len(a.InvFreq), runtime.ErrShape)
		}
		t, err := c.ropeTable(a)
		if err != nil {
			return err
		}
		m.parts[0].RowFLOPs = int64(3 * width)
		c.add(&ropeStep{rowStep: rs, t: t, headDim: a.HeadDim}, m, s.Out)
	case model.OpAttention:
		if err := want(6); err != nil {
			return err
		}
		a, ok := n.Attr.(model.Attention)
		if !ok {
			return fmt.Errorf("attributes %T: %w", n.Attr, runtime.ErrUnsupported)
		}
		kv := a.KVHeads * a.HeadDim
		if c.width(n.In[0]) != a.Heads*a.HeadDim || width != a.Heads*a.HeadDim || c.width(n.In[1]) != kv || c.width(n.In[2]) != kv {
			return fmt.Errorf("attention %+v of q %d, k %d, v %d: %w", a, c.width(n.In[0]), c.width(n.In[1]), c.width(n.In[2]), runtime.ErrShape)
		}
		m.parts[0].ContextFLOPs = int64(4 * a.Heads * a.HeadDim)
		c.add(newAttentionStep(c.p, s, a), m, s.Out)
	case model.OpSiLUGate:
		if err := same(2); err != nil {
			return err
		}
		m.parts[0].RowFLOPs = int64(5 * width)
		c.add(&siluGateStep{rs}, m, s.Out)
	case model.OpAdd, model.OpMul:
		if err := same(2); err != nil {
			return err
		}
		m.parts[0].RowFLOPs = int64(width)
		if n.Op == model.OpAdd {
			c.add(&addStep{rs}, m, s.Out)
		} else {
			c.add(&mulStep{rs}, m, s.Out)
		}
	case model.OpReLU:
		if err := same(1); err != nil {
			return err
		}
		c.add(&reluStep{rs}, m, s.Out)
	case model.OpSoftmax:
		if err := same(1); err != nil {
			return err
		}
		m.parts[0].RowFLOPs = int64(5 * width)
		c.add(&softmaxStep{rs}, m, s.Out)
	case model.OpSelect:
		if err := want(2); err != nil {
			return err
		}
		if c.width(n.In[0]) != width || !sel {
			return fmt.Errorf("select of %d columns from %d: %w", width, c.width(n.In[0]), runtime.ErrShape)
		}
		c.add(&selectStep{rs}, m, s.Out)
	default:
		return fmt.Errorf("op %s: %w", n.Op, runtime.ErrUnsupported)
	}
	return nil
}

// table is where an embedding reads its rows: the packed weight where that can be
// read by rows, a portable copy otherwise.
func (c *compiler) table(s runtime.Step) (rowReader, error) {
	k := keyOf(s)
	if r, ok := c.packs[k].(rowReader); ok {
		return r, nil
	}
	w, err := portablePacker(s.Kernel)(k.w.Data, c.plan.Group, &scratch{})
	if err != nil {
		return nil, err
	}
	c.own(w)
	return w.(rowReader), nil
}

// ropeTable shares one table among the steps of the same frequencies.
func (c *compiler) ropeTable(a model.RoPE) (*ropeTable, error) {
	for _, t := range c.p.ropes {
		if t.scale == a.Scale && slices.Equal(t.inv, a.InvFreq) {
			return t, nil
		}
	}
	n := c.p.positions()
	half := len(a.InvFreq)
	f, err := c.p.memory(2 * n * half)
	if err != nil {
		return nil, err
	}
	t := &ropeTable{inv: a.InvFreq, scale: a.Scale, half: half, cs: f}
	c.p.ropes = append(c.p.ropes, t)
	return t, nil
}

func (c *compiler) linearMeter(k packKey, b sparse.Bytes, rows, cols int) meterPart {
	dense := int64(float64(rows) * float64(cols) * k.weight.Bits() / 8)
	stored := int64(rows) * int64(cols)
	switch k.layout {
	case sparse.LayoutNM24:
		stored = int64(rows) * int64((cols+3)/4*2)
	case sparse.LayoutBitmask, sparse.LayoutCSR:
		stored = min(stored, int64(float64(b.Values)*8/k.weight.Bits()))
	}
	return meterPart{
		slot: c.slot(runtime.OpKey{Op: model.OpLinear, Layout: k.layout}), Bytes: b.Total(), DenseBytes: dense + b.Scales,
		RowFLOPs: 2 * stored, DenseRowFLOPs: 2 * int64(rows) * int64(cols),
	}
}
