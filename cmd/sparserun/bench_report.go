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

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/sparserun/sparserun/sparse"
)

func (o benchJSON) title() string {
	m := o.Machine
	s := m.Name
	if m.ReadGBps > 0 {
		s += fmt.Sprintf("; reads %.1f GB/s, multiplies %.0f GFLOP/s in f32, %.0f GOP/s in int8", m.ReadGBps, m.GFLOPps, m.Int8GOPs)
	}
	s += "; " + m.Time[:10]
	if m.Note != "" {
		s += " (" + m.Note + ")"
	}
	return s
}

func (o benchJSON) markdown(w io.Writer) {
	fmt.Fprintf(w, "%s\n\n", o.title())
	t := table{}
	t.add("shape", "batch", "type", "layout", "zeros", "us", "best us", "GB/s", "GFLOP/s", "of dense", "of limit")
	for _, x := range o.Rows {
		dense := "-"
		if x.DenseNS > 0 {
			dense = fmt.Sprintf("%.2fx", x.Speedup)
			if x.DenseWeight != x.Weight {
				dense += " " + x.DenseWeight
			}
		}
		limit := "-"
		if x.Limit != "" {
			limit = fmt.Sprintf("%.2f %s", x.OfLimit, x.Limit)
		}
		t.add(fmt.Sprintf("%dx%d", x.Rows, x.Cols), fmt.Sprint(x.Batch), x.Weight, x.Layout, percent(x.Sparsity), fmt.Sprintf("%.1f", float64(x.NS)/1000),
			fmt.Sprintf("%.1f", float64(x.BestNS)/1000), fmt.Sprintf("%.1f", x.GBps), fmt.Sprintf("%.1f", x.GFLOPps), dense, limit)
	}
	t.write(w)
}

// save writes the table in every form, and plots; existing files are replaced.
func (o benchJSON) save(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	files := map[string]func(io.Writer) error{
		"bench.md":   func(w io.Writer) error { o.markdown(w); return nil },
		"bench.json": func(w io.Writer) error { return json.NewEncoder(w).Encode(o) },
		"bench.csv":  o.csv,
	}
	for name, f := range files {
		if err := writeFile(filepath.Join(dir, name), f); err != nil {
			return err
		}
	}
	if err := o.plotSpeedups(dir); err != nil {
		return err
	}
	if o.Machine.ReadGBps == 0 {
		return nil // no ceilings to draw
	}
	return o.plotRoofline(filepath.Join(dir, "roofline.png"))
}

func (o benchJSON) csv(w io.Writer) error {
	c := csv.NewWriter(w)
	_ = c.Write([]string{"op", "rows", "cols", "batch", "layout", "weight", "act", "sparsity", "threads", "ns", "best_ns", "bytes", "gb_per_s", "gflop_per_s",
		"dense_ns", "dense_weight", "speedup", "of_limit", "limit", "machine", "time", "note"})
	f := func(x float64) string { return strconv.FormatFloat(x, 'g', 6, 64) }
	i := func(x int64) string { return strconv.FormatInt(x, 10) }
	for _, x := range o.Rows {
		_ = c.Write([]string{x.Op, i(int64(x.Rows)), i(int64(x.Cols)), i(int64(x.Batch)), x.Layout, x.Weight, x.Act, f(x.Sparsity), i(int64(x.Threads)), i(x.NS), i(x.BestNS),
			i(x.Bytes), f(x.GBps), f(x.GFLOPps), i(x.DenseNS), x.DenseWeight, f(x.Speedup), f(x.OfLimit), x.Limit, o.Machine.Name, o.Machine.Time, o.Machine.Note})
	}
	c.Flush()
	return c.Error()
}

// layoutColor is the place of a layout among plotutil's colors.
func layoutColor(name string) int {
	l, _ := sparse.ParseLayout(name)
	return int(l) - int(sparse.LayoutDense)
}

// typeShape is the place of a type among plotutil's shapes.
func typeShape(name string) int {
	t, _ := sparse.ParseDType(name)
	return exactness[t]
}

