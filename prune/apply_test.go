package prune

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

var f32 = Options{Store: Store{DType: sparse.F32}}

func TestRunIsTheSameAtAnyThreadCount(t *testing.T) {
	for _, p := range []Pattern{Pattern24, Unstructured{Sparsity: 0.5}, Unstructured{0.37, ScopeGlobal}, Unstructured{0.6, ScopeRow}, Block{4, 4, 0.5}} {
		for _, m := range []Method{Magnitude{}, Random{Seed: 7}} {
			if m.check(p) != nil {
				continue
			}
			var first map[string]string
			for _, threads := range []int{1, 2, 5} {
				g := randomGraph(t, tinyConfig(), 1)
				o := f32
				o.Threads = threads
				rep, err := Run(context.Background(), g, m, p, o)
				require.NoError(t, err)
				if first == nil {
					first = rep.Recipe
				}
				require.Equal(t, first, rep.Recipe)
				checks, err := Verify(g, rep.Recipe)
				require.NoError(t, err, "%s %v", m.Name(), p)
				require.Len(t, checks, 14)
			}
		}
	}
}

func TestMagnitudeKeepsTheLargest(t *testing.T) {
	g, before := randomGraph(t, tinyConfig(), 2), map[string][]float32(nil)
	before = readAll(t, g)
	rep, err := Run(context.Background(), g, Magnitude{}, Unstructured{Sparsity: 0.5}, f32)
	require.NoError(t, err)
	for name, after := range readAll(t, g) {
		var maxPruned, minKept float32 = 0, math.MaxFloat32
		zeros := 0
		for i, x := range after {
			a := float32(math.Abs(float64(before[name][i])))
			if x == 0 {
				zeros++
				maxPruned = max(maxPruned, a)
			} else {
				require.Equal(t, before[name][i], x)
				minKept = min(minKept, a)
			}
		}
		require.Equal(t, len(after)/2, zeros)
		require.LessOrEqual(t, maxPruned, minKept)
	}
	require.InDelta(t, 0.5, rep.Sparsity, 1e-3)
	// The error of the report is the Frobenius one.
	w, got := before[rep.Layers[0].Name], readAll(t, g)[rep.Layers[0].Name]
	var diff, all float64
	for i := range w {
		diff += math.Pow(float64(w[i]-got[i]), 2)
		all += math.Pow(float64(w[i]), 2)
	}
	require.InDelta(t, math.Sqrt(diff/all), rep.Layers[0].Error, 1e-6)
}

func TestGlobalScopeIsOneBudget(t *testing.T) {
	g := randomGraph(t, tinyConfig(), 3)
	// All weights of one matrix are equal and smaller than the rest: ties go first by position.
	first := g.Linears()[0].Weight
	r, c := first.Data.Dims()
	f := make([]float32, r*c)
	for i := range f {
		f[i] = 1e-6
	}
	first.Data = sparse.NewDense(r, c, f)
	n := 0
	for _, l := range g.Linears() {
		r, c := l.Weight.Data.Dims()
		n += r * c
	}
	k := len(f) / 3
	rep, err := Run(context.Background(), g, Magnitude{}, Unstructured{float64(k) / float64(n), ScopeGlobal}, f32)
	require.NoError(t, err)
	after := readAll(t, g)[first.Name]
	for i, x := range after {
		require.Equal(t, i >= k, x != 0, "weight %d", i)
	}
	for _, l := range rep.Layers[1:] {
		require.Zero(t, l.Sparsity)
	}
}

func TestRandomDependsOnSeedAndName(t *testing.T) {
	w := make([]float32, 1000)
	a, b, c := make([]uint32, 1000), make([]uint32, 1000), make([]uint32, 1000)
	Random{1}.score(a, w, "x")
	Random{2}.score(b, w, "x")
	Random{1}.score(c, w, "y")
	require.NotEqual(t, a, b)
	require.NotEqual(t, a, c)
	// Pinned by a separate Python form: the masks of old files must come out again.
	require.Equal(t, []uint32{0xe26b9875, 0x360146a3, 0x9949af59}, a[:3])
}

