package tokenizer

import (
	"fmt"

	"github.com/sparserun/sparserun/strictjson"
)

// FromJSON reads a Hugging Face tokenizer.json with a BPE model. config is
// tokenizer_config.json, or nil: it names BOS and EOS, says whether they are
// added and holds the chat template.
func FromJSON(tokenizerJSON, config []byte) (*Tokenizer, error) {
	t, err := fromJSON(tokenizerJSON, config)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return t, nil
}

// hfFile is a tokenizer.json while it is read.
type hfFile struct {
	tokens []string
	kinds  []kind
	added  []addedToken

	model    node // the model's small keys
	merges   int  // where its merges begin, -1 for none
	sections map[string]node
}

func fromJSON(data, config []byte) (*Tokenizer, error) {
	r, err := newJSON(data)
	if err != nil {
		return nil, err
	}
	f := hfFile{merges: -1, sections: map[string]node{}}
	addedAt := -1
	err = r.Object(func(key string) (err error) {
		switch key {
		case "model":
			return f.readModel(r)
		case "added_tokens":
			r.Peek()
			addedAt = r.Pos()
		case "normalizer", "pre_tokenizer", "post_processor", "decoder":
			var v any
			if v, err = readTree(r); err != nil {
				return err
			}
			n, ok := v.(node)
			if !ok && v != nil {
				return fmt.Errorf("%s: want an object: %w", key, ErrFormat)
			}
			f.sections[key] = n
			return nil
		}
		return r.Skip(false) // truncation, padding: a caller's affair
	})
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, err
	}
	if len(f.tokens) == 0 {
		return nil, fmt.Errorf("model: want a vocabulary: %w", ErrFormat)
	}
	if addedAt >= 0 {
		again := r.At(addedAt)
		if err := f.readAdded(again); err != nil {
			return nil, fmt.Errorf("added_tokens: %w", err)
		}
	}
	t := &Tokenizer{tokens: f.tokens, kinds: f.kinds, bos: -1, eos: -1, unk: -1, pad: -1}
	if err := t.index(); err != nil {
		return nil, err
	}
	if err := f.build(t, r); err != nil {
		return nil, err
	}
	if err := t.readConfig(config); err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	t.setEOG(nil)
	return t, nil
}

func (f *hfFile) readModel(r *strictjson.Reader) error {
	f.model = node{}
	return r.Object(func(key string) (err error) {
		switch key {
		case "vocab":
			if r.Peek() != '{' { // Unigram writes a list
				return r.Skip(false)
			}
			return f.readVocab(r)
		case "merges":
			r.Peek()
			f.merges = r.Pos()
			return r.Skip(false)
		}
		f.model[key], err = readTree(r)
		return err
	})
}

// readVocab reads the vocabulary twice: first to count, so that the token list
// is allocated once and only for entries that are there.
func (f *hfFile) readVocab(r *strictjson.Reader) error {
	ahead, count := *r, 0
	if err := ahead.Pairs(func(string) error { count++; return ahead.Skip(false) }); err != nil {
		return err
	}
	if count > maxTokens {
		return fmt.Errorf("vocab: want at most %d tokens, got %d: %w", maxTokens, count, ErrFormat)
	}
	f.tokens, f.kinds = make([]string, 0, count+count/16), make([]kind, 0, count+count/16)
	return r.Pairs(func(text string) error {
		id, err := readID(r)
		if err != nil {
			return err
		}
		return f.put(id, text, normal)
	})
}

// put enters a token; ids may leave holes, which have no text.
func (f *hfFile) put(id int, text string, k kind) error {
	if n := id + 1 - len(f.tokens); n > 0 {
		f.tokens = append(f.tokens, make([]string, n)...)
		for range n {
			f.kinds = append(f.kinds, unused)
		}
	}
	if f.kinds[id] != unused {
		return fmt.Errorf("token %.40q: id %d is %.40q already: %w", text, id, f.tokens[id], ErrFormat)
	}
	f.tokens[id], f.kinds[id] = text, k
	return nil
}

