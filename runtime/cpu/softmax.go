package cpu

import "github.com/sparserun/sparserun/linalg"

// softmaxStep: out = exp(in - max) / sum, over a row.
type softmaxStep struct{ rowStep }

func (s *softmaxStep) run(p *program) { s.start(p, s, 4*s.width) }

func (s *softmaxStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	for t := t0; t < t1; t++ {
		linalg.Softmax(s.dst(t, t+1), s.src(0, t, t+1), 1)
	}
}
