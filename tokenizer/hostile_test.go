package tokenizer_test

import (
	"encoding/binary"
	"fmt"
	"math"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/tokenizer"
)

// tinySpec is a byte-level vocabulary of three letters.
func tinySpec() tokenizer.Spec {
	return tokenizer.Spec{
		Model: "gpt2", Pre: "gpt-2", Tokens: []string{"a", "b", "c", "ab", "abc", "<end>"},
		Types: []int32{1, 1, 1, 1, 1, 3}, Merges: []string{"a b", "ab c"},
		BOS: -1, EOS: 5, UNK: -1, PAD: -1,
	}
}

func tinyScores() tokenizer.Spec {
	return tokenizer.Spec{
		Model: "llama", Tokens: []string{"<unk>", "<s>", "a", "b", "ab", "<0x41>"}, Scores: []float32{0, 0, -2, -3, -1, 0},
		Types: []int32{2, 3, 1, 1, 1, 6}, BOS: 1, EOS: -1, UNK: 0, PAD: -1,
	}
}

func TestTiny(t *testing.T) {
	tok, err := tokenizer.New(tinySpec())
	require.NoError(t, err)
	require.Equal(t, []int32{4, 3, 0, 4}, tok.Encode("abcabaabc", tokenizer.EncodeOptions{}))
	require.Equal(t, []int32{5, 0}, tok.Encode("<end>a", tokenizer.EncodeOptions{ParseSpecial: true}))
	require.Equal(t, "abca", tok.Decode([]int32{4, 0, 99, -7}))
	require.Nil(t, tok.Token(99))

	tok, err = tokenizer.New(tinyScores())
	require.NoError(t, err)
	require.Equal(t, []int32{4, 0, 5}, tok.Encode("abzA", tokenizer.EncodeOptions{}))
}

// Case 49 of the list of hostile inputs: ids out of range, merges that name no
// token or run in a circle, tokens met twice.
func TestSpecErrors(t *testing.T) {
	cases := []struct {
		name string
		base func() tokenizer.Spec
		edit func(*tokenizer.Spec)
		want error
	}{
		{"no tokens", tinySpec, func(s *tokenizer.Spec) { s.Tokens, s.Types = nil, nil }, tokenizer.ErrFormat},
		{"eos out of range", tinySpec, func(s *tokenizer.Spec) { s.EOS = 6 }, tokenizer.ErrFormat},
		{"bos negative", tinySpec, func(s *tokenizer.Spec) { s.BOS = -2 }, tokenizer.ErrFormat},
		{"bos huge", tinySpec, func(s *tokenizer.Spec) { s.BOS = 1 << 40 }, tokenizer.ErrFormat},
		{"extra end out of range", tinySpec, func(s *tokenizer.Spec) { s.ExtraEOS = []int{2, 77} }, tokenizer.ErrFormat},
		{"merge of unknown token", tinySpec, func(s *tokenizer.Spec) { s.Merges[0] = "a x" }, tokenizer.ErrFormat},
		{"merge into unknown token", tinySpec, func(s *tokenizer.Spec) { s.Merges[0] = "b a" }, tokenizer.ErrFormat},
		{"merge without a right side", tinySpec, func(s *tokenizer.Spec) { s.Merges[0] = "ab" }, tokenizer.ErrFormat},
		{"merge circle", tinySpec, func(s *tokenizer.Spec) { s.Merges = []string{"a ", "ab c"} }, tokenizer.ErrFormat},
		{"merge circle left", tinySpec, func(s *tokenizer.Spec) { s.Merges = []string{" a"} }, tokenizer.ErrFormat},
		{"empty merge", tinySpec, func(s *tokenizer.Spec) { s.Merges[1] = "" }, tokenizer.ErrFormat},
		{"merge twice", tinySpec, func(s *tokenizer.Spec) { s.Merges[1] = "a b" }, tokenizer.ErrFormat},
		{"token twice", tinySpec, func(s *tokenizer.Spec) { s.Tokens[2] = "a" }, tokenizer.ErrFormat},
		{"long token", tinySpec, func(s *tokenizer.Spec) { s.Tokens[2] = strings.Repeat("x", 1<<17) }, tokenizer.ErrFormat},
		{"types missing", tinySpec, func(s *tokenizer.Spec) { s.Types = s.Types[1:] }, tokenizer.ErrFormat},
		{"type unknown", tinySpec, func(s *tokenizer.Spec) { s.Types[0] = 7 }, tokenizer.ErrFormat},
		{"type negative", tinySpec, func(s *tokenizer.Spec) { s.Types[0] = math.MinInt32 }, tokenizer.ErrFormat},
		{"pre unknown", tinySpec, func(s *tokenizer.Spec) { s.Pre = "nonesuch" }, tokenizer.ErrUnsupported},
		{"model unknown", tinySpec, func(s *tokenizer.Spec) { s.Model = "bert" }, tokenizer.ErrUnsupported},
		{"scores missing", tinyScores, func(s *tokenizer.Spec) { s.Scores = nil }, tokenizer.ErrFormat},
		{"scores short", tinyScores, func(s *tokenizer.Spec) { s.Scores = s.Scores[1:] }, tokenizer.ErrFormat},
		{"score NaN", tinyScores, func(s *tokenizer.Spec) { s.Scores[2] = float32(math.NaN()) }, tokenizer.ErrFormat},
		{"byte token misspelt", tinyScores, func(s *tokenizer.Spec) { s.Tokens[5] = "<0xGG>" }, tokenizer.ErrFormat},
	}
	for _, c := range cases {
		s := c.base()
		c.edit(&s)
		tok, err := tokenizer.New(s)
		require.ErrorIs(t, err, c.want, c.name)
		require.Nil(t, tok, c.name)
		require.NotContains(t, err.Error(), "\n", c.name)
	}
}

