package experiment

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/sparserun/sparserun/prune"
)

// Levels is the plan of a table of accuracy against sparsity: every method at every level, at once and
// gradually, with the same fine-tuning, from the same dense networks.
type Levels struct {
	Net      string
	Methods  []string // magnitude, gradient, sensitivity, random
	Sparsity []float64
	Gradual  []bool
	Epochs   int // of the dense run
	Tune     int // epochs of fine-tuning
	Batch    int
	Rate     float64
	Seeds    int
	Samples  int // 0: all of the training images
}

// FullLevels is the table of issue and README: 50, 80, 90 and 95 %.
func FullLevels() Levels {
	return Levels{Net: "lenet-300-100", Methods: []string{"magnitude", "gradient", "sensitivity", "random"}, Sparsity: []float64{0.5, 0.8, 0.9, 0.95}, Gradual: []bool{false, true},
		Epochs: 12, Tune: 3, Batch: 128, Rate: 1e-3, Seeds: 3}
}

// QuickLevels is a corner of the table.
func QuickLevels() Levels {
	p := FullLevels()
	p.Methods, p.Sparsity, p.Epochs, p.Tune, p.Batch, p.Seeds, p.Samples = []string{"magnitude", "sensitivity", "random"}, []float64{0.5, 0.8}, 4, 3, 64, 1, 10000
	return p
}

// LevelRun is one network of the table. Accuracies are of the test images.
type LevelRun struct {
	Method   string  `json:"method"`
	Gradual  bool    `json:"gradual"`
	Sparsity float64 `json:"sparsity"`
	Seed     uint64  `json:"seed"`
	Dense    float64 `json:"dense_accuracy"`
	Pruned   float64 `json:"pruned_accuracy"` // held-back images, before fine-tuning; one-shot only
	Accuracy float64 `json:"accuracy"`
}

// levelCriterion turns a method's name into how it prunes a network: magnitude and sensitivity compare
// within each matrix and random does too; gradient (SNIP) compares all weights. Sensitivity is
// magnitude with each matrix's own rate, from a scan on the held-back images.
func (l *Lab) levelTuning(method string, seed uint64, t *prune.Tuning, p Levels) error {
	switch method {
	case "magnitude":
		t.Criterion = prune.Magnitude{}
	case "gradient":
		t.Criterion = prune.SNIP{Samples: prune.Samples{Data: l.trainSet(p.Samples), Seed: seed}}
	case "sensitivity":
		t.Criterion = prune.Magnitude{}
	case "random":
		t.Criterion = prune.Random{Seed: seed}
	default:
		return fmt.Errorf("experiment: method %.40q: want magnitude, gradient, sensitivity or random: %w", method, ErrOption)
	}
	return nil
}

// Levels runs a plan, one task for each seed.
func (l *Lab) Levels(ctx context.Context, p Levels) ([]LevelRun, error) {
	_, cost, err := network(p.Net, 1)
	if err != nil {
		return nil, err
	}
	for _, m := range p.Methods {
		if err := l.levelTuning(m, 1, &prune.Tuning{}, p); err != nil {
			return nil, err
		}
	}
	data := l.trainSet(p.Samples)
	per := float64(p.Tune*data.Len()) * cost
	var mu sync.Mutex
	bySeed := make([][]LevelRun, p.Seeds)
	var tasks []task
	for s := range p.Seeds {
		seed := uint64(s + 1)
		work := float64(p.Epochs*data.Len())*cost + per*float64(len(p.Methods)*len(p.Sparsity)*len(p.Gradual))
		tasks = append(tasks, task{fmt.Sprintf("%s against sparsity, seed %d", p.Net, seed), work, func(ctx context.Context) error {
			return l.levels(ctx, p, seed, per, cost, func(r LevelRun) {
				mu.Lock()
				bySeed[s] = append(bySeed[s], r)
				mu.Unlock()
			})
		}})
	}
	err = l.work(ctx, tasks)
	var out []LevelRun
	for _, r := range bySeed {
		out = append(out, r...)
	}
	return out, err
}

func (l *Lab) levels(ctx context.Context, p Levels, seed uint64, per, cost float64, done func(LevelRun)) error {
	_, first, err := l.dense(ctx, p.Net, seed, p.Epochs, p.Batch, p.Rate, p.Samples)
	if err != nil {
		return err
	}
	var scan *prune.Scan
	for _, method := range p.Methods {
		for _, s := range p.Sparsity {
			for _, gradual := range p.Gradual {
				key := fmt.Sprintf("levels %s seed %d dense %d epochs batch %d rate %g samples %d: %s %g gradual %v epochs %d", p.Net, seed, p.Epochs, p.Batch, p.Rate, l.trainSet(p.Samples).Len(), method, s, gradual, p.Tune)
				r, err := cell(l, key, per, func() (LevelRun, error) {
					return l.level(ctx, p, method, s, gradual, seed, cost, first, &scan)
				})
				if errors.Is(err, errMissing) {
					continue
				}
				if err != nil {
					return fmt.Errorf("%s %g: %w", method, s, err)
				}
				done(r)
			}
		}
	}
	return nil
}

// level prunes and fine-tunes one network. scan is made when first needed.
func (l *Lab) level(ctx context.Context, p Levels, method string, s float64, gradual bool, seed uint64, cost float64, first denseRun, scan **prune.Scan) (LevelRun, error) {
	r := LevelRun{Method: method, Gradual: gradual, Sparsity: s, Seed: seed, Dense: 1 - first.Error}
	n, _, err := network(p.Net, seed)
	if err != nil {
		return r, err
	}
	if err := load(n, first.Weights); err != nil {
		return r, err
	}
	t := l.tuning(seed, p.Batch, p.Tune, p.Rate, l.trainSet(p.Samples))
	t.Pattern = prune.Unstructured{Sparsity: s}
	if err := l.levelTuning(method, seed, &t, p); err != nil {
		return r, err
	}
	if method == "sensitivity" {
		if *scan == nil {
			if *scan, err = prune.ScanNet(ctx, n, l.Valid, prune.ScanOptions{}); err != nil {
				return r, err
			}
		}
		if t.Rates, err = (*scan).Budget(s); err != nil {
			return r, err
		}
	}
	if gradual {
		t.Schedule, t.Updates = prune.Cubic, 20
	}
	t.Progress = func(prune.TuneProgress) { l.did(float64(p.Batch)*cost, fmt.Sprintf("%s at %g", method, s)) }
	rep, err := prune.TuneNet(ctx, n, t)
	if err != nil {
		return r, err
	}
	if !gradual {
		r.Pruned = rep.Rounds[0].Pruned
	}
	e, err := l.test(n)
	r.Accuracy = 1 - e
	l.say("%s seed %d at %g, gradual %v: %.2f %% (dense %.2f %%)", method, seed, s, gradual, 100*r.Accuracy, 100*r.Dense)
	return r, err
}
