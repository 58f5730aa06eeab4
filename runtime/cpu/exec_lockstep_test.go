package cpu_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestHidden: the hidden state after the final norm, times the head, is the logits;
// and a session that can give it computes the same logits as one that cannot.
func TestHidden(t *testing.T) {
	dir := filepath.Dir(testenv.Data(t, "stories260K/config.json"))
	plain := session(t, dir, 2, runtime.WithOptions(runtime.Options{DType: sparse.F32}))
	s := session(t, dir, 2, runtime.WithOptions(runtime.Options{DType: sparse.F32, Hidden: true}))
	cfg := s.Graph().Config
	g, err := loader.Open(dir)
	require.NoError(t, err)
	defer g.Close()
	w, err := g.Weight("model.embed_tokens.weight") // tied
	require.NoError(t, err)
	head, err := sparse.Read(w.Data)
	require.NoError(t, err)
	tokens := []int32{1, 403, 407, 261, 378}
	l := s.NewLockstep()
	q, r := s.NewSequence(), s.NewSequence()
	require.NoError(t, l.Add(r, []int32{1, 400}, 0))
	require.NoError(t, l.Add(q, tokens, len(tokens)))
	require.NoError(t, l.WantHidden())
	require.NoError(t, l.Run(context.Background()))
	h := make([]float32, cfg.Hidden)
	i := 0
	err = plain.NewSequence().ExtendAll(context.Background(), tokens, func(_ int, want []float32) error {
		l.Hidden(1, i, h)
		got := l.Logits(1, i)
		for v := range cfg.Vocab {
			var sum float64
			for c, x := range h {
				sum += float64(x) * float64(head[v*cfg.Hidden+c])
			}
			require.InDelta(t, want[v], got[v], 1e-4)
			require.InDelta(t, want[v], sum, 1e-3, "token %d, row %d", i, v)
		}
		i++
		return nil
	})
	require.NoError(t, err)
}

// BenchmarkLockstep times a step of 1 to 8 sequences of the real model, one token of
// each, after contexts of 64: dense and 2:4.
func BenchmarkLockstep(b *testing.B) {
	path := testenv.Model(b)
	for _, dtype := range []sparse.DType{sparse.F16, sparse.Int8, sparse.Int4} {
		for _, pruned := range []bool{false, true} {
			g, err := loader.Open(path)
			require.NoError(b, err)
			o := runtime.Options{DType: dtype, Context: 2048, Sparse: runtime.SparseOff}
			if pruned {
				_, err = prune.Apply(g, prune.Magnitude{}, prune.Pattern24)
				require.NoError(b, err)
				o.Sparse, o.Layout = runtime.SparseForce, sparse.LayoutNM24
			}
			be := cpu.New(cpu.Threads(2))
			s, err := runtime.New(g, be, runtime.WithOptions(o), runtime.WithTableDir("off"))
			require.NoError(b, err)
			require.NoError(b, g.Close())
			form := "dense"
			if pruned {
				form = "nm24"
			}
			ctx := context.Background()
			prompt := make([]int32, 64)
			for i := range prompt {
				prompt[i] = int32(1000 + 37*i)
			}
			for _, n := range []int{1, 2, 3, 4, 5, 6, 8, 12, 16} {
				b.Run(fmt.Sprintf("%v/%s/%d", dtype, form, n), func(b *testing.B) {
					var qs []*runtime.Sequence
					for range n {
						q := s.NewSequence()
						_, err := q.Extend(ctx, prompt, nil)
						require.NoError(b, err)
						qs = append(qs, q)
					}
					l := s.NewLockstep()
					best := time.Hour
					for b.Loop() {
						start := time.Now()
						l.Reset()
						for _, q := range qs {
							require.NoError(b, l.Add(q, prompt[:1], 1))
						}
						require.NoError(b, l.Run(ctx))
						best = min(best, time.Since(start))
						for _, q := range qs {
							q.Truncate(64)
						}
					}
					for _, q := range qs {
						q.Close()
					}
					b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "tokens/s")
					b.ReportMetric(float64(n)/best.Seconds(), "best-tokens/s")
				})
			}
			require.NoError(b, s.Close())
			require.NoError(b, be.Close())
		}
	}
}
