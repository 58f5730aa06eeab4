package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Choice says which form a weight runs in and why.
type Choice struct {
	Name       string      `json:"name"` // of the weight
	Rows       int         `json:"rows"`
	Cols       int         `json:"cols"`
	Sparsity   float64     `json:"sparsity"`
	Kernel     Kernel      `json:"-"`
	Layout     string      `json:"layout"`
	DType      string      `json:"dtype"`
	Reason     string      `json:"reason"`
	Candidates []Candidate `json:"candidates,omitempty"`
	Bytes      int64       `json:"bytes"` // packed
	// Packed are the parts of Bytes.
	Packed sparse.Bytes `json:"packed"`
}

// Candidate is a form the planner could have chosen, with its measured times.
type Candidate struct {
	Layout sparse.Layout `json:"layout"`
	// Decode is the time for one row of activations, Prefill for PrefillRows.
	Decode  time.Duration `json:"decode_ns"`
	Prefill time.Duration `json:"prefill_ns"`
	// Batch is the time for BatchRows rows, with Options.Batch.
	Batch     time.Duration `json:"batch_ns,omitempty"`
	BatchRows int           `json:"batch_rows,omitempty"`
}

// PrefillRows is the batch that candidates are timed at for the prefill phase.
const PrefillRows = 64

// minSparsity is where the planner starts to look at unstructured forms: below,
// mask and index bytes eat what the zeros save.
const minSparsity = 0.30

// planner chooses the kernel of every weight, once per weight.
type planner struct {
	ctx     context.Context
	b       Backend
	o       *Options
	table   *Table // nil: the backend cannot be timed
	choices map[*model.Weight]*Choice
	order   []*Choice
	count   map[*model.Weight]sparse.Count // from the scan
}

// ActType is the type that activations are multiplied in with weights of type w.
func ActType(w sparse.DType) sparse.DType {
	if w == sparse.Int8 || w == sparse.Int4 {
		return sparse.Int8
	}
	return sparse.F32
}

func (pl *planner) choose(n *model.Node) (*Choice, error) {
	if c, ok := pl.choices[n.Weight]; ok {
		return c, nil
	}
	c, err := pl.decide(n)
	if err != nil {
		return nil, err
	}
	c.Layout, c.DType = c.Kernel.Layout.String(), c.Kernel.Weight.String()
	pl.choices[n.Weight] = c
	pl.order = append(pl.order, c)
	return c, nil
}

func (pl *planner) decide(n *model.Node) (*Choice, error) {
	rows, cols := n.Weight.Data.Dims()
	c := &Choice{Name: n.Weight.Name, Rows: rows, Cols: cols}
	kernel := func(l sparse.Layout) Kernel {
		k := Kernel{Op: pl.kernelOp(n), Layout: l, Weight: pl.o.DType, Act: ActType(pl.o.DType)}
		if k.Weight.Quantised() {
			k.Group = pl.o.Group
		}
		if k.Op == model.OpConv {
			k.Window, k.Stride = convWindow(n)
		}
		return k
	}
	c.Kernel = kernel(sparse.LayoutDense)
	if !pl.b.Has(c.Kernel) {
		return nil, fmt.Errorf("runtime: %q: %s on backend %s: %w", n.Weight.Name, c.Kernel, pl.b.Name(), ErrUnsupported)
	}
	cnt := pl.count[n.Weight]
	c.Sparsity = cnt.Sparsity()
	if n.Op == model.OpEmbedding {
		c.Reason = "rows are looked up, not multiplied"
		return c, nil
	}
	if pl.o.Sparse == SparseOff {
		c.Reason = "sparse forms are off"
		return c, nil
	}
	var layouts []sparse.Layout
	for _, l := range sparse.Layouts[1:] {
		switch {
		case l == sparse.LayoutNM24 && !cnt.Hold24, c.Sparsity < minSparsity && pl.o.Sparse != SparseForce:
		case pl.o.Sparse == SparseForce && l != pl.o.Layout:
		case !pl.b.Has(kernel(l)):
		default:
			layouts = append(layouts, l)
		}
	}
	if len(layouts) > 0 {
		zeros, err := zeroPoints(n.Weight.Data, pl.o.DType, pl.o.Group)
		if err != nil {
			return nil, err
		}
		if zeros {
			c.Reason = "has zero points: only dense runs them as stored"
			return c, nil
		}
	}
	if len(layouts) == 0 {
		c.Reason = fmt.Sprintf("%.0f %% zeros", 100*c.Sparsity)
		if pl.o.Sparse == SparseForce && pl.o.Layout != sparse.LayoutDense {
			c.Reason = fmt.Sprintf("%v asked for, but the weight does not have that pattern", pl.o.Layout)
		}
		return c, nil
	}
	if pl.o.Sparse == SparseForce {
		c.Kernel = kernel(layouts[0])
		c.Reason = "asked for"
		return c, nil
	}
	if pl.table == nil {
		// Nothing can be measured: only 2:4 never costs more bytes or work than dense.
		if layouts[0] == sparse.LayoutNM24 {
			c.Kernel = kernel(sparse.LayoutNM24)
			c.Reason = "2:4 holds; not measured on this backend"
		} else {
			c.Reason = "not measured on this backend"
		}
		return c, nil
	}
	return c, pl.measure(c, kernel, layouts)
}

