package prune

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/tokenizer"
)

// stories opens stories260K, a trained model with odd widths (64, 172 = 4*43,
// 8 heads of 8, 4 KV heads), and windows of the text it knows.
func stories(t testing.TB) (*model.Graph, Calib, Calib) {
	t.Helper()
	g, err := loader.Open(filepath.Dir(testenv.Data(t, "stories260K/config.json")))
	require.NoError(t, err)
	t.Cleanup(func() { g.Close() })
	tok := g.Tokenizer
	if tok == nil {
		raw, err := os.ReadFile(testenv.Data(t, "stories260K/tok512.bin"))
		require.NoError(t, err)
		tok, err = tokenizer.FromLlama2C(raw)
		require.NoError(t, err)
	}
	text, err := os.ReadFile(testenv.Data(t, "tinystories/moe-routing-bench-val.txt"))
	require.NoError(t, err)
	ids := tok.Encode(string(text[:120000]), tokenizer.EncodeOptions{BOS: tokenizer.Never})
	half := len(ids) / 2
	calib, err := CalibWindows(ids[:half], 128, 48, 0)
	require.NoError(t, err)
	eval, err := CalibWindows(ids[half:], 128, 24, 0)
	require.NoError(t, err)
	return g, calib, eval
}

// On a trained model the methods must rank as the literature says.
func TestStoriesMethodsRank(t *testing.T) {
	ppl := func(m Method, p Pattern, o Options) float64 {
		g, calib, eval := stories(t)
		switch x := m.(type) {
		case Wanda:
			x.Calib = calib
			m = x
		case SparseGPT:
			x.Calib = calib
			m = x
		case RIA:
			x.Calib = calib
			m = x
		case DSnoT:
			x.Calib = calib
			m = x
		case ALPS:
			x.Calib = calib
			m = x
		case Best:
			x.Calib = calib
			m = x
		case Resolved:
			x.Calib = calib
			m = x
		}
		if m != nil {
			rep, err := Run(context.Background(), g, m, p, o)
			require.NoError(t, err)
			_, err = Verify(g, rep.Recipe)
			require.NoError(t, err)
		}
		v, err := Perplexity(context.Background(), g, eval, 2)
		require.NoError(t, err)
		return v
	}
	dense := ppl(nil, nil, Options{})
	for _, p := range []Pattern{Pattern24, Unstructured{Sparsity: 0.7}} {
		random, magnitude := ppl(Random{Seed: 1}, p, Options{}), ppl(Magnitude{}, p, Options{})
		wanda, ria, dsnot := ppl(Wanda{}, p, Options{}), ppl(RIA{}, p, Options{}), ppl(DSnoT{}, p, Options{})
		gpt, solved := ppl(SparseGPT{}, p, Options{}), ppl(Resolved{Of: SparseGPT{}}, p, Options{})
		alps, best := ppl(ALPS{}, p, Options{}), ppl(Best{}, p, Options{})
		t.Logf("%v: dense %.3f random %.2f magnitude %.3f wanda %.3f ria %.3f dsnot %.3f sparsegpt %.3f +resolve %.3f alps %.3f best %.3f", p, dense, random, magnitude, wanda, ria, dsnot, gpt, solved, alps, best)
		require.Less(t, magnitude, random)
		require.Less(t, wanda, magnitude)
		require.Less(t, dsnot, wanda)
		require.Less(t, gpt, wanda)
		require.Less(t, solved, gpt)
		require.Less(t, alps, solved)
		require.Less(t, best, alps)
		require.Less(t, dense, best)
	}
}
