package loader

import (
	"encoding/json"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/sparserun/sparserun/tokenizer"
)

// Regular expressions of the pre-tokenisers, as tokenizer.json files write them.
const (
	splitLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	splitQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

type jsonObject = map[string]any

// hfTokenizer writes a tokenizer that came from GGUF as tokenizer.json and
// tokenizer_config.json, so that a folder of ours serves other programs; nil
// for kinds whose pre-tokeniser it does not know how to spell.
func hfTokenizer(s *tokenizer.Spec) map[string][]byte {
	m := jsonObject{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": nil, "end_of_word_suffix": nil,
		"fuse_unk": false, "byte_fallback": false, "ignore_merges": false}
	t := jsonObject{"version": "1.0", "truncation": nil, "padding": nil, "normalizer": nil, "pre_tokenizer": nil, "model": m}
	switch s.Model {
	case "gpt2":
		if !byteLevel(s, t, m) {
			return nil
		}
	case "llama":
		sentencePiece(s, t, m)
	default:
		return nil
	}
	vocab := make(map[string]int, len(s.Tokens))
	added := []jsonObject{}
	for id, text := range s.Tokens {
		if !utf8.ValidString(text) {
			return nil
		}
		vocab[text] = id
		if s.Types != nil && (s.Types[id] == 2 || s.Types[id] == 3 || s.Types[id] == 4) {
			added = append(added, jsonObject{"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
				"normalized": false, "special": s.Types[id] != 4})
		}
	}
	if len(vocab) != len(s.Tokens) {
		return nil
	}
	m["vocab"], t["added_tokens"] = vocab, added
	t["post_processor"] = template(s)

	config := jsonObject{"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false,
		"add_bos_token": s.AddBOS, "add_eos_token": s.AddEOS}
	for key, id := range map[string]int{"bos_token": s.BOS, "eos_token": s.EOS, "unk_token": s.UNK, "pad_token": s.PAD} {
		if id >= 0 && id < len(s.Tokens) {
			config[key] = s.Tokens[id]
		}
	}
	if s.ChatTemplate != "" {
		config["chat_template"] = s.ChatTemplate
	}
	a, err1 := json.Marshal(t)
	b, err2 := json.Marshal(config)
	if err1 != nil || err2 != nil {
		return nil
	}
	return map[string][]byte{fileTokenizer: a, fileTokenizerConfig: b}
}

// byteLevel fills in a gpt2 model; false where its pre-tokeniser has no spelling
// here.
func byteLevel(s *tokenizer.Spec, t, m jsonObject) bool {
	level := func(regex bool) jsonObject {
		return jsonObject{"type": "ByteLevel", "add_prefix_space": s.AddSpacePrefix, "trim_offsets": true, "use_regex": regex}
	}
	sequence := func(first jsonObject, regex bool) jsonObject {
		return jsonObject{"type": "Sequence", "pretokenizers": []jsonObject{first, level(regex)}}
	}
	split := func(regex string) jsonObject {
		return jsonObject{"type": "Split", "pattern": jsonObject{"Regex": regex}, "behavior": "Isolated", "invert": false}
	}
	switch s.Pre {
	case "gpt-2", "gpt2":
		t["pre_tokenizer"] = level(true)
	case "smollm":
		t["pre_tokenizer"] = sequence(jsonObject{"type": "Digits", "individual_digits": true}, true)
	case "llama-bpe", "llama3", "llama-v3":
		t["pre_tokenizer"], m["ignore_merges"] = sequence(split(splitLlama3), false), true
	case "qwen2":
		t["pre_tokenizer"] = sequence(split(splitQwen2), false)
	default:
		return false
	}
	t["decoder"] = jsonObject{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}
	m["merges"] = s.Merges
	if s.Merges == nil {
		m["merges"] = []string{}
	}
	return true
}

// sentencePiece fills in a model with scores: its merges are all ways to make a
// token of two others, best score first.
func sentencePiece(s *tokenizer.Spec, t, m jsonObject) {
	const blank = "\u2581"
	norm := []jsonObject{{"type": "Replace", "pattern": jsonObject{"String": " "}, "content": blank}}
	decode := []jsonObject{{"type": "Replace", "pattern": jsonObject{"String": blank}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}}
	if s.AddSpacePrefix {
		norm = append([]jsonObject{{"type": "Prepend", "prepend": blank}}, norm...)
		decode = append(decode, jsonObject{"type": "Strip", "content": " ", "start": 1, "stop": 0})
	}
	t["normalizer"] = jsonObject{"type": "Sequence", "normalizers": norm}
	t["decoder"] = jsonObject{"type": "Sequence", "decoders": decode}
	m["byte_fallback"] = true
	if s.UNK >= 0 {
		m["unk_token"] = s.Tokens[s.UNK]
	}

	// A byte token or a special one is no piece of text.
	ids := make(map[string]int, len(s.Tokens))
	for id, text := range s.Tokens {
		if s.Types == nil || s.Types[id] == 1 || s.Types[id] == 4 {
			ids[text] = id
		}
	}
	type merge struct {
		score       float32
		id, l, r    int
		left, right string
	}
	var list []merge
	for id, text := range s.Tokens {
		if k, ok := ids[text]; !ok || k != id {
			continue
		}
		for i := range text {
			l, ok1 := ids[text[:i]]
			r, ok2 := ids[text[i:]]
			if i > 0 && ok1 && ok2 {
				list = append(list, merge{s.Scores[id], id, l, r, text[:i], text[i:]})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b merge) int {
		switch {
		case a.score != b.score:
			if a.score > b.score {
				return -1
			}
			return 1
		case a.id != b.id:
			return a.id - b.id
		case a.l != b.l:
			return a.l - b.l
		}
		return a.r - b.r
	})
	pairs := make([][2]string, len(list)) // as pairs: a piece may hold a space
	for i, x := range list {
		pairs[i] = [2]string{x.left, x.right}
	}
	m["merges"] = pairs
}

// template adds the tokens that go around a text; nil if none do.
func template(s *tokenizer.Spec) any {
	text := jsonObject{"Sequence": jsonObject{"id": "A", "type_id": 0}}
	single := []jsonObject{text}
	special := jsonObject{}
	piece := func(id int) jsonObject {
		name := s.Tokens[id]
		special[name] = jsonObject{"id": name, "ids": []int{id}, "tokens": []string{name}}
		return jsonObject{"SpecialToken": jsonObject{"id": name, "type_id": 0}}
	}
	if s.AddBOS && s.BOS >= 0 {
		single = append([]jsonObject{piece(s.BOS)}, single...)
	}
	if s.AddEOS && s.EOS >= 0 {
		single = append(single, piece(s.EOS))
	}
	if len(single) == 1 {
		return nil
	}
	pair := slices.Clone(single)
	second := jsonObject{"Sequence": jsonObject{"id": "B", "type_id": 0}}
	pair = slices.Insert(pair, slices.IndexFunc(pair, func(o jsonObject) bool { return o["Sequence"] != nil })+1, second)
	return jsonObject{"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
}

// errToken: a token that JSON cannot carry.
func errToken(id int) error {
	return fault(ErrUnsupported, "", -1, "token to save", "UTF-8", fmt.Sprint("id ", id))
}
