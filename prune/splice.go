package prune

import (
	"math"
	"math/rand/v2"

	"github.com/sparserun/sparserun/sparse"
)

// Splice is dynamic network surgery (Guo et al. 2016) on the way to a target: while sparsity
// rises, the network runs with its masks but the dense weights behind them keep learning, pruned
// ones too, by the gradient at the masked network. A weight goes when it falls below a lower
// threshold and returns when it grows beyond an upper one; in between it stays as it is. The
// thresholds lie Band below and above the size of the weight at which the schedule's sparsity
// would cut. When the ramp ends, the masks are cut to the target and hold.
type Splice struct {
	Band  float64 // half the distance of the thresholds, relative; 0: 0.1
	Every int     // steps between looks at the masks; 0: 10
	Gamma float64 // looks become rarer: with probability 1/(1 + Gamma*step); the paper's 1e-4 is the default 0
	Seed  uint64
}

// splicer holds the dense weights of a network whose parameters hold the masked ones.
type splicer struct {
	Splice
	t        *tuner
	dense    [][]float32
	ran      [][]float32 // what the parameters held when the step began
	masks    []*sparse.Mask
	drop     [][]int32 // positions that masks drop
	rng      *rand.Rand
	returned int
	ended    bool
}

func newSplicer(t *tuner, s Splice) *splicer {
	if s.Band == 0 {
		s.Band = 0.1
	}
	if s.Every == 0 {
		s.Every = 10
	}
	if s.Gamma == 0 {
		s.Gamma = 1e-4
	}
	sp := &splicer{Splice: s, t: t, rng: rand.New(rand.NewPCG(s.Seed, 0xd45))}
	for _, p := range t.targets {
		m := fullMask(p.Rows, p.Cols)
		if p.Mask() != nil {
			m = p.Mask()
		}
		sp.dense, sp.ran = append(sp.dense, append([]float32(nil), p.W...)), append(sp.ran, append([]float32(nil), p.W...))
		sp.masks, sp.drop = append(sp.masks, m), append(sp.drop, dropped(m))
	}
	return sp
}

// step is called before every step of the fit. Until the ramp ends the parameters have no mask, so
// that the optimiser moves all weights; what it moved is carried over to the dense weights.
func (s *splicer) step(step, hold int, sparsity float64) error {
	if s.ended {
		return nil
	}
	for i, p := range s.t.targets {
		d, ran := s.dense[i], s.ran[i]
		for j, w := range p.W {
			d[j] += w - ran[j]
		}
	}
	last := step >= hold
	if last {
		s.ended = true
		sparsity = s.t.to
	}
	if last || step%s.Every == 0 && s.rng.Float64() < 1/(1+s.Gamma*float64(step)) {
		if err := s.look(sparsity, last); err != nil {
			return err
		}
	}
	for i, p := range s.t.targets {
		copy(p.W, s.dense[i])
		if last {
			if err := p.SetMask(s.masks[i]); err != nil {
				return err
			}
			continue
		}
		if err := p.SetMask(nil); err != nil { // the optimiser moves pruned weights too
			return err
		}
		for _, j := range s.drop[i] {
			p.W[j] = 0
		}
		copy(s.ran[i], p.W)
	}
	return nil
}

// dropped are the positions that a mask drops.
func dropped(m *sparse.Mask) []int32 {
	var out []int32
	for r := range m.R {
		for c := range m.C {
			if !m.Kept(r, c) {
				out = append(out, int32(r*m.C+c))
			}
		}
	}
	return out
}

// look decides anew which weights are pruned; the final look cuts exactly.
func (s *splicer) look(sparsity float64, final bool) error {
	scores := make([][]float32, len(s.dense))
	for i, d := range s.dense {
		scores[i] = make([]float32, len(d))
		for j, w := range d {
			scores[i][j] = float32(math.Abs(float64(w)))
		}
	}
	want, err := cutMasks(s.t.targets, scores, withSparsity(s.t.o.Pattern, sparsity), s.t.ratesAt(sparsity))
	if err != nil {
		return err
	}
	limits := thresholds(scores, want, s.shared())
	for i, p := range s.t.targets {
		if final {
			s.masks[i] = want[i]
			continue
		}
		m := fullMask(p.Rows, p.Cols)
		low, high := limits[i]*float32(1-s.Band), limits[i]*float32(1+s.Band)
		for r := range p.Rows {
			for c := range p.Cols {
				x, was := scores[i][r*p.Cols+c], s.masks[i].Kept(r, c)
				switch {
				case x < low || x < high && !was:
					m.Drop(r, c)
				case !was:
					s.returned++
				}
			}
		}
		s.masks[i], s.drop[i] = m, dropped(m)
	}
	return nil
}

// shared reports whether all matrices compete for one budget.
func (s *splicer) shared() bool {
	u, _ := s.t.o.Pattern.(Unstructured)
	return s.t.rates == nil && u.Scope == ScopeGlobal
}

// thresholds are the largest scores that masks drop, of each matrix or of all together.
func thresholds(scores [][]float32, masks []*sparse.Mask, shared bool) []float32 {
	out := make([]float32, len(masks))
	var top float32
	for i, m := range masks {
		for r := range m.R {
			for c := range m.C {
				if x := scores[i][r*m.C+c]; x > out[i] && !m.Kept(r, c) {
					out[i] = x
				}
			}
		}
		top = max(top, out[i])
	}
	if shared {
		for i := range out {
			out[i] = top
		}
	}
	return out
}
