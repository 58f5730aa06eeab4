package prune

import (
	"errors"
	"fmt"
)

// ErrMemory wraps a run that would need more than Options.MaxMemory.
var ErrMemory = errors.New("not enough memory allowed")

// admit works out the memory a calibrated run needs besides the model and the
// result, records it, and refuses a run that is not allowed that much.
func (r *run) admit(m calibrated) error {
	r.rep.PeakBytes = r.need(m)
	if limit := r.o.MaxMemory; limit > 0 && r.rep.PeakBytes > limit {
		return fmt.Errorf("prune: %s needs %d MB for %d calibration tokens, %d MB are allowed: take fewer windows or allow more: %w",
			m.Name(), r.rep.PeakBytes>>20, r.rep.Calibration.Tokens, limit>>20, ErrMemory)
	}
	return nil
}

// need is the peak of: activations of all windows at a cut and at the next one,
// buffers of the windows at work, unpacked weights of a block, Gram matrices and
// their factor, and what solving one matrix takes.
func (r *run) need(m calibrated) int64 {
	_, layers, _, err := blocks(r.g)
	if err != nil {
		return 0
	}
	tokens := int64(r.rep.Calibration.Tokens)
	step := int64(max(1, chunkTokens/r.rep.Calibration.Window) * r.rep.Calibration.Window)
	_, twoStreams := bestOf(m)
	flows := int64(1)
	if twoStreams {
		flows = 2
	}
	var peak int64
	for _, s := range layers {
		groups := r.groups(s)
		cuts := []int{s.lo}
		if twoStreams {
			for _, g := range groups {
				cuts = append(cuts, g.first)
			}
		}
		cuts = append(cuts, s.hi)
		var live, chunk, weights, grams, factor, solve int64
		for i := 1; i < len(cuts); i++ {
			widths := map[int]int64{}
			for _, at := range cuts[i-1 : i+1] {
				for _, v := range liveAt(r.g, at) {
					widths[int(v)] = int64(r.g.Values[v].Width)
				}
			}
			var sum int64
			for _, w := range widths {
				sum += w
			}
			live = max(live, 4*tokens*sum)
		}
		for _, n := range r.g.Nodes[s.lo:s.hi] {
			chunk += 4 * step * int64(r.g.Values[n.Out].Width)
			if n.Weight != nil {
				rows, cols := n.Weight.Data.Dims()
				weights += 4 * int64(rows) * int64(cols)
			}
		}
		for _, g := range groups {
			d := int64(r.g.Values[g.input].Width)
			if !m.needsGram() {
				continue
			}
			cross := int64(0)
			if twoStreams {
				cross = 4 * d * d
			}
			if twoStreams { // one group at a time
				grams = max(grams, 4*d*d+cross)
			} else {
				grams += 4 * d * d
			}
			factor = max(factor, (4+8+8+8)*d*d)
		}
		for _, i := range targetsOf(groups) {
			rows, cols := r.targets[i].Data.Dims()
			solve = max(solve, 4*10*int64(rows)*int64(cols))
		}
		peak = max(peak, flows*(live+chunk+weights)+grams+factor+solve)
	}
	return peak
}

// admitShrink is admit for structured pruning, which runs two streams as Best
// does, and for ScoreTaylor needs the model in float32 with its gradients first.
func (s *shrink) admitShrink() error {
	need := s.need(Best{Calib: s.m.Calib})
	if s.m.score() == ScoreTaylor {
		window := int64(s.rep.Calibration.Window)
		var net int64
		for _, w := range s.g.Weights {
			rows, cols := w.Data.Dims()
			net += 2 * 4 * int64(rows) * int64(cols)
		}
		for _, v := range s.g.Values {
			net += 2 * 4 * window * int64(v.Width)
		}
		need = max(need, net)
	}
	s.rep.PeakBytes = need
	if limit := s.o.MaxMemory; limit > 0 && need > limit {
		return fmt.Errorf("prune: structured needs %d MB for %d calibration tokens, %d MB are allowed: take fewer windows or allow more: %w",
			need>>20, s.rep.Calibration.Tokens, limit>>20, ErrMemory)
	}
	return nil
}
