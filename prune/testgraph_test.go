package prune

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// tinyConfig has odd widths: 20 is no multiple of 8, 44 = 4*11, 23 tokens.
func tinyConfig() model.Config {
	return model.Config{Arch: "llama", Vocab: 23, Hidden: 20, Layers: 2, Heads: 2, KVHeads: 1, HeadDim: 10, FFN: 43,
		Context: 64, RMSEps: 1e-5, RopeTheta: 10000, Tied: true}
}

// randomGraph is a language model with seeded normal weights.
func randomGraph(t testing.TB, cfg model.Config, seed uint64) *model.Graph {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	shape := func(name string) []int { return cfgShape(cfg, name) }
	weights := map[string]*model.Weight{}
	g, err := model.NewLlama(cfg, func(name string) (*model.Weight, error) {
		if w := weights[name]; w != nil {
			return w, nil
		}
		s := shape(name)
		if s == nil {
			return nil, nil
		}
		rows, cols := 1, s[0]
		if len(s) == 2 {
			rows, cols = s[0], s[1]
		}
		f := make([]float32, rows*cols)
		for i := range f {
			f[i] = float32(rng.NormFloat64()) * 0.3
			if len(s) == 1 {
				f[i] = 1 + 0.1*f[i]
			}
		}
		weights[name] = &model.Weight{Name: name, Shape: s, Data: sparse.NewDense(rows, cols, f)}
		return weights[name], nil
	})
	require.NoError(t, err)
	return g
}

// cfgShape is the shape of a weight of a plain Llama, nil where it has none.
func cfgShape(c model.Config, name string) []int {
	base := name
	layer := 0
	if n := len("model.layers."); len(name) > n && name[:n] == "model.layers." {
		rest := name[n:]
		for i := range rest {
			if rest[i] == '.' {
				for _, d := range rest[:i] {
					layer = 10*layer + int(d-'0')
				}
				base = rest[i+1:]
				break
			}
		}
	}
	h, kv, ffn := c.Heads, c.KVHeads, c.FFN
	if layer < c.Layers {
		h, kv, ffn = c.Layer(layer)
	}
	switch base {
	case "model.embed_tokens.weight", "lm_head.weight":
		return []int{c.Vocab, c.Hidden}
	case "model.norm.weight", "input_layernorm.weight", "post_attention_layernorm.weight":
		return []int{c.Hidden}
	case "self_attn.q_proj.weight":
		return []int{h * c.HeadDim, c.Hidden}
	case "self_attn.k_proj.weight", "self_attn.v_proj.weight":
		return []int{kv * c.HeadDim, c.Hidden}
	case "self_attn.o_proj.weight":
		return []int{c.Hidden, h * c.HeadDim}
	case "mlp.gate_proj.weight", "mlp.up_proj.weight":
		return []int{ffn, c.Hidden}
	case "mlp.down_proj.weight":
		return []int{c.Hidden, ffn}
	case "self_attn.q_norm.weight", "self_attn.k_norm.weight":
		if c.QKNorm {
			return []int{c.HeadDim}
		}
	}
	return nil
}

// readAll unpacks every target of g.
func readAll(t testing.TB, g *model.Graph) map[string][]float32 {
	t.Helper()
	out := map[string][]float32{}
	for _, n := range g.Linears() {
		f, err := sparse.Read(n.Weight.Data)
		require.NoError(t, err)
		out[n.Weight.Name] = f
	}
	return out
}
