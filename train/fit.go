package train

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"
)

// Options are the settings of a run. The zero value of a field takes the default named.
type Options struct {
	Epochs    int       // passes over the data; default 1
	Steps     int       // if > 0, ends after so many steps instead
	Batch     int       // samples of a step; default 128
	Rate      float64   // learning rate; default 1e-3
	Optimiser Optimiser // default Adam{}
	Schedule  Schedule  // default Constant()
	Loss      Loss      // default CrossEntropy{}
	Clip      float64   // largest norm of the gradient; 0: no limit
	Seed      uint64    // of the order of samples

	// Teacher gives the logits that a Distill loss wants, unless the data have them (Items.Teach).
	Teacher *Net

	Eval      Data // held-back samples; nil: none
	EvalEvery int  // steps between evaluations; default once an epoch
	EvalBatch int  // default Batch
	// Patience ends the run after so many evaluations without a better loss; 0: never.
	Patience int
	// KeepBest leaves the weights of the best evaluation in the network, not the last ones.
	KeepBest bool

	// OnStep, if set, is called before every step; it may change masks (gradual pruning) or
	// weights. An error ends the run.
	OnStep func(step, total int, n *Net) error
}

// Progress is reported after every step.
type Progress struct {
	Step, Steps int // done, in all
	Epoch       int // from 0
	Loss        float64
	Rate        float64
	PerSecond   float64 // samples
	Elapsed     time.Duration
	Remaining   time.Duration // estimated
	Eval        *Evaluation   // set after an evaluation
}

// Evaluation is one point of the curve on held-back data.
type Evaluation struct {
	Step  int     `json:"step"`
	Loss  float64 `json:"loss"`
	Value float64 `json:"value"` // of the metric
}

// Report sums up a run.
type Report struct {
	Epochs         float64      `json:"epochs"`
	Steps          int          `json:"steps"`
	Loss           float64      `json:"loss"`       // mean training loss of the last epoch (or of the run, if shorter)
	EvalLoss       float64      `json:"eval_loss"`  // of the weights that were kept; NaN-free: 0 without Eval
	Metric         string       `json:"metric"`     // "accuracy" or "perplexity"
	Value          float64      `json:"value"`      // on Eval; without it on the last epoch's training batches
	BestStep       int          `json:"best_step"`  // of the evaluation with the lowest loss: the early-stop iteration
	Masked         int          `json:"masked"`     // weights that masks hold at zero at the end
	Parameters     int          `json:"parameters"` // all trained weights
	Seconds        float64      `json:"seconds"`
	TrainSeconds   float64      `json:"train_seconds"` // without evaluations
	SamplesPerSec  float64      `json:"samples_per_second"`
	History        []Evaluation `json:"history"`
	StoppedEarly   bool         `json:"stopped_early"`
	Interrupted    bool         `json:"interrupted"`
	TrainLossCurve []float64    `json:"-"` // of every step
}

// taught reports whether data brings a teacher's answers along.
func taught(data Data) bool {
	d, ok := data.(interface{ Taught() bool })
	return ok && d.Taught()
}

func (o *Options) defaults(data Data) error {
	for _, d := range []struct {
		x *int
		v int
	}{{&o.Epochs, 1}, {&o.Batch, 128}} {
		if *d.x == 0 {
			*d.x = d.v
		}
	}
	if o.Rate == 0 {
		o.Rate = 1e-3
	}
	if o.Optimiser == nil {
		o.Optimiser = Adam{}
	}
	if o.Schedule == nil {
		o.Schedule = Constant()
	}
	if o.Loss == nil {
		o.Loss = CrossEntropy{}
	}
	if o.EvalBatch == 0 {
		o.EvalBatch = o.Batch
	}
	if o.Epochs < 0 || o.Steps < 0 || o.Batch < 1 || !(o.Rate > 0) || math.IsInf(o.Rate, 0) || o.Clip < 0 || o.EvalBatch < 1 || o.EvalEvery < 0 || o.Patience < 0 {
		return fmt.Errorf("train: epochs %d, steps %d, batch %d, rate %g, clip %g, patience %d: %w", o.Epochs, o.Steps, o.Batch, o.Rate, o.Clip, o.Patience, ErrOption)
	}
	if _, ok := o.Loss.(Distill); ok && o.Teacher == nil && !taught(data) {
		return fmt.Errorf("train: loss Distill without a teacher: %w", ErrOption)
	}
	return nil
}

