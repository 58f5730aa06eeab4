package tensorop

import (
	"slices"

	"github.com/sparserun/sparserun/model"
)

// Kind is what is known of a value before anything runs: its type, and its shape
// with -1 for dimensions that are free; nil: any shape.
type Kind struct {
	Elem  model.Elem
	Shape []int
}

// Infer says what a node's outputs are, from what its inputs are and from those
// that are constant (nil: not). Where it does not know, the zero Kind. It trusts
// nothing: a shape that makes no sense is unknown, and running it will say why.
func Infer(n *model.Node, in []Kind, consts []*T) []Kind {
	out := make([]Kind, max(1, len(n.Outs)))
	op, ok := n.Attr.(*model.TensorOp)
	if !ok || op.Domain != "" || len(in) == 0 && n.Op != "Range" {
		return out
	}
	f := &inference{c: &Call{Node: n, In: consts, Outs: len(n.Outs), op: op}, in: in}
	k := f.first()
	if slices.ContainsFunc(k.Shape, func(d int) bool { return d < -1 }) {
		k.Shape = nil
	}
	out[0] = k
	if n.Op == "Split" {
		return f.split(out)
	}
	return out
}

type inference struct {
	c  *Call
	in []Kind
}

func (f *inference) kind(i int) Kind {
	if i < len(f.in) {
		return f.in[i]
	}
	return Kind{}
}

// ints are the numbers of a constant input.
func (f *inference) ints(i int) ([]int, bool) {
	if f.c.in(i) == nil {
		return nil, false
	}
	v, err := asInts(f.c.in(i))
	return v, err == nil
}

// sameShape are ops whose first output is like their first input.
var sameShape = map[model.Op]bool{
	"Abs": true, "Neg": true, "Sign": true, "Exp": true, "Log": true, "Sqrt": true, "Reciprocal": true, "Floor": true, "Ceil": true, "Round": true,
	"Sin": true, "Cos": true, "Tan": true, "Asin": true, "Acos": true, "Atan": true, "Sinh": true, "Cosh": true, "Tanh": true, "Asinh": true,
	"Acosh": true, "Atanh": true, "Erf": true, "Sigmoid": true, "Softplus": true, "Softsign": true, "Mish": true, "Relu": true, "Gelu": true,
	"LeakyRelu": true, "Elu": true, "Celu": true, "Selu": true, "HardSigmoid": true, "HardSwish": true, "ThresholdedRelu": true, "Swish": true,
	"Shrink": true, "Identity": true, "Dropout": true, "Softmax": true, "LogSoftmax": true, "Hardmax": true, "Clip": true, "PRelu": true, "Not": true,
	"BitwiseNot": true, "BatchNormalization": true, "InstanceNormalization": true, "GroupNormalization": true, "LayerNormalization": true,
	"RMSNormalization": true, "LRN": true, "LpNormalization": true, "RotaryEmbedding": true, "CumSum": true, "CumProd": true, "Trilu": true,
	"ScatterElements": true, "ScatterND": true, "Scatter": true,
}

func (f *inference) first() Kind {
	n, x := f.c.Node, f.kind(0)
	if sameShape[n.Op] {
		return x
	}
	switch n.Op {
	case "Add", "Sub", "Mul", "Div", "Mod", "Pow", "Max", "Min", "Sum", "Mean", "BitwiseAnd", "BitwiseOr", "BitwiseXor", "BitShift":
		return Kind{x.Elem, f.stretched(0)}
	case "Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "And", "Or", "Xor":
		return Kind{model.ElemBool, f.stretched(0)}
	case "IsInf", "IsNaN":
		return Kind{model.ElemBool, x.Shape}
	case "Where":
		return Kind{f.kind(1).Elem, f.stretched(0)}
	case "Cast":
		return Kind{model.Elem(f.c.int("to", 0)), x.Shape}
	case "CastLike":
		return Kind{f.kind(1).Elem, x.Shape}
	case "Shape":
		if x.Shape != nil && !f.c.has("start") && !f.c.has("end") {
			return Kind{model.ElemI64, []int{len(x.Shape)}}
		}
		return Kind{Elem: model.ElemI64}
	case "Size":
		return Kind{model.ElemI64, []int{}}
	case "QuantizeLinear":
		e := f.kind(2).Elem
		if e == 0 && len(f.in) < 3 {
			e = model.ElemU8
			if d := f.c.int("output_dtype", 0); d != 0 {
				e = model.Elem(d)
			}
		}
		return Kind{e, x.Shape}
	case "DequantizeLinear":
		if d := f.c.int("output_dtype", 0); d != 0 {
			return Kind{model.Elem(d), x.Shape}
		}
		return Kind{f.kind(1).Elem, x.Shape}
	case "ConstantOfShape":
		e := model.ElemF32
		if a := f.c.op.Attrs["value"]; a.T != nil {
			e = a.T.Elem
		}
		s, ok := f.ints(0)
		if !ok {
			return Kind{Elem: e}
		}
		return Kind{e, slices.Clone(s)}
	case "MatMulInteger":
		return Kind{model.ElemI32, f.matmul()}
	case "MatMul":
		return Kind{x.Elem, f.matmul()}
	case "Gemm":
		return Kind{x.Elem, f.gemm()}
	case "Conv", "MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool":
		return Kind{x.Elem, f.windows()}
	}
	if !sameElem[n.Op] {
		return Kind{}
	}
	return Kind{x.Elem, f.moved(x.Shape)}
}

