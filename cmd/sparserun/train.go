package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

type trainCmd struct {
	Model  string `arg:"" optional:"" help:"Network to fine-tune: a language model (--text) or an ONNX classifier (--mnist, --cifar, --data)."`
	Net    string `enum:"lenet-300-100,lenet-5,resnet20," default:"" help:"Train this network from nothing instead: lenet-300-100, lenet-5, resnet20."`
	Output string `short:"o" required:"" help:"File to write: .safetensors or a folder for a language model, .onnx for a classifier."`

	Mnist string `help:"Folder with MNIST's four files: trains on the training images but the last 5,000, which choose the best epoch; reports on the test images." placeholder:"DIR"`
	Cifar string `help:"File of CIFAR-10 records: trains on the first three quarters and reports on the rest." placeholder:"FILE"`
	Data  string `help:"File of samples with classes, e.g. token ids: .npz (x, y) or JSON lines {x, y}. Trains on the first three quarters and reports on the rest." placeholder:"FILE"`
	pixelFlags
	Augment bool   `help:"Images are shifted by up to four pixels and mirrored (photographs, not digits)."`
	Text    string `help:"Training text of a language model." placeholder:"FILE"`
	Eval    string `help:"Held-back text." placeholder:"FILE"`

	Window    int     `default:"256" help:"Tokens of a training sequence."`
	Epochs    int     `default:"1" help:"Passes over the data."`
	Steps     int     `default:"0" help:"End after so many steps instead."`
	Batch     int     `default:"0" help:"Sequences or images of a step (default: 8 sequences of text, 128 images, 32 samples of --data)."`
	Rate      float64 `default:"1e-3" help:"Learning rate; cosine to a twentieth after a tenth of warm-up."`
	Optimiser string  `enum:"adam,sgd" default:"adam" help:"adam (AdamW) or sgd (Nesterov's momentum 0.9)."`
	Decay     float64 `default:"0.01" help:"Weight decay."`
	Clip      float64 `default:"1" help:"Largest norm of the gradient; 0: no limit."`
	Seed      uint64  `default:"0" help:"Of first weights and of the order of samples."`
	KeepZeros bool    `default:"true" negatable:"" help:"Weights that are zero stay zero: the mask holds."`
	DType     string  `name:"dtype" enum:"f32,f16,bf16" default:"f16" help:"Type of a language model's stored weights: f32, f16, bf16."`
}

// Help is shown by --help below the flags' head.
func (*trainCmd) Help() string {
	return `Trains every weight in float32, deterministic by seed at any number of threads. Weights of a network that
are zero stay zero, so that a pruned model stays pruned.

Examples:
  sparserun train --net lenet-300-100 --mnist mnist/ -o lenet.onnx --epochs 15
  sparserun train --net resnet20 --cifar cifar.bin.gz --augment -o resnet20.onnx --epochs 60 --optimiser sgd --rate 0.05
  sparserun train pruned.onnx --mnist mnist/ -o tuned.onnx --epochs 5 --rate 3e-4
  sparserun train bert.onnx --data reviews.jsonl -o tuned.onnx --epochs 3 --rate 2e-5
  sparserun prune model/ -o p.safetensors --pattern 2:4
  sparserun train p.safetensors -o tuned.safetensors --text train.txt --eval valid.txt --steps 90 --rate 4e-3`
}

type trainJSON struct {
	train.Report
	Before   float64   `json:"value_before,omitempty"`
	Test     *testJSON `json:"test,omitempty"`
	Output   string    `json:"output"`
	FileSize int64     `json:"file_bytes"`
}

func (c *trainCmd) Run(g *globals) error {
	images, text := c.Mnist != "" || c.Cifar != "", c.Text != ""
	switch {
	case (c.Model == "") == (c.Net == ""):
		return usagef("want a model to fine-tune, or --net")
	case given(c.Mnist, c.Cifar, c.Data, c.Text) != 1:
		return usagef("want one of --mnist DIR, --cifar FILE, --data FILE and --text FILE")
	case c.Net != "" && text:
		return usagef("--net wants --mnist DIR, --cifar FILE or --data FILE")
	}
	if err := g.idle([]flagRule{
		{"window eval dtype", text, "--text"},
		{"pixel-scale mean std augment", images, "--mnist or --cifar"},
		{"keep-zeros", c.Net == "", "a model to fine-tune"},
		{"epochs", c.Steps == 0, "no --steps"},
	}); err != nil {
		return err
	}
	if c.Epochs < 1 || c.Steps < 0 || c.Batch < 0 || c.Window < 2 || !(c.Rate > 0) || !(c.Decay >= 0) || !(c.Clip >= 0) {
		return usagef("--epochs, --steps, --batch, --window, --rate, --decay, --clip: want at least 1, 0, 0, 2, and above 0, at least 0, 0, got %d, %d, %d, %d, %g, %g, %g",
			c.Epochs, c.Steps, c.Batch, c.Window, c.Rate, c.Decay, c.Clip)
	}
	if err := savable(c.Output, !text); err != nil {
		return err
	}
	if c.Batch == 0 {
		switch {
		case text:
			c.Batch = 8
		case images:
			c.Batch = 128
		default:
			c.Batch = 32
		}
	}
	if text {
		return c.language(g)
	}
	return c.classifier(g)
}