const tinyJSON = `{"version":"1.0","added_tokens":[{"id":5,"content":"<end>","special":true}],"normalizer":null,
"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false},"post_processor":null,"decoder":{"type":"ByteLevel"},
"model":{"type":"BPE","vocab":{"a":0,"b":1,"c":2,"ab":3,"abc":4},"merges":["a b",["ab","c"]]}}`

const bomb = `{"type":"Replace","pattern":{"String":"a"},"content":"aa"}`

func TestJSONErrors(t *testing.T) {
	tok, err := tokenizer.FromJSON([]byte(tinyJSON), nil)
	require.NoError(t, err)
	require.Equal(t, []int32{4, 5, 3}, tok.Encode("abc<end>ab", tokenizer.EncodeOptions{ParseSpecial: true}))

	format, unsupported := tokenizer.ErrFormat, tokenizer.ErrUnsupported
	cases := []struct {
		name, old, with string
		want            error
	}{
		{"truncated", `"merges":["a b",["ab","c"]]}}`, `"merges":["a b"`, format},
		{"trailing garbage", `"c"]]}}`, `"c"]]}} x`, format},
		{"second document", `"c"]]}}`, `"c"]]}}{}`, format},
		{"trailing comma", `["ab","c"]]`, `["ab","c"],]`, format},
		{"key twice", `"version":"1.0"`, `"model":{},"model":{}`, format},
		{"model key twice", `"merges":[`, `"vocab":{},"merges":[`, format},
		{"section key twice", `"add_prefix_space":false`, `"type":"Digits"`, format},
		{"token twice", `"c":2`, `"a":2`, format},
		{"id twice", `"c":2`, `"c":1`, format},
		{"id negative", `"c":2`, `"c":-2`, format},
		{"id huge", `"c":2`, `"c":1048576`, format},
		{"id beyond int", `"c":2`, `"c":99999999999999999999`, format},
		{"id fraction", `"c":2`, `"c":2.5`, format},
		{"id string", `"c":2`, `"c":"2"`, format},
		{"no vocab", `"vocab"`, `"voc"`, format},
		{"merge of unknown token", `"a b"`, `"a x"`, format},
		{"merge circle", `"a b"`, `["a",""]`, format},
		{"merge of three", `"a b"`, `["a","b","c"]`, format},
		{"merge of one", `"a b"`, `["a"]`, format},
		{"merge no list", `["a b",["ab","c"]]`, `{"a":"b"}`, format},
		{"merge number", `"a b"`, `17`, format},
		{"added id of another", `"id":5`, `"id":4`, format},
		{"added moved", `"content":"<end>"`, `"content":"ab"`, format},
		{"added id huge", `"id":5`, `"id":1e9`, format},
		{"added without content", `"content"`, `"kontent"`, format},
		{"added no object", `"added_tokens":[`, `"added_tokens":[1,`, format},
		{"added twice", `"added_tokens":[`, `"added_tokens":[{"id":5,"content":"<end>"},`, format},
		{"section no object", `"normalizer":null`, `"normalizer":[]`, format},
		{"sequence of numbers", `"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[1]}`, format},
		{"replacement bomb", `"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[` + strings.Repeat(bomb+",", 20) + bomb + `]}`, format},
		{"prefix bomb", `"normalizer":null`, `"normalizer":{"type":"Prepend","prepend":"` + strings.Repeat("x", 100) + `"}`, format},
		{"mark bomb", `"type":"ByteLevel","add_prefix_space"`, `"type":"Metaspace","replacement":"` + strings.Repeat(" ", 100) + `","x"`, format},
		{"decoder bomb", `"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"Sequence","decoders":[` + strings.Repeat(bomb+",", 20) + bomb + `]}`, format},
		{"long added token", `"content":"<end>"`, `"content":"` + strings.Repeat("x", 513) + `"`, format},
		{"unknown unk", `"type":"BPE"`, `"type":"BPE","unk_token":"x"`, format},
		{"control character", `"a b"`, "\"a\nb\"", format},
		{"bad UTF-8", `"a b"`, "\"a\xff\"", format},
		{"lone surrogate", `"a b"`, `"\ud800 b"`, format},
		{"bad escape", `"a b"`, `"\x b"`, format},
		{"bad number", `"c":2`, `"c":02`, format},
		{"bad literal", `"normalizer":null`, `"normalizer":nul`, format},
		{"template id out of range", `"post_processor":null`, `"post_processor":{"type":"TemplateProcessing",
			"single":[{"SpecialToken":{"id":"x"}},{"Sequence":{"id":"A"}}],"special_tokens":{"x":{"ids":[6]}}}`, format},
		{"template of nothing", `"post_processor":null`, `"post_processor":{"type":"TemplateProcessing"}`, format},
		{"model", `"BPE"`, `"Unigram"`, unsupported},
		{"dropout", `"type":"BPE"`, `"type":"BPE","dropout":0.1`, unsupported},
		{"suffix", `"type":"BPE"`, `"type":"BPE","end_of_word_suffix":"</w>"`, unsupported},
		{"normalizer", `"normalizer":null`, `"normalizer":{"type":"Precompiled"}`, unsupported},
		{"normalizer regex", `"normalizer":null`, `"normalizer":{"type":"Replace","pattern":{"Regex":"a+"},"content":""}`, unsupported},
		{"pre-tokenizer", `"type":"ByteLevel","add_prefix_space"`, `"type":"BertPreTokenizer","x"`, unsupported},
		{"decoder", `"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"CTC"}`, unsupported},
		{"post-processor", `"post_processor":null`, `"post_processor":{"type":"Nonesuch"}`, unsupported},
	}
	for _, c := range cases {
		require.Contains(t, tinyJSON, c.old, c.name)
		tok, err := tokenizer.FromJSON([]byte(strings.Replace(tinyJSON, c.old, c.with, 1)), nil)
		require.ErrorIs(t, err, c.want, c.name)
		require.Nil(t, tok, c.name)
	}

	_, err = tokenizer.FromJSON([]byte(strings.Replace(tinyJSON, `"type":"ByteLevel","add_prefix_space":false`,
		`"type":"Split","behavior":"Isolated","pattern":{"Regex":"[a-q]+"}`, 1)), nil)
	require.ErrorContains(t, err, "[a-q]+") // an unknown expression is named
	require.ErrorIs(t, err, unsupported)

	for _, cfg := range []string{"{", `{"bos_token":"a","bos_token":"b"}`, `[]`, `{}{}`, "\xff"} {
		_, err := tokenizer.FromJSON([]byte(tinyJSON), []byte(cfg))
		require.ErrorIs(t, err, format, cfg)
	}
}

