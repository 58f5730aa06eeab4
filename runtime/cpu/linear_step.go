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
	tiled    []slice // for several tiles of tokens, which are dealt out too; nil: they are not
	cuts     []slice // of this run
	tokens   int     // rows of activations of a part of this run
	views    []acts  // of x, by worker
	dealer   dealer
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

// cutRows appends slices of all rows of a Linear, about per rows each, in whole blocks.
func cutRows(s []slice, which, rows, per, block int) []slice {
	per = max(1, (per+block-1)/block) * block
	for r := 0; r < rows; r += per {
		s = append(s, slice{which, r, min(r+per, rows)})
	}
	return s
}

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
	tokens := threads > 1
	for _, l := range s.parts {
		total += l.w.bytes().Total()
		tokens = tokens && l.w.form() == formTokens
	}
	s.few = s.slices(threads, max(partBytes, total/int64(4*threads)))
	s.many = s.slices(threads, max(partBytes/8, total/int64(4*threads)))
	s.tiled = nil
	if !tokens {
		return
	}
	s.views, s.dealer.hands = make([]acts, threads), make([]hand, threads)
	for k, l := range s.parts {
		// As many rows as csrTiled works on at once, and a part for every thread.
		block := l.w.rowBlock()
		n := max(threads, (l.rows+csrSums*block-1)/(csrSums*block))
		s.tiled = cutRows(s.tiled, k, l.rows, (l.rows+n-1)/n, block)
	}
}

// deal chooses the parts of a run over x and returns their number. Where tokens
// stand in lanes, a part has one tile of them, and the worker that has made a tile
// multiplies it too: a tile that another core has made, or has read last, comes
// from that core's cache line by line. 95 % zeros, 768x3072, 128 tokens, two
// threads: 25 us to make the tiles and 290 to multiply against 190 and 410.
func (s *linearStep) deal() int {
	s.tokens, s.cuts = max(s.x.rows, 1), s.few
	if s.x.rows > manyRows {
		s.cuts = s.many
	}
	if top := panelTop(formTokens); s.tiled != nil && s.x.rows > top {
		s.tokens, s.cuts = top, s.tiled
	}
	n := len(s.cuts) * parts(s.x.rows, s.tokens)
	s.dealer.start(n)
	return n
}

// share is part i of a run: rows of a weight, and activations from row t0 on.
func (s *linearStep) share(worker, i int) (c slice, x *acts, t0 int) {
	if s.tokens >= s.x.rows {
		return s.cuts[i], s.x, 0
	}
	i = s.dealer.take(worker)
	t0 = i / len(s.cuts) * s.tokens
	x = &s.views[worker]
	*x = s.x.tile(t0, min(t0+s.tokens, s.x.rows))
	return s.cuts[i%len(s.cuts)], x, t0
}

// slices cuts every Linear into parts of about target bytes.
func (s *linearStep) slices(threads int, target int64) []slice {
	var out []slice
	for k, l := range s.parts {
		per := max(l.rows, 1)
		if b := l.w.bytes().Total(); threads > 1 && b > target {
			n := int((b + target - 1) / target)
			per = (l.rows + n - 1) / n
		}
		out = cutRows(out, k, l.rows, per, l.w.rowBlock())
	}
	return out
}

func (s *linearStep) run(p *program) {
	s.p = p
	s.x.rows = p.rowsOf(s.selected)
	s.x.f32 = p.bufs[s.in][:s.x.rows*s.x.cols]
	for _, f := range s.fresh {
		s.x.begin(f)
		s.making.run(p.pool, s.x, f)
	}
	p.pool.run(s, s.deal())
}

func (s *linearStep) part(worker, i int) {
	c, x, t0 := s.share(worker, i)
	l := &s.parts[c.which]
	out := s.p.bufs[l.out][t0*l.rows:]
	if l.residual >= 0 && l.residual != l.out {
		res := s.p.bufs[l.residual][t0*l.rows:]
		for t := range x.rows {
			copy(out[t*l.rows+c.r0:t*l.rows+c.r1], res[t*l.rows+c.r0:t*l.rows+c.r1])
		}
	}
	l.w.mul(out, l.rows, x, epilogue{bias: l.bias, add: l.residual >= 0}, c.r0, c.r1)
}

// formJob makes a form of activations, rows dealt out.
type formJob struct {
	x      *acts
	f      form
	per    int
	dealer dealer
}

func (j *formJob) run(p *pool, x *acts, f form) {
	if j.dealer.hands == nil {
		j.dealer.hands = make([]hand, p.threads)
	}
	step := x.step(f)
	n := 4 * p.threads
	if f == formTokens { // see linearStep.deal
		n = p.threads
	}
	per := max((x.rows+n-1)/n, (grain+2*x.cols-1)/max(2*x.cols, 1))
	j.x, j.f, j.per = x, f, (per+step-1)/step*step
	n = parts(x.rows, j.per)
	j.dealer.start(n)
	p.run(j, n)
}

func (j *formJob) part(worker, _ int) {
	i := j.dealer.take(worker)
	j.x.prepare(j.f, i*j.per, min((i+1)*j.per, j.x.rows))
}
