package cpu

// quantiseRows makes the int8 form of rows t0..t1-1 of f32.
func (a *acts) quantiseRows(f32 []float32, t0, t1 int) {
	ng := a.qld / actGroup
	for t := t0; t < t1; t++ {
		quantiseRow(a.q[t*a.qld:(t+1)*a.qld], a.scale[t*ng:(t+1)*ng], f32[t*a.cols:(t+1)*a.cols])
	}
}

// quantStep makes the int8 form of a buffer whose writer could not do so.
type quantStep struct {
	p        *program
	buf      int
	selected bool
	a        *acts
	n, per   int
}

func (s *quantStep) run(p *program) {
	s.p, s.n = p, p.rowsOf(s.selected)
	s.per = p.split(s.n, 2*s.a.cols)
	p.pool.run(s, parts(s.n, s.per))
}

func (s *quantStep) part(_, i int) {
	s.a.quantiseRows(s.p.bufs[s.buf], i*s.per, min((i+1)*s.per, s.n))
}
