package prune

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// ErrGate: no network that training reached met the accuracy asked for.
var ErrGate = errors.New("accuracy gate not met")

// Tuning prunes a network in training: prune, fine-tune, and again, to a target.
//
// With Rounds (or the schedule of that name, or OneShot) the steps of Fit are split evenly among
// the levels of the schedule: at each, weights go by Criterion and the rest is fine-tuned with a
// fresh optimiser. Otherwise one run of Fit goes on while sparsity rises along the schedule
// during the first Ramp of its steps (gradual pruning).
type Tuning struct {
	Criterion Criterion          // nil: Magnitude{}
	Pattern   Pattern            // the target
	Rates     map[string]float64 // the matrices' own sparsities at the target, in place of the pattern's; see Scan
	Include   []string           // see Targets; the default is train.Net.Prunable
	Exclude   []string
	KeepZeros bool // zeros of the network stay, and count

	Schedule Schedule
	Rounds   int     // levels; 0: gradual where the schedule can
	Ramp     float64 // share of the steps; 0: 0.5
	Updates  int     // of masks along the ramp; 0: 50
	Splice   *Splice // pruned weights may return (gradual, Unstructured)

	Train train.Data
	// Fit are the settings of fine-tuning; its Steps or Epochs are all of it, over all rounds. No steps:
	// none. Its Eval chooses: with KeepBest the best of the evaluations at the full sparsity of a
	// round stays, by the metric and then by loss; Patience counts those evaluations only.
	Fit train.Options
	// Distill trains towards the dense network as well: Fit.Teacher's answers, or those that Train
	// carries (train.Items.Teach).
	Distill *train.Distill

	// Gate keeps the last round whose value on Fit.Eval is within MaxLoss of the dense network's:
	// points of accuracy as a fraction, or the relative rise of perplexity.
	Gate    bool
	MaxLoss float64

	Progress func(TuneProgress)
}

// TuneProgress is reported after every step of fine-tuning.
type TuneProgress struct {
	Step, Steps   int // over all rounds
	Round, Rounds int // from 1
	Sparsity      float64
	Loss          float64
	Eval          *train.Evaluation // set after an evaluation
	Remaining     time.Duration
}

// Round is one prune and fine-tune.
type Round struct {
	Sparsity float64 `json:"sparsity"`
	Pruned   float64 `json:"value_pruned"` // of the metric on Fit.Eval, before fine-tuning
	Value    float64 `json:"value"`
	Loss     float64 `json:"loss"`
	Steps    int     `json:"steps"`
	BestStep int     `json:"best_step"`
	Met      bool    `json:"met"` // the gate
}

// TuneReport sums up a Tuning. Values are of the metric on Fit.Eval, 0 without it.
type TuneReport struct {
	Method   string  `json:"method"`
	Schedule string  `json:"schedule"`
	Pattern  string  `json:"pattern"`
	Sparsity float64 `json:"sparsity"` // over the pruned matrices
	Metric   string  `json:"metric"`
	Dense    float64 `json:"value_dense"`
	Value    float64 `json:"value"`
	Steps    int     `json:"steps"`
	Returned int     `json:"returned,omitempty"` // weights that splicing brought back
	Rounds   []Round `json:"rounds"`
	Seconds  float64 `json:"seconds"`
	Gate     bool    `json:"gate"` // it stopped the rounds before the target
}

// errEnough ends a fit whose patience is over.
var errEnough = errors.New("enough")

// tuner is the state of a Tuning.
type tuner struct {
	o       Tuning
	n       *train.Net
	targets []*train.Param
	rates   []float64
	from    float64 // sparsity at the start
	to      float64
	total   int // steps
	done    int
	begin   time.Time
	rep     TuneReport
}

// TuneNet prunes and fine-tunes n in place; it ends with the masks in force.
func TuneNet(ctx context.Context, n *train.Net, o Tuning) (TuneReport, error) {
	t := &tuner{o: o, n: n, begin: time.Now()}
	if err := t.check(); err != nil {
		return t.rep, err
	}
	dense := n.Snapshot()
	masks := getMasks(t.targets)
	value, err := t.evaluate()
	if err != nil {
		return t.rep, err
	}
	t.rep.Dense = value.Value
	if t.gradual() {
		err = t.ramp(ctx)
	} else {
		err = t.rounds(ctx)
	}
	if errors.Is(err, ErrGate) {
		if e := setMasks(t.targets, masks); e != nil {
			return t.rep, e
		}
		if e := n.Restore(dense); e != nil {
			return t.rep, e
		}
	}
	t.rep.Sparsity, t.rep.Steps, t.rep.Seconds = masked(t.targets), t.done, time.Since(t.begin).Seconds()
	return t.rep, err
}

