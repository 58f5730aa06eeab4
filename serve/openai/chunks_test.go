package openai

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/wire"
)

// FuzzChunks: what is written by hand is what encoding/json writes of the same values.
func FuzzChunks(f *testing.F) {
	f.Add("m", "hello", "stop", 0, uint8(0))
	f.Add("a \"model\" <x>", "\n\x00\xff\u2028", "length", 3, uint8(31))
	f.Fuzz(func(t *testing.T, model, text, finish string, index int, bits uint8) {
		h := head{"cmpl-1", "text_completion", 1700000000, model}
		var end *engine.Finish
		if bits&1 != 0 {
			e := engine.Finish(finish)
			end = &e
		}
		logprobs := bits&2 != 0
		null := bits&4 != 0
		plain := textChoice{Index: index, Text: text, Finish: end}
		delta := chatDelta{Index: index, Finish: end}
		if bits&8 != 0 {
			delta.Delta.Role = "assistant"
		}
		if bits&16 != 0 {
			delta.Delta.Content = &text
		}
		if logprobs {
			plain.Logprobs = &textLogprobs{Tokens: []string{text}}
			delta.Logprobs = &chatLogprobs{Content: []chatToken{{Token: text}}}
		}
		var usage any
		if null {
			usage = json.RawMessage("null")
		}
		w := httptest.NewRecorder()
		ev := wire.NewEvents(w, 0)
		c, err := newChunks(ev, h, null)
		require.NoError(t, err)
		var want bytes.Buffer
		for _, choice := range []any{plain, delta} {
			require.NoError(t, c.add(choice))
			want.WriteString("data: ")
			require.NoError(t, wire.Encode(&want, answer{h, []any{choice}, usage}))
			want.WriteByte('\n')
		}
		require.NoError(t, ev.Flush())
		require.Equal(t, want.String(), w.Body.String())
	})
}

// nowhere is a reader at the end of the fastest line there is.
type nowhere struct{ h http.Header }

func (n nowhere) Header() http.Header         { return n.h }
func (n nowhere) Write(p []byte) (int, error) { return len(p), nil }
func (n nowhere) WriteHeader(int)             {}

// BenchmarkChunk is a token's way from its text to the connection.
func BenchmarkChunk(b *testing.B) {
	ev := wire.NewEvents(nowhere{http.Header{}}, time.Second)
	h := head{"cmpl-0123456789abcdef01234567", "text_completion", 1700000000, "model"}
	c, err := newChunks(ev, h, true)
	require.NoError(b, err)
	choice := textChoice{Text: " there"}
	b.Run("chunks", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, c.add(choice))
			require.NoError(b, ev.Flush())
		}
	})
	b.Run("reflection", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			require.NoError(b, ev.Data(answer{h, []any{choice}, json.RawMessage("null")}))
			require.NoError(b, ev.Flush())
		}
	})
}
