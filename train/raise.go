package train

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// opset of the graphs that Tensors makes.
const opset = 17

// Tensors makes a tensor graph of a plain network (LeNet5, ResNet20, MLP ...), which runs,
// prunes and saves like any ONNX file. It is what lower undoes: training it trains the same
// weights. g is not changed; its weights are shared with the result until one is replaced.
func Tensors(g *model.Graph) (*model.Graph, error) {
	if g.Tensors() {
		return g, nil
	}
	if g.Config != nil || len(g.Inputs) != 1 || len(g.Outputs) != 1 {
		return nil, fmt.Errorf("train: %q: want a plain network of one input and one output: %w", g.Name, ErrGraph)
	}
	r := &raiser{src: g, g: &model.Graph{Name: g.Name, Arch: "onnx", Opsets: map[string]int{"": opset}, Constants: map[model.ValueID]*model.Tensor{},
		Source: model.Source{Format: "onnx", Meta: map[string]string{}}}, at: map[model.ValueID]model.ValueID{}, taken: map[string]bool{}, seen: map[*model.Weight]bool{}}
	in := g.Inputs[0]
	shape := []int{-1, g.Values[in].Width}
	for _, n := range g.Nodes {
		if len(n.In) > 0 && n.In[0] == in {
			if img, ok := imageOf(n.Attr); ok {
				shape = []int{-1, img.C, img.H, img.W}
			}
			break
		}
	}
	r.at[in] = r.value(g.Values[in].Name, shape)
	r.g.Inputs = []model.ValueID{r.at[in]}
	for _, n := range g.Nodes {
		if err := r.node(n); err != nil {
			return nil, err
		}
	}
	r.g.Outputs = []model.ValueID{r.at[g.Outputs[0]]}
	if err := r.g.Check(); err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	return r.g, nil
}

// imageOf is the image that an op's attributes say it reads.
func imageOf(attr any) (model.Image, bool) {
	switch a := attr.(type) {
	case model.Conv:
		return a.In, true
	case model.Pool:
		return a.In, true
	case model.BatchNorm:
		return a.In, a.In.H*a.In.W > 1
	}
	return model.Image{}, false
}

type raiser struct {
	src, g *model.Graph
	at     map[model.ValueID]model.ValueID // values of src in g
	taken  map[string]bool
	seen   map[*model.Weight]bool
}

func (r *raiser) name(name string) string {
	for i, base := 1, name; name == "" || r.taken[name]; i++ {
		name = fmt.Sprintf("%s_%d", base, i)
	}
	r.taken[name] = true
	return name
}

func (r *raiser) value(name string, shape []int) model.ValueID {
	r.g.Values = append(r.g.Values, model.Value{Name: r.name(name), Elem: model.ElemF32, Shape: shape})
	return model.ValueID(len(r.g.Values) - 1)
}

// constant makes a value of a vector; it keeps the vector's name.
func (r *raiser) constant(w *model.Weight) (model.ValueID, error) {
	x, err := sparse.Read(w.Data)
	if err != nil {
		return 0, fmt.Errorf("train: %q: %w", w.Name, err)
	}
	v := r.value(w.Name, []int{len(x)})
	r.g.Constants[v] = model.F32Tensor(append([]float32(nil), x...), len(x))
	return v, nil
}

// emit appends a node that makes a value of the given shape.
func (r *raiser) emit(op model.Op, name string, shape []int, attrs map[string]model.Attribute, w, bias *model.Weight, in ...model.ValueID) model.ValueID {
	out := r.value(name+".out", shape)
	r.g.Nodes = append(r.g.Nodes, &model.Node{Op: op, Name: name, In: in, Out: out, Outs: []model.ValueID{out}, Weight: w, Bias: bias,
		Attr: &model.TensorOp{Version: opset, Attrs: attrs}})
	for _, x := range []*model.Weight{w, bias} {
		if x != nil && !r.seen[x] {
			r.seen[x] = true
			r.g.Weights = append(r.g.Weights, x)
		}
	}
	return out
}

func intAttr(v int) model.Attribute { return model.Attribute{Kind: model.AttrInt, I: int64(v)} }

func intsAttr(v ...int) model.Attribute {
	a := model.Attribute{Kind: model.AttrInts}
	for _, x := range v {
		a.Ints = append(a.Ints, int64(x))
	}
	return a
}

func floatAttr(v float32) model.Attribute { return model.Attribute{Kind: model.AttrFloat, F: v} }