func (t *tuner) check() error {
	o := &t.o
	if o.Criterion == nil {
		o.Criterion = Magnitude{}
	}
	if o.Pattern == nil {
		return fmt.Errorf("prune: no pattern: %w", ErrPattern)
	}
	if err := o.Pattern.check(); err != nil {
		return err
	}
	o.Pattern = resolveScope(o.Pattern, o.Criterion.own())
	var err error
	if o.Schedule, err = ParseSchedule(string(o.Schedule)); err != nil {
		return err
	}
	_, flat := o.Pattern.(Unstructured)
	if _, nm := o.Pattern.(NM); nm && o.Schedule != OneShot {
		return fmt.Errorf("prune: pattern %v rises in no schedule: want oneshot, got %q: %w", o.Pattern, o.Schedule, ErrMethod)
	}
	if (o.Rates != nil || o.Splice != nil) && !flat {
		return fmt.Errorf("prune: pattern %v: rates and splicing want a sparsity: %w", o.Pattern, ErrMethod)
	}
	if o.Ramp == 0 {
		o.Ramp = 0.5
	}
	if o.Updates == 0 {
		o.Updates = 50
	}
	switch {
	case o.Rounds < 0 || !(o.Ramp > 0 && o.Ramp <= 1) || o.Updates < 1 || !(o.MaxLoss >= 0):
		return fmt.Errorf("prune: rounds %d, ramp %g, updates %d, largest loss %g: %w", o.Rounds, o.Ramp, o.Updates, o.MaxLoss, ErrMethod)
	case o.Gate && o.Fit.Eval == nil:
		return fmt.Errorf("prune: a gate wants data to evaluate on: %w", ErrMethod)
	case o.Distill != nil && o.Fit.Teacher == nil && !taught(o.Train):
		return fmt.Errorf("prune: distillation wants a teacher: %w", ErrMethod)
	case o.Splice != nil && o.Schedule == Rounds:
		return fmt.Errorf("prune: splicing goes along a schedule, not by rounds: %w", ErrMethod)
	}
	if o.Distill != nil {
		o.Fit.Loss = *o.Distill
	}
	if t.targets, err = netTargets(t.n, o.Include, o.Exclude); err != nil {
		return err
	}
	if o.KeepZeros {
		if _, err := t.n.KeepZeros(); err != nil {
			return err
		}
	}
	if t.total = o.Fit.Steps; t.total == 0 && o.Fit.Epochs > 0 {
		if o.Train == nil {
			return fmt.Errorf("prune: fine-tuning without data: %w", ErrMethod)
		}
		batch := o.Fit.Batch
		if batch == 0 {
			batch = 128
		}
		t.total = o.Fit.Epochs * ((o.Train.Len() + batch - 1) / batch)
	}
	if t.total > 0 && o.Train == nil || t.total < 0 {
		return fmt.Errorf("prune: %d steps of fine-tuning without data: %w", t.total, ErrMethod)
	}
	if t.total < 2 && (o.Splice != nil || o.Schedule != OneShot && o.Rounds == 0 && o.Schedule != Rounds) {
		return fmt.Errorf("prune: schedule %s rises during fine-tuning: want at least 2 steps: %w", o.Schedule, ErrMethod)
	}
	t.from, t.to = masked(t.targets), o.Pattern.Target()
	if err := t.resolveRates(); err != nil {
		return err
	}
	if t.to < t.from {
		return fmt.Errorf("prune: %.4f of the weights are zero already, more than the target %.4f: %w", t.from, t.to, ErrPattern)
	}
	t.rep.Method, t.rep.Schedule, t.rep.Pattern = o.Criterion.Name(), string(o.Schedule), o.Pattern.String()
	return nil
}

// taught reports whether data brings a teacher's answers along.
func taught(d train.Data) bool {
	t, ok := d.(interface{ Taught() bool })
	return ok && t.Taught()
}

