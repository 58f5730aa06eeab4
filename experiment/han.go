package experiment

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/train"
)

// Variant is one way to prune a network to so many times fewer parameters.
type Variant struct {
	Name      string
	Factor    float64
	Criterion prune.Criterion
	Scope     prune.Scope
	Schedule  prune.Schedule
	Rounds    int
	Ramp      float64
	Splice    bool
	Epochs    int
	Rate      float64
	Distill   bool // towards the dense network: temperature 4, weight 0.7
	// From names the variant before it that this one goes on from; "": the dense network.
	From string
}

// Compact is the plan of one network for Han: a dense run, and variants that start from it.
type Compact struct {
	Net      string
	Epochs   int // of the dense run
	Batch    int
	Rate     float64
	Again    int // epochs of a control: the dense network trained on, as long as a variant
	Variants []Variant
	Goals    []Goal
	Seeds    int
	Samples  int // 0: all of the training images
}

// CompactRun is what became of a variant with one seed. Errors are shares of the test images.
type CompactRun struct {
	Net       string    `json:"net"`
	Variant   string    `json:"variant"`
	Seed      uint64    `json:"seed"`
	Dense     float64   `json:"dense_error"`
	Error     float64   `json:"error"`
	Footprint Footprint `json:"footprint"`
	Seconds   float64   `json:"seconds"`
}

// compactCell is what the journal keeps of a variant: the weights too, where another goes on from them.
type compactCell struct {
	Run     CompactRun `json:"run"`
	Weights []floats   `json:"weights,omitempty"`
}

// denseRun is a trained network in the journal.
type denseRun struct {
	Weights []floats `json:"weights"`
	Error   float64  `json:"error"`
	Valid   float64  `json:"valid_error"`
}

// Compacts are the plans of Han et al. 2015's MNIST table and beyond. Shorter than the paper, which
// gives no number of epochs: a step of its table took hours of Caffe.
func Compacts() []Compact {
	mag := prune.Magnitude{}
	return []Compact{
		{Net: "lenet-300-100", Epochs: 12, Batch: 128, Rate: 1e-3, Again: 12, Seeds: 3, Goals: []Goal{{12, 0.05}}, Variants: []Variant{
			{Name: "12x, LAMP, gradual, distilled", Factor: 12, Criterion: prune.LAMP{}, Schedule: prune.Cubic, Ramp: 0.4, Epochs: 12, Rate: 1e-3, Distill: true},
			{Name: "12x, LAMP, gradual", Factor: 12, Criterion: prune.LAMP{}, Schedule: prune.Cubic, Ramp: 0.4, Epochs: 12, Rate: 1e-3},
			{Name: "12x, one-shot by std (Han's threshold)", Factor: 12, Criterion: prune.MagnitudeStd{}, Epochs: 12, Rate: 1e-3},
			{Name: "25x, LAMP, gradual, distilled", Factor: 25, Criterion: prune.LAMP{}, Schedule: prune.Cubic, Ramp: 0.4, Epochs: 12, Rate: 1e-3, Distill: true},
		}},
		{Net: "lenet-5", Epochs: 5, Batch: 128, Rate: 1e-3, Seeds: 3, Goals: []Goal{{12, 0.05}, {50, 0.2}}, Variants: []Variant{
			{Name: "12x, LAMP, gradual, distilled", Factor: 12, Criterion: prune.LAMP{}, Schedule: prune.Cubic, Ramp: 0.4, Epochs: 3, Rate: 1e-3, Distill: true},
			{Name: "50x, on from 12x, spliced", Factor: 50, Criterion: mag, Scope: prune.ScopeGlobal, Schedule: prune.Cubic, Ramp: 0.5, Splice: true, Epochs: 8, Rate: 1e-3, Distill: true, From: "12x, LAMP, gradual, distilled"},
			{Name: "100x, on from 50x", Factor: 100, Criterion: mag, Scope: prune.ScopeGlobal, Schedule: prune.Cubic, Ramp: 0.5, Epochs: 3, Rate: 1e-3, Distill: true, From: "50x, on from 12x, spliced"},
		}},
	}
}

