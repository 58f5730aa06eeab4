package main

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
)

// gateFlags refuse a pruned model that lost too much.
type gateFlags struct {
	MaxLoss     float64 `default:"0" help:"Write nothing if perplexity on --eval-text rises by more than this share (0.1: 10 %). With --mnist or --cifar: keep the last round whose accuracy fell by at most this (0.005: half a point)."`
	EvalText    string  `help:"Text for --max-loss." placeholder:"FILE"`
	EvalWindow  int     `default:"512" help:"Tokens of a window of --eval-text."`
	EvalWindows int     `default:"8" help:"Windows of --eval-text."`
}

// gateJSON is what the gate measured.
type gateJSON struct {
	Before  float64 `json:"perplexity_before"`
	After   float64 `json:"perplexity_after"`
	Loss    float64 `json:"loss"`
	MaxLoss float64 `json:"max_loss"`
}

func (c *gateFlags) check() error {
	switch {
	case c.MaxLoss < 0 || c.MaxLoss != c.MaxLoss:
		return usagef("--max-loss: want 0 or more, got %g", c.MaxLoss)
	case c.MaxLoss > 0 && c.EvalText == "":
		return usagef("--max-loss needs --eval-text FILE")
	}
	return nil
}

// perplexity of a graph as it stands, in f16.
func (c *gateFlags) perplexity(g *globals, gr *model.Graph) (float64, error) {
	text, err := readText(c.EvalText)
	if err != nil {
		return 0, err
	}
	if gr.Tokenizer == nil {
		return 0, fmt.Errorf("%s: no tokenizer in the file", gr.Source.Path)
	}
	b := cpu.New(cpu.Threads(g.Threads))
	defer b.Close()
	s, err := runtime.New(gr, b, runtime.WithOptions(runtime.Options{DType: sparse.F16, Context: c.EvalWindow, Select: 256, Sparse: runtime.SparseOff}))
	if err != nil {
		return 0, err
	}
	defer s.Close()
	p, err := s.Perplexity(g.ctx, gr.Tokenizer.Encode(text, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never}), c.EvalWindow, c.EvalWindows, nil)
	if err != nil {
		return 0, err
	}
	return p.PPL, nil
}

// pass measures the pruned graph against what it had before.
func (c *gateFlags) pass(g *globals, gr *model.Graph, before float64) (*gateJSON, error) {
	after, err := c.perplexity(g, gr)
	if err != nil {
		return nil, err
	}
	r := &gateJSON{before, after, after/before - 1, c.MaxLoss}
	if !(r.Loss <= c.MaxLoss) { // a NaN does not pass either
		return r, fmt.Errorf("perplexity rose from %.2f to %.2f, by %.1f %%: more than the %.1f %% of --max-loss; nothing was written", before, after, 100*r.Loss, 100*c.MaxLoss)
	}
	return r, nil
}