// language fine-tunes a small language model.
func (c *trainCmd) language(g *globals) error {
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
		return fmt.Errorf("%s: --text wants a language model with its tokenizer", c.Model)
	}
	data, err := trainingText(gr, c.Text, c.Window)
	if err != nil {
		return err
	}
	net, err := c.net(g, gr)
	if err != nil {
		return err
	}
	o := c.options(data.Len())
	out := trainJSON{Output: c.Output}
	if c.Eval != "" {
		if o.Eval, err = trainingText(gr, c.Eval, c.Window); err != nil {
			return err
		}
		v, err := train.Evaluate(net, o.Eval, c.Batch)
		if err != nil {
			return err
		}
		out.Before = v.Perplexity()
		g.logf("held-back perplexity before: %.3f", out.Before)
	}
	if out.Report, err = fit(g, net, data, o, "training"); err != nil {
		return err
	}
	if err := net.Store(); err != nil {
		return err
	}
	return c.finish(g, gr, t, &out, c.Eval != "")
}

// classifier trains or fine-tunes a network that gives every sample a class.
func (c *trainCmd) classifier(g *globals) error {
	gr, err := c.graph()
	if err != nil {
		return err
	}
	defer gr.Close()
	if !gr.Tensors() {
		return fmt.Errorf("%s: --mnist, --cifar and --data want an ONNX network", c.Model)
	}
	l := labelFlags{Mnist: c.Mnist, Cifar: c.Cifar, Data: c.Data, pixelFlags: c.pixelFlags}
	data, err := l.open(gr, "")
	if err != nil {
		return err
	}
	net, err := c.net(g, gr)
	if err != nil {
		return err
	}
	samples, err := augmented(data.train, gr, c.Augment, c.Seed)
	if err != nil {
		return err
	}
	o := c.options(data.train.Len())
	o.Eval, o.EvalBatch = data.held, evalBatch(net, data.held)
	o.KeepBest = data.test != nil // else the held-back images are what is reported
	out := trainJSON{Output: c.Output}
	if c.Net == "" {
		if out.Before, err = metricOf(net, data.held); err != nil {
			return err
		}
		g.logf("held-back accuracy before: %.4f", out.Before)
	}
	if data.test != nil {
		out.Test = &testJSON{Metric: data.test.Metric(), N: data.test.Len()}
		if out.Test.Dense, err = metricOf(net, data.test); err != nil {
			return err
		}
	}
	if out.Report, err = fit(g, net, samples, o, "training"); err != nil {
		return err
	}
	if out.Test != nil {
		if out.Test.Value, err = metricOf(net, data.test); err != nil {
			return err
		}
	}
	if err := net.Store(); err != nil {
		return err
	}
	return c.finish(g, gr, sparse.F32, &out, true)
}

// graph is the file's network, or a new one of --net.
func (c *trainCmd) graph() (*model.Graph, error) {
	switch c.Net {
	case "lenet-300-100":
		return train.Tensors(train.LeNet300100(c.Seed))
	case "lenet-5":
		return train.Tensors(train.LeNet5(c.Seed))
	case "resnet20":
		return train.Tensors(train.ResNet20(c.Seed))
	}
	return loader.Open(c.Model)
}

// net makes a graph ready for training, its zeros held.
func (c *trainCmd) net(g *globals, gr *model.Graph) (*train.Net, error) {
	net, err := train.New(gr, linalg.NewPool(g.threads()))
	if err != nil || !c.KeepZeros || c.Net != "" {
		return net, err
	}
	n, err := net.KeepZeros()
	g.logf("%d weights stay zero", n)
	return net, err
}

// options are what the flags say of a run over so many samples.
func (c *trainCmd) options(samples int) train.Options {
	o := train.Options{Epochs: c.Epochs, Steps: c.Steps, Batch: c.Batch, Rate: c.Rate, Optimiser: train.AdamW(c.Decay), Clip: c.Clip, Seed: c.Seed}
	if c.Optimiser == "sgd" {
		o.Optimiser = train.SGD{Momentum: 0.9, Nesterov: true, Decay: c.Decay}
	}
	steps := c.Steps
	if steps == 0 {
		steps = c.Epochs * (samples + c.Batch - 1) / max(c.Batch, 1)
	}
	o.Schedule = train.Warmup(max(1, steps/10), train.Cosine(0.05))
	return o
}

// finish writes the network and prints the report.
func (c *trainCmd) finish(g *globals, gr *model.Graph, t sparse.DType, out *trainJSON, held bool) error {
	kept, err := repack(gr, t)
	if err != nil {
		return err
	}
	if err := loader.SaveContext(g.ctx, gr, c.Output, loader.SaveOptions{Meta: trainedMeta(gr.Source.Meta, kept), DType: t}); err != nil {
		return err
	}
	if out.FileSize, err = diskBytes(c.Output); err != nil {
		return err
	}
	return g.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "%d steps, %.0f s, %.0f samples/s, training loss %.3f", out.Steps, out.Seconds, out.SamplesPerSec, out.Loss)
		switch {
		case held && out.Before != 0:
			fmt.Fprintf(w, ", held-back %s %.4f -> %.4f", out.Metric, out.Before, out.Value)
		case held:
			fmt.Fprintf(w, ", held-back %s %.4f", out.Metric, out.Value)
		}
		if x := out.Test; x != nil {
			fmt.Fprintf(w, ", test %s %.4f -> %.4f (%d images)", x.Metric, x.Dense, x.Value, x.N)
		}
		fmt.Fprintf(w, "; %d of %d weights held at zero; %s: %s\n", out.Masked, out.Parameters, c.Output, size(out.FileSize))
	})
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