// QuickCompacts is one small plan on which the method must hold too.
func QuickCompacts() []Compact {
	return []Compact{{Net: "lenet-300-100", Epochs: 4, Batch: 64, Rate: 1e-3, Seeds: 1, Samples: 10000, Goals: []Goal{{8, 0.5}}, Variants: []Variant{
		{Name: "8x, LAMP, gradual", Factor: 8, Criterion: prune.LAMP{}, Schedule: prune.Cubic, Ramp: 0.4, Epochs: 5, Rate: 1e-3},
		{Name: "8x, random, gradual", Factor: 8, Criterion: prune.Random{Seed: 1}, Schedule: prune.Cubic, Ramp: 0.4, Epochs: 5, Rate: 1e-3},
	}}}
}

// trainSet is the part of the training images that a plan sees.
func (l *Lab) trainSet(samples int) *train.Items {
	if samples == 0 {
		return l.Train
	}
	return l.Train.Slice(0, min(samples, l.Train.Len()))
}

// dense trains a network from nothing, or takes it from the journal. As in the variants, the weights
// that are most accurate on the held-back images stay.
func (l *Lab) dense(ctx context.Context, net string, seed uint64, epochs, batch int, rate float64, samples int) (*train.Net, denseRun, error) {
	n, cost, err := network(net, seed)
	if err != nil {
		return nil, denseRun{}, err
	}
	data := l.trainSet(samples)
	key := fmt.Sprintf("dense by accuracy %s seed %d epochs %d batch %d rate %g samples %d", net, seed, epochs, batch, rate, data.Len())
	r, err := cell(l, key, float64(epochs*data.Len())*cost, func() (denseRun, error) {
		t := l.tuning(seed, batch, epochs, rate, data)
		t.Pattern, t.Fit.Seed = prune.Unstructured{Sparsity: 0}, seed
		t.Progress = func(prune.TuneProgress) { l.did(float64(batch)*cost, net+" dense") }
		rep, err := prune.TuneNet(ctx, n, t)
		if err != nil {
			return denseRun{}, err
		}
		r := denseRun{Weights: weightsOf(n), Valid: 1 - rep.Value}
		r.Error, err = l.test(n)
		l.say("%s seed %d: dense %.2f %%", net, seed, 100*r.Error)
		return r, err
	})
	if err != nil {
		return nil, r, err
	}
	return n, r, load(n, r.Weights)
}

// tuning is what the variants of all experiments share.
func (l *Lab) tuning(seed uint64, batch, epochs int, rate float64, data *train.Items) prune.Tuning {
	return prune.Tuning{Train: data, Fit: train.Options{Epochs: epochs, Batch: batch, Rate: rate, Schedule: train.Cosine(0.01), Seed: seed + 1000,
		Eval: l.Valid, EvalBatch: 500, KeepBest: true}}
}

// Han runs the plans of Compacts; every seed of a plan is a task of its own.
func (l *Lab) Han(ctx context.Context, plans []Compact) ([]CompactRun, error) {
	var mu sync.Mutex
	results := map[string]CompactRun{}
	var order []string
	var tasks []task
	for _, p := range plans {
		_, cost, err := network(p.Net, 1)
		if err != nil {
			return nil, err
		}
		epochs := p.Epochs + p.Again
		for _, v := range p.Variants {
			epochs += v.Epochs
		}
		for s := range p.Seeds {
			seed := uint64(s + 1)
			tasks = append(tasks, task{fmt.Sprintf("%s seed %d", p.Net, seed), float64(epochs*l.trainSet(p.Samples).Len()) * cost, func(ctx context.Context) error {
				return l.compact(ctx, p, seed, func(r CompactRun) {
					mu.Lock()
					results[fmt.Sprint(r.Net, r.Variant, r.Seed)] = r
					mu.Unlock()
				})
			}})
		}
		for _, v := range p.all() {
			for s := range p.Seeds {
				order = append(order, fmt.Sprint(p.Net, v.Name, s+1))
			}
		}
	}
	err := l.work(ctx, tasks)
	var out []CompactRun
	for _, k := range order {
		if r, ok := results[k]; ok {
			out = append(out, r)
		}
	}
	return out, err
}