// sameElem are ops that keep the type of their first input but not its shape.
var sameElem = map[model.Op]bool{
	"Expand": true, "Reshape": true, "Concat": true, "Tile": true, "Flatten": true, "Transpose": true, "Squeeze": true, "Unsqueeze": true, "Gather": true,
	"Slice": true, "Pad": true, "Split": true, "GatherElements": true, "GatherND": true, "DepthToSpace": true, "SpaceToDepth": true, "Resize": true, "Upsample": true,
	"ConvTranspose": true, "Einsum": true, "ReduceSum": true, "ReduceMean": true, "ReduceMax": true, "ReduceMin": true, "ReduceProd": true, "ReduceL1": true,
	"ReduceL2": true, "ReduceSumSquare": true, "ReduceLogSum": true, "ReduceLogSumExp": true,
}

// stretched broadcasts all inputs from i on.
func (f *inference) stretched(i int) []int {
	if f.c.has("axis") && f.c.version() < 7 {
		return f.in[0].Shape
	}
	rank := 0
	for _, k := range f.in[i:] {
		if k.Shape == nil {
			return nil
		}
		rank = max(rank, len(k.Shape))
	}
	out := slices.Repeat([]int{1}, rank)
	for _, k := range f.in[i:] {
		for d, v := range k.Shape {
			o := &out[rank-len(k.Shape)+d]
			switch {
			case v == *o || v == 1:
			case *o == 1:
				*o = v
			case v == -1: // it must be 1 or the other
			case *o == -1:
				*o = v
			default:
				return nil
			}
		}
	}
	return out
}

func (f *inference) matmul() []int {
	a, b := f.kind(0).Shape, f.kind(1).Shape
	if len(a) < 2 || len(b) < 2 {
		return nil
	}
	g := &inference{c: f.c, in: []Kind{{Shape: a[:len(a)-2]}, {Shape: b[:len(b)-2]}}}
	batch := g.stretched(0)
	if batch == nil {
		return nil
	}
	return append(batch, a[len(a)-2], b[len(b)-1])
}

func (f *inference) gemm() []int {
	a, b := f.kind(0).Shape, f.kind(1).Shape
	if len(a) != 2 || len(b) != 2 {
		return nil
	}
	m, n := a[0], b[1]
	if f.c.int("transA", 0) != 0 {
		m = a[1]
	}
	if f.c.int("transB", 0) != 0 {
		n = b[0]
	}
	return []int{m, n}
}

func (f *inference) windows() []int {
	x := f.kind(0).Shape
	if len(x) < 3 || slices.Contains(x[2:], -1) {
		return nil
	}
	out := []int{x[0], x[1]}
	var kernel []int
	switch f.c.Node.Op {
	case "GlobalAveragePool", "GlobalMaxPool":
		return append(out, slices.Repeat([]int{1}, len(x)-2)...)
	case "Conv":
		w := f.kind(1).Shape
		if len(w) != len(x) || slices.Contains(w, -1) {
			return nil
		}
		out[1], kernel = w[0], w[2:]
	}
	w, err := f.c.window(x[2:], kernel)
	if err != nil || w.size(f.c.str("auto_pad", ""), f.c.int("ceil_mode", 0) != 0) != nil {
		return nil
	}
	return append(out, w.Out...)
}

