package tokenizer

import (
	"errors"
	"sync"
)

// Errors. Every error of this package wraps one of them.
var (
	// ErrFormat: the description contradicts itself or its file is damaged.
	ErrFormat = errors.New("malformed tokenizer")
	// ErrUnsupported: well formed, but of a kind that this package does not do.
	ErrUnsupported = errors.New("unsupported tokenizer")
)

// Tokenizer turns text into token ids and back. It is immutable and safe for
// concurrent use.
type Tokenizer struct {
	tokens []string
	kinds  []kind
	model  bpe

	normalize []normalizer
	steps     []step
	// Added tokens before and after normalisation; user leaves out the special
	// ones.
	raw, rawUser, normed, normedUser *matcher

	out decoding

	bos, eos, unk, pad int32 // -1: none
	eog                map[int32]bool
	prefix, suffix     []int32 // what Auto adds
	chatTemplate       string

	pool sync.Pool // of *worker
}

// kind says how the text of a token is meant.
type kind uint8

const (
	normal      kind = iota // goes through the vocabulary's writing (byte level, blanks)
	literalKind             // user-defined: bytes as they are
	special                 // control and unknown: bytes as they are, not from plain text
	byteKind                // one byte, written <0xHH>
	unused                  // has no text
)

// Affix says whether a token is put at an end of the encoded text.
type Affix int8

// Auto does what the model was trained with.
const (
	Auto Affix = iota
	Always
	Never
)

// EncodeOptions changes how Encode treats a text. The zero value encodes it as
// the model was trained to see it, with special tokens in the text as plain
// text.
type EncodeOptions struct {
	BOS, EOS Affix
	// ParseSpecial makes special tokens written in the text become their ids.
	// Leave it off for text of users: they could write <|im_end|>.
	ParseSpecial bool
}

// Encode returns the token ids of text.
func (t *Tokenizer) Encode(text string, opts EncodeOptions) []int32 {
	w, _ := t.pool.Get().(*worker)
	if w == nil {
		w = &worker{}
	}
	defer func() {
		w.trim()
		t.pool.Put(w)
	}()
	out := make([]int32, 0, len(text)/3+len(t.prefix)+len(t.suffix)+2)
	out = affix(out, opts.BOS, t.prefix, t.bos)

	raw, normed := t.raw, t.normed
	if !opts.ParseSpecial {
		raw, normed = t.rawUser, t.normedUser
	}
	token := func(id int32) { out = append(out, id) }
	raw.cut(text, func(at int, s string) {
		for _, f := range t.normalize {
			s = f(s)
		}
		normed.cut(s, func(at2 int, s string) {
			for _, word := range w.split(t.steps, s, at == 0 && at2 == 0) {
				out = t.model.word(w, word, out)
			}
		}, token)
	}, token)

	return affix(out, opts.EOS, t.suffix, t.eos)
}

func affix(out []int32, a Affix, auto []int32, id int32) []int32 {
	switch {
	case a == Never:
	case len(auto) > 0:
		return append(out, auto...)
	case a == Always && id >= 0:
		return append(out, id)
	}
	return out
}

// VocabSize is the number of token ids; ids are 0 up to it.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// BOS is the token that begins a text, -1 when there is none.
func (t *Tokenizer) BOS() int { return int(t.bos) }

// EOS is the token that ends a text, -1 when there is none.
func (t *Tokenizer) EOS() int { return int(t.eos) }

// UNK is the token of unknown text, -1 when there is none.
func (t *Tokenizer) UNK() int { return int(t.unk) }

// PAD is the padding token, -1 when there is none.
func (t *Tokenizer) PAD() int { return int(t.pad) }

// AddsBOS reports whether Encode begins a text with tokens of its own accord.
func (t *Tokenizer) AddsBOS() bool { return len(t.prefix) > 0 }

// IsEOG reports whether id ends generation.
func (t *Tokenizer) IsEOG(id int32) bool { return t.eog[id] }

// Special reports whether id is a control or unknown token.
func (t *Tokenizer) Special(id int32) bool { return t.valid(id) && t.kinds[id] == special }

// ID returns the token whose text in the vocabulary is text, or -1.
func (t *Tokenizer) ID(text string) int { return int(t.model.vocab.id(text)) }

// ChatTemplate is the model's Jinja chat template, "" when it has none.
func (t *Tokenizer) ChatTemplate() string { return t.chatTemplate }

func (t *Tokenizer) valid(id int32) bool { return id >= 0 && int(id) < len(t.tokens) }
