package runtime

import (
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Estimate is the memory that a session of g would hold, with all weights dense: from
// the file's header alone, before anything is allocated. Sparse forms need less.
// Packing holds some more for a while: one matrix a thread at the most.
func Estimate(g *model.Graph, o Options) (Memory, error) {
	var m Memory
	if err := o.defaults(g); err != nil {
		return m, err
	}
	type use struct {
		w  *model.Weight
		op model.Op
	}
	seen := map[use]bool{}
	matrix := func(w *model.Weight, op model.Op) {
		if seen[use{w, op}] {
			return
		}
		seen[use{w, op}] = true
		rows, cols := w.Data.Dims()
		m.Weights = m.Weights.Add(denseBytes(rows, cols, o))
	}
	for _, n := range g.Nodes {
		switch {
		case n.Weight == nil:
		// A table that is also the head may be held in a form for either.
		case n.Op == model.OpLinear || n.Op == model.OpEmbedding || n.Op == model.OpConv:
			matrix(n.Weight, n.Op)
		default:
			_, c := n.Weight.Data.Dims()
			m.Weights.Values += 4 * int64(c)
		}
		if n.Bias != nil {
			_, c := n.Bias.Data.Dims()
			m.Weights.Values += 4 * int64(c)
		}
	}
	for _, c := range g.Constants {
		m.Weights.Values += int64(c.Len()) * int64(c.Elem.Size())
	}
	if g.Tensors() {
		return m, nil // activations depend on what is asked
	}
	p, err := newPlan(g, o, func(n *model.Node) (*Choice, error) {
		return &Choice{Kernel: Kernel{Op: model.OpLinear, Layout: sparse.LayoutDense, Weight: o.DType, Act: ActType(o.DType)}}, nil
	})
	if err != nil {
		return m, err
	}
	m.KVCache = int64(p.KV.Pages) * p.KV.PageBytes()
	// The arena, and another form of its activations.
	m.Workspace = 2 * 4 * int64(p.Arena)
	if g.Config != nil {
		m.Workspace += 4 * int64(g.Config.HeadDim) * int64(p.KV.Pages) * int64(p.KV.PageTokens) // rotations
	}
	return m, nil
}

// denseBytes is the size of a matrix in the type that weights run in.
func denseBytes(rows, cols int, o Options) sparse.Bytes {
	n := int64(rows) * int64(cols)
	b := sparse.Bytes{Values: int64(float64(n) * o.DType.Bits() / 8)}
	if o.DType == sparse.Int8 || o.DType == sparse.Int4 {
		groups := 1
		if o.Group > 0 {
			groups = (cols + o.Group - 1) / o.Group
		}
		b.Scales = 4 * int64(rows) * int64(groups)
	}
	return b
}

// DenseWeightBytes is the memory of g's weights, dense, in the type that o says, each
// held once: what sparse forms are measured against.
func DenseWeightBytes(g *model.Graph, o Options) (int64, error) {
	if err := o.defaults(g); err != nil {
		return 0, err
	}
	var total int64
	for _, w := range g.Weights {
		rows, cols := w.Data.Dims()
		if w.Rank1() {
			total += 4 * int64(rows) * int64(cols)
			continue
		}
		total += denseBytes(rows, cols, o).Total()
	}
	return total, nil
}

// Total is all of it.
func (m Memory) Total() int64 { return m.Weights.Total() + m.KVCache + m.Workspace }