// moved are the ops that rearrange or reduce.
func (f *inference) moved(x []int) []int {
	c := f.c
	switch op := c.Node.Op; op {
	case "Expand":
		s, ok := f.ints(1)
		if !ok || x == nil {
			return nil
		}
		return (&inference{c: c, in: []Kind{{Shape: x}, {Shape: s}}}).stretched(0)
	case "Reshape":
		return f.reshaped(x)
	case "Concat":
		return f.concat()
	case "Tile":
		rep, ok := f.ints(1)
		if !ok || len(rep) != len(x) || c.in(2) != nil {
			return nil
		}
		out := slices.Clone(x)
		for i, r := range rep {
			if out[i] >= 0 {
				if r < 0 || r > 0 && out[i] > 1<<40/r {
					return nil
				}
				out[i] *= r
			}
		}
		return out
	}
	if x == nil {
		return nil
	}
	switch op := c.Node.Op; op {
	case "Flatten":
		ax := c.int("axis", 1)
		if ax < 0 {
			ax += len(x)
		}
		if ax < 0 || ax > len(x) {
			return nil
		}
		return []int{free(x[:ax]), free(x[ax:])}
	case "Transpose":
		perm := c.ints("perm")
		out := make([]int, len(x))
		if perm == nil {
			copy(out, x)
			slices.Reverse(out)
			return out
		}
		if _, err := axes(perm, len(x)); err != nil || len(perm) != len(x) {
			return nil
		}
		for i, p := range perm {
			p, _ = axis(p, len(x))
			out[i] = x[p]
		}
		return out
	case "Squeeze", "Unsqueeze":
		list, given := c.ints("axes"), true
		if c.version() >= 13 {
			if list, given = f.ints(1); !given && len(f.in) > 1 {
				return nil
			}
		}
		return squeezedShape(x, list, op == "Unsqueeze")
	case "Gather":
		it := f.kind(1).Shape
		ax, err := axis(c.int("axis", 0), len(x))
		if it == nil || err != nil {
			return nil
		}
		return append([]int{}, slices.Concat(x[:ax], it, x[ax+1:])...) // a scalar is known too, which nil is not
	case "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp":
		since := 18
		if op == "ReduceSum" {
			since = 13
		}
		if c.version() >= since && len(f.in) > 1 && c.in(1) == nil {
			return nil
		}
		set, noop, err := reduced(c, len(x), since)
		if err != nil {
			return nil
		}
		if noop {
			return x
		}
		return keptShape(x, set, c.int("keepdims", 1) != 0)
	case "Slice":
		return f.sliced(x)
	case "Pad":
		pads := c.ints("pads")
		if c.version() >= 11 {
			var ok bool
			if pads, ok = f.ints(1); !ok || len(f.in) > 3 {
				return nil
			}
		}
		if len(pads) != 2*len(x) {
			return nil
		}
		out := slices.Clone(x)
		for i := range x {
			if x[i] >= 0 {
				out[i] = max(0, x[i]+pads[i]+pads[len(x)+i])
			}
		}
		return out
	}
	return nil
}

func squeezedShape(x, list []int, un bool) []int {
	if un {
		set, err := axes(list, len(x)+len(list))
		if err != nil {
			return nil
		}
		out := []int{}
		for _, s := range set {
			if s {
				out = append(out, 1)
			} else {
				out = append(out, x[0])
				x = x[1:]
			}
		}
		return out
	}
	set, err := axes(list, len(x))
	if err != nil || list == nil && slices.Contains(x, -1) {
		return nil
	}
	out := []int{}
	for i, d := range x {
		if list != nil && !set[i] || list == nil && d != 1 {
			out = append(out, d)
		}
	}
	return out
}

// free is the product of dimensions, -1 where one of them is free.
func free(s []int) int {
	n := 1
	for _, d := range s {
		if d < 0 || d > 0 && n > 1<<48/d {
			return -1
		}
		n *= d
	}
	return n
}

