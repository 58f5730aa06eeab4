package loader

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
)

// keyFreqFactors carries GGUF's rope_freqs tensor, which Hugging Face has no
// words for.
const keyFreqFactors = "sparserun_rope_freq_factors"

var hfTypes = map[string]string{"F16": "float16", "BF16": "bfloat16", "F32": "float32"}

// config is config.json as transformers and compressed-tensors 0.14.0.1 read it.
func (s *saver) config(g *model.Graph) map[string]any {
	c := g.Config
	o := map[string]any{
		"vocab_size": c.Vocab, "hidden_size": c.Hidden, "num_hidden_layers": c.Layers, "num_attention_heads": c.Heads,
		"num_key_value_heads": c.KVHeads, "head_dim": c.HeadDim, "intermediate_size": c.FFN, "max_position_embeddings": c.Context,
		"rms_norm_eps": c.RMSEps, "rope_theta": c.RopeTheta, "tie_word_embeddings": c.Tied, "hidden_act": "silu",
		"torch_dtype": hfTypes[safeNames[s.opts.DType]], "use_cache": true,
	}
	for name, arch := range architectures {
		if arch == c.Arch {
			o["architectures"], o["model_type"] = []string{name}, arch
		}
	}
	if c.Arch == "llama" || c.Arch == "qwen3" {
		o["attention_bias"] = s.bias["q_proj"]
	}
	if c.Arch == "llama" {
		o["mlp_bias"] = s.bias["up_proj"]
	}
	if c.Window > 0 {
		o["sliding_window"] = c.Window
		if c.Arch == "qwen2" || c.Arch == "qwen3" {
			o["use_sliding_window"], o["max_window_layers"] = true, 0
		}
	} else if c.Arch == "mistral" {
		o["sliding_window"] = nil
	}
	if t := g.Tokenizer; t != nil {
		if id := t.BOS(); id >= 0 {
			o["bos_token_id"] = id
		}
		if id := t.EOS(); id >= 0 {
			o["eos_token_id"] = id
		}
	}
	if r := c.RopeScaling; r != nil {
		if r.FreqFactors != nil {
			o[keyFreqFactors] = r.FreqFactors
		}
		if r.FreqFactors == nil || r.Factor != 0 {
			o["rope_scaling"] = ropeConfig(r)
		}
	}
	for key, list := range map[string][]int{keyLayerHeads: c.LayerHeads, keyLayerKVHeads: c.LayerKVHeads, keyLayerFFN: c.LayerFFN} {
		if list != nil {
			o[key] = list
		}
	}
	if q := s.quantConfig(); q != nil {
		o["quantization_config"] = q
	}
	return o
}

func ropeConfig(r *model.RopeScaling) map[string]any {
	o := map[string]any{"rope_type": r.Type, "factor": r.Factor}
	for key, v := range map[string]float64{"low_freq_factor": r.LowFreqFactor, "high_freq_factor": r.HighFreqFactor,
		"attention_factor": r.AttentionFactor, "beta_fast": r.BetaFast, "beta_slow": r.BetaSlow} {
		if v != 0 {
			o[key] = v
		}
	}
	if r.OriginalContext != 0 {
		o["original_max_position_embeddings"] = r.OriginalContext
	}
	return o
}

// quantConfig is config.json's quantization_config; nil where all is dense.
func (s *saver) quantConfig() map[string]any {
	if len(s.sparse) == 0 && len(s.groups) == 0 {
		return nil
	}
	q := map[string]any{"quant_method": "compressed-tensors", "version": "0.14.0.1", "transform_config": map[string]any{}}
	if len(s.sparse) > 0 {
		format, structure := "sparse-bitmask", "unstructured"
		if s.only24 {
			format, structure = "sparse-24-bitmask", "2:4"
		}
		q["sparsity_config"] = map[string]any{
			"format": format, "sparsity_structure": structure, "global_sparsity": 1 - float64(s.kept)/float64(max(1, s.weights)),
			"targets": []string{"Linear"}, "ignore": without(s.linears, s.sparse), "registry_requires_subclass": false,
		}
	}
	if len(s.groups) == 0 {
		return q
	}
	schemes := make([]scheme, 0, len(s.groups))
	for sch := range s.groups {
		schemes = append(schemes, sch)
	}
	slices.SortFunc(schemes, func(a, b scheme) int { return slices.Compare([]byte(fmt.Sprint(a)), []byte(fmt.Sprint(b))) })
	groups := map[string]any{}
	var all []string
	format := schemes[0].format
	for i, sch := range schemes {
		if sch.format != format {
			format = "mixed-precision"
		}
		all = append(all, s.groups[sch]...)
		groups[fmt.Sprint("group_", i)] = sch.json(s.groups[sch])
	}
	q["format"], q["config_groups"], q["quantization_status"] = format, groups, "compressed"
	q["ignore"], q["global_compression_ratio"], q["kv_cache_scheme"] = without(s.linears, all), nil, nil
	return q
}

// json is one of config_groups.
func (sch scheme) json(targets []string) map[string]any {
	w := map[string]any{"num_bits": sch.bits, "type": "int", "symmetric": !sch.asym, "strategy": "channel", "group_size": nil,
		"block_structure": nil, "dynamic": false, "actorder": nil, "observer": "minmax", "observer_kwargs": map[string]any{}}
	if sch.float {
		w["type"] = "float"
	}
	if sch.group > 0 {
		w["strategy"], w["group_size"] = "group", sch.group
	}
	return map[string]any{"targets": targets, "weights": w, "input_activations": nil, "output_activations": nil, "format": sch.format}
}

// without lists the modules of all that are not in some. The head is always
// among all: where it is tied it has no tensor, but transformers has a Linear of
// that name and would compress it, and the embedding with it.
func without(all, some []string) []string {
	in := map[string]bool{}
	for _, m := range some {
		in[m] = true
	}
	out := []string{}
	if !slices.Contains(all, model.HeadName) {
		all = append(slices.Clone(all), model.HeadName)
	}
	for _, m := range all {
		if !in[m] {
			out = append(out, m)
		}
	}
	return out
}
