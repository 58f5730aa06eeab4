package runtime

import (
	"context"
	"fmt"
	"slices"
	"time"

	"gorgonia.org/tensor"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// TensorBackend is a Backend that also compiles tensor graphs (model.Graph.Tensors):
// networks over tensors of any rank and type, such as ONNX files have them.
type TensorBackend interface {
	Backend
	CompileTensors(*TensorPlan) (TensorProgram, error)
}

// TensorsElsewhere is a Backend that leaves tensor graphs to another one.
type TensorsElsewhere interface {
	Backend
	Tensors() Backend
}

// TensorProgram is a compiled tensor graph. Run executes one batch at a time:
// concurrent calls wait for one another. Inputs are in the order of the graph's,
// outputs likewise; their memory is the caller's from then on.
type TensorProgram interface {
	Run(ctx context.Context, in []*model.Tensor, c *Counters) ([]*model.Tensor, error)
	Memory() Memory
	// Bytes is the packed size of a step's weight.
	Bytes(step int) sparse.Bytes
	Close() error
}

// TensorPlan is a tensor graph with every decision taken.
type TensorPlan struct {
	Graph *model.Graph
	Steps []TensorStep
	Group int // see Options.Group
}

// TensorStep is one node, or a convolution or Linear with what was fused into it:
// out = activation(in * Weight + Bias). An Add may have a Relu too.
type TensorStep struct {
	Node *model.Node
	// Of a Conv or Linear: the kernel and its reason, the weight with a batch norm
	// folded in, the bias (nil: none), and whether a Relu follows.
	Choice *Choice
	Kernel Kernel
	Weight sparse.Matrix
	Shape  []int // of the weight
	Bias   []float32
	Relu   bool
	Out    model.ValueID // of what was fused last
	// Free are the values that nothing reads after this step.
	Free []model.ValueID
}

// tensorProgram makes a Program of one for a Session; its plan has no rows.
type tensorProgram struct{ TensorProgram }

func (tensorProgram) Run(context.Context, []View, []View, *Counters) error {
	return fmt.Errorf("runtime: rows through a tensor graph: %w", ErrUnsupported)
}

// newTensors plans and compiles a tensor graph.
func newTensors(g *model.Graph, b Backend, o Options, pl *planner) (*Session, error) {
	tb, ok := b.(TensorBackend)
	if !ok {
		return nil, fmt.Errorf("runtime: tensor graph on backend %s: %w", b.Name(), ErrUnsupported)
	}
	plan, err := newTensorPlan(g, o, pl)
	if err != nil {
		return nil, err
	}
	if pl.table != nil {
		_ = pl.table.Save() // a cache that cannot be written only costs time
	}
	prog, err := tb.CompileTensors(plan)
	if err != nil {
		return nil, err
	}
	for i, st := range plan.Steps {
		if st.Choice != nil && st.Choice.Bytes == 0 {
			st.Choice.Packed = prog.Bytes(i)
			st.Choice.Bytes = st.Choice.Packed.Total()
		}
	}
	p := &Plan{Graph: g, Group: o.Group, MaxRows: o.Chunk}
	return &Session{graph: g, plan: p, tensors: plan, prog: tensorProgram{prog}, choices: pl.order}, nil
}

// RunTensors computes all outputs of a tensor graph from its inputs, by name.
func (s *Session) RunTensors(ctx context.Context, in map[string]*model.Tensor) (map[string]*model.Tensor, error) {
	if s.tensors == nil {
		return nil, fmt.Errorf("runtime: named tensors through a graph of rows: %w", ErrUnsupported)
	}
	args := make([]*model.Tensor, len(s.graph.Inputs))
	for i, id := range s.graph.Inputs {
		v := s.graph.Values[id]
		args[i] = in[v.Name]
		if args[i] == nil {
			return nil, fmt.Errorf("runtime: input %.80q is missing: %w", v.Name, ErrInput)
		}
		if err := fits(args[i], v); err != nil {
			return nil, err
		}
	}
	if len(in) > len(args) {
		for name := range in {
			if !slices.ContainsFunc(s.graph.Inputs, func(id model.ValueID) bool { return s.graph.Values[id].Name == name }) {
				return nil, fmt.Errorf("runtime: the network has no input %.80q: %w", name, ErrInput)
			}
		}
	}
	out, err := s.runTensors(ctx, args)
	if err != nil {
		return nil, err
	}
	named := make(map[string]*model.Tensor, len(out))
	for i, id := range s.graph.Outputs {
		named[s.graph.Values[id].Name] = out[i]
	}
	return named, nil
}

// fits holds a tensor to what the graph says of a value.
func fits(t *model.Tensor, v model.Value) error {
	if err := t.Check(); err != nil {
		return fmt.Errorf("runtime: input %.80q: %v: %w", v.Name, err, ErrShape)
	}
	if t.Seq {
		return nil
	}
	if v.Elem != model.ElemNone && t.Elem != v.Elem {
		return fmt.Errorf("runtime: input %.80q: want %v, got %v: %w", v.Name, v.Elem, t.Elem, ErrShape)
	}
	if v.Shape == nil {
		return nil
	}
	ok := len(t.Shape) == len(v.Shape)
	for i := 0; ok && i < len(t.Shape); i++ {
		ok = v.Shape[i] < 0 || v.Shape[i] == t.Shape[i]
	}
	if !ok {
		return fmt.Errorf("runtime: input %.80q: want %v (-1: any), got %v: %w", v.Name, v.Shape, t.Shape, ErrShape)
	}
	return nil
}

func (s *Session) runTensors(ctx context.Context, args []*model.Tensor) ([]*model.Tensor, error) {
	s.run.Lock()
	defer s.run.Unlock()
	if s.closed {
		return nil, fmt.Errorf("runtime: session: %w", ErrClosed)
	}
	var c Counters
	start := time.Now()
	out, err := s.prog.(tensorProgram).TensorProgram.Run(ctx, args, &c)
	if err != nil {
		return nil, err
	}
	items := int64(1)
	if len(args) > 0 && len(args[0].Shape) > 0 {
		items = int64(args[0].Shape[0])
	}
	c.Tokens[Prefill] += items
	c.Time[Prefill] += time.Since(start)
	s.mu.Lock()
	s.counters.Merge(&c)
	s.mu.Unlock()
	return out, nil
}

// runDense is Run for a tensor graph of one input and one output. Where the graph
// says that a batch is one item, the items of x are run one by one.
func (s *Session) runDense(ctx context.Context, x *tensor.Dense) (*tensor.Dense, error) {
	if len(s.graph.Inputs) != 1 || len(s.graph.Outputs) != 1 {
		return nil, fmt.Errorf("runtime: Run serves graphs of one input and one output, this has %d and %d: %w", len(s.graph.Inputs), len(s.graph.Outputs), ErrUnsupported)
	}
	t, err := FromDense(x)
	if err != nil {
		return nil, err
	}
	v := s.graph.Values[s.graph.Inputs[0]]
	f, isF32 := t.Data.([]float32)
	if n := len(t.Shape); n > 0 && n == len(v.Shape) && v.Shape[0] == 1 && t.Shape[0] > 1 && isF32 {
		items := t.Shape[0]
		one := v
		one.Shape = append([]int{items}, v.Shape[1:]...)
		if err := fits(t, one); err != nil {
			return nil, err
		}
		per := len(f) / items
		shape := append([]int{1}, t.Shape[1:]...)
		var all []float32
		var out []int
		for i := range items {
			y, err := s.runTensors(ctx, []*model.Tensor{model.F32Tensor(f[i*per:(i+1)*per], shape...)})
			if err != nil {
				return nil, err
			}
			o, ok := y[0].Data.([]float32)
			if !ok || len(y[0].Shape) == 0 || y[0].Shape[0] != 1 {
				return nil, fmt.Errorf("runtime: batch of %d through a network of one item with output %v %v: %w", items, y[0].Elem, y[0].Shape, ErrShape)
			}
			all = append(all, o...)
			out = y[0].Shape
		}
		return ToDense(model.F32Tensor(all, append([]int{items}, out[1:]...)...))
	}
	if err := fits(t, v); err != nil {
		return nil, err
	}
	y, err := s.runTensors(ctx, []*model.Tensor{t})
	if err != nil {
		return nil, err
	}
	return ToDense(y[0])
}

// FromDense makes a tensor of a gorgonia one; only views are copied.
func FromDense(x *tensor.Dense) (*model.Tensor, error) {
	x, err := rowMajor(x)
	if err != nil {
		return nil, err
	}
	t := &model.Tensor{Shape: slices.Clone([]int(x.Shape())), Data: x.Data()}
	switch d := x.Data().(type) {
	case []float32:
		t.Elem = model.ElemF32
	case []float64:
		t.Elem = model.ElemF64
	case []int8:
		t.Elem = model.ElemI8
	case []int16:
		t.Elem = model.ElemI16
	case []int32:
		t.Elem = model.ElemI32
	case []int64:
		t.Elem = model.ElemI64
	case []uint8:
		t.Elem = model.ElemU8
	case []uint16:
		t.Elem = model.ElemU16
	case []uint32:
		t.Elem = model.ElemU32
	case []uint64:
		t.Elem = model.ElemU64
	case []bool:
		t.Elem = model.ElemBool
	case []string:
		t.Elem = model.ElemString
	case float32:
		t.Elem, t.Data = model.ElemF32, []float32{d}
	default:
		return nil, fmt.Errorf("runtime: tensor of %v: %w", x.Dtype(), ErrShape)
	}
	return t, nil
}

// ToDense makes a gorgonia tensor; half floats and smaller ones have no such type.
func ToDense(t *model.Tensor) (*tensor.Dense, error) {
	switch t.Elem {
	case model.ElemF16, model.ElemBF16, model.ElemNone, model.ElemF8E4M3FN, model.ElemF8E4M3FNUZ, model.ElemF8E5M2, model.ElemF8E5M2FNUZ, model.ElemF8E8M0, model.ElemF4E2M1:
		return nil, fmt.Errorf("runtime: output of %v as a dense tensor: %w", t.Elem, ErrUnsupported)
	}
	shape := t.Shape
	if len(shape) == 0 {
		shape = []int{1}
	}
	if t.Len() == 0 {
		return nil, fmt.Errorf("runtime: empty output %v as a dense tensor: %w", t.Shape, ErrUnsupported)
	}
	return tensor.New(tensor.WithShape(shape...), tensor.WithBacking(t.Data)), nil
}

// RunFloats is Run without a tensor around the numbers: x in the given shape, the
// output's numbers back.
func (s *Session) RunFloats(ctx context.Context, x []float32, shape ...int) ([]float32, error) {
	n := 1
	for _, d := range shape {
		if d < 1 {
			return nil, fmt.Errorf("runtime: input of shape %v: %w", shape, ErrShape)
		}
		n *= d
	}
	if n != len(x) || n == 0 {
		return nil, fmt.Errorf("runtime: %d numbers in shape %v: %w", len(x), shape, ErrShape)
	}
	y, err := s.Run(ctx, tensor.New(tensor.WithShape(shape...), tensor.WithBacking(x)))
	if err != nil {
		return nil, err
	}
	f, ok := y.Data().([]float32)
	if !ok {
		return nil, fmt.Errorf("runtime: output is %v, not float32: %w", y.Dtype(), ErrUnsupported)
	}
	return f, nil
}

// InputShape is the shape in which a network with one input takes n images of c
// channels of h x w: [n, c, h, w], or what else its file says that holds as many
// numbers a row.
func (s *Session) InputShape(n, c, h, w int) ([]int, error) {
	if len(s.graph.Inputs) != 1 {
		return nil, fmt.Errorf("runtime: images into a network of %d inputs: %w", len(s.graph.Inputs), ErrUnsupported)
	}
	v := s.graph.Values[s.graph.Inputs[0]]
	want := v.Shape
	if s.tensors == nil {
		want = []int{-1, v.Width}
	}
	image := []int{n, c, h, w}
	if want == nil {
		return image, nil
	}
	if len(want) == 4 {
		for i := 1; i < 4; i++ {
			if want[i] >= 0 && want[i] != image[i] {
				return nil, fmt.Errorf("runtime: input %.80q: want %v (-1: any), the images are %v: %w", v.Name, want, image, ErrShape)
			}
		}
		return image, nil
	}
	shape := []int{n}
	per, free := 1, -1
	for i, d := range want[min(1, len(want)):] {
		shape = append(shape, d)
		switch {
		case d >= 0:
			per *= d
		case free < 0:
			free = i + 1
		default:
			return nil, fmt.Errorf("runtime: input %.80q of shape %v for images %v: %w", v.Name, want, image, ErrShape)
		}
	}
	if free >= 0 && per > 0 && c*h*w%per == 0 {
		shape[free] = c * h * w / per
		per = c * h * w
	}
	if per != c*h*w {
		return nil, fmt.Errorf("runtime: input %.80q: want %v (-1: any), the images are %v: %w", v.Name, want, image, ErrShape)
	}
	return shape, nil
}
