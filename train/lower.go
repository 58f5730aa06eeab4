package train

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// A tensor graph (an ONNX file) is lowered to a graph of rows before training: images become
// rows, shapes are inferred from the input's, Flatten and the like vanish. Weights of Conv and
// Linear nodes are the file's own, so Store writes them back where the file's graph has
// them; vectors that the file keeps as constants (batch norms, added biases) are replaced in
// Graph.Constants.

// lowered is a tensor graph made ready for compile.
type lowered struct {
	g *model.Graph
	// constants says where in the file's graph a weight came from.
	constants map[*model.Weight]model.ValueID
	frozen    map[*model.Weight]bool
}

type lowerer struct {
	lowered
	src     *model.Graph
	at      map[model.ValueID]shaped // what a value of src is in g
	readers map[model.ValueID]int
	maker   map[model.ValueID]*model.Node // of g, by value of g
}

// shaped is a value of the lowered graph with its geometry.
type shaped struct {
	id   model.ValueID
	img  model.Image
	flat bool                   // rank 2: img is {width 1 1}
	cut  *struct{ h, w, n int } // a Slice with these steps that waits for its Pad
}

// lower translates src; an op or a form of one that cannot be trained is an error naming it.
func lower(src *model.Graph) (*lowered, error) {
	l := &lowerer{src: src, at: map[model.ValueID]shaped{}, readers: map[model.ValueID]int{}, maker: map[model.ValueID]*model.Node{},
		lowered: lowered{g: &model.Graph{Name: src.Name}, constants: map[*model.Weight]model.ValueID{}, frozen: map[*model.Weight]bool{}}}
	for _, n := range src.Nodes {
		for _, v := range n.In {
			l.readers[v]++
		}
	}
	if len(src.Inputs) != 1 || len(src.Outputs) != 1 {
		return nil, fmt.Errorf("train: %q: want one input and one output, got %d and %d: %w", src.Name, len(src.Inputs), len(src.Outputs), ErrGraph)
	}
	in := src.Values[src.Inputs[0]]
	s := shaped{flat: len(in.Shape) == 2}
	switch {
	case len(in.Shape) == 2 && in.Shape[1] > 0:
		s.img = model.Image{C: in.Shape[1], H: 1, W: 1}
	case len(in.Shape) == 4 && slices.Min(in.Shape[1:]) > 0:
		s.img = model.Image{C: in.Shape[1], H: in.Shape[2], W: in.Shape[3]}
	default:
		return nil, fmt.Errorf("train: input %q: want shape [N width] or [N C H W], got %v: %w", in.Name, in.Shape, ErrGraph)
	}
	if !bounded(s.img) {
		return nil, fmt.Errorf("train: input %q: %v: want at most %d numbers a row: %w", in.Name, in.Shape, maxRow, ErrGraph)
	}
	s.id = l.value(in.Name, s.img)
	l.g.Inputs = []model.ValueID{s.id}
	l.at[src.Inputs[0]] = s
	for _, n := range src.Nodes {
		if err := l.node(n); err != nil {
			return nil, err
		}
	}
	l.g.Outputs = []model.ValueID{l.at[src.Outputs[0]].id}
	return &l.lowered, nil
}

// maxSide and maxRow bound what a file's attributes can ask for: a kernel, pad or stride, and
// the numbers of one row of a value.
const (
	maxSide = 1 << 16
	maxRow  = 1 << 28
)

// bounded says whether a row of this geometry can be held.
func bounded(i model.Image) bool {
	return i.C > 0 && i.H > 0 && i.W > 0 && i.C <= maxRow && i.H <= maxRow/i.C && i.W <= maxRow/i.C/i.H
}

func (l *lowerer) value(name string, img model.Image) model.ValueID {
	l.g.Values = append(l.g.Values, model.Value{Name: name, Width: img.Size()})
	return model.ValueID(len(l.g.Values) - 1)
}

