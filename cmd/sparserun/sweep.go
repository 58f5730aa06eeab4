package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
)

// sweepCmd prunes one model in many ways and compares quality, size and speed.
type sweepCmd struct {
	Model string `arg:"" help:"Model file or folder."`
	engine
	Text    string   `required:"" help:"Text that perplexity is measured on." placeholder:"FILE"`
	Window  int      `default:"512" help:"Tokens of a window."`
	Windows int      `default:"40" help:"Number of windows."`
	Methods []string `default:"random,magnitude,wanda,sparsegpt,best" help:"Methods; see prune --help."`
	Levels  []string `default:"0.5,2:4" help:"Sparsities (0.5) and patterns (2:4)."`
	Seed    uint64   `default:"0" help:"Of random pruning."`
	Out     string   `help:"Folder for sweep.md, sweep.csv, sweep.json and sweep.png." placeholder:"DIR"`
	Speed   bool     `help:"Also time prefill (256 tokens) and decode (32 tokens)."`
	calibFlags
}

// Help is shown by --help below the flags' head.
func (*sweepCmd) Help() string {
	return `Every method at every level starts from the model as it is; the first row is the model itself.

Examples:
  sparserun sweep model.gguf --text test.txt --calib valid.txt
  sparserun sweep model.gguf --text test.txt --calib valid.txt --methods wanda,best --levels 0.5,0.7,2:4 --speed --out sweep/`
}

type sweepRow struct {
	Method     string  `json:"method"`
	Level      string  `json:"level"`
	Sparsity   float64 `json:"sparsity"`
	Perplexity float64 `json:"perplexity"`
	Bytes      int64   `json:"weight_bytes"` // as it runs
	Pruned     int64   `json:"pruned_bytes"` // of the layers that were pruned, as stored
	F16        int64   `json:"f16_bytes"`    // those layers, dense in 16 bits
	Seconds    float64 `json:"prune_seconds"`
	Peak       int64   `json:"prune_peak_bytes,omitempty"`
	Prefill    float64 `json:"prefill_tokens_per_s,omitempty"`
	Decode     float64 `json:"decode_tokens_per_s,omitempty"`
}

type sweepJSON struct {
	Model       string             `json:"model"`
	DType       string             `json:"dtype"`
	Text        string             `json:"text"`
	Window      int                `json:"window"`
	Windows     int                `json:"windows"`
	Calibration *prune.Calibration `json:"calibration,omitempty"`
	Rows        []sweepRow         `json:"rows"`
}

func (c *sweepCmd) Run(g *globals) error {
	text, err := readText(c.Text)
	if err != nil {
		return err
	}
	var patterns []prune.Pattern
	for _, l := range c.Levels {
		p, err := prune.ParsePattern(l)
		if err != nil {
			return usageError{err}
		}
		patterns = append(patterns, p)
	}
	b, err := c.backend(g)
	if err != nil {
		return err
	}
	defer b.Close()
	out := sweepJSON{Model: c.Model, DType: c.DType, Text: c.Text, Window: c.Window, Windows: c.Windows}
	bar := g.progress(1+len(c.Methods)*len(patterns), "sweep")
	defer bar.done()
	row, _, err := c.one(g, b, text, "dense", nil)
	if err != nil {
		return err
	}
	out.Rows = append(out.Rows, row)
	for i, name := range c.Methods {
		for j, p := range patterns {
			bar.set(i*len(patterns)+j+1, name+" "+p.String())
			row, calib, err := c.one(g, b, text, name, p)
			if err != nil {
				return fmt.Errorf("%s %s: %w", name, p, err)
			}
			if calib != nil {
				out.Calibration = calib
			}
			out.Rows = append(out.Rows, row)
			g.logf("%-12s %-6s perplexity %.2f, %.0f s", name, p, row.Perplexity, row.Seconds)
		}
	}
	if c.Out != "" {
		if err := out.save(c.Out); err != nil {
			return err
		}
	}
	return g.print(out, out.markdown)
}

