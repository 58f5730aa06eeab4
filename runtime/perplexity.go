package runtime

import (
	"context"
	"fmt"
	"math"
)

// Perplexity is the quality of a language model on a text.
type Perplexity struct {
	PPL     float64 // exp(NLL)
	NLL     float64 // mean negative log-likelihood of a token, in nats
	Tokens  int     // predicted
	Windows int
	Window  int // tokens of a window
}

// Perplexity measures non-overlapping windows of the given number of tokens; each
// window is a sequence of its own whose first token is not predicted. windows
// limits their number, 0 takes all; a shorter rest is left out. progress, if not
// nil, is called after every window.
func (s *Session) Perplexity(ctx context.Context, ids []int32, window, windows int, progress func(done, total int, ppl float64)) (*Perplexity, error) {
	if s.graph.Config == nil {
		return nil, fmt.Errorf("runtime: perplexity of %s, which is no language model: %w", s.graph.Name, ErrUnsupported)
	}
	if window < 2 || window > s.graph.Config.Context {
		return nil, fmt.Errorf("runtime: window: want 2..%d tokens, got %d: %w", s.graph.Config.Context, window, ErrOption)
	}
	n := len(ids) / window
	if windows > 0 {
		n = min(n, windows)
	}
	if n == 0 {
		return nil, fmt.Errorf("runtime: text of %d tokens is shorter than a window of %d: %w", len(ids), window, ErrOption)
	}
	p := &Perplexity{Window: window}
	var sum float64
	for w := range n {
		nll, err := s.windowNLL(ctx, ids[w*window:(w+1)*window])
		if err != nil {
			return nil, err
		}
		sum += nll
		p.Tokens += window - 1
		p.Windows++
		p.NLL = sum / float64(p.Tokens)
		p.PPL = math.Exp(p.NLL)
		if progress != nil {
			progress(w+1, n, p.PPL)
		}
	}
	return p, nil
}

func (s *Session) windowNLL(ctx context.Context, ids []int32) (float64, error) {
	q := s.NewSequence()
	defer q.Close()
	var sum float64
	err := q.ExtendAll(ctx, ids[:len(ids)-1], func(i int, logits []float32) error {
		sum += NLL(logits, ids[i+1])
		return nil
	})
	return sum, err
}

// NLL is the negative log-likelihood of token id under softmax(logits), in nats.
func NLL(logits []float32, id int32) float64 {
	best := logits[Argmax(logits)]
	var z float64
	for _, l := range logits {
		z += math.Exp(float64(l - best))
	}
	return math.Log(z) - float64(logits[id]-best)
}
