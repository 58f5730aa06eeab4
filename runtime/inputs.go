package runtime

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
)

// InputKind is what an input of a plan is for, as the steps that read it say.
type InputKind uint8

// The kinds.
const (
	InputUnused InputKind = iota
	InputFloats
	InputTokens
	InputPositions
	InputSequences
	InputTables
	InputSelect
)

// String names the kind in errors.
func (k InputKind) String() string {
	return [...]string{"unused", "floats", "tokens", "positions", "sequences", "tables", "select"}[k]
}

// Input describes one input of a plan.
type Input struct {
	Kind  InputKind
	Width int // of floats
	Limit int // of tokens: the vocabulary
}

// Describe tells what each of the plan's inputs is for.
func (p *Plan) Describe() []Input {
	out := make([]Input, len(p.Inputs))
	at := map[int]int{} // buffer -> input
	for i, b := range p.Inputs {
		at[b] = i
		out[i].Width = p.Graph.Values[p.Graph.Inputs[i]].Width
	}
	for _, s := range p.Steps {
		for slot, b := range s.In {
			i, ok := at[b]
			if !ok {
				continue
			}
			k := InputFloats
			switch s.Node.Op {
			case model.OpEmbedding:
				k = InputTokens
				out[i].Limit, _ = s.Node.Weight.Data.Dims()
			case model.OpRoPE:
				if slot == 1 {
					k = InputPositions
				}
			case model.OpAttention:
				if slot > 2 {
					k = [...]InputKind{InputPositions, InputSequences, InputTables}[slot-3]
				}
			case model.OpSelect:
				if slot == 1 {
					k = InputSelect
				}
			}
			out[i].Kind = k
		}
		if i, ok := at[s.Residual]; ok && s.Residual >= 0 {
			out[i].Kind = InputFloats
		}
	}
	return out
}

// Batch is what a checked set of views amounts to.
type Batch struct {
	Rows, Selected       int
	Positions, Sequences []int32
	Tables               View
	Single               bool // no sequence has two rows: decode
}

// Check validates the views of one Run against the plan: shapes, and every number
// that a kernel uses as an index. Errors wrap ErrShape, ErrInput or ErrContext.
func (p *Plan) Check(inputs []Input, in, out []View) (Batch, error) {
	b := Batch{Rows: -1}
	if len(in) != len(inputs) || len(out) != len(p.Outputs) {
		return b, fmt.Errorf("runtime: want %d inputs and %d outputs, got %d and %d: %w", len(inputs), len(p.Outputs), len(in), len(out), ErrShape)
	}
	for i, d := range inputs {
		v := in[i]
		have, cols := len(v.I32), 1
		switch d.Kind {
		case InputUnused:
			continue
		case InputFloats:
			have, cols = len(v.F32), d.Width
		case InputTables:
			cols = v.Cols
		}
		if v.Rows < 0 || v.Cols < 0 || v.Cols != cols || have != v.Rows*v.Cols {
			return b, fmt.Errorf("runtime: input %d (%v): want [rows %d], got [%d %d] and %d numbers: %w", i, d.Kind, cols, v.Rows, v.Cols, have, ErrShape)
		}
		switch d.Kind {
		case InputSelect:
			b.Selected = v.Rows
		case InputTables:
			b.Tables = v
		default:
			if b.Rows >= 0 && v.Rows != b.Rows {
				return b, fmt.Errorf("runtime: input %d (%v): want %d rows, got %d: %w", i, d.Kind, b.Rows, v.Rows, ErrShape)
			}
			b.Rows = v.Rows
		}
	}
	if b.Rows < 1 || b.Rows > p.MaxRows || b.Selected > p.MaxSelect {
		return b, fmt.Errorf("runtime: want 1..%d rows and at most %d selected, got %d and %d: %w", p.MaxRows, p.MaxSelect, b.Rows, b.Selected, ErrShape)
	}
	if hasTables(inputs) && (b.Tables.Rows < 1 || b.Tables.Rows > p.MaxRows || b.Tables.Cols < 1) {
		return b, fmt.Errorf("runtime: KV tables [%d %d] for %d rows: %w", b.Tables.Rows, b.Tables.Cols, b.Rows, ErrShape)
	}
	for i, d := range inputs {
		limit := 0
		switch d.Kind {
		case InputTokens:
			limit = d.Limit
		case InputSelect:
			limit = b.Rows
		case InputSequences:
			b.Sequences = in[i].I32
			limit = b.Tables.Rows
		case InputPositions:
			b.Positions = in[i].I32
			limit = p.positions()
		default:
			continue
		}
		for j, v := range in[i].I32 {
			if v < 0 || int(v) >= limit {
				err := fmt.Errorf("runtime: %v[%d]: want 0..%d, got %d: %w", d.Kind, j, limit-1, v, ErrInput)
				if d.Kind == InputPositions {
					err = fmt.Errorf("%w: %w", err, ErrContext)
				}
				return b, err
			}
		}
	}
	for i, o := range p.Outputs {
		if i > 0 && out[i].Unwanted() {
			continue
		}
		rows, w := b.Rows, p.Graph.Values[p.Graph.Outputs[i]].Width
		if p.Buffers[o].Selected {
			rows = b.Selected
		}
		if v := out[i]; v.Rows != rows || v.Cols != w || len(v.F32) != rows*w {
			return b, fmt.Errorf("runtime: output %d: want [%d %d], got [%d %d] and %d numbers: %w", i, rows, w, v.Rows, v.Cols, len(v.F32), ErrShape)
		}
	}
	return b, p.checkPages(&b)
}

func hasTables(inputs []Input) bool {
	for _, d := range inputs {
		if d.Kind == InputTables {
			return true
		}
	}
	return false
}

// positions is how many positions a sequence can have.
func (p *Plan) positions() int {
	switch {
	case p.KV.Pages > 0:
		return p.KV.Pages * p.KV.PageTokens
	case p.Graph.Config != nil:
		return p.Graph.Config.Context
	}
	return 1 << 20
}

// checkPages validates every page that a row of the batch looks back on.
func (p *Plan) checkPages(b *Batch) error {
	if b.Sequences == nil {
		b.Single = b.Rows == 1
		return nil
	}
	t := b.Tables
	b.Single = true
	checked := make([]int, t.Rows) // pages of each sequence
	met := make([]bool, t.Rows)
	for i, s := range b.Sequences {
		b.Single = b.Single && !met[s]
		met[s] = true
		need := int(b.Positions[i])/p.KV.PageTokens + 1
		if need > t.Cols {
			return fmt.Errorf("runtime: positions[%d]: want 0..%d in %d pages, got %d: %w: %w", i, t.Cols*p.KV.PageTokens-1, t.Cols, b.Positions[i], ErrInput, ErrContext)
		}
		for ; checked[s] < need; checked[s]++ {
			if page := t.I32[int(s)*t.Cols+checked[s]]; page < 0 || int(page) >= p.KV.Pages {
				return fmt.Errorf("runtime: tables[%d,%d]: want page 0..%d, got %d: %w", s, checked[s], p.KV.Pages-1, page, ErrInput)
			}
		}
	}
	return nil
}
