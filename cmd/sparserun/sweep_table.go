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

	"github.com/sparserun/sparserun/prune"
)

type sweepJSON struct {
	Model       string             `json:"model"`
	DType       string             `json:"dtype"`
	Text        string             `json:"text"`
	Window      int                `json:"window"`
	Windows     int                `json:"windows"`
	Calibration *prune.Calibration `json:"calibration,omitempty"`
	Rows        []sweepRow         `json:"rows"`
}

// forms are the files of a sweep but the plot.
func (o *sweepJSON) forms() map[string]func(io.Writer) error {
	return map[string]func(io.Writer) error{
		"sweep.md":   func(w io.Writer) error { o.markdown(w); return nil },
		"sweep.json": func(w io.Writer) error { return json.NewEncoder(w).Encode(o) },
		"sweep.csv":  o.csv,
	}
}

func (o *sweepJSON) markdown(w io.Writer) {
	fmt.Fprintf(w, "%s; perplexity in %s on the first %d windows of %d tokens of %s", filepath.Base(o.Model), o.DType, o.Windows, o.Window, filepath.Base(o.Text))
	if c := o.Calibration; c != nil {
		fmt.Fprintf(w, "; calibrated on %d x %d tokens (ids SHA-256 %.12s...)", c.Windows, c.Window, c.SHA256)
	}
	fmt.Fprint(w, ".\nSparsity and bits (with masks and scales) count the pruned layers only; \"all weights\" is the whole model as stored. Pruning: wall and CPU seconds, peak resident memory.\n\n")
	t := table{}
	t.add("method", "level", "sparsity", "perplexity", "bits/weight", "all weights", "prune s", "CPU s", "peak", "prefill tokens/s", "decode tokens/s", "in")
	for _, r := range o.Rows {
		bits, cost, speed := "-", [3]string{"-", "-", "-"}, [3]string{"-", "-", "-"}
		if r.F16 > 0 {
			bits = fmt.Sprintf("%.2f", r.bits())
			cost[0] = fmt.Sprintf("%.0f", r.Seconds)
		}
		if r.CPU > 0 {
			cost[1] = fmt.Sprintf("%.0f", r.CPU)
		}
		if r.PeakRSS > 0 {
			cost[2] = size(r.PeakRSS)
		}
		if r.Decode > 0 {
			speed = [3]string{fmt.Sprintf("%.0f", r.Prefill), fmt.Sprintf("%.1f", r.Decode), r.SpeedType}
		}
		t.add(r.Method, r.Level, percent(r.Sparsity), fmt.Sprintf("%.2f", r.Perplexity), bits, size(r.Bytes), cost[0], cost[1], cost[2], speed[0], speed[1], speed[2])
	}
	t.write(w)
}

// bits per weight of the pruned layers.
func (r *sweepRow) bits() float64 { return 16 * float64(r.Pruned) / float64(max(1, r.F16)) }

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
	_ = c.Write([]string{"method", "level", "sparsity", "perplexity", "bits_per_weight", "weight_bytes", "pruned_bytes", "f16_bytes",
		"prune_seconds", "prune_cpu_seconds", "prune_peak_rss_bytes", "prefill_tokens_per_s", "decode_tokens_per_s", "speed_dtype"})
	f := func(x float64) string { return strconv.FormatFloat(x, 'g', 8, 64) }
	d := func(n int64) string { return strconv.FormatInt(n, 10) }
	for _, r := range o.Rows {
		_ = c.Write([]string{r.Method, r.Level, f(r.Sparsity), f(r.Perplexity), f(r.bits()), d(r.Bytes), d(r.Pruned), d(r.F16),
			f(r.Seconds), f(r.CPU), d(r.PeakRSS), f(r.Prefill), f(r.Decode), r.SpeedType})
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
	if len(order) == 0 {
		return nil // nothing to draw: --done of an empty journal
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
