package depgraph

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Score ranks units; those with the smallest go. A unit's score is the mean over its parts -
// rows of the weights that make it and columns of those that read it - each in units of the
// mean of its group.
type Score string

// The scores.
const (
	L1     Score = "l1"     // sum of |w|
	L2     Score = "l2"     // sqrt of the sum of w^2
	Taylor Score = "taylor" // |sum of w*g|, first order (Molchanov et al. 2019); wants Gradients
	// BNScale: |gain| of the batch norms (Liu et al. 2017); L2 in groups without.
	BNScale Score = "bn-scale"
	// Median: the sum of distances to the other units of the group, least for the one nearest to
	// the geometric median (FPGM, He et al. 2019), of the rows that make the units.
	Median Score = "median"
	Random Score = "random"
)

// Scores lists all.
var Scores = []Score{L1, L2, Taylor, BNScale, Median, Random}

func (p *Plan) score() error {
	if p.o.Score == Random {
		rng := rand.New(rand.NewPCG(p.o.Seed, 0xdeb))
		for _, g := range p.groups {
			for _, u := range g.units {
				u.score = rng.Float64()
			}
		}
		return nil
	}
	read := map[*model.Weight][]float32{}
	for _, g := range p.groups {
		parts := 0
		for i, s := range g.spans {
			sp := p.t.spans[s]
			x, shape, err := p.numbers(sp, read)
			if err != nil {
				return err
			}
			if x == nil {
				continue
			}
			part, err := p.part(g, i, sp, x, shape)
			if err != nil {
				return err
			}
			if part == nil {
				continue
			}
			var mean float64
			for _, v := range part {
				if v-v != 0 {
					return fmt.Errorf("depgraph: score of %q is not finite: %w", p.label(sp), ErrGraph)
				}
				mean += v / float64(len(part))
			}
			if mean == 0 {
				continue
			}
			parts++
			for j, u := range g.units {
				u.score += part[j] / mean
			}
		}
		if parts == 0 && p.o.Score == BNScale {
			return p.fallBack()
		}
		for _, u := range g.units {
			u.score /= float64(max(1, parts))
		}
	}
	return nil
}

// fallBack scores groups without a batch norm by L2 instead.
func (p *Plan) fallBack() error {
	var with, without []*group
	for _, g := range p.groups {
		has := false
		for _, s := range g.spans {
			has = has || p.gain(p.t.spans[s])
		}
		for _, u := range g.units {
			u.score = 0
		}
		if has {
			with = append(with, g)
		} else {
			without = append(without, g)
		}
	}
	all, o := p.groups, p.o.Score
	defer func() { p.groups, p.o.Score = all, o }()
	p.groups = with
	if err := p.score(); err != nil {
		return err
	}
	p.groups, p.o.Score = without, L2
	return p.score()
}

func (p *Plan) label(s span) string {
	if s.w != nil {
		return s.w.Name
	}
	return p.g.Values[s.v].Name
}

// gain reports whether a place is the gain of a batch norm.
func (p *Plan) gain(s span) bool {
	if s.w != nil || p.g.Constants[s.v] == nil {
		return false
	}
	for _, n := range p.g.Nodes {
		if n.Op == "BatchNormalization" && len(n.In) > 1 && n.In[1] == s.v {
			return true
		}
	}
	return false
}

// numbers are the values of a place's tensor where they tell how much a unit matters: matrices, and
// batch norms' gains.
func (p *Plan) numbers(s span, read map[*model.Weight][]float32) ([]float32, []int, error) {
	if s.w == nil {
		if !p.gain(s) {
			return nil, nil, nil
		}
		t := p.g.Constants[s.v]
		x, _ := t.Data.([]float32)
		return x, t.Shape, nil
	}
	if s.w.Rank1() {
		return nil, nil, nil
	}
	x, ok := read[s.w]
	if !ok {
		var err error
		if x, err = sparse.Read(s.w.Data); err != nil {
			return nil, nil, fmt.Errorf("depgraph: %q: %w", s.w.Name, err)
		}
		read[s.w] = x
	}
	return x, s.w.Shape, nil
}

// part scores the units of a group by one place; nil where the score does not look at it.
func (p *Plan) part(g *group, i int, s span, x []float32, shape []int) ([]float64, error) {
	gain := s.w == nil
	if gain != (p.o.Score == BNScale) || p.o.Score == Median && s.axis != 0 {
		return nil, nil
	}
	if p.o.Score == Median {
		return distances(slicesOf(g, i, x, shape, s.axis)), nil
	}
	if p.o.Score == Taylor {
		d, ok := p.o.Gradients[s.w.Name]
		if !ok || len(d) != len(x) {
			return nil, fmt.Errorf("depgraph: gradient of %q: want %d numbers, got %d: %w", s.w.Name, len(x), len(d), ErrOption)
		}
		y := make([]float32, len(x))
		linalg.Mul(y, x, d)
		x = y
	}
	out := make([]float64, len(g.units))
	for j, v := range slicesOf(g, i, x, shape, s.axis) {
		var sum float64
		for _, w := range v {
			switch p.o.Score {
			case L2:
				sum += float64(w) * float64(w)
			case Taylor:
				sum += float64(w)
			default:
				sum += math.Abs(float64(w))
			}
		}
		if p.o.Score == L2 {
			sum = math.Sqrt(sum)
		}
		out[j] = math.Abs(sum)
	}
	return out, nil
}

// slicesOf gathers every unit's numbers along an axis of a tensor.
func slicesOf(g *group, i int, x []float32, shape []int, axis int) [][]float32 {
	outer, inner := around(shape, axis)
	out := make([][]float32, len(g.units))
	for j, u := range g.units {
		for _, k := range u.members[i].at {
			for o := range outer {
				at := (o*shape[axis] + k) * inner
				out[j] = append(out[j], x[at:at+inner]...)
			}
		}
	}
	return out
}

// distances sums every vector's Euclidean distances to all others, by their inner products.
func distances(v [][]float32) []float64 {
	n, m := len(v), len(v[0])
	flat := make([]float32, 0, n*m)
	for _, x := range v {
		flat = append(flat, x...)
	}
	dot := make([]float32, n*n)
	linalg.Gemm(nil, false, true, n, n, m, 1, flat, m, flat, m, 0, dot, n)
	out := make([]float64, n)
	for i := range out {
		for j := range n {
			d := float64(dot[i*n+i]) + float64(dot[j*n+j]) - 2*float64(dot[i*n+j])
			out[i] += math.Sqrt(math.Max(0, d))
		}
	}
	return out
}
