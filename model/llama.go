package model

import (
	"fmt"
	"math"
)

// HeadName is the name of a language model's last Linear, tied or not.
const HeadName = "lm_head"

// Weights finds a weight by its Hugging Face name ("model.norm.weight"); it
// returns nil, nil where the checkpoint has none of that name.
type Weights func(name string) (*Weight, error)

// Inputs of a language model's graph, in this order; all are int32. T is the
// number of rows (tokens) of a step, S of sequences, O of rows to give logits for.
const (
	InTokens = iota // [T] token ids
	InPos           // [T] position in the sequence
	InSeq           // [T] which row of InTables holds the token's KV pages
	InTables        // [S, pages] KV cache pages of each sequence
	InSelect        // [O] rows whose logits are wanted
	lmInputs
)

// NewLlama builds the graph of a Llama-family model: RMSNorm, rotary grouped-query
// attention and a SiLU-gated MLP, with residual adds (Touvron et al. 2023; Qwen3's
// QK-norm, Qwen2's biases and Mistral's sliding window where present). Every
// shape is checked against the configuration.
func NewLlama(cfg Config, weights Weights) (*Graph, error) {
	if err := cfg.Check(); err != nil {
		return nil, err
	}
	l := &llama{cfg: &cfg, find: weights, b: builder{g: &Graph{Arch: cfg.Arch, Config: &cfg}, seen: map[*Weight]bool{}}}
	g := l.b.g
	for _, name := range [lmInputs]string{"tokens", "positions", "sequences", "tables", "select"} {
		g.Inputs = append(g.Inputs, l.b.value(name, 1))
	}
	embed := l.matrix("model.embed_tokens.weight", cfg.Vocab, cfg.Hidden)
	x := l.b.node(OpEmbedding, "model.embed_tokens", cfg.Hidden, nil, embed, nil, g.Inputs[InTokens])
	inv, scale, err := cfg.Rope()
	if err != nil {
		return nil, err
	}
	l.rope = RoPE{HeadDim: cfg.HeadDim, InvFreq: inv, Scale: float32(scale)}
	for i := range cfg.Layers {
		x = l.layer(i, x)
	}
	x = l.b.node(OpSelect, "select", cfg.Hidden, nil, nil, nil, x, g.Inputs[InSelect])
	x = l.norm("model.norm", cfg.Hidden, x)
	head := embed
	if !cfg.Tied {
		head = l.matrix("lm_head.weight", cfg.Vocab, cfg.Hidden)
	}
	x = l.b.node(OpLinear, HeadName, cfg.Vocab, nil, head, nil, x)
	g.Outputs = []ValueID{x}
	if l.err != nil {
		return nil, l.err
	}
	return g, g.Check()
}

type llama struct {
	cfg  *Config
	find Weights
	b    builder
	rope RoPE
	err  error // the first failure; later steps are no-ops in effect
}

func (l *llama) fail(err error) *Weight {
	if l.err == nil {
		l.err = err
	}
	return nil
}

func (l *llama) lookup(name string, optional bool, shape ...int) *Weight {
	if l.err != nil {
		return nil
	}
	w, err := l.find(name)
	switch {
	case err != nil:
		return l.fail(err)
	case w == nil && optional:
		return nil
	case w == nil:
		return l.fail(fmt.Errorf("model: %q: want %v, got nothing: %w", name, shape, ErrWeight))
	}
	if len(w.Shape) != len(shape) {
		return l.fail(fmt.Errorf("model: %q: want %v, got %v: %w", name, shape, w.Shape, ErrWeight))
	}
	for i, n := range shape {
		if w.Shape[i] != n {
			return l.fail(fmt.Errorf("model: %q: want %v, got %v: %w", name, shape, w.Shape, ErrWeight))
		}
	}
	return w
}

func (l *llama) matrix(name string, rows, cols int) *Weight {
	return l.lookup(name, false, rows, cols)
}

func (l *llama) linear(name string, out, in int, x ValueID) ValueID {
	w := l.lookup(name+".weight", false, out, in)
	return l.b.node(OpLinear, name, out, nil, w, l.lookup(name+".bias", true, out), x)
}

func (l *llama) norm(name string, width int, x ValueID) ValueID {
	w := l.lookup(name+".weight", false, width)
	return l.b.node(OpRMSNorm, name, width, RMSNorm{Eps: float32(l.cfg.RMSEps)}, w, nil, x)
}

func (l *llama) headNorm(name string, width int, x ValueID) ValueID {
	if !l.cfg.QKNorm {
		return x
	}
	w := l.lookup(name+".weight", false, l.cfg.HeadDim)
	return l.b.node(OpRMSNorm, name, width, RMSNorm{Eps: float32(l.cfg.RMSEps), Width: l.cfg.HeadDim}, w, nil, x)
}

func (l *llama) layer(i int, x ValueID) ValueID {
	c := l.cfg
	p := fmt.Sprintf("model.layers.%d.", i)
	heads, kvHeads, ffn := c.Layer(i)
	qw, kvw := heads*c.HeadDim, kvHeads*c.HeadDim

	n := l.norm(p+"input_layernorm", c.Hidden, x)
	q := l.headNorm(p+"self_attn.q_norm", qw, l.linear(p+"self_attn.q_proj", qw, c.Hidden, n))
	k := l.headNorm(p+"self_attn.k_norm", kvw, l.linear(p+"self_attn.k_proj", kvw, c.Hidden, n))
	v := l.linear(p+"self_attn.v_proj", kvw, c.Hidden, n)
	q = l.b.node(OpRoPE, p+"self_attn.q_rope", qw, l.rope, nil, nil, q, l.b.g.Inputs[InPos])
	k = l.b.node(OpRoPE, p+"self_attn.k_rope", kvw, l.rope, nil, nil, k, l.b.g.Inputs[InPos])
	att := Attention{Layer: i, Heads: heads, KVHeads: kvHeads, HeadDim: c.HeadDim,
		Scale: float32(1 / math.Sqrt(float64(c.HeadDim))), Window: c.Window}
	in := l.b.g.Inputs
	a := l.b.node(OpAttention, p+"self_attn", qw, att, nil, nil, q, k, v, in[InPos], in[InSeq], in[InTables])
	a = l.linear(p+"self_attn.o_proj", c.Hidden, qw, a)
	x = l.b.node(OpAdd, p+"attn_residual", c.Hidden, nil, nil, nil, x, a)

	n = l.norm(p+"post_attention_layernorm", c.Hidden, x)
	gate := l.linear(p+"mlp.gate_proj", ffn, c.Hidden, n)
	up := l.linear(p+"mlp.up_proj", ffn, c.Hidden, n)
	h := l.b.node(OpSiLUGate, p+"mlp.act", ffn, nil, nil, nil, gate, up)
	d := l.linear(p+"mlp.down_proj", c.Hidden, ffn, h)
	return l.b.node(OpAdd, p+"mlp_residual", c.Hidden, nil, nil, nil, x, d)
}