// resolveRates checks Rates and makes the target what they amount to.
func (t *tuner) resolveRates() error {
	if t.o.Rates == nil {
		return nil
	}
	zeros, all := 0, 0
	for _, p := range t.targets {
		r, ok := t.o.Rates[p.Name]
		if !ok {
			return fmt.Errorf("prune: %q has no rate: %w", p.Name, ErrTarget)
		}
		if err := checkSparsity(r); err != nil {
			return fmt.Errorf("%q: %w", p.Name, err)
		}
		t.rates = append(t.rates, r)
		zeros, all = zeros+budget(len(p.W), r), all+len(p.W)
	}
	if len(t.o.Rates) != len(t.targets) {
		return fmt.Errorf("prune: %d rates for %d matrices: %w", len(t.o.Rates), len(t.targets), ErrTarget)
	}
	t.to = float64(zeros) / float64(max(1, all))
	t.o.Pattern = Unstructured{Sparsity: t.to, Scope: ScopeGlobal}
	return nil
}

func (t *tuner) gradual() bool {
	return t.o.Splice != nil || t.o.Rounds == 0 && t.o.Schedule != OneShot && t.o.Schedule != Rounds
}

// ratesAt are the matrices' sparsities when all together are at s: every matrix has gone the same
// share of its way, on the scale on which kept shares multiply.
func (t *tuner) ratesAt(s float64) []float64 {
	if t.rates == nil || s >= t.to {
		return t.rates
	}
	a := math.Log(math.Max(1-s, 1e-9)) / math.Log(math.Max(1-t.to, 1e-9))
	out := make([]float64, len(t.rates))
	for i, r := range t.rates {
		out[i] = 1 - math.Pow(math.Max(1-r, 1e-9), a)
	}
	return out
}

// raise prunes to sparsity s.
func (t *tuner) raise(ctx context.Context, s float64) error {
	scores := make([][]float32, len(t.targets))
	for i, p := range t.targets {
		scores[i] = make([]float32, len(p.W))
	}
	if err := t.o.Criterion.rank(ctx, t.n, t.targets, scores); err != nil {
		return err
	}
	masks, err := cutMasks(t.targets, scores, withSparsity(t.o.Pattern, s), t.ratesAt(s))
	if err != nil {
		return err
	}
	return setMasks(t.targets, masks)
}

// evaluate is the value on Fit.Eval now.
func (t *tuner) evaluate() (train.Evaluation, error) {
	if t.o.Fit.Eval == nil {
		return train.Evaluation{}, nil
	}
	t.rep.Metric = t.o.Fit.Eval.Metric()
	batch := t.o.Fit.EvalBatch
	if batch == 0 {
		batch = max(1, t.o.Fit.Batch)
	}
	v, err := train.Evaluate(t.n, t.o.Fit.Eval, batch)
	e := train.Evaluation{Loss: v.NLL, Value: v.Accuracy()}
	if t.rep.Metric == "perplexity" {
		e.Value = v.Perplexity()
	}
	return e, err
}

// better compares two evaluations by the metric, then by loss.
func better(metric string, a, b train.Evaluation) bool {
	if a.Value != b.Value {
		return (a.Value > b.Value) == (metric != "perplexity")
	}
	return a.Loss < b.Loss
}

// met reports whether a value passes the gate.
func (t *tuner) met(v float64) bool {
	if t.rep.Metric == "perplexity" {
		return v <= t.rep.Dense*(1+t.o.MaxLoss)
	}
	return v >= t.rep.Dense-t.o.MaxLoss-1e-12
}

