package train_test

import (
	"context"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/tokenizer"
	"github.com/sparserun/sparserun/train"
)

// chunks cuts the tinystories text as shared/data/README.md does for its perplexity: 800
// characters, stripped, of those longer than 100, each encoded with BOS, at most 512 tokens.
func chunks(t testing.TB, tok *tokenizer.Tokenizer) [][]int32 {
	text, err := os.ReadFile(testenv.Data(t, "tinystories/moe-routing-bench-val.txt"))
	require.NoError(t, err)
	r := []rune(string(text))
	var out [][]int32
	for lo := 0; lo < len(r); lo += 800 {
		s := strings.TrimSpace(string(r[lo:min(len(r), lo+800)]))
		if len([]rune(s)) <= 100 {
			continue
		}
		ids := tok.Encode(s, tokenizer.EncodeOptions{BOS: tokenizer.Always})
		out = append(out, ids[:min(len(ids), 512)])
	}
	return out
}

// TestStoriesMasked: magnitude 2:4 in one shot ruins stories260K; masked fine-tuning on the text behind
// the 60 reference chunks brings it below perplexity 8 on those chunks, with the pattern held.
func TestStoriesMasked(t *testing.T) {
	if testing.Short() {
		t.Skip("about 40 s of two cores")
	}
	bin, err := os.ReadFile(testenv.Data(t, "stories260K/tok512.bin"))
	require.NoError(t, err)
	tok, err := tokenizer.FromLlama2C(bin)
	require.NoError(t, err)
	docs := chunks(t, tok)
	held, err := train.NewText(docs[:60], 512)
	require.NoError(t, err)
	rest, err := train.NewText(docs[60:], 512)
	require.NoError(t, err)
	require.Equal(t, 23043, held.Tokens(), "the reference counts 23043")

	g, err := loader.Open(testenv.Data(t, "stories260K"))
	require.NoError(t, err)
	defer g.Close()
	perplexity := func() float64 {
		n, err := train.New(g, linalg.NewPool(2))
		require.NoError(t, err)
		rep, err := train.Evaluate(n, held, 16)
		require.NoError(t, err)
		return rep.Perplexity()
	}
	dense := perplexity()
	require.InDelta(t, 4.4513, dense, 0.0005)

	_, err = prune.Run(context.Background(), g, prune.Magnitude{}, prune.Pattern24, prune.Options{Store: prune.Store{DType: sparse.F32}})
	require.NoError(t, err)
	pruned := perplexity()
	require.Greater(t, pruned, 100.0)

	n, err := train.New(g, linalg.NewPool(2))
	require.NoError(t, err)
	masked, err := n.KeepZeros()
	require.NoError(t, err)
	rep, err := train.Fit(context.Background(), n, rest, train.Options{Steps: 90, Batch: 8, Rate: 4e-3, Optimiser: train.AdamW(0.01),
		Schedule: train.Warmup(10, train.Cosine(0.05)), Clip: 1, Seed: 1}, func(p train.Progress) {
		if p.Step%30 == 0 {
			t.Logf("step %d/%d loss %.3f, %.1f s", p.Step, p.Steps, p.Loss, p.Elapsed.Seconds())
		}
	})
	require.NoError(t, err)
	require.NoError(t, n.Store())
	tuned := perplexity()
	t.Logf("perplexity: dense %.3f, magnitude 2:4 %.1f, after %d steps (%.1f epochs, %.0f s) %.3f; %d weights held at zero", dense, pruned, rep.Steps, rep.Epochs, rep.Seconds, tuned, masked)
	require.Less(t, tuned, 8.0)
	for _, node := range g.Linears() {
		requirePattern(t, node.Weight)
	}
}

// requirePattern checks 2:4 in a stored weight.
func requirePattern(t *testing.T, w *model.Weight) {
	t.Helper()
	ok := prune.Holds(w.Data, prune.Pattern24)
	require.NoError(t, ok, w.Name)
}
