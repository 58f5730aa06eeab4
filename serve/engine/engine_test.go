package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// open makes a session of stories260K, or of the model at path.
func open(t testing.TB, path string, o runtime.Options) *runtime.Session {
	t.Helper()
	if path == "" {
		path = filepath.Dir(testenv.Data(t, "stories260K/config.json"))
	}
	if o.DType == 0 {
		o.DType = sparse.F32
	}
	g, err := loader.Open(path)
	require.NoError(t, err)
	b := cpu.New(cpu.Threads(2))
	s, err := runtime.New(g, b, runtime.WithOptions(o), runtime.WithTableDir("off"))
	require.NoError(t, err)
	require.NoError(t, g.Close())
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, b.Close())
	})
	return s
}

// serve makes an engine and, at the test's end, holds it to having let go of every
// page and goroutine.
func serve(t testing.TB, s *runtime.Session, o Options) *Engine {
	t.Helper()
	before := goruntime.NumGoroutine()
	e, err := New(s, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, e.Close())
		require.Equal(t, s.Plan().KV.Pages, s.FreePages(), "pages are left")
		for end := time.Now().Add(2 * time.Second); goruntime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				buf := make([]byte, 1<<16)
				t.Fatalf("%d goroutines are left, %d were there before:\n%s", goruntime.NumGoroutine(), before, buf[:goruntime.Stack(buf, true)])
			}
		}
	})
	return e
}

// answer is a request's whole outcome.
type answer struct {
	text   string
	ids    []int32
	tokens []Token
	finish Finish
	usage  Usage
	err    error
}

func collect(st *Stream) (a answer) {
	for {
		ev, err := st.Next(context.Background())
		if err != nil {
			if !errors.Is(err, io.EOF) {
				a.err = err
			}
			return a
		}
		a.text += ev.Text
		for _, t := range ev.Tokens {
			a.ids = append(a.ids, t.ID)
		}
		a.tokens = append(a.tokens, ev.Tokens...)
		a.finish, a.usage = ev.Finish, ev.Usage
	}
}

func ask(t testing.TB, e *Engine, r Request) answer {
	t.Helper()
	st, err := e.Submit(context.Background(), r)
	require.NoError(t, err)
	return collect(st)
}

// prompts are pieces of a story of the model's own, so that they have beginnings in
// common and lengths from one token to several pages.
func prompts(t testing.TB, s *runtime.Session, r *rand.Rand, n int) [][]int32 {
	res, err := s.GenerateTokens(context.Background(), []int32{1}, runtime.GenerateOptions{MaxTokens: 150, IgnoreEOS: true})
	require.NoError(t, err)
	story := append([]int32{1}, res.Tokens...)
	out := make([][]int32, n)
	for i := range out {
		out[i] = slices.Clone(story[:1+r.IntN(len(story)-1)])
		if r.IntN(2) == 0 { // leaves the common path somewhere
			out[i][r.IntN(len(out[i]))] = int32(3 + r.IntN(500))
		}
	}
	return out
}

// TestEqualsGenerate: any mix of requests, with few pages so that they push one
// another out, gives each its own continuation.
func TestEqualsGenerate(t *testing.T) {
	for _, c := range []struct {
		name    string
		context int // tokens of KV cache
		chunk   int
		o       Options
	}{
		{"roomy", 4096, 64, Options{}},
		{"no prefixes", 4096, 64, Options{NoPrefixCache: true}},
		{"tight", 640, 24, Options{MaxRunning: 8, StepTokens: 12}},
		{"tight, no prefixes", 640, 24, Options{MaxRunning: 8, StepTokens: 12, NoPrefixCache: true}},
		{"one page a chunk", 544, 32, Options{MaxRunning: 5}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := open(t, "", runtime.Options{Context: c.context, Chunk: c.chunk, Select: 8})
			r := rand.New(rand.NewPCG(1, uint64(len(c.name))))
			const n = 40
			ps := prompts(t, s, r, n)
			reqs, want := make([]Request, n), make([]answer, n)
			for i := range reqs {
				reqs[i] = Request{Client: fmt.Sprint(i % 3), Prompt: ps[i], MaxTokens: 1 + r.IntN(120), IgnoreEOS: r.IntN(2) == 0}
				if i%7 == 0 {
					reqs[i].Stop = []string{"was", ". They"}
				}
				if i%5 == 0 {
					reqs[i].FrequencyPenalty, reqs[i].RepeatLast = 0.3, -1
				}
				res, err := s.GenerateTokens(context.Background(), ps[i], runtime.GenerateOptions{
					Sampling: reqs[i].Sampling, MaxTokens: reqs[i].MaxTokens, Stop: reqs[i].Stop, IgnoreEOS: reqs[i].IgnoreEOS})
				require.NoError(t, err)
				want[i] = answer{ids: res.Tokens, text: res.Text, finish: Finish(res.Finish)}
			}
			e := serve(t, s, c.o)
			var wg sync.WaitGroup
			for i := range reqs {
				late := time.Duration(r.IntN(30)) * time.Millisecond
				cancel := i%4 == 3
				wg.Go(func() {
					time.Sleep(late)
					ctx, stop := context.WithCancel(context.Background())
					defer stop()
					st, err := e.Submit(ctx, reqs[i])
					if err != nil {
						t.Errorf("%d: %v", i, err)
						return
					}
					if cancel { // a copy that is given up somewhere on the way
						other, err := e.Submit(ctx, reqs[i])
						if err != nil {
							t.Errorf("%d: %v", i, err)
							return
						}
						_, _ = other.Next(ctx)
						other.Close()
					}
					got := collect(st)
					if got.err != nil || !slices.Equal(got.ids, want[i].ids) || got.text != want[i].text || got.finish != want[i].finish {
						t.Errorf("%d: prompt of %d: got %v %q %s %v\nwant %v %q %s", i, len(ps[i]), got.ids, got.text, got.finish, got.err, want[i].ids, want[i].text, want[i].finish)
					}
					if got.usage.Prompt != len(ps[i]) || got.usage.Output != len(got.ids) || got.usage.Cached >= len(ps[i]) {
						t.Errorf("%d: usage %+v", i, got.usage)
					}
				})
			}
			wg.Wait()
			st := e.Stats()
			t.Logf("%d steps, %d preemptions, %d of %d prompt tokens from the cache, %d evictions", st.Steps, st.Preemptions, st.CachedTokens, st.PromptTokens, st.Evictions)
			if strings.HasPrefix(c.name, "tight") {
				require.Positive(t, st.Preemptions, "nothing was tested")
			}
			if c.o.NoPrefixCache {
				require.Zero(t, st.CachedTokens)
			} else {
				require.Positive(t, st.CachedTokens)
			}
			require.Zero(t, st.Failures)
		})
	}
}
