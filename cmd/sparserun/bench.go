package main

import (
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

type benchCmd struct {
	Model    string    `arg:"" optional:"" help:"Take the shapes of this model's layers."`
	Backend  string    `enum:"auto,cpu,cuda" default:"cpu" help:"cpu or cuda."`
	Shapes   []string  `default:"4096x4096" help:"Rows x columns of the weights."`
	Layouts  []string  `default:"dense,nm24,bitmask,csr" help:"Layouts."`
	DTypes   []string  `name:"dtypes" default:"f16,int8" help:"Types of the weights."`
	Sparsity []float64 `default:"0.5,0.8,0.9,0.95" help:"For bitmask and csr; nm24 is always 0.5, dense 0."`
	Batch    []int     `default:"1" help:"Rows of activations."`
	Rounds   int       `default:"5" help:"Alternating rounds; the median is printed."`
}

// Help is shown by --help below the flags' head.
func (*benchCmd) Help() string {
	return `Times one Linear at a time with weights that come from memory, dense and sparse in alternation.

Examples:
  sparserun bench
  sparserun bench --shapes 4096x4096,11008x4096 --dtypes f16 --batch 1,8,128
  sparserun bench model.gguf --json`
}

type benchRow struct {
	Op       string  `json:"op"`
	Rows     int     `json:"rows"`
	Cols     int     `json:"cols"`
	Batch    int     `json:"batch"`
	Layout   string  `json:"layout"`
	Weight   string  `json:"weight"`
	Act      string  `json:"act"`
	Sparsity float64 `json:"sparsity"`
	Threads  int     `json:"threads"`
	NS       int64   `json:"ns"`
	GBps     float64 `json:"gb_per_s"`
	GFLOPps  float64 `json:"gflop_per_s"`
	DenseNS  int64   `json:"dense_ns"`
	Speedup  float64 `json:"speedup"`
	OfLimit  float64 `json:"of_limit,omitempty"` // share of the measured read bandwidth

	kernel runtime.Kernel
	times  []time.Duration
	bytes  int64
}

type machineJSON struct {
	Name     string  `json:"name"`
	Backend  string  `json:"backend"`
	Threads  int     `json:"threads"`
	ReadGBps float64 `json:"read_gb_per_s,omitempty"`
	Time     string  `json:"time"`
	Note     string  `json:"note,omitempty"`
}

// limits is what a backend knows of its machine's ceilings.
type limits interface {
	ReadBandwidth() float64 // bytes per second of the backend's threads together, measured
	Workers() int
}

// sized is a backend that knows how large a Linear is in a form.
type sized interface {
	LinearBytes(k runtime.Kernel, rows, cols int, density float64) int64
}

// simulated labels every time that no hardware took.
const simulated = "simulated, not a speed"

func (c *benchCmd) Run(g *globals) error {
	shapes, err := c.shapes()
	if err != nil {
		return err
	}
	e := engine{Backend: c.Backend}
	b, err := e.backend(g)
	if err != nil {
		return err
	}
	defer b.Close()
	timer, ok := b.(runtime.Timer)
	if !ok {
		return fmt.Errorf("backend %s cannot be timed", b.Name())
	}
	rows, err := c.rows(b, shapes)
	if err != nil {
		return err
	}
	m := machineJSON{Name: timer.Machine(), Backend: b.Name(), Time: time.Now().UTC().Format(time.RFC3339)}
	if m.Name == "" {
		m.Name, m.Note = "PTX simulator", simulated
	}
	lim, hasLimits := b.(limits)
	bytesOf, hasBytes := b.(sized)
	if hasLimits {
		m.ReadGBps = lim.ReadBandwidth() / 1e9
		m.Threads = lim.Workers()
	}
	bar := g.progress(c.Rounds*len(rows), "timing")
	for r := range c.Rounds {
		for i, x := range rows {
			d, err := timer.Time(g.ctx, x.kernel, x.Rows, x.Cols, 1-x.Sparsity, x.Batch)
			if err != nil {
				return err
			}
			x.times = append(x.times, d)
			bar.set(r*len(rows)+i+1, x.kernel.String())
		}
	}
	bar.done()
	for _, x := range rows {
		slices.Sort(x.times)
		x.NS = int64(x.times[len(x.times)/2])
		x.Threads = m.Threads
		if hasBytes {
			x.bytes = bytesOf.LinearBytes(x.kernel, x.Rows, x.Cols, 1-x.Sparsity)
			x.GBps = float64(x.bytes) / float64(x.NS)
			if x.Batch == 1 && m.ReadGBps > 0 {
				x.OfLimit = x.GBps / m.ReadGBps
			}
		}
		x.GFLOPps = 2 * float64(x.Rows) * float64(x.Cols) * (1 - x.Sparsity) * float64(x.Batch) / float64(x.NS)
	}
	for _, x := range rows {
		for _, d := range rows {
			if d.Layout == "dense" && d.Rows == x.Rows && d.Cols == x.Cols && d.Batch == x.Batch && d.Weight == x.Weight {
				x.DenseNS = d.NS
				x.Speedup = float64(d.NS) / float64(x.NS)
			}
		}
	}
	out := struct {
		Machine machineJSON `json:"machine"`
		Rows    []*benchRow `json:"rows"`
	}{m, rows}
	return g.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%s, %d threads", m.Name, m.Threads)
		if m.ReadGBps > 0 {
			fmt.Fprintf(w, ", reads %.1f GB/s", m.ReadGBps)
		}
		if m.Note != "" {
			fmt.Fprintf(w, " (%s)", m.Note)
		}
		fmt.Fprintf(w, "\n\n")
		t := table{}
		t.add("shape", "batch", "type", "layout", "zeros", "us", "GB/s", "GFLOP/s", "of dense", "of limit")
		for _, x := range rows {
			t.add(fmt.Sprintf("%dx%d", x.Rows, x.Cols), fmt.Sprint(x.Batch), x.Weight, x.Layout, percent(x.Sparsity), fmt.Sprintf("%.1f", float64(x.NS)/1000),
				fmt.Sprintf("%.1f", x.GBps), fmt.Sprintf("%.1f", x.GFLOPps), fmt.Sprintf("%.2fx", x.Speedup), fmt.Sprintf("%.2f", x.OfLimit))
		}
		t.write(w)
	})
}

