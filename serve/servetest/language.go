// Package servetest writes tiny models for tests of servers: a language model that
// says the alphabet, and networks in ONNX whose results a reader can tell.
package servetest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"
)

// Tokens of Alphabet: 0 to 255 are the bytes.
const (
	EndOfText = 256
	Start     = 257 // <|im_start|>
	End       = 258 // <|im_end|>, which ends generation
	vocab     = 259
	width     = 320
)

// Context is Alphabet's.
const Context = 2048

// chatTemplate is ChatML.
const chatTemplate = `{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

// next is the token that follows t with a probability of nearly 1: "abc...lm\u00e9n...yz"
// and the end; after anything else "a". What follows second likeliest is "!".
func next(t int) int {
	switch {
	case t == 'm':
		return 0xc3 // the two bytes of \u00e9, one token each
	case t == 0xc3:
		return 0xa9
	case t == 0xa9:
		return 'n'
	case t == 'z':
		return End
	case t >= 'a' && t < 'z':
		return t + 1
	}
	return 'a'
}

// Alphabet writes a language model into a folder of the test and returns it; see
// WriteAlphabet.
func Alphabet(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := WriteAlphabet(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

// WriteAlphabet writes a language model in Hugging Face's form into a folder. Its
// one layer adds nothing to the embedding, a one-hot vector, and its head looks the
// next token up; so a letter's successor has a logit of 17.86, "!" half of it,
// all others 0.
func WriteAlphabet(dir string) error {
	var failed error
	write := func(name string, b []byte, err error) {
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		failed = errors.Join(failed, err)
	}
	doc := func(name string, v any) {
		b, err := json.Marshal(v)
		write(name, b, err)
	}
	doc("config.json", map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "vocab_size": vocab, "hidden_size": width,
		"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 64,
		"max_position_embeddings": Context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
		"hidden_act": "silu", "bos_token_id": EndOfText, "eos_token_id": End, "torch_dtype": "float32",
	})
	doc("tokenizer_config.json", map[string]any{
		"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|im_end|>", "add_bos_token": false,
		"chat_template": chatTemplate,
	})
	words := map[string]int{}
	for i, w := range byteWords() {
		words[w] = i
	}
	var added []map[string]any
	for i, w := range []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>"} {
		words[w] = EndOfText + i
		added = append(added, map[string]any{"id": EndOfText + i, "content": w, "special": true,
			"single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
	}
	level := map[string]any{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true}
	doc("tokenizer.json", map[string]any{
		"version": "1.0", "added_tokens": added, "normalizer": nil, "pre_tokenizer": level, "post_processor": nil, "decoder": level,
		"model": map[string]any{"type": "BPE", "vocab": words, "merges": []string{}, "unk_token": nil},
	})
	w, err := weights()
	write("model.safetensors", w, err)
	return failed
}

// byteWords are the 256 written forms of bytes in a byte-level vocabulary: printable
// ones as they are, the others from U+0100 on.
func byteWords() []string {
	out := make([]string, 256)
	n := 0
	for b := range 256 {
		if b >= '!' && b <= '~' || b >= 0xa1 && b <= 0xac || b >= 0xae {
			out[b] = string(rune(b))
			continue
		}
		out[b] = string(rune(256 + n))
		n++
	}
	return out
}

func weights() ([]byte, error) {
	type entry struct {
		DType   string `json:"dtype"`
		Shape   []int  `json:"shape"`
		Offsets [2]int `json:"data_offsets"`
	}
	header := map[string]entry{}
	var data []byte
	add := func(name string, at func(row, col int) float32, shape ...int) {
		from := len(data)
		rows, cols := 1, shape[0]
		if len(shape) == 2 {
			rows, cols = shape[0], shape[1]
		}
		for r := range rows {
			for c := range cols {
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(at(r, c)))
			}
		}
		header[name] = entry{"F32", shape, [2]int{from, len(data)}}
	}
	one := func(int, int) float32 { return 1 }
	zero := func(int, int) float32 { return 0 }
	some := func(r, c int) float32 { return float32((r*7+c*3)%5-2) / 16 }
	add("model.embed_tokens.weight", func(r, c int) float32 { return eq(r, c) }, vocab, width)
	add("model.norm.weight", one, width)
	add("lm_head.weight", func(r, c int) float32 {
		if c >= vocab {
			return 0
		}
		if r == '!' && next(c) != '!' {
			return 0.5
		}
		return eq(r, next(c))
	}, vocab, width)
	const p = "model.layers.0."
	add(p+"input_layernorm.weight", one, width)
	add(p+"post_attention_layernorm.weight", one, width)
	add(p+"self_attn.q_proj.weight", some, 320, width)
	add(p+"self_attn.k_proj.weight", some, 64, width)
	add(p+"self_attn.v_proj.weight", some, 64, width)
	add(p+"self_attn.o_proj.weight", zero, width, 320)
	add(p+"mlp.gate_proj.weight", some, 32, width)
	add(p+"mlp.up_proj.weight", some, 32, width)
	add(p+"mlp.down_proj.weight", zero, width, 32)
	h, err := json.Marshal(header)
	if err != nil {
		return nil, err
	}
	for len(h)%8 != 0 {
		h = append(h, ' ')
	}
	return append(binary.LittleEndian.AppendUint64(nil, uint64(len(h))), append(h, data...)...), nil
}

func eq(a, b int) float32 {
	if a == b {
		return 1
	}
	return 0
}
