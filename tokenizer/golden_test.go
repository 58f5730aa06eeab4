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
	"github.com/sparserun/sparserun/tokenizer/chat"
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

// A word of 128 kB: an algorithm that scans all of it for each merge would take
// minutes.
func TestLongWord(t *testing.T) {
	for _, name := range []string{"llama3.json", "llama2.json"} {
		tok, err := tokenizer.FromJSON(fixture(t, name), nil)
		require.NoError(t, err)
		for _, word := range []string{"a", "the", "riverslowly", "日x"} {
			text := strings.Repeat(word, 1<<17/len(word))
			ids := tok.Encode(text, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
			require.Equal(t, text, tok.Decode(ids))
		}
	}
}

// The real vocabulary written as a tokenizer.json gives the same ids, and the
// model's own template the conversation it was trained on.
func TestSmolLM2AsJSON(t *testing.T) {
	s := smolSpec(t)
	vocab, added := map[string]int{}, []map[string]any{}
	for id, text := range s.Tokens {
		vocab[text] = id
		if s.Types[id] == 3 {
			added = append(added, map[string]any{"id": id, "content": text, "special": true})
		}
	}
	merges := make([][]string, len(s.Merges))
	for i, m := range s.Merges {
		merges[i] = strings.SplitN(m, " ", 2)
	}
	data, err := json.Marshal(map[string]any{
		"added_tokens": added,
		"model":        map[string]any{"type": "BPE", "vocab": vocab, "merges": merges},
		"decoder":      map[string]any{"type": "ByteLevel"},
		"pre_tokenizer": map[string]any{"type": "Sequence", "pretokenizers": []any{
			map[string]any{"type": "Digits", "individual_digits": true},
			map[string]any{"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
		}},
	})
	require.NoError(t, err)
	config, err := json.Marshal(map[string]any{"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": s.ChatTemplate})
	require.NoError(t, err)
	a, err := tokenizer.New(s)
	require.NoError(t, err)
	b, err := tokenizer.FromJSON(data, config)
	require.NoError(t, err)
	text := readText(t, testenv.Data(t, "wikitext-2/valid.txt"))
	require.Equal(t, a.Encode(text, tokenizer.EncodeOptions{}), b.Encode(text, tokenizer.EncodeOptions{}))
	require.Equal(t, a.EOG(), b.EOG())

	tmpl, err := chat.Parse(b.ChatTemplate())
	require.NoError(t, err)
	prompt, err := tmpl.Render([]chat.Message{{Role: "user", Content: "Hi"}}, chat.Options{AddGenerationPrompt: true})
	require.NoError(t, err)
	require.Equal(t, "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"+
		"<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", prompt)
	ids := b.Encode(prompt, tokenizer.EncodeOptions{ParseSpecial: true})
	require.Equal(t, []int32{1, 9690, 198}, ids[:3])
	require.Equal(t, prompt, b.Decode(ids))
}

func BenchmarkLoad(b *testing.B) {
	s := smolSpec(b)
	for b.Loop() {
		_, err := tokenizer.New(s)
		require.NoError(b, err)
	}
}
