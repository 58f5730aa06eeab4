package engine

import (
	"context"
	"fmt"
	"slices"
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

// real is a session of the real model, 2:4 pruned by magnitude or dense.
func real(b *testing.B, dtype sparse.DType, pruned bool) *runtime.Session {
	g, err := loader.Open(testenv.Model(b))
	require.NoError(b, err)
	o := runtime.Options{DType: dtype, Context: 4096, Sparse: runtime.SparseOff, Hidden: true}
	if pruned {
		_, err = prune.Apply(g, prune.Magnitude{}, prune.Pattern24)
		require.NoError(b, err)
		o.Sparse, o.Layout = runtime.SparseForce, sparse.LayoutNM24
	}
	be := cpu.New(cpu.Threads(2))
	s, err := runtime.New(g, be, runtime.WithOptions(o), runtime.WithTableDir("off"))
	require.NoError(b, err)
	require.NoError(b, g.Close())
	b.Cleanup(func() {
		require.NoError(b, s.Close())
		require.NoError(b, be.Close())
	})
	return s
}

func benchPrompt(i int) []int32 {
	p := make([]int32, 32)
	for k := range p {
		p[k] = int32(1000 + 37*k + 1009*i)
	}
	return p
}

// BenchmarkEngine: tokens per second of a plain decode loop, and of the engine with 1,
// 2, 4 and 8 streams, by turns, round by round; the medians of the rounds and what the
// engine costs one stream.
func BenchmarkEngine(b *testing.B) {
	const tokens = 32
	for _, dtype := range []sparse.DType{sparse.F16, sparse.Int8} {
		for _, pruned := range []bool{false, true} {
			name := fmt.Sprintf("%v/dense", dtype)
			if pruned {
				name = fmt.Sprintf("%v/nm24", dtype)
			}
			b.Run(name, func(b *testing.B) {
				s := real(b, dtype, pruned)
				e, err := New(s, Options{NoPrefixCache: true})
				require.NoError(b, err)
				defer e.Close()
				times := map[int][]float64{} // by streams, 0: the loop
				for round := 0; b.Loop(); round++ {
					r, err := s.GenerateTokens(context.Background(), benchPrompt(0), runtime.GenerateOptions{MaxTokens: tokens, IgnoreEOS: true})
					require.NoError(b, err)
					times[0] = append(times[0], float64(tokens)/(r.PromptTime+r.DecodeTime).Seconds())
					for _, n := range []int{1, 2, 4, 8} {
						start := time.Now()
						var streams []*Stream
						for i := range n {
							st, err := e.Submit(context.Background(), Request{Prompt: benchPrompt(i), MaxTokens: tokens, IgnoreEOS: true})
							require.NoError(b, err)
							streams = append(streams, st)
						}
						for _, st := range streams {
							require.NoError(b, collect(st).err)
						}
						times[n] = append(times[n], float64(n*tokens)/time.Since(start).Seconds())
					}
				}
				median := func(n int) float64 {
					slices.Sort(times[n])
					return times[n][len(times[n])/2]
				}
				best := func(n int) float64 { return slices.Max(times[n]) }
				b.ReportMetric(median(0), "loop-tokens/s")
				for _, n := range []int{1, 2, 4, 8} {
					b.ReportMetric(median(n), fmt.Sprintf("%d-tokens/s", n))
				}
				b.ReportMetric(100*(best(0)/best(1)-1), "%overhead")
				b.ReportMetric(best(8)/best(1), "8/1")
				b.ReportMetric(0, "ns/op")
			})
		}
	}
}

// BenchmarkLongPrompt: how long others wait for their next token while a prompt of
// 1,500 tokens comes in, and how long that takes.
func BenchmarkLongPrompt(b *testing.B) {
	for _, step := range []int{32, 64, 128, 256} {
		b.Run(fmt.Sprint(step), func(b *testing.B) {
			s := real(b, sparse.Int8, false)
			e, err := New(s, Options{NoPrefixCache: true, StepTokens: step})
			require.NoError(b, err)
			defer e.Close()
			long := make([]int32, 1500)
			for i := range long {
				long[i] = int32(1000 + 7*i%30000)
			}
			var gaps []float64
			var first time.Duration
			for b.Loop() {
				other, err := e.Submit(context.Background(), Request{Prompt: benchPrompt(1), MaxTokens: 2000, IgnoreEOS: true})
				require.NoError(b, err)
				for range 5 {
					_, err = other.Next(context.Background())
					require.NoError(b, err)
				}
				start := time.Now()
				st, err := e.Submit(context.Background(), Request{Prompt: long, MaxTokens: 1})
				require.NoError(b, err)
				done := make(chan answer)
				go func() { done <- collect(st) }()
				last := time.Now()
				for waiting := true; waiting; {
					_, err = other.Next(context.Background())
					require.NoError(b, err)
					gaps = append(gaps, time.Since(last).Seconds())
					last = time.Now()
					select {
					case a := <-done:
						require.NoError(b, a.err)
						waiting = false
					default:
					}
				}
				first += time.Since(start)
				other.Close()
			}
			slices.Sort(gaps)
			b.ReportMetric(1e3*gaps[len(gaps)/2], "gap-p50-ms")
			b.ReportMetric(1e3*gaps[len(gaps)*95/100], "gap-p95-ms")
			b.ReportMetric(first.Seconds()/float64(b.N), "first-token-s")
		})
	}
}

// BenchmarkOverhead: what the engine adds to a token of one stream, by turns with a
// plain loop: on a model so small that its step takes some 50 us, and on the real one.
func BenchmarkOverhead(b *testing.B) {
	run := func(name string, s func(b *testing.B) *runtime.Session, tokens int) {
		b.Run(name, func(b *testing.B) {
			s := s(b)
			e, err := New(s, Options{NoPrefixCache: true})
			require.NoError(b, err)
			defer e.Close()
			var loop, served []float64
			for b.Loop() {
				start := time.Now()
				_, err := s.GenerateTokens(context.Background(), story, runtime.GenerateOptions{MaxTokens: tokens, IgnoreEOS: true})
				require.NoError(b, err)
				loop = append(loop, time.Since(start).Seconds())
				start = time.Now()
				require.NoError(b, ask(b, e, Request{Prompt: story, MaxTokens: tokens, IgnoreEOS: true}).err)
				served = append(served, time.Since(start).Seconds())
			}
			slices.Sort(loop)
			slices.Sort(served)
			per := 1e9 / float64(tokens)
			b.ReportMetric(per*loop[0], "loop-best-ns/token")
			b.ReportMetric(per*served[0], "engine-best-ns/token")
			b.ReportMetric(per*loop[len(loop)/2], "loop-ns/token")
			b.ReportMetric(per*served[len(served)/2], "engine-ns/token")
			b.ReportMetric(100*(served[len(loop)/2]/loop[len(loop)/2]-1), "%overhead")
			b.ReportMetric(0, "ns/op")
		})
	}
	run("stories260K", func(b *testing.B) *runtime.Session { return open(b, "", runtime.Options{Context: 512}) }, 200)
	run("f16", func(b *testing.B) *runtime.Session { return real(b, sparse.F16, false) }, 16)
	run("int8-nm24", func(b *testing.B) *runtime.Session { return real(b, sparse.Int8, true) }, 32)
}