// emit appends a node that makes the value out of src.
func (l *lowerer) emit(n *model.Node, op model.Op, img model.Image, flat bool, attr any, w, bias *model.Weight, in ...model.ValueID) error {
	if !bounded(img) {
		return l.refuse(n, fmt.Sprintf("output %+v: want at most %d numbers a row", img, maxRow))
	}
	id := l.value(n.Name, img)
	node := &model.Node{Op: op, Name: n.Name, In: in, Out: id, Weight: w, Bias: bias, Attr: attr}
	l.g.Nodes = append(l.g.Nodes, node)
	l.maker[id] = node
	l.at[n.Out] = shaped{id: id, img: img, flat: flat}
	return nil
}

func (l *lowerer) refuse(n *model.Node, why string) error {
	return fmt.Errorf("train: node %q (%s): %s: %w", n.Name, n.Op, why, ErrGraph)
}

func (l *lowerer) node(n *model.Node) error {
	op, ok := n.Attr.(*model.TensorOp)
	if !ok || op.Domain != "" || len(n.In) == 0 {
		return l.refuse(n, "no backward pass for this op")
	}
	x, ok := l.at[n.In[0]]
	if !ok && n.Op == "Add" && len(n.In) == 2 { // the constant may come first
		x, ok = l.at[n.In[1]]
	}
	if !ok {
		return l.refuse(n, "its input is a constant")
	}
	if x.cut != nil && n.Op != "Pad" {
		return l.refuse(n, "reads a Slice; only Slice with Pad (a shortcut that subsamples) can be trained")
	}
	same := func(op model.Op, attr any) error {
		return l.emit(n, op, x.img, x.flat, attr, nil, nil, x.id)
	}
	switch n.Op {
	case model.OpLinear:
		if !x.flat {
			return l.refuse(n, "want an input of rank 2")
		}
		rows, _ := n.Weight.Data.Dims()
		return l.emit(n, model.OpLinear, model.Image{C: rows, H: 1, W: 1}, true, nil, n.Weight, n.Bias, x.id)
	case "Conv":
		return l.conv(n, op, x)
	case "MaxPool", "AveragePool":
		return l.pool(n, op, x)
	case "GlobalAveragePool":
		return l.emit(n, model.OpGlobalAveragePool, model.Image{C: x.img.C, H: 1, W: 1}, x.flat, model.Pool{In: x.img}, nil, nil, x.id)
	case "Relu":
		return same(model.OpReLU, nil)
	case "Gelu":
		return same(model.OpGELU, model.GELU{Tanh: op.Attrs["approximate"].S == "tanh"})
	case "Identity", "Dropout":
		l.at[n.Out] = x
		return nil
	case "Flatten":
		if a, ok := op.Attrs["axis"]; ok && a.I != 1 {
			return l.refuse(n, "want axis 1")
		}
		return l.flatten(n, x)
	case "Reshape":
		t := l.ints(n, 1)
		if len(t) != 2 || t[1] != -1 && int(t[1]) != x.img.Size() {
			return l.refuse(n, fmt.Sprintf("want a shape [N, %d], got %v", x.img.Size(), t))
		}
		return l.flatten(n, x)
	case "Softmax":
		if n.Out == l.src.Outputs[0] { // the loss has its own
			l.at[n.Out] = x
			return nil
		}
		if !x.flat {
			return l.refuse(n, "want an input of rank 2")
		}
		return same(model.OpSoftmax, nil)
	case "Add":
		return l.add(n)
	case "Mul":
		if len(n.In) == 2 {
			if y, ok := l.at[n.In[1]]; ok && y.img == x.img {
				return l.emit(n, model.OpMul, x.img, x.flat, nil, nil, nil, x.id, y.id)
			}
		}
		return l.refuse(n, "want two values of one shape")
	case "BatchNormalization":
		return l.batchNorm(n, op, x)
	case "Slice":
		return l.slice(n, x)
	case "Pad":
		return l.pad(n, op, x)
	}
	return l.refuse(n, "no backward pass for this op")
}

