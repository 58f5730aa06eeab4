package main

import (
	"fmt"
	"io"

	"github.com/sparserun/sparserun/dataset"
	"github.com/sparserun/sparserun/runtime"
)

// pixelFlags say how pixels become inputs.
type pixelFlags struct {
	PixelScale float32   `default:"255" help:"Pixels of 0..255 are divided by this."`
	Mean       []float32 `help:"Subtracted per channel after scaling."`
	Std        []float32 `help:"Divided by per channel."`
}

func (f *pixelFlags) prepare() dataset.Prepare {
	return dataset.Prepare{Scale: f.PixelScale, Mean: f.Mean, Std: f.Std}
}

// imageFlags choose labelled images and how their pixels become inputs.
type imageFlags struct {
	Mnist  string `help:"Folder with MNIST's test files (idx, gzipped or not)." placeholder:"DIR"`
	Cifar  string `help:"File of CIFAR-10 records (gzipped or not)." placeholder:"FILE"`
	Images string `help:"Folder of JPEG and PNG photographs: classes from DIR.tsv or DIR/labels.tsv (columns file, class) or from sub-folders." placeholder:"DIR"`
	Resize int    `default:"256" help:"--images: resized to this width and height (bilinear)."`
	Crop   int    `default:"224" help:"--images: the middle that the network sees."`
	Count  int    `default:"0" help:"Take the first K images (default: all)."`
	Batch  int    `default:"64" help:"Images of a step."`
	pixelFlags
	BGR bool `name:"bgr" help:"Planes in BGR order."`
}

func (f *imageFlags) given() int { return given(f.Mnist, f.Cifar, f.Images) }

// given is how many of some flags are not empty.
func given(flags ...string) int {
	n := 0
	for _, s := range flags {
		if s != "" {
			n++
		}
	}
	return n
}

type accuracyJSON struct {
	Metric  string  `json:"metric"`
	Value   float64 `json:"value"`
	Top5    float64 `json:"top5"`
	Correct int     `json:"correct"`
	N       int     `json:"n"`
	Seconds float64 `json:"seconds"`
	DType   string  `json:"dtype"`
}

// images measures a classifier's accuracy.
func (c *evalCmd) images(g *globals) error {
	var d *dataset.Images
	var err error
	switch {
	case c.Mnist != "":
		d, err = dataset.MNIST(c.Mnist)
	case c.Cifar != "":
		d, err = dataset.CIFAR(c.Cifar)
	default:
		d, err = dataset.Photos(c.Images, dataset.Crop{Resize: c.Resize, Size: c.Crop})
	}
	if err != nil {
		return err
	}
	if c.Count > 0 {
		d = d.First(c.Count)
	}
	b, err := c.backend(g)
	if err != nil {
		return err
	}
	defer b.Close()
	s, err := c.session(g, b, c.Model, c.Sparse, func(o *runtime.Options) { o.Chunk = max(1, c.Batch) })
	if err != nil {
		return err
	}
	defer s.Close()
	prepare := c.prepare()
	prepare.BGR = c.BGR
	bar := g.progress(d.Len(), "accuracy")
	a, err := dataset.Evaluate(g.ctx, s, d, prepare, c.Batch, func(done, _ int) { bar.set(done, "") })
	bar.done()
	if err != nil {
		return fmt.Errorf("%s: %w", c.Model, err)
	}
	out := accuracyJSON{"accuracy", a.Fraction(), float64(a.Top5) / float64(max(1, a.N)), a.Top1, a.N, a.Seconds, c.DType}
	return g.print(out, func(w io.Writer) {
		fmt.Fprintf(w, "accuracy %.2f %% (%d of %d), top five %.2f %%, %s, %.1f s\n", 100*out.Value, a.Top1, a.N, 100*out.Top5, c.DType, a.Seconds)
	})
}