func (c *benchCmd) shapes() ([][2]int, error) {
	var out [][2]int
	if c.Model != "" {
		gr, err := loader.Open(c.Model)
		if err != nil {
			return nil, err
		}
		defer gr.Close()
		for _, n := range gr.Nodes {
			if n.Op != model.OpLinear {
				continue
			}
			r, k := n.Weight.Data.Dims()
			if s := [2]int{r, k}; !slices.Contains(out, s) {
				out = append(out, s)
			}
		}
		return out, nil
	}
	for _, s := range c.Shapes {
		a, b, ok := strings.Cut(s, "x")
		r, err1 := strconv.Atoi(a)
		k, err2 := strconv.Atoi(b)
		if !ok || err1 != nil || err2 != nil || r < 1 || k < 1 || r > 1<<20 || k > 1<<20 {
			return nil, usagef("--shapes: want ROWSxCOLUMNS, got %q", s)
		}
		out = append(out, [2]int{r, k})
	}
	return out, nil
}

// rows lists what is timed, dense first for each shape, type and batch.
func (c *benchCmd) rows(b runtime.Backend, shapes [][2]int) ([]*benchRow, error) {
	var out []*benchRow
	for _, s := range shapes {
		for _, batch := range c.Batch {
			if batch < 1 || batch > 1<<14 {
				return nil, usagef("--batch: want 1..%d, got %d", 1<<14, batch)
			}
			for _, tn := range c.DTypes {
				t, err := sparse.ParseDType(tn)
				if err != nil {
					return nil, usageError{err}
				}
				for _, ln := range c.Layouts {
					l, err := sparse.ParseLayout(ln)
					if err != nil {
						return nil, usageError{err}
					}
					k := runtime.Kernel{Op: model.OpLinear, Layout: l, Weight: t, Act: runtime.ActType(t)}
					if !b.Has(k) {
						continue
					}
					levels := c.Sparsity
					switch l {
					case sparse.LayoutDense:
						levels = []float64{0}
					case sparse.LayoutNM24:
						levels = []float64{0.5}
					}
					for _, z := range levels {
						if !(z >= 0 && z < 1) {
							return nil, usagef("--sparsity: want 0..1, got %g", z)
						}
						out = append(out, &benchRow{Op: string(k.Op), Rows: s[0], Cols: s[1], Batch: batch, Layout: l.String(),
							Weight: t.String(), Act: k.Act.String(), Sparsity: z, kernel: k})
					}
				}
			}
		}
	}
	return out, nil
}
