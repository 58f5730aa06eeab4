package prune

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Channels of a layer can be renamed where all that writes them and all that reads
// them is known: the hidden channels of the MLP (rows of gate and up, columns of
// down) and the channels of a value head (rows of v, columns of o in every query
// head that reads it). The model computes the same, and an N:M pattern along the
// columns of down and o may lose less: large weights that share a group are dealt
// to different ones (channel permutation: apex ASP; Zhang et al. 2024, RIA).

// permute reorders the channels of all layers for the pattern, by Wanda scores
// from the dense model's activations.
func (r *run) permute(c Calib, p NM) error {
	f, layers, err := r.openFlow(c)
	if err != nil {
		return err
	}
	for _, s := range layers {
		parts, err := partsOf(f.nodes(s))
		if err != nil {
			return err
		}
		if err := f.x.load(f.nodes(s)); err != nil {
			return err
		}
		groups := []group{{input: parts.o.In[0]}, {input: parts.down.In[0]}}
		first := slices.Index(r.g.Nodes, parts.down)
		grams, err := f.collect(r.ctx, span{s.lo, first}, groups, false)
		if err != nil {
			return err
		}
		if err := r.permuteLayer(f, parts, grams, p); err != nil {
			return err
		}
		// The order inside a layer does not show outside: the dense weights serve on.
		if err := f.advance(r.ctx, s.hi); err != nil {
			return err
		}
		f.x.drop(f.nodes(s))
	}
	return nil
}

func (r *run) permuteLayer(f *flow, parts part, grams []*gram, p NM) error {
	pool := f.x.pool
	mine := func(nodes ...*model.Node) bool { // all to be rewritten anyway
		for _, n := range nodes {
			if !slices.Contains(r.targets, n.Weight) {
				return false
			}
		}
		return true
	}
	if mine(parts.gate, parts.up, parts.down) {
		d := grams[1].d
		order := dealColumns(pool, scores(f.x.weights[parts.down.Weight], grams[1]), d, p)
		for _, n := range []*model.Node{parts.gate, parts.up} {
			reorder(n.Weight, order, nil)
			if err := reorderBias(n, order); err != nil {
				return err
			}
		}
		reorder(parts.down.Weight, nil, order)
	}
	if !mine(parts.v, parts.o) {
		return nil
	}
	a := r.attentionAfter(parts.v)
	per, hd := a.Heads/a.KVHeads, a.HeadDim
	s := scores(f.x.weights[parts.o.Weight], grams[0])
	rows := len(s) / grams[0].d
	vOrder, oOrder := make([]int, 0, a.KVHeads*hd), make([]int, a.Heads*hd)
	for kv := range a.KVHeads {
		// Every query head sees the same order: its columns are more rows to count.
		stack := make([]float32, 0, per*rows*hd)
		for h := kv * per; h < (kv+1)*per; h++ {
			for row := range rows {
				stack = append(stack, s[row*grams[0].d+h*hd:row*grams[0].d+(h+1)*hd]...)
			}
		}
		// A group of M may not reach into the next head.
		order := identity(hd)
		if hd%p.Of == 0 {
			order = dealColumns(pool, stack, hd, p)
		}
		for i, c := range order {
			vOrder = append(vOrder, kv*hd+c)
			for h := kv * per; h < (kv+1)*per; h++ {
				oOrder[h*hd+i] = h*hd + c
			}
		}
	}
	reorder(parts.v.Weight, vOrder, nil)
	reorder(parts.o.Weight, nil, oOrder)
	return reorderBias(parts.v, vOrder)
}

// attentionAfter is the attention that reads n's output as its values.
func (r *run) attentionAfter(n *model.Node) model.Attention {
	for _, u := range r.g.Nodes {
		if u.Op == model.OpAttention && u.In[2] == n.Out {
			return u.Attr.(model.Attention)
		}
	}
	return model.Attention{Heads: 1, KVHeads: 1, HeadDim: 1}
}

// scores are |W| * norm of the input channel.
func scores(w []float32, g *gram) []float32 {
	norm := g.norms()
	s := make([]float32, len(w))
	for i, v := range w {
		s[i] = float32(math.Abs(float64(v))) * norm[i%g.d]
	}
	return s
}

func identity(n int) []int {
	out := make([]int, n)
	for i := range out {
		out[i] = i
	}
	return out
}

// dealRounds is how often every slot of the groups is dealt anew.
const dealRounds = 2

