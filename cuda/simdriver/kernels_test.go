package simdriver

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/cuda/ptxsim"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

// oneLayer is a Llama of one layer with heads of 64, which the fused attention
// kernels know, and Linears that hold 2:4; its head is its embedding.
func oneLayer(t testing.TB) *model.Graph {
	t.Helper()
	cfg := model.Config{Arch: "llama", Vocab: 96, Hidden: 64, Layers: 1, Heads: 2, KVHeads: 1, HeadDim: 64, FFN: 128, Context: 1024, RMSEps: 1e-5, RopeTheta: 1e4, Tied: true}
	rng := rand.New(rand.NewPCG(5, 6))
	shapes := map[string][]int{"embed_tokens": {96, 64}, "norm": {64}, "q_proj": {128, 64}, "k_proj": {64, 64}, "v_proj": {64, 64},
		"o_proj": {64, 128}, "gate_proj": {128, 64}, "up_proj": {128, 64}, "down_proj": {64, 128}}
	g, err := model.NewLlama(cfg, func(name string) (*model.Weight, error) {
		for part, shape := range shapes {
			if !strings.HasSuffix(name, part+".weight") && !(part == "norm" && strings.HasSuffix(name, "layernorm.weight")) {
				continue
			}
			rows, cols := 1, shape[0]
			if len(shape) == 2 {
				rows, cols = shape[0], shape[1]
			}
			f := make([]float32, rows*cols)
			for i := range f {
				switch {
				case rows == 1:
					f[i] = 1
				case part == "embed_tokens" || i%4 == i/4%3 || i%4 == 3:
					f[i] = float32(rng.NormFloat64()) / 8
				}
			}
			return &model.Weight{Name: name, Shape: shape, Data: sparse.NewDense(rows, cols, f)}, nil
		}
		return nil, nil
	})
	require.NoError(t, err)
	return g
}

// TestKernelChoice: which kernels a model runs on, by type, layout and rows: tiles for
// prompts and single tokens alike, conversions once for Linears of one input, the
// prefill attention for the prompt and the decode one for tokens.
func TestKernelChoice(t *testing.T) {
	b, d := open(t, ptxsim.Config{Seed: 4})
	g := oneLayer(t)
	prompt := make([]int32, 20)
	for _, c := range []struct {
		t       sparse.DType
		layout  sparse.Layout
		op      string
		convert string
	}{
		{sparse.F16, sparse.LayoutDense, "gemm_f16", ""}, {sparse.F16, sparse.LayoutNM24, "spmm_nm24_f16", ""},
		{sparse.F16, sparse.LayoutBitmask, "spmm_bitmask_f16", ""}, {sparse.BF16, sparse.LayoutBitmask, "spmm_bitmask_bf16", "round_bf16_f16"},
		{sparse.BF16, sparse.LayoutDense, "gemm_bf16", "round_bf16_f16"}, {sparse.BF16, sparse.LayoutNM24, "spmm_nm24_bf16", "round_bf16_f16"},
		{sparse.Int8, sparse.LayoutDense, "gemm_int8", "quantise_int8_f16"}, {sparse.Int8, sparse.LayoutNM24, "spmm_nm24_int8", "quantise_int8_f16"},
		{sparse.Int4, sparse.LayoutDense, "gemm_int4", ""}, {sparse.Int4, sparse.LayoutNM24, "spmm_nm24_int4", ""},
	} {
		t.Run(fmt.Sprint(c.t, " ", c.layout), func(t *testing.T) {
			o := runtime.Options{DType: c.t, Context: 64, Chunk: 32, Sparse: runtime.SparseOff}
			if c.layout != sparse.LayoutDense {
				o.Sparse, o.Layout = runtime.SparseForce, c.layout
			}
			s, err := runtime.New(g, b, runtime.WithOptions(o))
			require.NoError(t, err)
			defer s.Close()
			clear(d.Launches)
			_, err = s.GenerateTokens(context.Background(), prompt, runtime.GenerateOptions{MaxTokens: 3, IgnoreEOS: true})
			require.NoError(t, err)
			got := d.Launches
			// 7 Linears of the layer and the head, which is dense; the prompt, then 2 tokens.
			batch, head := 7, 1
			columns := 32
			if c.layout == sparse.LayoutBitmask {
				columns = 64
			}
			if c.layout == sparse.LayoutDense {
				head = 0
			}
			require.Equal(t, batch, got[fmt.Sprintf("%s_n%d", c.op, columns)], "prompt: %v", got)
			require.Equal(t, 2*batch+3*(1-head), got[c.op+"_n16"], "tokens: %v", got)
			if c.convert != "" { // of q k v, of o, of gate and up, of down, of the head
				require.Equal(t, 3*5, got[c.convert], "%v", got)
			}
			require.Equal(t, 1, got["attention_prefill_f16_hd64"])
			require.Equal(t, 2, got["attention_decode_f16_hd64_g4"])
			require.Equal(t, 3, got[fmt.Sprintf("embedding_tile_%v_f16", c.t)])
			// Steps of the prompt are timed one by one by events; tokens run as a graph.
			ops := s.Counters().Ops
			linear := ops[runtime.OpKey{Op: model.OpLinear, Layout: c.layout, Phase: runtime.Prefill}]
			require.Positive(t, linear.Time)
			require.Positive(t, linear.Bytes)
			graph := ops[runtime.OpKey{Op: "Graph", Layout: sparse.LayoutDense, Phase: runtime.Decode}]
			require.EqualValues(t, 2, graph.Calls)
			require.Positive(t, graph.Time)
			require.Positive(t, s.Counters().Memory.Device)
			for k := range got {
				require.False(t, strings.HasPrefix(k, "gemv") || strings.HasPrefix(k, "pack"), "%s runs with tiles", k)
			}
		})
	}
}

