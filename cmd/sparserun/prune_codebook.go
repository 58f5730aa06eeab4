package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// codebookFlags are Deep Compression's.
type codebookFlags struct {
	Codebook int     `default:"0" help:"ONNX: weights share 2^BITS values a matrix; codebook, gaps between weights and Huffman codes go to the file (Deep Compression)." placeholder:"BITS"`
	Share    float64 `default:"1" help:"--codebook: epochs in which the shared values are fine-tuned (with --mnist, --cifar or --data)."`
}

// codedJSON is what prune prints of --codebook.
type codedJSON struct {
	usage
	Method   string                    `json:"method"`
	Sparsity float64                   `json:"sparsity"`
	Before   bytesJSON                 `json:"before"` // float32, four bytes a parameter
	After    bytesJSON                 `json:"after"`  // the whole file
	Ratio    float64                   `json:"ratio"`
	Layers   []prune.LayerReport       `json:"layers"`
	Codebook map[string]codebook.Stats `json:"codebook"`
	Tune     *prune.TuneReport         `json:"tune,omitempty"`
	Test     *testJSON                 `json:"test,omitempty"`
	Output   string                    `json:"output"`
	FileSize int64                     `json:"file_bytes"`
}

// compress prunes, if asked to, lets weights share values, and writes a codebook file.
func (c *pruneCmd) compress(g *globals) error {
	if c.Codebook < 1 || c.Codebook > 8 {
		return usagef("--codebook: want 1 to 8 bits, got %d", c.Codebook)
	}
	gr, err := loader.Open(c.Model, c.loadOptions()...)
	if err != nil {
		return err
	}
	defer gr.Close()
	if !gr.Tensors() {
		return fmt.Errorf("%s: --codebook wants an ONNX network", c.Model)
	}
	var data labelled
	if c.tunes() {
		if data, err = c.labelFlags.open(gr, ""); err != nil {
			return err
		}
	}
	on, split := data.test, data.test
	if on == nil {
		on = data.held
	}
	pool := linalg.NewPool(g.threads())
	measure := func(gr *model.Graph) (float64, error) {
		n, err := train.New(gr, pool)
		if err != nil {
			return 0, err
		}
		return metricOf(n, on)
	}
	out := codedJSON{Method: "codebook", Output: c.Output, Before: bytesJSON{4 * gr.Parameters()}}
	use := startUsage()
	if on != nil {
		out.Test = &testJSON{Metric: on.Metric(), N: on.Len()}
		if out.Test.Dense, err = measure(gr); err != nil {
			return err
		}
		if split == nil {
			g.logf("figures are of the last quarter of the samples, which nothing is trained on")
		}
	}
	if err := c.pruneFirst(g, gr, data, pool, &out); err != nil {
		return err
	}
	if data.train != nil {
		if err := c.shareValues(g, gr, data, pool); err != nil {
			return err
		}
	}
	meta := map[string]string{"sparserun.version": Version, "prune.method": out.Method}
	if err := loader.SaveContext(g.ctx, gr, c.Output, loader.SaveOptions{Format: loader.FormatCodebook, Codebook: 1 << c.Codebook, Meta: meta}); err != nil {
		return err
	}
	if out.Test != nil { // of the file as it is
		again, err := loader.Open(c.Output)
		if err != nil {
			return err
		}
		defer again.Close()
		if out.Test.Value, err = measure(again); err != nil {
			return err
		}
	}
	out.usage = use.stop()
	if out.FileSize, err = diskBytes(c.Output); err != nil {
		return err
	}
	if out.Codebook, err = codebookStats(c.Output); err != nil {
		return err
	}
	var weights, nonzero int
	for _, s := range out.Codebook {
		weights, nonzero = weights+s.Weights, nonzero+s.Nonzero
	}
	out.Sparsity = 1 - float64(nonzero)/float64(max(1, weights))
	out.After, out.Ratio = bytesJSON{out.FileSize}, float64(out.Before.Bytes)/float64(max(1, out.FileSize))
	return g.print(out, out.text)
}

