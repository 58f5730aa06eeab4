package loader

import (
	"bytes"
	"math"
	"os"
	"strings"
)

const tinyConfig = `{"architectures":["LlamaForCausalLM"],"hidden_size":16,"intermediate_size":24,"num_attention_heads":2,"num_hidden_layers":1,` +
	`"num_key_value_heads":1,"vocab_size":6,"max_position_embeddings":32,"tie_word_embeddings":true,"rms_norm_eps":1e-5}`

// tinySafe is a well-formed checkpoint of tinyConfig.
func tinySafe() []st {
	var out []st
	for _, t := range []struct {
		name string
		dims []int
	}{
		{"model.embed_tokens.weight", []int{6, 16}}, {"model.layers.0.input_layernorm.weight", []int{16}},
		{"model.layers.0.self_attn.q_proj.weight", []int{16, 16}}, {"model.layers.0.self_attn.k_proj.weight", []int{8, 16}},
		{"model.layers.0.self_attn.v_proj.weight", []int{8, 16}}, {"model.layers.0.self_attn.o_proj.weight", []int{16, 16}},
		{"model.layers.0.post_attention_layernorm.weight", []int{16}}, {"model.layers.0.mlp.gate_proj.weight", []int{24, 16}},
		{"model.layers.0.mlp.up_proj.weight", []int{24, 16}}, {"model.layers.0.mlp.down_proj.weight", []int{16, 24}}, {"model.norm.weight", []int{16}},
	} {
		n := 1
		for _, d := range t.dims {
			n *= d
		}
		out = append(out, st{t.name, "F32", t.dims, f32s(n, func(i int) float32 { return float32(i%7) - 3 })})
	}
	return out
}

func change(i int, f func(*st)) []st {
	t := tinySafe()
	f(&t[i])
	return t
}