// TestSmallPrograms: a program that never sees more than 8 rows keeps weights
// row-major, and all others do so when asked; int4 only when asked.
func TestSmallPrograms(t *testing.T) {
	b, d := open(t, ptxsim.Config{Seed: 4})
	g := oneLayer(t)
	for _, c := range []struct {
		b     runtime.Backend
		chunk int
		t     sparse.DType
		want  string
	}{
		{b, 8, sparse.F16, "gemv_nm24_f16_f16_b8"}, {b, 8, sparse.Int8, "gemv_nm24_int8_f16_b8"}, {b, 8, sparse.BF16, "gemv_nm24_bf16_f16_b8"},
		{b, 8, sparse.Int4, "spmm_nm24_int4_n16"}, {b.RowMajor(), 32, sparse.Int4, "gemv_nm24_int4_f16_b8"}, {b.RowMajor(), 32, sparse.F16, "gemv_nm24_f16_f16_b8"},
	} {
		s, err := runtime.New(g, c.b, runtime.WithOptions(runtime.Options{DType: c.t, Context: 64, Chunk: c.chunk, Sparse: runtime.SparseForce, Layout: sparse.LayoutNM24}))
		require.NoError(t, err)
		clear(d.Launches)
		_, err = s.GenerateTokens(context.Background(), make([]int32, 8), runtime.GenerateOptions{MaxTokens: 1})
		require.NoError(t, err)
		require.Equal(t, 7, d.Launches[c.want], "chunk %d %v: %v", c.chunk, c.t, d.Launches)
		require.NoError(t, s.Close())
	}
}

