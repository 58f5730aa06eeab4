package engine

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/runtime"
)

var story = []int32{1, 403, 407, 261, 378}

func TestSubmitChecks(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 128})
	e := serve(t, s, Options{})
	require.Equal(t, 128, e.Context())
	for _, c := range []struct {
		r    Request
		want error
	}{
		{Request{}, runtime.ErrOption},
		{Request{Prompt: make([]int32, 128)}, runtime.ErrContext},
		{Request{Prompt: []int32{512}}, runtime.ErrInput},
		{Request{Prompt: []int32{-1}}, runtime.ErrInput},
		{Request{Prompt: story, MaxTokens: -1}, runtime.ErrOption},
		{Request{Prompt: story, TopLogprobs: 21}, runtime.ErrOption},
		{Request{Prompt: story, Stop: make([]string, 65)}, runtime.ErrOption},
		{Request{Prompt: story, Sampling: runtime.Sampling{TopP: 2}}, runtime.ErrOption},
		{Request{Prompt: story, Sampling: runtime.Sampling{Bias: map[int32]float32{512: 1}}}, runtime.ErrInput},
		{Request{Prompt: story, Sampling: runtime.Sampling{Bias: map[int32]float32{5: float32(math.NaN())}}}, runtime.ErrOption},
	} {
		_, err := e.Submit(context.Background(), c.r)
		require.ErrorIs(t, err, c.want, "%+v", c.r)
	}
	_, err := New(s, Options{Shadow: 2})
	require.ErrorIs(t, err, runtime.ErrOption)
	_, err = e.Embed(context.Background(), [][]int32{story}, PoolMean)
	require.ErrorIs(t, err, ErrKind, "no hidden states")
	a := ask(t, e, Request{Prompt: make([]int32, 127), IgnoreEOS: true})
	require.Equal(t, FinishLength, a.finish, "the context ends the text")
	require.Len(t, a.ids, 1)
}

func TestLogprobs(t *testing.T) {
	s := open(t, "", runtime.Options{})
	e := serve(t, s, Options{})
	// The distribution after the prompt, from the logits themselves.
	q := s.NewSequence()
	logits, err := q.Extend(context.Background(), story, nil)
	require.NoError(t, err)
	q.Close()
	var sum float64
	for _, l := range logits {
		sum += math.Exp(float64(l))
	}
	order := make([]int32, len(logits))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		if logits[a] > logits[b] {
			return -1
		}
		return 1
	})
	ban := order[0] // forbidden, yet the first of the likeliest: logprobs are the model's own
	a := ask(t, e, Request{Prompt: story, MaxTokens: 1, Logprobs: true, TopLogprobs: 5,
		Sampling: runtime.Sampling{Bias: map[int32]float32{ban: -100}, RepeatPenalty: 1.3}})
	require.NotEqual(t, ban, a.ids[0])
	require.Len(t, a.tokens[0].Top, 5)
	for i, top := range a.tokens[0].Top {
		require.Equal(t, order[i], top.ID)
		require.InDelta(t, math.Log(math.Exp(float64(logits[order[i]]))/sum), top.Logprob, 1e-4)
	}
	require.InDelta(t, math.Log(math.Exp(float64(logits[a.ids[0]]))/sum), a.tokens[0].Logprob.Logprob, 1e-4)
	require.Empty(t, ask(t, e, Request{Prompt: story, MaxTokens: 1, TopLogprobs: 5}).tokens[0].Top, "not asked for")
}

// TestFairness: a client with many requests does not hold up one with one.
func TestFairness(t *testing.T) {
	var q queue
	for i := range 5 {
		q.push(&job{Request: Request{Client: "a"}, order: uint64(i)})
	}
	q.push(&job{Request: Request{Client: "b"}, order: 5})
	q.push(&job{Request: Request{Client: "b"}, order: 6})
	q.push(&job{Request: Request{Client: "c"}, order: 7})
	q.resume(&job{order: 99})
	q.resume(&job{order: 98})
	require.Equal(t, 10, q.len())
	require.Equal(t, []int{5, 2, 1, 0}, []int{q.of("a"), q.of("b"), q.of("c"), q.of("d")})
	require.Equal(t, []int{63, 56, 448}, []int{(&Options{Queue: 63}).share(), (&Options{Queue: 64}).share(), (&Options{Queue: 512}).share()})
	q.sweep(func(j *job) bool { return j.order == 2 })
	var got []uint64
	for q.len() > 0 {
		got = append(got, q.peek().order)
		q.pop()
	}
	require.Equal(t, []uint64{98, 99, 0, 5, 7, 1, 6, 3, 4}, got)
	require.Empty(t, q.clients)
	require.Nil(t, q.peek())
}

