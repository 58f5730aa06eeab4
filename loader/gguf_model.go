package loader

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
)

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
