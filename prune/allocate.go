package prune

import (
	"context"
	"fmt"
	"math"
	"strconv"

	"github.com/sparserun/sparserun/linalg"
)

// Allocation gives every block of a language model its own sparsity, the mean of
// which is the pattern's. Unstructured patterns only.
type Allocation interface {
	Name() string
	recipe(map[string]string)
	check() error
	// importance has one number per layer, larger for those that should keep
	// more; f stands ahead of the first layer.
	importance(r *run, f *flow, layers []span) ([]float64, error)
	span() float64
}

// OWL keeps more where there are more outliers: per block, the share of weights
// whose Wanda score exceeds M times the block's mean score (Yin et al. 2023).
// Sparsities lie within Lambda of the mean.
type OWL struct {
	M      float64 // 0: 5
	Lambda float64 // 0: 0.08
}

// Sensitivity keeps more where pruning hurts more: every block alone is pruned by
// Wanda to the target, and the logarithm of how much that raises the loss over
// the first Windows calibration windows is its importance.
type Sensitivity struct {
	Windows int     // 0: 2
	Lambda  float64 // 0: 0.08
}

func (OWL) Name() string         { return "owl" }
func (Sensitivity) Name() string { return "sensitivity" }

func (o OWL) fill() OWL {
	if o.M == 0 {
		o.M = 5
	}
	if o.Lambda == 0 {
		o.Lambda = 0.08
	}
	return o
}

func (s Sensitivity) fill() Sensitivity {
	if s.Windows == 0 {
		s.Windows = 2
	}
	if s.Lambda == 0 {
		s.Lambda = 0.08
	}
	return s
}

func (o OWL) span() float64         { return o.fill().Lambda }
func (s Sensitivity) span() float64 { return s.fill().Lambda }

func (o OWL) check() error         { return checkAllocation(o.M, o.Lambda) }
func (s Sensitivity) check() error { return checkAllocation(float64(s.Windows), s.Lambda) }

func checkAllocation(a, lambda float64) error {
	if !(a >= 0) || !(lambda >= 0 && lambda <= 0.5) {
		return fmt.Errorf("prune: allocation: got %v, lambda %v: %w", a, lambda, ErrMethod)
	}
	return nil
}

func (o OWL) recipe(kv map[string]string) {
	o = o.fill()
	kv["prune.allocation"] = "owl m " + strconv.FormatFloat(o.M, 'g', -1, 64) + " lambda " + strconv.FormatFloat(o.Lambda, 'g', -1, 64)
}

func (s Sensitivity) recipe(kv map[string]string) {
	s = s.fill()
	kv["prune.allocation"] = "sensitivity windows " + strconv.Itoa(s.Windows) + " lambda " + strconv.FormatFloat(s.Lambda, 'g', -1, 64)
}

// allocate sets the pattern of every target from an Allocation.
func (r *run) allocate(a Allocation, c Calib) error {
	u, ok := r.p.(Unstructured)
	if !ok || u.Scope == ScopeGlobal {
		return fmt.Errorf("prune: allocation %s with pattern %v: want an unstructured one: %w", a.Name(), r.p, ErrMethod)
	}
	if err := a.check(); err != nil {
		return err
	}
	f, layers, err := r.openFlow(c)
	if err != nil {
		return err
	}
	imp, err := a.importance(r, f, layers)
	if err != nil {
		return err
	}
	sizes := make([]float64, len(layers))
	for b, s := range layers {
		for _, i := range targetsOf(r.groups(s)) {
			rows, cols := r.targets[i].Data.Dims()
			sizes[b] += float64(rows) * float64(cols)
		}
	}
	for b, s := range levels(imp, sizes, u.Sparsity, a.span()) {
		for _, i := range targetsOf(r.groups(layers[b])) {
			r.patterns[i] = Unstructured{Sparsity: s, Scope: u.Scope}
		}
		r.logf("prune: %s: block %d gets sparsity %.4f", a.Name(), b, s)
	}
	return nil
}

// levels maps importances to sparsities: linear from the least to the most
// important, 2*lambda apart, shifted so that the mean over weights is target.
func levels(importance, sizes []float64, target, lambda float64) []float64 {
	lo, hi := math.Inf(1), math.Inf(-1)
	for b, v := range importance {
		if sizes[b] > 0 {
			lo, hi = min(lo, v), max(hi, v)
		}
	}
	out := make([]float64, len(importance))
	var mean, all float64
	for b, v := range importance {
		if sizes[b] > 0 && hi > lo {
			out[b] = -(v - lo) / (hi - lo) * 2 * lambda
		}
		mean += out[b] * sizes[b]
		all += sizes[b]
	}
	mean /= max(1, all)
	for b := range out {
		out[b] = min(1, max(0, out[b]-mean+target))
	}
	return out
}

