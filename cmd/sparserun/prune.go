package main

import (
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

type pruneCmd struct {
	Model    string   `arg:"" help:"Model file or folder."`
	Output   string   `short:"o" required:"" help:"File to write (.safetensors), or a folder."`
	Method   string   `short:"m" default:"magnitude" help:"${methods}"`
	Sparsity float64  `help:"Fraction of weights to remove, 0..1."`
	Scope    string   `enum:"layer,row,global," default:"" help:"With --sparsity: where weights compete: layer, row or global (default: the method's own)."`
	Pattern  string   `help:"keep:of, e.g. 2:4 keeps 2 of every 4; or block RxC/S, e.g. 16x4/0.8."`
	Include  []string `help:"Prune only weights whose name matches (glob, or re:REGEXP; repeatable)." sep:"none"`
	Exclude  []string `help:"Do not prune weights whose name matches." sep:"none"`
	Seed     uint64   `default:"0" help:"Of random choices."`
	KeepZero bool     `name:"keep-zeros" help:"Weights that are zero already stay zero and count."`
	Format   string   `enum:"compressed,dense" default:"compressed" help:"compressed: zeros are not stored; dense: plain tensors with zeros (with --quant: dense codes)."`
	DType    string   `name:"dtype" enum:"f32,f16,bf16" default:"f16" help:"Type of the stored weights: f32, f16, bf16."`
	Quant    string   `enum:"int8,int4," default:"" help:"Quantise what is kept: int8 (a scale per row), int4 (a scale per --group columns)."`
	Group    int      `default:"32" help:"Columns per scale of int4: 32 keeps 2:4 + int4 at 3.5 bits a weight."`
	Asym     bool     `name:"asymmetric" help:"Scales of int8 and int4 get a zero point."`
	Nearest  bool     `help:"Round every weight by itself, not jointly with pruning."`
	Embed    string   `name:"quant-embed" enum:"int8," default:"" help:"Quantise embedding and head too: int8 (a scale per row)."`
	Allocate string   `enum:"owl,sensitivity," default:"" help:"Give blocks their own sparsities: owl or sensitivity (calibrated methods, --sparsity)."`
	Permute  bool     `help:"Reorder MLP and value channels ahead of an N:M pattern; the model computes the same."`
	Heads    float64  `help:"Remove this fraction of every layer's KV heads with their query heads (structured)."`
	Channels float64  `help:"Remove this fraction of every layer's MLP channels (structured)."`
	Layers   int      `help:"Remove this many layers (structured)."`
	Score    string   `enum:"activation,taylor,random,l1,l2,bn-scale,median" default:"activation" help:"What structured pruning goes by: activation (energy that a part adds; of ONNX networks l2), taylor (|sum of weight x gradient|), random (a control); of ONNX networks l1, l2, bn-scale, median (distance to the geometric median) too."`
	NoRepair bool     `help:"Structured: do not fit what is left."`
	Memory   string   `name:"max-memory" default:"" help:"Most bytes that calibration may use, e.g. 2GiB (default: half the machine)."`
	calibFlags
	gateFlags
	tuneFlags
	graphFlags
	fileFlags
}

// Help is shown by --help below the flags' head.
func (*pruneCmd) Help() string {
	return `Which weights are pruned: ` + prune.DefaultRule + `

Examples:
  sparserun prune model.gguf -o out.safetensors --pattern 2:4
  sparserun prune model.gguf -o out.safetensors --method sparsegpt --pattern 2:4 --calib text.txt
  sparserun prune model.gguf -o out.safetensors --method best --pattern 2:4 --quant int4 --calib text.txt --journal work/
  sparserun prune model.gguf -o out.safetensors --method best --pattern 2:4 --quant int4 --quant-embed int8 --calib text.txt
  sparserun prune model.gguf -o out.safetensors --channels 0.25 --layers 2 --score taylor --calib text.txt
  sparserun prune model/ -o out/ --sparsity 0.5 --scope global --exclude '*.down_proj.weight'
  sparserun prune lenet5.onnx -o out.onnx --method lamp --sparsity 0.95 --schedule cubic --finetune 8 --distill --mnist mnist/
  sparserun prune net.onnx -o out.onnx --method sensitivity --sparsity 0.9 --finetune 5 --max-loss 0.005 --mnist mnist/
  sparserun prune resnet20.onnx -o out.onnx --structured 0.3 --of flops --round-to 8 --scope global --score median --finetune 20 --distill --augment --cifar cifar.bin.gz --mean .485,.456,.406 --std .229,.224,.225
  sparserun prune lenet5.onnx -o out.srcb --sparsity 0.93 --schedule cubic --finetune 8 --distill --codebook 5 --mnist mnist/`
}

type pruneJSON struct {
	*prune.Report
	usage
	Sizes    *sizesJSON `json:"sizes,omitempty"`
	Output   string     `json:"output"`
	FileSize int64      `json:"file_bytes"`
	Gate     *gateJSON  `json:"gate,omitempty"`
}

func (c *pruneCmd) structured() bool { return c.Heads != 0 || c.Channels != 0 || c.Layers != 0 }

func (c *pruneCmd) pattern() (prune.Pattern, error) {
	switch {
	case c.structured():
		if c.Pattern != "" || c.Sparsity != 0 {
			return nil, usagef("--heads, --channels and --layers exclude --sparsity and --pattern: prune twice")
		}
		if c.Calib == "" {
			return nil, usagef("--heads, --channels and --layers need --calib FILE")
		}
		return nil, nil
	case c.Pattern != "" && c.Sparsity != 0:
		return nil, usagef("--sparsity and --pattern exclude each other")
	case c.Pattern != "":
		p, err := prune.ParsePattern(c.Pattern)
		if err != nil {
			return nil, usageError{err}
		}
		return p, nil
	case c.Sparsity > 0 && c.Sparsity <= 1:
		return prune.Unstructured{Sparsity: c.Sparsity, Scope: prune.Scope(c.Scope)}, nil
	}
	return nil, usagef("want --sparsity between 0 and 1, or --pattern keep:of")
}

func (c *pruneCmd) Run(g *globals) error {
	if g.given["max-loss"] && !(c.MaxLoss > 0) { // 0 would be no gate at all, in training below 0 and NaN, too
		return usagef("--max-loss: want a share above 0, got %g", c.MaxLoss)
	}
	if err := g.idle(c.rules()); err != nil {
		return err
	}
	if c.ofGraph() {
		return c.pruneGraph(g)
	}
	p, err := c.pattern()
	if err != nil {
		return err
	}
	if err := c.gateFlags.check(); err != nil && !c.tunes() {
		return err
	}
	if c.Quant == "int8" && c.Asym && c.Format != "dense" {
		return usagef("--asymmetric: sparse int8 files have no zero points: want --format dense, or --quant int4")
	}
	t, err := sparse.ParseDType(c.DType)
	if err != nil {
		return usageError{err}
	}
	sum, err := sourceSHA256(c.Model)
	if err != nil {
		return err
	}
	gr, err := loader.Open(c.Model, c.loadOptions()...)
	if err != nil {
		return err
	}
	defer gr.Close()
	if err := savable(c.Output, gr.Tensors()); err != nil {
		return err
	}
	if c.tunes() {
		return c.tune(g, gr, p, t, sum)
	}
	o, err := c.options(g, t, sum)
	if err != nil {
		return err
	}
	var before float64
	if c.MaxLoss > 0 {
		if before, err = c.perplexity(g, gr); err != nil {
			return err
		}
	}
	source := gr.WeightBytes().Total()
	use := startUsage()
	gr, rep, err := c.prune(g, gr, p, o)
	if err != nil {
		return err
	}
	if c.Embed != "" {
		if err := quantiseEmbedding(g, gr, rep); err != nil {
			return err
		}
	}
	out := pruneJSON{Report: rep, usage: use.stop(), Output: c.Output}
	if c.MaxLoss > 0 {
		if out.Gate, err = c.pass(g, gr, before); err != nil {
			return err
		}
	}
	so := loader.SaveOptions{Meta: provenance(rep), DType: t}
	if c.Format == "dense" && c.Quant == "" { // a dense quantised matrix keeps its codes
		so.Format = loader.FormatDense
	}
	out.Sizes = sizesOf(gr, rep, source, so)
	if err := loader.SaveContext(g.ctx, gr, c.Output, so); err != nil {
		return err
	}
	if c.Journal != "" {
		if err := prune.ClearJournal(c.Journal); err != nil {
			g.logf("%v", err)
		}
	}
	if out.FileSize, err = diskBytes(c.Output); err != nil {
		return err
	}
	return g.print(out, out.text)
}

// options are what the flags say of how a run works.
func (c *pruneCmd) options(g *globals, t sparse.DType, sum string) (prune.Options, error) {
	store := prune.Store{DType: t, Asymmetric: c.Asym, Nearest: c.Nearest}
	switch c.Quant {
	case "int8":
		store.DType = sparse.Int8
	case "int4":
		store.DType, store.Group = sparse.Int4, c.Group
	}
	if c.Format == "dense" {
		store.Layout = sparse.LayoutDense
	}
	o := prune.Options{Include: c.Include, Exclude: c.Exclude, Store: store, KeepZeros: c.KeepZero, Threads: g.Threads,
		SourceSHA256: sum, Journal: c.Journal, Permute: c.Permute, Log: func(s string) { g.logf("%s", s) }}
	switch c.Allocate {
	case "owl":
		o.Allocate = prune.OWL{}
	case "sensitivity":
		o.Allocate = prune.Sensitivity{}
	}
	var err error
	o.MaxMemory, err = memoryLimit(c.Memory)
	return o, err
}

// prune runs what the flags ask for; structured pruning gives a new graph.
func (c *pruneCmd) prune(g *globals, gr *model.Graph, p prune.Pattern, o prune.Options) (*model.Graph, *prune.Report, error) {
	if c.structured() {
		calib, err := c.windows(gr)
		if err != nil {
			return nil, nil, err
		}
		bar := g.progress(len(gr.Linears()), "pruning")
		defer bar.done()
		o.Progress = func(done, _ int, l prune.LayerReport) { bar.set(done, l.Name) }
		return prune.Shrink(g.ctx, gr, prune.Structured{Calib: calib, Heads: c.Heads, Channels: c.Channels, Layers: c.Layers, NoRepair: c.NoRepair, Damping: c.Damping, Score: prune.PartScore(c.Score), Seed: c.Seed}, o)
	}
	m, err := c.method(gr, c.Method, c.Seed)
	if err != nil {
		return nil, nil, err
	}
	targets, err := prune.Targets(gr, c.Include, c.Exclude)
	if err != nil {
		return nil, nil, err
	}
	g.logf("pruning %d of %d weights to %s by %s (%s)", len(targets), len(gr.Weights), p, m.Name(), prune.DefaultRule)
	bar := g.progress(len(targets), "pruning")
	defer bar.done()
	start := time.Now()
	o.Progress = func(done, total int, l prune.LayerReport) {
		bar.set(done, l.Name)
		if bar.bar == nil && time.Since(start) > 10*time.Second && (done%(max(total/10, 1)) == 0 || done == total) {
			left := time.Since(start) / time.Duration(done) * time.Duration(total-done)
			g.logf("%d of %d, %s: error %.4f, about %s left", done, total, l.Name, l.Error, left.Round(time.Second))
		}
	}
	rep, err := prune.Run(g.ctx, gr, m, p, o)
	return gr, rep, err
}

// memoryLimit reads a size such as 2GiB or 500MB; empty is half the machine.
func memoryLimit(s string) (int64, error) {
	if s == "" {
		if total, ok := runtime.TotalMemory(); ok {
			return total / 2, nil
		}
		return 0, nil
	}
	unit := int64(1)
	digits := s
	for _, u := range []struct {
		suffix string
		n      int64
	}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"B", 1}} {
		if d, ok := strings.CutSuffix(s, u.suffix); ok {
			digits, unit = d, u.n
			break
		}
	}
	x, err := strconv.ParseFloat(strings.TrimSpace(digits), 64)
	if err != nil || !(x > 0) || x*float64(unit) > 1<<62 {
		return 0, usagef("--max-memory: want a size such as 2GiB, got %q", s)
	}
	return int64(x * float64(unit)), nil
}

// diskBytes is the size of a file, or of the weight files in a folder.
func diskBytes(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil || !st.IsDir() {
		if err != nil {
			return 0, err
		}
		return st.Size(), nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return 0, err
	}
	var n int64
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".safetensors") {
			if info, err := e.Info(); err == nil {
				n += info.Size()
			}
		}
	}
	return n, nil
}
