package tokenizer_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/tokenizer"
)

// A token may go on past a blank: then words must not be cut there.
func TestTokenAcrossBlank(t *testing.T) {
	s := tinyScores()
	s.Tokens = []string{"<unk>", "<s>", "a", "b", "\u2581", "\u2581b", "a\u2581b"}
	s.Scores = []float32{0, 0, -2, -3, -4, -1, -2}
	s.Types = []int32{2, 3, 1, 1, 1, 1, 1}
	tok, err := tokenizer.New(s)
	require.NoError(t, err)
	require.Equal(t, []int32{6, 2}, tok.Encode("a ba", tokenizer.EncodeOptions{}))

	tok, err = tokenizer.FromJSON([]byte(`{"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"\u2581"},
		"model":{"type":"BPE","vocab":{"a":0,"b":1,"\u2581":2,"\u2581b":3,"a\u2581b":4},"merges":["\u2581 b","a \u2581b"]}}`), nil)
	require.NoError(t, err)
	require.Equal(t, []int32{4, 0}, tok.Encode("a ba", tokenizer.EncodeOptions{}))
}

func TestAddedTokens(t *testing.T) {
	s := tinySpec()
	s.Tokens = append(s.Tokens, "<a", "<a>", "<a>b<a>", "a a")
	s.Types = append(s.Types, 3, 3, 3, 4)
	tok, err := tokenizer.New(s)
	require.NoError(t, err)
	all := tokenizer.EncodeOptions{ParseSpecial: true}
	for text, want := range map[string][]int32{
		"<a": {6}, "<a>": {7}, "<a>b": {7, 1}, "<a>b<a": {7, 1, 6}, "<a>b<a>": {8}, "<a>b<a>b<a>": {8, 1, 7},
		"a a": {9}, "a aa a": {9, 9}, "a<aa": {0, 6, 0}, "<end": {}, "<end><end>": {5, 5},
	} {
		require.Equal(t, want, append([]int32{}, tok.Encode(text, all)...), text)
	}
	// User-defined tokens are found always, control tokens only when asked.
	require.Equal(t, []int32{0, 9}, tok.Encode("<a>a a", tokenizer.EncodeOptions{}))
}

// What is not UTF-8 becomes U+FFFD as Python and Rust do it: one for each
// maximal part of a sequence.
func TestBrokenUTF8(t *testing.T) {
	tok, err := tokenizer.FromJSON(fixture(t, "llama3.json"), nil)
	require.NoError(t, err)
	for bytes, want := range map[string]string{
		"\xf0\x9fA": "?A", "\xf0\x9f": "?", "\xe6\x97": "?", "\xe6": "?", "\xff\xfe": "??", "\xc0\x80": "??",
		"\xed\xa0\x80": "???", "\xf4\x90\x80\x80": "????", "\xe6\x97\xe6\x97\xa5": "?日", "\x80a\x80": "?a?", "\xf0\x9f\x99\x82": "🙂",
	} {
		ids := tok.Encode(bytes, tokenizer.EncodeOptions{BOS: tokenizer.Never})
		want = strings.ReplaceAll(want, "?", "\ufffd")
		require.Equal(t, want, tok.Decode(ids), "%q", bytes)
		require.Equal(t, want, stream(tok, ids), "%q", bytes)
		require.Equal(t, bytes, string(tok.DecodeBytes(ids, tokenizer.DecodeOptions{})))
	}
	// Held back until the rune is whole.
	d := tok.NewDecoder()
	var steps []string
	for _, b := range []byte("é🙂x") {
		id := tok.Encode(string([]byte{b}), tokenizer.EncodeOptions{BOS: tokenizer.Never})
		require.Len(t, id, 1)
		steps = append(steps, d.Push(id[0]))
	}
	require.Equal(t, []string{"", "é", "", "", "", "🙂", "x"}, steps)
	require.Empty(t, d.Flush())
}

func TestNeverSpecial(t *testing.T) {
	tok, err := tokenizer.New(tinySpec())
	require.NoError(t, err)
	d := tok.NewDecoder()
	d.SkipSpecial = true
	require.Equal(t, "", d.Push(5))
	require.Equal(t, "abc", d.Push(4))
	require.Equal(t, "ab", tok.DecodeWith([]int32{5, 3}, tokenizer.DecodeOptions{SkipSpecial: true}))
	require.Equal(t, "<end>ab", tok.Decode([]int32{5, 3}))
}
