package loader

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
)

// Keys of our own in config.json: the geometry of each layer, where structured
// pruning made layers differ.
const (
	keyLayerHeads   = "sparserun_layer_heads"
	keyLayerKVHeads = "sparserun_layer_kv_heads"
	keyLayerFFN     = "sparserun_layer_intermediate_size"
)

// architectures maps config.json's names to ours.
var architectures = map[string]string{
	"LlamaForCausalLM": "llama", "MistralForCausalLM": "mistral", "Qwen2ForCausalLM": "qwen2", "Qwen3ForCausalLM": "qwen3",
}

// hfConfig reads config.json. Nothing in it is ever executed: auto_map and
// remote code are ignored.
func hfConfig(o object) (model.Config, error) {
	var r first
	var c model.Config
	names := take(o.strs("architectures"))(&r)
	kind := take(o.str("model_type", ""))(&r)
	if r.err != nil {
		return c, r.err
	}
	switch {
	case len(names) == 1 && architectures[names[0]] != "":
		c.Arch = architectures[names[0]]
	case len(names) == 0 && slices.Contains([]string{"llama", "mistral", "qwen2", "qwen3"}, kind):
		c.Arch = kind
	default:
		return c, fault(ErrUnsupported, "architectures", -1, "architecture", "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM or Qwen3ForCausalLM", fmt.Sprint(names, kind))
	}
	need := func(key string) int {
		if o[key] == nil {
			r.note(fault(ErrConfig, key, -1, "key is missing", nil, nil))
		}
		return take(o.int(key, 0))(&r)
	}
	c.Vocab = need("vocab_size")
	c.Hidden = need("hidden_size")
	c.Layers = need("num_hidden_layers")
	c.Heads = need("num_attention_heads")
	c.FFN = need("intermediate_size")
	c.KVHeads = take(o.int("num_key_value_heads", c.Heads))(&r)
	c.Context = take(o.int("max_position_embeddings", 2048))(&r)
	c.HeadDim = take(o.int("head_dim", 0))(&r)
	if o["head_dim"] == nil && c.Heads > 0 {
		if c.HeadDim = c.Hidden / c.Heads; c.Hidden%c.Heads != 0 {
			r.note(fault(ErrConfig, "hidden_size", -1, "width", fmt.Sprintf("a multiple of %d heads", c.Heads), c.Hidden))
		}
	}
	c.RMSEps = take(o.float("rms_norm_eps", 1e-6))(&r)
	c.Tied = take(o.bool("tie_word_embeddings", false))(&r)
	c.QKNorm = c.Arch == "qwen3"
	if act := take(o.str("hidden_act", "silu"))(&r); act != "silu" && act != "swish" {
		r.note(fault(ErrUnsupported, "hidden_act", -1, "activation", "silu", act))
	}
	c.Window = window(o, &c, &r)
	c.LayerHeads = take(o.ints(keyLayerHeads))(&r)
	c.LayerKVHeads = take(o.ints(keyLayerKVHeads))(&r)
	c.LayerFFN = take(o.ints(keyLayerFFN))(&r)
	rope(o, &c, &r)
	return c, r.err
}

// window is the sliding window in tokens; 0: none.
func window(o object, c *model.Config, r *first) int {
	n := take(o.int("sliding_window", 0))(r)
	if c.Arch == "llama" {
		return 0
	}
	if c.Arch == "qwen2" || c.Arch == "qwen3" {
		if !take(o.bool("use_sliding_window", false))(r) {
			return 0
		}
		if kinds := take(o.strs("layer_types"))(r); kinds != nil { // decides, where there is one
			sliding := 0
			for _, k := range kinds {
				if k == "sliding_attention" {
					sliding++
				} else if k != "full_attention" {
					r.note(fault(ErrUnsupported, "layer_types", -1, "kind of attention", "full_attention or sliding_attention", k))
				}
			}
			switch {
			case sliding == 0:
				return 0
			case sliding < c.Layers:
				r.note(fault(ErrUnsupported, "layer_types", -1, "layers with and without a sliding window in one model", c.Layers, sliding))
			}
			return n
		}
		if full := take(o.int("max_window_layers", 28))(r); full < c.Layers && full > 0 {
			r.note(fault(ErrUnsupported, "max_window_layers", -1, "layers with and without a sliding window in one model", c.Layers, full))
		} else if full >= c.Layers {
			return 0
		}
	}
	return n
}

// rope reads theta and scaling from either of the two places that transformers
// has used: rope_theta + rope_scaling, and rope_parameters (version 5).
func rope(o object, c *model.Config, r *first) {
	c.RopeTheta = take(o.float("rope_theta", 10000))(r)
	s := take(o.obj("rope_scaling"))(r)
	if p := take(o.obj("rope_parameters"))(r); p != nil {
		s = p
		c.RopeTheta = take(p.float("rope_theta", c.RopeTheta))(r)
	}
	for _, from := range []object{o, s} {
		if f := take(from.float("partial_rotary_factor", 1))(r); f != 1 {
			r.note(fault(ErrUnsupported, "partial_rotary_factor", -1, "rotary part of a head", 1, f))
		}
	}
	if list, ok := o[keyFreqFactors].([]any); ok {
		c.RopeScaling = &model.RopeScaling{Type: "llama3"}
		for i := range list {
			f := take(object{keyFreqFactors: list[i]}.float(keyFreqFactors, 0))(r)
			c.RopeScaling.FreqFactors = append(c.RopeScaling.FreqFactors, f)
		}
		return
	}
	if s == nil || r.err != nil {
		return
	}
	kind := take(s.str("rope_type", ""))(r)
	if kind == "" {
		kind = take(s.str("type", "default"))(r)
	}
	if kind == "default" {
		return
	}
	rs := &model.RopeScaling{Type: kind}
	switch kind {
	case "linear", "dynamic", "llama3", "yarn":
	default:
		r.note(fault(ErrUnsupported, "rope_scaling", -1, "type", "linear, dynamic, llama3 or yarn", kind))
	}
	rs.Factor = take(s.float("factor", 0))(r)
	rs.LowFreqFactor = take(s.float("low_freq_factor", 0))(r)
	rs.HighFreqFactor = take(s.float("high_freq_factor", 0))(r)
	rs.OriginalContext = take(s.int("original_max_position_embeddings", 0))(r)
	rs.AttentionFactor = take(s.float("attention_factor", 0))(r)
	rs.BetaFast = take(s.float("beta_fast", 0))(r)
	rs.BetaSlow = take(s.float("beta_slow", 0))(r)
	if rs.OriginalContext == 0 && kind == "yarn" {
		rs.OriginalContext = c.Context
	}
	if s["mscale"] != nil || s["mscale_all_dim"] != nil {
		r.note(fault(ErrUnsupported, "rope_scaling", -1, "mscale", "no such key", nil))
	}
	c.RopeScaling = rs
}
