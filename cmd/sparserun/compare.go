package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tokenizer"
)

// contender is one execution that is compared: a model in a form.
type contender struct {
	label string
	path  string
	mode  string // of --sparse
	side  *sideJSON
	text  string
	res   *runtime.Result
	s     *runtime.Session

	prefill, decode []float64 // tokens/s by round
	between         runtime.Latencies
	joules          float64
	metered         string
	windows         int // that perplexity was measured on
}

// compare runs the model dense and sparse, and the baseline if there is one: first
// each alone, for its memory and its start, then alternating, for its speed.
func (c *runCmd) compare(g *globals, b runtime.Backend) error {
	mode := c.Sparse
	if mode == "off" || mode == "dense" {
		return usagef("--compare runs sparse beside dense: --sparse %s leaves nothing to compare", mode)
	}
	sides := []*contender{{label: "dense", path: c.Model, mode: "off"}, {label: "sparse", path: c.Model, mode: mode}}
	if c.Baseline != "" {
		sides = append([]*contender{{label: "original", path: c.Baseline, mode: "off"}}, sides...)
	}
	for _, x := range sides {
		g.logf("%s: %s", x.label, x.path)
		if err := c.alone(g, b, x); err != nil {
			return err
		}
	}
	defer func() {
		for _, x := range sides {
			if x.s != nil {
				x.s.Close()
			}
		}
	}()
	for _, x := range sides {
		var err error
		if x.s, err = c.session(g, b, x.path, x.mode, c.chunk); err != nil {
			return err
		}
	}
	for r := range c.Rounds {
		for _, x := range sides {
			if err := c.round(g, b, x, r == 0); err != nil {
				return err
			}
		}
	}
	out := runJSON{Energy: "not measured"}
	for _, x := range sides {
		x.side.Prefill, x.side.Decode = median(x.prefill), median(x.decode)
		x.side.Latency = quantiles(&x.between)
		if x.metered != "" {
			x.side.EnergyJ = &x.joules
			out.Energy = x.metered + ", joules of the timed rounds"
		}
		if c.Text != "" {
			g.logf("%s: perplexity", x.label)
			p, err := c.perplexity(g, x.s)
			if err != nil {
				return err
			}
			x.side.Perplexity, x.windows = p.PPL, p.Windows
		}
	}
	dense, sp := sides[len(sides)-2], sides[len(sides)-1]
	maxErr, tol, err := c.difference(g, dense.s, sp.s)
	if err != nil {
		return err
	}
	out.Text, out.DenseText = sp.text, dense.text
	out.Tokens, out.Finish = len(sp.res.Tokens), sp.res.Finish
	out.Dense, out.Sparse = dense.side, sp.side
	out.Speedup = &speedup{sp.side.Prefill / dense.side.Prefill, sp.side.Decode / dense.side.Decode}
	out.MemoryRatio = float64(sp.side.WeightBytes) / float64(dense.side.WeightBytes)
	out.MaxAbsError, out.Tolerance = &maxErr, tol
	if len(sides) == 3 {
		out.Baseline, out.BaseText = sides[0].side, sides[0].text
	}
	if c.Explain {
		out.Explain = sp.s.Explain()
	}
	if err := g.print(out, func(w io.Writer) { c.report(w, sides, &out) }); err != nil {
		return err
	}
	if c.Explain && !g.JSON {
		explain(g.stdout, sp.s.Explain())
	}
	if maxErr > tol {
		return fmt.Errorf("dense and sparse outputs of the same weights differ by %.3g, more than %.3g", maxErr, tol)
	}
	return nil
}

// chunk makes room for logits of whole chunks, which perplexity wants.
func (c *runCmd) chunk(o *runtime.Options) { o.Select = 128 }

