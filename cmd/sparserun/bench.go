package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

type benchCmd struct {
	Model    string    `arg:"" optional:"" help:"Take the shapes of this model's layers."`
	Backend  string    `enum:"auto,cpu,cuda" default:"cpu" help:"cpu or cuda."`
	Shapes   []string  `default:"4096x4096" help:"Rows x columns of the weights."`
	Layouts  []string  `default:"dense,nm24,bitmask,csr" help:"Layouts."`
	DTypes   []string  `name:"dtypes" default:"f16,int8" help:"Types of the weights."`
	Sparsity []float64 `default:"0.5,0.7,0.8,0.9,0.95" help:"For bitmask and csr; nm24 is always 0.5, dense 0."`
	Batch    []int     `default:"1" help:"Rows of activations."`
	Rounds   int       `default:"7" help:"Rounds over all kernels of a shape; the median is printed."`
	Cold     int       `default:"128" help:"MiB that the copies of a weight hold, so that it comes from memory (cpu)."`
	Group    int       `default:"64" help:"Columns per scale of int4 (cpu)."`
	Out      string    `help:"Folder for bench.md, bench.csv, bench.json and plots: speed-up against sparsity, roofline." placeholder:"DIR"`
}

// Help is shown by --help below the flags' head.
func (*benchCmd) Help() string {
	return `Times one Linear at a time with weights that come from memory, all kernels of a shape in turns, and measures what the
machine can do at most: of limit is the time that a kernel needs if it reads its weight at the full rate of the memory, or does
its useful operations at the full rate of the multipliers, whichever is longer, as a share of the time it took.
Speed-ups are over the fastest dense kernel of the same or a more exact type.

Examples:
  sparserun bench
  sparserun bench -t 1 --shapes 4096x4096,11008x4096 --dtypes f32,f16,int8,int4 --batch 1,8,128 --out bench/out/sweep
  sparserun bench model.gguf --json`
}

type benchRow struct {
	Op          string  `json:"op"`
	Rows        int     `json:"rows"`
	Cols        int     `json:"cols"`
	Batch       int     `json:"batch"`
	Layout      string  `json:"layout"`
	Weight      string  `json:"weight"`
	Act         string  `json:"act"`
	Sparsity    float64 `json:"sparsity"`
	Threads     int     `json:"threads"`
	NS          int64   `json:"ns"`
	BestNS      int64   `json:"best_ns"`
	Bytes       int64   `json:"bytes"` // of the weight that a product reads
	GBps        float64 `json:"gb_per_s"`
	GFLOPps     float64 `json:"gflop_per_s"` // useful ones: zeros do not count
	DenseNS     int64   `json:"dense_ns"`    // fastest dense of the same or a more exact type
	DenseWeight string  `json:"dense_weight,omitempty"`
	Speedup     float64 `json:"speedup"`
	OfLimit     float64 `json:"of_limit"`        // share of what the machine can do at most
	Limit       string  `json:"limit,omitempty"` // what that is: memory or arithmetic

	kernel runtime.Kernel
	times  []time.Duration
}

type benchMachine struct {
	Name     string  `json:"name"`
	Backend  string  `json:"backend"`
	Threads  int     `json:"threads"`
	ReadGBps float64 `json:"read_gb_per_s,omitempty"`
	GFLOPps  float64 `json:"f32_gflop_per_s,omitempty"`
	Int8GOPs float64 `json:"int8_gop_per_s,omitempty"`
	Time     string  `json:"time"`
	Note     string  `json:"note,omitempty"`
}

type benchJSON struct {
	Machine benchMachine `json:"machine"`
	Rows    []*benchRow  `json:"rows"`
}

// ceilings is a backend that measures what its machine can do at most.
type ceilings interface {
	// Ceiling is bytes read from memory and operations (2 a multiply-add) on weights
	// of type t, both per second.
	Ceiling(t sparse.DType) (bytes, ops float64, err error)
	Workers() int
}

// simulated labels every time that no hardware took.
const simulated = "simulated, not a speed"

