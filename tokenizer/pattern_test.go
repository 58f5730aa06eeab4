package tokenizer

import (
	"encoding/json"
	"os"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// The pieces of the regular expressions themselves, as the tokenizers library
// (Oniguruma) cuts them.
func TestPieces(t *testing.T) {
	b, err := os.ReadFile("testdata/pieces.json")
	require.NoError(t, err)
	var g struct {
		Texts  []string
		Pieces map[string][][]int
	}
	require.NoError(t, json.Unmarshal(b, &g))
	require.Len(t, g.Pieces, 6)
	for name, want := range g.Pieces {
		p, ok := namedPre(name)
		require.True(t, ok)
		var w worker
		for i, text := range g.Texts {
			got := []int{}
			words := []string{}
			if text != "" {
				words = w.split(p.steps, text, true)
			}
			for _, piece := range words {
				got = append(got, utf8.RuneCountInString(piece))
			}
			require.Equal(t, want[i], got, "%s: %q: %q", name, text, words)
		}
	}
}

// Every pattern covers every text, one piece after the other.
func FuzzPatterns(f *testing.F) {
	for _, s := range []string{"", " ", "a b", "'s", " \r\n x", "\xff\xc5'\xc5", "e\u0301A1\u2028 "} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for regex, p := range patterns {
			for i := 0; i < len(s); {
				end := p(s, i)
				if end <= i || end > len(s) {
					t.Fatalf("%s: piece %d to %d of %d bytes", regex, i, end, len(s))
				}
				i = end
			}
		}
	})
}

// obvious merges words by scanning for the best pair again and again.
func obvious(m *bpe, s string) []int32 {
	var w worker
	m.symbols(&w, s)
	for {
		best, at := candidate{}, int32(-1)
		for i := int32(0); i >= 0 && len(w.syms) > 0; i = w.syms[i].next {
			if next := w.syms[i].next; next >= 0 {
				if c, ok := m.candidate(&w, s, i, next); ok && (at < 0 || c.before(best)) {
					best, at = c, i
				}
			}
		}
		if at < 0 {
			break
		}
		l, r := &w.syms[best.left], &w.syms[best.right]
		l.end, l.id, l.next = r.end, best.id, r.next
	}
	var ids []int32
	for i := int32(0); i >= 0 && len(w.syms) > 0; i = w.syms[i].next {
		if w.syms[i].id >= 0 {
			ids = append(ids, w.syms[i].id)
		}
	}
	return ids
}

// The heap gives what the obvious algorithm gives.
func FuzzMerge(f *testing.F) {
	data, err := os.ReadFile("testdata/gpt2.json")
	require.NoError(f, err)
	tok, err := FromJSON(data, nil)
	require.NoError(f, err)
	for _, s := range []string{"", "a", "aaaaaaaaa", "the river", "thethethethe", "\xff\x00é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if len(s) > 400 {
			return
		}
		var w worker
		got := tok.model.encode(&w, s, nil)
		want := obvious(&tok.model, s)
		if len(got) != len(want) {
			t.Fatalf("%q: want %v, got %v", s, want, got)
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%q: want %v, got %v", s, want, got)
			}
		}
	})
}
