package loader

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
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

// ggufNames are the parts of tensor names; %d is the layer.
var ggufNames = map[string]string{
	"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head",
	"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
	"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
	"attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
	"ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}

// hfName is the Hugging Face name of a GGUF tensor.
func hfName(name string) (string, bool) {
	stem, kind, ok := cutLast(name, ".")
	if !ok || (kind != "weight" && kind != "bias") {
		return "", false
	}
	prefix := ""
	if rest, ok := strings.CutPrefix(stem, "blk."); ok {
		layer, part, ok := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(layer); !ok || err != nil || strconv.Itoa(n) != layer {
			return "", false
		}
		prefix, stem = "model.layers."+layer+".", part
	}
	hf, ok := ggufNames[stem]
	if !ok || (prefix == "") != (hf == "lm_head" || strings.HasPrefix(hf, "model.")) {
		return "", false
	}
	return prefix + hf + "." + kind, true
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// openGGUF builds the graph of a GGUF file.
func openGGUF(src *source, o *options) (*model.Graph, error) {
	f, err := readGGUF(src)
	if err != nil {
		return nil, err
	}
	cfg, err := f.config()
	if err != nil {
		return nil, err
	}
	set := newWeightSet(o)
	for i := range f.tensors {
		if err := f.addTensor(set, &cfg, &f.tensors[i], src); err != nil {
			return nil, err
		}
	}
	if w := set.get("model.embed_tokens.weight"); w != nil {
		cfg.Vocab = w.Shape[0]
	}
	cfg.Tied = set.get("lm_head.weight") == nil
	spec, err := f.tokenizerSpec()
	if err != nil {
		return nil, err
	}
	var files func() (map[string][]byte, error)
	var tok *tokenizer.Tokenizer
	if spec != nil {
		if tok, err = tokenizer.New(*spec); err != nil {
			return nil, tokenizerError(err)
		}
		files = specFiles(*spec)
	}
	g, err := set.graph(cfg, tok)
	if err != nil {
		return nil, err
	}
	g.Source = model.Source{Format: "gguf", Meta: f.metaStrings(), Tokenizer: files}
	return g, nil
}

func (f *ggufFile) addTensor(set *weightSet, cfg *model.Config, t *ggufTensor, src *source) error {
	m := &stored{src: src, name: t.name, off: t.off, r: 1, c: t.shape[len(t.shape)-1], f: formats[t.t], nonfinite: set.o.nonFinite}
	for _, d := range t.shape[:len(t.shape)-1] {
		m.r *= d
	}
	if t.name == "rope_freqs.weight" {
		return ropeFactors(cfg, m)
	}
	name, ok := hfName(t.name)
	if !ok {
		return fault(ErrWeight, t.name, -1, "tensor has no place in this architecture", nil, nil)
	}
	w := &model.Weight{Name: name, Shape: t.shape, Data: m}
	if cfg.Arch == "llama" || cfg.Arch == "mistral" {
		if err := unrotate(w, m, cfg.HeadDim); err != nil {
			return err
		}
	}
	return set.add(w)
}

// unrotate gives q and k the half-split order of Hugging Face: GGUF's llama
// stores their rows for interleaved RoPE.
func unrotate(w *model.Weight, m *stored, headDim int) error {
	if !strings.Contains(w.Name, ".self_attn.q_proj.") && !strings.Contains(w.Name, ".self_attn.k_proj.") {
		return nil
	}
	n := w.Shape[0]
	if headDim < 2 || headDim%2 != 0 || n%headDim != 0 {
		return fault(ErrShape, m.name, -1, "rows", fmt.Sprintf("whole heads of %d", headDim), n)
	}
	if !w.Rank1() {
		m.heads = headDim
		return nil
	}
	x, err := sparse.Read(m)
	if err != nil {
		return err
	}
	y := make([]float32, n)
	for i := range y {
		y[i] = x[i/headDim*headDim+interleaved(i%headDim, headDim)]
	}
	w.Data = sparse.NewDense(1, n, y)
	return nil
}

// ropeFactors reads the tensor that divides the inverse frequencies (Llama 3).
func ropeFactors(cfg *model.Config, m *stored) error {
	if cfg.HeadDim != 2*m.r*m.c {
		return fault(ErrShape, m.name, -1, "frequency factors", cfg.HeadDim/2, m.r*m.c)
	}
	x, err := sparse.Read(m)
	if err != nil {
		return err
	}
	s := cfg.RopeScaling
	if s == nil {
		s = &model.RopeScaling{Type: "llama3"}
	}
	for _, v := range x {
		s.FreqFactors = append(s.FreqFactors, float64(v))
	}
	cfg.RopeScaling = s
	return nil
}

// metaStrings keeps the file's short metadata for inspect and provenance.
func (f *ggufFile) metaStrings() map[string]string {
	out := map[string]string{}
	for k, v := range f.meta {
		switch v := v.(type) {
		case numbers, []string:
			continue
		case string:
			if len(v) <= 4096 {
				out[k] = v
			}
		default:
			out[k] = fmt.Sprint(v)
		}
	}
	return out
}

// tokenizerSpec reads the tokenizer.ggml.* keys; nil where the file has none.
func (f *ggufFile) tokenizerSpec() (*tokenizer.Spec, error) {
	const p = "tokenizer.ggml."
	var r first
	kind := take(f.str(p+"model", "none"))(&r)
	if r.err != nil || kind == "none" || kind == "no_vocab" {
		return nil, r.err
	}
	spm := kind == "llama"
	s := &tokenizer.Spec{Model: kind}
	s.Pre = take(f.str(p+"pre", ""))(&r)
	s.ChatTemplate = take(f.str("tokenizer.chat_template", ""))(&r)
	s.Tokens = take(f.strings(p + "tokens"))(&r)
	s.Merges = take(f.strings(p + "merges"))(&r)
	s.Scores = take(f.floats(p + "scores"))(&r)
	s.Types = take(f.ints(p + "token_type"))(&r)
	def := func(n int) int { // llama.cpp's defaults for SentencePiece models
		if spm {
			return n
		}
		return -1
	}
	id := func(key string, def int) int {
		if _, ok := f.meta[p+key]; !ok {
			return def
		}
		return take(f.int(p+key, 0))(&r)
	}
	s.BOS, s.EOS, s.UNK, s.PAD = id("bos_token_id", def(1)), id("eos_token_id", def(2)), id("unknown_token_id", def(0)), id("padding_token_id", -1)
	for _, key := range []string{"eot_token_id", "eom_token_id"} {
		if n := id(key, -1); n >= 0 {
			s.ExtraEOS = append(s.ExtraEOS, n)
		}
	}
	s.AddBOS = take(f.bool(p+"add_bos_token", spm || s.Pre == "llama-bpe" || s.Pre == "llama3"))(&r)
	s.AddEOS = take(f.bool(p+"add_eos_token", false))(&r)
	s.AddSpacePrefix = take(f.bool(p+"add_space_prefix", spm))(&r)
	return s, r.err
}

func (f *ggufFile) strings(key string) ([]string, error) {
	switch v := f.meta[key].(type) {
	case nil:
		return nil, nil
	case []string:
		return v, nil
	}
	return nil, f.wrong(key, "an array of strings")
}

func (f *ggufFile) floats(key string) ([]float32, error) {
	v, ok := f.meta[key].(numbers)
	if !ok {
		if f.meta[key] == nil {
			return nil, nil
		}
		return nil, f.wrong(key, "an array of numbers")
	}
	out := make([]float32, v.len())
	for i := range out {
		switch x := v.at(i).(type) {
		case float64:
			out[i] = float32(x)
		case int64:
			out[i] = float32(x)
		}
	}
	return out, nil
}

func (f *ggufFile) ints(key string) ([]int32, error) {
	v, ok := f.meta[key].(numbers)
	if !ok {
		if f.meta[key] == nil {
			return nil, nil
		}
		return nil, f.wrong(key, "an array of numbers")
	}
	out := make([]int32, v.len())
	for i := range out {
		x, ok := v.at(i).(int64)
		if !ok || x < math.MinInt32 || x > math.MaxInt32 {
			return nil, f.wrong(key, "an array of 32-bit whole numbers")
		}
		out[i] = int32(x)
	}
	return out, nil
}

// tokenizerError gives a tokenizer's refusal our sentinels as well as its own.
func tokenizerError(err error) error {
	sentinel := ErrFormat
	if errors.Is(err, tokenizer.ErrUnsupported) {
		sentinel = ErrUnsupported
	}
	return &Error{Offset: -1, What: "tokenizer", Err: fmt.Errorf("%w (%w)", err, sentinel)}
}