func (f *inference) reshaped(x []int) []int {
	want := f.c.ints("shape")
	if f.c.version() >= 5 {
		var ok bool
		if want, ok = f.ints(1); !ok {
			return nil
		}
	}
	out := slices.Clone(want)
	at, known := -1, 1
	for i, d := range want {
		switch {
		case d == -1 && at < 0:
			at = i
			continue
		case d < 0:
			return nil
		case d == 0 && f.c.int("allowzero", 0) == 0:
			if i >= len(x) {
				return nil
			}
			out[i] = x[i]
		}
		if out[i] < 0 {
			known = -1
		} else if known >= 0 {
			if out[i] > 0 && known > 1<<48/out[i] {
				return nil
			}
			known *= out[i]
		}
	}
	if at >= 0 {
		total := -1
		if x != nil {
			total = free(x)
		}
		if known > 0 && total >= 0 && total%known == 0 {
			out[at] = total / known
		}
	}
	return out
}

func (f *inference) concat() []int {
	var out []int
	for i, k := range f.in {
		if k.Shape == nil {
			return nil
		}
		ax, err := axis(f.c.int("axis", 1), len(k.Shape))
		if err != nil || i > 0 && len(k.Shape) != len(out) {
			return nil
		}
		if i == 0 {
			out = slices.Clone(k.Shape)
			continue
		}
		for d, v := range k.Shape {
			switch {
			case d == ax && (v < 0 || out[d] < 0):
				out[d] = -1
			case d == ax:
				out[d] += v
			case out[d] < 0:
				out[d] = v
			}
		}
	}
	return out
}

func (f *inference) sliced(x []int) []int {
	c := f.c
	var p [4][]int
	if c.version() < 10 {
		p[0], p[1], p[2] = c.ints("starts"), c.ints("ends"), c.ints("axes")
	} else {
		for i := range p {
			var ok bool
			if p[i], ok = f.ints(i + 1); !ok && i+1 < len(f.in) && c.Node.In[i+1] != model.NoValue {
				return nil
			}
		}
	}
	if p[2] == nil {
		for i := range p[0] {
			p[2] = append(p[2], i)
		}
	}
	if _, err := axes(p[2], len(x)); err != nil || len(p[1]) != len(p[0]) || len(p[2]) != len(p[0]) || p[3] != nil && len(p[3]) != len(p[0]) {
		return nil
	}
	out := slices.Clone(x)
	for i, a := range p[2] {
		a, _ = axis(a, len(x))
		s := 1
		if p[3] != nil {
			s = p[3][i]
		}
		if s == 0 {
			return nil
		}
		if x[a] < 0 {
			continue
		}
		out[a] = sliceLen(p[0][i], p[1][i], s, x[a])
	}
	for i, a := range p[2] {
		a, _ = axis(a, len(x))
		if x[a] < 0 && !(p[0][i] == 0 && p[1][i] >= 1<<40) {
			out[a] = -1
		}
	}
	return out
}

// sliceLen is how many of d indices a slice takes.
func sliceLen(lo, hi, s, d int) int {
	if lo < 0 {
		lo += d
	}
	if hi < 0 {
		hi += d
	}
	if s > 0 {
		lo, hi = max(0, min(d, lo)), max(0, min(d, hi))
		return max(0, (hi-lo+s-1)/s)
	}
	lo, hi = max(0, min(d-1, lo)), max(-1, min(d-1, hi))
	return max(0, (lo-hi-s-1)/-s)
}

func (f *inference) split(out []Kind) []Kind {
	x := f.kind(0)
	for i := range out {
		out[i] = Kind{Elem: x.Elem}
	}
	if x.Shape == nil {
		return out
	}
	ax, err := axis(f.c.int("axis", 0), len(x.Shape))
	if err != nil {
		return out
	}
	sizes := f.c.ints("split")
	if f.c.version() >= 13 {
		var ok bool
		if sizes, ok = f.ints(1); !ok && len(f.in) > 1 {
			return out
		}
	}
	d := x.Shape[ax]
	if sizes == nil && d >= 0 {
		per := (d + len(out) - 1) / len(out)
		for range out {
			sizes = append(sizes, min(per, d))
			d -= min(per, d)
		}
	}
	for i := range out {
		if i < len(sizes) && sizes[i] >= 0 {
			out[i].Shape = slices.Clone(x.Shape)
			out[i].Shape[ax] = sizes[i]
		}
	}
	return out
}
