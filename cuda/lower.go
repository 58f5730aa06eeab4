package cuda

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// t is the suffix of kernels by the activations' type.
func (p *program) t() string { return "_" + p.act.String() }

func (p *program) fn(name string, shared int) (Func, error) { return p.d.Func(name, shared) }

// lower turns a plan step into a function that launches it for the batch in
// flight. Kernel contracts stand at the head of each file in cuda/kernels.
func (p *program) lower(s *runtime.Step) (func() error, *weight, error) {
	n := s.Node
	y := p.buffers[s.Out]
	wide := p.width(n.Out)
	l := int32(ld(wide))
	var x Ptr
	if len(s.In) > 0 {
		x = p.buffers[s.In[0]]
	}
	rows := func() int {
		if p.plan.Buffers[s.Out].Selected {
			return p.selected
		}
		return p.rows
	}
	switch n.Op {
	case model.OpEmbedding:
		return p.embedding(s, x, y, l)
	case model.OpLinear:
		return p.linear(s, x, y, rows)
	case model.OpRMSNorm:
		return p.rmsNorm(s, x, y, l, rows)
	case model.OpRoPE:
		run, err := p.rope(s, x, y, l)
		return run, nil, err
	case model.OpAttention:
		run, err := p.attention(s, y, l)
		return run, nil, err
	case model.OpSiLUGate, model.OpAdd, model.OpMul:
		name := map[model.Op]string{model.OpSiLUGate: "silu_gate", model.OpAdd: "add", model.OpMul: "mul"}[n.Op]
		f, err := p.fn(name+p.t(), 0)
		if err != nil {
			return nil, nil, err
		}
		b := p.buffers[s.In[1]]
		return func() error {
			return p.d.Launch(f, [3]int{blocks(wide, 256), rows(), 1}, [3]int{256, 1, 1}, 0, y, x, b, int32(wide), l, l, l)
		}, nil, nil
	case model.OpReLU:
		f, err := p.fn("bias_act"+p.t(), 0)
		if err != nil {
			return nil, nil, err
		}
		return func() error {
			return p.d.Launch(f, [3]int{blocks(wide, 256), rows(), 1}, [3]int{256, 1, 1}, 0, y, x, Ptr(0), int32(wide), l, l, int32(1))
		}, nil, nil
	case model.OpSoftmax:
		f, err := p.fn("softmax"+p.t(), 0)
		if err != nil {
			return nil, nil, err
		}
		return func() error {
			return p.d.Launch(f, [3]int{rows(), 1, 1}, [3]int{256, 1, 1}, 0, y, x, int32(wide), l, l, float32(1))
		}, nil, nil
	case model.OpSelect:
		// A gather of rows is a look-up in a table whose rows are ld wide.
		f, err := p.fn("embedding"+p.t()+p.t(), 0)
		if err != nil {
			return nil, nil, err
		}
		index := p.buffers[s.In[1]]
		return func() error {
			if p.selected == 0 {
				return nil
			}
			return p.d.Launch(f, [3]int{p.selected, 1, 1}, [3]int{256, 1, 1}, 0, y, x, Ptr(0), index, int32(p.plan.MaxRows), l, l)
		}, nil, nil
	}
	return nil, nil, fmt.Errorf("op %s: %w", n.Op, runtime.ErrUnsupported)
}

func blocks(n, per int) int { return (n + per - 1) / per }