func (o OWL) importance(r *run, f *flow, layers []span) ([]float64, error) {
	o = o.fill()
	out := make([]float64, len(layers))
	for b, s := range layers {
		groups := r.groups(s)
		if err := f.x.load(f.nodes(s)); err != nil {
			return nil, err
		}
		if len(groups) > 0 {
			grams, err := f.collect(r.ctx, span{s.lo, groups[len(groups)-1].first}, groups, false)
			if err != nil {
				return nil, err
			}
			out[b] = outliers(r, f, groups, grams, o.M)
		}
		if err := f.advance(r.ctx, s.hi); err != nil {
			return nil, err
		}
		f.x.drop(f.nodes(s))
	}
	return out, nil
}

// outliers is the share of a block's weights whose Wanda score exceeds m times
// the mean score.
func outliers(r *run, f *flow, groups []group, grams []*gram, m float64) float64 {
	scores := func(visit func(s float64)) {
		for gi, grp := range groups {
			norm := grams[gi].norms()
			for _, i := range grp.targets {
				for j, v := range f.x.weights[r.targets[i]] {
					visit(math.Abs(float64(v)) * float64(norm[j%len(norm)]))
				}
			}
		}
	}
	var sum, n, above float64
	scores(func(s float64) { sum += s; n++ })
	scores(func(s float64) {
		if s > m*sum/n {
			above++
		}
	})
	return above / max(1, n)
}

func (s Sensitivity) importance(r *run, f *flow, layers []span) ([]float64, error) {
	s = s.fill()
	f.first(s.Windows)
	fork := func() *flow { // what one does leaves the other alone
		live := values{}
		for id, v := range f.live {
			live[id] = v
		}
		x, err := newExecutor(r.g, f.x.pool, f.x.window)
		if err != nil {
			return nil
		}
		return &flow{x: x, ids: f.ids, at: f.at, live: live}
	}
	after := span{layers[len(layers)-1].hi, len(r.g.Nodes)}
	finish := func(f *flow, from int) (float64, error) {
		for _, l := range layers[from:] {
			if err := f.advance(r.ctx, l.hi); err != nil {
				return 0, err
			}
			f.x.drop(f.nodes(l))
		}
		p, err := f.perplexity(r.ctx, after)
		return math.Log(p), err
	}
	dense, err := finish(fork(), 0)
	if err != nil {
		return nil, err
	}
	out := make([]float64, len(layers))
	for b, l := range layers {
		groups := r.groups(l)
		if len(groups) > 0 {
			alone := fork()
			if err := alone.pruneAlone(r, l, groups); err != nil {
				return nil, err
			}
			loss, err := finish(alone, b)
			if err != nil {
				return nil, err
			}
			out[b] = math.Log(max(loss-dense, 1e-4))
		}
		if err := f.advance(r.ctx, l.hi); err != nil {
			return nil, err
		}
		f.x.drop(f.nodes(l))
	}
	return out, nil
}

// first keeps only the first windows of a flow.
func (f *flow) first(windows int) {
	n := min(len(f.ids), windows*f.x.window)
	for id, v := range f.live {
		f.live[id] = v[:n*f.x.g.Values[id].Width]
	}
	f.ids = f.ids[:n]
}

// pruneAlone prunes the unpacked weights of one block by Wanda, in this flow's
// executor only.
func (f *flow) pruneAlone(r *run, s span, groups []group) error {
	if err := f.x.load(f.nodes(s)); err != nil {
		return err
	}
	grams, err := f.collect(r.ctx, span{s.lo, groups[len(groups)-1].first}, groups, false)
	if err != nil {
		return err
	}
	for gi, grp := range groups {
		for _, i := range grp.targets {
			rows, cols := r.targets[i].Data.Dims()
			l := &layer{name: r.targets[i].Name, rows: rows, cols: cols, w: f.x.weights[r.targets[i]], gram: grams[gi],
				pattern: resolveScope(Unstructured{Sparsity: r.p.Target()}, ScopeRow), pool: linalg.NewPool(r.threads()), log: r.logf}
			if err := (Wanda{}).solve(context.Background(), l); err != nil {
				return err
			}
		}
	}
	return nil
}
