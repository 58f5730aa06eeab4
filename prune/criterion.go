package prune

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"strconv"

	"github.com/sparserun/sparserun/train"
)

// Criterion ranks the weights of a network that train holds: the weights with the smallest scores
// go. Magnitude, MagnitudeStd, LAMP and Random look at weights alone; SNIP, Taylor, Fisher and
// Movement look at gradients on data.
type Criterion interface {
	Name() string
	recipe(map[string]string)
	// own is the scope that the criterion's authors use.
	own() Scope
	// rank fills one slice of scores for each target.
	rank(ctx context.Context, n *train.Net, targets []*train.Param, scores [][]float32) error
}

// LAMP scores a weight by its square over the sum of the squares of its matrix's weights that are
// not smaller (Lee et al. 2021). The scores of all matrices compete for one budget, which
// gives every matrix its share; the largest weight of each always stays.
type LAMP struct{}

// Name implements Method and Criterion.
func (LAMP) Name() string             { return "lamp" }
func (LAMP) recipe(map[string]string) {}
func (LAMP) own() Scope               { return ScopeGlobal }
func (LAMP) check(p Pattern) error {
	if _, ok := p.(Block); ok {
		return fmt.Errorf("prune: lamp %v: %w", p, ErrMethod)
	}
	return nil
}

func (LAMP) score(keys []uint32, w []float32, _ string) {
	s := make([]float32, len(w))
	lamp(s, w)
	for i, x := range s {
		keys[i] = key(x)
	}
}

// lamp: the sum runs from the largest weight down, in float64, equal weights last position first.
func lamp(scores, w []float32) {
	order := make([]int32, len(w))
	for i := range order {
		order[i] = int32(i)
	}
	sortByKey(order, func(i int32) uint32 { return key(w[i]) })
	var sum float64
	for j := len(order) - 1; j >= 0; j-- {
		i := order[j]
		sq := float64(w[i]) * float64(w[i])
		sum += sq
		if sum > 0 {
			scores[i] = float32(sq / sum)
		} else {
			scores[i] = 0
		}
	}
}

// MagnitudeStd compares |w| in units of its matrix's standard deviation, over all matrices at once:
// the threshold "quality times std of the layer" of Han et al. 2015, with the one quality that
// meets the target.
type MagnitudeStd struct{}

// Name implements Criterion.
func (MagnitudeStd) Name() string             { return "magnitude-std" }
func (MagnitudeStd) recipe(map[string]string) {}
func (MagnitudeStd) own() Scope               { return ScopeGlobal }

func (MagnitudeStd) rank(_ context.Context, _ *train.Net, targets []*train.Param, scores [][]float32) error {
	for t, p := range targets {
		var sum, sq, n float64
		for i, x := range p.W {
			if unmasked(p, i) {
				sum, sq, n = sum+float64(x), sq+float64(x)*float64(x), n+1
			}
		}
		std := math.Sqrt(math.Max(0, sq/math.Max(1, n)-sum/math.Max(1, n)*sum/math.Max(1, n)))
		for i, x := range p.W {
			scores[t][i] = float32(math.Abs(float64(x)) / math.Max(std, 1e-30))
		}
	}
	return nil
}

// unmasked reports whether weight i of p is not masked.
func unmasked(p *train.Param, i int) bool {
	m := p.Mask()
	return m == nil || m.Kept(i/p.Cols, i%p.Cols)
}

func (Magnitude) own() Scope { return ScopeLayer }
func (Random) own() Scope    { return ScopeLayer }

func (Magnitude) rank(_ context.Context, _ *train.Net, targets []*train.Param, scores [][]float32) error {
	for t, p := range targets {
		for i, x := range p.W {
			scores[t][i] = float32(math.Abs(float64(x)))
		}
	}
	return nil
}

// rank: 24 bits of the hash that orders the weights of a file, so that a float32 holds them.
func (r Random) rank(_ context.Context, _ *train.Net, targets []*train.Param, scores [][]float32) error {
	for t, p := range targets {
		keys := make([]uint32, len(p.W))
		r.score(keys, p.W, p.Name)
		for i, k := range keys {
			scores[t][i] = float32(k >> 8)
		}
	}
	return nil
}

func (LAMP) rank(_ context.Context, _ *train.Net, targets []*train.Param, scores [][]float32) error {
	for t, p := range targets {
		lamp(scores[t], p.W)
	}
	return nil
}

