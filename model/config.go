package model

import (
	"fmt"
	"math"
)

// Config is the geometry of a language model of the Llama family, in the words of
// Hugging Face's config.json.
type Config struct {
	Arch         string // "llama", "mistral", "qwen2", "qwen3"
	Vocab        int
	Hidden       int
	Layers       int
	Heads        int
	KVHeads      int
	HeadDim      int
	FFN          int // intermediate_size
	Context      int // max_position_embeddings
	RMSEps       float64
	RopeTheta    float64
	RopeScaling  *RopeScaling // nil: none
	Tied         bool         // the head is the embedding
	QKNorm       bool         // RMSNorm of every q and k head (Qwen3)
	Window       int          // sliding window in tokens; 0: none
	LayerHeads   []int        // per layer, where structured pruning made them differ; nil: Heads
	LayerKVHeads []int        // nil: KVHeads
	LayerFFN     []int        // nil: FFN
}

// RopeScaling stretches RoPE beyond the trained context.
type RopeScaling struct {
	Type            string // "linear", "llama3", "yarn", "dynamic"
	Factor          float64
	LowFreqFactor   float64   // llama3
	HighFreqFactor  float64   // llama3
	OriginalContext int       // llama3, yarn
	AttentionFactor float64   // yarn; 0: computed
	BetaFast        float64   // yarn; 0: 32
	BetaSlow        float64   // yarn; 0: 1
	FreqFactors     []float64 // GGUF's rope_freqs tensor: divides the inverse frequencies
}

// The largest geometry that is taken for a model and not for a broken file.
const (
	maxVocab  = 1 << 22
	maxWidth  = 1 << 20
	maxLayers = 1 << 12
	maxHeads  = 1 << 12
)

// Check validates the geometry before anything is allocated by it.
func (c *Config) Check() error {
	for _, v := range []struct {
		name     string
		got, max int
	}{
		{"vocab_size", c.Vocab, maxVocab}, {"hidden_size", c.Hidden, maxWidth}, {"num_hidden_layers", c.Layers, maxLayers},
		{"num_attention_heads", c.Heads, maxHeads}, {"num_key_value_heads", c.KVHeads, maxHeads}, {"head_dim", c.HeadDim, 1 << 12},
		{"intermediate_size", c.FFN, maxWidth}, {"max_position_embeddings", c.Context, 1 << 28},
	} {
		if v.got < 1 || v.got > v.max {
			return fmt.Errorf("model: %s: want 1..%d, got %d: %w", v.name, v.max, v.got, ErrConfig)
		}
	}
	if c.Heads%c.KVHeads != 0 {
		return fmt.Errorf("model: num_attention_heads %d is no multiple of num_key_value_heads %d: %w", c.Heads, c.KVHeads, ErrConfig)
	}
	if c.HeadDim%2 != 0 {
		return fmt.Errorf("model: head_dim: want an even number, got %d: %w", c.HeadDim, ErrConfig)
	}
	if !(c.RMSEps > 0 && c.RMSEps < 1) {
		return fmt.Errorf("model: rms_norm_eps: want 0..1, got %g: %w", c.RMSEps, ErrConfig)
	}
	if !(c.RopeTheta > 0 && c.RopeTheta < 1e12) {
		return fmt.Errorf("model: rope_theta: got %g: %w", c.RopeTheta, ErrConfig)
	}
	if c.Window < 0 {
		return fmt.Errorf("model: sliding_window: got %d: %w", c.Window, ErrConfig)
	}
	for _, l := range []struct {
		name string
		per  []int
	}{{"heads", c.LayerHeads}, {"kv heads", c.LayerKVHeads}, {"intermediate size", c.LayerFFN}} {
		if l.per == nil {
			continue
		}
		if len(l.per) != c.Layers {
			return fmt.Errorf("model: %s per layer: want %d, got %d: %w", l.name, c.Layers, len(l.per), ErrConfig)
		}
		for i, n := range l.per {
			if n < 1 || n > maxWidth {
				return fmt.Errorf("model: layer %d: %d %s: %w", i, n, l.name, ErrConfig)
			}
		}
	}
	for i := range c.Layers {
		h, kv, _ := c.Layer(i)
		if h%kv != 0 {
			return fmt.Errorf("model: layer %d: %d heads are no multiple of %d kv heads: %w", i, h, kv, ErrConfig)
		}
	}
	_, _, err := c.Rope()
	return err
}

