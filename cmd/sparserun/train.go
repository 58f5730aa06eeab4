package main

import (
	"fmt"
	"io"
	goruntime "runtime"
	"strings"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer"
	"github.com/sparserun/sparserun/train"
)

type trainCmd struct {
	Model  string `arg:"" help:"Language model to fine-tune: file or folder."`
	Output string `short:"o" required:"" help:"File to write (.safetensors), or a folder."`
	Text   string `required:"" help:"Training text." placeholder:"FILE"`
	Eval   string `help:"Held-back text." placeholder:"FILE"`

	Window    int     `default:"256" help:"Tokens of a training sequence."`
	Epochs    int     `default:"1" help:"Passes over the text."`
	Steps     int     `default:"0" help:"End after so many steps instead."`
	Batch     int     `default:"8" help:"Sequences of a step."`
	Rate      float64 `default:"1e-3" help:"Learning rate; cosine to a twentieth after a tenth of warm-up."`
	Decay     float64 `default:"0.01" help:"Weight decay (AdamW)."`
	Clip      float64 `default:"1" help:"Largest norm of the gradient."`
	Seed      uint64  `default:"0" help:"Of the order of sequences."`
	KeepZeros bool    `default:"true" negatable:"" help:"Weights that are zero stay zero: the mask holds."`
	DType     string  `name:"dtype" enum:"f32,f16,bf16" default:"f16" help:"Type of the stored weights: f32, f16, bf16."`
}

// Help is shown by --help below the flags' head.
func (*trainCmd) Help() string {
	return `Fine-tunes every weight of a small language model with AdamW in float32, deterministic by
seed at any number of threads. Weights that are zero stay zero, so that a pruned model stays pruned.

Examples:
  sparserun prune model/ -o p.safetensors --pattern 2:4
  sparserun train p.safetensors -o tuned.safetensors --text train.txt --eval valid.txt --steps 90 --rate 4e-3`
}

type trainJSON struct {
	train.Report
	Before   float64 `json:"value_before,omitempty"`
	Output   string  `json:"output"`
	FileSize int64   `json:"file_bytes"`
}

func (c *trainCmd) Run(g *globals) error {
	t, err := sparse.ParseDType(c.DType)
	if err != nil {
		return usageError{err}
	}
	gr, err := loader.Open(c.Model)
	if err != nil {
		return err
	}
	defer gr.Close()
	if gr.Config == nil || gr.Tokenizer == nil {
		return fmt.Errorf("%s: train wants a language model with its tokenizer", c.Model)
	}
	meta := gr.Source.Meta
	data, err := c.text(gr, c.Text)
	if err != nil {
		return err
	}
	threads := g.Threads
	if threads == 0 {
		threads = goruntime.GOMAXPROCS(0)
	}
	net, err := train.New(gr, linalg.NewPool(threads))
	if err != nil {
		return err
	}
	if c.KeepZeros {
		n, err := net.KeepZeros()
		if err != nil {
			return err
		}
		g.logf("%d weights stay zero", n)
	}
	o := train.Options{Epochs: c.Epochs, Steps: c.Steps, Batch: c.Batch, Rate: c.Rate, Optimiser: train.AdamW(c.Decay), Clip: c.Clip, Seed: c.Seed}
	steps := c.Steps
	if steps == 0 {
		steps = c.Epochs * (data.Len() + c.Batch - 1) / max(c.Batch, 1)
	}
	o.Schedule = train.Warmup(max(1, steps/10), train.Cosine(0.05))
	out := trainJSON{Output: c.Output}
	if c.Eval != "" {
		held, err := c.text(gr, c.Eval)
		if err != nil {
			return err
		}
		o.Eval = held
		v, err := train.Evaluate(net, held, c.Batch)
		if err != nil {
			return err
		}
		out.Before = v.Perplexity()
		g.logf("held-back perplexity before: %.3f", out.Before)
	}
	bar := g.progress(steps, "training")
	out.Report, err = train.Fit(g.ctx, net, data, o, func(p train.Progress) {
		bar.set(p.Step, fmt.Sprintf("loss %.3f", p.Loss))
		if bar.bar == nil && (p.Step%max(1, p.Steps/10) == 0 || p.Eval != nil) {
			g.logf("step %d of %d, loss %.3f, %s left", p.Step, p.Steps, p.Loss, p.Remaining.Round(1e9))
		}
	})
	bar.done()
	if err != nil {
		return err
	}
	if err := net.Store(); err != nil {
		return err
	}
	kept, err := repack(gr, t)
	if err != nil {
		return err
	}
	if err := loader.SaveContext(g.ctx, gr, c.Output, loader.SaveOptions{Meta: trainedMeta(meta, kept), DType: t}); err != nil {
		return err
	}
	if out.FileSize, err = diskBytes(c.Output); err != nil {
		return err
	}
	return g.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%d steps, %.0f s, training loss %.3f", out.Steps, out.Seconds, out.Loss)
		if c.Eval != "" {
			fmt.Fprintf(w, ", held-back %s %.3f -> %.3f", out.Metric, out.Before, out.Value)
		}
		fmt.Fprintf(w, "; %d of %d weights held at zero; %s: %s\n", out.Masked, out.Parameters, c.Output, size(out.FileSize))
	})
}

// text cuts a file into training sequences; blank lines separate documents, each of
// which begins with the model's BOS where it has one.
func (c *trainCmd) text(gr *model.Graph, path string) (*train.Text, error) {
	s, err := readText(path)
	if err != nil {
		return nil, err
	}
	var docs [][]int32
	for _, d := range strings.Split(s, "\n\n") {
		if d = strings.TrimSpace(d); d != "" {
			docs = append(docs, gr.Tokenizer.Encode(d, tokenizer.EncodeOptions{}))
		}
	}
	t, err := train.NewText(docs, min(c.Window, gr.Config.Context))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// repack stores Linears that still hold a pattern in its form again; trained weights
// come back dense.
func repack(gr *model.Graph, t sparse.DType) (int, error) {
	kept := 0
	for _, n := range gr.Linears() {
		c, err := sparse.CountZeros(n.Weight.Data)
		if err != nil {
			return 0, err
		}
		layout := sparse.LayoutDense
		switch {
		case c.Hold24 && c.Sparsity() >= 0.5:
			layout = sparse.LayoutNM24
		case c.Sparsity() > 0.2:
			layout = sparse.LayoutBitmask
		}
		if layout == sparse.LayoutDense {
			continue
		}
		if n.Weight.Data, err = sparse.Pack(n.Weight.Data, layout, t, 0); err != nil {
			return 0, err
		}
		kept++
	}
	return kept, nil
}

// trainedMeta keeps the provenance of pruning: the masks still hold.
func trainedMeta(meta map[string]string, kept int) map[string]string {
	out := map[string]string{"sparserun.version": Version, "sparserun.trained": "masked"}
	if kept == 0 {
		out["sparserun.trained"] = "dense"
	}
	for k, v := range meta {
		if strings.HasPrefix(k, "prune.") {
			out[k] = v
		}
	}
	return out
}
