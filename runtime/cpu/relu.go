package cpu

// reluStep: out = max(in, 0).
type reluStep struct{ rowStep }

func (s *reluStep) run(p *program) { s.start(p, s, s.width) }

func (s *reluStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	dst, src := s.dst(t0, t1), s.src(0, t0, t1)
	for k, v := range src {
		dst[k] = max(v, 0)
	}
}
