package cuda

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

const (
	// prefillRows is from how many rows of one sequence on a pass over its keys for
	// all of them beats one pass for each; queryTile is how many a block takes.
	prefillRows = 8
	queryTile   = 64
	// splitContext is the least context of a block of the decode kernel.
	splitContext = 128
)

// run is consecutive rows of a batch that one attention kernel takes.
type run struct {
	first, n    int
	tile, tiles int // the query tiles of a prefill run; 0 tiles: decode
}

// cutRuns cuts a batch: prompts of prefillRows and more go to the tensor-core kernel in
// query tiles [first row, rows], each of one sequence at rising positions; other rows to
// the decode kernel, which takes rows of any sequence.
func cutRuns(pos, seq []int32) (runs []run, tiles []int32) {
	for i := 0; i < len(pos); {
		j := i + 1
		for j < len(pos) && seq[j] == seq[i] && pos[j] > pos[j-1] {
			j++
		}
		r := run{first: i, n: j - i, tile: len(tiles) / 2}
		if r.n >= prefillRows {
			for a := i; a < j; a += queryTile {
				tiles = append(tiles, int32(a), int32(min(queryTile, j-a)))
				r.tiles++
			}
		}
		if last := len(runs) - 1; last >= 0 && (runs[last].tiles > 0) == (r.tiles > 0) {
			runs[last].n += r.n
			runs[last].tiles += r.tiles
		} else {
			runs = append(runs, r)
		}
		i = j
	}
	return runs, tiles
}

// contextClass is the context n up to a power of two: captured graphs are per class.
func contextClass(n int) int {
	c := splitContext
	for c < n {
		c *= 2
	}
	return c
}

// attnScratch is what the attention kernels of all layers share.
type attnScratch struct {
	tiles  Ptr // query tiles of the batch
	sums   Ptr // of decode blocks that split a context
	layers []*attentionCall
}

// reserve takes the scratch memory of the layers that were lowered.
func (a *attnScratch) reserve(p *program) error {
	var sums int64
	longest := contextClass(p.maxPages * p.plan.KV.PageTokens)
	for _, c := range a.layers {
		for rows := 1; rows <= p.plan.MaxRows; rows++ {
			if n := c.splits(rows, longest); n > 1 {
				sums = max(sums, 4*int64(n)*int64(rows)*int64(c.a.Heads)*int64(c.a.HeadDim+2))
			}
		}
	}
	if len(a.layers) == 0 {
		return nil
	}
	var err error
	n := int64(8 * p.plan.MaxRows)
	if a.tiles, err = p.alloc(n); err != nil {
		return err
	}
	if sums > 0 {
		if a.sums, err = p.alloc(sums); err != nil {
			return err
		}
	}
	p.workspace += n + sums
	return nil
}

// attentionCall is an attention layer: keys and values go to the cache, then every row
// attends, by the fused kernels where they know the head size, else by the plain one.
type attentionCall struct {
	p                           *program
	a                           model.Attention
	y, q, k, v, pos, seq, table Ptr
	keys, values                Ptr
	l                           int32
	write, plain                Func
	decode, combine, prefill    Func // nil where there is none for the head size
	prefillShared               int
}

func (p *program) attention(s *runtime.Step, y Ptr, l int32) (func() error, error) {
	a := s.Node.Attr.(model.Attention)
	c := &attentionCall{p: p, a: a, y: y, l: l, keys: p.kv[a.Layer][0], values: p.kv[a.Layer][1]}
	for i, at := range []*Ptr{&c.q, &c.k, &c.v, &c.pos, &c.seq, &c.table} {
		*at = p.buffers[s.In[i]]
	}
	var err error
	if c.write, err = p.fn("kv_write"+p.t(), 0); err != nil {
		return nil, err
	}
	group := a.Heads / a.KVHeads
	if p.act != sparse.F16 || (a.HeadDim != 64 && a.HeadDim != 128) || group > 8 {
		if c.plain, err = p.fn("attention"+p.t(), 0); err != nil {
			return nil, err
		}
		return c.launch, nil
	}
	g := map[bool]int{true: 4, false: 8}[group <= 4] // query heads that share a pass over the keys
	if group == 1 {
		g = 1
	}
	if c.decode, err = p.fn(fmt.Sprintf("attention_decode_f16_hd%d_g%d", a.HeadDim, g), 0); err != nil {
		return nil, err
	}
	if c.combine, err = p.fn("attention_combine_f16", 0); err != nil {
		return nil, err
	}
	c.prefillShared = 5 * queryTile * a.HeadDim * 2 // queries, two stages of keys and values
	if c.prefill, err = p.fn(fmt.Sprintf("attention_prefill_f16_hd%d", a.HeadDim), c.prefillShared); err != nil {
		return nil, err
	}
	p.attn.layers = append(p.attn.layers, c)
	return c.launch, nil
}

// splits is over how many blocks a context of the class is spread, where the batch
// alone does not fill the device with two blocks a multiprocessor: a power of two.
func (c *attentionCall) splits(rows, class int) int {
	if w := c.a.Window; w > 0 {
		class = min(class, contextClass(w))
	}
	most := min(2*c.p.b.info.SMs/max(1, rows*c.a.KVHeads), class/splitContext)
	n := 1
	for 2*n <= most {
		n *= 2
	}
	return n
}

func (c *attentionCall) launch() error {
	p, a := c.p, &c.a
	pages, page := int32(p.maxPages), int32(p.plan.KV.PageTokens)
	kvw := a.KVHeads * a.HeadDim
	lkv := int32(ld(kvw))
	block := [3]int{128, 1, 1}
	err := p.d.Launch(c.write, [3]int{p.rows, 1, 1}, block, 0, c.keys, c.values, c.k, c.v, c.pos, c.seq, c.table, pages, page, int32(kvw), lkv, lkv)
	if err != nil {
		return err
	}
	heads, kvheads, window := int32(a.Heads), int32(a.KVHeads), int32(a.Window)
	if c.plain != nil {
		return p.d.Launch(c.plain, [3]int{p.rows, a.Heads, 1}, block, 0, c.y, c.q, c.keys, c.values, c.pos, c.seq, c.table, pages, page,
			heads, kvheads, int32(a.HeadDim), c.l, c.l, window, a.Scale)
	}
	for _, r := range p.runs {
		if r.tiles > 0 {
			err = p.d.Launch(c.prefill, [3]int{r.tiles, a.Heads, 1}, block, c.prefillShared, c.y, c.q, c.keys, c.values, p.attn.tiles+Ptr(8*r.tile),
				c.pos, c.seq, c.table, pages, page, heads, kvheads, c.l, c.l, window, a.Scale)
		} else {
			err = c.decodeRun(r, pages, page)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *attentionCall) decodeRun(r run, pages, page int32) error {
	p, a := c.p, &c.a
	row, word := Ptr(2*r.first)*Ptr(c.l), Ptr(4*r.first)
	n := c.splits(r.n, p.class)
	block := [3]int{128, 1, 1}
	err := p.d.Launch(c.decode, [3]int{r.n, a.KVHeads, n}, block, 0, c.y+row, p.attn.sums, c.q+row, c.keys, c.values, c.pos+word, c.seq+word, c.table,
		pages, page, int32(a.Heads), int32(a.KVHeads), c.l, c.l, int32(a.Window), a.Scale)
	if err != nil || n == 1 {
		return err
	}
	return p.d.Launch(c.combine, [3]int{r.n, a.Heads, 1}, block, 0, c.y+row, p.attn.sums, int32(n), int32(a.HeadDim), c.l)
}
