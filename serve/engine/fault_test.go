package engine

import (
	"context"
	"io"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/runtime"
)

// rogue is a Constraint that panics.
type rogue struct{ mask, accept bool }

func (r rogue) Mask(l []float32) bool {
	if r.mask {
		panic("mask")
	}
	for i := range l {
		l[i] = float32(math.Inf(-1))
	}
	if r.accept {
		l[5] = 0
	}
	return true
}
func (r rogue) Accept(int32) bool { panic("accept") }

// TestFaultsAreContained: whatever a request's constraint does, and whatever a step
// dies of, others get their texts.
func TestFaultsAreContained(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 1024})
	want, err := s.GenerateTokens(context.Background(), story, runtime.GenerateOptions{MaxTokens: 60, IgnoreEOS: true})
	require.NoError(t, err)
	e := serve(t, s, Options{})
	good, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 60, IgnoreEOS: true})
	require.NoError(t, err)
	for _, r := range []rogue{{mask: true}, {accept: true}, {}} {
		require.ErrorIs(t, ask(t, e, Request{Prompt: story, Constraint: r}).err, ErrInternal)
	}
	a := collect(good)
	require.NoError(t, a.err)
	require.Equal(t, want.Tokens, a.ids)
	require.EqualValues(t, 3, e.Stats().Cancelled["internal"])
	require.NoError(t, e.Close())

	// A step that panics because of one of its requests.
	e2 := serve(t, s, Options{})
	e2.sabotage = func(j *job) {
		if j.ID == "bad" {
			panic("broken")
		}
	}
	var streams []*Stream
	for i := range 6 {
		id := "good"
		if i%3 == 1 {
			id = "bad"
		}
		st, err := e2.Submit(context.Background(), Request{ID: id, Prompt: story, MaxTokens: 60, IgnoreEOS: true})
		require.NoError(t, err)
		streams = append(streams, st)
	}
	for i, st := range streams {
		a := collect(st)
		if i%3 == 1 {
			require.ErrorIs(t, a.err, ErrInternal)
			require.ErrorContains(t, a.err, "broken")
			continue
		}
		require.NoError(t, a.err)
		require.Equal(t, want.Tokens, a.ids)
	}
	require.Positive(t, e2.Stats().Failures)
}

// TestSlowReader: a caller that does not read holds up nobody, and gets all in the end.
func TestSlowReader(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 512})
	e := serve(t, s, Options{})
	slow, err := e.Submit(context.Background(), Request{Prompt: story, MaxTokens: 100, IgnoreEOS: true})
	require.NoError(t, err)
	require.NoError(t, e.Drain(context.Background()))
	ev, err := slow.Next(context.Background())
	require.NoError(t, err)
	require.Len(t, ev.Tokens, 100, "one event of all")
	require.Equal(t, FinishLength, ev.Finish)
	_, err = slow.Next(context.Background())
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, 100, ev.Usage.Output)
}

// TestDisconnects: a thousand callers that go away, before, during and after their
// text, leave nothing behind (serve checks pages and goroutines).
func TestDisconnects(t *testing.T) {
	s := open(t, "", runtime.Options{Context: 1024})
	e := serve(t, s, Options{Queue: 20000})
	n := 1000
	if testing.Short() {
		n = 200
	}
	var wg sync.WaitGroup
	for i := range n {
		ctx, cancel := context.WithCancel(context.Background())
		st, err := e.Submit(ctx, Request{Client: string(rune('a' + i%5)), Prompt: story, MaxTokens: 5 + i%300, IgnoreEOS: true})
		require.NoError(t, err)
		wg.Go(func() {
			defer cancel()
			switch i % 4 {
			case 0: // at once
			case 1:
				_, _ = st.Next(ctx)
			case 2:
				_, _ = st.Next(ctx)
				st.Close()
				collect(st)
			case 3:
				short, stop := context.WithTimeout(ctx, time.Duration(i%50)*time.Millisecond)
				defer stop()
				for {
					if _, err := st.Next(short); err != nil {
						return
					}
				}
			}
		})
	}
	wg.Wait()
	require.Eventually(t, func() bool { return !e.Busy() }, 10*time.Second, time.Millisecond)
	st := e.Stats()
	ended := st.Cancelled["client"] + st.Finished[FinishLength]
	require.EqualValues(t, n, ended)
	require.Greater(t, st.Cancelled["client"], uint64(n/2))
	require.Zero(t, st.Running+st.Waiting)
}