// all are the variants with the control in front.
func (p Compact) all() []Variant {
	if p.Again == 0 {
		return p.Variants
	}
	return append([]Variant{{Name: "dense, trained on as long", Factor: 1, Epochs: p.Again, Rate: p.Rate}}, p.Variants...)
}

func (l *Lab) compact(ctx context.Context, p Compact, seed uint64, done func(CompactRun)) error {
	_, first, err := l.dense(ctx, p.Net, seed, p.Epochs, p.Batch, p.Rate, p.Samples)
	if err != nil {
		return err
	}
	data := l.trainSet(p.Samples)
	cells := map[string]compactCell{}
	for _, v := range p.all() {
		n, cost, err := network(p.Net, seed)
		if err != nil {
			return err
		}
		start := first.Weights
		if v.From != "" {
			if start = cells[v.From].Weights; start == nil && l.Offline {
				continue
			}
			if start == nil {
				return fmt.Errorf("%s: no weights of %q: %w", v.Name, v.From, ErrOption)
			}
		}
		work := float64(v.Epochs*data.Len()) * cost
		key := fmt.Sprintf("compact %s seed %d dense %d epochs batch %d rate %g samples %d: %s", p.Net, seed, p.Epochs, p.Batch, p.Rate, data.Len(), p.recipe(v))
		c, err := cell(l, key, work, func() (compactCell, error) {
			r, err := l.variant(ctx, p, v, seed, n, cost, first, start, data)
			c := compactCell{Run: r}
			if p.readBy(v.Name) {
				c.Weights = weightsOf(n)
			}
			return c, err
		})
		if errors.Is(err, errMissing) {
			continue
		}
		if err != nil {
			return fmt.Errorf("%s: %w", v.Name, err)
		}
		cells[v.Name] = c
		done(c.Run)
	}
	return nil
}

// recipe is v and all that it goes on from: what a journal keeps of v holds for nothing else.
func (p Compact) recipe(v Variant) string {
	s := fmt.Sprintf("%+v", v)
	for _, from := range p.Variants {
		if from.Name == v.From {
			s += " after " + p.recipe(from)
		}
	}
	return s
}

// readBy reports whether another variant goes on from the one named.
func (p Compact) readBy(name string) bool {
	for _, v := range p.Variants {
		if v.From == name {
			return true
		}
	}
	return false
}

func (l *Lab) variant(ctx context.Context, p Compact, v Variant, seed uint64, n *train.Net, cost float64, first denseRun, start []floats, data *train.Items) (CompactRun, error) {
	r := CompactRun{Net: p.Net, Variant: v.Name, Seed: seed, Dense: first.Error}
	if err := load(n, first.Weights); err != nil {
		return r, err
	}
	t := l.tuning(seed, p.Batch, v.Epochs, v.Rate, data)
	if v.Distill {
		taught := *data
		if err := taught.Teach(n, 500); err != nil {
			return r, err
		}
		t.Train, t.Distill = &taught, &train.Distill{Temperature: 4, Weight: 0.7}
	}
	if err := load(n, start); err != nil {
		return r, err
	}
	t.KeepZeros = v.From != ""
	t.Criterion, t.Schedule, t.Rounds, t.Ramp = v.Criterion, v.Schedule, v.Rounds, v.Ramp
	t.Pattern = prune.Unstructured{Sparsity: 0, Scope: v.Scope}
	if v.Factor > 1 {
		t.Pattern = prune.Unstructured{Sparsity: sparsityFor(n, v.Factor), Scope: v.Scope}
	}
	if v.Splice {
		t.Splice = &prune.Splice{Seed: seed}
	}
	t.Progress = func(prune.TuneProgress) { l.did(float64(p.Batch)*cost, p.Net+" "+v.Name) }
	rep, err := prune.TuneNet(ctx, n, t)
	if err != nil {
		return r, err
	}
	if r.Error, err = l.test(n); err != nil {
		return r, err
	}
	r.Seconds = rep.Seconds
	r.Footprint, err = footprint(n)
	l.say("%s seed %d, %s: %.2f %% (dense %.2f %%), %.1fx, %.0f s", p.Net, seed, v.Name, 100*r.Error, 100*r.Dense, r.Footprint.Fewer(), r.Seconds)
	return r, err
}
