package prune

import (
	"context"
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// calibrated is a Method that looks at the inputs of the layers.
type calibrated interface {
	Method
	calib() Calib
	needsGram() bool // the whole Gram matrix, not only its diagonal
	scope() Scope    // what ScopeAuto means
	// solve replaces l.w by the pruned weights. Matrices with the same inputs
	// come one after another with the same l.gram.
	solve(ctx context.Context, l *layer) error
}

// layer is a matrix at work.
type layer struct {
	name       string
	rows, cols int
	w          []float32 // [rows, cols]; dense, then pruned
	frozen     []bool    // [rows, cols] zeros that stay; nil: none
	keep       []bool    // [rows, cols] the mask, once it is settled
	gram       *gram
	pattern    Pattern
	quant      *quantiser // nil: values stay floats, or are rounded when stored
	pool       *linalg.Pool
	log        func(format string, args ...any)
	damping    float64 // reported, where a factor was taken
	error      float64 // reported
}

// blockwise prunes a language model block by block as the papers' code does: all
// calibration windows run through a block with its dense weights, which gives
// the inputs of its Linears; these are pruned; the windows run again through the
// pruned block, and what comes out is the next block's input.
func (r *run) blockwise(m calibrated) error {
	f, layers, err := r.openFlow(m.calib())
	if err != nil {
		return err
	}
	for b, s := range layers {
		if r.done == len(r.targets) {
			break // nothing is left to prune
		}
		if err := f.x.load(f.nodes(s)); err != nil {
			return err
		}
		groups := r.groups(s)
		restored, err := r.restore(b, groups, f.x)
		if err != nil {
			return err
		}
		if len(groups) > 0 && !restored {
			grams, err := f.collect(r.ctx, span{s.lo, groups[len(groups)-1].first}, groups, m.needsGram())
			if err != nil {
				return err
			}
			for gi, grp := range groups {
				for _, i := range grp.targets {
					if err := r.solve(m, f.x, i, grams[gi]); err != nil {
						return err
					}
				}
				grams[gi] = nil
			}
			if err := r.record(b, groups); err != nil {
				return err
			}
		}
		if err := f.advance(r.ctx, s.hi); err != nil {
			return err
		}
		f.x.drop(f.nodes(s))
	}
	return nil
}

// openFlow checks the calibration data and the targets and runs the windows up
// to the first layer.
func (r *run) openFlow(c Calib) (*flow, []span, error) {
	if r.g.Config == nil {
		return nil, nil, fmt.Errorf("prune: calibration needs a language model: %w", ErrCalib)
	}
	var err error
	if r.rep.Calibration, err = c.describe(r.g.Config.Vocab); err != nil {
		return nil, nil, err
	}
	before, layers, _, err := blocks(r.g)
	if err != nil {
		return nil, nil, err
	}
	if err := r.inLayers(layers); err != nil {
		return nil, nil, err
	}
	f, err := newFlow(r.g, linalg.NewPool(r.threads()), c)
	if err != nil {
		return nil, nil, err
	}
	return f, layers, f.advance(r.ctx, before.hi)
}

// group is the targets that share an input.
type group struct {
	input   model.ValueID
	first   int   // the first node that reads it as a Linear
	targets []int // positions in run.targets
}

// groups lists the targets of a span by input, in the order of the nodes.
func (r *run) groups(s span) []group {
	var out []group
	seen := map[int]bool{}
	for i := s.lo; i < s.hi; i++ {
		n := r.g.Nodes[i]
		t := slices.Index(r.targets, n.Weight)
		if n.Op != model.OpLinear || t < 0 || seen[t] {
			continue
		}
		seen[t] = true
		j := slices.IndexFunc(out, func(g group) bool { return g.input == n.In[0] })
		if j < 0 {
			j = len(out)
			out = append(out, group{input: n.In[0], first: i})
		}
		out[j].targets = append(out[j].targets, t)
	}
	return out
}

// inLayers fails on a target outside the layers, and on one that several Linears
// share: they have different inputs.
func (r *run) inLayers(layers []span) error {
	uses := map[*model.Weight]int{}
	for _, s := range layers {
		for _, n := range r.g.Nodes[s.lo:s.hi] {
			if n.Op == model.OpLinear {
				uses[n.Weight]++
			}
		}
	}
	for _, w := range r.targets {
		if uses[w] != 1 {
			return fmt.Errorf("prune: %q: calibration covers matrices that one Linear of the layers uses, %d do: %w", w.Name, uses[w], ErrTarget)
		}
	}
	return nil
}

// collect runs the nodes of s and gathers the inputs of the groups.
func (f *flow) collect(ctx context.Context, s span, groups []group, full bool) ([]*gram, error) {
	grams := make([]*gram, len(groups))
	for i, g := range groups {
		grams[i] = newGram(f.x.g.Values[g.input].Width, full)
		grams[i].window = f.x.window
	}
	err := f.chunks(ctx, s, nil, func(v values, rows int) error {
		for i, g := range groups {
			grams[i].add(f.x.pool, v[g.input], rows)
		}
		return nil
	})
	return grams, err
}

// solve prunes target i, stores it, and hands the stored form back to the executor.
func (r *run) solve(m calibrated, x *executor, i int, g *gram) error {
	if err := r.ctx.Err(); err != nil {
		return err
	}
	t := r.targets[i]
	w := x.weights[t]
	rows, cols := t.Data.Dims()
	if err := finite(w, t.Name, cols); err != nil {
		return err
	}
	l := &layer{name: t.Name, rows: rows, cols: cols, w: w, gram: g, pattern: r.pattern(i), pool: x.pool, log: r.logf}
	if r.o.KeepZeros {
		was, err := unpacked(t) // w may have been fitted since
		if err != nil {
			return err
		}
		l.frozen = make([]bool, len(w))
		for j, v := range was {
			l.frozen[j] = v == 0
		}
	}
	if r.o.Store.DType.Quantised() && !r.o.Store.Nearest && m.needsGram() {
		l.quant = newQuantiser(r.o.Store, rows, cols)
	}
	if err := m.solve(r.ctx, l); err != nil {
		return fmt.Errorf("prune: %q: %w", t.Name, err)
	}
	rep, sum, err := r.o.Store.finish(t, l.w, l.quant, r.pattern(i))
	if err != nil {
		return err
	}
	rep.Error, rep.Damping = l.error, l.damping
	r.finished(i, rep, sum)
	return t.Data.ReadRows(w, 0)
}

func (r *run) logf(format string, args ...any) {
	if r.o.Log != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.o.Log(fmt.Sprintf(format, args...))
	}
}
