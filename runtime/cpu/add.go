package cpu

import "github.com/sparserun/sparserun/linalg"

// addStep: out = in[0] + in[1].
type addStep struct{ rowStep }

func (s *addStep) run(p *program) { s.start(p, s, s.width) }

func (s *addStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	linalg.Add(s.dst(t0, t1), s.src(0, t0, t1), s.src(1, t0, t1))
}
