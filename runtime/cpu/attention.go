package cpu

import (
	"math"

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
// et al. 2022), so that scores never leave the L1 cache. Softmax is in f32.
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
	scratch []attentionScratch
}

const (
	// queryRows is the number of query rows (tokens times heads of a group) that
	// share the keys and values they load.
	queryRows = 48
	// tileTokens is the number of keys that pass between two looks at the maximum.
	tileTokens = 128
)

// attentionScratch is the working memory of one worker.
type attentionScratch struct {
	q, s, o  []float32 // [queryRows, headDim], [queryRows, tile], [queryRows, headDim]
	max, sum []float32 // [queryRows]
}

func newAttentionStep(p *program, s runtime.Step, a model.Attention) *attentionStep {
	return &attentionStep{
		p: p, q: s.In[0], k: s.In[1], v: s.In[2], out: s.Out, att: a,
		group: a.Heads / a.KVHeads, kvWidth: a.KVHeads * a.HeadDim, width: a.Heads * a.HeadDim,
		scratch: p.cache.scratchFor(p.pool.threads, a),
	}
}

// scratchFor is one working memory a worker, shared by the layers of one geometry.
func (k *kvCache) scratchFor(threads int, a model.Attention) []attentionScratch {
	key := [2]int{a.Heads / a.KVHeads, a.HeadDim}
	if s, ok := k.scratch[key]; ok {
		return s
	}
	rows := k.rows * key[0]
	tile := (tileTokens + k.pageTokens - 1) / k.pageTokens * k.pageTokens
	var out []attentionScratch
	for range threads {
		out = append(out, attentionScratch{
			q: make([]float32, rows*a.HeadDim), s: make([]float32, rows*tile), o: make([]float32, rows*a.HeadDim),
			max: make([]float32, rows), sum: make([]float32, rows),
		})
	}
	k.scratch[key] = out
	return out
}

func (s *attentionStep) run(p *program) {
	s.writing, s.per = true, p.split(p.rows, 4*s.kvWidth)
	p.pool.run(s, parts(p.rows, s.per))
	s.writing = false
	n := len(p.cache.blocks) * s.att.KVHeads
	if p.cache.context*int64(s.width) < grain {
		for i := range n {
			s.part(0, i)
		}
		return
	}
	p.pool.run(s, n)
}

func (s *attentionStep) part(worker, i int) {
	if s.writing {
		s.write(i*s.per, min((i+1)*s.per, s.p.rows))
		return
	}
	// The last blocks of a prompt look back furthest: they start first.
	c := s.p.cache
	b := c.blocks[len(c.blocks)-1-i/s.att.KVHeads]
	s.attend(&s.scratch[worker], b, i%s.att.KVHeads)
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

// attend computes the rows of one block for the query heads of kv head h.
func (s *attentionStep) attend(w *attentionScratch, b block, h int) {
	c, d, g := s.p.cache, s.att.HeadDim, s.group
	m := b.n * g // query row j*g+i is token j, head h*g+i
	q := s.p.bufs[s.q]
	for j := range b.n {
		src := q[(b.row+j)*s.width+h*g*d:][:g*d]
		dst := w.q[j*g*d:][:g*d]
		linalg.Scale(dst, s.att.Scale, src)
	}
	for r := range m {
		w.max[r], w.sum[r] = float32(math.Inf(-1)), 0
	}
	clear(w.o[:m*d])
	end, start := b.pos+b.n, 0
	if s.att.Window > 0 {
		start = max(0, b.pos-s.att.Window+1) / c.pageTokens * c.pageTokens
	}
	tile := len(w.s) / len(w.max)
	for t0 := start; t0 < end; t0 += tile {
		n := min(tile, end-t0)
		for t := 0; t < n; t += c.pageTokens {
			c.scores(w.s[t:], tile, w.q, m, d, c.at(c.page(b.seq, t0+t), s.att.Layer, h, d))
		}
		for r := range m {
			p := b.pos + r/g
			lo, hi := 0, min(n, p+1-t0)
			if s.att.Window > 0 {
				lo = max(0, p-s.att.Window+1-t0)
			}
			row := w.s[r*tile : r*tile+n]
			if hi <= lo {
				clear(row)
				continue
			}
			clear(row[:lo])
			clear(row[hi:])
			if f := softmaxTile(row[lo:hi], &w.max[r], &w.sum[r]); f != 1 {
				o := w.o[r*d : (r+1)*d]
				linalg.Scale(o, f, o)
			}
		}
		for t := 0; t < n; t += c.pageTokens {
			c.values(w.o, m, d, w.s[t:], tile, min(c.pageTokens, n-t), c.at(c.page(b.seq, t0+t), s.att.Layer, h, d))
		}
	}
	out := s.p.bufs[s.out]
	for r := range m {
		dst := out[(b.row+r/g)*s.width+(h*g+r%g)*d:][:d]
		linalg.Scale(dst, 1/w.sum[r], w.o[r*d:(r+1)*d])
	}
}

// softmaxTile replaces scores by exp(score - maximum so far), updates maximum and
// sum, and returns the factor on what was summed before.
func softmaxTile(x []float32, top, sum *float32) float32 {
	m := max(*top, linalg.Max(x))
	f := float32(1)
	if m != *top {
		f = float32(math.Exp(float64(*top - m)))
	}
	*sum = *sum*f + linalg.ExpSum(x, x, m)
	*top = m
	return f
}

// scores: s[r, t] = q[r] . K[:, t] for the tokens t of the page at a.
func (k *kvCache) scores(s []float32, ld int, q []float32, m, d, a int) {
	if k.half {
		mulPageF16(s, ld, q, d, m, d, k.f16[a:], k.pageTokens, false)
	} else {
		mulPageF32(s, ld, q, d, m, d, k.f32[a:], k.pageTokens, false)
	}
}

// values: o[r] += sum_t s[r, t] * V[t] for n tokens of the page at a.
func (k *kvCache) values(o []float32, m, d int, s []float32, ld, n, a int) {
	a += d * k.pageTokens
	if k.half {
		mulPageF16(o, d, s, ld, m, n, k.f16[a:], d, true)
	} else {
		mulPageF32(o, d, s, ld, m, n, k.f32[a:], d, true)
	}
}
