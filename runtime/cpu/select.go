package cpu

// selectStep: out[i] = in[rows[i]].
type selectStep struct{ rowStep }

func (s *selectStep) run(p *program) { s.start(p, s, s.width) }

func (s *selectStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	rows := s.p.ints[s.in[1]]
	for t := t0; t < t1; t++ {
		r := int(rows[t])
		copy(s.dst(t, t+1), s.src(0, r, r+1))
	}
}