// gate is a Constraint that holds the engine up in the midst of its work.
type gate struct {
	enter chan struct{}
	leave chan struct{}
	once  sync.Once
}

func newGate() *gate { return &gate{enter: make(chan struct{}), leave: make(chan struct{})} }

func (g *gate) Mask([]float32) bool {
	g.once.Do(func() { close(g.enter); <-g.leave })
	return true
}
func (g *gate) Accept(int32) bool { return false }

func TestQueueIsBounded(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 512})
	e := serve(t, s, Options{MaxRunning: 1, Queue: 2})
	g := newGate()
	first, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 3, Constraint: g})
	require.NoError(t, err)
	<-g.enter
	var streams []*Stream
	for range 2 {
		st, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 3})
		require.NoError(t, err)
		streams = append(streams, st)
	}
	start := time.Now()
	_, err = e.Submit(context.Background(), Request{Prompt: story})
	require.ErrorIs(t, err, ErrFull)
	var busy *Busy
	require.ErrorAs(t, err, &busy)
	require.Positive(t, busy.RetryAfter)
	require.Less(t, time.Since(start), 100*time.Millisecond, "a refusal waits for nobody")
	require.Equal(t, 2, e.Stats().Waiting)
	streams[0].Close() // waiting: its place is free with the next step
	close(g.leave)
	require.NoError(t, collect(first).err)
	require.ErrorIs(t, collect(streams[0]).err, context.Canceled)
	require.NoError(t, collect(streams[1]).err)
	st := e.Stats()
	require.EqualValues(t, 1, st.Rejected["full"])
	require.EqualValues(t, 1, st.Cancelled["client"])
	require.EqualValues(t, 2, st.Finished[FinishLength])
	require.Positive(t, st.Service)
}

// TestCancel: a request that is given up costs no step more than the one at hand.
func TestCancel(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 512})
	for name, give := range map[string]func(st *Stream, cancel func()){
		"close":   func(st *Stream, _ func()) { st.Close(); st.Close() },
		"context": func(_ *Stream, cancel func()) { cancel() },
	} {
		e := serve(t, s, Options{})
		ctx, cancel := context.WithCancel(context.Background())
		g := newGate()
		st, err := e.Submit(ctx, Request{Prompt: story, MaxTokens: 400, IgnoreEOS: true, Constraint: g})
		require.NoError(t, err, name)
		<-g.enter
		give(st, cancel)
		for end := time.Now().Add(time.Second); name == "context" && !e.sweep.Load() && time.Now().Before(end); {
			time.Sleep(time.Millisecond) // AfterFunc has a goroutine of its own
		}
		close(g.leave)
		a := collect(st)
		require.ErrorIs(t, a.err, context.Canceled, name)
		require.LessOrEqual(t, len(a.ids), 1, "%s: the step at hand may finish", name)
		require.EqualValues(t, 1, e.Stats().Steps)
		require.EqualValues(t, 1, e.Stats().Cancelled["client"], name)
		require.Zero(t, e.live.Load())
		cancel()
	}
}

func TestDeadline(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 512})
	e := serve(t, s, Options{MaxRunning: 1})
	g := newGate()
	at := time.Now().Add(30 * time.Millisecond)
	running, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 400, IgnoreEOS: true, Constraint: g, Deadline: at})
	require.NoError(t, err)
	<-g.enter
	waiting, err := e.Submit(context.Background(), Request{Prompt: story, Deadline: at})
	require.NoError(t, err)
	fine, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 2, Deadline: time.Now().Add(time.Hour)})
	require.NoError(t, err)
	time.Sleep(time.Until(at) + time.Millisecond)
	close(g.leave)
	require.ErrorIs(t, collect(running).err, ErrDeadline)
	require.ErrorIs(t, collect(waiting).err, ErrDeadline)
	require.NoError(t, collect(fine).err)
	require.EqualValues(t, 2, e.Stats().Cancelled["deadline"])
}