// order is a seeded permutation of 0..n-1 for an epoch.
func order(seed uint64, epoch, n int) []int {
	return rand.New(rand.NewPCG(seed, uint64(epoch)+0x9e3779b97f4a7c15)).Perm(n)
}

// Fit trains n on data. An interrupted run returns what was reached together with ctx.Err(). progress may
// be nil.
func Fit(ctx context.Context, n *Net, data Data, o Options, progress func(Progress)) (Report, error) {
	if err := o.defaults(data); err != nil {
		return Report{}, err
	}
	samples := data.Len()
	if samples == 0 {
		return Report{}, fmt.Errorf("train: no samples: %w", ErrData)
	}
	perEpoch := (samples + o.Batch - 1) / o.Batch
	total := o.Steps
	if total == 0 {
		total = o.Epochs * perEpoch
	}
	r := &run{n: n, o: o, data: data, total: total, perEpoch: perEpoch, st: o.Optimiser.start(n.Params), begin: time.Now(), progress: progress}
	r.rep.Metric, r.best = data.Metric(), math.Inf(1)
	err := r.loop(ctx)
	return r.finish(), err
}

// run is one Fit.
type run struct {
	n               *Net
	o               Options
	data            Data
	st              stepper
	total, perEpoch int
	begin           time.Time
	progress        func(Progress)
	rep             Report
	batch           Batch
	done            int
	seen            int
	correct, rows   int // of the epoch
	evalTime        time.Duration
	best            float64
	worse           int
	kept            *Snapshot
	last            *Evaluation
}

func (r *run) loop(ctx context.Context) error {
	var perm []int
	every := r.o.EvalEvery
	if every == 0 {
		every = r.perEpoch
	}
	for r.done < r.total {
		if err := ctx.Err(); err != nil {
			r.rep.Interrupted = true
			return err
		}
		at := r.done % r.perEpoch
		if at == 0 {
			perm = order(r.o.Seed, r.done/r.perEpoch, r.data.Len())
			r.correct, r.rows = 0, 0
		}
		pick := perm[at*r.o.Batch : min(len(perm), (at+1)*r.o.Batch)]
		loss, rate, err := r.step(pick)
		if err != nil {
			return err
		}
		r.seen += len(pick)
		r.done++
		r.rep.TrainLossCurve = append(r.rep.TrainLossCurve, loss.Loss)
		r.correct, r.rows = r.correct+loss.Correct, r.rows+loss.Rows
		var eval *Evaluation
		if r.o.Eval != nil && (r.done%every == 0 || r.done == r.total) {
			if eval, err = r.evaluate(); err != nil {
				return err
			}
		}
		if r.progress != nil {
			spent := time.Since(r.begin)
			r.progress(Progress{Step: r.done, Steps: r.total, Epoch: (r.done - 1) / r.perEpoch, Loss: loss.Loss, Rate: rate, Elapsed: spent,
				PerSecond: float64(r.seen) / (spent - r.evalTime).Seconds(), Remaining: spent / time.Duration(r.done) * time.Duration(r.total-r.done), Eval: eval})
		}
		if r.o.Patience > 0 && r.worse >= r.o.Patience {
			r.rep.StoppedEarly = true
			return nil
		}
	}
	return nil
}

// step trains on one batch.
func (r *run) step(pick []int) (LossValue, float64, error) {
	n := r.n
	if r.o.OnStep != nil {
		if err := r.o.OnStep(r.done, r.total, n); err != nil {
			return LossValue{}, 0, err
		}
	}
	r.data.Fill(&r.batch, pick)
	if r.o.Teacher != nil {
		logits, err := r.o.Teacher.Forward(&r.batch, false)
		if err != nil {
			return LossValue{}, 0, err
		}
		r.batch.Teacher = logits
	}
	loss, err := n.Gradients(&r.batch, r.o.Loss)
	if err != nil {
		return loss, 0, err
	}
	if math.IsNaN(loss.Loss) || math.IsInf(loss.Loss, 0) {
		return loss, 0, fmt.Errorf("train: step %d: loss %g: %w", r.done, loss.Loss, ErrNaN)
	}
	rate := r.o.Rate * r.o.Schedule(r.done, r.total)
	if r.o.Clip > 0 {
		if norm := gradNorm(n.pool, n.Params); norm > r.o.Clip {
			f := float32(r.o.Clip / norm)
			for _, p := range n.Params {
				for i := range p.Grad {
					p.Grad[i] *= f
				}
			}
		}
	}
	stepAll(n.pool, r.st, n.Params, rate, r.done+1)
	return loss, rate, nil
}

