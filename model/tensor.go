package model

import (
	"fmt"
	"math"
	"slices"
)

// A tensor graph is a network over tensors of any rank and type, as ONNX files
// have them: Graph.Opsets is set, every Node's Attr is a *TensorOp, Values have
// Shape and Elem. In every other graph values are rows x Width of float32.

// Elem is the type of a tensor's elements; the numbers are those of ONNX's
// TensorProto.DataType.
type Elem uint8

// The element types, and below each the Go type of Tensor.Data.
const (
	ElemNone       Elem = iota
	ElemF32             // []float32
	ElemU8              // []uint8
	ElemI8              // []int8
	ElemU16             // []uint16
	ElemI16             // []int16
	ElemI32             // []int32
	ElemI64             // []int64
	ElemString          // []string
	ElemBool            // []bool
	ElemF16             // []uint16: bit patterns
	ElemF64             // []float64
	ElemU32             // []uint32
	ElemU64             // []uint64
	ElemC64             // complex numbers: not supported
	ElemC128            //
	ElemBF16            // []uint16: bit patterns
	ElemF8E4M3FN        // []uint8: bit patterns, here and in the next three
	ElemF8E4M3FNUZ      //
	ElemF8E5M2          //
	ElemF8E5M2FNUZ      //
	ElemU4              // []uint8, one number an element
	ElemI4              // []int8, one number an element
	ElemF4E2M1          // []uint8: bit patterns, one an element
	ElemF8E8M0          // []uint8: bit patterns
	ElemU2              // []uint8, one number an element
	ElemI2              // []int8, one number an element
	elems
)

var elemNames = [elems]string{"none", "f32", "uint8", "int8", "uint16", "int16", "int32", "int64", "string", "bool", "f16", "f64", "uint32", "uint64",
	"complex64", "complex128", "bf16", "f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz", "uint4", "int4", "f4e2m1", "f8e8m0", "uint2", "int2"}

// String is the type's short name.
func (e Elem) String() string {
	if int(e) < len(elemNames) {
		return elemNames[e]
	}
	return fmt.Sprintf("elem(%d)", uint8(e))
}

// Supported reports whether tensors of the type exist here.
func (e Elem) Supported() bool {
	return e > ElemNone && e < elems && e != ElemC64 && e != ElemC128
}

// Float reports whether e is a floating point type.
func (e Elem) Float() bool {
	switch e {
	case ElemF32, ElemF64, ElemF16, ElemBF16, ElemF8E4M3FN, ElemF8E4M3FNUZ, ElemF8E5M2, ElemF8E5M2FNUZ, ElemF4E2M1, ElemF8E8M0:
		return true
	}
	return false
}

// Bits is the size of an element in a file; 0 for strings.
func (e Elem) Bits() int {
	switch e {
	case ElemF64, ElemI64, ElemU64:
		return 64
	case ElemF32, ElemI32, ElemU32:
		return 32
	case ElemF16, ElemBF16, ElemI16, ElemU16:
		return 16
	case ElemU4, ElemI4, ElemF4E2M1:
		return 4
	case ElemU2, ElemI2:
		return 2
	case ElemString:
		return 0
	}
	return 8
}

// Size is the memory of an element in a Tensor, in bytes.
func (e Elem) Size() int {
	if e == ElemString {
		return 16
	}
	return max(1, e.Bits()/8)
}

// Tensor is a dense array, row-major. A sequence of tensors is one too: Items is
// set, and Shape and Data are not. Tensors are not changed once made.
type Tensor struct {
	Elem  Elem
	Shape []int
	Data  any // the slice that Elem says; nil for a sequence
	// Seq marks a sequence, whose tensors are Items.
	Seq   bool
	Items []*Tensor
}

// MaxTensor bounds the memory of one tensor, in bytes: what a shape in a file
// asks for is refused beyond it, before anything is allocated.
const MaxTensor = 4 << 30

// Elements is the product of a shape, or an error where it is negative, overflows
// or needs more memory than MaxTensor in the given type.
func Elements(e Elem, shape []int) (int, error) {
	n := 1
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("model: shape %v: negative dimension: %w", clipShape(shape), ErrGraph)
		}
		if d != 0 && n > math.MaxInt/d {
			return 0, fmt.Errorf("model: shape %v: product overflows: %w", clipShape(shape), ErrGraph)
		}
		n *= d
	}
	if n > MaxTensor/e.Size() {
		return 0, fmt.Errorf("model: shape %v of %v: more than %d bytes: %w", clipShape(shape), e, int64(MaxTensor), ErrGraph)
	}
	return n, nil
}

func clipShape(s []int) []int { return s[:min(len(s), 16)] }

// NewTensor allocates zeros.
func NewTensor(e Elem, shape ...int) (*Tensor, error) {
	n, err := Elements(e, shape)
	if err != nil {
		return nil, err
	}
	t := &Tensor{Elem: e, Shape: slices.Clone(shape)}
	switch e {
	case ElemF32:
		t.Data = make([]float32, n)
	case ElemF64:
		t.Data = make([]float64, n)
	case ElemI8, ElemI4, ElemI2:
		t.Data = make([]int8, n)
	case ElemU8, ElemU4, ElemU2, ElemF8E4M3FN, ElemF8E4M3FNUZ, ElemF8E5M2, ElemF8E5M2FNUZ, ElemF4E2M1, ElemF8E8M0:
		t.Data = make([]uint8, n)
	case ElemI16:
		t.Data = make([]int16, n)
	case ElemU16, ElemF16, ElemBF16:
		t.Data = make([]uint16, n)
	case ElemI32:
		t.Data = make([]int32, n)
	case ElemU32:
		t.Data = make([]uint32, n)
	case ElemI64:
		t.Data = make([]int64, n)
	case ElemU64:
		t.Data = make([]uint64, n)
	case ElemBool:
		t.Data = make([]bool, n)
	case ElemString:
		t.Data = make([]string, n)
	default:
		return nil, fmt.Errorf("model: tensor of type %v: %w", e, ErrGraph)
	}
	return t, nil
}

