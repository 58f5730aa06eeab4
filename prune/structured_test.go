package prune

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

func perplexity(t *testing.T, g *model.Graph, c Calib) float64 {
	t.Helper()
	p, err := Perplexity(context.Background(), g, c, 2)
	require.NoError(t, err)
	return p
}

func TestShrinkCutsWhatItZeroed(t *testing.T) {
	cfg := model.Config{Arch: "qwen3", Vocab: 23, Hidden: 24, Layers: 3, Heads: 6, KVHeads: 3, HeadDim: 4, FFN: 43,
		Context: 64, RMSEps: 1e-5, RopeTheta: 10000, Tied: true, QKNorm: true}
	c := randomCalib(cfg.Vocab, 6, 30)
	for _, m := range []Structured{{Heads: 0.34}, {Channels: 0.5, RoundTo: 1}, {Heads: 0.4, Channels: 0.25}, {Layers: 1}, {Layers: 2, Heads: 0.34}} {
		m.Calib = c
		for _, norepair := range []bool{true, false} {
			m.NoRepair = norepair
			g := randomGraph(t, cfg, 1)
			small, rep, err := Shrink(context.Background(), g, m, f32)
			require.NoError(t, err)
			require.NoError(t, small.Check())
			kv, ffn := 3, 43
			if m.Heads > 0 {
				kv = 2
			}
			if m.Channels == 0.5 {
				ffn = 22
			} else if m.Channels > 0 {
				ffn = 40 // a multiple of 8, rounded up from 33
			}
			require.Equal(t, kv, small.Config.KVHeads, "%v", m)
			require.Equal(t, 2*kv, small.Config.Heads)
			require.Equal(t, ffn, small.Config.FFN)
			require.Equal(t, cfg.Layers-m.Layers, small.Config.Layers)
			require.Less(t, small.Parameters(), g.Parameters())
			require.Equal(t, small.WeightBytes().Total(), rep.After.Bytes)
			require.NotEmpty(t, rep.Recipe["prune.structure"])
			if !norepair {
				continue
			}
			// The same parts set to zero in the big graph compute the same.
			dense := perplexity(t, g, c)
			want := perplexity(t, zeroLike(t, g, small, rep), c)
			require.InEpsilon(t, want, perplexity(t, small, c), 1e-5, "%v", m)
			require.Greater(t, math.Abs(want-dense), 1e-4)
		}
	}
}

// zeroLike finds, by their values, which columns of o_proj and down_proj small
// kept of g, and zeroes the others.
func zeroLike(t *testing.T, g, small *model.Graph, rep *Report) *model.Graph {
	t.Helper()
	kept := map[float32]bool{}
	for _, n := range small.Linears() {
		f, err := sparse.Read(n.Weight.Data)
		require.NoError(t, err)
		for _, v := range f {
			kept[v] = true
		}
	}
	for _, n := range g.Linears() {
		f, err := sparse.Read(n.Weight.Data)
		require.NoError(t, err)
		for i, v := range f {
			if !kept[v] {
				f[i] = 0
			}
		}
		r, c := n.Weight.Data.Dims()
		n.Weight.Data = sparse.NewDense(r, c, f)
	}
	return g
}

func TestShrinkIsTheSameAtAnyThreadCount(t *testing.T) {
	cfg := tinyConfig()
	m := Structured{Calib: randomCalib(cfg.Vocab, 4, 30), Channels: 0.4}
	var first map[string][]float32
	for _, threads := range []int{1, 3} {
		o := f32
		o.Threads = threads
		small, _, err := Shrink(context.Background(), randomGraph(t, cfg, 1), m, o)
		require.NoError(t, err)
		if first == nil {
			first = readAll(t, small)
		}
		require.Equal(t, first, readAll(t, small))
	}
}

func TestStoriesShrinkRepairs(t *testing.T) {
	for _, m := range []Structured{{Channels: 0.3, RoundTo: 4}, {Heads: 0.25}, {Layers: 1}} {
		g, calib, eval := stories(t)
		m.Calib = calib
		fitted, _, err := Shrink(context.Background(), g, m, Options{})
		require.NoError(t, err)
		m.NoRepair = true
		plain, _, err := Shrink(context.Background(), g, m, Options{})
		require.NoError(t, err)
		a, b, dense := perplexity(t, fitted, eval), perplexity(t, plain, eval), perplexity(t, g, eval)
		t.Logf("%v: dense %.3f, cut %.3f, cut and fitted %.3f", m, dense, b, a)
		require.Less(t, a, b)
	}
}

func TestShrinkRefuses(t *testing.T) {
	cfg := tinyConfig()
	c := randomCalib(cfg.Vocab, 2, 30)
	g := randomGraph(t, cfg, 1)
	for _, m := range []Structured{{}, {Heads: 1}, {Channels: -0.1}, {Layers: 2}, {Heads: math.NaN()}, {Channels: 0.5, Damping: -1}, {Heads: 0.01, Channels: 0.5}, {Channels: 0.01}} {
		m.Calib = c
		_, _, err := Shrink(context.Background(), g, m, Options{})
		require.ErrorIs(t, err, ErrMethod, "%v", m)
	}
	_, _, err := Shrink(context.Background(), g, Structured{Channels: 0.5}, Options{})
	require.ErrorIs(t, err, ErrCalib)
	_, _, err = Shrink(context.Background(), &model.Graph{}, Structured{Channels: 0.5}, Options{})
	require.ErrorIs(t, err, ErrCalib)
}
