package runtime

import (
	"math"
	"slices"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Phase says what a step of work was for: a batch of prompt tokens, or one token
// of each sequence.
type Phase uint8

// The phases.
const (
	Prefill Phase = iota
	Decode
	phases
)

// String is the name used in JSON and metrics.
func (p Phase) String() string { return [...]string{"prefill", "decode"}[p] }

// OpCounter is what one kind of kernel did.
type OpCounter struct {
	Calls      int64         `json:"calls"`
	Time       time.Duration `json:"ns"`
	Bytes      int64         `json:"bytes"`       // of weights read
	DenseBytes int64         `json:"dense_bytes"` // what the same weights occupy dense in the same type
	FLOPs      int64         `json:"flops"`       // executed
	DenseFLOPs int64         `json:"dense_flops"` // of the dense equivalent
}

func (c *OpCounter) add(d OpCounter) {
	c.Calls += d.Calls
	c.Time += d.Time
	c.Bytes += d.Bytes
	c.DenseBytes += d.DenseBytes
	c.FLOPs += d.FLOPs
	c.DenseFLOPs += d.DenseFLOPs
}

// OpKey names a counter: what ran, and for what.
type OpKey struct {
	Op     model.Op
	Layout sparse.Layout
	Phase  Phase
}

// Counters tell what work cost. Programs add to Ops; Sessions add the rest. The
// zero value is ready to use. It is not safe for concurrent use.
type Counters struct {
	Ops    map[OpKey]OpCounter
	Tokens [phases]int64
	Time   [phases]time.Duration
	// First are times to the first token, Between times between later ones.
	First   Latencies
	Between Latencies
	Memory  Memory
}

// Count adds the work of one kernel call.
func (c *Counters) Count(k OpKey, d OpCounter) {
	if c == nil {
		return
	}
	if c.Ops == nil {
		c.Ops = map[OpKey]OpCounter{}
	}
	o := c.Ops[k]
	o.add(d)
	c.Ops[k] = o
}

// Merge adds what d counted.
func (c *Counters) Merge(d *Counters) {
	for k, o := range d.Ops {
		c.Count(k, o)
	}
	for p := range phases {
		c.Tokens[p] += d.Tokens[p]
		c.Time[p] += d.Time[p]
	}
	c.First.Merge(&d.First)
	c.Between.Merge(&d.Between)
	c.Memory = d.Memory
}

// Total is the sum over all kernels of a phase.
func (c *Counters) Total(p Phase) OpCounter {
	var t OpCounter
	for k, o := range c.Ops {
		if k.Phase == p {
			t.add(o)
		}
	}
	return t
}

// TokensPerSecond is the rate of a phase, 0 if nothing ran.
func (c *Counters) TokensPerSecond(p Phase) float64 {
	if c.Time[p] <= 0 {
		return 0
	}
	return float64(c.Tokens[p]) / c.Time[p].Seconds()
}

// Latencies keeps the last latencyWindow durations for exact quantiles.
type Latencies struct {
	Count int64
	Sum   time.Duration
	last  []time.Duration
}

const latencyWindow = 4096

// Add records one duration.
func (l *Latencies) Add(d time.Duration) {
	if len(l.last) < latencyWindow {
		l.last = append(l.last, d)
	} else {
		l.last[l.Count%latencyWindow] = d
	}
	l.Count++
	l.Sum += d
}

// Merge adds what m recorded.
func (l *Latencies) Merge(m *Latencies) {
	for _, d := range m.last {
		l.Add(d)
	}
	l.Count += m.Count - int64(len(m.last))
	for _, d := range m.last {
		l.Sum -= d
	}
	l.Sum += m.Sum
}

// Quantile is the smallest recorded duration that a share q of them does not
// exceed (nearest rank); 0 if nothing was recorded.
func (l *Latencies) Quantile(q float64) time.Duration {
	if len(l.last) == 0 {
		return 0
	}
	s := slices.Clone(l.last)
	slices.Sort(s)
	return s[min(max(int(math.Ceil(q*float64(len(s))))-1, 0), len(s)-1)]
}
