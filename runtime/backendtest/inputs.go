package backendtest

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// tinyLM is an embedding, one attention layer and a head: every kind of input.
func (s *suite) tinyLM() *runtime.Plan {
	r := rng("tiny")
	const vocab, width = 20, 8
	n := newNet(16, 4)
	n.kernel = s.has()[0]
	n.g.Config = &model.Config{Vocab: vocab, Context: 128, Layers: 1}
	n.plan.KV = runtime.KV{Widths: []int{width}, PageTokens: runtime.PageTokens, Pages: 4, Type: sparse.F32}
	tok, pos, seq, tab, sel := n.input(1), n.input(1), n.input(1), n.input(1), n.input(1)
	w := matrix("embed", vocab, width, weights(r, n.kernel, vocab, width, 1))
	x := n.node(model.OpEmbedding, width, nil, w, nil, tok)
	x = n.node(model.OpRoPE, width, model.RoPE{HeadDim: 4, InvFreq: []float64{1, 0.1}, Scale: 1}, nil, nil, x, pos)
	x = n.node(model.OpAttention, width, model.Attention{Heads: 2, KVHeads: 2, HeadDim: 4, Scale: 0.5}, nil, nil, x, x, x, pos, seq, tab)
	x = n.node(model.OpSelect, width, nil, nil, nil, x, sel)
	return n.output(n.node(model.OpLinear, vocab, nil, w, nil, x))
}

// inputs holds that numbers out of range are refused with a typed error and leave
// the program usable.
func (s *suite) inputs(t *testing.T) {
	p := s.program(t, s.tinyLM())
	type batch struct {
		in  [5]runtime.View
		out runtime.View
	}
	good := func() *batch {
		return &batch{
			in:  [5]runtime.View{ints(3, 4, 5), ints(0, 1, 0), ints(0, 0, 1), {Rows: 2, Cols: 2, I32: []int32{1, 0, 3, -1}}, ints(1, 2)},
			out: floats(2, 20, make([]float32, 40)),
		}
	}
	do := func(b *batch) error {
		return p.Run(context.Background(), b.in[:], []runtime.View{b.out}, nil)
	}
	want := good()
	require.NoError(t, do(want))
	for name, c := range map[string]struct {
		spoil func(b *batch)
		err   error
	}{
		"token below":        {func(b *batch) { b.in[0].I32[1] = -1 }, runtime.ErrInput},
		"token beyond":       {func(b *batch) { b.in[0].I32[1] = 20 }, runtime.ErrInput},
		"position below":     {func(b *batch) { b.in[1].I32[0] = -1 }, runtime.ErrInput},
		"position beyond":    {func(b *batch) { b.in[1].I32[1] = 64 }, runtime.ErrContext},
		"position huge":      {func(b *batch) { b.in[1].I32[1] = math.MaxInt32 }, runtime.ErrContext},
		"sequence below":     {func(b *batch) { b.in[2].I32[0] = -1 }, runtime.ErrInput},
		"sequence beyond":    {func(b *batch) { b.in[2].I32[2] = 2 }, runtime.ErrInput},
		"page below":         {func(b *batch) { b.in[3].I32[0] = -1 }, runtime.ErrInput},
		"page beyond":        {func(b *batch) { b.in[3].I32[2] = 4 }, runtime.ErrInput},
		"page in use is -1":  {func(b *batch) { b.in[1].I32[2] = 32 }, runtime.ErrInput},
		"row below":          {func(b *batch) { b.in[4].I32[0] = -1 }, runtime.ErrInput},
		"row beyond":         {func(b *batch) { b.in[4].I32[1] = 3 }, runtime.ErrInput},
		"no rows":            {func(b *batch) { b.in[0], b.in[1], b.in[2] = ints(), ints(), ints() }, runtime.ErrShape},
		"too many rows":      {func(b *batch) { b.in[0] = ints(make([]int32, 17)...); b.in[1], b.in[2] = b.in[0], b.in[0] }, runtime.ErrShape},
		"too many selected":  {func(b *batch) { b.in[4] = ints(0, 0, 0, 0, 0); b.out = floats(5, 20, make([]float32, 100)) }, runtime.ErrShape},
		"rows differ":        {func(b *batch) { b.in[1] = ints(0, 1) }, runtime.ErrShape},
		"view too short":     {func(b *batch) { b.in[0].I32 = b.in[0].I32[:2] }, runtime.ErrShape},
		"table too short":    {func(b *batch) { b.in[3].I32 = b.in[3].I32[:3] }, runtime.ErrShape},
		"no table":           {func(b *batch) { b.in[3] = runtime.View{} }, runtime.ErrShape},
		"floats for ints":    {func(b *batch) { b.in[0] = floats(3, 1, make([]float32, 3)) }, runtime.ErrShape},
		"output too short":   {func(b *batch) { b.out.F32 = b.out.F32[:39] }, runtime.ErrShape},
		"output rows differ": {func(b *batch) { b.out = floats(3, 20, make([]float32, 60)) }, runtime.ErrShape},
	} {
		b := good()
		c.spoil(b)
		require.ErrorIs(t, do(b), c.err, name)
	}
	require.ErrorIs(t, p.Run(context.Background(), want.in[:4], []runtime.View{want.out}, nil), runtime.ErrShape)
	require.ErrorIs(t, p.Run(context.Background(), want.in[:], nil, nil), runtime.ErrShape)
	// Nobody may ask for logits at all.
	b := good()
	b.in[4], b.out = ints(), floats(0, 20, nil)
	require.NoError(t, do(b))
	again := good()
	require.NoError(t, do(again))
	require.Equal(t, want.out.F32, again.out.F32)
}

// lifetime: cancelled contexts, memory figures, Close.
func (s *suite) lifetime(t *testing.T) {
	b := s.new()
	p, err := b.Compile(s.tinyLM())
	require.NoError(t, err)
	in := []runtime.View{ints(3), ints(0), ints(0), ints(2), ints(0)}
	out := []runtime.View{floats(1, 20, make([]float32, 20))}
	ctx, cancel := context.WithCancel(context.Background())
	require.NoError(t, p.Run(ctx, in, out, nil))
	cancel()
	require.ErrorIs(t, p.Run(ctx, in, out, nil), context.Canceled)
	var c runtime.Counters
	require.NoError(t, p.Run(context.Background(), in, out, &c))
	var linear runtime.OpCounter
	for k, o := range c.Ops {
		if k.Op == model.OpLinear {
			linear = o
			require.Equal(t, runtime.Decode, k.Phase)
		}
	}
	require.EqualValues(t, 1, linear.Calls)
	require.EqualValues(t, 2*20*8, linear.DenseFLOPs)
	require.Positive(t, linear.Bytes)
	m := p.Memory()
	require.Positive(t, m.Weights.Total())
	require.EqualValues(t, 4*2*8*4*runtime.PageTokens, m.KVCache)
	require.Equal(t, m.KVCache/4, m.KVUsed)
	require.Positive(t, m.Workspace)
	require.Positive(t, p.Bytes(4).Total())
	// Several callers take turns.
	done := make(chan error)
	for range 4 {
		go func() {
			mine := []runtime.View{floats(1, 20, make([]float32, 20))}
			var err error
			for range 20 {
				if e := p.Run(context.Background(), in, mine, nil); e != nil {
					err = e
				}
			}
			done <- err
		}()
	}
	for range 4 {
		require.NoError(t, <-done)
	}
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	require.ErrorIs(t, p.Run(context.Background(), in, out, nil), runtime.ErrClosed)
	require.NoError(t, b.Close())
}
