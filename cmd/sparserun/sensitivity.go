package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/sparserun/sparserun/experiment"
	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/train"
)

// sensitivityCmd prunes every matrix alone to every level and evaluates.
type sensitivityCmd struct {
	Model string `arg:"" help:"Network: an ONNX file, or a small language model."`
	labelFlags
	EvalText string    `help:"Held-back text of a language model (default: --text itself)." placeholder:"FILE"`
	Method   string    `short:"m" default:"magnitude" help:"What weights go by: magnitude, magnitude-std, lamp, random, snip, taylor, fisher, movement."`
	Levels   []float64 `help:"Sparsities (default: 0 to 0.95 by 0.05, 0.97, 0.98, 0.99, 0.995)."`
	Sparsity float64   `default:"0" help:"Also give each matrix's own sparsity for this one in all."`
	Count    int       `default:"0" help:"Evaluate on the first K held-back samples (default: all)."`
	Seed     uint64    `default:"0" help:"Of random choices."`
	Out      string    `help:"Folder for sensitivity.csv, .json and .png." placeholder:"DIR"`
}

// Help is shown by --help below the flags' head.
func (*sensitivityCmd) Help() string {
	return `Each matrix alone is pruned to each level, without fine-tuning, and the network evaluated on the
held-back images. What a matrix bears alone says how much of it may go: with --sparsity the
rates at which each alone costs the same loss, and those of a greedy choice, are printed too.

Examples:
  sparserun sensitivity lenet300100.onnx --mnist mnist/ --pixel-scale 256 --out scan/
  sparserun sensitivity lenet5.onnx --mnist mnist/ --sparsity 0.95 --json`
}

type sensitivityJSON struct {
	*prune.Scan
	Method string             `json:"method"`
	N      int                `json:"n"`
	Budget map[string]float64 `json:"budget,omitempty"`
	Greedy map[string]float64 `json:"greedy,omitempty"`
}

// scanNet scans with progress.
func scanNet(g *globals, n *train.Net, d train.Data, o prune.ScanOptions) (*prune.Scan, error) {
	if d.Metric() == "perplexity" {
		o.Batch = 8
	}
	bar := g.progress(1000, "sensitivity")
	defer bar.done()
	o.Progress = func(done, total int, p prune.ScanPoint) {
		bar.set(1000*done/total, p.Layer)
		if bar.bar == nil && done%max(1, total/10) == 0 {
			g.logf("%d of %d: %s at %g: loss %.4f, %s %.4f", done, total, p.Layer, p.Sparsity, p.Loss, d.Metric(), p.Value)
		}
	}
	return prune.ScanNet(g.ctx, n, d, o)
}

func (c *sensitivityCmd) Run(g *globals) error {
	if err := g.idle([]flagRule{
		{"pixel-scale mean std", c.Mnist != "" || c.Cifar != "", "--mnist or --cifar"},
		{"text-window eval-text", c.Text != "", "--text"},
	}); err != nil {
		return err
	}
	for _, l := range append([]float64{c.Sparsity}, c.Levels...) {
		if !(l >= 0 && l <= 1) {
			return usagef("--levels and --sparsity: want 0..1, got %g", l)
		}
	}
	if c.Count < 0 {
		return usagef("--count: want 0 or more, got %d", c.Count)
	}
	gr, err := loader.Open(c.Model)
	if err != nil {
		return err
	}
	defer gr.Close()
	d, err := c.labelFlags.open(gr, c.EvalText)
	if err != nil {
		return err
	}
	on := d.held
	if on == nil {
		on = d.train
	}
	if c.Count > 0 {
		switch x := on.(type) {
		case *train.Items:
			on = x.Slice(0, min(c.Count, x.Len()))
		case *train.Text:
			on = x.First(c.Count)
		}
	}
	n, err := train.New(gr, linalg.NewPool(g.threads()))
	if err != nil {
		return err
	}
	crit, err := criterion(c.Method, c.Seed, d.train, 8)
	if err != nil {
		return err
	}
	out := sensitivityJSON{Method: c.Method, N: on.Len()}
	if out.Scan, err = scanNet(g, n, on, prune.ScanOptions{Criterion: crit, Levels: c.Levels}); err != nil {
		return err
	}
	if c.Sparsity > 0 {
		if out.Budget, err = out.Scan.Budget(c.Sparsity); err != nil {
			return err
		}
		if out.Greedy, err = out.Scan.Greedy(c.Sparsity); err != nil {
			return err
		}
	}
	if c.Out != "" {
		if err := out.save(c.Out, c.Model); err != nil {
			return err
		}
	}
	return g.print(out, out.text)
}

// text is a table of the figure lost, a row for each matrix.
func (o *sensitivityJSON) text(w io.Writer) {
	fmt.Fprintf(w, "%s %.4f as it is, %d samples; %s after pruning one matrix alone by %s:\n\n", o.Metric, o.Value, o.N, o.Metric, o.Method)
	t := table{}
	head := []string{"matrix", "weights"}
	for _, l := range o.Layers {
		row := []string{l.Name, fmt.Sprint(l.Weights)}
		for _, p := range o.Points {
			if p.Layer == l.Name {
				if len(t.rows) == 0 {
					head = append(head, fmt.Sprintf("%g", p.Sparsity))
				}
				row = append(row, fmt.Sprintf("%.4g", p.Value))
			}
		}
		if len(t.rows) == 0 {
			t.add(head...)
		}
		t.add(row...)
	}
	t.write(w)
	if o.Budget != nil {
		fmt.Fprintln(w)
		for _, l := range o.Layers {
			fmt.Fprintf(w, "%-24s of equal cost %.4f, greedy %.4f\n", l.Name, o.Budget[l.Name], o.Greedy[l.Name])
		}
	}
}

func (o *sensitivityJSON) save(dir, name string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for file, f := range map[string]func(io.Writer) error{"sensitivity.csv": o.CSV, "sensitivity.json": func(w io.Writer) error { return encodeJSON(w, o) }} {
		if err := writeFile(filepath.Join(dir, file), f); err != nil {
			return err
		}
	}
	var lines []experiment.Line
	for _, l := range o.Layers {
		line := experiment.Line{Name: l.Name}
		for _, p := range o.Points {
			if p.Layer == l.Name {
				line.X, line.Y = append(line.X, p.Sparsity), append(line.Y, p.Value)
			}
		}
		lines = append(lines, line)
	}
	return experiment.Chart(filepath.Join(dir, "sensitivity.png"), fmt.Sprintf("%s: one matrix alone pruned by %s", filepath.Base(name), o.Method), "sparsity", o.Metric, lines)
}
