package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/sparserun/sparserun/model"
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
		q.s.free = append(q.s.free, q.pages[keep:]...)
		q.s.mu.Unlock()
		q.pages = q.pages[:keep]
	}
}

// grow reserves pages for n tokens in all.
func (q *Sequence) grow(n int) error {
	limit := q.s.graph.Config.Context
	if n > limit {
		return fmt.Errorf("runtime: %d tokens, the model's context is %d: %w", n, limit, ErrContext)
	}
	need := (n + q.s.plan.KV.PageTokens - 1) / q.s.plan.KV.PageTokens
	q.s.mu.Lock()
	defer q.s.mu.Unlock()
	more := need - len(q.pages)
	if more > len(q.s.free) {
		return fmt.Errorf("runtime: %d tokens: %d pages of KV cache wanted, %d free: %w", n, more, len(q.s.free), ErrContext)
	}
	for ; more > 0; more-- {
		last := len(q.s.free) - 1
		q.pages = append(q.pages, q.s.free[last])
		q.s.free = q.s.free[:last]
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
	if err := q.grow(q.n + len(tokens)); err != nil {
		return err
	}
	s := q.s
	s.run.Lock()
	defer s.run.Unlock()
	if s.closed {
		return fmt.Errorf("runtime: session: %w", ErrClosed)
	}
	in := &s.in
	for i := range in {
		in[i] = in[i][:0]
	}
	for i, t := range tokens {
		in[model.InTokens] = append(in[model.InTokens], t)
		in[model.InPos] = append(in[model.InPos], int32(q.n+i))
		in[model.InSeq] = append(in[model.InSeq], 0)
		if i >= from {
			in[model.InSelect] = append(in[model.InSelect], int32(i))
		}
	}
	in[model.InTables] = append(in[model.InTables], q.pages...)
	vocab, logits := s.graph.Config.Vocab, len(tokens)-from
	if cap(s.out) < logits*vocab {
		s.out = make([]float32, logits*vocab)
	}
	out := s.out[:logits*vocab]
	for i := range in {
		s.views[i] = View{Rows: len(in[i]), Cols: 1, I32: in[i]}
	}
	s.views[model.InTables] = View{Rows: 1, Cols: len(q.pages), I32: in[model.InTables]}
	s.result[0] = View{Rows: logits, Cols: vocab, F32: out}
	phase := Prefill
	if len(tokens) == 1 {
		phase = Decode
	}
	start := time.Now()
	c := &s.tally
	clear(c.Ops)
	c.Tokens, c.Time = [phases]int64{}, [phases]time.Duration{}
	if err := s.prog.Run(ctx, s.views[:], s.result[:], c); err != nil {
		return err
	}
	c.Tokens[phase] += int64(len(tokens))
	c.Time[phase] += time.Since(start)
	q.n += len(tokens)
	s.mu.Lock()
	s.counters.Merge(c)
	s.mu.Unlock()
	if f == nil {
		copy(dst, out)
		return nil
	}
	for i := range logits {
		if err := f(from+i, out[i*vocab:(i+1)*vocab]); err != nil {
			return err
		}
	}
	return nil
}