func TestLlama2CErrors(t *testing.T) {
	entry := func(b []byte, score float32, n int, text string) []byte {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(score))
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
		return append(b, text...)
	}
	good := binary.LittleEndian.AppendUint32(nil, 9)
	for i, s := range []string{"<unk>", "\n<s>\n", "\n</s>\n"} {
		good = entry(good, float32(i), len(s), s)
	}
	for b := range 256 {
		good = entry(good, 0, 6, fmt.Sprintf("<0x%02X>", b))
	}
	good = entry(good, -1, 1, " ")
	tok, err := tokenizer.FromLlama2C(good)
	require.NoError(t, err)
	require.Equal(t, []int32{1, 259, 3 + 'x'}, tok.Encode("x", tokenizer.EncodeOptions{}))

	with := func(at int, v uint32) []byte {
		b := append([]byte{}, good...)
		binary.LittleEndian.PutUint32(b[at:], v)
		return b
	}
	for name, b := range map[string][]byte{
		"empty": nil, "short header": good[:3], "no tokens": good[:4], "few tokens": good[:17],
		"cut in a token": good[:len(good)-1], "cut in a length": good[:len(good)-3], "longest 0": with(0, 0),
		"longest negative": with(0, 1<<31), "longest huge": with(0, 1<<30), "length 0": with(8, 0),
		"length negative": with(8, 1<<31|5), "length beyond longest": with(8, 10), "length beyond file": with(8, 1<<20),
		"NaN score": with(4, 0x7fc00000), "token twice": entry(append([]byte{}, good...), 0, 1, " "),
	} {
		_, err := tokenizer.FromLlama2C(b)
		require.ErrorIs(t, err, tokenizer.ErrFormat, name)
	}
}