// Samples is the data that a gradient criterion looks at: Batches batches of Batch samples, drawn
// without replacement by Seed. The defaults suit a classifier.
type Samples struct {
	Data    train.Data
	Batches int // 0: 8
	Batch   int // 0: 128
	Seed    uint64
	Loss    train.Loss // nil: CrossEntropy{}
}

func (s Samples) defaults(name string) (Samples, error) {
	if s.Data == nil || s.Data.Len() == 0 {
		return s, fmt.Errorf("prune: %s: no data: %w", name, ErrCalib)
	}
	if s.Batches == 0 {
		s.Batches = 8
	}
	if s.Batch == 0 {
		s.Batch = 128
	}
	if s.Batches < 0 || s.Batch < 0 {
		return s, fmt.Errorf("prune: %s: %d batches of %d: %w", name, s.Batches, s.Batch, ErrCalib)
	}
	if s.Loss == nil {
		s.Loss = train.CrossEntropy{}
	}
	return s, nil
}

func (s Samples) recipe(kv map[string]string) {
	kv["prune.samples"] = fmt.Sprintf("%d batches of %d, seed %d", s.Batches, s.Batch, s.Seed)
}

// each computes the gradients of every batch at the weights as they stand, batch norms as in
// inference, and calls f after each.
func (s Samples) each(ctx context.Context, n *train.Net, f func(batch int)) error {
	perm := rand.New(rand.NewPCG(s.Seed, 0x5a3)).Perm(s.Data.Len())
	var b train.Batch
	for i := range s.Batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		lo := i * s.Batch
		if lo >= len(perm) {
			return nil // fewer samples than asked for: all of them
		}
		s.Data.Fill(&b, perm[lo:min(len(perm), lo+s.Batch)])
		v, err := n.InferenceGradients(&b, s.Loss)
		if err != nil {
			return err
		}
		if math.IsNaN(v.Loss) || math.IsInf(v.Loss, 0) {
			return fmt.Errorf("prune: batch %d: loss %g: %w", i, v.Loss, train.ErrNaN)
		}
		f(i)
	}
	return nil
}

// SNIP scores a weight by |w g|, g the gradient of the mean loss over all batches: how much the
// loss changes, to first order, when the weight goes (Lee et al. 2019). The weights need not be
// trained.
type SNIP struct{ Samples }

// Taylor scores a weight by the mean over batches of (w g)^2 (Molchanov et al. 2019, applied to
// single weights): unlike SNIP's, contributions of opposite sign do not cancel between batches.
type Taylor struct{ Samples }

// Fisher is optimal brain damage (LeCun et al. 1990) with the diagonal of the Hessian taken from
// the empirical Fisher matrix: w^2/2 * mean of g_n^2, g_n the gradient of sample n alone. It sees
// Batches*Batch samples, one at a time.
type Fisher struct{ Samples }

// Name implements Criterion.
func (SNIP) Name() string { return "snip" }

// Name implements Criterion.
func (Taylor) Name() string { return "taylor" }

// Name implements Criterion.
func (Fisher) Name() string { return "fisher" }

func (SNIP) own() Scope   { return ScopeGlobal }
func (Taylor) own() Scope { return ScopeGlobal }
func (Fisher) own() Scope { return ScopeGlobal }

// gather sums f(w, g) over batches into float64 and hands out the sums.
func gather(ctx context.Context, s Samples, n *train.Net, targets []*train.Param, f func(w, g float64) float64) ([][]float64, int, error) {
	sums := make([][]float64, len(targets))
	for t, p := range targets {
		sums[t] = make([]float64, len(p.W))
	}
	batches := 0
	err := s.each(ctx, n, func(int) {
		batches++
		for t, p := range targets {
			sum := sums[t]
			for i, g := range p.Grad {
				sum[i] += f(float64(p.W[i]), float64(g))
			}
		}
	})
	return sums, max(1, batches), err
}

func (c SNIP) rank(ctx context.Context, n *train.Net, targets []*train.Param, scores [][]float32) error {
	s, err := c.defaults(c.Name())
	if err != nil {
		return err
	}
	sums, batches, err := gather(ctx, s, n, targets, func(w, g float64) float64 { return w * g })
	for t := range sums {
		for i, x := range sums[t] {
			scores[t][i] = float32(math.Abs(x) / float64(batches))
		}
	}
	return err
}

