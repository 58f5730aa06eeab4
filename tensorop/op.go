// Package tensorop computes the operators of tensor graphs (ONNX's, opsets 6 to
// 26) on typed tensors, in plain Go: the reference that a backend's own kernels
// are compared with, and what runs every op that has no such kernel.
//
// Half-precision and 8-bit floats are computed in float32 and rounded once, at
// the end of each op. Integers wrap. Shapes are checked before memory is taken;
// an op never changes its inputs, and its outputs may share memory with them.
package tensorop

import (
	"errors"
	"fmt"

	goruntime "runtime"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// Errors of this package; every error wraps one of them.
var (
	ErrUnsupported = errors.New("unsupported operator")
	ErrShape       = errors.New("shape mismatch")
	ErrType        = errors.New("unsupported tensor type")
	ErrAttribute   = errors.New("bad attribute or parameter")
)

// T is the tensor of the house.
type T = model.Tensor

// Call is one node with its inputs.
type Call struct {
	Node *model.Node
	In   []*T // nil where an optional one is left out
	// Outs is the number of outputs that are wanted.
	Outs int
	Pool *linalg.Pool // nil: one thread
	// Floats, where it is set, lends memory of any content for float32 results that
	// an op writes wholly.
	Floats func(shape ...int) (*T, error)

	op *model.TensorOp
}

// Func computes the outputs of a call, at most as many as are wanted; a nil one
// was not computed.
type Func func(c *Call) ([]*T, error)

// Has reports whether an op is supported in its opset.
func Has(n *model.Node) error {
	op, ok := n.Attr.(*model.TensorOp)
	if !ok {
		return fmt.Errorf("tensorop: node %q: op %s is not one of a tensor graph: %w", n.Name, n.Op, ErrUnsupported)
	}
	if _, ok := table[n.Op]; !ok || op.Domain != "" {
		name := string(n.Op)
		if op.Domain != "" {
			name = op.Domain + "." + name
		}
		return fmt.Errorf("tensorop: node %q: op %.80s, opset %d: %w", n.Name, name, op.Version, ErrUnsupported)
	}
	for name, a := range op.Attrs {
		if a.Kind == model.AttrGraph || a.Kind > model.AttrStrings {
			return fmt.Errorf("tensorop: node %q: op %s, opset %d: attribute %.80q of kind %d: %w", n.Name, n.Op, op.Version, name, a.Kind, ErrUnsupported)
		}
	}
	return nil
}

// Run computes a node. A panic of an op on inputs that nobody foresaw becomes an
// error: models come from anywhere, and a server outlives them.
func Run(c *Call) (out []*T, err error) {
	if err := Has(c.Node); err != nil {
		return nil, err
	}
	c.op = c.Node.Attr.(*model.TensorOp)
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(goruntime.Error); !ok {
				panic(r)
			}
			out, err = nil, fmt.Errorf("%v: %w", r, ErrShape)
		}
		if err != nil {
			err = fmt.Errorf("tensorop: node %q (%s, opset %d): %w", c.Node.Name, c.Node.Op, c.op.Version, err)
		}
	}()
	out, err = table[c.Node.Op](c)
	if err != nil {
		return nil, err
	}
	for i, t := range out {
		if t == nil && i < c.Outs && i < len(c.Node.Outs) && c.Node.Outs[i] != model.NoValue {
			return nil, fmt.Errorf("output %d: %w", i, ErrUnsupported)
		}
	}
	if len(out) < c.Outs {
		return nil, fmt.Errorf("want %d outputs, have %d: %w", c.Outs, len(out), ErrUnsupported)
	}
	return out, nil
}

// version is the opset that the node follows.
func (c *Call) version() int { return c.op.Version }

// in is input i, nil where it is left out.
func (c *Call) in(i int) *T {
	if i < len(c.In) {
		return c.In[i]
	}
	return nil
}

// need is input i, or an error.
func (c *Call) need(i int) (*T, error) {
	if t := c.in(i); t != nil {
		return t, nil
	}
	return nil, fmt.Errorf("input %d is missing: %w", i, ErrAttribute)
}

// tensor is input i, which is no sequence.
func (c *Call) tensor(i int) (*T, error) {
	t, err := c.need(i)
	if err == nil && t.Seq {
		err = fmt.Errorf("input %d is a sequence: %w", i, ErrType)
	}
	return t, err
}

func (c *Call) has(name string) bool { _, ok := c.op.Attrs[name]; return ok }

func (c *Call) int(name string, missing int) int {
	if a, ok := c.op.Attrs[name]; ok {
		return clampInt(a.I)
	}
	return missing
}

func (c *Call) float(name string, missing float64) float64 {
	if a, ok := c.op.Attrs[name]; ok {
		return float64(a.F)
	}
	return missing
}

func (c *Call) str(name, missing string) string {
	if a, ok := c.op.Attrs[name]; ok {
		return a.S
	}
	return missing
}

// ints is nil where the attribute is missing.
func (c *Call) ints(name string) []int {
	a, ok := c.op.Attrs[name]
	if !ok {
		return nil
	}
	out := make([]int, len(a.Ints))
	for i, v := range a.Ints {
		out[i] = clampInt(v)
	}
	return out
}

