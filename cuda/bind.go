package cuda

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// bind checks a batch's numbers and copies them to the device; kernels look at no
// index twice.
func (p *program) bind(in, out []runtime.View) error {
	g := p.plan.Graph
	if len(in) != len(g.Inputs) || len(out) != len(g.Outputs) {
		return fmt.Errorf("cuda: want %d inputs and %d outputs, got %d and %d: %w", len(g.Inputs), len(g.Outputs), len(in), len(out), runtime.ErrShape)
	}
	var err error
	if g.Config != nil {
		err = p.bindTokens(in)
	} else {
		err = p.bindFloats(in)
	}
	if err != nil {
		return err
	}
	for i, o := range g.Outputs {
		rows := p.rows
		if p.plan.Buffers[p.plan.Outputs[i]].Selected {
			rows = p.selected
		}
		if w := p.width(o); out[i].Rows != rows || out[i].Cols != w || len(out[i].F32) != rows*w {
			return fmt.Errorf("cuda: output %d: want [%d %d], got [%d %d] and %d numbers: %w", i, rows, w, out[i].Rows, out[i].Cols, len(out[i].F32), runtime.ErrShape)
		}
	}
	return nil
}

func (p *program) bindFloats(in []runtime.View) error {
	p.rows = in[0].Rows
	if p.rows < 1 || p.rows > p.plan.MaxRows {
		return fmt.Errorf("cuda: want 1..%d rows, got %d: %w", p.plan.MaxRows, p.rows, runtime.ErrShape)
	}
	for i, v := range in {
		w := p.width(p.plan.Graph.Inputs[i])
		if v.Rows != p.rows || v.Cols != w || len(v.F32) != v.Rows*v.Cols {
			return fmt.Errorf("cuda: input %d: want [%d %d], got [%d %d] and %d numbers: %w", i, p.rows, w, v.Rows, v.Cols, len(v.F32), runtime.ErrShape)
		}
		var b []byte
		for r := range v.Rows {
			for c := range ld(w) {
				var x float32
				if c < w {
					x = v.F32[r*w+c]
				}
				if p.act == sparse.F16 {
					b = binary.LittleEndian.AppendUint16(b, sparse.F32ToF16(x))
				} else {
					b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
				}
			}
		}
		if err := p.d.HtoD(p.buffers[p.plan.Inputs[i]], b); err != nil {
			return err
		}
	}
	return nil
}

func (p *program) bindTokens(in []runtime.View) error {
	cfg := p.plan.Graph.Config
	tokens, pos, seq, tables, sel := in[model.InTokens].I32, in[model.InPos].I32, in[model.InSeq].I32, in[model.InTables], in[model.InSelect].I32
	p.rows, p.selected = len(tokens), len(sel)
	switch {
	case p.rows < 1 || p.rows > p.plan.MaxRows || len(pos) != p.rows || len(seq) != p.rows:
		return fmt.Errorf("cuda: want 1..%d rows of tokens, positions and sequences, got %d, %d, %d: %w", p.plan.MaxRows, len(tokens), len(pos), len(seq), runtime.ErrShape)
	case p.selected > p.plan.MaxSelect:
		return fmt.Errorf("cuda: want at most %d selected rows, got %d: %w", p.plan.MaxSelect, p.selected, runtime.ErrShape)
	case tables.Rows < 0 || tables.Cols < 0 || len(tables.I32) != tables.Rows*tables.Cols || tables.Rows > p.plan.MaxRows || tables.Cols > p.maxPages:
		return fmt.Errorf("cuda: page tables [%d %d] of %d numbers: %w", tables.Rows, tables.Cols, len(tables.I32), runtime.ErrShape)
	}
	for i, t := range tokens {
		if t < 0 || int(t) >= cfg.Vocab {
			return fmt.Errorf("cuda: token %d: want 0..%d: %w", t, cfg.Vocab-1, runtime.ErrShape)
		}
		if seq[i] < 0 || int(seq[i]) >= tables.Rows {
			return fmt.Errorf("cuda: sequence %d of %d: %w", seq[i], tables.Rows, runtime.ErrShape)
		}
		if pos[i] < 0 || int(pos[i]) >= tables.Cols*p.plan.KV.PageTokens {
			return fmt.Errorf("cuda: position %d in %d pages of %d tokens: %w", pos[i], tables.Cols, p.plan.KV.PageTokens, runtime.ErrContext)
		}
		for k := range int(pos[i])/p.plan.KV.PageTokens + 1 {
			page := tables.I32[int(seq[i])*tables.Cols+k]
			if page < 0 || int(page) >= p.plan.KV.Pages {
				return fmt.Errorf("cuda: page %d of %d: %w", page, p.plan.KV.Pages, runtime.ErrShape)
			}
			p.usedPages[page] = true
		}
	}
	for _, r := range sel {
		if r < 0 || int(r) >= p.rows {
			return fmt.Errorf("cuda: selected row %d of %d: %w", r, p.rows, runtime.ErrShape)
		}
	}
	// Tables get one stride, so that a captured graph's parameters stay true.
	wide := make([]int32, tables.Rows*p.maxPages)
	for r := range tables.Rows {
		copy(wide[r*p.maxPages:], tables.I32[r*tables.Cols:(r+1)*tables.Cols])
	}
	for i, v := range [][]int32{tokens, pos, seq, wide, sel} {
		if err := p.d.HtoD(p.buffers[p.plan.Inputs[i]], ints(v)); err != nil {
			return err
		}
	}
	return nil
}

func ints(v []int32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, uint32(x))
	}
	return b
}
