package experiment

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune/depgraph"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
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
}

// ResNet20Slimming takes 30 % of the multiply-adds, channels in eights. The score was chosen among all
// by the accuracy before fine-tuning on the first thousand images, and is the geometric median.
func ResNet20Slimming() Slimming {
	return Slimming{
		Prune: depgraph.Options{Ratio: 0.3, FLOPs: true, Score: depgraph.Median, Scope: depgraph.Global, RoundTo: 8},
		Tune: train.Options{Epochs: 24, Batch: 50, Rate: 0.02, Optimiser: train.SGD{Momentum: 0.9, Nesterov: true, Decay: 5e-4},
			Schedule: train.Warmup(20, train.Cosine(0.01)), Clip: 5},
		Teach: train.Distill{Temperature: 3, Weight: 0.7},
		Folds: 2,
	}
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
	Latency    []Latency       `json:"latency"`
	Seconds    float64         `json:"seconds"`
	Report     depgraph.Report `json:"report"`
}

// Latency is the time of one batch, medians of interleaved runs.
type Latency struct {
	Batch   int     `json:"batch"`
	Threads int     `json:"threads"`
	Dense   float64 `json:"dense_ms"`
	Pruned  float64 `json:"pruned_ms"`
}

// Speedup is dense over pruned.
func (l Latency) Speedup() float64 { return l.Dense / l.Pruned }

type fold struct {
	Images, Dense, Cut, Tuned int // images, and those classified rightly
	Report                    depgraph.Report
}

// ResNet20 prunes the structure of a trained ResNet-20 and fine-tunes what is left on part of d; the
// smaller network of the first fold is written to dir as resnet20-SEED.onnx, which is timed.
func ResNet20(ctx context.Context, file string, d *train.Items, s Slimming, seed uint64, dir string, threads int, j *Journal, log func(string)) (Slimmed, error) {
	if s.Folds < 2 || d.Len() < 2*s.Folds {
		return Slimmed{}, fmt.Errorf("experiment: %d folds of %d images: %w", s.Folds, d.Len(), ErrOption)
	}
	start := time.Now()
	out := Slimmed{Seed: seed, Images: d.Len()}
	path := filepath.Join(dir, fmt.Sprintf("resnet20-%d.onnx", seed))
	pool := linalg.NewPool(threads)
	for k := range s.Folds {
		key := fmt.Sprintf("resnet20 seed %d fold %d of %d, %d images, %d epochs, %s %s %g", seed, k, s.Folds, d.Len(), s.Tune.Epochs, s.Prune.Score, s.Prune.Scope, s.Prune.Ratio)
		f, err := once(j, key, func() (fold, error) { return slimFold(ctx, file, d, s, seed, k, path, pool, log) })
		if err != nil {
			return out, err
		}
		out.Dense += float64(f.Dense) / float64(d.Len())
		out.Cut += float64(f.Cut) / float64(d.Len())
		out.Tuned += float64(f.Tuned) / float64(d.Len())
		if k == 0 {
			out.Report, out.MACs, out.Parameters = f.Report, f.Report.MACs, f.Report.Parameters
		}
	}
	out.Seconds = time.Since(start).Seconds()
	var err error
	out.Latency, err = Latencies(ctx, file, path, []int{1, 16}, threads)
	return out, err
}

// halves are the images of fold k, and all others.
func halves(d *train.Items, k, folds int) (test, rest *train.Items) {
	lo, hi := d.Len()*k/folds, d.Len()*(k+1)/folds
	before, after := d.Slice(0, lo), d.Slice(hi, d.Len())
	return d.Slice(lo, hi), &train.Items{Width: d.Width, X: slices.Concat(before.X, after.X), Y: slices.Concat(before.Y, after.Y)}
}