// alone loads one contender by itself, writes its text and measures its memory.
func (c *runCmd) alone(g *globals, b runtime.Backend, x *contender) error {
	before, _ := runtime.RSS()
	reset := runtime.ResetPeakRSS()
	start := time.Now()
	s, err := c.session(g, b, x.path, x.mode, nil)
	if err != nil {
		return err
	}
	defer s.Close()
	load := time.Since(start)
	x.res, err = c.generate(g, s, runtime.GenerateOptions{Sampling: c.sampling(), MaxTokens: c.Tokens, Stop: c.Stop})
	if err != nil {
		return err
	}
	x.text = x.res.Text
	x.side = newSide(x.path, c.DType, s)
	x.side.LoadSeconds = load.Seconds()
	x.side.FirstSeconds = load.Seconds() + x.res.First.Seconds()
	if p, ok := runtime.PeakRSS(); ok && reset {
		x.side.PeakBytes = p - min(before, baseRSS)
	}
	return nil
}

// baseRSS is what the process held before its first model: code and tables that
// are counted once, not per model.
var baseRSS = func() int64 { n, _ := runtime.RSS(); return n }()

// round times one prefill and one decode run.
func (c *runCmd) round(g *globals, b runtime.Backend, x *contender, warm bool) error {
	ids := c.promptIDs(x.s, c.Prefill)
	if warm { // touch every page and settle clocks once before anything is timed
		if _, err := x.s.GenerateTokens(g.ctx, ids, runtime.GenerateOptions{MaxTokens: 2, IgnoreEOS: true}); err != nil {
			return err
		}
	}
	x.s.ResetCounters()
	meter := openMeter(b)
	if _, err := x.s.GenerateTokens(g.ctx, ids, runtime.GenerateOptions{MaxTokens: 1, IgnoreEOS: true}); err != nil {
		return err
	}
	if _, err := x.s.GenerateTokens(g.ctx, ids[:min(len(ids), 8)], runtime.GenerateOptions{MaxTokens: c.Tokens, IgnoreEOS: true}); err != nil {
		return err
	}
	if j, source := meter.joules(); source != "" {
		x.joules += j
		x.metered = source
	}
	cnt := x.s.Counters()
	x.prefill = append(x.prefill, cnt.TokensPerSecond(runtime.Prefill))
	x.decode = append(x.decode, cnt.TokensPerSecond(runtime.Decode))
	x.side.KVBytes = max(x.side.KVBytes, cnt.Memory.KVUsed)
	x.between.Merge(&cnt.Between)
	return nil
}

// promptIDs repeats the prompt's tokens up to n.
func (c *runCmd) promptIDs(s *runtime.Session, n int) []int32 {
	ids := s.Graph().Tokenizer.Encode(c.Prompt, tokenizer.EncodeOptions{})
	if len(ids) == 0 {
		ids = []int32{0}
	}
	n = max(1, min(n, s.Context()-c.Tokens-1, s.Graph().Config.Context-c.Tokens-1))
	out := make([]int32, n)
	for i := range out {
		out[i] = ids[i%len(ids)]
	}
	return out
}

