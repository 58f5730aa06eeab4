// Package engine serves one model to many callers: Engine a language model, by
// continuous batching, Batcher any other network, by batches along the first
// dimension. It knows nothing of HTTP.
//
// An Engine has one goroutine that does all the work. In every turn it ends what was
// cancelled, admits what waits and fits, plans a step (one token of each text that is
// being generated, and pieces of prompts beside them), runs it, and draws the next
// tokens. A request that loses its KV pages to an older one keeps its tokens and
// begins again.
//
//	queue.go     who is next: clients by turns
//	prefix.go    KV pages of past requests, found by their tokens
//	schedule.go  the turn: who ends, who begins
//	plan.go      what a step computes, and whose pages make room for it
//	step.go      the step, and what becomes of its results
//	job.go       one request, and how its next token is drawn
//	shadow.go    dense beside sparse, when there is nothing else to do
//	json*.go     JSON as a Constraint
//	batcher.go   networks
//
// The texts of one engine are those that runtime.Session.GenerateTokens gives, up to
// the rounding of float32 sums, which may depend on how many rows a step has. A model
// whose two likeliest tokens are closer than that may take the other one.
package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tokenizer"
)

// Options say how an Engine schedules. The zero value is the default.
type Options struct {
	MaxRunning    int     // sequences in one step; default 16, at most the session's Options.Select
	Queue         int     // requests that may wait; default 512; one client's, of 64 or more: 7/8 of them
	StepTokens    int     // rows of a step while texts are being generated, pieces of prompts included; default what takes stepTime
	NoPrefixCache bool    // forget the keys and values of a request with its end
	Shadow        float64 // 0..1: share of requests that are run again on Dense, when idle
	Dense         *runtime.Session
	// Yield says whether others on this machine have work: dense twins wait for them
	// too. It is called often; nil: nobody has.
	Yield func() bool
}

func (o *Options) check(p *runtime.Plan) error {
	if o.MaxRunning == 0 {
		o.MaxRunning = 16
	}
	o.MaxRunning = min(o.MaxRunning, p.MaxSelect, p.MaxRows)
	if o.Queue == 0 {
		o.Queue = 512
	}
	o.StepTokens = min(o.StepTokens, p.MaxRows)
	if o.MaxRunning < 1 || o.Queue < 1 || o.Queue > 1<<20 || o.StepTokens < 0 || !(o.Shadow >= 0 && o.Shadow <= 1) {
		return fmt.Errorf("engine: %d running, queue %d, %d tokens a step, shadow %g: %w", o.MaxRunning, o.Queue, o.StepTokens, o.Shadow, runtime.ErrOption)
	}
	return nil
}

// Engine runs one language model for many callers. It is safe for concurrent use.
type Engine struct {
	s       *runtime.Session
	o       Options
	eog     []int32 // tokens that end a text
	context int
	wake    chan struct{} // holds a token while the scheduler has something to look at
	sweep   atomic.Bool   // some request was cancelled
	live    atomic.Int64  // requests that were accepted and have not ended
	stopped chan struct{} // closed when the scheduler has ended

	mu       sync.Mutex // guards what follows
	queue    queue
	order    uint64
	st       Stats
	draining bool
	closed   bool
	abort    bool          // the drain's time is over
	shadowed func()        // ends a dense twin's run at once; nil: there is none
	drained  chan struct{} // closed when draining and nothing is left
	emptied  bool          // drained is closed

	scheduler // of the scheduler's goroutine alone

	vocabulary sync.Once // for JSON
	json       *jsonVocabulary
	jsonErr    error
}

// New serves the model of s, which stays the caller's to close, after the engine. The
// session needs Options.Hidden for embeddings.
func New(s *runtime.Session, o Options) (*Engine, error) {
	g := s.Graph()
	if g.Config == nil {
		return nil, fmt.Errorf("engine: %s is no language model: %w", g.Name, ErrKind)
	}
	if err := o.check(s.Plan()); err != nil {
		return nil, err
	}
	if o.Dense != nil && (o.Dense.Graph().Config == nil || o.Dense.Graph().Config.Vocab != g.Config.Vocab) {
		return nil, fmt.Errorf("engine: the dense twin is another model: %w", ErrKind)
	}
	e := &Engine{
		s: s, o: o, context: min(g.Config.Context, s.Context()), wake: make(chan struct{}, 1),
		st: newStats(), drained: make(chan struct{}), stopped: make(chan struct{}),
	}
	if g.Tokenizer != nil {
		e.eog = g.Tokenizer.EOG()
	}
	e.scheduler = newScheduler(e)
	go e.loop()
	return e, nil
}

