package loader

import (
	"errors"
	"fmt"
	"math"

	"github.com/sparserun/sparserun/tokenizer"
)

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
