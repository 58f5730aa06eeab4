package main

import (
	"fmt"
	"io"
	"maps"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// tuneFlags prune a network in training: criteria that look at gradients, schedules, fine-tuning.
type tuneFlags struct {
	labelFlags
	Schedule string  `enum:"oneshot,linear,cubic,exp,rounds" default:"oneshot" help:"How sparsity rises during fine-tuning: oneshot, linear, cubic, exp, or rounds (a fifth of the survivors each)."`
	Rounds   int     `default:"0" help:"Prune and fine-tune this many times along the schedule, instead of gradually."`
	Finetune float64 `default:"0" help:"Epochs of fine-tuning in all, e.g. 5." placeholder:"EPOCHS"`
	Rate     float64 `default:"1e-3" help:"Learning rate (Adam; cosine to a hundredth)."`
	Batch    int     `default:"128" help:"Samples of a step (a language model: 8 sequences do)."`
	Distill  bool    `help:"Fine-tune towards the answers of the network as it was, too (temperature 4, weight 0.7)."`
	Splice   bool    `help:"Pruned weights keep learning and may return while sparsity rises (dynamic network surgery)."`
	Patience int     `default:"0" help:"End fine-tuning after so many evaluations without a better one (one an epoch)."`
}

const tuneMethodHelp = "With --mnist, --cifar, --data or --text also lamp, magnitude-std, snip, taylor, fisher, movement, sensitivity (own rates from a scan)."

// tunes reports whether the flags ask for pruning in training.
func (c *pruneCmd) tunes() bool { return c.labelFlags.given() > 0 }

// criterion turns a name into a criterion with its data.
func criterion(name string, seed uint64, d train.Data, batch int) (prune.Criterion, error) {
	s := prune.Samples{Data: d, Seed: seed}
	if d != nil && d.Metric() == "perplexity" {
		s.Batch = batch
	}
	switch name {
	case "magnitude", "sensitivity":
		return prune.Magnitude{}, nil
	case "random":
		return prune.Random{Seed: seed}, nil
	case "lamp":
		return prune.LAMP{}, nil
	case "magnitude-std":
		return prune.MagnitudeStd{}, nil
	case "snip", "gradient":
		return prune.SNIP{Samples: s}, nil
	case "taylor":
		return prune.Taylor{Samples: s}, nil
	case "fisher":
		return prune.Fisher{Samples: s}, nil
	case "movement":
		return prune.NewMovement(s), nil
	}
	return nil, usagef("--method: with --mnist, --cifar, --data or --text want magnitude, lamp, magnitude-std, random, snip, taylor, fisher, movement or sensitivity, got %q", name)
}

// tuneJSON is what prune prints of pruning in training; values are of metric.
type tuneJSON struct {
	pruneJSON
	Tune *prune.TuneReport `json:"tune"`
	Test *testJSON         `json:"test,omitempty"`
}

// testJSON are figures of data that nothing was chosen by.
type testJSON struct {
	Metric string  `json:"metric"`
	Dense  float64 `json:"value_dense"`
	Value  float64 `json:"value"`
	N      int     `json:"n"`
}

// tune is prune.Tune with progress.
func tune(g *globals, gr *model.Graph, t prune.Tuning, o prune.Options) (*prune.Report, *prune.TuneReport, error) {
	l := g.steps(1000, "pruning")
	defer l.done()
	t.Progress = func(p prune.TuneProgress) {
		l.at(1000*p.Step/max(1, p.Steps), fmt.Sprintf("sparsity %.3f, loss %.3f", p.Sparsity, p.Loss),
			fmt.Sprintf("step %d of %d, sparsity %.4f, loss %.4f, %s left", p.Step, p.Steps, p.Sparsity, p.Loss, p.Remaining.Round(time.Second)), p.Eval)
	}
	return prune.Tune(g.ctx, gr, t, o)
}

// tune prunes gr as the flags say and writes it.
func (c *pruneCmd) tune(g *globals, gr *model.Graph, p prune.Pattern, t sparse.DType, sum string) error {
	if c.structured() || c.Allocate != "" || c.Permute {
		return usagef("--heads, --channels, --layers, --allocate and --permute do not go with --mnist, --cifar, --data and --text")
	}
	if gr.Tensors() && c.Quant == "" {
		t = sparse.F32 // what an ONNX file of float32 holds
	}
	o, err := c.options(g, t, sum)
	if err != nil {
		return err
	}
	data, err := c.labelFlags.open(gr, c.EvalText)
	if err != nil {
		return err
	}
	pool := linalg.NewPool(g.threads())
	measure := func() (float64, error) {
		n, err := train.New(gr, pool)
		if err != nil {
			return 0, err
		}
		return metricOf(n, data.test)
	}
	out := tuneJSON{pruneJSON: pruneJSON{Output: c.Output}}
	if data.test != nil {
		out.Test = &testJSON{Metric: data.test.Metric(), N: data.test.Len()}
		if out.Test.Dense, err = measure(); err != nil {
			return err
		}
	}
	tuning, err := c.tuning(g, gr, p, data, pool)
	if err != nil {
		return err
	}
	source := gr.WeightBytes().Total()
	use := startUsage()
	if out.Report, out.Tune, err = tune(g, gr, tuning, o); err != nil {
		return err
	}
	out.usage = use.stop()
	if c.Method == "sensitivity" {
		out.Report.Method, out.Report.Recipe["prune.method"] = c.Method, c.Method
	}
	if out.Test != nil {
		if out.Test.Value, err = measure(); err != nil {
			return err
		}
	}
	meta := maps.Clone(out.Report.Recipe)
	meta["sparserun.version"] = Version
	so := loader.SaveOptions{Meta: meta, DType: t}
	if c.Format == "dense" && c.Quant == "" {
		so.Format = loader.FormatDense
	}
	out.Sizes = sizesOf(gr, out.Report, source, so)
	if err := loader.SaveContext(g.ctx, gr, c.Output, so); err != nil {
		return err
	}
	if out.FileSize, err = diskBytes(c.Output); err != nil {
		return err
	}
	return g.print(out, func(w io.Writer) {
		r := out.Tune
		fmt.Fprintf(w, "%s, %s: %.2f %% of the weights zero after %d steps, %.0f s\n", out.Report.Method, r.Schedule, 100*out.Report.Sparsity, r.Steps, r.Seconds)
		if r.Gate {
			fmt.Fprintf(w, "stopped before the target: the next round lost more than %g\n", c.MaxLoss)
		}
		if r.Metric != "" {
			fmt.Fprintf(w, "held-back %s: dense %.4f, now %.4f\n", r.Metric, r.Dense, r.Value)
		}
		if x := out.Test; x != nil {
			fmt.Fprintf(w, "test %s: dense %.4f, now %.4f (%d images)\n", x.Metric, x.Dense, x.Value, x.N)
		}
		for _, l := range out.Report.Layers {
			fmt.Fprintf(w, "  %-24s %d x %d, %.2f %% kept, %s\n", l.Name, l.Rows, l.Cols, 100*(1-l.Sparsity), size(l.Bytes))
		}
		fmt.Fprintf(w, "weights %s -> %s; %s: %s\n", size(out.Report.Before.Bytes), size(out.Report.After.Bytes), c.Output, size(out.FileSize))
	})
}

// evalBatch is how many samples are evaluated together: 8 sequences of text, 500 images, and fewer of a network
// whose values would take more than 2 GiB.
func evalBatch(n *train.Net, d train.Data) int {
	if d.Metric() == "perplexity" {
		return 8
	}
	return max(1, min(500, 1<<29/max(1, n.Footprint())))
}

// metricOf is a network's figure on data.
func metricOf(n *train.Net, d train.Data) (float64, error) {
	v, err := train.Evaluate(n, d, evalBatch(n, d))
	if d.Metric() == "perplexity" {
		return v.Perplexity(), err
	}
	return v.Accuracy(), err
}

// tuning is what the flags say of schedule and fine-tuning.
func (c *pruneCmd) tuning(g *globals, gr *model.Graph, p prune.Pattern, d labelled, pool *linalg.Pool) (prune.Tuning, error) {
	t := prune.Tuning{Pattern: p, Schedule: prune.Schedule(c.Schedule), Rounds: c.Rounds, Gate: c.MaxLoss > 0, MaxLoss: c.MaxLoss}
	var err error
	if t.Train, err = augmented(d.train, gr, c.Augment, c.Seed); err != nil {
		return t, err
	}
	if t.Criterion, err = criterion(c.Method, c.Seed, d.train, c.Batch); err != nil {
		return t, err
	}
	if c.Batch < 1 || !(c.Rate > 0) || !(c.Finetune >= 0) || c.Rounds < 0 || c.Patience < 0 {
		return t, usagef("--batch, --rate, --finetune, --rounds and --patience: want numbers above zero, got %d, %g, %g, %d, %d", c.Batch, c.Rate, c.Finetune, c.Rounds, c.Patience)
	}
	perEpoch := (d.train.Len() + c.Batch - 1) / c.Batch
	t.Fit = train.Options{Steps: int(c.Finetune * float64(perEpoch)), Batch: c.Batch, Rate: c.Rate, Optimiser: train.Adam{}, Schedule: train.Cosine(0.01), Seed: c.Seed,
		Eval: d.held, EvalEvery: perEpoch, EvalBatch: 500, KeepBest: d.held != nil, Patience: c.Patience}
	switch {
	case c.Text != "":
		t.Fit.EvalBatch, t.Fit.Clip = 8, 1
	case c.Data != "":
		t.Fit.EvalBatch = c.Batch
	}
	if t.Gate && t.Rounds == 0 && t.Schedule != prune.OneShot && t.Schedule != prune.Rounds {
		t.Rounds = 10 // so that there is something to go back to
	}
	if c.Distill {
		t.Distill = &train.Distill{Temperature: 4, Weight: 0.7}
	}
	if c.Splice {
		t.Splice = &prune.Splice{Seed: c.Seed}
	}
	if c.Method != "sensitivity" {
		return t, nil
	}
	u, ok := p.(prune.Unstructured)
	if !ok {
		return t, usagef("--method sensitivity wants --sparsity")
	}
	on := d.held
	if on == nil {
		on = d.train
	}
	n, err := train.New(gr, pool)
	if err != nil {
		return t, err
	}
	scan, err := scanNet(g, n, on, prune.ScanOptions{Include: c.Include, Exclude: c.Exclude})
	if err != nil {
		return t, err
	}
	t.Rates, err = scan.Budget(u.Sparsity)
	return t, err
}
