package engine

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/sparserun/sparserun/runtime"
)

// Pooling says how the hidden states of a prompt become one vector.
type Pooling uint8

// The poolings: the mean over all tokens, or the last token's.
const (
	PoolMean Pooling = iota
	PoolLast
)

// embedding is what a job without a text collects.
type embedding struct {
	pool Pooling
	sum  []float64
	row  []float32
	out  []float32
	err  error
	end  chan struct{}
}

func (m *embedding) done(err error) {
	m.err = err
	close(m.end)
}

// Embed turns each prompt into one vector of length 1: hidden states after the final
// norm, pooled. Prompts share the queue and the steps with requests for text. The
// errors are those of Submit, and those that a Stream may end with.
func (e *Engine) Embed(ctx context.Context, prompts [][]int32, p Pooling) ([][]float32, error) {
	if p > PoolLast {
		return nil, fmt.Errorf("engine: pooling %d: %w", p, runtime.ErrOption)
	}
	if !e.s.Hidden() {
		return nil, fmt.Errorf("engine: embeddings of a session without Options.Hidden: %w", ErrKind)
	}
	cfg := e.s.Graph().Config
	for _, ids := range prompts {
		r := Request{Prompt: ids}
		if err := r.check(cfg.Vocab, e.context); err != nil {
			e.reject("invalid")
			return nil, err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Few at a time: a request of a thousand prompts takes no thousand places.
	jobs := make([]*job, len(prompts))
	fetched := 0
	fetch := func() error {
		m := jobs[fetched].embed
		select {
		case <-m.end:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		fetched++
		return m.err
	}
	for i, ids := range prompts {
		jobs[i] = &job{
			Request: Request{Prompt: ids}, tokens: ids,
			embed: &embedding{pool: p, sum: make([]float64, cfg.Hidden), row: make([]float32, cfg.Hidden), end: make(chan struct{})},
		}
		for {
			err := e.enqueue(ctx, jobs[i])
			if err == nil {
				break
			}
			if !errors.Is(err, ErrFull) || fetched == i {
				return nil, err
			}
			if err := fetch(); err != nil {
				return nil, err
			}
		}
		if i-fetched >= e.o.MaxRunning {
			if err := fetch(); err != nil {
				return nil, err
			}
		}
	}
	out := make([][]float32, len(prompts))
	for fetched < len(jobs) {
		if err := fetch(); err != nil {
			return nil, err
		}
	}
	for i, j := range jobs {
		out[i] = j.embed.out
	}
	return out, nil
}

// embedded takes in the hidden states of the step at hand.
func (e *Engine) embedded(j *job) {
	m := j.embed
	for i := range j.chunk {
		last := j.left() == 0 && i == j.chunk-1
		if m.pool == PoolLast && !last {
			continue
		}
		e.step.Hidden(j.part, i, m.row)
		for c, v := range m.row {
			m.sum[c] += float64(v)
		}
	}
	if j.left() > 0 {
		return
	}
	var norm float64
	for _, v := range m.sum {
		norm += v * v
	}
	norm = math.Sqrt(norm)
	m.out = make([]float32, len(m.sum))
	for c, v := range m.sum {
		if norm > 0 {
			m.out[c] = float32(v / norm)
		}
	}
	e.mu.Lock()
	e.st.Embeddings++
	e.finished(j, "", time.Now())
	e.mu.Unlock()
	e.drop(j)
	e.end(j, nil, "")
	m.done(nil)
}
