package prune

import (
	"fmt"
	"math"
)

// Schedule says how sparsity rises from where it is to its target. The empty one is OneShot.
type Schedule string

// The schedules, with s0 and s1 the first and last sparsity and t the share of the way, 0..1.
const (
	OneShot     Schedule = "oneshot" // s1 at once
	Linear      Schedule = "linear"  // s0 + (s1-s0) t
	Cubic       Schedule = "cubic"   // s1 + (s0-s1) (1-t)^3 (Zhu & Gupta 2017): most goes early
	Exponential Schedule = "exp"     // the kept share falls by the same factor in equal times
	Rounds      Schedule = "rounds"  // a fifth of the survivors a round (Frankle & Carbin 2019), fine-tuned in between
)

// RoundShare is the share of survivors that a round of Rounds prunes.
const RoundShare = 0.2

// ParseSchedule reads a schedule's name.
func ParseSchedule(s string) (Schedule, error) {
	switch p := Schedule(s); p {
	case "":
		return OneShot, nil
	case OneShot, Linear, Cubic, Exponential, Rounds:
		return p, nil
	}
	return "", fmt.Errorf("prune: schedule: want oneshot, linear, cubic, exp or rounds, got %q: %w", s, ErrMethod)
}

// At is the sparsity after a share t of the way from s0 to s1.
func (s Schedule) At(t, s0, s1 float64) float64 {
	t = math.Min(math.Max(t, 0), 1)
	switch {
	case t == 1 || s == OneShot || s == "":
		return s1
	case s == Linear:
		return s0 + (s1-s0)*t
	case s == Cubic:
		return s1 + (s0-s1)*math.Pow(1-t, 3)
	}
	// A target of 1 leaves nothing: then the last step takes what a thousandth is left.
	return 1 - (1-s0)*math.Pow(math.Max(1-s1, 1e-3*(1-s0))/(1-s0), t)
}

// Levels are the sparsities of n rounds, the last of which is s1. With n 0, Rounds takes as
// many as RoundShare needs; the others take one.
func (s Schedule) Levels(s0, s1 float64, n int) []float64 {
	if n == 0 {
		n = 1
		if s == Rounds && s1 > s0 && s1 < 1 {
			n = int(math.Ceil(math.Log((1-s1)/(1-s0))/math.Log(1-RoundShare) - 1e-9))
			out := make([]float64, n)
			for i := range out {
				out[i] = 1 - (1-s0)*math.Pow(1-RoundShare, float64(i+1))
			}
			out[n-1] = s1
			return out
		}
	}
	if s == OneShot || s == "" {
		return []float64{s1}
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = s.At(float64(i+1)/float64(n), s0, s1)
	}
	return out
}
