package train

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// A tensor graph (an ONNX file) is lowered to a graph of rows before training: one sample's
// numbers, of whatever shape, are a row; shapes are inferred from the input's, Flatten and the like
// vanish. Weights of Conv and
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
	reader  map[model.ValueID]*model.Node // of src: the last node that reads a value
	maker   map[model.ValueID]*model.Node // of g, by value of g
	known   map[model.ValueID]folded      // of src: what follows from constants and shapes
	rows    map[model.ValueID]tableRows   // of them: rows of a table
	spent   int                           // numbers of known
}

// shaped is a value of the lowered graph with its geometry.
type shaped struct {
	id   model.ValueID
	dims []int                  // of a sample
	img  model.Image            // of three dimensions; {size 1 1} of any other number
	flat bool                   // one dimension
	ids  bool                   // whole numbers that an embedding reads
	cut  *struct{ h, w, n int } // a Slice with these steps that waits for its Pad
	lead bool                   // in the file the first dimension is one with the batch
}

// image says whether a sample is channels, height and width.
func (s *shaped) image() bool { return len(s.dims) == 3 }

// of is a value of the given dimensions.
func of(id model.ValueID, dims ...int) shaped {
	s := shaped{id: id, dims: dims, flat: len(dims) == 1}
	if len(dims) == 3 {
		s.img = model.Image{C: dims[0], H: dims[1], W: dims[2]}
		return s
	}
	s.img = model.Image{C: 1, H: 1, W: 1}
	for _, d := range dims {
		if d > 0 && s.img.C > maxRow/d {
			s.img.C = maxRow + 1 // too many, which bounded refuses
			return s
		}
		s.img.C *= d
	}
	return s
}

