package cpu

// embeddingStep: out[t] = w[tokens[t]].
type embeddingStep struct {
	rowStep
	w rowReader
}

func (s *embeddingStep) run(p *program) { s.start(p, s, 2*s.width) }

func (s *embeddingStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	tokens := s.p.ints[s.in[0]]
	for t := t0; t < t1; t++ {
		s.w.readRow(s.dst(t, t+1), int(tokens[t]))
	}
}
