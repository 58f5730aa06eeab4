// Command gpucheck measures the CUDA backend on the machine it runs on and writes
// report.md, report.json and speedup.png: Linears over shapes of language models,
// dense and sparse, and decoding of a model of SmolLM2's geometry. `make gpu-check`
// packs it with a conformance test and a script; docs/gpu.md explains the report.
// Under the simulator it runs a tiny version whose times are labelled as no speeds.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sparserun/sparserun/cuda"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// row is one timed Linear.
type row struct {
	Rows     int     `json:"rows"`
	Cols     int     `json:"cols"`
	Batch    int     `json:"batch"`
	Layout   string  `json:"layout"`
	Weight   string  `json:"weight"`
	Sparsity float64 `json:"sparsity"`
	NS       int64   `json:"ns"`
	GBps     float64 `json:"gb_per_s"`
	TFLOPps  float64 `json:"tflop_per_s"`            // of the dense equivalent
	DenseNS  int64   `json:"dense_ns"`               // ours, same type
	RowsNS   int64   `json:"row_major_ns,omitempty"` // the same by the row-major decode kernels, up to 8 rows
	Speedup  float64 `json:"speedup"`                // over the best dense of the same batch: ours in f16, or the rival's
	Rival    string  `json:"rival,omitempty"`
	RivalNS  int64   `json:"rival_ns,omitempty"`
}

// rival is a line of rivals.json, which rivals.py writes: cuBLAS, cuBLASLt, cuSPARSELt
// and CUTLASS through PyTorch.
type rival struct {
	Name  string `json:"name"` // "cublas f16", "cusparselt int8"
	Rows  int    `json:"rows"`
	Cols  int    `json:"cols"`
	Batch int    `json:"batch"`
	NS    int64  `json:"ns"`
}

type decode struct {
	DType       string  `json:"dtype"`
	Layout      string  `json:"layout"`
	WeightBytes int64   `json:"weight_bytes"`
	DeviceBytes int64   `json:"device_bytes"`
	Prefill     float64 `json:"prefill_tokens_per_s"`
	Decode      float64 `json:"decode_tokens_per_s"`
}

type report struct {
	Device     cuda.Info `json:"device"`
	Time       string    `json:"time"`
	Note       string    `json:"note,omitempty"`
	Tiny       bool      `json:"tiny,omitempty"`       // small shapes and two small layers: a test of the program
	Driver     string    `json:"nvidia_smi,omitempty"` // clocks, power, driver as nvidia-smi says
	Rows       []*row    `json:"rows"`
	Rivals     []rival   `json:"rivals,omitempty"`
	RivalsNote string    `json:"rivals_note"`
	Decodes    []decode  `json:"decode"`
	// Pool is the device's memory pool after all of it.
	Pool cuda.PoolStats `json:"pool"`
}

func main() {
	out := flag.String("out", ".", "folder for the report")
	device := flag.Int("device", 0, "number of the GPU")
	rivals := flag.String("rivals", "", "rivals.json, as rivals.py writes it")
	tiny := flag.Bool("tiny", false, "small shapes: a test of this program")
	flag.Parse()
	if err := run(*out, *device, *rivals, *tiny); err != nil {
		fmt.Fprintln(os.Stderr, "gpucheck:", err)
		os.Exit(1)
	}
}

func run(out string, device int, rivals string, tiny bool) error {
	b, err := cuda.Open(device)
	if err != nil {
		return err
	}
	defer b.Close()
	r := &report{Device: b.Info(), Time: time.Now().UTC().Format(time.RFC3339), RivalsNote: "not measured: no rivals.json"}
	if r.Device.Simulated {
		r.Note = "simulated, not a speed"
	}
	if smi, err := exec.Command("nvidia-smi", "--query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,temperature.gpu,ecc.mode.current", "--format=csv").Output(); err == nil {
		r.Driver = strings.TrimSpace(string(smi))
	}
	if rivals != "" {
		raw, err := os.ReadFile(rivals)
		if err == nil {
			err = json.Unmarshal(raw, &r.Rivals)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", rivals, err)
		}
		r.RivalsNote = fmt.Sprintf("%d timings from PyTorch", len(r.Rivals))
	}
	ctx := context.Background()
	r.Tiny = tiny
	if err := r.linears(ctx, b, tiny); err != nil {
		return err
	}
	if err := r.decodes(ctx, b, tiny); err != nil {
		return err
	}
	r.Pool = b.Pool()
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	j, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "report.json"), append(j, '\n'), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "report.md"), []byte(r.markdown()), 0o644); err != nil {
		return err
	}
	return r.plot(filepath.Join(out, "speedup.png"))
}

