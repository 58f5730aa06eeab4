package prune

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

func envf(k string, d float64) float64 {
	if v := os.Getenv(k); v != "" {
		f, _ := strconv.ParseFloat(v, 64)
		return f
	}
	return d
}

// Best is this package's own recipe.
type Best struct {
	SparseGPT
}

func (Best) Name() string { return "best" }

// aim is what the layers of a group should put out, next to what they get.
type aim struct {
	gram  *gram
	cross []float32 // [rows, d] per target or [d, d] shared: see solveToward
}

func (r *run) sequential(m Best) error {
	c := m.calib()
	if r.g.Config == nil {
		return fmt.Errorf("prune: %s needs a language model: %w", m.Name(), ErrCalib)
	}
	var err error
	if r.rep.Calibration, err = c.describe(r.g.Config.Vocab); err != nil {
		return err
	}
	pool := linalg.NewPool(r.threads())
	dense, err := newFlow(r.g, pool, c)
	if err != nil {
		return err
	}
	pruned, err := newFlow(r.g, pool, c)
	if err != nil {
		return err
	}
	before, layers, _, err := blocks(r.g)
	if err != nil {
		return err
	}
	if err := r.inLayers(layers); err != nil {
		return err
	}
	if err := dense.advance(r.ctx, before.hi); err != nil {
		return err
	}
	if err := pruned.advance(r.ctx, before.hi); err != nil {
		return err
	}
	for _, s := range layers {
		groups := r.groups(s)
		for _, f := range []*flow{dense, pruned} {
			if err := f.x.load(f.nodes(s)); err != nil {
				return err
			}
		}
		for _, grp := range groups {
			if err := dense.advance(r.ctx, grp.first); err != nil {
				return err
			}
			if err := pruned.advance(r.ctx, grp.first); err != nil {
				return err
			}
			if err := r.solveGroup(m, dense, pruned, grp); err != nil {
				return err
			}
		}
		if err := dense.advance(r.ctx, s.hi); err != nil {
			return err
		}
		if err := pruned.advance(r.ctx, s.hi); err != nil {
			return err
		}
		dense.x.drop(dense.nodes(s))
		pruned.x.drop(pruned.nodes(s))
	}
	return nil
}

// residual finds the value that a Linear's output is added to.
func residual(g *model.Graph, n *model.Node) (model.ValueID, bool) {
	var out model.ValueID
	uses, found := 0, false
	for _, u := range g.Nodes {
		for i, v := range u.In {
			if v == n.Out {
				uses++
				if u.Op == model.OpAdd {
					out, found = u.In[1-i], true
				}
			}
		}
	}
	return out, found && uses == 1
}

func (r *run) solveGroup(m Best, dense, pruned *flow, grp group) error {
	x, y := dense.live[grp.input], pruned.live[grp.input]
	d := r.g.Values[grp.input].Width
	pool := pruned.x.pool
	g := newGram(d, true)
	tokens := len(pruned.ids)
	step := chunkTokens
	var cross, miss []float32
	nodes := r.g.Nodes
	var node *model.Node
	for _, n := range nodes[grp.first:] {
		if n.Weight == r.targets[grp.targets[0]] {
			node = n
			break
		}
	}
	res, hasRes := residual(r.g, node)
	alpha := float32(envf("BEST_RES", 1))
	useCross := envf("BEST_CROSS", 1) != 0
	rows, _ := node.Weight.Data.Dims()
	rd, rp := dense.live[res], pruned.live[res]
	hasRes = hasRes && len(grp.targets) == 1 && rd != nil && rp != nil
	if useCross {
		if hasRes {
			miss = make([]float32, rows*d)
		} else {
			cross = make([]float32, d*d)
		}
	}
	buf := make([]float32, step*rows)
	for lo := 0; lo < tokens; lo += step {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		hi := min(lo+step, tokens)
		n := hi - lo
		g.add(pool, y[lo*d:hi*d], n)
		if cross != nil {
			linalg.Gemm(pool, true, false, d, d, n, 1, x[lo*d:], d, y[lo*d:], d, 1, cross, d)
		}
		if miss != nil {
			// T = W x + alpha (r_dense - r_pruned)
			w := dense.x.weights[node.Weight]
			linalg.Gemm(pool, false, true, n, rows, d, 1, x[lo*d:], d, w, d, 0, buf, rows)
			for i := range n * rows {
				buf[i] += alpha * (rd[lo*rows+i] - rp[lo*rows+i])
			}
			linalg.Gemm(pool, true, false, rows, d, n, 1, buf, rows, y[lo*d:], d, 1, miss, d)
		}
	}
	for _, i := range grp.targets {
		t := r.targets[i]
		w := pruned.x.weights[t]
		if useCross {
			n, _ := t.Data.Dims()
			// want = W C - W H, or T y - W H
			want := make([]float32, n*d)
			if miss != nil {
				copy(want, miss)
			} else {
				linalg.Gemm(pool, false, false, n, d, d, 1, w, d, cross, d, 0, want, d)
			}
			linalg.Gemm(pool, false, false, n, d, d, -1, w, d, g.h, d, 1, want, d)
			f, err := g.factorise(pool, envf("BEST_CDAMP", 0.01), r.logf)
			if err != nil {
				return err
			}
			tmp := make([]float32, n*d)
			linalg.Gemm(pool, false, true, n, d, d, 1, want, d, f.u, d, 0, tmp, d)
			linalg.Gemm(pool, false, false, n, d, d, 1, tmp, d, f.u, d, 1, w, d)
			g.factor = nil
		}
		if err := r.solve(m, pruned.x, i, g); err != nil {
			return err
		}
	}
	return nil
}

func (m Best) solve(ctx context.Context, l *layer) error {
	s := m.fill()
	f, err := l.gram.factorise(l.pool, s.Damping, l.log)
	if err != nil {
		return err
	}
	goal := append([]float32(nil), l.w...)
	if err := l.sweep(ctx, f, s.Block); err != nil {
		return err
	}
	l.damping = f.damping
	e1 := l.outputError(goal)
	l.keep = make([]bool, len(l.w))
	for i, v := range l.w {
		l.keep[i] = v != 0
	}
	ridge := envf("BEST_RIDGE", 0.01) * l.gram.meanDiag()
	if err := l.resolve(ctx, goal, ridge, int(envf("BEST_ITER", 30))); err != nil {
		return err
	}
	l.error = l.outputError(goal)
	l.log("  %s sweep %.5f resolve %.5f", l.name, e1, l.error)
	return nil
}
