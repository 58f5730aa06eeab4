package engine

import (
	"maps"
	"slices"
	"sort"
	"time"
)

// Histogram counts durations in seconds, or other numbers, by upper bound: Counts[i]
// are those of at most Bounds[i] and more than Bounds[i-1], the last of Counts those
// beyond all bounds.
type Histogram struct {
	Bounds []float64
	Counts []uint64 // len(Bounds)+1
	Sum    float64
	Count  uint64
}

func newHistogram(bounds []float64) Histogram {
	return Histogram{Bounds: bounds, Counts: make([]uint64, len(bounds)+1)}
}

func (h *Histogram) add(x float64) {
	h.Counts[sort.SearchFloat64s(h.Bounds, x)]++
	h.Sum += x
	h.Count++
}

func (h *Histogram) clone() Histogram {
	c := *h
	c.Counts = slices.Clone(h.Counts)
	return c
}

// The buckets. Those of the time to the first token are vLLM's; the others span a
// tiny model on a fast machine to a large one on a slow one.
var (
	firstBounds = []float64{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}
	tokenBounds = []float64{.0005, .001, .0025, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .15, .25, .5, 1, 2.5}
	totalBounds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300}
	rowsBounds  = []float64{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024}
)

// Stats is what an Engine did so far and does now.
type Stats struct {
	Running, Waiting int
	Accepted         uint64
	Finished         map[Finish]uint64
	Cancelled        map[string]uint64 // by reason: client, deadline, drain, closed, internal
	Rejected         map[string]uint64 // by reason: full, draining, closed, invalid
	Failures         uint64            // steps that failed or panicked
	Preemptions      uint64

	PromptTokens uint64 // of accepted requests that began
	CachedTokens uint64 // of those, found in the prefix cache
	OutputTokens uint64
	Recomputed   uint64 // tokens whose keys and values were given up by preemptions
	Embeddings   uint64 // prompts embedded

	PageTokens  int // size of a KV page
	PagesTotal  int
	PagesUsed   int // held by running requests or the prefix cache
	PagesCached int // held by the prefix cache
	Evictions   uint64

	Steps uint64
	First Histogram // s from Submit to the first token
	Inter Histogram // s between tokens of a request
	Total Histogram // s from Submit to the end, of requests that finished
	Queue Histogram // s from Submit to the first step
	Step  Histogram // s a step took
	Rows  Histogram // rows of a step

	Service time.Duration // a finished request's mean time from its first step to its end, lately
	Shadow  ShadowStats
}

func (s *Stats) clone() Stats {
	c := *s
	c.Finished, c.Cancelled, c.Rejected = maps.Clone(s.Finished), maps.Clone(s.Cancelled), maps.Clone(s.Rejected)
	for _, h := range []*Histogram{&c.First, &c.Inter, &c.Total, &c.Queue, &c.Step, &c.Rows} {
		*h = h.clone()
	}
	return c
}

func newStats() Stats {
	return Stats{
		Finished: map[Finish]uint64{FinishStop: 0, FinishLength: 0}, Cancelled: map[string]uint64{}, Rejected: map[string]uint64{},
		First: newHistogram(firstBounds), Inter: newHistogram(tokenBounds), Total: newHistogram(totalBounds),
		Queue: newHistogram(totalBounds), Step: newHistogram(tokenBounds), Rows: newHistogram(rowsBounds),
	}
}

// ShadowStats are the requests that were run again, dense and sparse by turns, on
// the same tokens while the engine had nothing else to do.
type ShadowStats struct {
	Runs    uint64 // finished
	Aborted uint64 // given up because a request arrived; what was measured until then counts
	Skipped uint64 // chosen, but the engine had no idle moment
	// Tokens that both legs computed, and the time either took.
	PrefillTokens, DecodeTokens uint64
	DensePrefill, SparsePrefill time.Duration
	DenseDecode, SparseDecode   time.Duration
	MaxAbsError                 float64 // largest difference of a logit
	Flips                       uint64  // steps after which the legs' likeliest tokens differ
}

// Prefill is how many times as fast as the dense twin prompts were, 0 before a
// first measurement.
func (s ShadowStats) Prefill() float64 { return over(s.DensePrefill, s.SparsePrefill) }

// Decode is the same of generated tokens.
func (s ShadowStats) Decode() float64 { return over(s.DenseDecode, s.SparseDecode) }

func over(a, b time.Duration) float64 {
	if b <= 0 {
		return 0
	}
	return float64(a) / float64(b)
}