// pruneFirst prunes as prune without --codebook does, where the flags ask for it.
func (c *pruneCmd) pruneFirst(g *globals, gr *model.Graph, d labelled, pool *linalg.Pool, out *codedJSON) error {
	if c.Sparsity == 0 && c.Pattern == "" {
		return nil
	}
	p, err := c.pattern()
	if err != nil {
		return err
	}
	o, err := c.options(g, sparse.F32, "")
	if err != nil {
		return err
	}
	o.Store.Layout = sparse.LayoutDense
	var rep *prune.Report
	if d.train != nil {
		t, err := c.tuning(g, gr, p, d, pool)
		if err != nil {
			return err
		}
		if rep, out.Tune, err = tune(g, gr, t, o); err != nil {
			return err
		}
	} else if _, rep, err = c.prune(g, gr, p, o); err != nil {
		return err
	}
	out.Method, out.Layers = rep.Method+"+codebook", rep.Layers
	return nil
}

// shareValues fine-tunes the codebooks.
func (c *pruneCmd) shareValues(g *globals, gr *model.Graph, d labelled, pool *linalg.Pool) error {
	n, err := train.New(gr, pool)
	if err != nil {
		return err
	}
	if _, err := n.KeepZeros(); err != nil {
		return err
	}
	for _, p := range n.Prunable() {
		book, err := codebook.Cluster(p.W, 1<<c.Codebook)
		if err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		copy(p.W, book.Values())
		if err := p.Tie(book.Code, len(book.Entries)); err != nil {
			return err
		}
	}
	if c.Share > 0 {
		o := train.Options{Steps: int(math.Ceil(c.Share * float64((d.train.Len()+c.Batch-1)/max(1, c.Batch)))), Batch: c.Batch, Rate: c.Rate / 5, Optimiser: train.Adam{}, Schedule: train.Cosine(0.01), Seed: c.Seed}
		data, err := augmented(d.train, gr, c.Augment, c.Seed)
		if err != nil {
			return err
		}
		if _, err := fit(g, n, data, o, "sharing"); err != nil {
			return err
		}
	}
	return n.Store()
}

// fit is train.Fit with a progress bar.
func fit(g *globals, n *train.Net, d train.Data, o train.Options, what string) (train.Report, error) {
	total := o.Steps
	if total == 0 {
		total = o.Epochs * ((d.Len() + max(1, o.Batch) - 1) / max(1, o.Batch))
	}
	l := g.steps(total, what)
	defer l.done()
	return train.Fit(g.ctx, n, d, o, func(p train.Progress) {
		l.at(p.Step, fmt.Sprintf("loss %.3f", p.Loss), fmt.Sprintf("step %d of %d, loss %.4f, %.0f samples/s, %s left",
			p.Step, p.Steps, p.Loss, p.PerSecond, p.Remaining.Round(time.Second)), p.Eval)
	})
}

// codebookStats says how the bytes of a codebook file's matrices are spent.
func codebookStats(path string) (map[string]codebook.Stats, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	f, err := codebook.Read(b, math.MaxInt32)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	out := map[string]codebook.Stats{}
	for _, t := range f.Tensors {
		if t.Kind != codebook.KindCoded {
			continue
		}
		if out[t.Name], err = t.Stats(); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return out, nil
}

// codebookTable prints them.
func codebookTable(w io.Writer, stats map[string]codebook.Stats) {
	t := table{}
	t.add("matrix", "weights", "kept", "entries", "value bits", "index bits", "fillers", "bytes")
	for _, k := range sortedKeys(stats) {
		s := stats[k]
		per := func(bits int) string { return fmt.Sprintf("%.2f", float64(bits)/float64(max(1, s.Nonzero))) }
		t.add(k, fmt.Sprint(s.Weights), percent(float64(s.Nonzero)/float64(max(1, s.Weights))), fmt.Sprint(s.Entries), per(s.Values), per(s.Gaps), fmt.Sprint(s.Fillers), fmt.Sprint(s.Bytes))
	}
	t.write(w)
}

func (o *codedJSON) text(w io.Writer) {
	codebookTable(w, o.Codebook)
	if o.Test != nil {
		fmt.Fprintf(w, "%s: %.4f before, %.4f of the file (%d samples)\n", o.Test.Metric, o.Test.Dense, o.Test.Value, o.Test.N)
	}
	fmt.Fprintf(w, "%s in float32, %s in the file with everything: %.1f times smaller; %s\n", size(o.Before.Bytes), size(o.FileSize), o.Ratio, o.Output)
}
