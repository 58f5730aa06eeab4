package backendtest

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// attentionNet is one attention layer with its cache, fed by inputs.
type attentionNet struct {
	att  model.Attention
	half bool // the cache is f16
	plan *runtime.Plan
	k, v [][][]float32 // what each sequence holds: [seq][pos][width]
}

const (
	testPages   = 40
	testMaxRows = 48
)

func newAttentionNet(att model.Attention, kv sparse.DType) *attentionNet {
	a := &attentionNet{att: att, half: kv == sparse.F16}
	n := newNet(testMaxRows, 0)
	qw, kw := att.Heads*att.HeadDim, att.KVHeads*att.HeadDim
	n.g.Config = &model.Config{Context: testPages * runtime.PageTokens, Layers: att.Layer + 1}
	// Another layer lies before ours in the cache.
	for range att.Layer {
		n.plan.KV.Widths = append(n.plan.KV.Widths, 8)
	}
	n.plan.KV.Widths = append(n.plan.KV.Widths, kw)
	n.plan.KV.PageTokens, n.plan.KV.Pages, n.plan.KV.Type = runtime.PageTokens, testPages, kv
	q, k, v := n.input(qw), n.input(kw), n.input(kw)
	pos, seq, tables := n.input(1), n.input(1), n.input(1)
	a.plan = n.output(n.node(model.OpAttention, qw, att, nil, nil, q, k, v, pos, seq, tables))
	return a
}

// batchRow is one token of a batch.
type batchRow struct{ seq, pos int }

// want is the reference: the softmax of all scores in float64, then its bound.
func (a *attentionNet) want(q []float32, row batchRow) (y, bound []float64) {
	att, d := a.att, a.att.HeadDim
	y, bound = make([]float64, att.Heads*d), make([]float64, att.Heads*d)
	from := 0
	if att.Window > 0 {
		from = max(0, row.pos-att.Window+1)
	}
	for h := range att.Heads {
		kh := h / (att.Heads / att.KVHeads) * d
		p := make([]float64, row.pos+1)
		top, size := math.Inf(-1), 0.0
		for t := from; t <= row.pos; t++ {
			var dot, abs float64
			for c := range d {
				x := float64(q[h*d+c]) * a.round(a.k[row.seq][t][kh+c])
				dot += x
				abs += math.Abs(x)
			}
			p[t] = dot * float64(att.Scale)
			top = max(top, p[t])
			size = max(size, abs*float64(att.Scale))
		}
		var sum float64
		for t := from; t <= row.pos; t++ {
			p[t] = math.Exp(p[t] - top)
			sum += p[t]
		}
		n := float64(row.pos - from + 1)
		// Scores are off by d rounding units of their terms, which exp turns into a
		// relative error of every weight; the weighted sum adds one unit a term.
		rel := (2*size*float64(d+4) + n/4 + 40) * unit
		for c := range d {
			var o, abs float64
			for t := from; t <= row.pos; t++ {
				x := p[t] / sum * a.round(a.v[row.seq][t][kh+c])
				o += x
				abs += math.Abs(x)
			}
			y[h*d+c], bound[h*d+c] = o, abs*rel+1e-30
		}
	}
	return y, bound
}

// round is what the cache keeps of a number.
func (a *attentionNet) round(x float32) float64 {
	if a.half {
		return float64(sparse.F16ToF32(sparse.F32ToF16(x)))
	}
	return float64(x)
}