// allocated is all that f allocates, garbage included: an upper bound of its
// peak.
func allocated(f func()) uint64 {
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	f()
	goruntime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Whatever a file asks for, building it stays within twice its size and 64 MB.
func TestMemoryBound(t *testing.T) {
	const size = 6 << 20
	entries := func(n int, f func(i int) string) string {
		var b strings.Builder
		for i := range n {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(f(i))
		}
		return b.String()
	}
	vocab := func(n int) string { return entries(n, func(i int) string { return fmt.Sprintf(`"%x":%d`, i, i) }) }
	cases := map[string]string{
		"nesting bomb":        strings.Repeat("[", size),
		"nesting bomb inside": `{"model":{"merges":` + strings.Repeat("[", size),
		"nested objects":      strings.Repeat(`{"a":`, size/5),
		"wide section":        `{"normalizer":[` + strings.Repeat("1,", size/2),
		"wide skipped":        `{"x":[` + strings.Repeat("1,", size/2),
		"many keys":           "{" + entries(size/16, func(i int) string { return fmt.Sprintf(`"%d":0`, i) }),
		"huge string":         `{"` + strings.Repeat("x", size),
		"huge escaped string": `{"normalizer":{"type":"` + strings.Repeat("\\n", size/2),
		"one far id":          `{"model":{"type":"BPE","vocab":{"a":1048575},"merges":[]}}`,
		"too many tokens":     `{"model":{"type":"BPE","vocab":{` + vocab(1<<20+1) + `},"merges":[]}}`,
		"most tokens":         `{"model":{"type":"BPE","vocab":{` + vocab(1<<20) + `},"merges":[]}}`,
		"same merge":          `{"model":{"type":"BPE","vocab":{"a":0,"aa":1},"merges":[` + entries(1<<20, func(int) string { return `"a a"` }) + `]}}`,
		"too many merges":     `{"model":{"type":"BPE","vocab":{"a":0,"aa":1},"merges":[` + entries(1<<20+1, func(int) string { return `"a a"` }) + `]}}`,
	}
	for name, text := range cases {
		data := []byte(text)
		var err error
		got := allocated(func() { _, err = tokenizer.FromJSON(data, nil) })
		require.LessOrEqual(t, got, uint64(2*len(data)+64<<20), name)
		if name != "one far id" && name != "most tokens" {
			require.ErrorIs(t, err, tokenizer.ErrFormat, name)
		} else {
			require.NoError(t, err, name)
		}
	}
}
