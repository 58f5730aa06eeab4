package main

import (
	"math"
	"math/rand/v2"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// randomLlama is a Llama of SmolLM2-135M's geometry (tiny: two small layers) with
// random weights whose Linears hold 2:4, so that dense and sparse run the same.
func randomLlama(tiny bool) (*model.Graph, error) {
	cfg := model.Config{Arch: "llama", Vocab: 49152, Hidden: 576, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, FFN: 1536, Context: 2048, RMSEps: 1e-5, RopeTheta: 1e5, Tied: true}
	if tiny {
		cfg.Vocab, cfg.Hidden, cfg.Layers, cfg.Heads, cfg.KVHeads, cfg.HeadDim, cfg.FFN = 256, 64, 2, 2, 1, 64, 128
	}
	rng := rand.New(rand.NewPCG(1, 2))
	return model.NewLlama(cfg, func(name string) (*model.Weight, error) {
		shape := shapeOf(&cfg, name)
		if shape == nil {
			return nil, nil
		}
		rows, cols := 1, shape[0]
		if len(shape) == 2 {
			rows, cols = shape[0], shape[1]
		}
		f := make([]float32, rows*cols)
		scale := float32(1 / math.Sqrt(float64(cols)))
		for i := range f {
			switch {
			case len(shape) == 1:
				f[i] = 1
			case strings.Contains(name, "embed") || i%4 == int(rng.Uint32()%4) || i%4 == 0:
				f[i] = float32(rng.NormFloat64()) * scale
			}
		}
		if len(shape) == 2 && !strings.Contains(name, "embed") {
			keepTwo(f)
		}
		return &model.Weight{Name: name, Shape: shape, Data: sparse.NewDense(rows, cols, f)}, nil
	})
}

// keepTwo zeroes what is more than 2 of 4.
func keepTwo(f []float32) {
	for g := 0; g+4 <= len(f); g += 4 {
		n := 0
		for i := g; i < g+4; i++ {
			if f[i] != 0 {
				if n++; n > 2 {
					f[i] = 0
				}
			}
		}
	}
}

func shapeOf(c *model.Config, name string) []int {
	switch {
	case name == "model.embed_tokens.weight":
		return []int{c.Vocab, c.Hidden}
	case strings.HasSuffix(name, "norm.weight"):
		return []int{c.Hidden}
	case strings.HasSuffix(name, "q_proj.weight"):
		return []int{c.Heads * c.HeadDim, c.Hidden}
	case strings.HasSuffix(name, "k_proj.weight"), strings.HasSuffix(name, "v_proj.weight"):
		return []int{c.KVHeads * c.HeadDim, c.Hidden}
	case strings.HasSuffix(name, "o_proj.weight"):
		return []int{c.Hidden, c.Heads * c.HeadDim}
	case strings.HasSuffix(name, "gate_proj.weight"), strings.HasSuffix(name, "up_proj.weight"):
		return []int{c.FFN, c.Hidden}
	case strings.HasSuffix(name, "down_proj.weight"):
		return []int{c.Hidden, c.FFN}
	}
	return nil
}
