package cpu

// linearStep runs Linears that read the same input as one job: q, k and v; gate
// and up. The parts of all of them are dealt out together.
type linearStep struct {
	p        *program
	in       int
	selected bool
	x        *acts
	fresh    []form // of x, that this step makes
	making   formJob
	parts    []linear
	few      []slice // for few rows: a part is worth its bytes
	many     []slice // for many rows: a part is worth its work
	cuts     []slice // of this run
}

// linear is one product: out = x * w^T (+ bias) (+ residual).
type linear struct {
	w        packed
	rows     int
	out      int // buffers
	residual int // -1: none
	bias     []float32
}

// slice is a part: rows [r0, r1) of one of the Linears.
type slice struct{ which, r0, r1 int }

const (
	// partBytes of weights take some two microseconds to read: less is not worth
	// handing out.
	partBytes = 32 << 10
	// manyRows is where arithmetic starts to outweigh reading weights.
	manyRows = 4
)

// cut divides the work for the given number of threads.
func (s *linearStep) cut(threads int) {
	var total int64
	for _, l := range s.parts {
		total += l.w.bytes().Total()
	}
	s.few = s.slices(threads, max(partBytes, total/int64(4*threads)))
	s.many = s.slices(threads, max(partBytes/8, total/int64(4*threads)))
}

// slices cuts every Linear into parts of about target bytes.
func (s *linearStep) slices(threads int, target int64) []slice {
	var out []slice
	for k, l := range s.parts {
		per := max(l.rows, 1)
		if b := l.w.bytes().Total(); threads > 1 && b > target {
			block := l.w.rowBlock()
			n := int((b + target - 1) / target)
			per = max(block, (l.rows+n-1)/n)
			per = (per + block - 1) / block * block
		}
		for r := 0; r < l.rows; r += per {
			out = append(out, slice{k, r, min(r+per, l.rows)})
		}
	}
	return out
}

func (s *linearStep) run(p *program) {
	s.p = p
	s.x.rows = p.rowsOf(s.selected)
	s.x.f32 = p.bufs[s.in][:s.x.rows*s.x.cols]
	for _, f := range s.fresh {
		s.x.begin(f)
		s.making = formJob{s.x, f, 0}
		s.making.run(p)
	}
	s.cuts = s.few
	if s.x.rows > manyRows {
		s.cuts = s.many
	}
	p.pool.run(s, len(s.cuts))
}

func (s *linearStep) part(_, i int) {
	c := s.cuts[i]
	l := &s.parts[c.which]
	out := s.p.bufs[l.out]
	if l.residual >= 0 && l.residual != l.out {
		res := s.p.bufs[l.residual]
		for t := range s.x.rows {
			copy(out[t*l.rows+c.r0:t*l.rows+c.r1], res[t*l.rows+c.r0:t*l.rows+c.r1])
		}
	}
	l.w.mul(out, l.rows, s.x, epilogue{bias: l.bias, add: l.residual >= 0}, c.r0, c.r1)
}

// formJob makes a form of activations, rows dealt out.
type formJob struct {
	x   *acts
	f   form
	per int
}

func (j *formJob) run(p *program) {
	step := j.x.step(j.f)
	per := p.split(j.x.rows, 2*j.x.cols)
	j.per = (per + step - 1) / step * step
	p.pool.run(j, parts(j.x.rows, j.per))
}

func (j *formJob) part(_, i int) {
	j.x.prepare(j.f, i*j.per, min((i+1)*j.per, j.x.rows))
}
