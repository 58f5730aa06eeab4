package prune

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/train"
)

// PartScore says what structured pruning ranks parts by; the lowest go.
type PartScore string

const (
	// ScoreActivation: heads and channels by what they add to the output of o_proj
	// or down_proj on the calibration data, the energy of their columns times their
	// inputs, tr(W_j H_jj W_j^T). Layers by how much they turn the residual stream:
	// the mean of 1 - cos(in, out) over tokens (block influence, Men et al. 2024).
	ScoreActivation PartScore = "activation"
	// ScoreTaylor: by how much the loss would change without the part, to first
	// order: |sum w*g| over the part's columns of o_proj or down_proj, for a layer
	// over both matrices, the mean over calibration windows (Molchanov et al. 2019,
	// with the sum inside as in Ma et al. 2023). It is exact for small parts: those
	// columns at zero are the part removed. Needs the model in float32 with its
	// gradients in memory.
	ScoreTaylor PartScore = "taylor"
	// ScoreRandom is the control that the others must beat.
	ScoreRandom PartScore = "random"
)

func (m Structured) score() PartScore {
	if m.Score == "" {
		return ScoreActivation
	}
	return m.Score
}

// taylorWindows is how many calibration windows ScoreTaylor looks at: gradients
// cost three times the forward pass, and the ranking settles early.
const taylorWindows = 16

// partScores are the Taylor scores of one layer's parts.
type partScores struct {
	heads    []float64 // per KV head
	channels []float64
	layer    float64
}

// taylorScores runs the dense model forward and backward.
func (s *shrink) taylorScores(layers int) ([]partScores, error) {
	net, err := train.New(s.g, linalg.NewPool(s.threads()))
	if err != nil {
		return nil, fmt.Errorf("prune: gradients: %w", err)
	}
	windows := s.m.Calib.Windows
	windows = windows[:min(len(windows), taylorWindows)]
	text, err := train.NewText(windows, len(windows[0]))
	if err != nil {
		return nil, fmt.Errorf("prune: gradients: %v: %w", err, ErrCalib)
	}
	_, spans, _, err := blocks(s.g)
	if err != nil {
		return nil, err
	}
	parts := make([]part, layers)
	out := make([]partScores, layers)
	for b, l := range spans {
		if parts[b], err = partsOf(s.g.Nodes[l.lo:l.hi]); err != nil {
			return nil, err
		}
		_, kv, ffn := s.g.Config.Layer(b)
		out[b] = partScores{heads: make([]float64, kv), channels: make([]float64, ffn)}
	}
	params := map[string]*train.Param{}
	for _, p := range net.Params {
		params[p.Name] = p
	}
	var batch train.Batch
	for i := range windows {
		if err := s.ctx.Err(); err != nil {
			return nil, err
		}
		text.Fill(&batch, []int{i})
		if _, err := net.Gradients(&batch, train.CrossEntropy{}); err != nil {
			return nil, fmt.Errorf("prune: gradients of window %d: %w", i, err)
		}
		for b := range out {
			for _, at := range []struct {
				n   *model.Node
				sum []float64
			}{{parts[b].o, out[b].heads}, {parts[b].down, out[b].channels}} {
				p := params[at.n.Weight.Name]
				sums, all := columnSums(p, len(at.sum))
				for j, x := range sums {
					at.sum[j] += math.Abs(x) / float64(len(windows))
				}
				out[b].layer += all / float64(len(windows))
			}
		}
	}
	return out, nil
}

// columnSums is the sum of w*g over each of n equal sets of neighbouring columns,
// and that of |w*g| over all.
func columnSums(p *train.Param, n int) (out []float64, all float64) {
	out = make([]float64, n)
	wide := p.Cols / n
	for r := range p.Rows {
		for c := range p.Cols {
			at := r*p.Cols + c
			x := float64(p.W[at]) * float64(p.Grad[at])
			out[c/wide] += x
			all += math.Abs(x)
		}
	}
	return out, all
}

// leastInfluence marks the layers to remove.
func (s *shrink) leastInfluence(layers []span) ([]bool, error) {
	gone := make([]bool, len(layers))
	if s.m.Layers == 0 {
		return gone, nil
	}
	var score []float64
	switch s.m.score() {
	case ScoreTaylor:
		for _, p := range s.taylor {
			score = append(score, p.layer)
		}
	case ScoreRandom:
		score = s.random(-1, len(layers))
	default:
		var err error
		if score, err = s.influence(layers); err != nil {
			return nil, err
		}
	}
	for i := range gone {
		gone[i] = true
	}
	for _, b := range largest(score, len(layers)-s.m.Layers) {
		gone[b] = false
	}
	return gone, nil
}

// influence is how much each layer turns the residual stream.
func (s *shrink) influence(layers []span) ([]float64, error) {
	f, _, err := s.openFlow(s.m.Calib)
	if err != nil {
		return nil, err
	}
	score := make([]float64, len(layers))
	for b, l := range layers {
		in := f.live[liveAt(s.g, l.lo)[0]]
		if err := f.advance(s.ctx, l.hi); err != nil {
			return nil, err
		}
		f.x.drop(f.nodes(l))
		out := f.live[liveAt(s.g, l.hi)[0]]
		width := s.g.Config.Hidden
		for t := 0; t < len(in); t += width {
			var xy, xx, yy float64
			for i, x := range in[t : t+width] {
				y := float64(out[t+i])
				xy, xx, yy = xy+float64(x)*y, xx+float64(x)*float64(x), yy+y*y
			}
			if xx > 0 && yy > 0 {
				score[b] += 1 - xy/math.Sqrt(xx*yy)
			}
		}
	}
	return score, nil
}

// choose keeps the column sets of width wide that score highest: of layer b's
// o_proj (heads) or of its down_proj (channels).
func (s *shrink) choose(b int, heads bool, a *aim, w []float32, wide, keep int) []int {
	n := a.gram.d / wide
	var score []float64
	switch s.m.score() {
	case ScoreTaylor:
		if score = s.taylor[b].channels; heads {
			score = s.taylor[b].heads
		}
	case ScoreRandom:
		if score = s.random(2*b, n); heads {
			score = s.random(2*b+1, n)
		}
	default:
		score = energies(a, w, wide)
	}
	return largest(score, keep)
}

// energies is what each column set adds to the output.
func energies(a *aim, w []float32, wide int) []float64 {
	d := a.gram.d
	score := make([]float64, d/wide)
	a.pool.Run(len(score), func(j int) {
		for r := 0; r < len(w); r += d {
			for c := j * wide; c < (j+1)*wide; c++ {
				var y float64
				for k := j * wide; k < (j+1)*wide; k++ {
					y += float64(w[r+k]) * float64(a.gram.h[c*d+k])
				}
				score[j] += y * float64(w[r+c])
			}
		}
	})
	return score
}

// random gives n parts scores of their own stream.
func (s *shrink) random(stream, n int) []float64 {
	rng := rand.New(rand.NewPCG(s.m.Seed, uint64(int64(stream))))
	out := make([]float64, n)
	for i := range out {
		out[i] = rng.Float64()
	}
	return out
}

// largest lists the keep positions with the largest scores, ascending; of equal
// ones the first.
func largest(score []float64, keep int) []int {
	order := identity(len(score))
	slices.SortStableFunc(order, func(x, y int) int {
		switch {
		case score[x] > score[y]:
			return -1
		case score[x] < score[y]:
			return 1
		}
		return 0
	})
	out := slices.Clone(order[:keep])
	slices.Sort(out)
	return out
}
