package prune

import (
	"context"
	"slices"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// Best is this package's own recipe for language models. It differs from the
// papers' frame in what a layer is fitted to:
//
//  1. Two streams of activations run side by side, the dense model's and the
//     pruned one's. A Linear is pruned for the inputs y it will really get: those
//     of the pruned stream, after everything before it, its own block's earlier
//     Linears included, has been pruned.
//  2. Its goal is the dense model's output for the dense model's inputs x, so
//     that it makes up for errors of the layers before. Where its output is added
//     to a residual r, the error of the residual is part of the goal:
//     goal(t) = W x(t) + r_dense(t) - r_pruned(t).
//  3. The dense weights that come closest to the goal, by ridge regression on y
//     towards W, take W's place; ALPS then chooses the mask and solves the kept
//     weights.
//
// Costs about three times SparseGPT's.
type Best struct {
	Calib      Calib
	Damping    float64 // as for ALPS
	Growth     float64
	Iterations int
}

func (Best) Name() string                  { return "best" }
func (m Best) alps() ALPS                  { return ALPS(m) }
func (m Best) recipe(kv map[string]string) { m.alps().recipe(kv) }
func (m Best) check(p Pattern) error       { return m.alps().check(p) }
func (m Best) calib() Calib                { return m.Calib }
func (Best) needsGram() bool               { return true }
func (Best) scope() Scope                  { return ScopeLayer }
func (m Best) solve(ctx context.Context, l *layer) error {
	return m.alps().solve(ctx, l)
}

// bestOf is m, or the method whose mask m solves again, if that is Best.
func bestOf(m Method) (Best, bool) {
	if r, ok := m.(Resolved); ok {
		m = r.Of
	}
	b, ok := m.(Best)
	return b, ok
}

// toward is the driver of Best: block by block, input by input. by solves a matrix once its goal is known.
func (r *run) toward(m Best, by calibrated) error {
	pruned, layers, err := r.openFlow(m.Calib)
	if err != nil {
		return err
	}
	dense, _, err := r.openFlow(m.Calib)
	if err != nil {
		return err
	}
	for b, s := range layers {
		if r.done == len(r.targets) {
			break // nothing is left to prune
		}
		for _, f := range []*flow{dense, pruned} {
			if err := f.x.load(f.nodes(s)); err != nil {
				return err
			}
		}
		groups := r.groups(s)
		restored, err := r.restore(b, groups, pruned.x)
		if err != nil {
			return err
		}
		for _, grp := range groups {
			if restored {
				break
			}
			for _, f := range []*flow{dense, pruned} {
				if err := f.advance(r.ctx, grp.first); err != nil {
					return err
				}
			}
			if err := r.fitGroup(m, by, dense, pruned, grp); err != nil {
				return err
			}
		}
		if !restored {
			if err := r.record(b, groups); err != nil {
				return err
			}
		}
		for _, f := range []*flow{dense, pruned} {
			if err := f.advance(r.ctx, s.hi); err != nil {
				return err
			}
			f.x.drop(f.nodes(s))
		}
	}
	return nil
}

// fitGroup prunes the Linears that read one value. Both streams stand at it.
func (r *run) fitGroup(m Best, by calibrated, dense, pruned *flow, grp group) error {
	a, err := r.aimOf(dense, pruned, grp)
	if err != nil {
		return err
	}
	for _, i := range grp.targets {
		if err := a.regress(pruned.x.weights[r.targets[i]], m.alps().fill().Damping, r.logf); err != nil {
			return err
		}
		if err := r.solve(by, pruned.x, i, a.gram); err != nil {
			return err
		}
	}
	return nil
}

// aim is what the Linears of a group get and what they should put out: with y
// [tokens, d] the pruned stream's inputs,
//
//	gram.h = y^T y,  cross = goal^T y [rows, d] for a single Linear with a residual,
//	cross = x^T y [d, d] for all others, whose goal is W x.
type aim struct {
	gram     *gram
	cross    []float32
	residual bool
	pool     *linalg.Pool
}

func (r *run) aimOf(dense, pruned *flow, grp group) (*aim, error) {
	d := r.g.Values[grp.input].Width
	x, y := dense.live[grp.input], pruned.live[grp.input]
	a := &aim{gram: newGram(d, true), pool: pruned.x.pool}
	node := r.nodeOf(grp.targets[0])
	res, ok := residualOf(r.g, node)
	rd, rp := dense.live[res], pruned.live[res]
	a.residual = ok && len(grp.targets) == 1 && rd != nil && rp != nil
	rows, _ := node.Weight.Data.Dims()
	var goal []float32
	if a.residual {
		a.cross, goal = make([]float32, rows*d), make([]float32, chunkTokens*rows)
	} else {
		a.cross = make([]float32, d*d)
	}
	w := dense.x.weights[node.Weight]
	for lo := 0; lo < len(pruned.ids); lo += chunkTokens {
		if err := r.ctx.Err(); err != nil {
			return nil, err
		}
		n := min(chunkTokens, len(pruned.ids)-lo)
		xc, yc := x[lo*d:], y[lo*d:]
		a.gram.add(a.pool, yc[:n*d], n)
		if !a.residual {
			linalg.Gemm(a.pool, true, false, d, d, n, 1, xc, d, yc, d, 1, a.cross, d)
			continue
		}
		linalg.Gemm(a.pool, false, true, n, rows, d, 1, xc, d, w, d, 0, goal, rows)
		for i := range n * rows {
			goal[i] += rd[lo*rows+i] - rp[lo*rows+i]
		}
		linalg.Gemm(a.pool, true, false, rows, d, n, 1, goal, rows, yc, d, 1, a.cross, d)
	}
	return a, nil
}

// regress replaces w [rows, d] by the dense weights that come closest to the
// goal: w + (goal^T y - w H) (H + ridge)^-1. The ridge keeps them near w.
func (a *aim) regress(w []float32, damping float64, log func(string, ...any)) error {
	d := a.gram.d
	n := len(w) / d
	f, err := a.gram.factorise(a.pool, damping, log)
	if err != nil {
		return err
	}
	miss := make([]float32, n*d)
	if a.residual {
		copy(miss, a.cross)
	} else {
		linalg.Gemm(a.pool, false, false, n, d, d, 1, w, d, a.cross, d, 0, miss, d)
	}
	linalg.Gemm(a.pool, false, false, n, d, d, -1, w, d, a.gram.h, d, 1, miss, d)
	half := make([]float32, n*d) // (H + ridge)^-1 = U^T U
	linalg.Gemm(a.pool, false, true, n, d, d, 1, miss, d, f.u, d, 0, half, d)
	linalg.Gemm(a.pool, false, false, n, d, d, 1, half, d, f.u, d, 1, w, d)
	return nil
}

// nodeOf is the Linear of target i.
func (r *run) nodeOf(i int) *model.Node {
	return r.g.Nodes[slices.IndexFunc(r.g.Nodes, func(n *model.Node) bool { return n.Op == model.OpLinear && n.Weight == r.targets[i] })]
}

// residualOf finds the value that a Linear's output is added to, if that is all
// that happens to it.
func residualOf(g *model.Graph, n *model.Node) (res model.ValueID, ok bool) {
	uses := 0
	for _, u := range g.Nodes {
		for i, v := range u.In {
			if v == n.Out {
				uses++
				if u.Op == model.OpAdd {
					res, ok = u.In[1-i], true
				}
			}
		}
	}
	return res, ok && uses == 1
}