// plotSpeedups draws, for each shape and batch, the speed-up over dense against
// sparsity: a line for each layout and type.
func (o benchJSON) plotSpeedups(dir string) error {
	for i := 0; i < len(o.Rows); {
		first := o.Rows[i]
		p := plot.New()
		p.Title.Text = fmt.Sprintf("%d x %d, batch %d, %d threads\n%s", first.Rows, first.Cols, first.Batch, first.Threads, o.title())
		p.Title.TextStyle.Font.Size = vg.Points(8)
		p.X.Label.Text, p.Y.Label.Text = "share of zeros", "speed-up over dense"
		p.Legend.Top, p.Legend.Left = true, true
		type key struct{ layout, weight string }
		lines := map[key]plotter.XYs{}
		var order []key
		for ; i < len(o.Rows) && o.Rows[i].Rows == first.Rows && o.Rows[i].Cols == first.Cols && o.Rows[i].Batch == first.Batch; i++ {
			x := o.Rows[i]
			if x.DenseNS == 0 {
				continue
			}
			k := key{x.Layout, x.Weight}
			if lines[k] == nil {
				order = append(order, k)
			}
			lines[k] = append(lines[k], plotter.XY{X: x.Sparsity, Y: x.Speedup})
		}
		for _, k := range order {
			line, points, err := plotter.NewLinePoints(lines[k])
			if err != nil {
				return err
			}
			line.Color, line.Dashes = plotutil.Color(layoutColor(k.layout)), plotutil.Dashes(typeShape(k.weight))
			points.Color, points.Shape = line.Color, plotutil.Shape(typeShape(k.weight))
			p.Add(line, points)
			p.Legend.Add(k.layout+" "+k.weight, line, points)
		}
		one := plotter.NewFunction(func(float64) float64 { return 1 })
		one.Dashes = plotutil.Dashes(1)
		p.Add(one, plotter.NewGrid())
		p.X.Min, p.X.Max, p.Y.Min = 0, 1, 0
		if err := p.Save(18*vg.Centimeter, 12*vg.Centimeter, filepath.Join(dir, fmt.Sprintf("speedup-%dx%d-b%d.png", first.Rows, first.Cols, first.Batch))); err != nil {
			return err
		}
	}
	return nil
}

// plotRoofline draws useful operations per second against operations per byte of
// weights, under the two ceilings of the machine.
func (o benchJSON) plotRoofline(path string) error {
	p := plot.New()
	p.Title.Text = o.title()
	p.Title.TextStyle.Font.Size = vg.Points(8)
	p.X.Label.Text, p.Y.Label.Text = "useful operations per byte of the weight", "G operations per second"
	p.X.Scale, p.X.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.LogTicks{Prec: -1}
	p.Legend.Top, p.Legend.Left = true, true
	lo, hi := math.Inf(1), 0.0
	type key struct{ layout, weight string }
	points := map[key]plotter.XYs{}
	var order []key
	for _, x := range o.Rows {
		if x.Bytes == 0 || x.GFLOPps == 0 {
			continue
		}
		at := x.GFLOPps / x.GBps
		lo, hi = min(lo, at), max(hi, at)
		k := key{x.Layout, x.Weight}
		if points[k] == nil {
			order = append(order, k)
		}
		points[k] = append(points[k], plotter.XY{X: at, Y: x.GFLOPps})
	}
	if len(order) == 0 {
		return nil
	}
	for _, k := range order {
		s, err := plotter.NewScatter(points[k])
		if err != nil {
			return err
		}
		s.Color, s.Shape, s.Radius = plotutil.Color(layoutColor(k.layout)), plotutil.Shape(typeShape(k.weight)), vg.Points(3)
		p.Add(s)
		p.Legend.Add(k.layout+" "+k.weight, s)
	}
	for _, roof := range []struct {
		name string
		gops float64
	}{{"f32", o.Machine.GFLOPps}, {"int8", o.Machine.Int8GOPs}} {
		knee := roof.gops / o.Machine.ReadGBps
		xys := plotter.XYs{}
		for _, at := range []float64{lo / 2, knee, max(2*hi, 2*knee)} {
			xys = append(xys, plotter.XY{X: at, Y: min(roof.gops, at*o.Machine.ReadGBps)})
		}
		line, err := plotter.NewLine(xys)
		if err != nil {
			return err
		}
		line.LineStyle = draw.LineStyle{Color: plotutil.Color(0), Width: vg.Points(1)}
		if roof.name == "int8" {
			line.Dashes = plotutil.Dashes(1)
		}
		p.Add(line)
		p.Legend.Add("limit "+roof.name, line)
	}
	return p.Save(18*vg.Centimeter, 14*vg.Centimeter, path)
}