// Session is what the engine runs.
func (e *Engine) Session() *runtime.Session { return e.s }

// Tokenizer is the model's, nil where its file has none.
func (e *Engine) Tokenizer() *tokenizer.Tokenizer { return e.s.Graph().Tokenizer }

// Context is the most tokens that a prompt and its output may have together.
func (e *Engine) Context() int { return e.context }

// Busy reports whether any request is waiting or running.
func (e *Engine) Busy() bool { return e.live.Load() > 0 }

// Submit queues a request and returns at once. The error wraps ErrFull (a *Busy),
// ErrDraining, ErrClosed, runtime.ErrContext (prompt too long), runtime.ErrOption or
// runtime.ErrInput (a token that does not exist). The end of ctx cancels the request.
func (e *Engine) Submit(ctx context.Context, r Request) (*Stream, error) {
	if err := r.check(e.s.Graph().Config.Vocab, e.context); err != nil {
		e.reject("invalid")
		return nil, err
	}
	sampler, err := runtime.NewSampler(r.Sampling)
	if err != nil {
		return nil, err
	}
	j := &job{
		Request: r, sampler: sampler, stream: newStream(r.Ready, e.cancelled), text: runtime.NewTextOut(e.Tokenizer(), r.Stop),
		max: e.context - len(r.Prompt),
	}
	if r.MaxTokens > 0 {
		j.max = min(j.max, r.MaxTokens)
	}
	j.tokens = append(make([]int32, 0, len(r.Prompt)+min(j.max, 256)), r.Prompt...)
	for _, id := range r.Prompt {
		sampler.Accept(id)
	}
	if err := e.enqueue(ctx, j); err != nil {
		return nil, err
	}
	return j.stream, nil
}

// enqueue puts a job into the queue.
func (e *Engine) enqueue(ctx context.Context, j *job) error {
	j.ctx, j.submitted, j.usage.Prompt = ctx, time.Now(), len(j.Prompt)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		e.st.Rejected["closed"]++
		return fmt.Errorf("engine: %w", ErrClosed)
	case e.draining:
		e.st.Rejected["draining"]++
		return fmt.Errorf("engine: %w", ErrDraining)
	case e.queue.n >= e.o.Queue || e.queue.of(j.Client) >= e.o.share():
		e.st.Rejected["full"]++
		return &Busy{e.retryAfter()}
	}
	e.order++
	j.order = e.order
	j.release = context.AfterFunc(ctx, e.cancelled)
	e.queue.push(j)
	if !j.Deadline.IsZero() {
		e.sweep.Store(true) // so that it is watched
	}
	e.live.Add(1)
	e.st.Accepted++
	if e.shadowed != nil {
		e.shadowed()
	}
	e.signal()
	return nil
}

// share is how much of the queue one client may take, so that there is room for
// another.
func (o *Options) share() int {
	if o.Queue < 64 {
		return o.Queue
	}
	return o.Queue - o.Queue/8
}

// retryAfter is the time until the queue's last request would begin.
func (e *Engine) retryAfter() time.Duration {
	per := e.st.Service
	if per == 0 {
		per = time.Second
	}
	d := per * time.Duration(e.queue.len()+1) / time.Duration(e.o.MaxRunning)
	return min(max(d, 50*time.Millisecond), time.Minute)
}

func (e *Engine) reject(reason string) {
	e.mu.Lock()
	e.st.Rejected[reason]++
	e.mu.Unlock()
}

// signal has the scheduler look.
func (e *Engine) signal() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// cancelled has the scheduler look for requests that nobody waits for.
func (e *Engine) cancelled() {
	e.sweep.Store(true)
	e.signal()
}

// Stats is a copy of what was counted.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.st.clone()
	s.Waiting = e.queue.len()
	return s
}

// Drain refuses new requests and finishes those that were accepted; what is left at
// the end of ctx ends with ErrDraining, and Drain returns ctx's error then.
func (e *Engine) Drain(ctx context.Context) error {
	e.mu.Lock()
	e.draining = true
	e.mu.Unlock()
	e.signal()
	select {
	case <-e.drained:
		return nil
	case <-e.stopped:
		return nil
	case <-ctx.Done():
	}
	e.mu.Lock()
	e.abort = true
	e.mu.Unlock()
	e.signal()
	select {
	case <-e.drained:
	case <-e.stopped:
	}
	return context.Cause(ctx)
}

// Close ends what is left with ErrClosed and waits for the step at hand.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.signal()
	<-e.stopped
	return nil
}