// modelCases are 32 and 45 to 50 but for the sparse ones.
func modelCases() []hostile {
	hf := func(no int, name string, want error, config string, tensors []st, more ...any) hostile {
		h := hostile{no: no, name: name, want: want, files: map[string][]byte{fileConfig: []byte(config), fileWeights: safeFile(tensors...)}}
		for i := 0; i < len(more); i += 2 {
			if more[i+1] == nil {
				delete(h.files, more[i].(string))
			} else {
				h.files[more[i].(string)] = more[i+1].([]byte)
			}
		}
		return h
	}
	cfg := func(from, to string) string {
		s := strings.Replace(tinyConfig, from, to, 1)
		if s == tinyConfig {
			panic(from)
		}
		return s
	}
	index := func(no int, name string, want error, idx string, more ...any) hostile {
		return hf(no, name, want, tinyConfig, tinySafe(), append([]any{fileIndex, []byte(idx)}, more...)...)
	}
	g := func(no int, name string, want error, s ggufSpec) hostile {
		return hostile{no: no, name: name, want: want, file: s.bytes()}
	}
	tiny := tinyGGUF("llama")
	bomb := hf(50, "more memory than allowed", ErrLimit, tinyConfig, tinySafe())
	bomb.opts = []Option{WithMaxMemory(1000)}
	nan := hf(46, "NaN weight", ErrNonFinite, tinyConfig, change(3, func(t *st) { copy(t.data[40:], le(float32(math.NaN()))) }))
	nan.read = true
	inf := hf(46, "infinite f16 weight", ErrNonFinite, tinyConfig, change(3, func(t *st) { t.dtype, t.data = "F16", append(bytes.Repeat([]byte{0, 0x3c}, 127), 0, 0x7c) }))
	inf.read = true
	return []hostile{
		index(32, "shard that is absent", os.ErrNotExist, `{"weight_map":{"a":"model-00001.safetensors"}}`),
		index(32, "shard outside the folder", ErrFormat, `{"weight_map":{"a":"../model.safetensors"}}`),
		index(32, "absolute shard", ErrFormat, `{"weight_map":{"a":"/etc/passwd"}}`),
		index(32, "shard with a drive letter", ErrFormat, `{"weight_map":{"a":"C:model.safetensors"}}`),
		index(32, "absent shard of two lines", os.ErrNotExist, `{"weight_map":{"a":"x\ny.safetensors"}}`),
		index(32, "shard with a NUL", ErrFormat, `{"weight_map":{"a":"a\u0000b"}}`),
		index(32, "tensor listed twice", ErrFormat, `{"weight_map":{"a":"model.safetensors","a":"model.safetensors"}}`),
		index(32, "tensor in a shard that has it not", ErrFormat, `{"weight_map":{"a":"model.safetensors"}}`),
		index(32, "empty index", ErrFormat, `{"weight_map":{}}`),
		index(32, "shard that is the index", ErrLimit, `{"weight_map":{"a":"config.json"}}`),
		hf(32, "no weights", os.ErrNotExist, tinyConfig, nil, fileWeights, nil),
		hf(47, "no config", os.ErrNotExist, tinyConfig, tinySafe(), fileConfig, nil),
		hf(47, "config is no JSON", ErrFormat, "not json", tinySafe()),
		hf(47, "config with a key twice", ErrFormat, cfg(`"vocab_size":6`, `"vocab_size":6,"vocab_size":7`), tinySafe()),
		hf(47, "config of 2 MB", ErrLimit, strings.Repeat(" ", 2<<20), tinySafe()),
		hf(47, "nesting bomb in config", ErrLimit, `{"a":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+"}", tinySafe()),
		hf(47, "heads do not divide the width", ErrConfig, cfg(`"num_attention_heads":2`, `"num_attention_heads":3`), tinySafe()),
		hf(47, "KV heads do not divide the heads", ErrConfig, cfg(`"num_key_value_heads":1`, `"num_key_value_heads":5`), tinySafe()),
		hf(47, "no layers", ErrConfig, cfg(`"num_hidden_layers":1`, `"num_hidden_layers":0`), tinySafe()),
		hf(47, "no vocabulary", ErrConfig, cfg(`"vocab_size":6`, `"vocab_size":0`), tinySafe()),
		hf(47, "a million layers", ErrConfig, cfg(`"num_hidden_layers":1`, `"num_hidden_layers":1000000`), tinySafe()),
		hf(47, "vocabulary of 2^60", ErrConfig, cfg(`"vocab_size":6`, `"vocab_size":1152921504606846976`), tinySafe()),
		hf(47, "negative width", ErrConfig, cfg(`"hidden_size":16`, `"hidden_size":-16`), tinySafe()),
		hf(47, "width is a string", ErrConfig, cfg(`"hidden_size":16`, `"hidden_size":"16"`), tinySafe()),
		hf(47, "no width", ErrConfig, cfg(`"hidden_size":16,`, ``), tinySafe()),
		hf(47, "odd head size", ErrConfig, cfg(`"hidden_size":16`, `"head_dim":7,"hidden_size":16`), tinySafe()),
		hf(47, "epsilon 0", ErrConfig, cfg(`1e-5`, `0`), tinySafe()),
		hf(47, "rope scaling without a factor", ErrConfig, cfg(`"vocab_size"`, `"rope_scaling":{"type":"linear"},"vocab_size"`), tinySafe()),
		hf(47, "rope scaling unknown", ErrUnsupported, cfg(`"vocab_size"`, `"rope_scaling":{"type":"longrope","factor":2},"vocab_size"`), tinySafe()),
		hf(47, "rope theta infinite", ErrConfig, cfg(`"vocab_size"`, `"rope_theta":1e400,"vocab_size"`), tinySafe()),
		hf(47, "unknown architecture", ErrUnsupported, cfg(`LlamaForCausalLM`, `GPT2LMHeadModel`), tinySafe()),
		hf(47, "remote code", ErrUnsupported, cfg(`["LlamaForCausalLM"]`, `["Evil"],"auto_map":{"AutoModel":"evil.py"}`), tinySafe()),
		hf(47, "layers with and without a window", ErrUnsupported, cfg(`["LlamaForCausalLM"]`, `["Qwen2ForCausalLM"],"use_sliding_window":true,"sliding_window":8,"layer_types":["sliding_attention","linear_attention"]`), tinySafe()),
		hf(47, "unknown activation", ErrUnsupported, cfg(`"vocab_size"`, `"hidden_act":"gelu","vocab_size"`), tinySafe()),
		hf(47, "heads of layers: wrong count", ErrConfig, cfg(`"vocab_size"`, `"sparserun_layer_heads":[2,2],"vocab_size"`), tinySafe()),
		g(47, "GGUF heads do not divide the width", ErrConfig, tiny.set("llama.attention.head_count", ggufU32, uint32(3))),
		g(47, "GGUF no heads", ErrConfig, tiny.set("llama.attention.head_count", ggufU32, uint32(0))),
		g(47, "GGUF no layers", ErrConfig, tiny.set("llama.block_count", ggufU32, uint32(0))),
		g(47, "GGUF 2^32-1 layers", ErrConfig, tiny.set("llama.block_count", ggufU32, uint32(math.MaxUint32))),
		g(47, "GGUF mixture of experts", ErrUnsupported, tiny.set("llama.expert_count", ggufU32, uint32(8))),
		g(47, "GGUF partial rotary", ErrUnsupported, tiny.set("llama.rope.dimension_count", ggufU32, uint32(4))),
		hf(48, "missing weight", ErrWeight, tinyConfig, tinySafe()[:10]),
		hf(48, "extra weight", ErrWeight, tinyConfig, append(tinySafe(), st{"model.layers.1.mlp.up_proj.weight", "F32", []int{1}, make([]byte, 4)})),
		hf(48, "shape against config", ErrWeight, tinyConfig, change(2, func(t *st) { t.shape = []int{32, 8} })),
		hf(48, "vector for a matrix", ErrWeight, tinyConfig, change(2, func(t *st) { t.shape = []int{256} })),
		hf(48, "untied without a head", ErrWeight, cfg(`"tie_word_embeddings":true`, `"tie_word_embeddings":false`), tinySafe()),
		hf(48, "weight of whole numbers", ErrUnsupported, tinyConfig, change(2, func(t *st) { t.dtype = "I32" })),
		g(48, "GGUF missing weight", ErrWeight, tiny.tensor(5, func(t *gt) { t.name = "blk.1.attn_output.weight" })),
		g(48, "GGUF unknown weight", ErrWeight, tiny.tensor(5, func(t *gt) { t.name = "blk.0.mystery.weight" })),
		g(48, "GGUF shape against config", ErrWeight, tiny.set("llama.feed_forward_length", ggufU32, uint32(32))),
		g(48, "GGUF q rows are no whole heads", ErrShape, tiny.set("llama.attention.key_length", ggufU32, uint32(6))),
		g(49, "token id out of range", ErrFormat, tiny.set("tokenizer.ggml.bos_token_id", ggufU32, uint32(6))),
		g(49, "duplicate token", ErrFormat, tiny.set("tokenizer.ggml.tokens", ggufArray, garr(ggufString, "<unk>", "<s>", "</s>", "a", "a", "ab"))),
		g(49, "fewer scores than tokens", ErrFormat, tiny.set("tokenizer.ggml.scores", ggufArray, garr(ggufF32, float32(0)))),
		g(49, "tokens are numbers", ErrConfig, tiny.set("tokenizer.ggml.tokens", ggufArray, garr(ggufU32, uint32(1)))),
		g(49, "merge of unknown tokens", ErrFormat, tiny.set("tokenizer.ggml.model", ggufString, "gpt2").set("tokenizer.ggml.pre", ggufString, "gpt-2").
			set("tokenizer.ggml.merges", ggufArray, garr(ggufString, "x y"))),
		g(49, "unknown tokenizer", ErrUnsupported, tiny.set("tokenizer.ggml.model", ggufString, "rwkv")),
		g(49, "more tokens than embeddings", ErrConfig, tiny.set("tokenizer.ggml.tokens", ggufArray, garr(ggufString, "<unk>", "<s>", "</s>", "a", "b", "ab", "c")).
			set("tokenizer.ggml.scores", ggufArray, garr(ggufF32, make7()...)).set("tokenizer.ggml.token_type", ggufArray, garr(ggufI32, int32(2), int32(3), int32(3), int32(1), int32(1), int32(1), int32(1)))),
		hf(49, "tokenizer.json is no JSON", ErrFormat, tinyConfig, tinySafe(), fileTokenizer, []byte("{")),
		nan, inf, bomb,
	}
}

func make7() []any {
	out := make([]any, 7)
	for i := range out {
		out[i] = float32(-i)
	}
	return out
}
