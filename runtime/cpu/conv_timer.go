package cpu

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// timeConv is the time of a convolution of cols/k.Window^2 channels to rows over one
// image of positions outputs. Between convolutions images are in blocks where
// there are kernels for that (conv_forms.go): a form that reads them otherwise pays
// for it. The weight is warm: an image reads it many times.
func (b *Backend) timeConv(ctx context.Context, k runtime.Kernel, rows, cols int, density float64, positions int) (time.Duration, error) {
	side, stride := max(1, k.Window), max(1, k.Stride)
	if cols%(side*side) != 0 || side > 1<<10 || stride > side {
		return 0, fmt.Errorf("cpu: timing %d columns of %v: %w", cols, k, runtime.ErrShape)
	}
	channels := cols / (side * side)
	edge := max(1, int(math.Sqrt(float64(positions)))) * stride // of the input
	w := make([]float32, rows*cols)
	for i := range w {
		if noise(uint64(i)) < density {
			w[i] = float32(noise(uint64(i)+1<<40) + 0.1)
		}
		if k.Layout == sparse.LayoutNM24 && i%cols%4 > 1 {
			w[i] = 0
		}
	}
	shape := []int{rows, channels, side, side}
	before, after, step := int64((side-stride)/2), int64(side-stride-(side-stride)/2), int64(stride)
	attrs := map[string]model.Attribute{"pads": {Kind: model.AttrInts, Ints: []int64{before, before, after, after}},
		"strides": {Kind: model.AttrInts, Ints: []int64{step, step}}}
	n := &model.Node{Op: model.OpConv, Name: "timed", In: []model.ValueID{0}, Out: 1, Outs: []model.ValueID{1}, Attr: &model.TensorOp{Version: 17, Attrs: attrs},
		Weight: &model.Weight{Name: "timed", Shape: shape, Data: sparse.NewDense(rows, cols, w)}}
	g := &model.Graph{Opsets: map[string]int{"": 17}, Values: []model.Value{{Name: "x", Elem: model.ElemF32}, {Name: "y", Elem: model.ElemF32}}, Inputs: []model.ValueID{0}, Outputs: []model.ValueID{1}, Nodes: []*model.Node{n}}
	x := make([]float32, channels*edge*edge)
	for i := range x {
		x[i] = float32(noise(uint64(i))) - 0.5
	}
	in := model.F32Tensor(x, 1, channels, edge, edge)
	plan := &runtime.TensorPlan{Graph: g, Steps: []runtime.TensorStep{{Node: n, Out: 1, Weight: n.Weight.Data, Shape: shape,
		Kernel: k, Choice: &runtime.Choice{Kernel: k, Sparsity: 1 - density}}}}
	dense := plan.Steps[0]
	dense.Kernel.Layout = sparse.LayoutDense
	blocked := wantsBlocks(g, &dense)
	if blocked {
		blocks := make([]float32, channelBlocks(channels)*edge*edge*blockLanes)
		for i := range blocks {
			blocks[i] = float32(noise(uint64(i))) - 0.5
		}
		in = model.F32Tensor(blocks, 1, channelBlocks(channels), edge, edge, blockLanes)
	}
	p, err := b.compileTensors(plan, blocked)
	if err != nil {
		return 0, err
	}
	defer p.Close()
	var times []time.Duration
	// The first rounds of a process find a cold machine: they last less than this.
	const warm = 20 * time.Millisecond
	for begin := time.Now(); (len(times) < timerRounds || time.Since(begin) < warm) && (len(times) < 4 || time.Since(begin) < timerBudget); {
		start := time.Now()
		if _, err := p.Run(ctx, []*model.Tensor{in}, nil); err != nil {
			return 0, err
		}
		times = append(times, time.Since(start))
	}
	times = times[(len(times)+3)/4:]
	slices.Sort(times)
	return times[len(times)/4], nil
}