func TestKeepZeros(t *testing.T) {
	g := randomGraph(t, tinyConfig(), 4)
	_, err := Run(context.Background(), g, Magnitude{}, Unstructured{Sparsity: 0.3}, f32)
	require.NoError(t, err)
	zero := readAll(t, g)
	o := f32
	o.KeepZeros = true
	rep, err := Run(context.Background(), g, Random{Seed: 3}, Unstructured{Sparsity: 0.5}, o)
	require.NoError(t, err)
	for name, f := range readAll(t, g) {
		n := 0
		for i, x := range f {
			if zero[name][i] == 0 {
				require.Zero(t, x)
			}
			if x == 0 {
				n++
			}
		}
		require.Equal(t, len(f)/2, n, name)
	}
	require.Equal(t, "true", rep.Recipe["prune.keep_zeros"])
}

func TestStoreForms(t *testing.T) {
	for _, c := range []struct {
		p    Pattern
		s    Store
		want sparse.Layout
		typ  sparse.DType
	}{
		{Pattern24, Store{}, sparse.LayoutNM24, sparse.F16},
		{NM{1, 4}, Store{}, sparse.LayoutBitmask, sparse.F16}, // 2:4 would store a zero for every weight
		{NM{4, 8}, Store{}, sparse.LayoutBitmask, sparse.F16},
		{Unstructured{Sparsity: 0.5}, Store{}, sparse.LayoutBitmask, sparse.F16},
		{Unstructured{Sparsity: 0.02}, Store{}, sparse.LayoutDense, sparse.F16},
		{Pattern24, Store{Layout: sparse.LayoutDense, DType: sparse.BF16}, sparse.LayoutDense, sparse.BF16},
		{Pattern24, Store{DType: sparse.Int4, Group: 32}, sparse.LayoutNM24, sparse.Int4},
	} {
		g := randomGraph(t, tinyConfig(), 5)
		rep, err := Run(context.Background(), g, Magnitude{}, c.p, Options{Store: c.s})
		require.NoError(t, err)
		for i, n := range g.Linears() {
			require.Equal(t, c.want, n.Weight.Data.Layout())
			require.Equal(t, c.typ, n.Weight.Data.DType())
			require.Equal(t, n.Weight.Data.Bytes().Total(), rep.Layers[i].Bytes)
		}
		_, err = Verify(g, rep.Recipe)
		require.NoError(t, err)
	}
}

func TestVerifyFindsABrokenMask(t *testing.T) {
	g := randomGraph(t, tinyConfig(), 6)
	rep, err := Run(context.Background(), g, Magnitude{}, Pattern24, f32)
	require.NoError(t, err)
	w := g.Linears()[3].Weight
	r, c := w.Data.Dims()
	f, err := sparse.Read(w.Data)
	require.NoError(t, err)
	good := w.Data

	for i, x := range f { // one weight comes back
		if x == 0 {
			f[i] = 1
			break
		}
	}
	w.Data = sparse.NewDense(r, c, f)
	checks, err := Verify(g, rep.Recipe)
	require.ErrorIs(t, err, ErrVerify)
	require.ErrorContains(t, err, w.Name)
	bad := 0
	for _, c := range checks {
		if !c.OK {
			bad++
		}
	}
	require.Equal(t, 1, bad)

	clear(f) // the pattern holds, the mask is another
	w.Data = sparse.NewDense(r, c, f)
	_, err = Verify(g, rep.Recipe)
	require.ErrorContains(t, err, "mask digest")
	w.Data = good
	_, err = Verify(g, rep.Recipe)
	require.NoError(t, err)
	_, err = Verify(g, map[string]string{"prune.pattern": "2:4"})
	require.ErrorIs(t, err, ErrVerify)
	_, err = Verify(g, map[string]string{})
	require.ErrorIs(t, err, ErrPattern)
}

