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
	text := newTextOut(s, o)
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
		stopped, err := text.push(id)
		if err != nil {
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
	err = text.flush()
	r.Text = text.all.String()
	return r, err
}

// textOut turns tokens into text, holding back what may still become part of a
// character or of a stop string.
type textOut struct {
	dec  *tokenizer.Decoder
	o    GenerateOptions
	held string
	all  strings.Builder
}

func newTextOut(s *Session, o GenerateOptions) *textOut {
	t := &textOut{o: o}
	if s.graph.Tokenizer != nil {
		t.dec = s.graph.Tokenizer.NewDecoder()
	}
	return t
}

func (t *textOut) push(id int32) (stopped bool, err error) {
	if t.dec == nil {
		return false, nil
	}
	return t.add(t.dec.Push(id))
}

func (t *textOut) add(text string) (stopped bool, err error) {
	t.held += text
	keep := 0 // bytes at the end that a stop string may begin with
	for _, stop := range t.o.Stop {
		if stop == "" {
			continue
		}
		if i := strings.Index(t.held, stop); i >= 0 {
			t.held = t.held[:i]
			stopped = true
		}
		for k := min(len(stop)-1, len(t.held)); k > keep; k-- {
			if strings.HasSuffix(t.held, stop[:k]) {
				keep = k
			}
		}
	}
	if stopped {
		keep = 0
	}
	return stopped, t.emit(len(t.held) - keep)
}

func (t *textOut) emit(n int) error {
	out := t.held[:n]
	t.held = t.held[n:]
	t.all.WriteString(out)
	if out != "" && t.o.Stream != nil {
		return t.o.Stream(out)
	}
	return nil
}

func (t *textOut) flush() error {
	if t.dec == nil {
		return nil
	}
	stopped, err := t.add(t.dec.Flush())
	if err != nil || stopped {
		return err
	}
	return t.emit(len(t.held))
}