// one prunes a fresh copy of the model (p nil: not at all) and measures it.
func (c *sweepCmd) one(g *globals, b runtime.Backend, text, name string, p prune.Pattern) (row sweepRow, calib *prune.Calibration, err error) {
	row = sweepRow{Method: name, Level: "-"}
	gr, err := loader.Open(c.Model, c.loadOptions()...)
	if err != nil {
		return row, nil, err
	}
	defer gr.Close()
	if p != nil {
		m, err := c.method(gr, name, c.Seed)
		if err != nil {
			return row, nil, err
		}
		rep, err := prune.Run(g.ctx, gr, m, p, prune.Options{Store: prune.Store{DType: sparse.F16}, Threads: g.Threads})
		if err != nil {
			return row, nil, err
		}
		row.Level, row.Sparsity, row.Seconds, row.Peak = p.String(), rep.Sparsity, rep.Seconds, rep.PeakBytes
		row.Pruned, row.F16 = rep.After.Pruned, rep.After.F16
		calib = rep.Calibration
	}
	s, err := c.compile(gr, b, c.Sparse, func(o *runtime.Options) {
		o.Select = 256
		if o.Context == 0 {
			o.Context = max(c.Window, 512)
		}
	})
	if err != nil {
		return row, nil, err
	}
	defer s.Close()
	row.Bytes = s.Counters().Memory.Weights.Total()
	if gr.Tokenizer == nil {
		return row, nil, fmt.Errorf("%s: no tokenizer in the file", c.Model)
	}
	ids := gr.Tokenizer.Encode(text, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
	ppl, err := s.Perplexity(g.ctx, ids, c.Window, c.Windows, nil)
	if err != nil {
		return row, nil, err
	}
	row.Perplexity = ppl.PPL
	if c.Speed {
		s.ResetCounters()
		if _, err := s.GenerateTokens(g.ctx, ids[:min(256, len(ids))], runtime.GenerateOptions{MaxTokens: 33, IgnoreEOS: true}); err != nil {
			return row, nil, err
		}
		cnt := s.Counters()
		row.Prefill, row.Decode = cnt.TokensPerSecond(runtime.Prefill), cnt.TokensPerSecond(runtime.Decode)
	}
	return row, calib, nil
}

func (o *sweepJSON) markdown(w io.Writer) {
	fmt.Fprintf(w, "%s in %s; perplexity on the first %d windows of %d tokens of %s", o.Model, o.DType, o.Windows, o.Window, filepath.Base(o.Text))
	if c := o.Calibration; c != nil {
		fmt.Fprintf(w, "; calibrated on %d x %d tokens (ids SHA-256 %.12s...)", c.Windows, c.Window, c.SHA256)
	}
	fmt.Fprint(w, ". Sparsity and bits count the pruned layers only.\n\n")
	t := table{}
	t.add("method", "level", "sparsity", "perplexity", "bits/weight stored", "weights as run", "prune s", "prefill tokens/s", "decode tokens/s")
	for _, r := range o.Rows {
		bits, speed := "16", [2]string{"-", "-"}
		if r.F16 > 0 {
			bits = fmt.Sprintf("%.2f", 16*float64(r.Pruned)/float64(r.F16))
		}
		if r.Decode > 0 {
			speed = [2]string{fmt.Sprintf("%.0f", r.Prefill), fmt.Sprintf("%.1f", r.Decode)}
		}
		t.add(r.Method, r.Level, percent(r.Sparsity), fmt.Sprintf("%.2f", r.Perplexity), bits, size(r.Bytes), fmt.Sprintf("%.0f", r.Seconds), speed[0], speed[1])
	}
	t.write(w)
}

// save writes the table in every form; existing files are replaced.
func (o *sweepJSON) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]func(io.Writer) error{
		"sweep.md":   func(w io.Writer) error { o.markdown(w); return nil },
		"sweep.json": func(w io.Writer) error { return json.NewEncoder(w).Encode(o) },
		"sweep.csv":  o.csv,
	}
	for name, f := range files {
		if err := writeFile(filepath.Join(dir, name), f); err != nil {
			return err
		}
	}
	return o.plot(filepath.Join(dir, "sweep.png"))
}

func writeFile(path string, f func(io.Writer) error) error {
	w, err := os.Create(path)
	if err != nil {
		return err
	}
	err = f(w)
	if e := w.Close(); err == nil {
		err = e
	}
	return err
}

func (o *sweepJSON) csv(w io.Writer) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"method", "level", "sparsity", "perplexity", "weight_bytes", "pruned_bytes", "f16_bytes", "prune_seconds", "prefill_tokens_per_s", "decode_tokens_per_s"})
	f := func(x float64) string { return strconv.FormatFloat(x, 'g', 8, 64) }
	for _, r := range o.Rows {
		_ = c.Write([]string{r.Method, r.Level, f(r.Sparsity), f(r.Perplexity), strconv.FormatInt(r.Bytes, 10), strconv.FormatInt(r.Pruned, 10), strconv.FormatInt(r.F16, 10), f(r.Seconds), f(r.Prefill), f(r.Decode)})
	}
	c.Flush()
	return c.Error()
}

// plot draws perplexity against sparsity, a line for each method.
func (o *sweepJSON) plot(path string) error {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s, %d x %d tokens, %s", filepath.Base(o.Model), o.Windows, o.Window, time.Now().UTC().Format("2006-01-02"))
	p.X.Label.Text, p.Y.Label.Text = "sparsity of the pruned layers", "perplexity"
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	lines := map[string]plotter.XYs{}
	var order []string
	for _, r := range o.Rows {
		if math.IsInf(r.Perplexity, 0) || math.IsNaN(r.Perplexity) {
			continue
		}
		name := r.Method
		if _, err := strconv.ParseFloat(r.Level, 64); r.Level != "-" && err != nil {
			name += " " + r.Level // patterns are points of their own
		}
		if lines[name] == nil {
			order = append(order, name)
		}
		lines[name] = append(lines[name], plotter.XY{X: r.Sparsity, Y: r.Perplexity})
	}
	var args []any
	for _, name := range order {
		args = append(args, name, lines[name])
	}
	if err := plotutil.AddLinePoints(p, args...); err != nil {
		return err
	}
	return p.Save(18*vg.Centimeter, 12*vg.Centimeter, path)
}
