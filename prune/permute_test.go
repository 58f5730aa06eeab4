package prune

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

func TestAssignIsOptimal(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	var best func(gain []float64, n, row int, used uint) float64
	best = func(gain []float64, n, row int, used uint) float64 {
		if row == n {
			return 0
		}
		top := -1e9
		for c := range n {
			if used>>c&1 == 0 {
				top = max(top, gain[row*n+c]+best(gain, n, row+1, used|1<<c))
			}
		}
		return top
	}
	for n := 1; n <= 7; n++ {
		for range 20 {
			gain := make([]float64, n*n)
			for i := range gain {
				gain[i] = float64(rng.IntN(20))
			}
			var got float64
			at := assign(gain, n)
			for r, c := range at {
				got += gain[r*n+c]
			}
			slices.Sort(at)
			require.Equal(t, identity(n), at)
			require.InDelta(t, best(gain, n, 0, 0), got, 1e-9)
		}
	}
}

func TestDealColumnsKeepsMore(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for _, p := range []NM{{2, 4}, {1, 4}, {3, 4}, {4, 8}} {
		for _, d := range []int{16, 43, 64} {
			const rows = 30
			s := make([]float32, rows*d)
			scale := make([]float32, d)
			for c := range d { // neighbours are large together
				scale[c] = float32(rng.ExpFloat64())
				if c%8 < 4 {
					scale[c] *= 8
				}
			}
			for i := range s {
				s[i] = float32(rng.ExpFloat64()) * scale[i%d]
			}
			order := dealColumns(linalg.NewPool(2), s, d, p)
			cols := make([]float32, len(s))
			for r := range rows {
				for c := range d {
					cols[c*rows+r] = s[r*d+c]
				}
			}
			require.Greater(t, kept(cols, rows, order, p), 1.005*kept(cols, rows, identity(d), p), "%v %d", p, d)
			sorted := slices.Clone(order)
			slices.Sort(sorted)
			require.Equal(t, identity(d), sorted)
			for c := d / p.Of * p.Of; c < d; c++ {
				require.Equal(t, c, order[c])
			}
		}
	}
}

func TestPermutedModelComputesTheSame(t *testing.T) {
	cfg := model.Config{Arch: "llama", Vocab: 23, Hidden: 24, Layers: 2, Heads: 6, KVHeads: 3, HeadDim: 8, FFN: 44,
		Context: 64, RMSEps: 1e-5, RopeTheta: 10000, Tied: true}
	c := randomCalib(cfg.Vocab, 5, 30)
	g := randomGraph(t, cfg, 1)
	dense, before := perplexity(t, g, c), readAll(t, g)
	o := f32
	o.Permute = true
	// Keeping everything leaves only the permutation.
	rep, err := Run(context.Background(), g, Wanda{Calib: c}, NM{4, 4}, o)
	require.NoError(t, err)
	require.Equal(t, before, readAll(t, g)) // and that is none where all is kept

	targets, err := Targets(g, nil, nil)
	require.NoError(t, err)
	r := &run{ctx: context.Background(), g: g, targets: targets, rep: rep, patterns: make([]Pattern, len(targets))}
	require.NoError(t, r.permute(c, Pattern24))
	after := readAll(t, g)
	for name, f := range before {
		touched := true
		for _, s := range []string{"q_proj", "k_proj"} {
			touched = touched && !slices.Contains([]string{"model.layers.0.self_attn." + s + ".weight", "model.layers.1.self_attn." + s + ".weight"}, name)
		}
		require.Equal(t, touched, !slices.Equal(f, after[name]), name)
	}
	require.InEpsilon(t, dense, perplexity(t, g, c), 1e-5) // sums in another order

	o.Allocate = nil
	_, err = Run(context.Background(), randomGraph(t, cfg, 1), Wanda{Calib: c}, Unstructured{Sparsity: 0.5}, o)
	require.ErrorIs(t, err, ErrMethod)
	_, err = Run(context.Background(), randomGraph(t, cfg, 1), Magnitude{}, Pattern24, o)
	require.ErrorIs(t, err, ErrMethod)
}

func TestStoriesPermutationHelps(t *testing.T) {
	ppl := func(permute bool) float64 {
		g, calib, eval := stories(t)
		rep, err := Run(context.Background(), g, SparseGPT{Calib: calib}, Pattern24, Options{Permute: permute})
		require.NoError(t, err)
		_, err = Verify(g, rep.Recipe)
		require.NoError(t, err)
		return perplexity(t, g, eval)
	}
	plain, permuted := ppl(false), ppl(true)
	t.Logf("sparsegpt 2:4: %.3f, permuted %.3f", plain, permuted)
	require.Less(t, permuted, plain)
}
