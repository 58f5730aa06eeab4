package cuda

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// gemvRows is the largest batch of the row-major kernels; larger ones run in slices.
const gemvRows = 8

// linear lowers a Linear to the tile kernels or the row-major ones, as its weight is
// kept. Linears of one weight share it.
func (p *program) linear(s *runtime.Step, x, y Ptr, rows func() int) (func() error, *weight, error) {
	n := s.Node
	w, err := p.load(s)
	if err != nil {
		return nil, nil, err
	}
	bias, err := p.vector(n.Bias)
	if err != nil {
		return nil, nil, err
	}
	c := linearCall{p: p, w: w, x: x, y: y, bias: bias, ldx: int32(ld(w.in)), ldy: int32(ld(w.rows))}
	if s.Residual >= 0 {
		c.res, c.ldr = p.buffers[s.Residual], int32(ld(w.rows))
	}
	if w.tiled {
		t := &tileCall{linearCall: c}
		if err := t.find(); err != nil {
			return nil, nil, err
		}
		return func() error { return t.launch(rows()) }, w, nil
	}
	if err := c.find(); err != nil {
		return nil, nil, err
	}
	return func() error { return c.launch(rows()) }, w, nil
}

// load uploads a Linear's weight in the form it runs in, once.
func (p *program) load(s *runtime.Step) (*weight, error) {
	if w := p.linears[s.Node.Weight]; w != nil {
		return w, nil
	}
	m, k, group := s.Node.Weight.Data, s.Kernel, p.group(s)
	_, in := m.Dims()
	var w *weight
	var err error
	if p.tiled(k, in, group) {
		w, err = p.uploadTiles(m, k, group)
	} else {
		w, err = p.upload(m, k.Layout, k.Weight, group, padding(k.Layout, k.Weight))
	}
	if err != nil {
		return nil, err
	}
	p.linears[s.Node.Weight] = w
	return w, nil
}

func (p *program) group(s *runtime.Step) int {
	if s.Kernel.Weight == sparse.Int8 {
		return 0
	}
	return p.plan.Group
}

// multiplies finds a Linear of the same weight: the head of a model whose embedding
// it shares.
func (p *program) multiplies(w *model.Weight) *runtime.Step {
	for i := range p.plan.Steps {
		if s := &p.plan.Steps[i]; s.Node.Op == model.OpLinear && s.Node.Weight == w {
			return s
		}
	}
	return nil
}

// linearCall is a Linear on the row-major kernels.
type linearCall struct {
	p             *program
	w             *weight
	x, y, bias    Ptr
	res           Ptr
	ldx, ldy, ldr int32
	gemv          map[int]Func // by rows that the kernel holds in registers
}

func (c *linearCall) find() error {
	p, w := c.p, c.w
	c.gemv = map[int]Func{}
	sizes := []int{1, 4, 8}
	name := func(b int) string { return fmt.Sprintf("gemv_%v%s_b%d", w.t, p.t(), b) }
	switch w.layout {
	case sparse.LayoutNM24:
		name = func(b int) string { return fmt.Sprintf("gemv_nm24_%v%s_b%d", w.t, p.t(), b) }
	case sparse.LayoutCSR:
		sizes = []int{1, 8}
		name = func(b int) string { return fmt.Sprintf("spmv_csr_%v%s_c%d_b%d", w.t, p.t(), w.colBits, b) }
	}
	for _, b := range sizes {
		f, err := p.fn(name(b), 0)
		if err != nil {
			return err
		}
		c.gemv[b] = f
	}
	return nil
}

func (c *linearCall) launch(rows int) error {
	if c.w.rows == 0 {
		return nil
	}
	for r := 0; r < rows; r += gemvRows {
		if err := c.slice(r, min(gemvRows, rows-r)); err != nil {
			return err
		}
	}
	return nil
}

// slice runs up to gemvRows rows from row r on.
func (c *linearCall) slice(r, rows int) error {
	p, w := c.p, c.w
	b := 1
	for b < rows || c.gemv[b] == nil {
		b++
	}
	es := Ptr(elementBits(p.act) / 8)
	at := func(a Ptr, l int32) Ptr {
		if a == 0 {
			return 0
		}
		return a + Ptr(r)*Ptr(l)*es
	}
	y, x, res := at(c.y, c.ldy), at(c.x, c.ldx), at(c.res, c.ldr)
	var scale, gscale Ptr
	if w.t == sparse.Int4 {
		gscale = w.scale
	} else {
		scale = w.scale
	}
	n, out, in := int32(rows), int32(w.rows), int32(w.in)
	block := [3]int{128, 1, 1}
	switch w.layout {
	case sparse.LayoutCSR:
		return p.d.Launch(c.gemv[b], [3]int{blocks(w.rows, 4), 1, 1}, block, 0, y, x, w.rowptr, w.meta, w.values, scale, c.bias, res,
			n, out, c.ldy, c.ldx, c.ldr, int32(0))
	case sparse.LayoutNM24:
		return p.d.Launch(c.gemv[b], [3]int{blocks(w.rows, 8), 1, 1}, block, 0, y, x, w.values, w.meta, gscale, scale, c.bias, res,
			n, out, in, c.ldy, c.ldx, int32(w.ld), int32(w.ldm), int32(w.lds), int32(w.shift), c.ldr, int32(0))
	}
	return p.d.Launch(c.gemv[b], [3]int{blocks(w.rows, 8), 1, 1}, block, 0, y, x, w.values, gscale, scale, c.bias, res,
		n, out, in, c.ldy, c.ldx, int32(w.ld), int32(w.lds), int32(w.shift), c.ldr, int32(0))
}
