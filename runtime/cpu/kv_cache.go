package cpu

import (
	"fmt"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// kvCache holds keys and values of all layers in pages of pageTokens tokens.
//
// A page is [layer][kv head]{K [head dim, tokens], V [tokens, head dim]}: keys
// stand column by column, so that the scores of a page's tokens and the weighted
// sum of its values are both a row times a matrix, without sums across a register.
type kvCache struct {
	mem        *region
	half       bool // f16, else f32
	f16        []uint16
	f32        []float32
	pages      int
	pageTokens int
	pageLen    int   // numbers of a page
	layers     []int // where a layer starts in a page
	touched    []bool
	rows       int                         // largest number of queries of a block
	scratch    map[[2]int]*attentionMemory // by heads a group and head size

	// The batch:
	blocks  []block
	pos     []int32
	tables  []int32
	cols    int     // of tables
	valid   []int32 // by sequence: pages that are checked; -1: not met yet
	context int64   // tokens that the batch's rows look back on
	longest int     // the most of them that one row looks back on
	single  bool    // no sequence has two rows
}

// block is a run of rows of one sequence at consecutive positions.
type block struct{ row, n, seq, pos int }

func newKVCache(p *program, plan *runtime.Plan, atts []model.Attention) (*kvCache, error) {
	kv := plan.KV
	if kv.PageTokens < 1 || kv.Pages < 1 || (kv.Type != sparse.F16 && kv.Type != sparse.F32) {
		return nil, fmt.Errorf("KV cache of %d pages of %d tokens in %v: %w", kv.Pages, kv.PageTokens, kv.Type, runtime.ErrUnsupported)
	}
	k := &kvCache{half: kv.Type == sparse.F16, pages: kv.Pages, pageTokens: kv.PageTokens, scratch: map[[2]int]*attentionMemory{}}
	for _, w := range kv.Widths {
		k.layers = append(k.layers, k.pageLen)
		k.pageLen += 2 * w * kv.PageTokens
	}
	group := 1
	for _, a := range atts {
		group = max(group, a.Heads/a.KVHeads)
	}
	k.rows = max(1, queryRows/group)
	r, err := alloc(int(kv.PageBytes()) * kv.Pages)
	if err != nil {
		return nil, err
	}
	p.regions = append(p.regions, r)
	k.mem = r
	if k.half {
		k.f16 = u16s(r.bytes())
	} else {
		k.f32 = f32s(r.bytes())
	}
	k.touched = make([]bool, kv.Pages)
	k.blocks = make([]block, 0, plan.MaxRows)
	k.valid = make([]int32, plan.MaxRows)
	return k, nil
}

func (k *kvCache) size() int64 { return int64(len(k.mem.bytes())) }

func (k *kvCache) used() int64 {
	n := 0
	for _, t := range k.touched {
		if t {
			n++
		}
	}
	return k.size() / int64(k.pages) * int64(n)
}

// bind checks the batch's sequences and pages and cuts its rows into blocks.
func (k *kvCache) bind(pos, seq []int32, tables runtime.View) error {
	if tables.Rows < 1 || tables.Rows > len(k.valid) || tables.Cols < 1 || len(pos) != len(seq) {
		return fmt.Errorf("cpu: KV tables [%d %d] for %d rows: %w", tables.Rows, tables.Cols, len(pos), runtime.ErrShape)
	}
	k.pos, k.tables, k.cols = pos, tables.I32, tables.Cols
	k.blocks, k.context, k.longest, k.single = k.blocks[:0], 0, 0, true
	for s := range tables.Rows {
		k.valid[s] = -1
	}
	for t, p := range pos {
		s := int(seq[t])
		if s < 0 || s >= tables.Rows {
			return fmt.Errorf("cpu: sequences[%d]: want 0..%d, got %d: %w", t, tables.Rows-1, s, runtime.ErrInput)
		}
		need := int32(int(p)/k.pageTokens) + 1
		if int(need) > tables.Cols {
			return fmt.Errorf("cpu: positions[%d]: want 0..%d in %d pages, got %d: %w: %w", t, tables.Cols*k.pageTokens-1, tables.Cols, p, runtime.ErrInput, runtime.ErrContext)
		}
		k.single = k.single && k.valid[s] < 0
		for i := max(k.valid[s], 0); i < need; i++ {
			page := k.tables[s*k.cols+int(i)]
			if page < 0 || int(page) >= k.pages {
				return fmt.Errorf("cpu: tables[%d,%d]: want page 0..%d, got %d: %w", s, i, k.pages-1, page, runtime.ErrInput)
			}
		}
		k.valid[s] = max(k.valid[s], need)
		k.touched[k.page(s, int(p))] = true
		k.context += int64(p) + 1
		k.longest = max(k.longest, int(p)+1)
		if n := len(k.blocks); n > 0 {
			if b := &k.blocks[n-1]; b.seq == s && b.pos+b.n == int(p) && b.n < k.rows {
				b.n++
				continue
			}
		}
		k.blocks = append(k.blocks, block{row: t, n: 1, seq: s, pos: int(p)})
	}
	return nil
}

// page is the page of a sequence that holds position p.
func (k *kvCache) page(seq, p int) int { return int(k.tables[seq*k.cols+p/k.pageTokens]) }

// at is where the keys of a page start for a head of a layer; its values follow
// after headDim*pageTokens numbers.
func (k *kvCache) at(page, layer, head, headDim int) int {
	return page*k.pageLen + k.layers[layer] + 2*head*headDim*k.pageTokens
}

// write stores one head's key and value of one token.
func (k *kvCache) write(at, token int, key, value []float32) {
	d := len(key)
	v := at + d*k.pageTokens + token*d
	if k.half {
		linalg.F32ToF16(k.f16[v:v+d], value)
		kk := k.f16[at : at+d*k.pageTokens]
		var h [64]uint16
		for c := 0; c < d; c += len(h) {
			n := min(len(h), d-c)
			linalg.F32ToF16(h[:n], key[c:c+n])
			for i, x := range h[:n] {
				kk[(c+i)*k.pageTokens+token] = x
			}
		}
		return
	}
	kk := k.f32[at : at+d*k.pageTokens]
	for i, x := range key {
		kk[i*k.pageTokens+token] = x
	}
	copy(k.f32[v:v+d], value)
}