// embedding looks rows up in the form that a tied head's products read, so that it is
// stored once; else in a row-major table of its own.
func (p *program) embedding(s *runtime.Step, tokens, y Ptr, l int32) (func() error, *weight, error) {
	n := s.Node
	vocab, width := n.Weight.Data.Dims()
	if head := p.multiplies(n.Weight); head != nil && head.Kernel.Layout == sparse.LayoutDense && p.tiled(head.Kernel, width, p.group(head)) {
		w, err := p.load(head)
		if err != nil {
			return nil, nil, err
		}
		f, err := p.fn(fmt.Sprintf("embedding_tile_%v_f16", w.t), 0)
		if err != nil {
			return nil, nil, err
		}
		return func() error {
			return p.d.Launch(f, [3]int{p.rows, 1, 1}, [3]int{256, 1, 1}, 0, y, w.values, w.scale, tokens, int32(vocab), int32(width), l)
		}, w, nil
	}
	t, layout := s.Kernel.Weight, s.Kernel.Layout
	w := p.linears[n.Weight]
	if w == nil || layout != sparse.LayoutDense || t == sparse.Int4 || w.ld != width {
		shared := layout == sparse.LayoutDense && t != sparse.Int4 && up(width, padding(layout, t)) == width
		var err error
		m := n.Weight.Data
		if t == sparse.Int4 { // no kernel looks up row-major int4: its numbers, in a wider type
			if m, err = sparse.Pack(m, sparse.LayoutDense, t, p.plan.Group); err != nil {
				return nil, nil, err
			}
			t = p.act
		}
		if w, err = p.upload(m, sparse.LayoutDense, t, 0, 1); err != nil {
			return nil, nil, err
		}
		if shared {
			p.linears[n.Weight] = w
		}
	}
	f, err := p.fn("embedding_"+w.t.String()+p.t(), 0)
	if err != nil {
		return nil, nil, err
	}
	return func() error {
		return p.d.Launch(f, [3]int{p.rows, 1, 1}, [3]int{256, 1, 1}, 0, y, w.values, w.scale, tokens, int32(vocab), int32(width), l)
	}, w, nil
}

func (p *program) rmsNorm(s *runtime.Step, x, y Ptr, l int32, rows func() int) (func() error, *weight, error) {
	a := s.Node.Attr.(model.RMSNorm)
	gain, err := p.vector(s.Node.Weight)
	if err != nil {
		return nil, nil, err
	}
	wide := p.width(s.Node.Out)
	if a.Width == 0 || a.Width == wide {
		f, err := p.fn("rmsnorm"+p.t(), 0)
		if err != nil {
			return nil, nil, err
		}
		return func() error {
			return p.d.Launch(f, [3]int{rows(), 1, 1}, [3]int{256, 1, 1}, 0, y, x, gain, int32(wide), l, l, a.Eps)
		}, nil, nil
	}
	f, err := p.fn("rmsnorm_heads"+p.t(), 0)
	if err != nil {
		return nil, nil, err
	}
	return func() error { // in place, on a copy
		if err := p.copyRows(y, x, l, rows()); err != nil {
			return err
		}
		return p.d.Launch(f, [3]int{rows(), wide / a.Width, 1}, [3]int{64, 1, 1}, 0, y, gain, int32(a.Width), l, a.Eps)
	}, nil, nil
}

func (p *program) copyRows(dst, src Ptr, l int32, rows int) error {
	return p.d.DtoD(dst, src, int64(rows)*int64(l)*int64(elementBits(p.act)/8))
}

func (p *program) rope(s *runtime.Step, x, y Ptr, l int32) (func() error, error) {
	a := s.Node.Attr.(model.RoPE)
	tb, ok := p.tables[&a.InvFreq[0]]
	if !ok {
		n := p.plan.KV.Pages * p.plan.KV.PageTokens
		if n == 0 && p.plan.Graph.Config != nil { // no cache: any position of the context
			n = p.plan.Graph.Config.Context
		}
		half := len(a.InvFreq)
		cos, sin := make([]float32, n*half), make([]float32, n*half)
		for i := range n {
			for j, f := range a.InvFreq {
				sn, cs := math.Sincos(float64(i) * f)
				cos[i*half+j], sin[i*half+j] = float32(cs)*a.Scale, float32(sn)*a.Scale
			}
		}
		if err := p.put(nil, &tb.cos, floats(cos)); err != nil {
			return nil, err
		}
		if err := p.put(nil, &tb.sin, floats(sin)); err != nil {
			return nil, err
		}
		p.tables[&a.InvFreq[0]] = tb
	}
	f, err := p.fn("rope"+p.t(), 0)
	if err != nil {
		return nil, err
	}
	pos := p.buffers[s.In[1]]
	heads := p.width(s.Node.Out) / a.HeadDim
	return func() error {
		if err := p.copyRows(y, x, l, p.rows); err != nil {
			return err
		}
		return p.d.Launch(f, [3]int{p.rows, heads, 1}, [3]int{32, 1, 1}, 0, y, tb.cos, tb.sin, pos, l, int32(a.HeadDim), int32(a.HeadDim), int32(0))
	}, nil
}