func TestDrain(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 512})
	e := serve(t, s, Options{MaxRunning: 2})
	var streams []*Stream
	for range 6 {
		st, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 20, IgnoreEOS: true})
		require.NoError(t, err)
		streams = append(streams, st)
	}
	require.NoError(t, e.Drain(context.Background()))
	_, err := e.Submit(context.Background(), Request{Prompt: story})
	require.ErrorIs(t, err, ErrDraining)
	for _, st := range streams {
		a := collect(st)
		require.NoError(t, a.err, "what was accepted is finished")
		require.Len(t, a.ids, 20)
	}
	require.NoError(t, e.Drain(context.Background()), "again")

	// What is left at the end of the drain's time ends with an error.
	e = serve(t, s, Options{MaxRunning: 1})
	g := newGate()
	one, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 400, IgnoreEOS: true, Constraint: g})
	require.NoError(t, err)
	two, err := e.Submit(context.Background(), Request{Prompt: story})
	require.NoError(t, err)
	<-g.enter
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	go func() { time.Sleep(5 * time.Millisecond); close(g.leave) }()
	require.ErrorIs(t, e.Drain(ctx), context.Canceled)
	require.ErrorIs(t, collect(one).err, ErrDraining)
	require.ErrorIs(t, collect(two).err, ErrDraining)

	e = serve(t, s, Options{MaxRunning: 1})
	st, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 400, IgnoreEOS: true})
	require.NoError(t, err)
	require.NoError(t, e.Close())
	require.ErrorIs(t, collect(st).err, ErrClosed)
	_, err = e.Submit(context.Background(), Request{Prompt: story})
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, e.Close(), "again")
	require.NoError(t, e.Drain(context.Background()), "after Close")
}

func TestEmbed(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 640, Hidden: true, Chunk: 32})
	e := serve(t, s, Options{MaxRunning: 4, Queue: 3})
	// More prompts than places in the queue, longer ones than a step, and texts beside.
	ps := [][]int32{story, {1}, make([]int32, 90), story[:2]}
	for range 10 {
		ps = append(ps, story)
	}
	text, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 30, IgnoreEOS: true})
	require.NoError(t, err)
	mean, err := e.Embed(context.Background(), ps, PoolMean)
	require.NoError(t, err)
	last, err := e.Embed(context.Background(), ps, PoolLast)
	require.NoError(t, err)
	require.NoError(t, collect(text).err)
	hidden := s.Graph().Config.Hidden
	l := s.NewLockstep()
	for i, p := range ps {
		q := s.NewSequence()
		sum, row := make([]float64, hidden), make([]float32, hidden)
		for at := 0; at < len(p); at += 32 {
			l.Reset()
			n := min(32, len(p)-at)
			require.NoError(t, l.Add(q, p[at:at+n], 0))
			require.NoError(t, l.WantHidden())
			require.NoError(t, l.Run(context.Background()))
			for k := range n {
				l.Hidden(0, k, row)
				for c, v := range row {
					sum[c] += float64(v)
				}
			}
		}
		q.Close()
		check := func(got []float32, want func(c int) float64) {
			var norm, wn float64
			for c := range got {
				norm += float64(got[c]) * float64(got[c])
				wn += want(c) * want(c)
			}
			require.InDelta(t, 1, norm, 1e-4)
			for c := range got {
				require.InDelta(t, want(c)/math.Sqrt(wn), got[c], 1e-4, "prompt %d, column %d", i, c)
			}
		}
		check(mean[i], func(c int) float64 { return sum[c] })
		check(last[i], func(c int) float64 { return float64(row[c]) })
	}
	_, err = e.Embed(context.Background(), [][]int32{{1}, {}}, PoolMean)
	require.ErrorIs(t, err, runtime.ErrOption)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = e.Embed(ctx, ps, PoolMean)
	require.ErrorIs(t, err, context.Canceled)
	require.EqualValues(t, 2*len(ps), e.Stats().Embeddings)
}

