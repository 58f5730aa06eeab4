package cpu

import (
	"fmt"

	"github.com/sparserun/sparserun/runtime"
)

// role is what an input of the plan is for, as the steps that read it say.
type role struct {
	kind  roleKind
	buf   int
	width int // of float inputs
	limit int // tokens: vocabulary
}

type roleKind uint8

const (
	roleUnused roleKind = iota
	roleFloat
	roleToken
	rolePosition
	roleSequence
	roleTable
	roleSelect
)

func (k roleKind) String() string {
	return [...]string{"unused", "float", "tokens", "positions", "sequences", "tables", "select"}[k]
}

// bind checks a batch's views and makes their numbers the program's inputs.
// Nothing after it looks at an index twice.
func (p *program) bind(in, out []runtime.View) error {
	if len(in) != len(p.roles) || len(out) != len(p.outs) {
		return fmt.Errorf("cpu: want %d inputs and %d outputs, got %d and %d: %w", len(p.roles), len(p.outs), len(in), len(out), runtime.ErrShape)
	}
	rows, selected := -1, 0
	var pos, seq []int32
	var tables runtime.View
	for i, r := range p.roles {
		v := in[i]
		if r.kind == roleUnused {
			continue
		}
		have, cols := len(v.I32), 1
		switch r.kind {
		case roleFloat:
			have, cols = len(v.F32), r.width
		case roleTable:
			cols = v.Cols
		}
		if v.Rows < 0 || v.Cols != cols || have != v.Rows*v.Cols {
			return fmt.Errorf("cpu: input %d (%v): want [rows %d], got [%d %d] and %d numbers: %w", i, r.kind, cols, v.Rows, v.Cols, have, runtime.ErrShape)
		}
		switch r.kind {
		case roleSelect:
			selected = v.Rows
		case roleTable:
			tables = v
		default:
			if rows < 0 {
				rows = v.Rows
			}
			if v.Rows != rows {
				return fmt.Errorf("cpu: input %d (%v): want %d rows, got %d: %w", i, r.kind, rows, v.Rows, runtime.ErrShape)
			}
		}
	}
	if rows < 1 || rows > p.plan.MaxRows {
		return fmt.Errorf("cpu: want 1..%d rows, got %d: %w", p.plan.MaxRows, rows, runtime.ErrShape)
	}
	if selected > p.plan.MaxSelect {
		return fmt.Errorf("cpu: want at most %d selected rows, got %d: %w", p.plan.MaxSelect, selected, runtime.ErrShape)
	}
	for i, r := range p.roles {
		v := in[i]
		var err error
		switch r.kind {
		case roleFloat:
			copy(p.bufs[r.buf], v.F32)
			continue
		case roleToken:
			err = inRange(r.kind, v.I32, r.limit)
		case rolePosition:
			pos = v.I32
			if err = inRange(r.kind, v.I32, p.positions()); err != nil {
				err = fmt.Errorf("%w: %w", err, runtime.ErrContext)
			}
		case roleSequence:
			seq = v.I32
		case roleSelect:
			err = inRange(r.kind, v.I32, rows)
		}
		if err != nil {
			return fmt.Errorf("cpu: input %d: %w", i, err)
		}
		p.ints[r.buf] = v.I32
	}
	p.rows, p.selected, p.decode = rows, selected, rows == 1
	for i, o := range p.outs {
		if i > 0 && out[i].Unwanted() {
			continue
		}
		if n := p.rowsOf(o.selected); out[i].Rows != n || out[i].Cols != o.width || len(out[i].F32) != n*o.width {
			return fmt.Errorf("cpu: output %d: want [%d %d], got [%d %d] and %d numbers: %w", i, n, o.width, out[i].Rows, out[i].Cols, len(out[i].F32), runtime.ErrShape)
		}
		if o.direct {
			p.bufs[o.buf] = out[i].F32
		}
	}
	if p.cache != nil {
		if err := p.cache.bind(pos, seq, tables); err != nil {
			return err
		}
		p.decode = p.cache.single
	}
	for _, t := range p.ropes {
		t.fill(pos)
	}
	return nil
}

// unbind forgets the caller's memory.
func (p *program) unbind() {
	clear(p.ints)
	for _, o := range p.outs {
		if o.direct {
			p.bufs[o.buf] = nil
		}
	}
}

// positions is how many positions a sequence can have.
func (p *program) positions() int {
	if p.cache != nil {
		return p.plan.KV.Pages * p.plan.KV.PageTokens
	}
	if p.plan.Graph.Config != nil {
		return p.plan.Graph.Config.Context
	}
	return 1 << 20
}

func inRange(kind roleKind, x []int32, limit int) error {
	for i, v := range x {
		if v < 0 || int(v) >= limit {
			return fmt.Errorf("%v[%d]: want 0..%d, got %d: %w", kind, i, limit-1, v, runtime.ErrInput)
		}
	}
	return nil
}
