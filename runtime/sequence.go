package runtime

import (
	"context"
	"fmt"
)

// Sequence is one text in the making: its tokens' keys and values live in pages
// of the session's KV cache. A Sequence is used by one goroutine at a time.
type Sequence struct {
	s     *Session
	pages []int32
	n     int // tokens in the cache
}

// NewSequence starts an empty sequence of a language model.
func (s *Session) NewSequence() *Sequence { return &Sequence{s: s} }

// Len is the number of tokens in the cache.
func (q *Sequence) Len() int { return q.n }

// Close gives the sequence's pages back.
func (q *Sequence) Close() { q.Truncate(0) }

// Truncate forgets all tokens from position n on.
func (q *Sequence) Truncate(n int) {
	q.n = min(q.n, max(n, 0))
	keep := (q.n + q.s.plan.KV.PageTokens - 1) / q.s.plan.KV.PageTokens
	if keep < len(q.pages) {
		q.s.mu.Lock()
		for _, p := range q.pages[keep:] {
			q.s.drop(p)
		}
		q.s.mu.Unlock()
		q.pages = q.pages[:keep]
	}
}

// Reserve sees to the pages for n more tokens, so that a step with them cannot fail
// for want of pages. The error wraps ErrContext.
func (q *Sequence) Reserve(n int) error { return q.grow(q.n + n) }

// grow reserves pages for n tokens in all.
func (q *Sequence) grow(n int) error {
	limit := q.s.graph.Config.Context
	if n > limit {
		return fmt.Errorf("runtime: %d tokens, the model's context is %d: %w", n, limit, ErrContext)
	}
	size := q.s.plan.KV.PageTokens
	if part := q.n % size; part != 0 && q.s.Holders(q.pages[q.n/size]) > 1 {
		return fmt.Errorf("runtime: %d tokens into a KV page that others read: %w", part, ErrInput)
	}
	more := (n+size-1)/size - len(q.pages)
	if more <= 0 {
		return nil
	}
	var ok bool
	if q.pages, ok = q.s.take(q.pages, more); !ok {
		return fmt.Errorf("runtime: %d tokens: %d pages of KV cache wanted, %d free: %w", n, more, q.s.FreePages(), ErrContext)
	}
	return nil
}

// Extend appends tokens and returns the logits [vocab] after the last of them.
// The slice is overwritten by the next call on any sequence of the session when
// dst is nil; otherwise the result is copied into dst.
func (q *Sequence) Extend(ctx context.Context, tokens []int32, dst []float32) ([]float32, error) {
	if len(tokens) == 0 {
		return nil, fmt.Errorf("runtime: no tokens to extend with: %w", ErrShape)
	}
	if dst == nil {
		dst = make([]float32, q.s.graph.Config.Vocab)
	}
	for len(tokens) > 0 {
		n := min(len(tokens), q.s.plan.MaxRows)
		from := n // no logits
		if n == len(tokens) {
			from = n - 1
		}
		if err := q.step(ctx, tokens[:n], from, dst, nil); err != nil {
			return nil, err
		}
		tokens = tokens[n:]
	}
	return dst, nil
}

// ExtendAll appends tokens and calls f with the logits after each of them, in
// order; the slice is valid only during the call.
func (q *Sequence) ExtendAll(ctx context.Context, tokens []int32, f func(i int, logits []float32) error) error {
	for done := 0; done < len(tokens); {
		n := min(len(tokens)-done, q.s.plan.MaxSelect)
		if err := q.step(ctx, tokens[done:done+n], 0, nil, func(i int, l []float32) error { return f(done+i, l) }); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// step runs up to MaxRows tokens. The logits of rows from, from+1, ... are handed to
// f, or those of one row are copied to dst: a decode step allocates nothing.
func (q *Sequence) step(ctx context.Context, tokens []int32, from int, dst []float32, f func(i int, logits []float32) error) error {
	s := q.s
	s.run.Lock()
	defer s.run.Unlock()
	l := &s.own
	l.Reset()
	logits := len(tokens) - from
	if err := l.Add(q, tokens, logits); err != nil {
		return err
	}
	if err := l.run(ctx); err != nil {
		return err
	}
	if f == nil {
		if logits > 0 {
			copy(dst, l.Logits(0, 0))
		}
		return nil
	}
	for i := range logits {
		if err := f(from+i, l.Logits(0, i)); err != nil {
			return err
		}
	}
	return nil
}