// TestPrefixes: n answers to one prompt compute it once, and a second turn of a
// conversation begins where the first ended.
func TestPrefixes(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 2048})
	e := serve(t, s, Options{})
	prompt := make([]int32, 100)
	for i := range prompt {
		prompt[i] = int32(3 + i)
	}
	var streams []*Stream
	for i := range 4 {
		st, err := e.Submit(context.Background(), Request{Prompt: prompt, MaxTokens: 40, IgnoreEOS: true, Sampling: runtime.Sampling{Temperature: 1, Seed: uint64(i)}})
		require.NoError(t, err)
		streams = append(streams, st)
	}
	cached := 0
	var first answer
	for i, st := range streams {
		a := collect(st)
		require.NoError(t, a.err)
		cached += a.usage.Cached
		if i == 0 {
			first = a
		}
	}
	require.Equal(t, 3*96, cached, "all but the first find three pages")
	next := append(append(slices.Clone(prompt), first.ids...), 7)
	a := ask(t, e, Request{Prompt: next, MaxTokens: 1})
	require.Equal(t, 128, a.usage.Cached, "141 tokens are four pages and a piece")
	next[40] = 9
	require.Equal(t, 32, ask(t, e, Request{Prompt: next, MaxTokens: 1}).usage.Cached, "up to where they differ")
}

// TestJSONMode: the engine's texts are JSON even where MaxTokens is small.
func TestJSONMode(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 2048})
	e := serve(t, s, Options{})
	for i := range 24 {
		c, err := e.JSON(nil)
		require.NoError(t, err)
		a := ask(t, e, Request{Prompt: story, MaxTokens: 2 + 3*i, Constraint: c, Logprobs: i%2 == 0, TopLogprobs: 2, Sampling: runtime.Sampling{Temperature: float64(i % 3), Seed: uint64(i)}})
		require.NoError(t, a.err)
		require.Equal(t, FinishStop, a.finish)
		var x map[string]any
		require.NoError(t, json.Unmarshal([]byte(a.text), &x), "%q", a.text)
	}
	c, err := e.JSON(nil)
	require.NoError(t, err)
	a := ask(t, e, Request{Prompt: story, MaxTokens: 1, Constraint: c})
	require.Equal(t, FinishLength, a.finish, "one token is no object")
	_, err = e.JSON([]byte(`{"not":{}}`))
	require.ErrorIs(t, err, ErrSchema)
}

func TestShadow(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 512})
	dense := open(t, "", runtime.Options{Context: 512, Select: 1, Sparse: runtime.SparseOff})
	var mu sync.Mutex
	others := true
	e := serve(t, s, Options{Shadow: 1, Dense: dense, Yield: func() bool { mu.Lock(); defer mu.Unlock(); return others }})
	require.NoError(t, ask(t, e, Request{Prompt: story, MaxTokens: 10, IgnoreEOS: true}).err)
	time.Sleep(20 * time.Millisecond)
	require.Zero(t, e.Stats().Shadow.Runs, "others have work")
	mu.Lock()
	others = false
	mu.Unlock()
	require.Eventually(t, func() bool { return e.Stats().Shadow.Runs == 1 }, 5*time.Second, time.Millisecond)
	st := e.Stats().Shadow
	require.EqualValues(t, len(story), st.PrefillTokens)
	require.EqualValues(t, 9, st.DecodeTokens)
	require.Positive(t, st.Prefill())
	require.Positive(t, st.Decode())
	require.Less(t, st.MaxAbsError, 1e-4)
	require.Zero(t, st.Flips)
	// An arrival ends a run.
	for range 20 {
		require.NoError(t, ask(t, e, Request{Prompt: story, MaxTokens: 300, IgnoreEOS: true}).err)
	}
	require.Eventually(t, func() bool {
		s := e.Stats().Shadow
		return s.Runs+s.Aborted+s.Skipped == 21
	}, 10*time.Second, time.Millisecond)
	require.Positive(t, e.Stats().Shadow.Aborted)
	require.Equal(t, dense.Plan().KV.Pages, dense.FreePages())
}

var errCause = errors.New("the client went away")

func TestCause(t *testing.T) {
	e := serve(t, open(t, "", runtime.Options{Context: 512}), Options{})
	ctx, cancel := context.WithCancelCause(context.Background())
	st, err := e.Submit(ctx, Request{Prompt: story, MaxTokens: 400, IgnoreEOS: true})
	require.NoError(t, err)
	_, err = st.Next(context.Background())
	require.NoError(t, err)
	cancel(errCause)
	require.ErrorIs(t, collect(st).err, errCause)
	ctx, stop := context.WithTimeout(context.Background(), time.Millisecond)
	defer stop()
	g := newGate()
	st, err = e.Submit(context.Background(), Request{Prompt: story, Constraint: g})
	require.NoError(t, err)
	_, err = st.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "the wait ends, not the request")
	close(g.leave)
	require.NoError(t, collect(st).err)
}
