package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// bpe turns one word into tokens by merging adjacent symbols, best merge first.
//
// There are two rules for "best". With merges, the pair of tokens with the
// lowest rank goes first (GPT-2). With scores, the pair whose concatenation is
// the token of the highest score goes first (SentencePiece). Ties go to the
// leftmost pair. Symbols are a linked list and candidates a heap, so a word of
// n bytes costs O(n log n).
type bpe struct {
	vocab  *vocab
	plain  []bool      // by id: may be made from text
	merges *mergeTable // nil: use scores
	scores []float32

	byteLevel bool       // symbols are bytes, not runes
	byteID    [256]int32 // token of a byte, -1 when there is none
	fallback  bool       // runes outside the vocabulary become byteID tokens
	unk       int32      // -1: what has no token is dropped
	fuseUnk   bool       // neighbouring unknown runes give one unk

	ignoreMerges bool // a word that is a token is that token
	cutBlanks    bool // no token goes on past a blank: cut words there
}

// symbol is a run of bytes of the word that is one token so far. id is -1 for
// a rune outside the vocabulary.
type symbol struct {
	start, end int32
	prev, next int32 // -1 at the ends; end = start marks a dead symbol
	id         int32
}

// candidate is a possible merge of two neighbours.
type candidate struct {
	key         float64 // rank, or minus the score: least goes first
	left, right int32
	size        int32 // bytes of the merged symbol, to see that it is still current
	id          int32
}

func (c candidate) before(d candidate) bool {
	return c.key < d.key || c.key == d.key && c.left < d.left
}

// blank is U+2581, which stands for a space in SentencePiece vocabularies.
const blank = "\u2581"

// word appends the tokens of s to out.
func (m *bpe) word(w *worker, s string, out []int32) []int32 {
	if !m.cutBlanks {
		return m.cached(w, s, out)
	}
	// Cut before each run of blanks. Nothing merges across such a cut, so the
	// tokens are the same, the words short and the cache useful.
	for len(s) > 0 {
		n := 0
		for strings.HasPrefix(s[n:], blank) {
			n += len(blank)
		}
		if i := strings.Index(s[n:], blank); i >= 0 {
			n += i
		} else {
			n = len(s)
		}
		out = m.cached(w, s[:n], out)
		s = s[n:]
	}
	return out
}

func (m *bpe) cached(w *worker, s string, out []int32) []int32 {
	if len(s) > maxCachedWord {
		return m.encode(w, s, out)
	}
	if ids, ok := w.cache.get(s); ok {
		return append(out, ids...)
	}
	n := len(out)
	out = m.encode(w, s, out)
	w.cache.put(s, out[n:])
	return out
}

func (m *bpe) encode(w *worker, s string, out []int32) []int32 {
	if m.ignoreMerges {
		if id := m.whole(w, s); id >= 0 {
			return append(out, id)
		}
	}
	m.symbols(w, s)
	m.mergeAll(w, s)
	if len(w.syms) == 0 {
		return out
	}
	unknown := false // the last symbol had no token
	for i := int32(0); i >= 0; i = w.syms[i].next {
		y := w.syms[i]
		if y.id >= 0 {
			out, unknown = append(out, y.id), false
			continue
		}
		if m.fallback && m.hasBytes(s[y.start:y.end]) {
			for _, b := range []byte(s[y.start:y.end]) {
				out = append(out, m.byteID[b])
			}
			unknown = false
			continue
		}
		if m.unk >= 0 && !(unknown && m.fuseUnk) {
			out = append(out, m.unk)
		}
		unknown = true
	}
	return out
}

// whole returns the token that is all of s, or -1.
func (m *bpe) whole(w *worker, s string) int32 {
	if m.byteLevel {
		w.text = appendByteLevel(w.text[:0], s)
		return m.known(m.vocab.idBytes(w.text))
	}
	return m.known(m.vocab.id(s))
}

func (m *bpe) known(id int32) int32 {
	if id >= 0 && !m.plain[id] {
		return -1
	}
	return id
}

func (m *bpe) hasBytes(s string) bool {
	for i := range len(s) {
		if m.byteID[s[i]] < 0 {
			return false
		}
	}
	return true
}

// symbols fills w.syms with the bytes or runes of s.
func (m *bpe) symbols(w *worker, s string) {
	w.syms = w.syms[:0]
	for i := 0; i < len(s); {
		n, id := 1, int32(-1)
		if m.byteLevel {
			id = m.byteID[s[i]]
		} else {
			_, n = utf8.DecodeRuneInString(s[i:])
			id = m.known(m.vocab.id(s[i : i+n]))
		}
		k := int32(len(w.syms))
		w.syms = append(w.syms, symbol{int32(i), int32(i + n), k - 1, k + 1, id})
		i += n
	}
	if n := len(w.syms); n > 0 {
		w.syms[n-1].next = -1
	}
}

func (m *bpe) mergeAll(w *worker, s string) {
	w.heap = w.heap[:0]
	for i := range w.syms {
		if next := w.syms[i].next; next >= 0 {
			if c, ok := m.candidate(w, s, int32(i), next); ok {
				w.heap = append(w.heap, c)
			}
		}
	}
	w.heap.init()
	for len(w.heap) > 0 {
		c := w.heap.pop()
		l, r := &w.syms[c.left], &w.syms[c.right]
		if l.end == l.start || l.next != c.right || r.end-l.start != c.size {
			continue // one side was merged away or grew
		}
		l.end, l.id, l.next = r.end, c.id, r.next
		r.end = r.start
		if l.next >= 0 {
			w.syms[l.next].prev = c.left
			if d, ok := m.candidate(w, s, c.left, l.next); ok {
				w.heap.push(d)
			}
		}
		if l.prev >= 0 {
			if d, ok := m.candidate(w, s, l.prev, c.left); ok {
				w.heap.push(d)
			}
		}
	}
}

func (m *bpe) candidate(w *worker, s string, left, right int32) (candidate, bool) {
	l, r := &w.syms[left], &w.syms[right]
	c := candidate{left: left, right: right, size: r.end - l.start}
	if m.merges != nil {
		if l.id < 0 || r.id < 0 {
			return c, false
		}
		e, ok := m.merges.get(l.id, r.id)
		c.key, c.id = float64(e.rank), e.id
		return c, ok
	}
	c.id = m.known(m.vocab.id(s[l.start:r.end]))
	if c.id < 0 {
		return c, false
	}
	c.key = -float64(m.scores[c.id])
	return c, true
}

// findCut reports whether words may be cut before every run of blanks: no
// token has a blank after something else.
func findCut(tokens []string, plain []bool) bool {
	for id, s := range tokens {
		if plain[id] && strings.Contains(strings.TrimLeft(s, blank), blank) {
			return false
		}
	}
	return true
}
