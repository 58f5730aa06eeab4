package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Spec is what a model file says of its tokenizer, whatever the file was. The
// names and numbers are those of GGUF's tokenizer.ggml.* keys.
type Spec struct {
	// Model is the kind of vocabulary: "gpt2" (byte-level BPE with merges) or
	// "llama" (SentencePiece BPE with scores).
	Model string
	// Pre names the pre-tokeniser of a gpt2 model: "smollm", "llama-bpe",
	// "qwen2", "gpt-2", ...
	Pre string

	Tokens []string
	Scores []float32 // llama: one per token
	Types  []int32   // one per token, or nil: 1 normal 2 unknown 3 control 4 user-defined 5 unused 6 byte
	Merges []string  // gpt2: "left right", best first

	BOS, EOS, UNK, PAD int   // -1 when absent
	ExtraEOS           []int // other tokens that end generation

	AddBOS, AddEOS, AddSpacePrefix bool

	ChatTemplate string
}

// Tokens that end generation wherever they are control tokens: files often
// name only one of several.
var endTokens = []string{
	"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
	"<end_of_turn>", "<\uff5cend\u2581of\u2581sentence\uff5c>",
}

// New builds a Tokenizer from what a model file says. It trusts nothing of it:
// every error is ErrFormat or ErrUnsupported. The slices of s are kept and must
// not change after.
func New(s Spec) (*Tokenizer, error) {
	t, err := newFromSpec(s)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return t, nil
}

func newFromSpec(s Spec) (*Tokenizer, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	t := &Tokenizer{tokens: s.Tokens, kinds: s.kinds(), chatTemplate: s.ChatTemplate}
	t.bos, t.eos, t.unk, t.pad = int32(s.BOS), int32(s.EOS), int32(s.UNK), int32(s.PAD)
	if s.AddBOS && s.BOS >= 0 {
		t.prefix = []int32{t.bos}
	}
	if s.AddEOS && s.EOS >= 0 {
		t.suffix = []int32{t.eos}
	}
	if err := t.index(); err != nil {
		return nil, err
	}
	var err error
	switch s.Model {
	case "gpt2":
		err = t.setByteLevel(s)
	case "llama":
		err = t.setScores(s)
	default:
		err = fmt.Errorf("model %.40q: want gpt2 or llama: %w", s.Model, ErrUnsupported)
	}
	if err != nil {
		return nil, err
	}
	var added []addedToken
	for id, k := range t.kinds {
		if (k == special || k == literalKind) && s.Tokens[id] != "" {
			added = append(added, addedToken{text: s.Tokens[id], id: int32(id), special: k == special})
		}
	}
	if err := t.setAdded(added); err != nil {
		return nil, err
	}
	t.setEOG(s.ExtraEOS)
	return t, nil
}

func (s *Spec) check() error {
	n := len(s.Tokens)
	if n == 0 || n > maxTokens {
		return fmt.Errorf("want 1 to %d tokens, got %d: %w", maxTokens, n, ErrFormat)
	}
	if len(s.Merges) > maxMerges {
		return fmt.Errorf("want at most %d merges, got %d: %w", maxMerges, len(s.Merges), ErrFormat)
	}
	if s.Types != nil && len(s.Types) != n {
		return fmt.Errorf("want %d token types, got %d: %w", n, len(s.Types), ErrFormat)
	}
	if s.Scores != nil && len(s.Scores) != n {
		return fmt.Errorf("want %d token scores, got %d: %w", n, len(s.Scores), ErrFormat)
	}
	for id, v := range s.Types {
		if v < 0 || v > 6 {
			return fmt.Errorf("token %d: want a type of 1 to 6, got %d: %w", id, v, ErrFormat)
		}
	}
	for id, v := range s.Scores {
		if math.IsNaN(float64(v)) || math.IsInf(float64(v), 0) {
			return fmt.Errorf("token %d: want a finite score, got %v: %w", id, v, ErrFormat)
		}
	}
	ids := append([]int{s.BOS, s.EOS, s.UNK, s.PAD}, s.ExtraEOS...)
	for i, id := range ids {
		if id < -1 || id >= n {
			name := "extra end"
			if i < 4 {
				name = [...]string{"bos", "eos", "unk", "pad"}[i]
			}
			return fmt.Errorf("%s token: want an id below %d, got %d: %w", name, n, id, ErrFormat)
		}
	}
	return nil
}

func (s *Spec) kinds() []kind {
	kinds := make([]kind, len(s.Tokens))
	if s.Types == nil {
		for id, text := range s.Tokens {
			if _, ok := parseByte(text); ok && s.Model == "llama" {
				kinds[id] = byteKind
			}
		}
		for _, id := range append([]int{s.BOS, s.EOS, s.UNK, s.PAD}, s.ExtraEOS...) {
			if id >= 0 {
				kinds[id] = special
			}
		}
		return kinds
	}
	for id, v := range s.Types {
		kinds[id] = [...]kind{normal, normal, special, special, literalKind, unused, byteKind}[v]
	}
	return kinds
}

