package cpu

import "math"

// softmaxStep: out = exp(in - max) / sum, over a row.
type softmaxStep struct{ rowStep }

func (s *softmaxStep) run(p *program) { s.start(p, s, 4*s.width) }

func (s *softmaxStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	for t := t0; t < t1; t++ {
		softmax(s.dst(t, t+1), s.src(0, t, t+1))
	}
}

func softmax(dst, x []float32) {
	top := float32(math.Inf(-1))
	for _, v := range x {
		top = max(top, v)
	}
	var sum float64
	for i, v := range x {
		e := math.Exp(float64(v - top))
		dst[i] = float32(e)
		sum += e
	}
	for i := range dst {
		dst[i] = float32(float64(dst[i]) / sum)
	}
}
