package prune

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// scaled is the log perplexity of g with columns lo..hi of a matrix times f.
func scaled(t *testing.T, g *model.Graph, c Calib, name string, lo, hi int, f float32) float64 {
	t.Helper()
	w, err := g.Weight(name)
	require.NoError(t, err)
	was := w.Data
	x, err := sparse.Read(was)
	require.NoError(t, err)
	rows, cols := was.Dims()
	for r := range rows {
		for i := lo; i < hi; i++ {
			x[r*cols+i] *= f
		}
	}
	w.Data = sparse.NewDense(rows, cols, x)
	v := math.Log(perplexity(t, g, c))
	w.Data = was
	return v
}

// TestTaylorIsTheSlopeOfTheLoss holds the scores to central differences of the
// loss by a factor on the part. The loss is computed in float32: its differences
// over 2h are good to about 1e-7/h.
func TestTaylorIsTheSlopeOfTheLoss(t *testing.T) {
	cfg := tinyConfig()
	g := randomGraph(t, cfg, 3)
	c := randomCalib(cfg.Vocab, 1, 30)
	targets, err := Targets(g, nil, nil)
	require.NoError(t, err)
	s := &shrink{run: run{ctx: context.Background(), g: g, targets: targets, rep: &Report{}}, m: Structured{Calib: c, Score: ScoreTaylor}}
	scores, err := s.taylorScores(cfg.Layers)
	require.NoError(t, err)
	const h = 1.0 / 64
	slope := func(name string, lo, hi int) float64 {
		return (scaled(t, g, c, name, lo, hi, 1+h) - scaled(t, g, c, name, lo, hi, 1-h)) / (2 * h)
	}
	for b, p := range scores {
		heads, kv, ffn := cfg.Layer(b)
		wide := heads / kv * cfg.HeadDim
		prefix := "model.layers." + string(rune('0'+b))
		require.Len(t, p.heads, kv)
		require.Len(t, p.channels, ffn)
		for j, x := range p.heads {
			require.InDelta(t, math.Abs(slope(prefix+".self_attn.o_proj.weight", j*wide, (j+1)*wide)), x, 3e-5+1e-2*x)
		}
		var largestChannel float64
		for j, x := range p.channels {
			largestChannel = max(largestChannel, x)
			if j%5 == 0 {
				require.InDelta(t, math.Abs(slope(prefix+".mlp.down_proj.weight", j, j+1)), x, 3e-5+1e-2*x)
			}
		}
		require.Greater(t, largestChannel, 1e-4, "the test sees something")
	}
}

// Scores must beat the control, with and without repair of what is left.
func TestStoriesShrinkScores(t *testing.T) {
	for _, m := range []Structured{{Channels: 0.25, RoundTo: 4}, {Heads: 0.25}, {Layers: 1}} {
		for _, norepair := range []bool{true, false} {
			got := map[PartScore]float64{}
			for _, score := range []PartScore{ScoreRandom, ScoreActivation, ScoreTaylor} {
				seeds := 1
				if score == ScoreRandom {
					seeds = 3
				}
				for seed := range seeds {
					g, calib, eval := stories(t)
					m.Calib, m.Score, m.NoRepair, m.Seed = calib, score, norepair, uint64(seed)
					small, rep, err := Shrink(context.Background(), g, m, Options{})
					require.NoError(t, err)
					require.Equal(t, string(score), rep.Recipe["prune.score"])
					got[score] += math.Log(perplexity(t, small, eval)) / float64(seeds)
				}
			}
			t.Logf("%v, no repair %v: perplexity random %.3f activation %.3f taylor %.3f", m, norepair,
				math.Exp(got[ScoreRandom]), math.Exp(got[ScoreActivation]), math.Exp(got[ScoreTaylor]))
			require.Less(t, got[ScoreTaylor], got[ScoreRandom])
			require.Less(t, got[ScoreActivation], got[ScoreRandom])
		}
	}
}

func TestShrinkScoresAreTheSameAtAnyThreadCount(t *testing.T) {
	cfg := tinyConfig()
	for _, score := range []PartScore{ScoreTaylor, ScoreRandom} {
		var first map[string][]float32
		for _, threads := range []int{1, 3} {
			o := f32
			o.Threads = threads
			m := Structured{Calib: randomCalib(cfg.Vocab, 4, 30), Channels: 0.4, Score: score}
			small, _, err := Shrink(context.Background(), randomGraph(t, cfg, 1), m, o)
			require.NoError(t, err)
			if first == nil {
				first = readAll(t, small)
			}
			require.Equal(t, first, readAll(t, small), "%s", score)
		}
	}
}

func TestShrinkHeedsMemory(t *testing.T) {
	cfg := tinyConfig()
	for _, score := range []PartScore{ScoreActivation, ScoreTaylor} {
		m := Structured{Calib: randomCalib(cfg.Vocab, 4, 30), Channels: 0.4, Score: score}
		_, rep, err := Shrink(context.Background(), randomGraph(t, cfg, 1), m, f32)
		require.NoError(t, err)
		require.Positive(t, rep.PeakBytes)
		o := f32
		o.MaxMemory = rep.PeakBytes - 1
		_, _, err = Shrink(context.Background(), randomGraph(t, cfg, 1), m, o)
		require.ErrorIs(t, err, ErrMemory)
	}
	_, _, err := Shrink(context.Background(), randomGraph(t, cfg, 1), Structured{Calib: randomCalib(cfg.Vocab, 4, 30), Channels: 0.4, Score: "taste"}, f32)
	require.ErrorIs(t, err, ErrMethod)
}
