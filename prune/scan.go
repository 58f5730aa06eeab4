package prune

import (
	"context"
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"

	"github.com/sparserun/sparserun/train"
)

// ScanOptions are the settings of a ScanNet.
type ScanOptions struct {
	Criterion        Criterion // nil: Magnitude{}
	Levels           []float64 // nil: DefaultScanLevels
	Batch            int       // of the evaluations; 0: 500
	Include, Exclude []string
	Progress         func(done, total int, p ScanPoint)
}

// DefaultScanLevels are 0, 0.05, ... 0.95 and then 0.97, 0.98, 0.99 and 0.995.
func DefaultScanLevels() []float64 {
	var out []float64
	for i := range 20 {
		out = append(out, float64(i)/20)
	}
	return append(out, 0.97, 0.98, 0.99, 0.995)
}

// Scan is a sensitivity scan (Han et al. 2015, figure 6): every matrix alone is pruned to every
// level, without fine-tuning, and the network evaluated.
type Scan struct {
	Metric string      `json:"metric"`
	Loss   float64     `json:"loss"` // of the network as it is
	Value  float64     `json:"value"`
	Layers []ScanLayer `json:"layers"`
	Points []ScanPoint `json:"points"` // by layer, then level
}

// ScanLayer is a matrix of a scan.
type ScanLayer struct {
	Name    string `json:"name"`
	Weights int    `json:"weights"`
}

// ScanPoint is the network with one matrix pruned.
type ScanPoint struct {
	Layer    string  `json:"layer"`
	Sparsity float64 `json:"sparsity"`
	Loss     float64 `json:"loss"`
	Value    float64 `json:"value"`
}

// ScanNet scans n, which ends as it was.
func ScanNet(ctx context.Context, n *train.Net, data train.Data, o ScanOptions) (*Scan, error) {
	if o.Criterion == nil {
		o.Criterion = Magnitude{}
	}
	if o.Levels == nil {
		o.Levels = DefaultScanLevels()
	}
	if o.Batch == 0 {
		o.Batch = 500
	}
	if data == nil || data.Len() == 0 || o.Batch < 0 || !slices.IsSorted(o.Levels) || len(o.Levels) == 0 {
		return nil, fmt.Errorf("prune: scan: want data, a batch and rising levels, got batch %d, levels %v: %w", o.Batch, o.Levels, ErrMethod)
	}
	for _, s := range o.Levels {
		if err := checkSparsity(s); err != nil {
			return nil, err
		}
	}
	targets, err := netTargets(n, o.Include, o.Exclude)
	if err != nil {
		return nil, err
	}
	was, masks := n.Snapshot(), getMasks(targets)
	s := &Scan{Metric: data.Metric()}
	measure := func() (loss, value float64, err error) {
		v, err := train.Evaluate(n, data, o.Batch)
		if s.Metric == "perplexity" {
			return v.NLL, v.Perplexity(), err
		}
		return v.NLL, v.Accuracy(), err
	}
	if s.Loss, s.Value, err = measure(); err != nil {
		return nil, err
	}
	scores := make([][]float32, len(targets))
	for t, p := range targets {
		scores[t] = make([]float32, len(p.W))
		s.Layers = append(s.Layers, ScanLayer{p.Name, len(p.W)})
	}
	if err := o.Criterion.rank(ctx, n, targets, scores); err != nil {
		return nil, err
	}
	for t, p := range targets {
		for _, level := range o.Levels {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			m, err := cutMasks(targets[t:t+1], scores[t:t+1], Unstructured{Sparsity: level, Scope: ScopeLayer}, nil)
			if err != nil {
				return nil, err
			}
			if err := p.SetMask(m[0]); err != nil {
				return nil, err
			}
			point := ScanPoint{Layer: p.Name, Sparsity: level}
			if point.Loss, point.Value, err = measure(); err != nil {
				return nil, err
			}
			if err := p.SetMask(masks[t]); err != nil {
				return nil, err
			}
			if err := n.Restore(was); err != nil {
				return nil, err
			}
			s.Points = append(s.Points, point)
			if o.Progress != nil {
				o.Progress(len(s.Points), len(targets)*len(o.Levels), point)
			}
		}
	}
	return s, nil
}

// CSV writes the points, one a line.
func (s *Scan) CSV(w io.Writer) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"layer", "sparsity", "loss", s.Metric})
	f := func(x float64) string { return strconv.FormatFloat(x, 'g', 8, 64) }
	for _, p := range s.Points {
		_ = c.Write([]string{p.Layer, f(p.Sparsity), f(p.Loss), f(p.Value)})
	}
	c.Flush()
	return c.Error()
}