// index builds the tables over t.tokens and t.kinds that every model needs.
func (t *Tokenizer) index() error {
	v, err := newVocab(t.tokens, func(id int) bool { return t.kinds[id] == unused || t.tokens[id] == "" })
	if err != nil {
		return err
	}
	t.model.vocab = v
	t.model.plain = make([]bool, len(t.tokens))
	for id, k := range t.kinds {
		t.model.plain[id] = k == normal || k == literalKind
	}
	t.model.unk = -1
	for b := range t.model.byteID {
		t.model.byteID[b] = -1
	}
	return nil
}

// setByteLevel completes a gpt2 model.
func (t *Tokenizer) setByteLevel(s Spec) error {
	p, ok := namedPre(s.Pre)
	if !ok {
		return fmt.Errorf("pre-tokenizer %.40q: %w", s.Pre, ErrUnsupported)
	}
	t.steps = p.steps
	if s.AddSpacePrefix {
		t.steps = append([]step{prefixSpace}, t.steps...)
	}
	t.model.ignoreMerges = p.ignoreMerges
	t.indexBytes()
	t.model.merges = newMergeTable(len(s.Merges))
	for rank, m := range s.Merges {
		left, right := cutMerge(m)
		if err := t.model.merges.add(t.model.vocab, rank, left, right); err != nil {
			return err
		}
	}
	return nil
}

// indexBytes makes the model byte-level: a byte without a token of its own is
// dropped from a text unless there is an unk, as in the reference.
func (t *Tokenizer) indexBytes() {
	t.model.byteLevel, t.out.byteLevel = true, true
	for b, r := range byteRune {
		t.model.byteID[b] = t.model.known(t.model.vocab.id(string(r)))
	}
}

// setScores completes a llama model.
func (t *Tokenizer) setScores(s Spec) error {
	if s.Scores == nil {
		return fmt.Errorf("llama model: want %d token scores, got none: %w", len(s.Tokens), ErrFormat)
	}
	t.model.scores, t.model.fallback = s.Scores, true
	t.model.unk = t.unk
	for id, k := range t.kinds {
		if k != byteKind {
			continue
		}
		b, ok := parseByte(t.tokens[id])
		if !ok {
			return fmt.Errorf("token %d: want a byte token <0xHH>, got %.40q: %w", id, t.tokens[id], ErrFormat)
		}
		t.model.byteID[b] = int32(id)
	}
	if s.AddSpacePrefix {
		t.out.strip, t.out.stripMost = " ", 1
	}
	t.steps = []step{blanks(s.AddSpacePrefix)}
	t.out.replace = [][2]string{{blank, " "}}
	t.model.cutBlanks = findCut(t.tokens, t.model.plain)
	return nil
}

// blanks writes spaces as blanks and, if prefix, puts one in front even of a
// space: SentencePiece's dummy prefix.
func blanks(prefix bool) step {
	return func(dst []string, s string, _ bool) []string {
		s = strings.ReplaceAll(s, " ", blank)
		if prefix {
			s = blank + s
		}
		return append(dst, s)
	}
}

// setAdded builds the matchers.
func (t *Tokenizer) setAdded(added []addedToken) error {
	for _, a := range added {
		if len(a.text) > maxAddedBytes {
			return fmt.Errorf("token %d: want an added token of at most %d bytes, got %d: %w", a.id, maxAddedBytes, len(a.text), ErrFormat)
		}
	}
	pick := func(normalized, user bool) *matcher {
		var list []addedToken
		for _, a := range added {
			if a.normalized == normalized && !(user && a.special) {
				list = append(list, a)
			}
		}
		return newMatcher(list)
	}
	t.raw, t.rawUser = pick(false, false), pick(false, true)
	t.normed, t.normedUser = pick(true, false), pick(true, true)
	return nil
}

func (t *Tokenizer) setEOG(extra []int) {
	t.eog = map[int32]bool{}
	if t.eos >= 0 {
		t.eog[t.eos] = true
	}
	for _, id := range extra {
		if id >= 0 {
			t.eog[int32(id)] = true
		}
	}
	for _, text := range endTokens {
		if id := t.model.vocab.id(text); id >= 0 && t.kinds[id] == special {
			t.eog[id] = true
		}
	}
}

// EOG lists the ids that end generation, in order.
func (t *Tokenizer) EOG() []int32 {
	ids := make([]int32, 0, len(t.eog))
	for id := range t.eog {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
