package cpu

import (
	"math"
	"sync/atomic"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
)

// attentionStep: causal grouped-query attention over the paged KV cache.
//
//	out[t, h] = softmax(q[t, h] . K[0..pos(t), h/g] * scale) . V[0..pos(t), h/g]
//
// Keys and values of the batch are written to the cache first. Then blocks of
// queries of one sequence and one kv head, all g query heads at once, pass over the
// context in tiles with a running maximum and sum (Milakov & Gimelshein 2018; Dao
// et al. 2022), so that scores never leave the L1 cache. Where there are fewer
// blocks than workers, the context is split, and who finishes last merges the
// parts. Softmax is in f32.
type attentionStep struct {
	p       *program
	q, k, v int // buffers
	out     int
	att     model.Attention
	group   int // query heads of a kv head
	kvWidth int
	width   int
	writing bool // the job at hand: cache writes, else attention
	per     int  // rows of a write part
	splits  int  // of the context
	mem     *attentionMemory
}

const (
	// queryRows is the number of query rows (tokens times heads of a group) that
	// share the keys and values they load.
	queryRows = 48
	// tileTokens is the number of keys that pass between two looks at the maximum.
	tileTokens = 128
)

// attentionMemory is the working memory of layers of one geometry.
type attentionMemory struct {
	workers []attentionScratch
	// Of a split context: each part's weighted sums, maxima and sums, and how many
	// parts of an item are done.
	parts []attentionPart
	done  []atomic.Int32
}

// attentionPart is what one pass leaves: o / sum is the result.
type attentionPart struct {
	o        []float32 // [queryRows, headDim]
	max, sum []float32 // [queryRows]
}

// attentionScratch is the working memory of one worker.
type attentionScratch struct {
	q, s []float32 // [queryRows, headDim], [queryRows, tile]
	own  attentionPart
}

func newAttentionStep(p *program, s runtime.Step, a model.Attention) *attentionStep {
	return &attentionStep{
		p: p, q: s.In[0], k: s.In[1], v: s.In[2], out: s.Out, att: a,
		group: a.Heads / a.KVHeads, kvWidth: a.KVHeads * a.HeadDim, width: a.Heads * a.HeadDim,
		mem: p.cache.memoryFor(p.pool.threads, a),
	}
}

// memoryFor makes the working memory of a geometry, once.
func (k *kvCache) memoryFor(threads int, a model.Attention) *attentionMemory {
	key := [2]int{a.Heads / a.KVHeads, a.HeadDim}
	if m := k.scratch[key]; m != nil {
		return m
	}
	rows := k.rows * key[0]
	part := func() attentionPart {
		return attentionPart{o: make([]float32, rows*a.HeadDim), max: make([]float32, rows), sum: make([]float32, rows)}
	}
	m := &attentionMemory{done: make([]atomic.Int32, wantedParts(threads))}
	for range threads {
		m.workers = append(m.workers, attentionScratch{q: make([]float32, rows*a.HeadDim), s: make([]float32, rows*k.tile()), own: part()})
	}
	for range 2 * wantedParts(threads) {
		m.parts = append(m.parts, part())
	}
	k.scratch[key] = m
	return m
}

// wantedParts is how many parts keep all workers busy to the end.
func wantedParts(threads int) int { return 2 * threads }

// tile is tileTokens in whole pages.
func (k *kvCache) tile() int {
	return (tileTokens + k.pageTokens - 1) / k.pageTokens * k.pageTokens
}

func (s *attentionStep) run(p *program) {
	s.writing, s.per = true, p.split(p.rows, 4*s.kvWidth)
	p.pool.run(s, parts(p.rows, s.per))
	s.writing, s.splits = false, 1
	c := p.cache
	n := len(c.blocks) * s.att.KVHeads
	if c.context*int64(s.width) < 2*grain {
		for i := range n {
			s.part(0, i)
		}
		return
	}
	if want := wantedParts(p.pool.threads); n < want && p.pool.threads > 1 {
		s.splits = max(1, min((want+n-1)/n, c.longest/c.tile()))
		for i := range n {
			s.mem.done[i].Store(0)
		}
	}
	p.pool.run(s, n*s.splits)
}

func (s *attentionStep) part(worker, i int) {
	if s.writing {
		s.write(i*s.per, min((i+1)*s.per, s.p.rows))
		return
	}
	c := s.p.cache
	item, split := i/s.splits, i%s.splits
	// The last blocks of a prompt look back furthest: they start first.
	b, h := c.blocks[len(c.blocks)-1-item/s.att.KVHeads], item%s.att.KVHeads
	w := &s.mem.workers[worker]
	from, to := 0, b.pos+b.n
	if s.att.Window > 0 {
		from = max(0, b.pos-s.att.Window+1) / c.pageTokens * c.pageTokens
	}
	if s.splits == 1 {
		s.attend(w, &w.own, b, h, from, to)
		s.finish(&w.own, b, h)
		return
	}
	per := parts(parts(to-from, c.pageTokens), s.splits) * c.pageTokens
	mine := s.mem.parts[item*s.splits : (item+1)*s.splits]
	from += split * per
	s.attend(w, &mine[split], b, h, from, min(to, from+per))
	if int(s.mem.done[item].Add(1)) == s.splits {
		s.merge(mine, b)
		s.finish(&mine[0], b, h)
	}
}

