package runtime

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/sparserun/sparserun/tokenizer"
)

// GenerateOptions say how text is continued. The zero value writes 128 tokens
// greedily.
type GenerateOptions struct {
	Sampling
	MaxTokens int      // 0: 128, or what the context leaves
	Stop      []string // the text ends before the first of these
	IgnoreEOS bool     // go on after an end token (benchmarks)
	RawPrompt bool     // no special tokens parsed in the prompt, no BOS added
	// Stream receives text as it becomes certain: whole UTF-8, never part of a stop
	// string. An error it returns stops generation and is returned.
	Stream func(text string) error
}

// Result is what Generate wrote.
type Result struct {
	Text       string
	Prompt     []int32
	Tokens     []int32
	Finish     string        // "stop": end token or stop string; "length"
	First      time.Duration // from the call to the first token
	PromptTime time.Duration
	DecodeTime time.Duration
}

// Generate continues a prompt.
func (s *Session) Generate(ctx context.Context, prompt string, o GenerateOptions) (*Result, error) {
	t := s.graph.Tokenizer
	if t == nil {
		return nil, fmt.Errorf("runtime: %s has no tokenizer: %w", s.graph.Name, ErrUnsupported)
	}
	enc := tokenizer.EncodeOptions{ParseSpecial: !o.RawPrompt}
	if o.RawPrompt {
		enc.BOS, enc.EOS = tokenizer.Never, tokenizer.Never
	}
	ids := t.Encode(prompt, enc)
	if len(ids) == 0 { // something must be predicted from
		if t.BOS() < 0 {
			return nil, fmt.Errorf("runtime: empty prompt: %w", ErrOption)
		}
		ids = []int32{int32(t.BOS())}
	}
	return s.GenerateTokens(ctx, ids, o)
}

// GenerateTokens continues a prompt of token ids.
func (s *Session) GenerateTokens(ctx context.Context, prompt []int32, o GenerateOptions) (*Result, error) {
	start := time.Now()
	if s.graph.Config == nil {
		return nil, fmt.Errorf("runtime: %s is no language model: %w", s.graph.Name, ErrUnsupported)
	}
	if o.MaxTokens < 0 || o.MaxTokens > 1<<20 {
		return nil, fmt.Errorf("runtime: max tokens: want 0..%d, got %d: %w", 1<<20, o.MaxTokens, ErrOption)
	}
	sampler, err := NewSampler(o.Sampling)
	if err != nil {
		return nil, err
	}
	limit := min(s.graph.Config.Context, s.Context())
	if len(prompt) >= limit {
		return nil, fmt.Errorf("runtime: prompt of %d tokens, context of %d: %w", len(prompt), limit, ErrContext)
	}
	n := o.MaxTokens
	if n == 0 {
		n = 128
	}
	n = min(n, limit-len(prompt))

	q := s.NewSequence()
	defer q.Close()
	logits, err := q.Extend(ctx, prompt, nil)
	if err != nil {
		return nil, err
	}
	r := &Result{Prompt: prompt, Finish: "length"}
	r.PromptTime = time.Since(start)
	for _, id := range prompt {
		sampler.Accept(id)
	}
	text := NewTextOut(s.graph.Tokenizer, o.Stop)
	var all strings.Builder
	emit := func(piece string) error {
		all.WriteString(piece)
		if piece != "" && o.Stream != nil {
			return o.Stream(piece)
		}
		return nil
	}
	last := start
	for len(r.Tokens) < n {
		id := sampler.Next(logits)
		now := time.Now()
		s.mu.Lock()
		if len(r.Tokens) == 0 {
			r.First = now.Sub(start)
			s.counters.First.Add(r.First)
		} else {
			s.counters.Between.Add(now.Sub(last))
		}
		s.mu.Unlock()
		last = now
		r.Tokens = append(r.Tokens, id)
		if t := s.graph.Tokenizer; t != nil && t.IsEOG(id) && !o.IgnoreEOS {
			r.Finish = "stop"
			break
		}
		piece, stopped := text.Push(id)
		if err := emit(piece); err != nil {
			return nil, err
		}
		if stopped {
			r.Finish = "stop"
			break
		}
		sampler.Accept(id)
		if len(r.Tokens) == n {
			break
		}
		if _, err := q.Extend(ctx, []int32{id}, logits); err != nil {
			return nil, err
		}
	}
	r.DecodeTime = time.Since(start) - r.PromptTime
	piece, _ := text.Flush()
	err = emit(piece)
	r.Text = all.String()
	return r, err
}