func (r *run) evaluate() (*Evaluation, error) {
	start := time.Now()
	v, err := Evaluate(r.n, r.o.Eval, r.o.EvalBatch)
	if err != nil {
		return nil, err
	}
	r.evalTime += time.Since(start)
	e := Evaluation{Step: r.done, Loss: v.NLL, Value: v.metric(r.o.Eval.Metric())}
	r.rep.History = append(r.rep.History, e)
	r.last = &e
	r.worse++
	if e.Loss < r.best {
		r.best, r.worse, r.rep.BestStep = e.Loss, 0, r.done
		if r.o.KeepBest {
			r.kept = r.n.Snapshot()
		}
	}
	return &e, nil
}

// Perplexity is exp of the mean negative log-likelihood.
func (v LossValue) Perplexity() float64 { return math.Exp(v.NLL) }

// Accuracy is the share of rows whose largest logit is the target's, 0..1.
func (v LossValue) Accuracy() float64 { return float64(v.Correct) / float64(max(1, v.Rows)) }

// metric is the named figure.
func (v LossValue) metric(name string) float64 {
	if name == "perplexity" {
		return v.Perplexity()
	}
	return v.Accuracy()
}

func (r *run) finish() Report {
	rep := &r.rep
	for _, p := range r.n.Params {
		rep.Masked += len(p.drop)
		rep.Parameters += len(p.W)
	}
	rep.Steps, rep.Epochs = r.done, float64(r.done)/float64(r.perEpoch)
	recent := rep.TrainLossCurve[max(0, len(rep.TrainLossCurve)-r.perEpoch):]
	for _, l := range recent {
		rep.Loss += l / float64(len(recent))
	}
	switch {
	case r.last != nil && r.kept != nil:
		// A snapshot was taken of this network, so it fits.
		_ = r.n.Restore(r.kept)
		for _, e := range rep.History {
			if e.Step == rep.BestStep {
				rep.EvalLoss, rep.Value = e.Loss, e.Value
			}
		}
	case r.last != nil:
		rep.EvalLoss, rep.Value = r.last.Loss, r.last.Value
	case rep.Metric == "perplexity":
		rep.Value = math.Exp(rep.Loss)
	default:
		rep.Value = float64(r.correct) / float64(max(1, r.rows))
	}
	spent := time.Since(r.begin)
	rep.Seconds, rep.TrainSeconds = spent.Seconds(), (spent - r.evalTime).Seconds()
	rep.SamplesPerSec = float64(r.seen) / rep.TrainSeconds
	return *rep
}

// Evaluate computes the mean loss over all samples, in their order.
func Evaluate(n *Net, data Data, batch int) (LossValue, error) {
	var sum LossValue
	var b Batch
	for lo := 0; lo < data.Len(); lo += batch {
		idx := make([]int, min(batch, data.Len()-lo))
		for i := range idx {
			idx[i] = lo + i
		}
		data.Fill(&b, idx)
		out, err := n.Forward(&b, false)
		if err != nil {
			return LossValue{}, err
		}
		if err := (CrossEntropy{}).check(len(out), n.Width(), &b); err != nil {
			return LossValue{}, err
		}
		v := CrossEntropy{}.value(n.pool, out, n.Width(), &b, nil)
		sum.NLL += v.NLL * float64(v.Rows)
		sum.Rows += v.Rows
		sum.Correct += v.Correct
	}
	sum.NLL /= float64(max(1, sum.Rows))
	sum.Loss = sum.NLL
	return sum, nil
}