// attention runs prompts in chunks, then single tokens, of several sequences whose
// pages lie in no order, alone and mixed in one batch.
func (s *suite) attention(t *testing.T) {
	for _, att := range []model.Attention{
		{Layer: 0, Heads: 1, KVHeads: 1, HeadDim: 8},
		{Layer: 1, Heads: 8, KVHeads: 4, HeadDim: 8},
		{Layer: 0, Heads: 9, KVHeads: 3, HeadDim: 64},
		{Layer: 1, Heads: 4, KVHeads: 1, HeadDim: 80},
		{Layer: 0, Heads: 2, KVHeads: 2, HeadDim: 6},
		{Layer: 0, Heads: 2, KVHeads: 1, HeadDim: 128, Window: 37},
		{Layer: 0, Heads: 6, KVHeads: 2, HeadDim: 16, Window: 1},
	} {
		att.Scale = float32(1 / math.Sqrt(float64(att.HeadDim)))
		for _, kv := range []sparse.DType{sparse.F32, sparse.F16} {
			t.Run(name("heads", att.Heads, "of", att.HeadDim, "window", att.Window, kv), func(t *testing.T) { s.attentionCase(t, att, kv) })
		}
	}
}

func (s *suite) attentionCase(t *testing.T, att model.Attention, kv sparse.DType) {
	id := name("Attention ", att, " ", kv)
	r := rng(id)
	a := newAttentionNet(att, kv)
	p := s.program(t, a.plan)
	const seqs, tablePages = 3, 12
	pages := r.Perm(testPages)
	tables := make([]int32, seqs*tablePages)
	for i := range tables {
		tables[i] = int32(pages[i])
	}
	a.k, a.v = make([][][]float32, seqs), make([][][]float32, seqs)
	step := func(what string, rows []batchRow) {
		t.Helper()
		a.step(t, s, r, p, name(id, " ", what), rows, tables, seqs, tablePages)
	}
	var chunk []batchRow
	add := func(seq, n int) {
		at := len(a.k[seq])
		for _, b := range chunk {
			if b.seq == seq {
				at = max(at, b.pos+1)
			}
		}
		for i := range n {
			chunk = append(chunk, batchRow{seq, at + i})
		}
	}
	add(0, 1)
	step("one token", chunk)
	chunk = nil
	add(0, 47)
	step("chunk", chunk)
	for range 5 { // across several tiles of any kernel
		chunk = nil
		add(0, 48)
		step("chunk", chunk)
	}
	chunk = nil
	add(1, 33)
	add(2, 7)
	step("two prompts", chunk)
	chunk = nil
	add(2, 1)
	add(0, 1)
	add(1, 1)
	step("one token each", chunk)
	chunk = nil
	add(1, 1)
	add(0, 20)
	add(2, 9)
	step("prompt and tokens", chunk)
	chunk = nil
	add(2, 12)
	add(0, 1)
	add(1, 2)
	step("tokens after a prompt", chunk)
	for range 3 {
		chunk = nil
		add(0, 1)
		step("last token", chunk)
	}
}

func (a *attentionNet) step(t *testing.T, s *suite, r *rand.Rand, p runtime.Program, id string, rows []batchRow, tables []int32, seqs, tablePages int) {
	t.Helper()
	qw, kw := a.att.Heads*a.att.HeadDim, a.att.KVHeads*a.att.HeadDim
	n := len(rows)
	q, k, v := normal(r, n*qw), normal(r, n*kw), normal(r, n*kw)
	var pos, seq []int32
	for i, b := range rows {
		pos, seq = append(pos, int32(b.pos)), append(seq, int32(b.seq))
		a.k[b.seq] = append(a.k[b.seq], k[i*kw:(i+1)*kw])
		a.v[b.seq] = append(a.v[b.seq], v[i*kw:(i+1)*kw])
	}
	got := run(t, p, n, qw, floats(n, qw, q), floats(n, kw, k), floats(n, kw, v), ints(pos...), ints(seq...),
		runtime.View{Rows: seqs, Cols: tablePages, I32: tables})
	var want, bound []float64
	for i, b := range rows {
		y, e := a.want(q[i*qw:(i+1)*qw], b)
		for c := range e {
			e[c] += s.round * 64
		}
		want, bound = append(want, y...), append(bound, e...)
	}
	equal(t, id, got, want, bound)
}
