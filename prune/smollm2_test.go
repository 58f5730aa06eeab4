package prune

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/tokenizer"
)

// smol opens the real language model.
func smol(t testing.TB) *model.Graph {
	t.Helper()
	g, err := loader.Open(testenv.Model(t))
	require.NoError(t, err)
	t.Cleanup(func() { g.Close() })
	return g
}

// wikitext cuts windows of 512 tokens out of a text of the reference data.
func wikitext(t testing.TB, g *model.Graph, file string, windows int) Calib {
	t.Helper()
	text, err := os.ReadFile(testenv.Data(t, "wikitext-2/"+file))
	require.NoError(t, err)
	ids := g.Tokenizer.Encode(string(text), tokenizer.EncodeOptions{BOS: tokenizer.Never})
	c, err := CalibWindows(ids, 512, windows, 0)
	require.NoError(t, err)
	return c
}

func TestSmolLM2Perplexity(t *testing.T) {
	g := smol(t)
	start := time.Now()
	ppl, err := Perplexity(context.Background(), g, wikitext(t, g, "test.txt", 4), 2)
	require.NoError(t, err)
	t.Logf("4 windows: %.4f in %v", ppl, time.Since(start))
	require.InDelta(t, 25.494, ppl, 0.005) // ../shared/data/smollm2/README.md, transformers in float32
}