// dealColumns orders the d columns of scores [rows, d] so that an N:M pattern
// keeps more: columns sorted by their sum are dealt to the groups like cards, then
// slot by slot all groups' columns are taken out and dealt anew in the best way
// (linear assignment, exact for one slot). Column i of the new order is column
// out[i] of the old. Columns beyond the last whole group stay.
func dealColumns(pool *linalg.Pool, s []float32, d int, p NM) []int {
	groups, rows := d/p.Of, len(s)/d
	order := identity(d)
	if groups < 2 || p.Keep == 0 || p.Keep == p.Of {
		return order
	}
	n := groups * p.Of
	cols := make([]float32, len(s)) // column by column
	sum := make([]float64, d)
	for r := range rows {
		for c := range d {
			cols[c*rows+r] = s[r*d+c]
			sum[c] += float64(s[r*d+c])
		}
	}
	sorted := identity(n)
	slices.SortStableFunc(sorted, func(a, b int) int {
		switch {
		case sum[a] > sum[b]:
			return -1
		case sum[a] < sum[b]:
			return 1
		}
		return 0
	})
	for i, c := range sorted { // slot by slot, back and forth
		slot, g := i/groups, i%groups
		if slot%2 == 1 {
			g = groups - 1 - g
		}
		order[g*p.Of+slot] = c
	}
	if kept(cols, rows, order, p) < kept(cols, rows, identity(d), p) {
		copy(order, identity(d))
	}
	for range dealRounds {
		for slot := range p.Of {
			redeal(pool, cols, rows, order, slot, p)
		}
	}
	return order
}

// redeal assigns the columns at one slot to the groups anew. With the other
// columns fixed, a column x adds max(0, x - k) to a row of a group, k being the
// Keep-th largest of the others.
func redeal(pool *linalg.Pool, cols []float32, rows int, order []int, slot int, p NM) {
	groups := len(order) / p.Of
	gain := make([]float64, groups*groups) // [group, column]
	pool.Run(groups, func(g int) {
		limit := make([]float32, rows)
		others := make([]float32, 0, p.Of)
		for r := range rows {
			others = others[:0]
			for i := range p.Of {
				if i != slot {
					others = append(others, cols[order[g*p.Of+i]*rows+r])
				}
			}
			slices.Sort(others)
			if k := len(others) - p.Keep; k >= 0 {
				limit[r] = others[k]
			}
		}
		for h := range groups {
			x := cols[order[h*p.Of+slot]*rows:]
			var sum float64
			for r, k := range limit {
				if x[r] > k {
					sum += float64(x[r] - k)
				}
			}
			gain[g*groups+h] = sum
		}
	})
	at := assign(gain, groups)
	now := make([]int, groups)
	for g := range groups {
		now[g] = order[at[g]*p.Of+slot]
	}
	for g, c := range now {
		order[g*p.Of+slot] = c
	}
}

// kept is the sum of scores that the pattern keeps in an order.
func kept(cols []float32, rows int, order []int, p NM) (sum float64) {
	grp := make([]float32, 0, p.Of)
	for r := range rows {
		for g := 0; g+p.Of <= len(order); g += p.Of {
			grp = grp[:0]
			for _, c := range order[g : g+p.Of] {
				grp = append(grp, cols[c*rows+r])
			}
			slices.Sort(grp)
			for _, v := range grp[p.Of-p.Keep:] {
				sum += float64(v)
			}
		}
	}
	return sum
}

// reordered is a matrix with its rows or columns in another order; nil: as they
// are. It lives only until pruning packs the result.
type reordered struct {
	sparse.Matrix
	rows, cols []int
}

// ReadRows implements sparse.Matrix.
func (m *reordered) ReadRows(dst []float32, r0 int) error {
	_, cols := m.Dims()
	buf := make([]float32, cols)
	for i := 0; i*cols < len(dst); i++ {
		r := r0 + i
		if m.rows != nil {
			if r >= len(m.rows) {
				return fmt.Errorf("prune: read of row %d of %d: %w", r, len(m.rows), sparse.ErrShape)
			}
			r = m.rows[r]
		}
		row := dst[i*cols : (i+1)*cols]
		if m.cols == nil {
			if err := m.Matrix.ReadRows(row, r); err != nil {
				return err
			}
			continue
		}
		if err := m.Matrix.ReadRows(buf, r); err != nil {
			return err
		}
		for c, from := range m.cols {
			row[c] = buf[from]
		}
	}
	return nil
}

func reorder(w *model.Weight, rows, cols []int) {
	w.Data = &reordered{Matrix: w.Data, rows: rows, cols: cols}
}

func reorderBias(n *model.Node, order []int) error {
	if n.Bias == nil {
		return nil
	}
	v, err := n.Bias.Vector()
	if err != nil {
		return fmt.Errorf("prune: %q: %w", n.Bias.Name, err)
	}
	out := make([]float32, len(v))
	for i, from := range order {
		out[i] = v[from]
	}
	n.Bias.Data = sparse.NewDense(1, len(out), out)
	return nil
}
