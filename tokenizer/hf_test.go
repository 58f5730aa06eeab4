package tokenizer_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/tokenizer"
)

type hfGolden struct {
	Texts      []string
	Tokenizers map[string]struct {
		IDs     [][]int32
		Decoded []*string // null: the text itself
	}
}

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return b
}

// The ids and texts of Hugging Face's tokenizers library.
func TestFromJSON(t *testing.T) {
	var g hfGolden
	require.NoError(t, json.Unmarshal(fixture(t, "golden.json"), &g))
	require.NotEmpty(t, g.Texts)
	require.Len(t, g.Tokenizers, 8)
	for name, want := range g.Tokenizers {
		t.Run(name, func(t *testing.T) {
			tok, err := tokenizer.FromJSON(fixture(t, name+".json"), nil)
			require.NoError(t, err)
			for i, text := range g.Texts {
				ids := tok.Encode(text, tokenizer.EncodeOptions{ParseSpecial: true})
				require.Equal(t, want.IDs[i], append([]int32{}, ids...), "%q", text)
				decoded := text
				if d := want.Decoded[i]; d != nil {
					decoded = *d
				}
				require.Equal(t, decoded, tok.Decode(ids), "%q", text)
				streamed := stream(tok, ids)
				require.True(t, utf8.ValidString(streamed))
				require.Equal(t, tok.DecodeWith(ids, tokenizer.DecodeOptions{Continue: true}), streamed)
			}
		})
	}
}

func stream(tok *tokenizer.Tokenizer, ids []int32) string {
	d := tok.NewDecoder()
	var text strings.Builder
	for _, id := range ids {
		text.WriteString(d.Push(id))
	}
	text.WriteString(d.Flush())
	return text.String()
}

// The ids of Google's sentencepiece library for a vocabulary with scores.
func TestSentencePiece(t *testing.T) {
	var g struct {
		Tokens  []string
		Scores  []float32
		Types   []int32
		Texts   []string
		IDs     [][]int32
		Decoded []string
	}
	require.NoError(t, json.Unmarshal(fixture(t, "sentencepiece.json"), &g))
	tok, err := tokenizer.New(tokenizer.Spec{
		Model: "llama", Tokens: g.Tokens, Scores: g.Scores, Types: g.Types,
		BOS: 1, EOS: 2, UNK: 0, PAD: -1, AddBOS: true, AddSpacePrefix: true,
	})
	require.NoError(t, err)
	require.NotEmpty(t, g.Texts)
	for i, text := range g.Texts {
		ids := tok.Encode(text, tokenizer.EncodeOptions{BOS: tokenizer.Never})
		require.Equal(t, g.IDs[i], append([]int32{}, ids...), "%q", text)
		require.Equal(t, g.Decoded[i], tok.Decode(ids), "%q", text)
	}
	require.Equal(t, []int32{1}, tok.Encode("", tokenizer.EncodeOptions{}))
}

func TestConfig(t *testing.T) {
	data := fixture(t, "llama2.json")
	plain, err := tokenizer.FromJSON(data, nil)
	require.NoError(t, err)
	require.Equal(t, 1, plain.BOS())
	require.Equal(t, 2, plain.EOS())
	require.True(t, plain.AddsBOS())
	body := plain.Encode("the river", tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
	require.Equal(t, append(append([]int32{1}, body...), 2), plain.Encode("the river", tokenizer.EncodeOptions{}))

	tok, err := tokenizer.FromJSON(data, []byte(`{"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null,
		"add_bos_token": false, "add_eos_token": true, "added_tokens_decoder": {"0": [{}]},
		"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]}`))
	require.NoError(t, err)
	require.Equal(t, append(append([]int32{}, body...), 2), tok.Encode("the river", tokenizer.EncodeOptions{}))
	require.Equal(t, append(append([]int32{1}, body...), 2), tok.Encode("the river", tokenizer.EncodeOptions{BOS: tokenizer.Always}))
	require.Equal(t, "y", tok.ChatTemplate())
	require.Equal(t, -1, tok.PAD())
	require.True(t, tok.IsEOG(2))

	_, err = tokenizer.FromJSON(data, []byte(`{"eos_token": "<nowhere>"}`))
	require.ErrorIs(t, err, tokenizer.ErrFormat)
}