func (l *lowerer) flatten(n *model.Node, x shaped) error {
	// Rows hold an image flattened already.
	l.at[n.Out] = shaped{id: x.id, img: model.Image{C: x.img.Size(), H: 1, W: 1}, flat: true}
	return nil
}

// ints reads a constant input of integers, nil where there is none.
func (l *lowerer) ints(n *model.Node, i int) []int64 {
	if i >= len(n.In) || n.In[i] == model.NoValue {
		return nil
	}
	if t := l.src.Constants[n.In[i]]; t != nil {
		switch d := t.Data.(type) {
		case []int64:
			return d
		case []int32:
			var out []int64
			for _, v := range d {
				out = append(out, int64(v))
			}
			return out
		}
	}
	return nil
}

// vector makes a weight of a constant input of size numbers.
func (l *lowerer) vector(n *model.Node, v model.ValueID, size int) (*model.Weight, error) {
	t := l.src.Constants[v]
	if t == nil {
		return nil, l.refuse(n, "want a constant")
	}
	f, ok := t.Data.([]float32)
	if !ok || len(f) != size {
		return nil, l.refuse(n, fmt.Sprintf("want a constant of %d float32, got %v %v", size, t.Elem, t.Shape))
	}
	for w, at := range l.constants {
		if at == v {
			return w, nil
		}
	}
	w := &model.Weight{Name: l.src.Values[v].Name, Shape: []int{size}, Data: sparse.NewDense(1, size, f)}
	l.constants[w] = v
	return w, nil
}

// add: two values of one shape, or a bias by channel on a Conv or Linear that has none.
func (l *lowerer) add(n *model.Node) error {
	if len(n.In) != 2 {
		return l.refuse(n, "want two inputs")
	}
	x, okx := l.at[n.In[0]]
	y, oky := l.at[n.In[1]]
	if okx && oky {
		if x.img != y.img || x.cut != nil || y.cut != nil {
			return l.refuse(n, fmt.Sprintf("want two values of one shape, got %+v and %+v", x.img, y.img))
		}
		return l.emit(n, model.OpAdd, x.img, x.flat, nil, nil, nil, x.id, y.id)
	}
	v, c := n.In[0], n.In[1]
	if !okx {
		x, v, c = y, c, v
	}
	maker, t := l.maker[x.id], l.src.Constants[c]
	if t == nil || maker == nil || maker.Bias != nil || maker.Op != model.OpConv && maker.Op != model.OpLinear || l.readers[v] != 1 {
		return l.refuse(n, "want two values, or a Conv or Linear without bias and a constant")
	}
	channel := 1 // the dimension counted from the end that a bias by channel has
	if !x.flat {
		channel = 3
	}
	for i, d := range t.Shape {
		if d != 1 && len(t.Shape)-i != channel {
			return l.refuse(n, fmt.Sprintf("want a bias by channel, got shape %v", t.Shape))
		}
	}
	b, err := l.vector(n, c, x.img.C)
	if err != nil {
		return err
	}
	maker.Bias = b
	l.at[n.Out] = x
	return nil
}

func (l *lowerer) batchNorm(n *model.Node, op *model.TensorOp, x shaped) error {
	if len(n.In) != 5 || op.Attrs["training_mode"].I != 0 {
		return l.refuse(n, "want five inputs and inference form")
	}
	var w [4]*model.Weight
	for i := range w {
		var err error
		if w[i], err = l.vector(n, n.In[i+1], x.img.C); err != nil {
			return err
		}
	}
	eps := float32(1e-5)
	if a, ok := op.Attrs["epsilon"]; ok {
		eps = a.F
	}
	// ONNX's momentum is the share of the old; ours of the new.
	momentum := float32(0.1)
	if a, ok := op.Attrs["momentum"]; ok && a.F < 1 {
		momentum = 1 - a.F
	}
	return l.emit(n, model.OpBatchNorm, x.img, x.flat, model.BatchNorm{In: x.img, Eps: eps, Momentum: momentum, Mean: w[2], Var: w[3]}, w[0], w[1], x.id)
}