func slimFold(ctx context.Context, file string, d *train.Items, s Slimming, seed uint64, k int, path string, pool *linalg.Pool, log func(string)) (fold, error) {
	say := func(format string, a ...any) {
		if log != nil {
			log(fmt.Sprintf("seed %d, fold %d: ", seed, k) + fmt.Sprintf(format, a...))
		}
	}
	test, rest := halves(d, k, s.Folds)
	f := fold{Images: test.Len()}
	g, err := loader.Open(file)
	if err != nil {
		return f, err
	}
	defer g.Close()
	dense, err := train.New(g, pool)
	if err != nil {
		return f, err
	}
	o := s.Prune
	o.Seed = seed
	for _, n := range g.Nodes {
		if n.Op == model.OpAdd {
			o.Ignore = append(o.Ignore, n.Name)
		}
	}
	if o.Score == depgraph.Taylor {
		if o.Gradients, err = Gradients(dense, rest); err != nil {
			return f, err
		}
	}
	p, err := depgraph.New(g, o)
	if err != nil {
		return f, err
	}
	f.Report = p.Report()
	small, err := p.Small()
	if err != nil {
		return f, err
	}
	n, err := train.New(small, pool)
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
	say("dense %d, cut %d of %d", f.Dense, f.Cut, f.Images)
	t := s.Tune
	t.Seed = seed
	if s.Teach.Weight > 0 {
		t.Teacher, t.Loss = dense, s.Teach
	}
	_, err = train.Fit(ctx, n, &train.Augmented{Items: rest, C: 3, H: 32, W: 32, Shift: 4, Mirror: true, Seed: seed}, t, func(p train.Progress) {
		if p.Step%max(1, p.Steps/8) == 0 {
			say("step %d of %d, loss %.3f, %.0f samples/s, %s left", p.Step, p.Steps, p.Loss, p.PerSecond, p.Remaining.Round(time.Second))
		}
	})
	if err != nil {
		return f, err
	}
	if f.Tuned, err = count(n); err != nil {
		return f, err
	}
	say("tuned %d of %d", f.Tuned, f.Images)
	if k > 0 {
		return f, nil
	}
	if err := n.Store(); err != nil {
		return f, err
	}
	return f, loader.SaveContext(ctx, small, path, loader.SaveOptions{})
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

// Latencies times two networks of one input by turns.
func Latencies(ctx context.Context, dense, pruned string, batches []int, threads int) ([]Latency, error) {
	var out []Latency
	for _, b := range batches {
		var s [2]*runtime.Session
		var shape []int
		for i, file := range []string{dense, pruned} {
			g, err := loader.Open(file)
			if err != nil {
				return nil, err
			}
			defer g.Close()
			shape = slices.Clone(g.Values[g.Inputs[0]].Shape)
			if s[i], err = runtime.New(g, cpu.New(cpu.Threads(threads)), runtime.WithOptions(runtime.Options{DType: sparse.F32, Chunk: b})); err != nil {
				return nil, err
			}
			defer s[i].Close()
		}
		size := b
		for i := range shape {
			if i == 0 {
				shape[0] = b
			} else {
				size *= shape[i]
			}
		}
		x := make([]float32, size)
		for i := range x {
			x[i] = float32(i%17)/8 - 1
		}
		var times [2][]float64
		for round := range 60 {
			for k := range 2 {
				which := (round + k) % 2 // either goes first by turns
				at := time.Now()
				if _, err := s[which].RunFloats(ctx, x, shape...); err != nil {
					return nil, err
				}
				if round >= 5 {
					times[which] = append(times[which], time.Since(at).Seconds()*1e3)
				}
			}
		}
		for i := range times {
			slices.Sort(times[i])
		}
		out = append(out, Latency{b, threads, times[0][len(times[0])/2], times[1][len(times[1])/2]})
	}
	return out, nil
}

// ResNet20Table prints runs of ResNet20 with how the images were split.
func ResNet20Table(w io.Writer, rows []Slimmed, folds int) error {
	if len(rows) == 0 {
		return nil
	}
	fmt.Fprintf(w, "Structured pruning of ResNet-20 by %s. %d CIFAR images (from a lossy JPEG copy) in %d folds: every image is tested by a network that was fine-tuned on the other folds alone. Parameters %d -> %d. Latency: medians of interleaved runs, %d threads.\n\n",
		rows[0].Report.Score, rows[0].Images, folds, rows[0].Parameters[0], rows[0].Parameters[1], rows[0].Latency[0].Threads)
	col := func(head, format string, of func(Slimmed) float64) column[Slimmed] {
		return column[Slimmed]{head, of, format}
	}
	cols := []column[Slimmed]{
		col("dense %", "%.2f", func(r Slimmed) float64 { return 100 * r.Dense }),
		col("before tuning %", "%.2f", func(r Slimmed) float64 { return 100 * r.Cut }),
		col("pruned %", "%.2f", func(r Slimmed) float64 { return 100 * r.Tuned }),
		col("points", "%+.2f", func(r Slimmed) float64 { return 100 * (r.Tuned - r.Dense) }),
		col("fewer FLOPs %", "%.1f", func(r Slimmed) float64 { return 100 * (1 - float64(r.MACs[1])/float64(r.MACs[0])) }),
	}
	for i, l := range rows[0].Latency {
		cols = append(cols, col(fmt.Sprintf("batch %d: dense ms", l.Batch), "%.2f", func(r Slimmed) float64 { return r.Latency[i].Dense }),
			col("pruned ms", "%.2f", func(r Slimmed) float64 { return r.Latency[i].Pruned }),
			col("speed-up", "%.2f", func(r Slimmed) float64 { return r.Latency[i].Speedup() }))
	}
	return markdown(w, "seed", func(r Slimmed) string { return fmt.Sprint(r.Seed) }, rows, cols)
}

// SlimClaims checks runs of ResNet20: 30 % fewer multiply-adds within two points, and faster.
func SlimClaims(rows []Slimmed) []Claim {
	if len(rows) == 0 {
		return nil
	}
	cut, points, slowest := 1.0, []float64{}, rows[0].Latency[0]
	for _, r := range rows {
		cut = min(cut, 1-float64(r.MACs[1])/float64(r.MACs[0]))
		points = append(points, 100*(r.Tuned-r.Dense))
		for _, l := range r.Latency {
			if l.Speedup() < slowest.Speedup() {
				slowest = l
			}
		}
	}
	m, std := meanStd(points)
	return []Claim{
		{Text: "structured ResNet-20: at least 30 % fewer FLOPs", Found: fmt.Sprintf("%.1f %%", 100*cut), Holds: cut >= 0.3, Must: true},
		{Text: fmt.Sprintf("structured ResNet-20: within 2 points of dense (mean of %d seeds)", len(rows)), Found: fmt.Sprintf("%+.2f ± %.2f points", m, std), Holds: m >= -2, Must: true},
		{Text: "structured ResNet-20: latency lower, measured", Found: fmt.Sprintf("at least %.2f times as fast (batch %d)", slowest.Speedup(), slowest.Batch), Holds: slowest.Speedup() > 1},
	}
}