// Layer is the geometry of one layer: query heads, key/value heads, MLP width.
func (c *Config) Layer(i int) (heads, kvHeads, ffn int) {
	heads, kvHeads, ffn = c.Heads, c.KVHeads, c.FFN
	if c.LayerHeads != nil {
		heads = c.LayerHeads[i]
	}
	if c.LayerKVHeads != nil {
		kvHeads = c.LayerKVHeads[i]
	}
	if c.LayerFFN != nil {
		ffn = c.LayerFFN[i]
	}
	return
}

// Rope returns the inverse frequencies of RoPE with the scaling applied and the
// factor on cos and sin (1 but for YaRN). The formulas are those of
// transformers.modeling_rope_utils.
func (c *Config) Rope() (invFreq []float64, scale float64, err error) {
	half := c.HeadDim / 2
	inv := make([]float64, half)
	for i := range inv {
		inv[i] = 1 / math.Pow(c.RopeTheta, float64(2*i)/float64(c.HeadDim))
	}
	scale = 1
	s := c.RopeScaling
	if s == nil {
		return inv, scale, nil
	}
	bad := func(what string, v any) error {
		return fmt.Errorf("model: rope_scaling %s: %s %v: %w", s.Type, what, v, ErrConfig)
	}
	if s.FreqFactors != nil {
		if len(s.FreqFactors) != half {
			return nil, 0, bad("frequency factors", len(s.FreqFactors))
		}
		for i, f := range s.FreqFactors {
			if !(f > 0) || math.IsInf(f, 0) {
				return nil, 0, bad("frequency factor", f)
			}
			inv[i] /= f
		}
		return inv, scale, nil
	}
	if s.Type == "default" || s.Type == "none" || s.Type == "dynamic" {
		// "dynamic" changes frequencies only beyond the trained context, which is
		// also our limit.
		return inv, scale, nil
	}
	if !(s.Factor > 0) || math.IsInf(s.Factor, 0) {
		return nil, 0, bad("factor", s.Factor)
	}
	switch s.Type {
	case "linear":
		for i := range inv {
			inv[i] /= s.Factor
		}
	case "llama3":
		if !(s.LowFreqFactor > 0) || !(s.HighFreqFactor > s.LowFreqFactor) || s.OriginalContext < 1 {
			return nil, 0, bad("low/high/original", []any{s.LowFreqFactor, s.HighFreqFactor, s.OriginalContext})
		}
		ctx := float64(s.OriginalContext)
		for i, f := range inv {
			wave := 2 * math.Pi / f
			switch {
			case wave < ctx/s.HighFreqFactor:
			case wave > ctx/s.LowFreqFactor:
				inv[i] = f / s.Factor
			default:
				t := (ctx/wave - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
				inv[i] = (1-t)*f/s.Factor + t*f
			}
		}
	case "yarn":
		if s.OriginalContext < 1 {
			return nil, 0, bad("original_max_position_embeddings", s.OriginalContext)
		}
		fast, slow := s.BetaFast, s.BetaSlow
		if fast == 0 {
			fast = 32
		}
		if slow == 0 {
			slow = 1
		}
		dim := func(rot float64) float64 {
			return float64(c.HeadDim) * math.Log(float64(s.OriginalContext)/(rot*2*math.Pi)) / (2 * math.Log(c.RopeTheta))
		}
		low, high := math.Max(math.Floor(dim(fast)), 0), math.Min(math.Ceil(dim(slow)), float64(c.HeadDim-1))
		if low == high {
			high += 0.001
		}
		for i, f := range inv {
			ramp := math.Min(1, math.Max(0, (float64(i)-low)/(high-low)))
			inv[i] = f/s.Factor*ramp + f*(1-ramp)
		}
		scale = s.AttentionFactor
		if scale == 0 {
			scale = 1
			if s.Factor > 1 {
				scale = 0.1*math.Log(s.Factor) + 1
			}
		}
	default:
		return nil, 0, bad("type", s.Type)
	}
	return inv, scale, nil
}