// fit fine-tunes for some steps; evaluations count from step hold on. onStep is called before each.
func (t *tuner) fit(ctx context.Context, steps, hold int, round *Round, rounds int, onStep func(step int) error) error {
	o := t.o.Fit
	o.Steps, o.Epochs, o.Patience, o.KeepBest = steps, 0, 0, false
	var best *train.Evaluation
	var kept *train.Snapshot
	worse := 0
	theirs := o.OnStep
	watch, _ := t.o.Criterion.(interface {
		observe(int, []*train.Param)
	})
	o.OnStep = func(step, total int, n *train.Net) error {
		if t.o.Fit.Patience > 0 && worse >= t.o.Fit.Patience {
			return errEnough
		}
		if watch != nil {
			watch.observe(step, t.targets)
		}
		if onStep != nil {
			if err := onStep(step); err != nil {
				return err
			}
		}
		if theirs != nil {
			return theirs(step, total, n)
		}
		return nil
	}
	_, err := train.Fit(ctx, t.n, t.o.Train, o, func(p train.Progress) {
		t.done++
		round.Steps = p.Step
		if e := p.Eval; e != nil && p.Step > hold {
			if worse++; best == nil || better(t.rep.Metric, *e, *best) {
				best, worse, round.BestStep = e, 0, p.Step
				if t.o.Fit.KeepBest {
					kept = t.n.Snapshot()
				}
			}
		}
		if t.o.Progress != nil {
			spent := time.Since(t.begin)
			t.o.Progress(TuneProgress{Step: t.done, Steps: t.total, Round: len(t.rep.Rounds) + 1, Rounds: rounds, Sparsity: masked(t.targets), Loss: p.Loss,
				Eval: p.Eval, Remaining: spent / time.Duration(t.done) * time.Duration(max(0, t.total-t.done))})
		}
	})
	if err != nil && !errors.Is(err, errEnough) {
		return err
	}
	if kept != nil {
		return t.n.Restore(kept)
	}
	return nil
}

// finish evaluates a round and records it.
func (t *tuner) finish(r *Round) error {
	e, err := t.evaluate()
	if err != nil {
		return err
	}
	r.Sparsity, r.Value, r.Loss, r.Met = masked(t.targets), e.Value, e.Loss, !t.o.Gate || t.met(e.Value)
	t.rep.Rounds = append(t.rep.Rounds, *r)
	t.rep.Value = e.Value
	return nil
}

// rounds prunes and fine-tunes level by level.
func (t *tuner) rounds(ctx context.Context) error {
	levels := t.o.Schedule.Levels(t.from, t.to, t.o.Rounds)
	var best *train.Snapshot
	var bestMasks []*sparse.Mask
	var bestValue float64
	for i, s := range levels {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := t.raise(ctx, s); err != nil {
			return err
		}
		var r Round
		e, err := t.evaluate()
		if err != nil {
			return err
		}
		r.Pruned = e.Value
		if steps := t.total*(i+1)/len(levels) - t.total*i/len(levels); steps > 0 {
			if err := t.fit(ctx, steps, 0, &r, len(levels), nil); err != nil {
				return err
			}
		}
		if err := t.finish(&r); err != nil {
			return err
		}
		if r.Met {
			if t.o.Gate {
				best, bestMasks, bestValue = t.n.Snapshot(), getMasks(t.targets), r.Value
			}
			continue
		}
		t.rep.Gate = true
		if best == nil {
			return t.refused(r.Value)
		}
		t.rep.Value = bestValue
		if err := setMasks(t.targets, bestMasks); err != nil {
			return err
		}
		return t.n.Restore(best)
	}
	return nil
}

func (t *tuner) refused(value float64) error {
	return fmt.Errorf("prune: %s at sparsity %.4f: want within %g of the dense %.4f, got %.4f: %w", t.rep.Metric, masked(t.targets), t.o.MaxLoss, t.rep.Dense, value, ErrGate)
}

// ramp is gradual pruning: one fit, masks that rise on the way.
func (t *tuner) ramp(ctx context.Context) error {
	hold := min(max(1, int(t.o.Ramp*float64(t.total))), t.total-1) // at least one step has the target
	updates := min(t.o.Updates, hold)
	next := 0
	var sp *splicer
	if t.o.Splice != nil {
		sp = newSplicer(t, *t.o.Splice)
	}
	var r Round
	err := t.fit(ctx, t.total, hold, &r, 1, func(step int) error {
		rise := next <= updates && step >= next*hold/updates
		s := t.o.Schedule.At(float64(next)/float64(updates), t.from, t.to)
		if rise {
			next++
		}
		switch {
		case sp != nil:
			return sp.step(step, hold, s)
		case rise && next > 1:
			return t.raise(ctx, s)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if sp != nil {
		t.rep.Returned = sp.returned
	}
	if err := t.finish(&r); err != nil {
		return err
	}
	if !r.Met {
		t.rep.Gate = true
		return t.refused(r.Value)
	}
	return nil
}