func TestTargets(t *testing.T) {
	cfg := tinyConfig()
	names := func(ws []*model.Weight) (out []string) {
		for _, w := range ws {
			out = append(out, w.Name)
		}
		return out
	}
	for _, tied := range []bool{true, false} {
		cfg.Tied = tied
		ws, err := Targets(randomGraph(t, cfg, 1), nil, nil)
		require.NoError(t, err)
		require.Len(t, ws, 14)
		require.NotContains(t, names(ws), "model.embed_tokens.weight")
		require.NotContains(t, names(ws), "lm_head.weight")
	}
	g := randomGraph(t, cfg, 1)
	ws, err := Targets(g, []string{"*.1.mlp.*"}, []string{`re:gate_proj\.weight$`})
	require.NoError(t, err)
	require.Equal(t, []string{"model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight"}, names(ws))
	ws, err = Targets(g, []string{"lm_head.*"}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"lm_head.weight"}, names(ws))
	for _, bad := range []string{"*.typo.*", "re:(", "[", "model.norm.weight"} {
		_, err = Targets(g, []string{bad}, nil)
		require.ErrorIs(t, err, ErrTarget, bad)
	}
	_, err = Targets(g, nil, []string{"*"})
	require.ErrorIs(t, err, ErrTarget)
	// A block's matrix that an embedding shares stays.
	g.Linears()[2].Weight = g.Nodes[0].Weight
	ws, err = Targets(g, nil, nil)
	require.NoError(t, err)
	require.NotContains(t, names(ws), "model.embed_tokens.weight")
}

func TestRunRefuses(t *testing.T) {
	g := randomGraph(t, tinyConfig(), 8)
	_, err := Apply(g, Magnitude{}, Unstructured{Sparsity: 2})
	require.ErrorIs(t, err, ErrPattern)
	_, err = Apply(nil, Magnitude{}, Pattern24)
	require.ErrorIs(t, err, ErrMethod)
	_, err = Apply(g, nil, Pattern24)
	require.ErrorIs(t, err, ErrMethod)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Run(ctx, g, Magnitude{}, Pattern24, Options{})
	require.ErrorIs(t, err, context.Canceled)

	w := g.Linears()[1].Weight
	r, c := w.Data.Dims()
	f := make([]float32, r*c)
	f[c+2] = float32(math.NaN())
	w.Data = sparse.NewDense(r, c, f)
	_, err = Apply(g, Magnitude{}, Pattern24)
	require.ErrorIs(t, err, ErrWeight)
	require.ErrorContains(t, err, "row 1 column 2")
	f[c+2] = 1e6
	_, err = Apply(g, Magnitude{}, Pattern24)
	require.ErrorIs(t, err, ErrWeight)
	require.ErrorContains(t, err, "beyond f16")
}

func TestProgressAndRepeatedWeights(t *testing.T) {
	g := randomGraph(t, tinyConfig(), 9)
	// Layer 1 shares layer 0's q_proj: it is pruned once.
	for _, n := range g.Linears() {
		if n.Name == "model.layers.1.self_attn.q_proj" {
			n.Weight = g.Linears()[0].Weight
		}
	}
	g.Weights = g.Weights[:0]
	seen := map[*model.Weight]bool{}
	for _, n := range g.Nodes {
		if n.Weight != nil && !seen[n.Weight] {
			seen[n.Weight] = true
			g.Weights = append(g.Weights, n.Weight)
		}
	}
	var got []int
	o := Options{Threads: 3, Progress: func(done, total int, l LayerReport) {
		require.Equal(t, 13, total)
		require.NotEmpty(t, l.Name)
		got = append(got, done)
	}}
	rep, err := Run(context.Background(), g, Magnitude{}, Pattern24, o)
	require.NoError(t, err)
	require.Equal(t, []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13}, got)
	require.Contains(t, rep.String(), "magnitude 2:4: 49.72% of 13 matrices zero")
	require.Less(t, rep.After.Bytes, rep.Before.Bytes)
}
