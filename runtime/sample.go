package runtime

import (
	"fmt"
	"math"
	"math/rand/v2"
)

// Sampling says how the next token is drawn. The zero value is greedy.
type Sampling struct {
	Temperature      float64 // 0: the most likely token
	TopK             int     // 0: all
	TopP             float64 // 0 or 1: all. Holtzman et al. 2020
	MinP             float64 // share of the best token's probability. Nguyen et al. 2024
	RepeatPenalty    float64 // 0 or 1: none. Keskar et al. 2019
	FrequencyPenalty float64 // subtracted per occurrence
	PresencePenalty  float64 // subtracted once
	RepeatLast       int     // tokens that penalties look back; 0: 64, -1: all
	Bias             map[int32]float32
	Seed             uint64
}

// Check validates ranges.
func (o *Sampling) Check() error {
	for _, v := range []struct {
		name    string
		x, l, h float64
	}{
		{"temperature", o.Temperature, 0, 100}, {"top-k", float64(o.TopK), 0, 1 << 30}, {"top-p", o.TopP, 0, 1}, {"min-p", o.MinP, 0, 1},
		{"repeat penalty", o.RepeatPenalty, 0, 100}, {"frequency penalty", o.FrequencyPenalty, -100, 100},
		{"presence penalty", o.PresencePenalty, -100, 100}, {"repeat last", float64(o.RepeatLast), -1, 1 << 30},
	} {
		if !(v.x >= v.l && v.x <= v.h) {
			return fmt.Errorf("runtime: %s: want %g..%g, got %g: %w", v.name, v.l, v.h, v.x, ErrOption)
		}
	}
	return nil
}

// Sampler draws tokens; it belongs to one sequence.
type Sampler struct {
	o     Sampling
	rng   *rand.Rand
	past  []int32
	count map[int32]int
	cand  []candidate
}

type candidate struct {
	id    int32
	logit float32
	p     float64
}

// NewSampler starts a sampler; equal options and equal logits give equal tokens.
func NewSampler(o Sampling) (*Sampler, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if o.RepeatLast == 0 {
		o.RepeatLast = 64
	}
	return &Sampler{o: o, rng: rand.New(rand.NewPCG(o.Seed, 0x5eed)), count: map[int32]int{}}, nil
}

// Accept tells the sampler of a token that stands in the text, prompt included.
func (s *Sampler) Accept(id int32) {
	s.past = append(s.past, id)
	s.count[id]++
	if n := s.o.RepeatLast; n >= 0 && len(s.past) > n {
		old := s.past[0]
		s.past = s.past[1:]
		if s.count[old]--; s.count[old] == 0 {
			delete(s.count, old)
		}
	}
}

// Next draws a token from logits, which it changes: bias and penalties are applied.
func (s *Sampler) Next(logits []float32) int32 {
	for id, b := range s.o.Bias {
		if int(id) < len(logits) && id >= 0 {
			logits[id] += b
		}
	}
	if s.penalties() {
		for id, n := range s.count {
			if int(id) >= len(logits) {
				continue
			}
			l := &logits[id]
			if r := float32(s.o.RepeatPenalty); r > 0 && r != 1 {
				if *l > 0 {
					*l /= r
				} else {
					*l *= r
				}
			}
			*l -= float32(float64(n)*s.o.FrequencyPenalty + s.o.PresencePenalty)
		}
	}
	if s.o.Temperature == 0 || s.o.TopK == 1 {
		return Argmax(logits)
	}
	return s.draw(logits)
}

func (s *Sampler) penalties() bool {
	o := &s.o
	return (o.RepeatPenalty != 0 && o.RepeatPenalty != 1) || o.FrequencyPenalty != 0 || o.PresencePenalty != 0
}

// Argmax is the lowest index of the largest number.
func Argmax(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

// draw picks a token by chance. Nothing is sorted that the filters do not ask for: of
// a vocabulary of 50,000, top-k and top-p keep some tens.
func (s *Sampler) draw(logits []float32) int32 {
	// Min-p is a fixed distance below the best logit: applied first, it leaves few
	// candidates.
	best := logits[Argmax(logits)]
	floor := math.Inf(-1)
	if s.o.MinP > 0 {
		floor = float64(best) + s.o.Temperature*math.Log(s.o.MinP)
	}
	c := s.cand[:0]
	for i, l := range logits {
		if float64(l) >= floor {
			c = append(c, candidate{id: int32(i), logit: l})
		}
	}
	s.cand = c
	if k := s.o.TopK; k > 0 && len(c) > k {
		c = likeliest(c, func(n int, _ candidate) bool { return n < k })
	}
	var sum float64
	for i := range c {
		c[i].p = math.Exp(float64(c[i].logit-best) / s.o.Temperature)
		sum += c[i].p
	}
	if p := s.o.TopP; p > 0 && p < 1 {
		var acc float64
		c = likeliest(c, func(_ int, x candidate) bool {
			acc += x.p
			return acc < p*sum
		})
		sum = acc
	}
	r := s.rng.Float64() * sum
	for i := range c {
		if r -= c[i].p; r < 0 {
			return c[i].id
		}
	}
	// Rounding left a little of r.
	last := len(c) - 1
	for last > 0 && c[last].p == 0 {
		last--
	}
	return c[last].id
}

// likeliest takes candidates in order of their logits, ties by id, while more, asked
// after each with their number, says so. They end up at the end of c, the last first.
func likeliest(c []candidate, more func(n int, taken candidate) bool) []candidate {
	for i := len(c)/2 - 1; i >= 0; i-- {
		sink(c, i)
	}
	n := len(c)
	for n > 0 {
		n--
		c[0], c[n] = c[n], c[0]
		sink(c[:n], 0)
		if !more(len(c)-n, c[n]) {
			break
		}
	}
	return c[n:]
}

// sink restores the heap below i: a parent comes before its children.
func sink(h []candidate, i int) {
	for {
		k := 2*i + 1
		if k >= len(h) {
			return
		}
		if k+1 < len(h) && h[k+1].before(h[k]) {
			k++
		}
		if !h[k].before(h[i]) {
			return
		}
		h[i], h[k] = h[k], h[i]
		i = k
	}
}

func (a candidate) before(b candidate) bool {
	return a.logit > b.logit || a.logit == b.logit && a.id < b.id
}
