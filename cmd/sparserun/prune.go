package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/prune"
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
	Format   string   `enum:"compressed,dense" default:"compressed" help:"compressed: zeros are not stored; dense: plain tensors with zeros."`
	DType    string   `name:"dtype" enum:"f32,f16,bf16" default:"f16" help:"Type of the stored weights: f32, f16, bf16."`
	Quant    string   `enum:"int8,int4," default:"" help:"Quantise what is kept: int8 (a scale per row), int4 (a scale per --group columns)."`
	Group    int      `default:"64" help:"Columns per scale of int4."`
	calibFlags
	gateFlags
}

// Help is shown by --help below the flags' head.
func (*pruneCmd) Help() string {
	return `Which weights are pruned: ` + prune.DefaultRule + `

Examples:
  sparserun prune model.gguf -o out.safetensors --pattern 2:4
  sparserun prune model.gguf -o out.safetensors --method sparsegpt --pattern 2:4 --calib text.txt
  sparserun prune model/ -o out/ --sparsity 0.5 --scope global --exclude '*.down_proj.weight'`
}

type pruneJSON struct {
	*prune.Report
	Output   string    `json:"output"`
	FileSize int64     `json:"file_bytes"`
	Gate     *gateJSON `json:"gate,omitempty"`
}

func (c *pruneCmd) pattern() (prune.Pattern, error) {
	switch {
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
	p, err := c.pattern()
	if err != nil {
		return err
	}
	if err := c.gateFlags.check(); err != nil {
		return err
	}
	t, err := sparse.ParseDType(c.DType)
	if err != nil {
		return usageError{err}
	}
	sum, err := sourceSHA256(c.Model)
	if err != nil {
		return err
	}
	gr, err := loader.Open(c.Model)
	if err != nil {
		return err
	}
	defer gr.Close()
	m, err := c.method(gr, c.Method, c.Seed)
	if err != nil {
		return err
	}
	targets, err := prune.Targets(gr, c.Include, c.Exclude)
	if err != nil {
		return err
	}
	g.logf("pruning %d of %d weights to %s by %s (%s)", len(targets), len(gr.Weights), p, m.Name(), prune.DefaultRule)
	var before float64
	if c.MaxLoss > 0 {
		if before, err = c.perplexity(g, gr); err != nil {
			return err
		}
	}
	bar := g.progress(len(targets), "pruning")
	store := prune.Store{DType: t}
	switch c.Quant {
	case "int8":
		store.DType = sparse.Int8
	case "int4":
		store.DType, store.Group = sparse.Int4, c.Group
	}
	if c.Format == "dense" {
		store.Layout = sparse.LayoutDense
	}
	rep, err := prune.Run(g.ctx, gr, m, p, prune.Options{Include: c.Include, Exclude: c.Exclude, Store: store, KeepZeros: c.KeepZero,
		Threads: g.Threads, SourceSHA256: sum, Journal: c.Journal, Log: func(s string) { g.logf("%s", s) },
		Progress: func(done, _ int, l prune.LayerReport) { bar.set(done, l.Name) }})
	bar.done()
	if err != nil {
		return err
	}
	var gate *gateJSON
	if c.MaxLoss > 0 {
		if gate, err = c.pass(g, gr, before); err != nil {
			return err
		}
	}
	meta := maps.Clone(rep.Recipe)
	meta["sparserun.version"] = Version
	o := loader.SaveOptions{Meta: meta, DType: t}
	if c.Format == "dense" {
		o.Format = loader.FormatDense
	}
	if err := loader.SaveContext(g.ctx, gr, c.Output, o); err != nil {
		return err
	}
	n, err := diskBytes(c.Output)
	if err != nil {
		return err
	}
	return g.print(pruneJSON{rep, c.Output, n, gate}, func(w io.Writer) {
		fmt.Fprintln(w, rep)
		if rep.Calibration != nil {
			fmt.Fprintf(w, "calibrated on %d windows of %d tokens; working memory %s\n", rep.Calibration.Windows, rep.Calibration.Window, size(rep.PeakBytes))
		}
		fmt.Fprintf(w, "pruned matrices: %s, %.4f of their fp16 size; file %s: %s\n",
			size(rep.After.Pruned), float64(rep.After.Pruned)/float64(rep.After.F16), c.Output, size(n))
	})
}

// sourceSHA256 hashes a model file; a folder has none of its own.
func sourceSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.IsDir() {
		return "", err
	}
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
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
