package train

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Networks to train from nothing. Weights are drawn from a seed: Glorot normal (std sqrt(2/(in
// + out))) as in the Lottery Ticket's code, biases zero.

// builder appends nodes to a graph of a plain network.
type builder struct {
	g   *model.Graph
	rng *rand.Rand
	at  model.ValueID
	img model.Image // of the value at
}

func newBuilder(name string, seed uint64, in model.Image) *builder {
	b := &builder{g: &model.Graph{Name: name}, rng: rand.New(rand.NewPCG(seed, 0x5eed))}
	b.at, b.img = b.value("input", in), in
	b.g.Inputs = []model.ValueID{b.at}
	return b
}

func (b *builder) value(name string, img model.Image) model.ValueID {
	b.g.Values = append(b.g.Values, model.Value{Name: name, Width: img.Size()})
	return model.ValueID(len(b.g.Values) - 1)
}

// node appends a node that reads the current value (and more) and makes its output current.
func (b *builder) node(op model.Op, name string, out model.Image, attr any, w, bias *model.Weight, more ...model.ValueID) {
	n := &model.Node{Op: op, Name: name, In: append([]model.ValueID{b.at}, more...), Out: b.value(name, out), Weight: w, Bias: bias, Attr: attr}
	b.g.Nodes = append(b.g.Nodes, n)
	for _, x := range []*model.Weight{w, bias} {
		if x != nil {
			b.g.Weights = append(b.g.Weights, x)
		}
	}
	b.at, b.img = n.Out, out
}

// normal draws a weight; its matrix has shape[0] rows.
func (b *builder) normal(name string, std float64, shape ...int) *model.Weight {
	cols := 1
	for _, d := range shape[1:] {
		cols *= d
	}
	w := make([]float32, shape[0]*cols)
	for i := range w {
		w[i] = float32(b.rng.NormFloat64() * std)
	}
	return &model.Weight{Name: name, Shape: shape, Data: sparse.NewDense(shape[0], cols, w)}
}

// vector is a weight of n equal numbers.
func vector(name string, n int, v float32) *model.Weight {
	w := make([]float32, n)
	for i := range w {
		w[i] = v
	}
	return &model.Weight{Name: name, Shape: []int{n}, Data: sparse.NewDense(1, n, w)}
}

func (b *builder) linear(name string, out int) {
	in := b.img.Size()
	std := math.Sqrt(2 / float64(in+out))
	b.node(model.OpLinear, name, model.Image{C: out, H: 1, W: 1}, nil, b.normal(name+".weight", std, out, in), vector(name+".bias", out, 0))
}

func (b *builder) relu(name string) { b.node(model.OpReLU, name, b.img, nil, nil, nil) }

// conv appends a square convolution; bias false leaves it to a batch norm.
func (b *builder) conv(name string, out, kernel, stride, pad int, bias bool) {
	in := b.img
	o := model.Image{C: out, H: (in.H+2*pad-kernel)/stride + 1, W: (in.W+2*pad-kernel)/stride + 1}
	attr := model.Conv{In: in, Out: o, KernelH: kernel, KernelW: kernel, StrideH: stride, StrideW: stride, PadTop: pad, PadLeft: pad, Groups: 1}
	area := kernel * kernel
	w := b.normal(name+".weight", math.Sqrt(2/float64(area*(in.C+out))), out, in.C, kernel, kernel)
	var bw *model.Weight
	if bias {
		bw = vector(name+".bias", out, 0)
	}
	b.node(model.OpConv, name, o, attr, w, bw)
}

func (b *builder) maxPool(name string, size int) {
	o := model.Image{C: b.img.C, H: b.img.H / size, W: b.img.W / size}
	b.node(model.OpMaxPool, name, o, model.Pool{In: b.img, Out: o, KernelH: size, KernelW: size, StrideH: size, StrideW: size}, nil, nil)
}

func (b *builder) batchNorm(name string) {
	c := b.img.C
	attr := model.BatchNorm{In: b.img, Eps: 1e-5, Mean: vector(name+".running_mean", c, 0), Var: vector(name+".running_var", c, 1)}
	b.node(model.OpBatchNorm, name, b.img, attr, vector(name+".weight", c, 1), vector(name+".bias", c, 0))
	b.g.Weights = append(b.g.Weights, attr.Mean, attr.Var)
}

func (b *builder) finish() *model.Graph {
	b.g.Outputs = []model.ValueID{b.at}
	return b.g
}

// MLP is fully connected with ReLU between: widths are input, hidden..., classes. Weights are
// named fc1.weight, fc1.bias, fc2...
func MLP(seed uint64, widths ...int) (*model.Graph, error) {
	if len(widths) < 2 {
		return nil, fmt.Errorf("train: MLP: want an input and an output width, got %v: %w", widths, ErrOption)
	}
	for _, w := range widths {
		if w < 1 {
			return nil, fmt.Errorf("train: MLP: widths %v: %w", widths, ErrOption)
		}
	}
	b := newBuilder("mlp", seed, model.Image{C: widths[0], H: 1, W: 1})
	for i, w := range widths[1:] {
		if i > 0 {
			b.relu(fmt.Sprintf("relu%d", i))
		}
		b.linear(fmt.Sprintf("fc%d", i+1), w)
	}
	return b.finish(), nil
}

// LeNet300100 is LeCun's 784-300-100-10.
func LeNet300100(seed uint64) *model.Graph {
	g, _ := MLP(seed, 784, 300, 100, 10) // cannot fail
	g.Name = "lenet-300-100"
	return g
}

// LeNet5 is Caffe's version, which the pruning papers count: 20 and 50 5x5 filters with 2x2 max
// pools, then 500 and 10; ReLU after the first fully connected layer only.
func LeNet5(seed uint64) *model.Graph {
	b := newBuilder("lenet-5", seed, model.Image{C: 1, H: 28, W: 28})
	b.conv("conv1", 20, 5, 1, 0, true)
	b.maxPool("pool1", 2)
	b.conv("conv2", 50, 5, 1, 0, true)
	b.maxPool("pool2", 2)
	b.linear("fc1", 500)
	b.relu("relu1")
	b.linear("fc2", 10)
	return b.finish()
}

// ResNet20 is He et al.'s (2016) for CIFAR-10: 3 stages of 3 blocks of two 3x3 convolutions, 16, 32 and
// 64 channels. Shortcuts that change shape are 1x1 convolutions with batch norm (option B).
func ResNet20(seed uint64) *model.Graph {
	b := newBuilder("resnet-20", seed, model.Image{C: 3, H: 32, W: 32})
	b.conv("conv1", 16, 3, 1, 1, false)
	b.batchNorm("bn1")
	b.relu("relu1")
	for stage := range 3 {
		for block := range 3 {
			stride := 1
			if stage > 0 && block == 0 {
				stride = 2
			}
			b.block(fmt.Sprintf("layer%d.%d", stage+1, block), 16<<stage, stride)
		}
	}
	b.node(model.OpGlobalAveragePool, "pool", model.Image{C: b.img.C, H: 1, W: 1}, model.Pool{In: b.img}, nil, nil)
	b.linear("fc", 10)
	return b.finish()
}

// block: relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)).
func (b *builder) block(name string, out, stride int) {
	x, img := b.at, b.img
	b.conv(name+".conv1", out, 3, stride, 1, false)
	b.batchNorm(name + ".bn1")
	b.relu(name + ".relu1")
	b.conv(name+".conv2", out, 3, 1, 1, false)
	b.batchNorm(name + ".bn2")
	y := b.at
	b.at, b.img = x, img
	if stride != 1 || img.C != out {
		b.conv(name+".shortcut", out, 1, stride, 0, false)
		b.batchNorm(name + ".shortcut_bn")
	}
	b.node(model.OpAdd, name+".add", b.img, nil, nil, nil, y)
	b.relu(name + ".relu2")
}
