package experiment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune/depgraph"
	"github.com/sparserun/sparserun/train"
)

// Slimming says how ResNet-20 is made smaller. The channels of the residual stream stay (they are
// few, and every block writes all of them); those between the two convolutions of a block go.
type Slimming struct {
	Prune depgraph.Options
	Tune  train.Options
	Teach train.Distill // the dense network is the teacher; weight 0: none
	// Folds of the images: a network is tested on one fold and has seen the others alone, so that
	// every image is tested once by a network that does not know it.
	Folds int
	// Images of the file are used, the first; more are asked for than it has: an error.
	Images int
	Seeds  int
	// Points of accuracy it may lose; the multiply-adds must fall by Prune.Ratio.
	Points float64
}

// ResNet20Slimming takes 30 % of the multiply-adds, channels in eights, which the dense convolutions of
// the CPU backend do not pad. The score was chosen among all by the accuracy before fine-tuning on the
// first thousand images, and is the geometric median.
func ResNet20Slimming() Slimming {
	return Slimming{
		Prune: depgraph.Options{Ratio: 0.3, FLOPs: true, Score: depgraph.Median, Scope: depgraph.Global, RoundTo: 8},
		Tune: train.Options{Epochs: 24, Batch: 50, Rate: 0.02, Optimiser: train.SGD{Momentum: 0.9, Nesterov: true, Decay: 5e-4},
			Schedule: train.Warmup(20, train.Cosine(0.01)), Clip: 5},
		Teach:  train.Distill{Temperature: 3, Weight: 0.7},
		Folds:  2,
		Images: 2000,
		Seeds:  3,
		Points: 2,
	}
}

// QuickSlimming takes less, sees fewer images, and may lose more.
func QuickSlimming() Slimming {
	s := ResNet20Slimming()
	s.Prune.Ratio, s.Images, s.Seeds, s.Points = 0.15, 400, 1, 5
	s.Tune.Epochs, s.Tune.Batch, s.Tune.Rate, s.Tune.Schedule = 3, 20, 0.01, train.Warmup(5, train.Cosine(0.01))
	return s
}

// Slimmed is one seed's result. Accuracies are over all images.
type Slimmed struct {
	Seed       uint64          `json:"seed"`
	Images     int             `json:"images"`
	Dense      float64         `json:"dense_accuracy"`
	Cut        float64         `json:"accuracy_before_tuning"`
	Tuned      float64         `json:"accuracy"`
	Parameters [2]int64        `json:"parameters"`
	MACs       [2]int64        `json:"multiply_adds"`
	Latency    []Latency       `json:"latency"` // of latencyBatches; none: not measured
	Seconds    float64         `json:"seconds"`
	Report     depgraph.Report `json:"report"`
}

type fold struct {
	Images, Dense, Cut, Tuned int // images, and those classified rightly
	Report                    depgraph.Report
	Seconds                   float64
}

// latencyBatches are the batches that networks are timed with.
var latencyBatches = []int{1, 16}