func (c Taylor) rank(ctx context.Context, n *train.Net, targets []*train.Param, scores [][]float32) error {
	s, err := c.defaults(c.Name())
	if err != nil {
		return err
	}
	sums, batches, err := gather(ctx, s, n, targets, func(w, g float64) float64 { return w * g * w * g })
	for t := range sums {
		for i, x := range sums[t] {
			scores[t][i] = float32(x / float64(batches))
		}
	}
	return err
}

func (c Fisher) rank(ctx context.Context, n *train.Net, targets []*train.Param, scores [][]float32) error {
	s, err := c.defaults(c.Name())
	if err != nil {
		return err
	}
	s.Batches, s.Batch = s.Batches*s.Batch, 1
	sums, samples, err := gather(ctx, s, n, targets, func(_, g float64) float64 { return g * g })
	for t, p := range targets {
		for i, x := range sums[t] {
			w := float64(p.W[i])
			scores[t][i] = float32(0.5 * w * w * x / float64(samples))
		}
	}
	return err
}

// Movement scores a weight by the sum of -w g over the steps of fine-tuning (Sanh et al. 2020):
// weights that training moves away from zero stay, whatever their size. In Tune the steps are
// those of the fine-tuning itself. Where none have been made yet, the criterion makes Warm steps
// of gradient descent at Rate over Samples' batches first, and then puts the weights back.
type Movement struct {
	Samples
	Warm int     // 0: 100
	Rate float64 // 0: 0.01

	sums *movementSums
}

// movementSums are shared by the copies of a Movement.
type movementSums struct {
	scores, before [][]float32
	steps          int
}

// NewMovement makes a Movement that remembers the steps it has seen.
func NewMovement(s Samples) Movement { return Movement{Samples: s, sums: &movementSums{}} }

// Name implements Criterion.
func (Movement) Name() string { return "movement" }
func (Movement) own() Scope   { return ScopeLayer }

func (c Movement) recipe(kv map[string]string) {
	c.Samples.recipe(kv)
	kv["prune.movement"] = "warm " + strconv.Itoa(c.Warm) + " rate " + strconv.FormatFloat(c.Rate, 'g', -1, 64)
}

// observe is told before every step of a fit. The gradients in the parameters are those of the
// step before, taken at the weights it started from.
func (c Movement) observe(step int, targets []*train.Param) {
	m := c.sums
	if m == nil {
		return
	}
	if m.scores == nil {
		m.scores, m.before = make([][]float32, len(targets)), make([][]float32, len(targets))
		for t, p := range targets {
			m.scores[t], m.before[t] = make([]float32, len(p.W)), make([]float32, len(p.W))
		}
	}
	for t, p := range targets {
		if step > 0 {
			for i, g := range p.Grad {
				m.scores[t][i] -= m.before[t][i] * g
			}
		}
		copy(m.before[t], p.W)
	}
	if step > 0 {
		m.steps++
	}
}

func (c Movement) rank(ctx context.Context, n *train.Net, targets []*train.Param, scores [][]float32) error {
	if c.sums == nil || c.sums.steps == 0 {
		if err := c.warm(ctx, n, targets, &c); err != nil {
			return err
		}
	}
	for t := range targets {
		copy(scores[t], c.sums.scores[t])
	}
	return nil
}

// warm fine-tunes a little to have something to rank by.
func (c Movement) warm(ctx context.Context, n *train.Net, targets []*train.Param, to *Movement) error {
	s, err := c.defaults(c.Name())
	if err != nil {
		return err
	}
	if to.sums = c.sums; to.sums == nil {
		to.sums = &movementSums{}
	}
	steps, rate := c.Warm, c.Rate
	if steps == 0 {
		steps = 100
	}
	if rate == 0 {
		rate = 0.01
	}
	was := n.Snapshot()
	_, err = train.Fit(ctx, n, s.Data, train.Options{Steps: steps, Batch: s.Batch, Rate: rate, Optimiser: train.SGD{}, Loss: s.Loss, Seed: s.Seed,
		OnStep: func(step, _ int, _ *train.Net) error { to.observe(step, targets); return nil }}, nil)
	if err == nil {
		to.observe(steps, targets) // the last step's
	}
	if e := n.Restore(was); err == nil {
		err = e
	}
	return err
}
