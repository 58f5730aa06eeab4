package experiment

import (
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

// Line is one line of a chart.
type Line struct {
	Name string
	X, Y []float64
}

// Chart draws lines and writes a picture; the file's extension says in which form.
func Chart(path, title, x, y string, lines []Line) error {
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Legend.Top, p.Legend.Left = emptiest(lines)
	var args []any
	for _, l := range lines {
		if len(l.X) == 0 {
			continue
		}
		xy := make(plotter.XYs, len(l.X))
		for i := range xy {
			xy[i] = plotter.XY{X: l.X[i], Y: l.Y[i]}
		}
		args = append(args, l.Name, xy)
	}
	if err := plotutil.AddLines(p, args...); err != nil {
		return fmt.Errorf("experiment: %s: %w", path, err)
	}
	if err := p.Save(20*vg.Centimeter, 13*vg.Centimeter, path); err != nil {
		return fmt.Errorf("experiment: %s: %w", path, err)
	}
	return nil
}

// emptiest is the corner of a chart with the fewest points, for the legend.
func emptiest(lines []Line) (top, left bool) {
	x0, x1, y0, y1 := math.Inf(1), math.Inf(-1), math.Inf(1), math.Inf(-1)
	for _, l := range lines {
		for i := range l.X {
			x0, x1, y0, y1 = min(x0, l.X[i]), max(x1, l.X[i]), min(y0, l.Y[i]), max(y1, l.Y[i])
		}
	}
	least := -1
	for _, c := range [][2]bool{{false, false}, {false, true}, {true, false}, {true, true}} {
		n := 0
		for _, l := range lines {
			for i := range l.X {
				x, y := (l.X[i]-x0)/max(x1-x0, 1e-30), (l.Y[i]-y0)/max(y1-y0, 1e-30)
				if (y > 0.5) == c[0] && (x < 0.45) == c[1] {
					n++
				}
			}
		}
		if least < 0 || n < least {
			least, top, left = n, c[0], c[1]
		}
	}
	return top, left
}

// LotteryLines are the mean accuracy on the held-back images by step, a line for each kind and size.
func LotteryLines(runs []LotteryRun) []Line {
	type key struct {
		round int
		kind  string
	}
	keys, of := group(runs, func(r LotteryRun) key { return key{r.Round, r.Kind} })
	var out []Line
	for _, k := range keys {
		g := of[k]
		line := Line{Name: fmt.Sprintf("%s %.1f %%", k.kind, 100*g[0].Kept)}
		for i, e := range g[0].Curve {
			var x []float64
			for _, r := range g {
				if i < len(r.Curve) {
					x = append(x, 100*r.Curve[i].Value)
				}
			}
			m, _ := meanStd(x)
			if e.Step >= 300 { // the first steps would flatten all that follows
				line.X, line.Y = append(line.X, float64(e.Step)), append(line.Y, m)
			}
		}
		out = append(out, line)
	}
	return out
}

// LevelLines are the test accuracy by sparsity, a line for each method and schedule.
func LevelLines(p Levels, rows []LevelRow, dense Stat) []Line {
	var out []Line
	for _, r := range rows {
		line := Line{Name: r.Method + ", " + scheduleName(r.Gradual)}
		for _, s := range p.Sparsity {
			if x, ok := r.at[s]; ok {
				line.X, line.Y = append(line.X, 100*s), append(line.Y, 100*(dense.Mean-x.Mean))
			}
		}
		out = append(out, line)
	}
	return out
}

// HanLines are the error by compression in parameters, a line for each network; its dense error first.
func HanLines(rows []HanRow) []Line {
	nets, of := group(rows, func(r HanRow) string { return r.Net })
	var out []Line
	for _, n := range nets {
		g := slices.Clone(of[n])
		slices.SortStableFunc(g, func(a, b HanRow) int {
			switch {
			case a.Fewer < b.Fewer-0.05:
				return -1
			case a.Fewer > b.Fewer+0.05:
				return 1
			}
			return 0
		})
		line := Line{Name: n, X: []float64{1}, Y: []float64{100 * g[0].Dense.Mean}}
		for _, r := range g {
			if r.Fewer > 1.05 {
				line.X, line.Y = append(line.X, r.Fewer), append(line.Y, 100*r.Error.Mean)
			}
		}
		out = append(out, line)
	}
	return out
}