// ResNet20 prunes the structure of the trained ResNet-20 in file and fine-tunes what is left on part of
// d (nil if Offline), one task for each seed and fold. dir gets the first fold's network,
// resnet20-SEED.onnx, and the journal resnet20.jsonl. When nothing else runs any more, networks of the
// same structure are timed on so many threads.
func (l *Lab) ResNet20(ctx context.Context, s Slimming, file string, d *train.Items, dir string, threads int) ([]Slimmed, error) {
	if s.Folds < 2 || s.Images < 2*s.Folds || d == nil && !l.Offline || d != nil && d.Len() < s.Images {
		have := 0
		if d != nil {
			have = d.Len()
		}
		return nil, fmt.Errorf("experiment: want %d images in %d folds of at least two, got %d: %w", s.Images, s.Folds, have, ErrOption)
	}
	if d != nil {
		d = d.Slice(0, s.Images)
	}
	j, err := OpenJournal(filepath.Join(dir, "resnet20.jsonl"))
	if err != nil {
		return nil, err
	}
	folds := make([][]*fold, s.Seeds) // by seed and fold; nil: missing
	var tasks []task
	for i := range folds {
		seed := uint64(i + 1)
		folds[i] = make([]*fold, s.Folds)
		for k := range s.Folds {
			work := float64(s.Tune.Epochs * s.Images * (s.Folds - 1) / s.Folds)
			key := fmt.Sprintf("resnet20 seed %d fold %d of %d, %d images, %d epochs, %s %s %g by %d", seed, k, s.Folds, s.Images, s.Tune.Epochs, s.Prune.Score, s.Prune.Scope, s.Prune.Ratio, s.Prune.RoundTo)
			tasks = append(tasks, task{fmt.Sprintf("resnet20 seed %d fold %d", seed, k), work, func(ctx context.Context) error {
				f, err := cellOf(l, j, key, work, func() (fold, error) { return l.slimFold(ctx, file, d, s, seed, k, dir) })
				if err == nil {
					folds[i][k] = &f
				}
				return err
			}})
		}
	}
	if err := l.work(ctx, tasks); err != nil {
		return nil, err
	}
	var out []Slimmed
	for i, of := range folds {
		if slices.Contains(of, nil) {
			continue
		}
		r := Slimmed{Seed: uint64(i + 1), Images: s.Images, Report: of[0].Report, MACs: of[0].Report.MACs, Parameters: of[0].Report.Parameters}
		for _, f := range of {
			r.Dense += float64(f.Dense) / float64(s.Images)
			r.Cut += float64(f.Cut) / float64(s.Images)
			r.Tuned += float64(f.Tuned) / float64(s.Images)
			r.Seconds += f.Seconds
		}
		key := fmt.Sprintf("resnet20 seed %d latency, %s %s %g by %d", r.Seed, s.Prune.Score, s.Prune.Scope, s.Prune.Ratio, s.Prune.RoundTo)
		r.Latency, err = cellOf(l, j, key, 0, func() ([]Latency, error) { return slimLatency(ctx, file, s, r.Seed, threads) })
		if err != nil && !errors.Is(err, errMissing) {
			return out, err
		}
		out = append(out, r)
	}
	return out, nil
}

// slimLatency times the structure that a seed is left with: what the weights are does not matter.
func slimLatency(ctx context.Context, file string, s Slimming, seed uint64, threads int) ([]Latency, error) {
	g, err := loader.Open(file)
	if err != nil {
		return nil, err
	}
	defer g.Close()
	p, err := slim(g, s, seed)
	if err != nil {
		return nil, err
	}
	small, err := p.Small()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "sparserun-resnet20-")
	if err != nil {
		return nil, fmt.Errorf("experiment: %w", err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "small.onnx")
	if err := loader.SaveContext(ctx, small, path, loader.SaveOptions{}); err != nil {
		return nil, err
	}
	return Latencies(ctx, file, path, latencyBatches, threads)
}

// slim plans what goes from a network; its additions, the residual stream, stay.
func slim(g *model.Graph, s Slimming, seed uint64) (*depgraph.Plan, error) {
	o := s.Prune
	o.Seed = seed
	for _, n := range g.Nodes {
		if n.Op == model.OpAdd {
			o.Ignore = append(o.Ignore, n.Name)
		}
	}
	return depgraph.New(g, o)
}

// halves are the images of fold k, and all others.
func halves(d *train.Items, k, folds int) (test, rest *train.Items) {
	lo, hi := d.Len()*k/folds, d.Len()*(k+1)/folds
	before, after := d.Slice(0, lo), d.Slice(hi, d.Len())
	return d.Slice(lo, hi), &train.Items{Width: d.Width, X: slices.Concat(before.X, after.X), Y: slices.Concat(before.Y, after.Y)}
}

