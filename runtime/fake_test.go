package runtime

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// fakeBackend predicts (last token + 1) mod vocab and times kernels by table, so
// that everything above the seam is tested without a kernel.
type fakeBackend struct {
	times map[string]time.Duration // by "layout batch"
	has   func(Kernel) bool
	calls atomic.Int64
}

func (f *fakeBackend) Name() string { return "fake" }
func (f *fakeBackend) Has(k Kernel) bool {
	return f.has == nil || f.has(k)
}
func (f *fakeBackend) Close() error    { return nil }
func (f *fakeBackend) Machine() string { return "fake machine" }
func (f *fakeBackend) Time(_ context.Context, k Kernel, _, _ int, _ float64, batch int) (time.Duration, error) {
	f.calls.Add(1)
	return f.times[fmt.Sprintf("%v %d", k.Layout, batch)], nil
}
func (f *fakeBackend) Compile(p *Plan) (Program, error) { return &fakeProgram{p: p}, nil }

type fakeProgram struct{ p *Plan }

func (f *fakeProgram) Memory() Memory         { return Memory{Weights: sparse.Bytes{Values: 1}} }
func (f *fakeProgram) Bytes(int) sparse.Bytes { return sparse.Bytes{Values: 7} }
func (f *fakeProgram) Close() error           { return nil }
func (f *fakeProgram) Run(_ context.Context, in, out []View, c *Counters) error {
	vocab := out[0].Cols
	for i, r := range in[model.InSelect].I32 {
		row := out[0].F32[i*vocab : (i+1)*vocab]
		clear(row)
		row[(int(in[model.InTokens].I32[r])+1)%vocab] = 10
	}
	if need := int(in[model.InPos].I32[len(in[model.InPos].I32)-1])/f.p.KV.PageTokens + 1; in[model.InTables].Cols < need {
		return fmt.Errorf("%d pages for %d", in[model.InTables].Cols, need)
	}
	return nil
}

// tinyLlama is a two-layer model with random weights; sparsity24 makes its Linears 2:4.
func tinyLlama(sparsity24 bool) *model.Graph {
	cfg := model.Config{Arch: "llama", Vocab: 40, Hidden: 16, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 4, FFN: 24, Context: 128, RMSEps: 1e-5, RopeTheta: 1e4, Tied: true}
	rng := rand.New(rand.NewPCG(1, 1))
	g, err := model.NewLlama(cfg, func(name string) (*model.Weight, error) {
		shape := tinyShape(name)
		if shape == nil {
			return nil, nil
		}
		n := shape[0]
		r, c := 1, n
		if len(shape) == 2 {
			n *= shape[1]
			r, c = shape[0], shape[1]
		}
		f := make([]float32, n)
		for i := range f {
			if !sparsity24 || len(shape) == 1 || name == "model.embed_tokens.weight" || i%4 < 2 {
				f[i] = float32(rng.NormFloat64())
			}
		}
		return &model.Weight{Name: name, Shape: shape, Data: sparse.NewDense(r, c, f)}, nil
	})
	if err != nil {
		panic(err)
	}
	return g
}

func tinyShape(name string) []int {
	var layer int
	var rest string
	if n, _ := fmt.Sscanf(name, "model.layers.%d.%s", &layer, &rest); n == 2 {
		switch rest {
		case "self_attn.q_proj.weight", "self_attn.o_proj.weight":
			return []int{16, 16}
		case "self_attn.k_proj.weight", "self_attn.v_proj.weight":
			return []int{8, 16}
		case "mlp.gate_proj.weight", "mlp.up_proj.weight":
			return []int{24, 16}
		case "mlp.down_proj.weight":
			return []int{16, 24}
		case "input_layernorm.weight", "post_attention_layernorm.weight":
			return []int{16}
		}
		return nil
	}
	switch name {
	case "model.embed_tokens.weight":
		return []int{40, 16}
	case "model.norm.weight":
		return []int{16}
	}
	return nil
}
