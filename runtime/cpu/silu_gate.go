package cpu

import "math"

// siluGateStep: out = silu(in[0]) * in[1], silu(x) = x / (1 + exp(-x)).
type siluGateStep struct{ rowStep }

func (s *siluGateStep) run(p *program) { s.start(p, s, 4*s.width) }

func (s *siluGateStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	siluGate(s.dst(t0, t1), s.src(0, t0, t1), s.src(1, t0, t1))
}

func siluGate(dst, gate, up []float32) {
	for i, x := range gate {
		dst[i] = x / (1 + float32(math.Exp(float64(-x)))) * up[i]
	}
}
