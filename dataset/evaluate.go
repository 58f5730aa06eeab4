package dataset

import (
	"context"
	"fmt"
	"time"

	"github.com/sparserun/sparserun/runtime"
)

// Prepare says how pixels of 0..255 become a network's input:
// (pixel/Scale - Mean[c]) / Std[c], planes in BGR order if asked for (Mean and Std
// are then those of blue, green and red).
type Prepare struct {
	Scale float32 // 0: 1, pixels stay 0..255
	Mean  []float32
	Std   []float32
	BGR   bool
}

// ImageNet is what ResNets for CIFAR-10 usually take: 0..1 with ImageNet's mean and deviation.
var ImageNet = Prepare{Scale: 255, Mean: []float32{0.485, 0.456, 0.406}, Std: []float32{0.229, 0.224, 0.225}}

func (p *Prepare) check(channels int) error {
	for _, v := range [][]float32{p.Mean, p.Std} {
		if len(v) != 0 && len(v) != 1 && len(v) != channels {
			return fmt.Errorf("dataset: mean or std of %d numbers for %d channels: %w", len(v), channels, ErrData)
		}
	}
	for _, s := range p.Std {
		if s == 0 {
			return fmt.Errorf("dataset: std 0: %w", ErrData)
		}
	}
	return nil
}

func (p *Prepare) apply(x []float32, channels int) {
	plane := len(x) / channels
	if p.BGR && channels == 3 {
		for i := range plane {
			x[i], x[2*plane+i] = x[2*plane+i], x[i]
		}
	}
	at := func(v []float32, c int, missing float32) float32 {
		switch len(v) {
		case 0:
			return missing
		case 1:
			return v[0]
		}
		return v[c]
	}
	scale := p.Scale
	if scale == 0 {
		scale = 1
	}
	for c := range channels {
		m, s := at(p.Mean, c, 0), at(p.Std, c, 1)
		row := x[c*plane : (c+1)*plane]
		for i, v := range row {
			row[i] = (v/scale - m) / s
		}
	}
}

// Accuracy is what Evaluate measures.
type Accuracy struct {
	N       int     `json:"n"`
	Top1    int     `json:"top1"` // images whose class has the highest score
	Top5    int     `json:"top5"` // or one of the five highest
	Seconds float64 `json:"seconds"`
}

// Fraction is top-1 accuracy, 0..1.
func (a Accuracy) Fraction() float64 { return float64(a.Top1) / float64(max(1, a.N)) }

// Evaluate runs every image through a classifier, batch at a time, and counts.
// progress (may be nil) is told the images done. The network has one float input
// and one output of one score a class; scores equal to the highest count for the
// first class only, as argmax does.
func Evaluate(ctx context.Context, s *runtime.Session, d *Images, p Prepare, batch int, progress func(done, total int)) (Accuracy, error) {
	if err := p.check(d.C); err != nil {
		return Accuracy{}, err
	}
	batch = max(1, batch)
	size := d.Size()
	buf := make([]float32, batch*size)
	a := Accuracy{N: d.Len()}
	start := time.Now()
	for i := 0; i < d.Len(); i += batch {
		n := min(batch, d.Len()-i)
		for k := range n {
			x := buf[k*size : (k+1)*size]
			if err := d.Read(i+k, x); err != nil {
				return a, err
			}
			p.apply(x, d.C)
		}
		shape, err := s.InputShape(n, d.C, d.H, d.W)
		if err != nil {
			return a, err
		}
		y, err := s.RunFloats(ctx, buf[:n*size], shape...)
		if err != nil {
			return a, err
		}
		if len(y)%n != 0 || len(y) == 0 {
			return a, fmt.Errorf("dataset: %d scores for %d images: %w", len(y), n, ErrData)
		}
		classes := len(y) / n
		for k := range n {
			label := d.Labels[i+k]
			if label < 0 || label >= classes {
				return a, fmt.Errorf("dataset: image %d has class %d, the network %d classes: %w", i+k, label, classes, ErrData)
			}
			switch r := rank(y[k*classes:(k+1)*classes], label); {
			case r == 0:
				a.Top1++
				a.Top5++
			case r < 5:
				a.Top5++
			}
		}
		if progress != nil {
			progress(i+n, d.Len())
		}
	}
	a.Seconds = time.Since(start).Seconds()
	return a, nil
}

// rank is how many classes come before one: higher scores, and equal ones of a
// lower number. A score that is not a number comes last.
func rank(scores []float32, label int) int {
	v := scores[label]
	if v != v {
		return len(scores)
	}
	n := 0
	for i, s := range scores {
		if s > v || s == v && i < label {
			n++
		}
	}
	return n
}
