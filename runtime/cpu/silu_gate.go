package cpu

import "github.com/sparserun/sparserun/linalg"

// siluGateStep: out = silu(in[0]) * in[1], silu(x) = x / (1 + exp(-x)).
type siluGateStep struct{ rowStep }

func (s *siluGateStep) run(p *program) { s.start(p, s, 4*s.width) }

func (s *siluGateStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	linalg.SiLUGate(s.dst(t0, t1), s.src(0, t0, t1), s.src(1, t0, t1))
}