// zeroPoints reports whether m is dense, stored in t = int4 with zero points, and runs so in
// these groups. Sparse forms have none, as a pruned weight's code would not be 0: they would
// round m again.
func zeroPoints(m sparse.Matrix, t sparse.DType, group int) (bool, error) {
	if t != sparse.Int4 || m.DType() != t || m.Layout() != sparse.LayoutDense {
		return false, nil
	}
	_, q, err := sparse.ZeroCodes(m, t, group)
	return q != nil, err
}

// ConvPositions is the number of output positions that a convolution's candidates
// are timed over, as one square image of windows of Kernel.Window, or 1x1.
const ConvPositions = 32 * 32

// convWindow is Kernel.Window and Stride of a convolution.
func convWindow(n *model.Node) (side, stride int) {
	s := n.Weight.Shape
	a, ok := n.Attr.(*model.TensorOp)
	if !ok || len(s) != 4 || s[2] != s[3] || s[2] == 1 {
		return 0, 0
	}
	stride = 1
	for i, v := range a.Attrs["strides"].Ints {
		if i > 0 && int(v) != stride || v < 1 || v > int64(s[2]) {
			return 0, 0
		}
		stride = int(v)
	}
	for _, v := range a.Attrs["dilations"].Ints {
		if v != 1 {
			return 0, 0
		}
	}
	return s[2], stride
}

// kernelOp is what multiplies a node's weight: a Linear, or a convolution where the
// backend has kernels of its own for it.
func (pl *planner) kernelOp(n *model.Node) model.Op {
	k := Kernel{Op: model.OpConv, Layout: sparse.LayoutDense, Weight: pl.o.DType, Act: ActType(pl.o.DType)}
	if n.Op == model.OpConv && pl.b.Has(k) {
		return model.OpConv
	}
	return model.OpLinear
}

// cost is what the planner minimises: for a language model the time of one
// generated and one prompt token, for other networks that of one row of a batch
// and of a single row. With Options.Batch a row of such a batch counts too.
func (t Candidate) cost() time.Duration {
	c := t.Decode + t.Prefill/PrefillRows
	if t.BatchRows > 1 {
		c += t.Batch / time.Duration(t.BatchRows)
	}
	return c
}