func (r *raiser) node(n *model.Node) error {
	var in []model.ValueID
	for _, v := range n.In {
		x, ok := r.at[v]
		if !ok {
			return fmt.Errorf("train: node %q (%s) reads a value that nothing wrote: %w", n.Name, n.Op, ErrGraph)
		}
		in = append(in, x)
	}
	x := in[0]
	shape := r.g.Values[x].Shape
	image := func(i model.Image) []int { return []int{-1, i.C, i.H, i.W} }
	out := model.NoValue
	switch a := n.Attr.(type) {
	case model.Conv:
		bottom, right := after(a.In.H, a.Out.H, a.KernelH, a.StrideH, a.PadTop, a.DilationH), after(a.In.W, a.Out.W, a.KernelW, a.StrideW, a.PadLeft, a.DilationW)
		out = r.emit("Conv", n.Name, image(a.Out), map[string]model.Attribute{"kernel_shape": intsAttr(a.KernelH, a.KernelW), "strides": intsAttr(a.StrideH, a.StrideW),
			"pads": intsAttr(a.PadTop, a.PadLeft, bottom, right), "dilations": intsAttr(max(1, a.DilationH), max(1, a.DilationW)), "group": intAttr(max(1, a.Groups))}, n.Weight, n.Bias, x)
	case model.Pool:
		if n.Op == model.OpGlobalAveragePool {
			out = r.emit(n.Op, n.Name, []int{-1, a.In.C, 1, 1}, nil, nil, nil, x)
			break
		}
		bottom, right := after(a.In.H, a.Out.H, a.KernelH, a.StrideH, a.PadTop, 1), after(a.In.W, a.Out.W, a.KernelW, a.StrideW, a.PadLeft, 1)
		attrs := map[string]model.Attribute{"kernel_shape": intsAttr(a.KernelH, a.KernelW), "strides": intsAttr(a.StrideH, a.StrideW), "pads": intsAttr(a.PadTop, a.PadLeft, bottom, right)}
		if n.Op == model.OpAveragePool && a.CountPad {
			attrs["count_include_pad"] = intAttr(1)
		}
		out = r.emit(n.Op, n.Name, image(a.Out), attrs, nil, nil, x)
	case model.BatchNorm:
		ids := []model.ValueID{x}
		for _, w := range []*model.Weight{n.Weight, n.Bias, a.Mean, a.Var} {
			if w == nil {
				return fmt.Errorf("train: node %q (%s): want gain, bias and running statistics: %w", n.Name, n.Op, ErrGraph)
			}
			v, err := r.constant(w)
			if err != nil {
				return err
			}
			ids = append(ids, v)
		}
		attrs := map[string]model.Attribute{"epsilon": floatAttr(a.Eps)}
		if a.Momentum != 0 { // ONNX's is the share of the old
			attrs["momentum"] = floatAttr(1 - a.Momentum)
		}
		out = r.emit(n.Op, n.Name, shape, attrs, nil, nil, ids...)
	case model.LayerNorm:
		ids := []model.ValueID{x}
		for _, w := range []*model.Weight{n.Weight, n.Bias} {
			if w != nil {
				v, err := r.constant(w)
				if err != nil {
					return err
				}
				ids = append(ids, v)
			}
		}
		out = r.emit(n.Op, n.Name, shape, map[string]model.Attribute{"axis": intAttr(-1), "epsilon": floatAttr(a.Eps)}, nil, nil, ids...)
	default:
		switch n.Op {
		case model.OpLinear:
			if len(shape) != 2 {
				x = r.emit("Flatten", n.Name+".flatten", []int{-1, r.src.Values[n.In[0]].Width}, map[string]model.Attribute{"axis": intAttr(1)}, nil, nil, x)
			}
			out = r.emit(n.Op, n.Name, []int{-1, r.src.Values[n.Out].Width}, nil, n.Weight, n.Bias, x)
		case model.OpReLU, model.OpAdd, model.OpMul:
			out = r.emit(n.Op, n.Name, shape, nil, nil, nil, in...)
		case model.OpSoftmax:
			if len(shape) != 2 {
				return fmt.Errorf("train: node %q (%s): want rows, not images: %w", n.Name, n.Op, ErrGraph)
			}
			out = r.emit(n.Op, n.Name, shape, map[string]model.Attribute{"axis": intAttr(-1)}, nil, nil, x)
		case model.OpSiLU:
			gate := r.emit("Sigmoid", n.Name+".sigmoid", shape, nil, nil, nil, x)
			out = r.emit("Mul", n.Name, shape, nil, nil, nil, x, gate)
		}
	}
	if out == model.NoValue {
		return fmt.Errorf("train: node %q: op %s has no form in a tensor graph of opset %d: %w", n.Name, n.Op, opset, ErrGraph)
	}
	r.at[n.Out] = out
	return nil
}

// after is the padding behind the data that makes a window's output so large.
func after(in, out, kernel, stride, before, dilation int) int {
	return max(0, (out-1)*stride+(kernel-1)*max(1, dilation)+1-in-before)
}
