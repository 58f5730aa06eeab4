package tokenizer_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/tokenizer"
)

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, v))
}

func readText(t testing.TB, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

type corpus struct {
	File  string
	Count int
	SHA   string `json:"sha256_of_uint32_le"`
}

type smolGolden struct {
	Generations []struct {
		Prompt     string
		PromptIDs  []int32 `json:"prompt_ids"`
		GreedyIDs  []int32 `json:"greedy_ids"`
		GreedyText string  `json:"greedy_text"`
	}
	Tokenizer struct {
		Strings []struct {
			Text string
			IDs  []int32
		}
		Valid, Test corpus
	}
}

// The ids of the reference (transformers and llama.cpp agree on them).
func TestSmolLM2(t *testing.T) {
	var g smolGolden
	readJSON(t, testenv.Data(t, "smollm2/golden.json"), &g)
	tok := smol(t)
	parse := tokenizer.EncodeOptions{ParseSpecial: true}
	require.NotEmpty(t, g.Tokenizer.Strings)
	for _, s := range g.Tokenizer.Strings {
		require.Equal(t, s.IDs, tok.Encode(s.Text, parse), "%q", s.Text)
		require.Equal(t, s.Text, tok.Decode(s.IDs))
	}
	require.NotEmpty(t, g.Generations)
	for _, s := range g.Generations {
		require.Equal(t, s.PromptIDs, tok.Encode(s.Prompt, parse), "%q", s.Prompt)
		require.Equal(t, s.GreedyText, tok.Decode(s.GreedyIDs))
		d := tok.NewDecoder()
		var text strings.Builder
		for _, id := range s.GreedyIDs {
			text.WriteString(d.Push(id))
		}
		text.WriteString(d.Flush())
		require.Equal(t, s.GreedyText, text.String())
	}
	for _, c := range []corpus{g.Tokenizer.Valid, g.Tokenizer.Test} {
		text := readText(t, testenv.Data(t, c.File))
		ids := tok.Encode(text, tokenizer.EncodeOptions{})
		require.Len(t, ids, c.Count, c.File)
		h := sha256.New()
		require.NoError(t, binary.Write(h, binary.LittleEndian, ids))
		require.Equal(t, c.SHA, hex.EncodeToString(h.Sum(nil)), c.File)
		require.Equal(t, text, tok.Decode(ids))
	}
}

func TestSmolLM2Facts(t *testing.T) {
	tok := smol(t)
	require.Equal(t, 49152, tok.VocabSize())
	require.Equal(t, 1, tok.BOS())
	require.Equal(t, 2, tok.EOS())
	require.Equal(t, []int32{0, 2}, tok.EOG())
	require.True(t, tok.Special(1))
	require.False(t, tok.Special(17))
	require.False(t, tok.Special(-1))
	require.Equal(t, 2, tok.ID("<|im_end|>"))
	require.Contains(t, tok.ChatTemplate(), "add_generation_prompt")
	// Without ParseSpecial nobody can write a control token.
	for _, id := range tok.Encode("<|im_start|>user<|im_end|><|endoftext|>", tokenizer.EncodeOptions{}) {
		require.False(t, tok.Special(id))
	}
	require.Equal(t, []int32{1, 19556, 2}, tok.Encode("Hello", tokenizer.EncodeOptions{BOS: tokenizer.Always, EOS: tokenizer.Always}))
}

// One Tokenizer serves many goroutines.
func TestConcurrent(t *testing.T) {
	tok := smol(t)
	text := readText(t, testenv.Data(t, "wikitext-2/valid.txt"))[:60000]
	want := tok.Encode(text, tokenizer.EncodeOptions{})
	var wg sync.WaitGroup
	got := make([][]int32, 8)
	for i := range got {
		wg.Go(func() { got[i] = tok.Encode(text, tokenizer.EncodeOptions{}) })
	}
	wg.Wait()
	for i := range got {
		require.Equal(t, want, got[i])
	}
}

func TestStories260K(t *testing.T) {
	bin, err := os.ReadFile(testenv.Data(t, "stories260K/tok512.bin"))
	require.NoError(t, err)
	tok, err := tokenizer.FromLlama2C(bin)
	require.NoError(t, err)
	var g struct {
		Prompt string
		IDs    []int32 `json:"prompt_ids"`
		Greedy []int32 `json:"greedy_ids_200"`
		Text   string  `json:"greedy_text"`
	}
	readJSON(t, testenv.Data(t, "stories260K/reference_greedy.json"), &g)
	require.Equal(t, 512, tok.VocabSize())
	require.Equal(t, g.IDs, tok.Encode(g.Prompt, tokenizer.EncodeOptions{}))
	// The reference text is the bare pieces, byte tokens as written.
	want := strings.ReplaceAll(g.Text, "<0x0A>", "\n")
	skip := tokenizer.DecodeOptions{SkipSpecial: true}
	require.Equal(t, want, " "+tok.DecodeWith(g.Greedy, skip))
	require.Equal(t, g.Greedy, tok.Encode(want[1:], tokenizer.EncodeOptions{}))
	require.Equal(t, "日本 x\xff", string(tok.DecodeBytes(tok.Encode("日本 x\xff", tokenizer.EncodeOptions{}), skip)))

	// The token count that the perplexity protocol of data/README.md gives.
	text := readText(t, testenv.Data(t, "tinystories/moe-routing-bench-val.txt"))
	total, chunks := 0, 0
	runes := []rune(text)
	for i := 0; i < len(runes) && chunks < 60; i += 800 {
		chunk := strings.TrimSpace(string(runes[i:min(i+800, len(runes))]))
		if len([]rune(chunk)) <= 100 {
			continue
		}
		ids := tok.Encode(chunk, tokenizer.EncodeOptions{})
		total += min(len(ids), 512) - 1
		chunks++
	}
	require.Equal(t, 23043, total)
}

func BenchmarkEncodeWikiText(b *testing.B) {
	tok := smol(b)
	text := readText(b, testenv.Data(b, "wikitext-2/valid.txt"))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tok.Encode(text, tokenizer.EncodeOptions{})
	}
}

// A word of a megabyte: an algorithm that scans for each merge would take
// hours.
func TestLongWord(t *testing.T) {
	for _, name := range []string{"llama3.json", "llama2.json"} {
		tok, err := tokenizer.FromJSON(fixture(t, name), nil)
		require.NoError(t, err)
		for _, word := range []string{"a", "the", "riverslowly", "日x"} {
			text := strings.Repeat(word, 1<<20/len(word))
			ids := tok.Encode(text, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
			require.Equal(t, text, tok.Decode(ids))
		}
	}
}