// TestLongContext: a prompt of several query tiles and chunks, then tokens across a
// class of context lengths, whose graphs split the cache over more blocks each.
func TestLongContext(t *testing.T) {
	b, d := open(t, ptxsim.Config{Seed: 7})
	host := cpu.New()
	defer host.Close()
	g := oneLayer(t)
	const prompt, tokens = 250, 12
	ids := make([]int32, prompt+tokens)
	for i := range ids {
		ids[i] = int32(i * 7 % 96)
	}
	logits := func(b runtime.Backend, t2 sparse.DType) (out []float32) {
		s, err := runtime.New(g, b, runtime.WithOptions(runtime.Options{DType: t2, Context: 320, Chunk: 100, Sparse: runtime.SparseOff}))
		require.NoError(t, err)
		defer s.Close()
		q := s.NewSequence()
		defer q.Close()
		l, err := q.Extend(context.Background(), ids[:prompt], nil)
		require.NoError(t, err)
		out = append(out, l...)
		for _, id := range ids[prompt:] {
			l, err := q.Extend(context.Background(), []int32{id}, nil)
			require.NoError(t, err)
			out = append(out, l...)
		}
		return out
	}
	want := logits(host, sparse.F32)
	clear(d.Launches)
	got := logits(b, sparse.F16)
	near(t, "f16", want, got, 0.01)
	require.Equal(t, 3, d.Launches["attention_prefill_f16_hd64"])
	require.Equal(t, tokens, d.Launches["attention_decode_f16_hd64_g4"])
	require.Equal(t, tokens, d.Launches["attention_combine_f16"], "4 simulated multiprocessors, one head of keys: always split")
}

// TestStalePadding: rows of activations are padded to 16 elements, and a buffer that
// held wider rows of infinities before has those there. No kernel lets them through.
func TestStalePadding(t *testing.T) {
	b, _ := open(t, ptxsim.Config{Seed: 9})
	const wide, in, out, rows = 64, 33, 20, 3
	rng := rand.New(rand.NewPCG(1, 1))
	w := make([]float32, out*in)
	for i := range w {
		if i%in%4 < 2 {
			w[i] = float32(rng.IntN(15) - 7)
		}
		if i%in == 0 {
			w[i] = 7 // the scale of int4 rows is 1
		}
	}
	for _, layout := range sparse.Layouts {
		for _, wt := range []sparse.DType{sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.Int4} {
			k := runtime.Kernel{Op: model.OpLinear, Layout: layout, Weight: wt, Act: runtime.ActType(wt)}
			if !b.Has(k) {
				continue
			}
			g := &model.Graph{Values: []model.Value{{Width: wide}, {Width: in}, {Width: wide}, {Width: in}, {Width: out}}, Inputs: []model.ValueID{0, 1}, Outputs: []model.ValueID{4}}
			weight := &model.Weight{Name: "w", Shape: []int{out, in}, Data: sparse.NewDense(out, in, w)}
			p := &runtime.Plan{Graph: g, MaxRows: 32, MaxSelect: 1, Inputs: []int{0, 1}, Outputs: []int{3},
				Buffers: []runtime.Buffer{{Width: wide, Input: 0}, {Width: in, Input: 1}, {Width: wide, Input: -1}, {Width: out, Input: -1}}}
			step := func(op model.Op, k runtime.Kernel, in []int, out int, value model.ValueID, w *model.Weight) {
				n := &model.Node{Op: op, Name: string(op), Out: value, Weight: w}
				for _, i := range in {
					n.In = append(n.In, model.ValueID(i))
				}
				k.Op = op
				p.Steps = append(p.Steps, runtime.Step{Node: n, Kernel: k, In: in, Out: out, Residual: -1})
			}
			step(model.OpAdd, runtime.Kernel{}, []int{0, 0}, 2, 2, nil)
			step(model.OpAdd, runtime.Kernel{}, []int{1, 1}, 2, 3, nil)
			step(model.OpLinear, k, []int{2}, 3, 4, weight)
			prog, err := b.Compile(p)
			require.NoError(t, err, k)
			inf, ones := make([]float32, rows*wide), make([]float32, rows*in)
			for i := range inf {
				inf[i] = 1e30
			}
			for i := range ones {
				ones[i] = 1
			}
			got := make([]float32, rows*out)
			err = prog.Run(context.Background(), []runtime.View{{Rows: rows, Cols: wide, F32: inf}, {Rows: rows, Cols: in, F32: ones}},
				[]runtime.View{{Rows: rows, Cols: out, F32: got}}, nil)
			require.NoError(t, err, k)
			for i, y := range got {
				var want float32
				for _, x := range w[i%out*in : (i%out+1)*in] {
					want += 2 * x
				}
				require.InDelta(t, want, y, 0.5, "%s output %d", k, i) // int8 weights are rounded
			}
			require.NoError(t, prog.Close())
		}
	}
}
