package main

import (
	"fmt"
	"strings"

	"github.com/sparserun/sparserun/dataset"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/tokenizer"
	"github.com/sparserun/sparserun/train"
)

// heldBack is how many images of MNIST's training file nothing is trained on.
const heldBack = 5000

// labelFlags choose what a network is fine-tuned, scanned and judged on.
type labelFlags struct {
	Mnist string `help:"Folder with MNIST's four files: trains on the training images but the last 5,000, which decide, and reports on the test images." placeholder:"DIR"`
	Cifar string `help:"File of CIFAR-10 records: trains on the first three quarters, the rest decides." placeholder:"FILE"`
	Data  string `help:"File of samples with classes, e.g. token ids: .npz (x, y) or JSON lines {x, y}. Trains on the first three quarters, the rest decides." placeholder:"FILE"`
	Text  string `help:"Training text of a small language model; --eval-text decides." placeholder:"FILE"`
	pixelFlags
	TextWindow int `default:"256" help:"Tokens of a training sequence of --text."`
}

func (c *labelFlags) given() int { return given(c.Mnist, c.Cifar, c.Data, c.Text) }

// labelled is data to train on, to choose by and, where there is one, to report on.
type labelled struct{ train, held, test train.Data }

// open reads the data; evalText may be empty.
func (c *labelFlags) open(gr *model.Graph, evalText string) (labelled, error) {
	if c.given() != 1 {
		return labelled{}, usagef("want one of --mnist DIR, --cifar FILE, --data FILE and --text FILE")
	}
	prepare := c.prepare()
	switch {
	case c.Mnist != "":
		images, err := dataset.MNISTTraining(c.Mnist)
		if err != nil {
			return labelled{}, err
		}
		all, err := images.Items(prepare)
		if err != nil {
			return labelled{}, err
		}
		if all.Len() <= heldBack {
			return labelled{}, fmt.Errorf("%s: want more than %d training images, got %d", c.Mnist, heldBack, all.Len())
		}
		images, err = dataset.MNIST(c.Mnist)
		if err != nil {
			return labelled{}, err
		}
		test, err := images.Items(prepare)
		n := all.Len() - heldBack
		return labelled{all.Slice(0, n), all.Slice(n, all.Len()), test}, err
	case c.Cifar != "":
		images, err := dataset.CIFAR(c.Cifar)
		if err != nil {
			return labelled{}, err
		}
		all, err := images.Items(prepare)
		if err != nil {
			return labelled{}, err
		}
		return quarters(c.Cifar, all)
	case c.Data != "":
		all, err := dataset.Samples(c.Data)
		if err != nil {
			return labelled{}, err
		}
		if !gr.Tensors() || len(gr.Inputs) != 1 {
			return labelled{}, fmt.Errorf("%s: --data wants an ONNX network of one input", gr.Source.Path)
		}
		width, shape := 1, gr.Values[gr.Inputs[0]].Shape
		for _, d := range shape[min(1, len(shape)):] {
			width *= d
		}
		if all.Width != width {
			return labelled{}, fmt.Errorf("%s: want samples of %v, as input %q, got %d numbers each", c.Data, shape, gr.Values[gr.Inputs[0]].Name, all.Width)
		}
		return quarters(c.Data, all)
	}
	if gr.Config == nil || gr.Tokenizer == nil {
		return labelled{}, fmt.Errorf("%s: --text wants a language model with its tokenizer", gr.Source.Path)
	}
	var d labelled
	var err error
	if d.train, err = trainingText(gr, c.Text, c.TextWindow); err != nil {
		return d, err
	}
	if evalText != "" {
		if d.held, err = trainingText(gr, evalText, c.TextWindow); err != nil {
			return d, err
		}
	}
	return d, nil
}

// quarters are three to train on, and the last.
func quarters(path string, all *train.Items) (labelled, error) {
	n := all.Len() * 3 / 4
	if n == 0 {
		return labelled{}, fmt.Errorf("%s: want at least two samples, got %d", path, all.Len())
	}
	return labelled{all.Slice(0, n), all.Slice(n, all.Len()), nil}, nil
}

// trainingText cuts a file into sequences; blank lines separate documents.
func trainingText(gr *model.Graph, path string, window int) (train.Data, error) {
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
	t, err := train.NewText(docs, min(window, gr.Config.Context))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}
