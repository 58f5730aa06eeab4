package cpu

import (
	"context"
	"slices"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// timeConv is the time of a 1x1 convolution of cols channels to rows over one image
// of positions outputs (kernel sizes change where the input is read, not what a
// weight costs). The weight is warm: an image reads it many times.
func (b *Backend) timeConv(ctx context.Context, k runtime.Kernel, rows, cols int, density float64, positions int) (time.Duration, error) {
	w := make([]float32, rows*cols)
	for i := range w {
		if noise(uint64(i)) < density {
			w[i] = float32(noise(uint64(i)+1<<40) + 0.1)
		}
		if k.Layout == sparse.LayoutNM24 && i%cols%4 > 1 {
			w[i] = 0
		}
	}
	shape := []int{rows, cols, 1, 1}
	n := &model.Node{Op: model.OpConv, Name: "timed", In: []model.ValueID{0}, Out: 1, Outs: []model.ValueID{1}, Attr: &model.TensorOp{Version: 17},
		Weight: &model.Weight{Name: "timed", Shape: shape, Data: sparse.NewDense(rows, cols, w)}}
	g := &model.Graph{Opsets: map[string]int{"": 17}, Values: []model.Value{{Name: "x"}, {Name: "y"}}, Inputs: []model.ValueID{0}, Outputs: []model.ValueID{1}, Nodes: []*model.Node{n}}
	p, err := b.CompileTensors(&runtime.TensorPlan{Graph: g, Steps: []runtime.TensorStep{{Node: n, Out: 1, Weight: n.Weight.Data, Shape: shape,
		Kernel: k, Choice: &runtime.Choice{Kernel: k, Sparsity: 1 - density}}}})
	if err != nil {
		return 0, err
	}
	defer p.Close()
	x := make([]float32, cols*positions)
	for i := range x {
		x[i] = float32(noise(uint64(i))) - 0.5
	}
	in := []*model.Tensor{model.F32Tensor(x, 1, cols, 1, positions)}
	var times []time.Duration
	for begin := time.Now(); len(times) < timerRounds && (len(times) < 4 || time.Since(begin) < timerBudget); {
		start := time.Now()
		if _, err := p.Run(ctx, in, nil); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	times = times[1:]
	slices.Sort(times)
	return times[len(times)/4], nil
}
