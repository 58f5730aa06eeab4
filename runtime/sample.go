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
	bins  bins
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

// Tokens are told apart by how far their logit is below the best, in steps of
// 1/binsPerNat of the temperature; what is depthNats below has no chance worth a number.
const (
	depthNats  = 40
	binsPerNat = 8
)

// bins are the tokens of one draw by their distance from the best.
type bins struct {
	mass  [depthNats*binsPerNat + 1]float64 // sum of exp
	count [depthNats*binsPerNat + 1]int
}

// draw picks a token by chance. It looks at every logit a few times and sorts only
// those that top-k and top-p may keep: of a vocabulary of 50,000, some tens.
func (s *Sampler) draw(logits []float32) int32 {
	first := Argmax(logits)
	best := float64(logits[first])
	scale := 1 / s.o.Temperature
	floor := -float64(depthNats)
	if s.o.MinP > 0 {
		floor = max(floor, math.Log(s.o.MinP))
	}
	b := &s.bins
	*b = bins{}
	for _, l := range logits {
		if d := (float64(l) - best) * scale; d >= floor {
			i := int(-d * binsPerNat)
			b.mass[i] += expNegative(d)
			b.count[i]++
		}
	}
	var sum float64
	for _, m := range b.mass {
		sum += m
	}
	if !(sum > 0) { // no logit is a number
		return first
	}
	// The first bins that hold all that is kept.
	last, n, mass := 0, 0, 0.0
	k, p := s.o.TopK, s.o.TopP
	sorted := k > 0 || p > 0 && p < 1
	var r float64
	if !sorted {
		r = s.rng.Float64() * sum
	}
	for ; last < len(b.mass)-1; last++ {
		n += b.count[last]
		mass += b.mass[last]
		if sorted && (k > 0 && n >= k || p > 0 && p < 1 && k == 0 && mass >= p*sum*(1+1e-9)) || !sorted && mass > r {
			break
		}
	}
	// Most logits are seen to be too small at a glance.
	low := float32(best - float64(last+1)/(binsPerNat*scale))
	low -= float32(math.Abs(float64(low))) * 1e-6
	if !sorted {
		// Within its bin tokens stand by their ids.
		r -= mass - b.mass[last]
		id := first
		for i, l := range logits {
			if l < low {
				continue
			}
			d := (float64(l) - best) * scale
			if !(d >= floor) || int(-d*binsPerNat) != last {
				continue
			}
			id = int32(i)
			if r -= expNegative(d); r < 0 {
				break
			}
		}
		return id
	}
	c := s.cand[:0]
	for i, l := range logits {
		if l < low {
			continue
		}
		if d := (float64(l) - best) * scale; d >= floor && int(-d*binsPerNat) <= last {
			c = append(c, candidate{id: int32(i), logit: l, p: expNegative(d)})
		}
	}
	s.cand = c
	if k > 0 {
		if len(c) > k {
			c = likeliest(c, func(n int, _ candidate) bool { return n < k })
		}
		sum = 0
		for i := range c {
			sum += c[i].p
		}
	}
	if p > 0 && p < 1 {
		var acc float64
		c = likeliest(c, func(_ int, x candidate) bool {
			acc += x.p
			return acc < p*sum
		})
		sum = acc
	}
	r = s.rng.Float64() * sum
	for i := range c {
		if r -= c[i].p; r < 0 {
			return c[i].id
		}
	}
	return first // rounding left a little of r
}

// expNegative is e^x for x in [-depthNats, 0], to 1e-8 of itself: 2^k times a series
// of 2^f, |f| <= 1/2.
func expNegative(x float64) float64 {
	y := x * math.Log2E
	k := int(y - 0.5)
	f := (y - float64(k)) * math.Ln2
	e := 1 + f*(1+f*(1./2+f*(1./6+f*(1./24+f*(1./120+f*(1./720+f*(1./5040)))))))
	return e * math.Float64frombits(uint64(1023+k)<<52)
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