// write puts keys and values of rows t0..t1-1 into the cache.
func (s *attentionStep) write(t0, t1 int) {
	c, d := s.p.cache, s.att.HeadDim
	k, v := s.p.bufs[s.k], s.p.bufs[s.v]
	for _, b := range c.blocks {
		for t := max(t0, b.row); t < min(t1, b.row+b.n); t++ {
			p := b.pos + t - b.row
			page := c.page(b.seq, p)
			for h := range s.att.KVHeads {
				x := t*s.kvWidth + h*d
				c.write(c.at(page, s.att.Layer, h, d), p%c.pageTokens, k[x:x+d], v[x:x+d])
			}
		}
	}
}

// attend passes the rows of one block, for the query heads of kv head h, over the
// tokens from..to-1; from is the first of a page.
func (s *attentionStep) attend(w *attentionScratch, r *attentionPart, b block, h, from, to int) {
	c, d, g := s.p.cache, s.att.HeadDim, s.group
	m := b.n * g // query row j*g+i is token j, head h*g+i
	q := s.p.bufs[s.q]
	for j := range b.n {
		linalg.Scale(w.q[j*g*d:][:g*d], s.att.Scale, q[(b.row+j)*s.width+h*g*d:][:g*d])
	}
	for i := range m {
		r.max[i], r.sum[i] = float32(math.Inf(-1)), 0
	}
	clear(r.o[:m*d])
	tile := c.tile()
	at := func(t int) int { // keys of the page of token t
		if t >= to {
			t = from
		}
		return c.at(c.page(b.seq, t), s.att.Layer, h, d)
	}
	for t0 := from; t0 < to; t0 += tile {
		n := min(tile, to-t0)
		for t := 0; t < n; t += c.pageTokens {
			c.scores(w.s[t:], tile, w.q, m, d, at(t0+t), at(t0+t+c.pageTokens))
		}
		for i := range m {
			p := b.pos + i/g
			lo, hi := 0, min(n, p+1-t0)
			if s.att.Window > 0 {
				lo = max(0, p-s.att.Window+1-t0)
			}
			row := w.s[i*tile : i*tile+n]
			if hi <= lo {
				clear(row)
				continue
			}
			clear(row[:lo])
			clear(row[hi:])
			if f := softmaxTile(row[lo:hi], &r.max[i], &r.sum[i]); f != 1 {
				o := r.o[i*d : (i+1)*d]
				linalg.Scale(o, f, o)
			}
		}
		for t := 0; t < n; t += c.pageTokens {
			c.values(r.o, m, d, w.s[t:], tile, min(c.pageTokens, n-t), at(t0+t), at(t0+t+c.pageTokens))
		}
	}
}

// merge adds all parts of an item up in the first.
func (s *attentionStep) merge(parts []attentionPart, b block) {
	d := s.att.HeadDim
	first := &parts[0]
	for i := range b.n * s.group {
		top := first.max[i]
		for _, p := range parts[1:] {
			top = max(top, p.max[i])
		}
		o := first.o[i*d : (i+1)*d]
		f := expDiff(first.max[i], top)
		linalg.Scale(o, f, o)
		sum := first.sum[i] * f
		for _, p := range parts[1:] {
			f := expDiff(p.max[i], top)
			linalg.Axpy(f, p.o[i*d:(i+1)*d], o)
			sum += p.sum[i] * f
		}
		first.sum[i] = sum
	}
}

// expDiff is exp(a - b) for a <= b; b may be where a pass saw nothing.
func expDiff(a, b float32) float32 {
	if a == b {
		return 1
	}
	return float32(math.Exp(float64(a - b)))
}

// finish divides by the sums and writes the result.
func (s *attentionStep) finish(r *attentionPart, b block, h int) {
	d, g := s.att.HeadDim, s.group
	out := s.p.bufs[s.out]
	for i := range b.n * g {
		dst := out[(b.row+i/g)*s.width+(h*g+i%g)*d:][:d]
		linalg.Scale(dst, 1/r.sum[i], r.o[i*d:(i+1)*d])
	}
}

// softmaxTile replaces scores by exp(score - maximum so far), updates maximum and
// sum, and returns the factor on what was summed before.
func softmaxTile(x []float32, top, sum *float32) float32 {
	m := max(*top, linalg.Max(x))
	f := expDiff(*top, m)
	*sum = *sum*f + linalg.ExpSum(x, x, m)
	*top = m
	return f
}

// scores: s[r, t] = q[r] . K[:, t] for the tokens t of the page at a; next is the
// page that follows.
func (k *kvCache) scores(s []float32, ld int, q []float32, m, d, a, next int) {
	if k.half {
		mulPageF16(s, ld, q, d, m, d, k.f16[a:], k.pageTokens, false, k.f16[next:])
	} else {
		mulPageF32(s, ld, q, d, m, d, k.f32[a:], k.pageTokens, false, k.f32[next:])
	}
}

// values: o[r] += sum_t s[r, t] * V[t] for n tokens of the page at a.
func (k *kvCache) values(o []float32, m, d int, s []float32, ld, n, a, next int) {
	a, next = a+d*k.pageTokens, next+d*k.pageTokens
	if k.half {
		mulPageF16(o, d, s, ld, m, n, k.f16[a:], d, true, k.f16[next:])
	} else {
		mulPageF32(o, d, s, ld, m, n, k.f32[a:], d, true, k.f32[next:])
	}
}
