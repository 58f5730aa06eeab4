package runtime

import (
	"context"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"gorgonia.org/tensor"
)

func fakeSession(t *testing.T, o Options) *Session {
	t.Helper()
	s, err := New(tinyLlama(false), &fakeBackend{}, WithOptions(o), WithDense())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func TestGenerateTokens(t *testing.T) {
	s := fakeSession(t, Options{Context: 96, Chunk: 8})
	prompt := make([]int32, 21) // three chunks
	prompt[20] = 5
	r, err := s.GenerateTokens(context.Background(), prompt, GenerateOptions{MaxTokens: 4})
	require.NoError(t, err)
	require.Equal(t, []int32{6, 7, 8, 9}, r.Tokens)
	require.Equal(t, "length", r.Finish)
	require.Len(t, s.free, 3, "pages come back")
	c := s.Counters()
	require.EqualValues(t, 21, c.Tokens[Prefill])
	require.EqualValues(t, 3, c.Tokens[Decode])
	require.EqualValues(t, 1, c.First.Count)
	require.EqualValues(t, 3, c.Between.Count)

	r, err = s.GenerateTokens(context.Background(), prompt, GenerateOptions{MaxTokens: 1000})
	require.NoError(t, err)
	require.Len(t, r.Tokens, 96-21, "the context ends the text")

	_, err = s.GenerateTokens(context.Background(), make([]int32, 96), GenerateOptions{})
	require.ErrorIs(t, err, ErrContext)
	for _, o := range []GenerateOptions{{MaxTokens: -1}, {Sampling: Sampling{Temperature: -1}}, {Sampling: Sampling{TopP: 2}}, {Sampling: Sampling{Temperature: math.NaN()}}, {Sampling: Sampling{MinP: -1}}} {
		_, err = s.GenerateTokens(context.Background(), prompt, o)
		require.ErrorIs(t, err, ErrOption, "%+v", o)
	}
	_, err = s.Generate(context.Background(), "text", GenerateOptions{})
	require.ErrorIs(t, err, ErrUnsupported, "no tokenizer")
}

func TestSessionConcurrent(t *testing.T) {
	s := fakeSession(t, Options{Context: 320})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			r, err := s.GenerateTokens(context.Background(), []int32{int32(i)}, GenerateOptions{MaxTokens: 20})
			if err != nil || r.Tokens[19] != int32(i+20)%40 {
				t.Errorf("sequence %d: %v %v", i, r, err)
			}
		})
	}
	wg.Wait()
	require.Len(t, s.free, 10)
}

func TestSequencePages(t *testing.T) {
	s := fakeSession(t, Options{Context: 64})
	q := s.NewSequence()
	_, err := q.Extend(context.Background(), make([]int32, 40), nil)
	require.NoError(t, err)
	require.Empty(t, s.free)
	_, err = s.NewSequence().Extend(context.Background(), []int32{1}, nil)
	require.ErrorIs(t, err, ErrContext, "all pages are taken")
	q.Truncate(32)
	require.Len(t, s.free, 1)
	q.Close()
	require.Len(t, s.free, 2)
	require.Zero(t, q.Len())
	require.NoError(t, s.Close())
	_, err = s.NewSequence().Extend(context.Background(), []int32{1}, nil)
	require.ErrorIs(t, err, ErrClosed)
}

func TestRunTensor(t *testing.T) {
	s := fakeSession(t, Options{Select: 2})
	y, err := s.Run(context.Background(), tensor.New(tensor.WithShape(5), tensor.WithBacking([]int32{0, 1, 2, 3, 39})))
	require.NoError(t, err)
	require.Equal(t, tensor.Shape{5, 40}, y.Shape())
	for i, want := range []int{1, 2, 3, 4, 0} {
		require.Equal(t, float32(10), y.Data().([]float32)[i*40+want])
	}
	_, err = s.Run(context.Background(), tensor.New(tensor.WithShape(2), tensor.WithBacking([]float32{1, 2})))
	require.ErrorIs(t, err, ErrShape)
}

func TestPerplexity(t *testing.T) {
	s := fakeSession(t, Options{})
	ids := make([]int32, 25)
	for i := range ids {
		ids[i] = int32(i)
	}
	p, err := s.Perplexity(context.Background(), ids, 10, 0, nil)
	require.NoError(t, err)
	// Every next token has logit 10 against 39 zeros.
	require.InDelta(t, math.Log(1+39*math.Exp(-10)), p.NLL, 1e-9)
	require.Equal(t, 18, p.Tokens)
	require.Equal(t, 2, p.Windows)
	_, err = s.Perplexity(context.Background(), ids, 26, 0, nil)
	require.ErrorIs(t, err, ErrOption)
	_, err = s.Perplexity(context.Background(), ids, 1, 0, nil)
	require.ErrorIs(t, err, ErrOption)
}

func TestTextOut(t *testing.T) {
	for _, c := range []struct {
		pieces []string
		stop   []string
		want   string
		stops  bool
	}{
		{[]string{"Hello", ", ", "world"}, nil, "Hello, world", false},
		{[]string{"ab", "c", "d"}, []string{"bcd"}, "a", true},
		{[]string{"ab", "c", "x"}, []string{"bcd"}, "abcx", false},
		{[]string{"a", "\n", "\nb"}, []string{"\n\n", "b"}, "a", true},
		{[]string{"aaa", "aab"}, []string{"aab"}, "aaa", true},
		{[]string{"ab"}, []string{"", "b"}, "a", true},
	} {
		o := NewTextOut(nil, c.stop)
		var got string
		stopped := false
		for _, p := range c.pieces {
			var out string
			out, stopped = o.add(p)
			if got += out; stopped {
				break
			}
		}
		if !stopped {
			got += o.held
		}
		require.Equal(t, c.want, got, "%v", c)
		require.Equal(t, c.stops, stopped)
	}
}

func TestLatencies(t *testing.T) {
	var l Latencies
	require.Zero(t, l.Quantile(.5))
	for i := 1; i <= 5000; i++ {
		l.Add(time.Duration(i))
	}
	require.EqualValues(t, 5000, l.Count)
	require.EqualValues(t, 5000*5001/2, l.Sum)
	// The window holds 905..5000.
	require.EqualValues(t, 905, l.Quantile(0))
	require.EqualValues(t, 904+2048, l.Quantile(.5))
	require.EqualValues(t, 5000, l.Quantile(1))
	var m Latencies
	m.Merge(&l)
	require.EqualValues(t, 5000, m.Count)
	require.Equal(t, l.Sum, m.Sum)
}

// TestExtendAllocates: a decode step makes no garbage above the seam.
func TestExtendAllocates(t *testing.T) {
	s := fakeSession(t, Options{})
	q := s.NewSequence()
	defer q.Close()
	dst := make([]float32, 40)
	ids := []int32{1}
	extend := func() {
		if _, err := q.Extend(context.Background(), ids, dst); err != nil {
			t.Fatal(err)
		}
	}
	extend()
	require.Zero(t, testing.AllocsPerRun(20, extend))
}