// Shapes of Llama-3-8B (attention, up, down), Llama-2-7B up and SmolLM2-135M.
var (
	shapes     = [][2]int{{4096, 4096}, {14336, 4096}, {4096, 14336}, {11008, 4096}, {1536, 576}}
	batches    = []int{1, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}
	tinyShapes = [][2]int{{128, 256}}
	tinyBatch  = []int{1, 16}
)

// forms are what is compared; bitmaps and csr at what one-shot pruning keeps with
// accuracy lost and what fine-tuned pruning keeps.
var forms = []struct {
	layout   sparse.Layout
	t        sparse.DType
	sparsity float64
	maxBatch int
}{
	{sparse.LayoutDense, sparse.F16, 0, 1 << 20}, {sparse.LayoutNM24, sparse.F16, 0.5, 1 << 20},
	{sparse.LayoutDense, sparse.BF16, 0, 1 << 20}, {sparse.LayoutNM24, sparse.BF16, 0.5, 1 << 20},
	{sparse.LayoutDense, sparse.Int8, 0, 1 << 20}, {sparse.LayoutNM24, sparse.Int8, 0.5, 1 << 20},
	{sparse.LayoutDense, sparse.Int4, 0, 1 << 20}, {sparse.LayoutNM24, sparse.Int4, 0.5, 1 << 20},
	{sparse.LayoutBitmask, sparse.F16, 0.5, 1 << 20}, {sparse.LayoutBitmask, sparse.F16, 0.7, 1 << 20}, {sparse.LayoutBitmask, sparse.F16, 0.9, 1 << 20},
	{sparse.LayoutCSR, sparse.F16, 0.8, 8}, {sparse.LayoutCSR, sparse.F16, 0.9, 8}, {sparse.LayoutCSR, sparse.F16, 0.95, 8},
}

// rowMajorBatch is the largest batch of the row-major decode kernels.
const rowMajorBatch = 8

func (r *report) linears(ctx context.Context, b *cuda.Backend, tiny bool) error {
	ss, bs := shapes, batches
	if tiny {
		ss, bs = tinyShapes, tinyBatch
	}
	for _, s := range ss {
		for _, batch := range bs {
			for _, f := range forms {
				if batch > f.maxBatch {
					continue
				}
				k := runtime.Kernel{Op: model.OpLinear, Layout: f.layout, Weight: f.t, Act: runtime.ActType(f.t)}
				d, err := b.Time(ctx, k, s[0], s[1], 1-f.sparsity, batch)
				if err != nil {
					return fmt.Errorf("%s %dx%d batch %d: %w", k, s[0], s[1], batch, err)
				}
				x := &row{Rows: s[0], Cols: s[1], Batch: batch, Layout: f.layout.String(), Weight: f.t.String(), Sparsity: f.sparsity, NS: d.Nanoseconds()}
				x.GBps = float64(b.LinearBytes(k, s[0], s[1], 1-f.sparsity)) / float64(x.NS)
				x.TFLOPps = 2 * float64(s[0]) * float64(s[1]) * float64(batch) / float64(x.NS) / 1000
				if rm, ok := b.RowMajor().(runtime.Timer); ok && batch <= rowMajorBatch && (f.layout == sparse.LayoutDense || f.layout == sparse.LayoutNM24) {
					d, err := rm.Time(ctx, k, s[0], s[1], 1-f.sparsity, batch)
					if err != nil {
						return fmt.Errorf("%s %dx%d batch %d, row-major: %w", k, s[0], s[1], batch, err)
					}
					x.RowsNS = d.Nanoseconds()
				}
				r.Rows = append(r.Rows, x)
			}
		}
	}
	for _, x := range r.Rows {
		_, best := r.dense(x, "f16")
		if x.Rival, x.RivalNS = r.dense(x, x.Weight); x.Rival == "" {
			x.Rival, x.RivalNS = r.dense(x, "f16")
		}
		for _, d := range r.Rows {
			if d.Layout != "dense" || d.Rows != x.Rows || d.Cols != x.Cols || d.Batch != x.Batch {
				continue
			}
			if d.Weight == x.Weight {
				x.DenseNS = d.NS
			}
			if d.Weight == "f16" && (best == 0 || d.NS < best) {
				best = d.NS
			}
		}
		if best > 0 {
			x.Speedup = float64(best) / float64(x.NS)
		}
	}
	return nil
}

// dense is the foreign dense kernel of the same product, in a type.
func (r *report) dense(x *row, kind string) (name string, ns int64) {
	for _, v := range r.Rivals {
		if v.Rows == x.Rows && v.Cols == x.Cols && v.Batch == x.Batch && strings.HasPrefix(v.Name, "cublas") && strings.HasSuffix(v.Name, " "+kind) && (ns == 0 || v.NS < ns) {
			name, ns = v.Name, v.NS
		}
	}
	return name, ns
}