func (c *runCmd) perplexity(g *globals, s *runtime.Session) (*runtime.Perplexity, error) {
	text, err := readText(c.Text)
	if err != nil {
		return nil, err
	}
	ids := s.Graph().Tokenizer.Encode(text, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
	bar := g.progress(c.Windows, "perplexity")
	defer bar.done()
	return s.Perplexity(g.ctx, ids, c.Window, c.Windows, func(done, _ int, _ float64) { bar.set(done, "") })
}

// relTolerance is how far logits of the same weights may differ between a dense
// and a sparse form, as a share of the largest logit. Both multiply the same
// stored numbers; they differ in the order of the sums, and with int8 activations
// a sum that falls on the other side of a rounding step moves a code by one.
func relTolerance(dtype string) float64 {
	switch dtype {
	case "int8", "int4":
		return 0.05
	}
	return 0.002
}

// difference is the largest difference of logits over the prompt, and what is allowed.
func (c *runCmd) difference(g *globals, a, b *runtime.Session) (maxErr, tol float64, err error) {
	ids := c.promptIDs(a, 32)
	la, err := allLogits(g, a, ids)
	if err != nil {
		return 0, 0, err
	}
	lb, err := allLogits(g, b, ids)
	if err != nil {
		return 0, 0, err
	}
	var top float64
	for i, x := range la {
		maxErr = max(maxErr, math.Abs(float64(x-lb[i])))
		top = max(top, math.Abs(float64(x)))
	}
	return maxErr, relTolerance(c.DType) * top, nil
}

func allLogits(g *globals, s *runtime.Session, ids []int32) ([]float32, error) {
	q := s.NewSequence()
	defer q.Close()
	var out []float32
	err := q.ExtendAll(g.ctx, ids, func(_ int, l []float32) error {
		out = append(out, l...)
		return nil
	})
	return out, err
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	s := slices.Clone(x)
	slices.Sort(s)
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// noneSparse is said of a comparison whose two sides are the same.
const noneSparse = "no layer runs sparse here (--explain says why): both sides are dense, what differs is noise."

// report prints texts and table for people.
func (c *runCmd) report(w io.Writer, sides []*contender, out *runJSON) {
	for _, x := range sides {
		fmt.Fprintf(w, "--- %s (%s, %s)\n%s%s\n", x.label, x.path, x.side.layoutLine(), c.Prompt, x.text)
	}
	fmt.Fprintln(w)
	t := table{}
	row := func(name string, f func(*contender) string) {
		cells := []string{name}
		for _, x := range sides {
			cells = append(cells, f(x))
		}
		t.add(cells...)
	}
	dense, sp := sides[len(sides)-2].side, sides[len(sides)-1].side
	withRatio := func(ratio string) {
		last := len(t.rows) - 1
		t.rows[last] = append(t.rows[last], ratio)
	}
	row("weights in "+c.DType, func(x *contender) string { return x.label })
	withRatio("sparse / dense")
	row("weights", func(x *contender) string { return size(x.side.WeightBytes) })
	withRatio(fmt.Sprintf("%.3f", out.MemoryRatio))
	row("  of them prunable layers", func(x *contender) string { return size(x.side.LinearBytes) })
	withRatio(fmt.Sprintf("%.4f", float64(sp.LinearBytes)/float64(dense.LinearBytes)))
	row("KV cache used", func(x *contender) string { return size(x.side.KVBytes) })
	row("peak memory", func(x *contender) string {
		if x.side.PeakBytes == 0 {
			return "not measured"
		}
		return size(x.side.PeakBytes)
	})
	if dense.PeakBytes > 0 {
		withRatio(fmt.Sprintf("%.3f", float64(sp.PeakBytes)/float64(dense.PeakBytes)))
	}
	row("load to first token", func(x *contender) string { return fmt.Sprintf("%.2f s", x.side.FirstSeconds) })
	row("prefill tokens/s", func(x *contender) string { return fmt.Sprintf("%.1f", x.side.Prefill) })
	withRatio(fmt.Sprintf("%.2f", out.Speedup.Prefill))
	row("decode tokens/s", func(x *contender) string { return fmt.Sprintf("%.1f", x.side.Decode) })
	withRatio(fmt.Sprintf("%.2f", out.Speedup.Decode))
	for _, q := range []string{"p50", "p95", "p99"} {
		row("latency "+q, func(x *contender) string { return fmt.Sprintf("%.2f ms", x.side.Latency[q]) })
		withRatio(fmt.Sprintf("%.2f", sp.Latency[q]/dense.Latency[q]))
	}
	row("energy", func(x *contender) string {
		if x.side.EnergyJ == nil {
			return "not measured"
		}
		return fmt.Sprintf("%.1f J", *x.side.EnergyJ)
	})
	if c.Text != "" {
		row(fmt.Sprintf("perplexity (%d x %d)", sides[0].windows, c.Window), func(x *contender) string { return fmt.Sprintf("%.2f", x.side.Perplexity) })
	}
	t.write(w)
	fmt.Fprintf(w, "\ndense and sparse run the same weights; largest difference of their logits %.2g (allowed %.2g). Medians of %d alternating rounds.\n",
		*out.MaxAbsError, out.Tolerance, c.Rounds)
	if !anySparse(sp.Layouts) {
		fmt.Fprintln(w, noneSparse)
		return
	}
	if out.Speedup.Decode < 1 {
		fmt.Fprintln(w, "sparse LOSES in decode here.")
	}
	if out.Speedup.Prefill < 1 {
		fmt.Fprintln(w, "sparse LOSES in prefill here.")
	}
}