// readAdded reads the added tokens. Most repeat an entry of the vocabulary.
func (f *hfFile) readAdded(r *strictjson.Reader) error {
	v, err := newVocab(f.tokens, func(id int) bool { return f.kinds[id] == unused })
	if err != nil {
		return err
	}
	return r.Array(func(int) error {
		r.Allow(64)
		tree, err := readTree(r)
		if err != nil {
			return err
		}
		n, _ := tree.(node)
		id, ok := n["id"].(float64)
		text, ok2 := n["content"].(string)
		if !ok || !ok2 || id < 0 || id >= maxTokens || id != float64(int(id)) {
			return fmt.Errorf("want an id below %d and a content, got %v: %w", maxTokens, tree, ErrFormat)
		}
		k := literalKind
		if n.bool("special", false) {
			k = special
		}
		if old := v.id(text); old >= 0 {
			if int(old) != int(id) {
				return fmt.Errorf("%.40q: want id %d as in the vocabulary, got %v: %w", text, old, id, ErrFormat)
			}
			if f.kinds[old] != normal {
				return fmt.Errorf("%.40q: want each token once: %w", text, ErrFormat)
			}
			f.kinds[old] = k
		} else if err := f.put(int(id), text, k); err != nil {
			return err
		}
		if text != "" {
			f.added = append(f.added, addedToken{
				text: text, id: int32(id), special: k == special,
				lstrip: n.bool("lstrip", false), rstrip: n.bool("rstrip", false),
				singleWord: n.bool("single_word", false), normalized: n.bool("normalized", k != special),
			})
		}
		return nil
	})
}

// build completes t, whose tokens are indexed.
func (f *hfFile) build(t *Tokenizer, file *strictjson.Reader) error {
	if kind := f.model.str("type"); kind != "BPE" && !(kind == "" && f.merges >= 0) {
		return fmt.Errorf("model %.40q: want BPE: %w", kind, ErrUnsupported)
	}
	if p, _ := f.model["dropout"].(float64); p != 0 {
		return fmt.Errorf("model: dropout %v: %w", p, ErrUnsupported)
	}
	for _, key := range []string{"continuing_subword_prefix", "end_of_word_suffix"} {
		if s := f.model.str(key); s != "" {
			return fmt.Errorf("model: %s %.40q: %w", key, s, ErrUnsupported)
		}
	}
	m := &t.model
	m.ignoreMerges = f.model.bool("ignore_merges", false)
	m.fuseUnk = f.model.bool("fuse_unk", false)
	m.fallback = f.model.bool("byte_fallback", false)
	if s, ok := f.model["unk_token"].(string); ok {
		if t.unk = m.vocab.id(s); t.unk < 0 {
			return fmt.Errorf("model: unk_token %.40q is no token: %w", s, ErrFormat)
		}
		m.unk = t.unk
	}
	if err := f.readMerges(t, file); err != nil {
		return err
	}

	var n normReader
	if err := n.read(f.sections["normalizer"]); err != nil {
		return fmt.Errorf("normalizer: %w", err)
	}
	t.normalize = n.list
	var p preReader
	if err := p.read(f.sections["pre_tokenizer"]); err != nil {
		return fmt.Errorf("pre_tokenizer: %w", err)
	}
	t.steps = p.steps
	var d decoderReader
	if err := d.read(f.sections["decoder"]); err != nil {
		return fmt.Errorf("decoder: %w", err)
	}
	t.out = d.decoding
	if err := t.readPost(f.sections["post_processor"]); err != nil {
		return fmt.Errorf("post_processor: %w", err)
	}

	for id, s := range t.tokens {
		if b, ok := parseByte(s); ok && t.kinds[id] == normal {
			m.byteID[b] = int32(id)
			if d.bytes {
				t.kinds[id] = byteKind
			}
		}
	}
	if p.byteLevel {
		byteLevelOut := t.out.byteLevel
		t.indexBytes()
		t.out.byteLevel = byteLevelOut
	} else {
		m.cutBlanks = !m.ignoreMerges && findCut(t.tokens, m.plain)
	}

	for i, a := range f.added {
		if a.normalized {
			for _, norm := range t.normalize {
				f.added[i].text = norm(f.added[i].text)
			}
			if f.added[i].text == "" {
				f.added[i].text = a.text
			}
		}
	}
	return t.setAdded(f.added)
}

// readMerges reads the merges, "left right" or ["left", "right"].
func (f *hfFile) readMerges(t *Tokenizer, file *strictjson.Reader) error {
	if f.merges < 0 {
		t.model.merges = newMergeTable(0)
		return nil
	}
	r := file.At(f.merges)
	count, err := r.Count()
	if err != nil {
		return err
	}
	if count > maxMerges {
		return fmt.Errorf("model: want at most %d merges, got %d: %w", maxMerges, count, ErrFormat)
	}
	t.model.merges = newMergeTable(count)
	rank := 0
	return r.Array(func(int) error {
		var left, right string
		if r.Peek() == '"' {
			s, err := r.Str()
			if err != nil {
				return err
			}
			left, right = cutMerge(s)
		} else {
			side := 0
			err := r.Array(func(int) (err error) {
				switch side++; side {
				case 1:
					left, err = r.Str()
				case 2:
					right, err = r.Str()
				default:
					err = r.Fail("a pair")
				}
				return err
			})
			if err != nil {
				return err
			}
		}
		rank++
		return t.model.merges.add(t.model.vocab, rank-1, left, right)
	})
}