func (r *report) decodes(ctx context.Context, b *cuda.Backend, tiny bool) error {
	g, err := randomLlama(tiny)
	if err != nil {
		return err
	}
	prompt, n := 256, 64
	if tiny {
		prompt, n = 20, 3
	}
	for _, f := range forms {
		o := runtime.Options{DType: f.t, Context: prompt + n + 1, Chunk: 256, Sparse: runtime.SparseOff}
		switch f.layout {
		case sparse.LayoutNM24:
			o.Sparse, o.Layout = runtime.SparseForce, f.layout
		case sparse.LayoutCSR, sparse.LayoutBitmask:
			continue // the model's weights are 2:4
		}
		s, err := runtime.New(g, b, runtime.WithOptions(o))
		if err != nil {
			return fmt.Errorf("decode %v %v: %w", f.layout, f.t, err)
		}
		ids := make([]int32, prompt)
		for i := range ids {
			ids[i] = int32(i * 7 % g.Config.Vocab)
		}
		for range 2 { // the first one warms up and captures the graph
			s.ResetCounters()
			if _, err = s.GenerateTokens(ctx, ids, runtime.GenerateOptions{MaxTokens: n, IgnoreEOS: true}); err != nil {
				s.Close()
				return fmt.Errorf("decode %v %v: %w", f.layout, f.t, err)
			}
		}
		c := s.Counters()
		r.Decodes = append(r.Decodes, decode{f.t.String(), f.layout.String(), c.Memory.Weights.Total(), c.Memory.Device,
			c.TokensPerSecond(runtime.Prefill), c.TokensPerSecond(runtime.Decode)})
		if err := s.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (r *report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# GPU check: %s\n\ncompute capability %d.%d, %d SMs, %d MiB, driver %d, %s\n", r.Device.Name, r.Device.Major, r.Device.Minor, r.Device.SMs, r.Device.Memory>>20, r.Device.Driver, r.Time)
	if r.Note != "" {
		fmt.Fprintf(&b, "\n**All times: %s.**\n", r.Note)
	}
	if r.Driver != "" {
		fmt.Fprintf(&b, "\n```\n%s\n```\n", r.Driver)
	}
	fmt.Fprintf(&b, "\nRivals: %s. Weights rotate over 128 MiB; medians of event times. `speed-up` is over the best dense kernel in 16 bits of the same batch, ours or cuBLAS; `row-major` is the decode kernels (gemv) beside the tiles, up to 8 rows.\n\n", r.RivalsNote)
	b.WriteString("| shape | batch | layout | type | zeros | us | GB/s | TFLOP/s (dense equivalent) | row-major us | our dense, same type, us | cuBLAS us | speed-up |\n|---|---:|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n")
	us := func(ns int64) string {
		if ns == 0 {
			return "not measured"
		}
		return fmt.Sprintf("%.1f", float64(ns)/1000)
	}
	for _, x := range r.Rows {
		fmt.Fprintf(&b, "| %dx%d | %d | %s | %s | %.0f %% | %s | %.0f | %.1f | %s | %s | %s | %.2f |\n", x.Rows, x.Cols, x.Batch, x.Layout, x.Weight, 100*x.Sparsity, us(x.NS), x.GBps, x.TFLOPps, us(x.RowsNS), us(x.DenseNS), us(x.RivalNS), x.Speedup)
	}
	geometry := "SmolLM2-135M's geometry"
	if r.Tiny {
		geometry = "two small layers"
	}
	fmt.Fprintf(&b, "\n## A model of %s, random weights\n", geometry)
	b.WriteString("\n| layout | type | weights MiB | device MiB | prefill tokens/s | decode tokens/s |\n|---|---|---:|---:|---:|---:|\n")
	for _, d := range r.Decodes {
		fmt.Fprintf(&b, "| %s | %s | %.1f | %.1f | %.0f | %.1f |\n", d.Layout, d.DType, float64(d.WeightBytes)/(1<<20), float64(d.DeviceBytes)/(1<<20), d.Prefill, d.Decode)
	}
	if r.Pool.Allocs > 0 {
		fmt.Fprintf(&b, "\nMemory pool: %d pieces from %d driver allocations, at most %.1f MiB reserved.\n", r.Pool.Gets, r.Pool.Allocs, float64(r.Pool.Peak)/(1<<20))
	}
	if others := r.otherRivals(); len(others) > 0 {
		b.WriteString("\n## Sparse rivals\n\n| kernel | shape | batch | us |\n|---|---|---:|---:|\n")
		for _, v := range others {
			fmt.Fprintf(&b, "| %s | %dx%d | %d | %s |\n", v.Name, v.Rows, v.Cols, v.Batch, us(v.NS))
		}
	}
	return b.String()
}

func (r *report) otherRivals() []rival {
	return slices.DeleteFunc(slices.Clone(r.Rivals), func(v rival) bool { return strings.HasPrefix(v.Name, "cublas") })
}
