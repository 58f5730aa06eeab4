package main

import (
	"fmt"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// plot draws the speed-up over the best dense kernel against the batch, for the
// first shape, a line for each form.
func (r *report) plot(path string) error {
	p := plot.New()
	p.Title.Text = fmt.Sprintf("%s, %dx%d", r.Device.Name, r.Rows[0].Rows, r.Rows[0].Cols)
	if r.Note != "" {
		p.Title.Text += " (" + r.Note + ")"
	}
	p.X.Label.Text, p.Y.Label.Text = "batch", "speed-up over the best dense f16"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	lines := map[string]plotter.XYs{}
	var order []string
	for _, x := range r.Rows {
		if x.Rows != r.Rows[0].Rows || x.Cols != r.Rows[0].Cols {
			continue
		}
		name := fmt.Sprintf("%s %s %.0f %%", x.Layout, x.Weight, 100*x.Sparsity)
		if lines[name] == nil {
			order = append(order, name)
		}
		lines[name] = append(lines[name], plotter.XY{X: float64(x.Batch), Y: x.Speedup})
	}
	var args []any
	for _, n := range order {
		args = append(args, n, lines[n])
	}
	if err := plotutil.AddLinePoints(p, args...); err != nil {
		return err
	}
	return p.Save(20*vg.Centimeter, 14*vg.Centimeter, path)
}