func (l *Lab) slimFold(ctx context.Context, file string, d *train.Items, s Slimming, seed uint64, k int, dir string) (fold, error) {
	start := time.Now()
	test, rest := halves(d, k, s.Folds)
	f := fold{Images: test.Len()}
	g, err := loader.Open(file)
	if err != nil {
		return f, err
	}
	defer g.Close()
	dense, err := train.New(g, linalg.NewPool(1))
	if err != nil {
		return f, err
	}
	p, err := slim(g, s, seed)
	if err != nil {
		return f, err
	}
	f.Report = p.Report()
	small, err := p.Small()
	if err != nil {
		return f, err
	}
	n, err := train.New(small, linalg.NewPool(1))
	if err != nil {
		return f, err
	}
	count := func(n *train.Net) (int, error) {
		v, err := train.Evaluate(n, test, 100)
		return v.Correct, err
	}
	if f.Dense, err = count(dense); err != nil {
		return f, err
	}
	if f.Cut, err = count(n); err != nil {
		return f, err
	}
	t := s.Tune
	t.Seed = seed
	if s.Teach.Weight > 0 {
		t.Teacher, t.Loss = dense, s.Teach
	}
	_, err = train.Fit(ctx, n, &train.Augmented{Items: rest, C: 3, H: 32, W: 32, Shift: 4, Mirror: true, Seed: seed}, t, func(train.Progress) {
		l.did(float64(t.Batch), "resnet20")
	})
	if err != nil {
		return f, err
	}
	if f.Tuned, err = count(n); err != nil {
		return f, err
	}
	f.Seconds = time.Since(start).Seconds()
	l.say("resnet20 seed %d fold %d: of %d images %d, after pruning %d, after tuning %d", seed, k, f.Images, f.Dense, f.Cut, f.Tuned)
	if k > 0 {
		return f, nil
	}
	if err := n.Store(); err != nil {
		return f, err
	}
	return f, loader.SaveContext(ctx, small, filepath.Join(dir, fmt.Sprintf("resnet20-%d.onnx", seed)), loader.SaveOptions{})
}

// Gradients sums those of the loss over a set of images, by weight, with batch norms as in inference.
func Gradients(n *train.Net, d *train.Items) (map[string][]float32, error) {
	out := map[string][]float32{}
	var b train.Batch
	for lo := 0; lo < d.Len(); lo += 100 {
		idx := make([]int, min(100, d.Len()-lo))
		for i := range idx {
			idx[i] = lo + i
		}
		d.Fill(&b, idx)
		if _, err := n.InferenceGradients(&b, train.CrossEntropy{}); err != nil {
			return nil, err
		}
		for _, p := range n.Params {
			if out[p.Name] == nil {
				out[p.Name] = make([]float32, len(p.Grad))
			}
			linalg.Axpy(float32(len(idx)), p.Grad, out[p.Name])
		}
	}
	return out, nil
}

// SlimClaims checks runs against their plan: as many fewer multiply-adds, within so many points, and faster.
func SlimClaims(p Slimming, runs []Slimmed) []Claim {
	if len(runs) == 0 {
		return nil
	}
	cut := 1.0
	var slowest *Latency
	for _, r := range runs {
		cut = min(cut, 1-float64(r.MACs[1])/float64(r.MACs[0]))
		for _, l := range r.Latency {
			if slowest == nil || l.Speedup() < slowest.Speedup() {
				slowest = &l
			}
		}
	}
	rise := each(runs, func(r Slimmed) float64 { return 100 * (r.Tuned - r.Dense) })
	out := []Claim{
		{fmt.Sprintf("structured ResNet-20: at least %g %% fewer FLOPs", 100*p.Prune.Ratio), fmt.Sprintf("%.1f %%", 100*cut), cut >= p.Prune.Ratio, true},
		{fmt.Sprintf("structured ResNet-20: within %g points of dense (mean of %d seeds)", p.Points, len(runs)), fmt.Sprintf("%+.2f ± %.2f points", rise.Mean, rise.Std), rise.Mean >= -p.Points, true},
	}
	if slowest != nil {
		out = append(out, Claim{"structured ResNet-20: latency lower, measured", fmt.Sprintf("at least %.2f times as fast (batch %d, %d threads)", slowest.Speedup(), slowest.Batch, slowest.Threads), slowest.Speedup() > 1, false})
	}
	return out
}