// clampInt keeps hostile numbers from overflowing sums of a few of them.
func clampInt(v int64) int { return int(max(-1<<48, min(1<<48, v))) }

// intsIn is an input of integers as []int; nil where it is left out.
func (c *Call) intsIn(i int) ([]int, error) {
	t := c.in(i)
	if t == nil {
		return nil, nil
	}
	return asInts(t)
}

// asInts reads any integer tensor.
func asInts(t *T) ([]int, error) {
	switch d := t.Data.(type) {
	case []int64:
		out := make([]int, len(d))
		for i, v := range d {
			out[i] = clampInt(v)
		}
		return out, nil
	case []int32:
		out := make([]int, len(d))
		for i, v := range d {
			out[i] = int(v)
		}
		return out, nil
	}
	if t.Elem.Float() || t.Elem == model.ElemString || t.Seq {
		return nil, fmt.Errorf("want integers, got %v: %w", t.Elem, ErrType)
	}
	out := make([]int, t.Len())
	f, err := asF64(t)
	for i, v := range f {
		out[i] = int(v)
	}
	return out, err
}

// asFloats reads any numeric tensor as float32.
func asFloats(t *T) ([]float32, error) {
	if f, ok := t.Data.([]float32); ok {
		return f, nil
	}
	x, err := Cast(t, model.ElemF32, true)
	if err != nil {
		return nil, err
	}
	return x.Data.([]float32), nil
}

func asF64(t *T) ([]float64, error) {
	x, err := Cast(t, model.ElemF64, true)
	if err != nil {
		return nil, err
	}
	return x.Data.([]float64), nil
}

// scalar is an input of one number.
func (c *Call) scalar(i int, missing float64) (float64, error) {
	t := c.in(i)
	if t == nil {
		return missing, nil
	}
	if t.Len() != 1 {
		return 0, fmt.Errorf("input %d: want one number, got %v: %w", i, t.Shape, ErrShape)
	}
	f, err := asF64(t)
	if err != nil {
		return 0, err
	}
	return f[0], nil
}

// one wraps a single output.
func one(t *T, err error) ([]*T, error) {
	if err != nil {
		return nil, err
	}
	return []*T{t}, nil
}

// axis makes a dimension number of a possibly negative one.
func axis(a, rank int) (int, error) {
	if a < -rank || a >= rank {
		return 0, fmt.Errorf("axis %d of %d dimensions: %w", a, rank, ErrShape)
	}
	if a < 0 {
		a += rank
	}
	return a, nil
}

// axes checks a list of dimensions, each once.
func axes(list []int, rank int) ([]bool, error) {
	set := make([]bool, rank)
	for _, a := range list {
		a, err := axis(a, rank)
		if err != nil {
			return nil, err
		}
		if set[a] {
			return nil, fmt.Errorf("axis %d occurs twice: %w", a, ErrShape)
		}
		set[a] = true
	}
	return set, nil
}

// narrow says that an op computes floats of few bits in float32.
func narrow(f Func) Func {
	return func(c *Call) ([]*T, error) {
		var as model.Elem
		d := *c
		for i, t := range c.In {
			if t == nil || t.Seq || t.Elem != model.ElemF16 && t.Elem != model.ElemBF16 {
				continue
			}
			if as == 0 {
				as = t.Elem
				d.In = append([]*T(nil), c.In...)
			}
			var err error
			if d.In[i], err = Cast(t, model.ElemF32, true); err != nil {
				return nil, err
			}
		}
		out, err := f(&d)
		if err != nil || as == 0 {
			return out, err
		}
		for i, t := range out {
			if t != nil && !t.Seq && t.Elem == model.ElemF32 {
				if out[i], err = Cast(t, as, true); err != nil {
					return nil, err
				}
			}
		}
		return out, nil
	}
}

func product(s []int) int {
	n := 1
	for _, d := range s {
		n *= d
	}
	return n
}

// make0 allocates an output.
func make0(e model.Elem, shape ...int) (*T, error) {
	t, err := model.NewTensor(e, shape...)
	if err != nil {
		return nil, fmt.Errorf("%v: %w", err, ErrShape)
	}
	return t, nil
}

// reshaped is t with another shape of as many elements; it shares the data.
func reshaped(t *T, shape ...int) *T { return &T{Elem: t.Elem, Shape: shape, Data: t.Data} }

// result is an output that the op writes wholly.
func (c *Call) result(e model.Elem, shape ...int) (*T, error) {
	if c != nil && c.Floats != nil && e == model.ElemF32 {
		t, err := c.Floats(shape...)
		if err != nil {
			return nil, fmt.Errorf("%v: %w", err, ErrShape)
		}
		return t, nil
	}
	return make0(e, shape...)
}

func newF32(shape ...int) (*T, []float32, error) {
	t, err := make0(model.ElemF32, shape...)
	if err != nil {
		return nil, nil, err
	}
	return t, t.Data.([]float32), nil
}
