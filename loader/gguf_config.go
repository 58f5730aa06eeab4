package loader

import (
	"fmt"
	"math"
	"strconv"

	"github.com/sparserun/sparserun/model"
)

// missing marks keys that a file must have.
func missing(key string) error { return fault(ErrConfig, key, -1, "key is missing", nil, nil) }

func (f *ggufFile) wrong(key, want string) error {
	return fault(ErrConfig, key, -1, "value", want, fmt.Sprintf("%.60v", f.meta[key]))
}

func (f *ggufFile) int(key string, def int) (int, error) {
	switch v := f.meta[key].(type) {
	case nil:
		if def < 0 {
			return 0, missing(key)
		}
		return def, nil
	case int64:
		if v >= 0 && v <= math.MaxInt32 {
			return int(v), nil
		}
	}
	return 0, f.wrong(key, "a whole number of 31 bits")
}

// perLayer reads one number, or one a layer; list is nil where all are equal.
func (f *ggufFile) perLayer(key string, def, layers int) (n int, list []int, err error) {
	v, ok := f.meta[key].(numbers)
	if !ok {
		n, err = f.int(key, def)
		return n, nil, err
	}
	if v.len() != layers {
		return 0, nil, f.wrong(key, fmt.Sprint(layers, " numbers"))
	}
	same := true
	for i := range layers {
		x, ok := v.at(i).(int64)
		if !ok || x < 0 || x > math.MaxInt32 {
			return 0, nil, f.wrong(key, "whole numbers")
		}
		list = append(list, int(x))
		n = max(n, int(x))
		same = same && list[i] == list[0]
	}
	if same {
		list = nil
	}
	return n, list, nil
}

func (f *ggufFile) float(key string, def float64) (float64, error) {
	switch v := f.meta[key].(type) {
	case nil:
		if math.IsNaN(def) {
			return 0, missing(key)
		}
		return def, nil
	case float64:
		return v, nil
	}
	return 0, f.wrong(key, "a floating-point number")
}

func (f *ggufFile) str(key, def string) (string, error) {
	switch v := f.meta[key].(type) {
	case nil:
		return def, nil
	case string:
		return v, nil
	}
	return "", f.wrong(key, "a string")
}

func (f *ggufFile) bool(key string, def bool) (bool, error) {
	switch v := f.meta[key].(type) {
	case nil:
		return def, nil
	case bool:
		return v, nil
	}
	return false, f.wrong(key, "a boolean")
}

// first keeps the first error of many lookups.
type first struct{ err error }

func (r *first) note(err error) {
	if r.err == nil {
		r.err = err
	}
}

// take notes the error of a lookup and passes its value on.
func take[T any](v T, err error) func(*first) T {
	return func(r *first) T {
		r.note(err)
		return v
	}
}

