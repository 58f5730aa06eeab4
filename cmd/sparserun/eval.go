package main

import (
	"fmt"
	"io"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/tokenizer"
)

type evalCmd struct {
	Model string `arg:"" help:"Model file or folder."`
	engine
	Text    string `help:"Text file to measure perplexity on." placeholder:"FILE"`
	Window  int    `default:"512" help:"Tokens of a window."`
	Windows int    `default:"0" help:"Take the first K windows (default: the whole text)."`
	imageFlags
}

// Help is shown by --help below the flags' head.
func (*evalCmd) Help() string {
	return `Perplexity is exp(mean negative log-likelihood) over non-overlapping windows of the
text, tokenised as one string, no BOS added; the first token of a window is not predicted.
Accuracy is the share of images whose class has the highest score.

Examples:
  sparserun eval model.gguf --text wiki.test.txt --window 512 --windows 40
  sparserun eval pruned.safetensors --text wiki.test.txt --dtype int8 --json
  sparserun eval lenet5.onnx --mnist mnist/ --pixel-scale 256
  sparserun eval resnet20.onnx --cifar cifar10_test.bin.gz --mean .485,.456,.406 --std .229,.224,.225
  sparserun eval squeezenet.onnx --images photos/ --crop 227 --bgr --pixel-scale 1 --mean 104,117,123`
}

type evalJSON struct {
	Metric  string  `json:"metric"`
	Value   float64 `json:"value"`
	NLL     float64 `json:"nll"`
	Tokens  int     `json:"tokens"`
	Window  int     `json:"window"`
	Windows int     `json:"windows"`
	Seconds float64 `json:"seconds"`
	DType   string  `json:"dtype"`
}

func (c *evalCmd) Run(g *globals) error {
	images := c.given()
	if err := g.idle([]flagRule{
		{"window windows", images == 0, "--text"},
		{"count batch pixel-scale mean std bgr", images > 0, "--mnist, --cifar or --images"},
		{"resize crop", c.Images != "", "--images"},
		{"group", integers(c.DType), "--dtype int8 or int4"},
	}); err != nil {
		return err
	}
	switch {
	case images > 1 || (images == 1 && c.Text != ""):
		return usagef("--text, --mnist, --cifar and --images exclude one another")
	case images == 1:
		return c.images(g)
	case c.Text == "":
		return usagef("want --text FILE, --mnist DIR, --cifar FILE or --images DIR")
	}
	if c.Window < 2 || c.Windows < 0 || c.Context < 0 {
		return usagef("--window, --windows and --context: want at least 2, 0 and 0, got %d, %d and %d", c.Window, c.Windows, c.Context)
	}
	text, err := readText(c.Text)
	if err != nil {
		return err
	}
	b, err := c.backend(g)
	if err != nil {
		return err
	}
	defer b.Close()
	s, err := c.session(g, b, c.Model, c.Sparse, func(o *runtime.Options) {
		o.Chunk, o.Select = 256, 256
		if o.Context == 0 {
			o.Context = c.Window
		}
	})
	if err != nil {
		return err
	}
	defer s.Close()
	tok := s.Graph().Tokenizer
	if tok == nil {
		return fmt.Errorf("%s: no tokenizer in the file", c.Model)
	}
	ids := tok.Encode(text, tokenizer.EncodeOptions{BOS: tokenizer.Never, EOS: tokenizer.Never})
	total := len(ids) / max(c.Window, 1)
	if c.Windows > 0 {
		total = min(total, c.Windows)
	}
	bar := g.progress(total, "perplexity")
	start := time.Now()
	p, err := s.Perplexity(g.ctx, ids, c.Window, c.Windows, func(done, _ int, ppl float64) { bar.set(done, fmt.Sprintf("perplexity %.2f", ppl)) })
	bar.done()
	if err != nil {
		return err
	}
	out := evalJSON{"perplexity", p.PPL, p.NLL, p.Tokens, p.Window, p.Windows, time.Since(start).Seconds(), c.DType}
	return g.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "perplexity %.4f over %d windows of %d tokens (%d predicted), %s, %.1f s\n", p.PPL, p.Windows, p.Window, p.Tokens, c.DType, out.Seconds)
	})
}