func (pl *planner) measure(c *Choice, kernel func(sparse.Layout) Kernel, layouts []sparse.Layout) error {
	density := 1 - c.Sparsity
	for _, l := range append([]sparse.Layout{sparse.LayoutDense}, layouts...) {
		cand := Candidate{Layout: l}
		var err error
		if kernel(l).Op == model.OpConv {
			t, err := pl.table.Time(pl.ctx, kernel(l), c.Rows, c.Cols, density, ConvPositions)
			if err != nil {
				return err
			}
			cand.Decode, cand.Prefill = t, t
			c.Candidates = append(c.Candidates, cand)
			continue
		}
		if cand.Decode, err = pl.table.Time(pl.ctx, kernel(l), c.Rows, c.Cols, density, 1); err != nil {
			return err
		}
		if cand.Prefill, err = pl.table.Time(pl.ctx, kernel(l), c.Rows, c.Cols, density, PrefillRows); err != nil {
			return err
		}
		if rows := pl.o.Batch; rows > 1 {
			cand.BatchRows = rows
			if cand.Batch, err = pl.table.Time(pl.ctx, kernel(l), c.Rows, c.Cols, density, rows); err != nil {
				return err
			}
		}
		c.Candidates = append(c.Candidates, cand)
	}
	best := Pick(c.Candidates)
	c.Kernel = kernel(c.Candidates[best].Layout)
	d, b := c.Candidates[0], c.Candidates[best]
	if best == 0 {
		s := c.Candidates[1]
		for _, x := range c.Candidates[2:] {
			if x.cost() < s.cost() {
				s = x
			}
		}
		c.Reason = fmt.Sprintf("dense is faster here: %v takes %.2fx its time to decode, %.2fx to prefill", s.Layout, ratio(s.Decode, d.Decode), ratio(s.Prefill, d.Prefill))
		return nil
	}
	c.Reason = fmt.Sprintf("measured %.2fx dense in decode, %.2fx in prefill", ratio(d.Decode, b.Decode), ratio(d.Prefill, b.Prefill))
	if b.BatchRows > 1 {
		c.Reason += fmt.Sprintf(", %.2fx in a batch of %d", ratio(d.Batch, b.Batch), b.BatchRows)
	}
	return nil
}

// Pick is the planner's rule: the candidate of least cost, never one that costs more
// than dense, which stands first, nor one that decodes slower, alone or in a batch.
func Pick(cands []Candidate) int {
	best := 0
	for i, c := range cands {
		if c.Decode <= cands[0].Decode && c.Batch <= cands[0].Batch && c.cost() < cands[best].cost() {
			best = i
		}
	}
	return best
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(max(b, 1)) }

// scan counts the zeros of the weights that Linears multiply, in parallel. A
// dense weight whose first rows show few zeros is not read to its end.
func (pl *planner) scan(g *model.Graph, threads int) error {
	pl.count = map[*model.Weight]sparse.Count{}
	if pl.o.Sparse == SparseOff {
		return nil
	}
	var todo []*model.Weight
	for _, n := range g.Nodes {
		if _, ok := pl.count[n.Weight]; (n.Op == model.OpLinear || n.Op == model.OpConv && n.Weight != nil) && !ok {
			pl.count[n.Weight] = sparse.Count{}
			todo = append(todo, n.Weight)
		}
	}
	type result struct {
		w   *model.Weight
		c   sparse.Count
		err error
	}
	jobs, done := make(chan *model.Weight), make(chan result)
	for range threads {
		go func() {
			for w := range jobs {
				c, err := scanWeight(w.Data)
				done <- result{w, c, err}
			}
		}()
	}
	go func() {
		for _, w := range todo {
			jobs <- w
		}
		close(jobs)
	}()
	failed := map[*model.Weight]error{}
	for range todo {
		r := <-done
		pl.count[r.w] = r.c
		if r.err != nil {
			failed[r.w] = r.err
		}
	}
	for _, w := range todo { // the first in the order of the graph: one line, the same every time
		if err := failed[w]; err != nil {
			return err
		}
	}
	return nil
}

const sampleRows = 16

func scanWeight(m sparse.Matrix) (sparse.Count, error) {
	rows, cols := m.Dims()
	if m.Layout() == sparse.LayoutDense && rows > 4*sampleRows && cols > 0 {
		var c sparse.Count
		buf := make([]float32, cols)
		for i := range sampleRows {
			if err := m.ReadRows(buf, i*rows/sampleRows); err != nil {
				return c, err
			}
			s, _ := sparse.CountZeros(sparse.NewDense(1, cols, buf))
			c.Weights += s.Weights
			c.Zeros += s.Zeros
		}
		if c.Sparsity() < minSparsity/2 {
			return c, nil
		}
	}
	return sparse.CountZeros(m)
}