// curve is a layer's rise in loss by sparsity, made never to fall, from (0, 0).
type curve struct {
	name     string
	weights  float64
	at, rise []float64
}

func (s *Scan) curves() ([]curve, error) {
	var out []curve
	for _, l := range s.Layers {
		c := curve{name: l.Name, weights: float64(l.Weights), at: []float64{0}, rise: []float64{0}}
		for _, p := range s.Points {
			if p.Layer != l.Name || p.Sparsity <= c.at[len(c.at)-1] {
				continue
			}
			rise := p.Loss - s.Loss
			if math.IsNaN(rise) {
				rise = math.Inf(1)
			}
			c.at, c.rise = append(c.at, p.Sparsity), append(c.rise, math.Max(rise, c.rise[len(c.rise)-1]))
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("prune: scan without layers: %w", ErrTarget)
	}
	return out, nil
}

// within is the largest sparsity that costs at most rise, between levels by a line.
func (c curve) within(rise float64) float64 {
	j := 0
	for j+1 < len(c.at) && c.rise[j+1] <= rise {
		j++
	}
	if j+1 == len(c.at) || math.IsInf(c.rise[j+1], 1) {
		return c.at[j]
	}
	return c.at[j] + (c.at[j+1]-c.at[j])*(rise-c.rise[j])/(c.rise[j+1]-c.rise[j])
}

// reach fails where the levels scanned do not go up to a sparsity.
func reach(cs []curve, sparsity float64) error {
	if err := checkSparsity(sparsity); err != nil {
		return err
	}
	var most, all float64
	for _, c := range cs {
		most, all = most+c.weights*c.at[len(c.at)-1], all+c.weights
	}
	if most < sparsity*all {
		return fmt.Errorf("prune: scan goes to sparsity %.4f, want %.4f: %w", most/math.Max(all, 1), sparsity, ErrPattern)
	}
	return nil
}

// Budget gives every layer the sparsity at which it alone costs the same loss, chosen so that
// together they reach the sparsity asked for.
func (s *Scan) Budget(sparsity float64) (map[string]float64, error) {
	cs, err := s.curves()
	if err != nil {
		return nil, err
	}
	if err := reach(cs, sparsity); err != nil {
		return nil, err
	}
	var all, high float64
	for _, c := range cs {
		all += c.weights
		for _, r := range c.rise {
			if !math.IsInf(r, 1) {
				high = math.Max(high, r)
			}
		}
	}
	total := func(rise float64) (sum float64) {
		for _, c := range cs {
			sum += c.weights * c.within(rise)
		}
		return sum
	}
	low := 0.0
	for range 200 { // bisection to the last bit
		if mid := (low + high) / 2; total(mid) < sparsity*all {
			low = mid
		} else {
			high = mid
		}
	}
	// At the tolerance that reaches the target a flat curve may jump beyond it: all layers take
	// the same share of what lies between the two ends of the jump.
	a, b := total(low), total(high)
	share := 1.0
	if b > a {
		share = math.Min(1, math.Max(0, (sparsity*all-a)/(b-a)))
	}
	out := map[string]float64{}
	for _, c := range cs {
		x, y := c.within(low), c.within(high)
		out[c.name] = x + (y-x)*share
	}
	return out, nil
}

// Greedy raises, level by level, the layer that costs the least loss per weight removed until the
// sparsity asked for is reached; the last step is cut to fit.
func (s *Scan) Greedy(sparsity float64) (map[string]float64, error) {
	cs, err := s.curves()
	if err != nil {
		return nil, err
	}
	if err := reach(cs, sparsity); err != nil {
		return nil, err
	}
	at := make([]int, len(cs))
	out := map[string]float64{}
	var left float64
	for _, c := range cs {
		left += c.weights * sparsity
		out[c.name] = 0
	}
	for left > 1e-9 {
		best, bestCost := -1, math.Inf(1)
		for i, c := range cs {
			if j := at[i]; j+1 < len(c.at) {
				cost := (c.rise[j+1] - c.rise[j]) / (c.weights * (c.at[j+1] - c.at[j]))
				if best < 0 || cost < bestCost {
					best, bestCost = i, cost
				}
			}
		}
		if best < 0 {
			break
		}
		c, j := cs[best], at[best]
		gain := c.weights * (c.at[j+1] - c.at[j])
		if gain > left {
			out[c.name] = c.at[j] + left/c.weights
			break
		}
		out[c.name], at[best], left = c.at[j+1], j+1, left-gain
	}
	return out, nil
}
