package main

import (
	"fmt"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
)

// speedFlags are how a sweep times its models.
type speedFlags struct {
	Speed       bool   `help:"Also time prefill (512 tokens) and decode (32 tokens) of the kept models, in --speed-dtype or, where they are quantised, as they are."`
	SpeedDType  string `name:"speed-dtype" enum:"f32,f16,bf16,int8,int4" default:"f16" help:"Type that unquantised models are timed in."`
	SpeedRounds int    `name:"speed-rounds" default:"3" help:"Rounds over all models; the median counts."`
}

// speeds times every cell, all of them in turn, round by round, so that a
// disturbance of the machine does not fall on one of them.
func (s *sweep) speeds(cells []cell) error {
	prefill, decode := make([][]float64, len(cells)), make([][]float64, len(cells))
	bar := s.g.progress(s.cmd.SpeedRounds*len(cells), "speed")
	defer bar.done()
	for round := range s.cmd.SpeedRounds {
		for i, x := range cells {
			bar.set(round*len(cells)+i, x.String())
			p, d, err := s.speed(x, &s.out.Rows[i])
			if err != nil {
				return fmt.Errorf("%s: %w", x, err)
			}
			prefill[i], decode[i] = append(prefill[i], p), append(decode[i], d)
		}
	}
	for i, x := range cells {
		r := &s.out.Rows[i]
		r.Prefill, r.Decode = median(prefill[i]), median(decode[i])
		var e journalEntry
		if path := s.path("cells", x, ".json"); readJSON(path, &e) {
			e.Row = *r
			if err := writeJSON(path, e); err != nil {
				return err
			}
		}
	}
	return nil
}

// speed runs one cell once.
func (s *sweep) speed(x cell, row *sweepRow) (prefill, decode float64, err error) {
	path := s.cmd.Model
	if x.prunes() {
		path = s.path("models", x, ".safetensors")
	}
	gr, err := loader.Open(path, s.cmd.loadOptions()...)
	if err != nil {
		return 0, 0, err
	}
	defer gr.Close()
	e := s.cmd.engine
	e.DType = s.cmd.SpeedDType
	if t, group, ok := quantisation(gr); ok {
		e.DType, e.Group = t.String(), group
	}
	run, err := e.compile(gr, s.backend, e.Sparse, func(o *runtime.Options) { o.Context = 1024 })
	if err != nil {
		return 0, 0, err
	}
	defer run.Close()
	row.SpeedType, row.SpeedBytes = e.DType, run.Counters().Memory.Weights.Total()
	ids := gr.Tokenizer.Encode(s.text, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
	// Where the context is short, half of it: the rest is for decoding.
	prompt := min(512, len(ids), max(gr.Config.Context-40, gr.Config.Context/2))
	if _, err := run.GenerateTokens(s.g.ctx, ids[:min(16, prompt)], runtime.GenerateOptions{MaxTokens: 4, IgnoreEOS: true}); err != nil { // warm
		return 0, 0, err
	}
	run.ResetCounters()
	if _, err := run.GenerateTokens(s.g.ctx, ids[:prompt], runtime.GenerateOptions{MaxTokens: 33, IgnoreEOS: true}); err != nil {
		return 0, 0, err
	}
	cnt := run.Counters()
	return cnt.TokensPerSecond(runtime.Prefill), cnt.TokensPerSecond(runtime.Decode), nil
}

// quantisation is the type and group of the Linear layers, where the file has codes of
// its own, which run as they are: symmetric ones, and dense int4 with zero points.
func quantisation(gr *model.Graph) (sparse.DType, int, bool) {
	linears := gr.Linears()
	if len(linears) == 0 {
		return 0, 0, false
	}
	m, err := sparse.Load(linears[0].Weight.Data) // all are stored alike
	if err != nil {
		return 0, 0, false
	}
	q := sparse.QuantOf(m)
	if t := m.DType(); q != nil && (t == sparse.Int8 || t == sparse.Int4) && (q.Zeros == nil || t == sparse.Int4 && m.Layout() == sparse.LayoutDense) {
		return t, q.Group, true
	}
	return 0, 0, false
}
