package train_test

import (
	"context"
	"fmt"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// A network is trained, half of its first layer is pruned, and it is trained on under the mask.
func Example() {
	g, err := train.MLP(1, 2, 16, 2)
	if err != nil {
		panic(err)
	}
	net, err := train.New(g, linalg.NewPool(2))
	if err != nil {
		panic(err)
	}
	// Points of the plane: which side of a circle?
	data := &train.Items{Width: 2}
	for i := range 400 {
		x, y := float32(i%20)/10-1, float32(i/20)/10-1
		data.X = append(data.X, x, y)
		data.Y = append(data.Y, 0)
		if x*x+y*y < 0.5 {
			data.Y[i] = 1
		}
	}
	options := train.Options{Epochs: 60, Batch: 40, Rate: 0.02, Optimiser: train.AdamW(0), Schedule: train.Cosine(0), Eval: data}
	if _, err := train.Fit(context.Background(), net, data, options, nil); err != nil {
		panic(err)
	}
	p := net.Param("fc1.weight")
	keep := sparse.NewMask(p.Rows, p.Cols)
	for r := range p.Rows {
		keep.Keep(r, r%2)
	}
	if err := p.SetMask(keep); err != nil {
		panic(err)
	}
	rep, err := train.Fit(context.Background(), net, data, options, nil)
	if err != nil {
		panic(err)
	}
	if err := net.Store(); err != nil {
		panic(err)
	}
	c, err := sparse.CountZeros(g.Weights[0].Data)
	if err != nil {
		panic(err)
	}
	fmt.Println(rep.Metric, "above 0.95:", rep.Value > 0.95, "- zeros:", c.Zeros, "of", c.Weights)
	// Output: accuracy above 0.95: true - zeros: 16 of 32
}