func (c *benchCmd) Run(g *globals) error {
	if err := g.idle([]flagRule{
		{"shapes", c.Model == "", "no MODEL, whose layers are timed"},
		{"group", slices.Contains(c.DTypes, sparse.Int4.String()), "--dtypes int4"},
		{"sparsity", slices.Contains(c.Layouts, sparse.LayoutBitmask.String()) || slices.Contains(c.Layouts, sparse.LayoutCSR.String()), "--layouts bitmask or csr"},
	}); err != nil {
		return err
	}
	shapes, err := c.shapes()
	if err != nil {
		return err
	}
	if c.Rounds < 1 || c.Cold < 0 || c.Cold > 1<<16 || c.Group < 1 {
		return usagef("--rounds, --cold, --group: want positive numbers, got %d, %d, %d", c.Rounds, c.Cold, c.Group)
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
	groups, err := c.rows(b, shapes)
	if err != nil {
		return err
	}
	out := benchJSON{Machine: benchMachine{Name: timer.Machine(), Backend: b.Name(), Time: time.Now().UTC().Format(time.RFC3339)}}
	if out.Machine.Name == "" {
		out.Machine.Name, out.Machine.Note = "PTX simulator", simulated
	}
	lim, _ := b.(ceilings)
	if err := out.Machine.measure(lim); err != nil {
		return err
	}
	var clock benchTimer
	if cb, ok := b.(*cpu.Backend); ok {
		clock = &cpuClock{b: cb, cold: int64(c.Cold) << 20, group: c.Group}
	} else {
		s, _ := b.(sized)
		clock = &timerClock{timer: timer, sized: s}
	}
	bar := g.progress(len(groups), "timing")
	defer bar.done()
	for i, rows := range groups {
		bar.set(i, fmt.Sprintf("%dx%d batch %d", rows[0].Rows, rows[0].Cols, rows[0].Batch))
		if err := clock.time(g.ctx, rows, c.Rounds); err != nil {
			return err
		}
		for _, x := range rows {
			x.Threads = out.Machine.Threads
			if err := x.derive(lim); err != nil {
				return err
			}
		}
		compareDense(rows)
		out.Rows = append(out.Rows, rows...)
	}
	if c.Out != "" {
		if err := out.save(c.Out); err != nil {
			return err
		}
	}
	return g.print(out, out.markdown)
}

func (m *benchMachine) measure(lim ceilings) error {
	if lim == nil {
		return nil
	}
	m.Threads = lim.Workers()
	read, flops, err := lim.Ceiling(sparse.F32)
	if err != nil {
		return err
	}
	_, ops, err := lim.Ceiling(sparse.Int8)
	m.ReadGBps, m.GFLOPps, m.Int8GOPs = read/1e9, flops/1e9, ops/1e9
	return err
}

// derive computes rates from the measured times.
func (x *benchRow) derive(lim ceilings) error {
	slices.Sort(x.times)
	x.NS, x.BestNS = max(1, int64(x.times[len(x.times)/2])), int64(x.times[0])
	flops := 2 * float64(x.Rows) * float64(x.Cols) * (1 - x.Sparsity) * float64(x.Batch)
	x.GBps, x.GFLOPps = float64(x.Bytes)/float64(x.NS), flops/float64(x.NS)
	if lim == nil {
		return nil
	}
	read, ops, err := lim.Ceiling(x.kernel.Weight)
	if err != nil {
		return err
	}
	least := 1e9 * float64(x.Bytes) / read
	x.Limit = "memory"
	if t := 1e9 * flops / ops; t > least {
		least, x.Limit = t, "arithmetic"
	}
	x.OfLimit = least / float64(x.NS)
	return nil
}

// exactness orders types: a dense kernel of a more exact one does what a less
// exact one does.
var exactness = map[sparse.DType]int{sparse.F32: 4, sparse.F16: 3, sparse.BF16: 3, sparse.Int8: 2, sparse.Int4: 1}

// compareDense sets rows of one shape and batch beside the dense ones among them.
func compareDense(rows []*benchRow) {
	for _, x := range rows {
		for _, d := range rows {
			if d.Layout != sparse.LayoutDense.String() || (d.Weight != x.Weight && exactness[d.kernel.Weight] <= exactness[x.kernel.Weight]) {
				continue
			}
			if x.DenseNS == 0 || d.NS < x.DenseNS {
				x.DenseNS, x.DenseWeight = d.NS, d.Weight
			}
		}
		if x.DenseNS > 0 {
			x.Speedup = float64(x.DenseNS) / float64(x.NS)
		}
	}
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
		if len(out) == 0 {
			return nil, fmt.Errorf("%s: no Linear layers: nothing to time", c.Model)
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

// rows lists what is timed: a group for each shape and batch.
func (c *benchCmd) rows(b runtime.Backend, shapes [][2]int) ([][]*benchRow, error) {
	kernels, err := c.kernels(b)
	if err != nil {
		return nil, err
	}
	var out [][]*benchRow
	for _, s := range shapes {
		for _, batch := range c.Batch {
			if batch < 1 || batch > 1<<14 {
				return nil, usagef("--batch: want 1..%d, got %d", 1<<14, batch)
			}
			var group []*benchRow
			for _, k := range kernels {
				levels := c.Sparsity
				switch k.Layout {
				case sparse.LayoutDense:
					levels = []float64{0}
				case sparse.LayoutNM24:
					levels = []float64{0.5}
				}
				for _, z := range levels {
					if !(z >= 0 && z < 1) {
						return nil, usagef("--sparsity: want 0..1, got %g", z)
					}
					group = append(group, &benchRow{Op: string(k.Op), Rows: s[0], Cols: s[1], Batch: batch, Layout: k.Layout.String(),
						Weight: k.Weight.String(), Act: k.Act.String(), Sparsity: z, kernel: k})
				}
			}
			if len(group) > 0 {
				out = append(out, group)
			}
		}
	}
	return out, nil
}

// kernels are those that the flags name and the backend has.
func (c *benchCmd) kernels(b runtime.Backend) ([]runtime.Kernel, error) {
	var out []runtime.Kernel
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
			if b.Has(k) {
				out = append(out, k)
			}
		}
	}
	return out, nil
}
