package cpu

import "github.com/sparserun/sparserun/linalg"

// mulStep: out = in[0] * in[1].
type mulStep struct{ rowStep }

func (s *mulStep) run(p *program) { s.start(p, s, s.width) }

func (s *mulStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	linalg.Mul(s.dst(t0, t1), s.src(0, t0, t1), s.src(1, t0, t1))
}