// F32Tensor wraps data; no copy.
func F32Tensor(data []float32, shape ...int) *Tensor {
	return &Tensor{Elem: ElemF32, Shape: shape, Data: data}
}

// I64Tensor wraps data; no copy.
func I64Tensor(data []int64, shape ...int) *Tensor {
	return &Tensor{Elem: ElemI64, Shape: shape, Data: data}
}

// Len is the number of elements.
func (t *Tensor) Len() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Check holds Data to Elem and Shape: for tensors that a caller made.
func (t *Tensor) Check() error {
	if t.Seq {
		for _, x := range t.Items {
			if x == nil || x.Seq {
				return fmt.Errorf("model: sequence of something that is no tensor: %w", ErrGraph)
			}
			if err := x.Check(); err != nil {
				return err
			}
		}
		return nil
	}
	n, err := Elements(t.Elem, t.Shape)
	if err != nil {
		return err
	}
	got := -1
	switch d := t.Data.(type) {
	case []float32:
		got = have(len(d), t.Elem, ElemF32)
	case []float64:
		got = have(len(d), t.Elem, ElemF64)
	case []int8:
		got = have(len(d), t.Elem, ElemI8, ElemI4, ElemI2)
	case []uint8:
		got = have(len(d), t.Elem, ElemU8, ElemU4, ElemU2, ElemF8E4M3FN, ElemF8E4M3FNUZ, ElemF8E5M2, ElemF8E5M2FNUZ, ElemF4E2M1, ElemF8E8M0)
	case []int16:
		got = have(len(d), t.Elem, ElemI16)
	case []uint16:
		got = have(len(d), t.Elem, ElemU16, ElemF16, ElemBF16)
	case []int32:
		got = have(len(d), t.Elem, ElemI32)
	case []uint32:
		got = have(len(d), t.Elem, ElemU32)
	case []int64:
		got = have(len(d), t.Elem, ElemI64)
	case []uint64:
		got = have(len(d), t.Elem, ElemU64)
	case []bool:
		got = have(len(d), t.Elem, ElemBool)
	case []string:
		got = have(len(d), t.Elem, ElemString)
	}
	if got != n {
		return fmt.Errorf("model: tensor %v %v: want %d elements, got %T of %d: %w", t.Elem, clipShape(t.Shape), n, t.Data, got, ErrGraph)
	}
	return nil
}

func have(n int, e Elem, of ...Elem) int {
	if slices.Contains(of, e) {
		return n
	}
	return -1
}

// Attribute is one attribute of a tensor op; the field of its kind is set.
type Attribute struct {
	Kind    AttrKind
	I       int64
	F       float32
	S       string
	T       *Tensor
	Ints    []int64
	Floats  []float32
	Strings []string
}

// AttrKind is the kind of an attribute; the numbers are those of ONNX's
// AttributeProto.AttributeType.
type AttrKind uint8

// The kinds. Graphs and what else ONNX has are kept as a kind without a value.
const (
	AttrFloat   AttrKind = 1
	AttrInt     AttrKind = 2
	AttrString  AttrKind = 3
	AttrTensor  AttrKind = 4
	AttrGraph   AttrKind = 5
	AttrFloats  AttrKind = 6
	AttrInts    AttrKind = 7
	AttrStrings AttrKind = 8
)

// TensorOp is the Attr of a node of a tensor graph.
type TensorOp struct {
	Domain  string // "" is ONNX's own
	Version int    // opset of the domain
	Attrs   map[string]Attribute
}

// NoValue stands for an optional input or output that is left out.
const NoValue ValueID = -1

// Tensors reports whether g is a tensor graph.
func (g *Graph) Tensors() bool { return g.Opsets != nil }

// checkTensors validates a tensor graph: every value is written once, before it
// is read.
func (g *Graph) checkTensors() error {
	written := make([]bool, len(g.Values))
	write := func(v ValueID, by string) error {
		if v < 0 || int(v) >= len(written) || written[v] {
			return fmt.Errorf("model: value %d is written twice or does not exist (%s): %w", v, by, ErrGraph)
		}
		written[v] = true
		return nil
	}
	for v := range g.Constants {
		if err := write(v, "constant"); err != nil {
			return err
		}
	}
	for _, v := range g.Inputs {
		if err := write(v, "input"); err != nil {
			return err
		}
	}
	for _, n := range g.Nodes {
		if _, ok := n.Attr.(*TensorOp); !ok {
			return fmt.Errorf("model: node %q: want attributes of a tensor op, got %T: %w", n.Name, n.Attr, ErrGraph)
		}
		for _, v := range n.In {
			if v != NoValue && (v < 0 || int(v) >= len(written) || !written[v]) {
				return fmt.Errorf("model: node %q reads a value that nothing wrote: %w", n.Name, ErrGraph)
			}
		}
		for _, v := range n.Outs {
			if v == NoValue {
				continue
			}
			if err := write(v, "node "+n.Name); err != nil {
				return err
			}
		}
	}
	for _, v := range g.Outputs {
		if v < 0 || int(v) >= len(written) || !written[v] {
			return fmt.Errorf("model: output %d is never written: %w", v, ErrGraph)
		}
	}
	return nil
}