// config maps GGUF's keys to Hugging Face's words. Keys that would change the
// computation in ways the graph has no op for are refused.
func (f *ggufFile) config() (model.Config, error) {
	var r first
	if _, ok := f.meta["general.architecture"]; !ok {
		return model.Config{}, missing("general.architecture")
	}
	arch := take(f.str("general.architecture", ""))(&r)
	if r.err != nil {
		return model.Config{}, r.err
	}
	switch arch {
	case "llama", "mistral", "qwen2", "qwen3":
	default:
		return model.Config{}, fault(ErrUnsupported, "general.architecture", -1, "architecture", "llama, mistral, qwen2 or qwen3", arch)
	}
	key := func(k string) string { return arch + "." + k }
	if n := take(f.int("split.count", 1))(&r); n > 1 {
		return model.Config{}, fault(ErrUnsupported, "split.count", -1, "split file", "one file (join the parts with llama-gguf-split --merge)", n)
	}
	if n := take(f.int(key("expert_count"), 0))(&r); n > 0 {
		return model.Config{}, fault(ErrUnsupported, key("expert_count"), -1, "mixture of experts", 0, n)
	}
	for _, k := range []string{"logit_scale", "embedding_scale", "residual_scale", "attention.scale", "final_logit_softcapping", "attn_logit_softcapping"} {
		if v, ok := f.meta[key(k)]; ok {
			return model.Config{}, fault(ErrUnsupported, key(k), -1, "this key", "no such key", fmt.Sprint(v))
		}
	}

	c := model.Config{Arch: arch, QKNorm: arch == "qwen3"}
	c.Layers = take(f.int(key("block_count"), -1))(&r)
	c.Hidden = take(f.int(key("embedding_length"), -1))(&r)
	c.Context = take(f.int(key("context_length"), -1))(&r)
	var err error
	c.FFN, c.LayerFFN, err = f.perLayer(key("feed_forward_length"), -1, c.Layers)
	r.note(err)
	c.Heads, c.LayerHeads, err = f.perLayer(key("attention.head_count"), -1, c.Layers)
	r.note(err)
	c.KVHeads, c.LayerKVHeads, err = f.perLayer(key("attention.head_count_kv"), c.Heads, c.Layers)
	r.note(err)
	c.RMSEps = take(f.float(key("attention.layer_norm_rms_epsilon"), math.NaN()))(&r)
	c.RMSEps, _ = strconv.ParseFloat(strconv.FormatFloat(c.RMSEps, 'g', -1, 32), 64) // 1e-5 as it was written, not as f32 has it
	c.RopeTheta = take(f.float(key("rope.freq_base"), 10000))(&r)
	c.Window = take(f.int(key("attention.sliding_window"), 0))(&r)
	if r.err != nil {
		return c, r.err
	}
	if c.Heads < 1 {
		return c, f.wrong(key("attention.head_count"), "at least 1")
	}
	c.HeadDim = take(f.int(key("attention.key_length"), c.Hidden/c.Heads))(&r)
	if _, ok := f.meta[key("attention.key_length")]; !ok && c.Hidden%c.Heads != 0 {
		return c, fault(ErrConfig, key("embedding_length"), -1, "width", fmt.Sprintf("a multiple of %d heads", c.Heads), c.Hidden)
	}
	if n := take(f.int(key("attention.value_length"), c.HeadDim))(&r); n != c.HeadDim {
		return c, fault(ErrUnsupported, key("attention.value_length"), -1, "head size of values", c.HeadDim, n)
	}
	if n := take(f.int(key("rope.dimension_count"), c.HeadDim))(&r); n != c.HeadDim {
		return c, fault(ErrUnsupported, key("rope.dimension_count"), -1, "rotary part of a head", c.HeadDim, n)
	}
	c.RopeScaling, err = f.ropeScaling(key)
	r.note(err)
	return c, r.err
}

func (f *ggufFile) ropeScaling(key func(string) string) (*model.RopeScaling, error) {
	var r first
	kind := take(f.str(key("rope.scaling.type"), "none"))(&r)
	factor := take(f.float(key("rope.scaling.factor"), 0))(&r)
	if linear := take(f.float(key("rope.scale_linear"), 0))(&r); linear != 0 && factor == 0 { // before August 2023
		kind, factor = "linear", linear
	}
	if r.err != nil || kind == "none" {
		return nil, r.err
	}
	s := &model.RopeScaling{Type: kind, Factor: factor}
	switch kind {
	case "linear":
	case "yarn":
		s.OriginalContext = take(f.int(key("rope.scaling.original_context_length"), -1))(&r)
		s.BetaFast = take(f.float(key("rope.scaling.yarn_beta_fast"), 0))(&r)
		s.BetaSlow = take(f.float(key("rope.scaling.yarn_beta_slow"), 0))(&r)
		if a := take(f.float(key("rope.scaling.attn_factor"), 1))(&r); a != 1 && factor > 1 {
			s.AttentionFactor = a * (0.1*math.Log(factor) + 1)
		}
	default:
		return nil, fault(ErrUnsupported, key("rope.scaling.type"), -1, "RoPE scaling", "none, linear or yarn", kind)
	}
	return s, r.err
}