// lower translates src; an op or a form of one that cannot be trained is an error naming it.
func lower(src *model.Graph) (*lowered, error) {
	l := &lowerer{src: src, at: map[model.ValueID]shaped{}, readers: map[model.ValueID]int{}, reader: map[model.ValueID]*model.Node{}, maker: map[model.ValueID]*model.Node{},
		known: map[model.ValueID]folded{}, rows: map[model.ValueID]tableRows{},
		lowered: lowered{g: &model.Graph{Name: src.Name}, constants: map[*model.Weight]model.ValueID{}, frozen: map[*model.Weight]bool{}}}
	for _, n := range src.Nodes {
		for _, v := range n.In {
			l.readers[v]++
			l.reader[v] = n
		}
	}
	if len(src.Inputs) != 1 || len(src.Outputs) != 1 {
		return nil, fmt.Errorf("train: %q: want one input and one output, got %d and %d: %w", src.Name, len(src.Inputs), len(src.Outputs), ErrGraph)
	}
	in := src.Values[src.Inputs[0]]
	if len(in.Shape) < 2 || slices.Min(in.Shape[1:]) < 1 {
		return nil, fmt.Errorf("train: input %q: want a shape [N, ...] whose other dimensions are known, got %v: %w", in.Name, in.Shape, ErrGraph)
	}
	s := of(0, in.Shape[1:]...)
	s.ids = in.Elem == model.ElemI64 || in.Elem == model.ElemI32
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
	out, ok := l.at[src.Outputs[0]]
	if !ok || out.lead || out.ids || out.cut != nil {
		return nil, fmt.Errorf("train: output %q: want numbers of every sample that follow from the input: %w", src.Values[src.Outputs[0]].Name, ErrGraph)
	}
	l.g.Outputs = []model.ValueID{out.id}
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

// emit appends a node that makes the value out of src, of the given dimensions.
func (l *lowerer) emit(n *model.Node, op model.Op, dims []int, attr any, w, bias *model.Weight, in ...model.ValueID) error {
	s := of(0, dims...)
	if len(dims) == 0 || slices.Min(dims) < 1 || !bounded(s.img) {
		return l.refuse(n, fmt.Sprintf("output %v: want 1 to %d numbers a sample", dims, maxRow))
	}
	s.id = l.value(n.Name, s.img)
	node := &model.Node{Op: op, Name: n.Name, In: in, Out: s.id, Weight: w, Bias: bias, Attr: attr}
	l.g.Nodes = append(l.g.Nodes, node)
	l.maker[s.id] = node
	l.at[n.Out] = s
	return nil
}

func imageDims(i model.Image) []int { return []int{i.C, i.H, i.W} }

func (l *lowerer) refuse(n *model.Node, why string) error {
	return fmt.Errorf("train: node %q (%s): %s: %w", n.Name, n.Op, why, ErrGraph)
}

func (l *lowerer) node(n *model.Node) error {
	op, ok := n.Attr.(*model.TensorOp)
	if !ok || op.Domain != "" || len(n.In) == 0 {
		return l.refuse(n, "no backward pass for this op")
	}
	if done, err := l.fold(n, op); done || err != nil {
		return err
	}
	x, ok := l.at[n.In[0]]
	for i := 1; !ok && i < len(n.In) && n.In[i] != model.NoValue; i++ { // constants may come first
		if n.Op != "Gather" {
			x, ok = l.at[n.In[i]]
		}
	}
	if !ok && n.Op != "Gather" {
		return l.refuse(n, "its inputs are constants")
	}
	if x.cut != nil && n.Op != "Pad" {
		return l.refuse(n, "reads a Slice that waits for its Pad")
	}
	for _, v := range n.In {
		if l.at[v].lead && n.Op != "Reshape" && n.Op != "Transpose" && n.Op != "MatMul" {
			return l.refuse(n, "reads a value whose batch is one with another dimension")
		}
	}
	if x.ids && n.Op != "Cast" && n.Op != "Identity" {
		return l.refuse(n, "reads whole numbers; only Gather on a table does")
	}
	same := func(op model.Op, attr any) error {
		return l.emit(n, op, x.dims, attr, nil, nil, x.id)
	}
	if f, ok := pointwiseOps[n.Op]; ok {
		return same(opPoint, f)
	}
	switch n.Op {
	case model.OpLinear:
		rows, cols := n.Weight.Data.Dims()
		if last := x.dims[len(x.dims)-1]; last != cols {
			return l.refuse(n, fmt.Sprintf("want an input of %d columns, got %v", cols, x.dims))
		}
		return l.emit(n, model.OpLinear, append(slices.Clone(x.dims[:len(x.dims)-1]), rows), nil, n.Weight, n.Bias, x.id)
	case "Conv":
		return l.conv(n, op, x)
	case "MaxPool", "AveragePool":
		return l.pool(n, op, x)
	case "GlobalAveragePool":
		if !x.image() {
			return l.refuse(n, "want an image")
		}
		return l.emit(n, model.OpGlobalAveragePool, []int{x.img.C, 1, 1}, model.Pool{In: x.img}, nil, nil, x.id)
	case "Relu":
		return same(model.OpReLU, nil)
	case "Gelu":
		return same(model.OpGELU, model.GELU{Tanh: op.Attrs["approximate"].S == "tanh"})
	case "Clip":
		return l.clip(n, op, x)
	case "Identity", "Dropout", "Cast":
		if n.Op == "Cast" && (model.Elem(op.Attrs["to"].I) != model.ElemF32) != x.ids {
			return l.refuse(n, "want float32 to stay float32, and whole numbers whole")
		}
		l.at[n.Out] = x
		return nil
	case "Flatten", "Reshape", "Squeeze", "Unsqueeze":
		return l.reshape(n, op, x)
	case "Transpose":
		return l.transpose(n, op, x)
	case "Concat":
		return l.concat(n, op)
	case "Split":
		return l.split(n, op, x)
	case "Gather":
		return l.gather(n, op)
	case "ReduceMean":
		return l.mean(n, op, x)
	case "MatMul":
		return l.matmul(n)
	case "Softmax":
		if n.Out == l.src.Outputs[0] && x.flat { // the loss has its own
			l.at[n.Out] = x
			return nil
		}
		axis := -1
		if op.Version < 13 {
			axis = 1
		}
		if a, ok := op.Attrs["axis"]; ok {
			axis = int(a.I)
		}
		if axis != -1 && axis != len(x.dims) {
			return l.refuse(n, "want the last axis")
		}
		return same(model.OpSoftmax, groups(x.dims[len(x.dims)-1]))
	case "LayerNormalization":
		return l.layerNorm(n, op, x)
	case "Add", "Sub", "Mul", "Div":
		return l.arithmetic(n)
	case "Pow":
		return l.pow(n, x)
	case "Where":
		return l.where(n)
	case "BatchNormalization":
		return l.batchNorm(n, op, x)
	case "Slice":
		return l.slice(n, op, x)
	case "Pad":
		return l.pad(n, op, x)
	}
	return l.refuse(n, "no backward pass for this op")
}

// ints reads a constant input of integers, nil where there is none.
func (l *lowerer) ints(n *model.Node, i int) []int64 {
	if i >= len(n.In) || n.In[i] == model.NoValue {
		return nil
	}
	if t := l.constant(n.In[i]); t != nil {
		return integers(t)
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

func (l *lowerer) batchNorm(n *model.Node, op *model.TensorOp, x shaped) error {
	if len(n.In) != 5 || op.Attrs["training_mode"].I != 0 || !x.flat && !x.image() {
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
	return l.emit(n, model.OpBatchNorm, x.dims, model.BatchNorm{In: x.img, Eps: eps, Momentum: momentum, Mean: w[2], Var: w[3]}, w[0], w[1], x.id)
}
