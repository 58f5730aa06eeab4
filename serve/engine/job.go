package engine

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sparserun/sparserun/runtime"
)

// job is a request in the engine. Its tokens are all that is needed to go on: those
// that its sequence does not have yet are computed, so that a job that lost its
// pages just begins again.
type job struct {
	Request
	order   uint64 // of arrival
	ctx     context.Context
	release func() bool // of the watch on ctx
	stream  *Stream     // nil for embeddings
	embed   *embedding  // nil for texts

	sampler *runtime.Sampler
	text    *runtime.TextOut
	tokens  []int32 // prompt, then output
	max     int     // output tokens
	usage   Usage

	seq   *runtime.Sequence // nil: waiting
	page  *prefix           // the last of the sequence's pages that is in the prefix cache
	pages int               // how many are
	chunk int               // tokens of the step at hand
	part  int               // of the step

	submitted, started, last time.Time
	preempted                int

	// Of the step at hand, written by whoever samples.
	raw   []float32 // logits as the model gave them, with Logprobs
	drawn Token
	err   error
}

// check validates what Submit was given against the model.
func (r *Request) check(vocab, context int) error {
	bad := func(what string, lo, hi, got int) error {
		return fmt.Errorf("engine: %s: want %d..%d, got %d: %w", what, lo, hi, got, runtime.ErrOption)
	}
	switch {
	case len(r.Prompt) == 0:
		return fmt.Errorf("engine: empty prompt: %w", runtime.ErrOption)
	case len(r.Prompt) >= context:
		return fmt.Errorf("engine: prompt of %d tokens, context of %d: %w", len(r.Prompt), context, runtime.ErrContext)
	case r.MaxTokens < 0 || r.MaxTokens > 1<<20:
		return bad("max tokens", 0, 1<<20, r.MaxTokens)
	case r.TopLogprobs < 0 || r.TopLogprobs > 20:
		return bad("top logprobs", 0, 20, r.TopLogprobs)
	case len(r.Stop) > 64:
		return bad("stop strings", 0, 64, len(r.Stop))
	}
	for i, s := range r.Stop {
		if len(s) > 4096 {
			return bad(fmt.Sprintf("bytes of stop string %d", i), 0, 4096, len(s))
		}
	}
	for i, t := range r.Prompt {
		if t < 0 || int(t) >= vocab {
			return fmt.Errorf("engine: prompt token %d: want 0..%d, got %d: %w", i, vocab-1, t, runtime.ErrInput)
		}
	}
	for id, b := range r.Bias {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("engine: bias of token: want 0..%d, got %d: %w", vocab-1, id, runtime.ErrInput)
		}
		if math.IsNaN(float64(b)) || math.IsInf(float64(b), 1) {
			return fmt.Errorf("engine: bias of token %d: %g: %w", id, b, runtime.ErrOption)
		}
	}
	return r.Sampling.Check()
}

// left is how many tokens the sequence does not have yet.
func (j *job) left() int { return len(j.tokens) - j.seq.Len() }

// output is the number of generated tokens.
func (j *job) output() int { return len(j.tokens) - j.usage.Prompt }

// cost is about how many numbers sampling touches, by vocabulary.
func (j *job) cost() int {
	c := 1
	if j.Temperature > 0 {
		c += 12
	}
	if j.Logprobs {
		c += 8
	}
	if j.Constraint != nil {
		c += 2
	}
	return c
}

// sample draws the next token from logits, which it changes. A panic of a sampler or
// a constraint is the job's error.
func (j *job) sample(e *Engine, logits []float32) {
	j.drawn, j.err = Token{}, nil
	defer func() {
		if p := recover(); p != nil {
			j.err = fmt.Errorf("engine: sampling: %v: %w", p, ErrInternal)
		}
	}()
	if j.Logits {
		j.drawn.Logits = slices.Clone(logits)
	}
	var sum float64
	if j.Logprobs {
		sum = logSum(logits)
		j.drawn.Top = likeliest(logits, j.TopLogprobs, sum)
		j.raw = append(j.raw[:0], logits...)
	}
	if j.Constraint != nil {
		if b, ok := j.Constraint.(Budgeted); ok {
			b.Left(j.max - j.output())
		}
		if !j.Constraint.Mask(logits) {
			for _, id := range e.eog {
				logits[id] = float32(math.Inf(-1))
			}
		}
	}
	id := j.sampler.Next(logits)
	j.drawn.ID = id
	if j.Logprobs {
		j.drawn.Logprob.Logprob = float32(float64(j.raw[id]) - sum)
	}
	if j.Constraint != nil && math.IsInf(float64(logits[id]), -1) {
		j.err = fmt.Errorf("engine: the constraint allows no token: %w", ErrInternal)
	}
}

// accept tells the constraint of the token; a panic of it is the job's error.
func (j *job) accept(id int32) (done bool, err error) {
	if j.Constraint == nil {
		return false, nil
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("engine: constraint: %v: %w", p, ErrInternal)
		}
	}()
	return j.Constraint.Accept(id), nil
}
