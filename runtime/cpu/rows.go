package cpu

// rowStep is what steps that treat every row alone have in common.
type rowStep struct {
	p        *program
	in       [2]int // buffers
	out      int
	width    int
	selected bool
	n, per   int // rows of this run, and of a part
}

// start deals the rows of a step out; cost is the work of one, in numbers touched.
func (s *rowStep) start(p *program, j job, cost int) {
	s.p, s.n = p, p.rowsOf(s.selected)
	s.per = p.split(s.n, cost)
	p.pool.run(j, parts(s.n, s.per))
}

// bounds are the rows of part i.
func (s *rowStep) bounds(i int) (t0, t1 int) { return i * s.per, min((i+1)*s.per, s.n) }

// dst and src are the rows [t0, t1) of the result and of an operand of the same
// width.
func (s *rowStep) dst(t0, t1 int) []float32 { return s.p.bufs[s.out][t0*s.width : t1*s.width] }
func (s *rowStep) src(k, t0, t1 int) []float32 {
	return s.p.bufs[s.in[k]][t0*s.width : t1*s.width]
}
