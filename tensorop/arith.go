package tensorop

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

type integer interface {
	~int8 | ~int16 | ~int32 | ~int64 | ~uint8 | ~uint16 | ~uint32 | ~uint64
}

type float interface{ ~float32 | ~float64 }

type number interface{ integer | float }

// pair broadcasts two operands of one type; before opset 7 only the second one
// stretched, from attribute axis on.
func (c *Call) pair() (a, b *T, out []int, err error) {
	if a, err = c.tensor(0); err != nil {
		return
	}
	if b, err = c.tensor(1); err != nil {
		return
	}
	if c.version() < 7 && c.has("axis") {
		ax, err := axis(c.int("axis", 0), max(1, len(a.Shape)))
		if err != nil || ax+len(b.Shape) > len(a.Shape) {
			return a, b, nil, fmt.Errorf("axis %d of %v and %v: %w", c.int("axis", 0), a.Shape, b.Shape, ErrShape)
		}
		shape := append([]int(nil), b.Shape...)
		for len(shape) < len(a.Shape)-ax {
			shape = append(shape, 1)
		}
		b = reshaped(b, shape...)
	}
	out, err = broadcast(a.Shape, b.Shape)
	return
}

// arith is a binary op whose result has the type of its operands.
func arith(op string) Func {
	return narrow(func(c *Call) ([]*T, error) {
		a, b, shape, err := c.pair()
		if err != nil {
			return nil, err
		}
		return one(arithmetic(op, c, a, b, shape))
	})
}

func arithmetic(op string, c *Call, a, b *T, shape []int) (*T, error) {
	if a.Elem != b.Elem {
		return nil, fmt.Errorf("operands are %v and %v: %w", a.Elem, b.Elem, ErrType)
	}
	fmod := c.int("fmod", 0) != 0
	out, err := c.result(a.Elem, shape...)
	if err != nil {
		return nil, err
	}
	switch x := a.Data.(type) {
	case []float32:
		y := b.Data.([]float32)
		if len(x) == len(y) && len(x) == out.Len() && (op == "Add" || op == "Mul") {
			if op == "Add" {
				linalg.Add(out.Data.([]float32), x, y)
			} else {
				linalg.Mul(out.Data.([]float32), x, y)
			}
			break
		}
		zip(out.Data.([]float32), x, b.Data.([]float32), a.Shape, b.Shape, shape, floatOp[float32](op))
	case []float64:
		zip(out.Data.([]float64), x, b.Data.([]float64), a.Shape, b.Shape, shape, floatOp[float64](op))
	case []int8:
		zip(out.Data.([]int8), x, b.Data.([]int8), a.Shape, b.Shape, shape, intOp[int8](op, fmod))
	case []int16:
		zip(out.Data.([]int16), x, b.Data.([]int16), a.Shape, b.Shape, shape, intOp[int16](op, fmod))
	case []int32:
		zip(out.Data.([]int32), x, b.Data.([]int32), a.Shape, b.Shape, shape, intOp[int32](op, fmod))
	case []int64:
		zip(out.Data.([]int64), x, b.Data.([]int64), a.Shape, b.Shape, shape, intOp[int64](op, fmod))
	case []uint8:
		zip(out.Data.([]uint8), x, b.Data.([]uint8), a.Shape, b.Shape, shape, intOp[uint8](op, fmod))
	case []uint16:
		zip(out.Data.([]uint16), x, b.Data.([]uint16), a.Shape, b.Shape, shape, intOp[uint16](op, fmod))
	case []uint32:
		zip(out.Data.([]uint32), x, b.Data.([]uint32), a.Shape, b.Shape, shape, intOp[uint32](op, fmod))
	case []uint64:
		zip(out.Data.([]uint64), x, b.Data.([]uint64), a.Shape, b.Shape, shape, intOp[uint64](op, fmod))
	default:
		return nil, fmt.Errorf("operands are %v: %w", a.Elem, ErrType)
	}
	return out, nil
}

func floatOp[F float](op string) func(a, b F) F {
	switch op {
	case "Add":
		return func(a, b F) F { return a + b }
	case "Sub":
		return func(a, b F) F { return a - b }
	case "Mul":
		return func(a, b F) F { return a * b }
	case "Div":
		return func(a, b F) F { return a / b }
	case "Mod":
		return func(a, b F) F { return F(math.Mod(float64(a), float64(b))) }
	case "Max":
		return func(a, b F) F { return max(a, b) }
	case "Min":
		return func(a, b F) F { return min(a, b) }
	case "PRelu":
		return func(a, b F) F {
			if a < 0 {
				return a * b
			}
			return a
		}
	}
	return nil
}

func intOp[I integer](op string, fmod bool) func(a, b I) I {
	switch op {
	case "Add":
		return func(a, b I) I { return a + b }
	case "Sub":
		return func(a, b I) I { return a - b }
	case "Mul":
		return func(a, b I) I { return a * b }
	case "Div":
		return func(a, b I) I {
			if b == 0 {
				return 0
			}
			return a / b
		}
	case "Mod":
		return func(a, b I) I {
			if b == 0 {
				return 0
			}
			m := a % b
			if !fmod && m != 0 && (m < 0) != (b < 0) {
				m += b
			}
			return m
		}
	case "Max":
		return func(a, b I) I { return max(a, b) }
	case "Min":
		return func(a, b I) I { return min(a, b) }
	case "PRelu":
		return func(a, b I) I {
			if a < 0 {
				return a * b
			}
			return a
		}
	case "BitwiseAnd":
		return func(a, b I) I { return a & b }
	case "BitwiseOr":
		return func(a, b I) I { return a | b }
	case "BitwiseXor":
		return func(a, b I) I { return a ^ b }
	case "LEFT":
		return func(a, b I) I { return a << uint64(b) }
	case "RIGHT":
		return func(a, b I) I { return a >> uint64(b) }
	}
	return nil
}

func bitwise(op string) Func {
	return func(c *Call) ([]*T, error) {
		a, b, shape, err := c.pair()
		if err != nil {
			return nil, err
		}
		if a.Elem.Float() {
			return nil, fmt.Errorf("operands are %v: %w", a.Elem, ErrType)
		}
		o := op
		if op == "BitShift" {
			if o = c.str("direction", ""); o != "LEFT" && o != "RIGHT" {
				return nil, fmt.Errorf("direction %.20q: %w", o, ErrAttribute)
			}
		}
		return one(arithmetic(o, c, a, b, shape))
	}
}

// prelu: the slope stretches to the input, never the other way; before opset 7
// one slope a channel.
func prelu(c *Call) ([]*T, error) {
	a, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	b, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	if len(b.Shape) == 1 && len(a.Shape) > 2 && c.version() < 7 {
		shape := []int{b.Shape[0]}
		for range len(a.Shape) - 2 {
			shape = append(shape, 1)
		}
		b = reshaped(b, shape...)
	}
	shape, err := broadcast(a.Shape, b.Shape)
	if err != nil {
		return nil, err
	}
	return one(arithmetic("PRelu", c, a, b, shape))
}

// pow: the result has the type of the base.
func pow(c *Call) ([]*T, error) {
	a, b, shape, err := c.pair()
	if err != nil {
		return nil, err
	}
	x, err := asF64(a)
	if err != nil {
		return nil, err
	}
	y, err := asF64(b)
	if err != nil {
		return nil, err
	}
	tmp := make([]float64, product(shape))
	zip(tmp, x, y, a.Shape, b.Shape, shape, func(p, q float64) float64 {
		if q == 2 {
			return p * p
		}
		return math.Pow(p, q)
	})
	return one(Cast(&T{Elem: model.ElemF64, Shape: shape, Data: tmp}, a.Elem, true))
}

// variadic folds a binary op over all inputs; mean divides by their number.
func variadic(op string, mean bool) Func {
	return narrow(func(c *Call) ([]*T, error) {
		acc, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		for i := 1; i < len(c.In); i++ {
			b, err := c.tensor(i)
			if err != nil {
				return nil, err
			}
			shape, err := broadcast(acc.Shape, b.Shape)
			if err != nil {
				return nil, err
			}
			if acc, err = arithmetic(op, c, acc, b, shape); err != nil {
				return nil, err
			}
		}
		if mean && len(c.In) > 1 {
			d, err := Cast(model.F32Tensor([]float32{float32(len(c.In))}), acc.Elem, true)
			if err != nil {
				return nil, err
			}
			return one(arithmetic("Div", c, acc, d, acc.Shape))
		}
		return []*T{acc}, nil
	})
}

type ordered interface{ number | ~string }

func order[O ordered](op string) func(a, b O) bool {
	switch op {
	case "Equal":
		return func(a, b O) bool { return a == b }
	case "Less":
		return func(a, b O) bool { return a < b }
	case "Greater":
		return func(a, b O) bool { return a > b }
	case "LessOrEqual":
		return func(a, b O) bool { return a <= b }
	}
	return func(a, b O) bool { return a >= b }
}

// compare is a binary op on numbers whose result is boolean.
func compare(op string) Func {
	return narrow(func(c *Call) ([]*T, error) {
		a, b, shape, err := c.pair()
		if err != nil {
			return nil, err
		}
		if a.Elem != b.Elem {
			return nil, fmt.Errorf("operands are %v and %v: %w", a.Elem, b.Elem, ErrType)
		}
		out, err := make0(model.ElemBool, shape...)
		if err != nil {
			return nil, err
		}
		o := out.Data.([]bool)
		switch x := a.Data.(type) {
		case []float32:
			zip(o, x, b.Data.([]float32), a.Shape, b.Shape, shape, order[float32](op))
		case []float64:
			zip(o, x, b.Data.([]float64), a.Shape, b.Shape, shape, order[float64](op))
		case []int8:
			zip(o, x, b.Data.([]int8), a.Shape, b.Shape, shape, order[int8](op))
		case []int16:
			zip(o, x, b.Data.([]int16), a.Shape, b.Shape, shape, order[int16](op))
		case []int32:
			zip(o, x, b.Data.([]int32), a.Shape, b.Shape, shape, order[int32](op))
		case []int64:
			zip(o, x, b.Data.([]int64), a.Shape, b.Shape, shape, order[int64](op))
		case []uint8:
			zip(o, x, b.Data.([]uint8), a.Shape, b.Shape, shape, order[uint8](op))
		case []uint16:
			zip(o, x, b.Data.([]uint16), a.Shape, b.Shape, shape, order[uint16](op))
		case []uint32:
			zip(o, x, b.Data.([]uint32), a.Shape, b.Shape, shape, order[uint32](op))
		case []uint64:
			zip(o, x, b.Data.([]uint64), a.Shape, b.Shape, shape, order[uint64](op))
		case []string:
			zip(o, x, b.Data.([]string), a.Shape, b.Shape, shape, order[string](op))
		case []bool:
			zip(o, x, b.Data.([]bool), a.Shape, b.Shape, shape, func(p, q bool) bool { return p == q })
		default:
			return nil, fmt.Errorf("operands are %v: %w", a.Elem, ErrType)
		}
		return []*T{out}, nil
	})
}

func logical(f func(a, b bool) bool) Func {
	return func(c *Call) ([]*T, error) {
		a, b, shape, err := c.pair()
		if err != nil {
			return nil, err
		}
		x, okA := a.Data.([]bool)
		y, okB := b.Data.([]bool)
		if !okA || !okB {
			return nil, fmt.Errorf("operands are %v and %v: %w", a.Elem, b.Elem, ErrType)
		}
		out, err := make0(model.ElemBool, shape...)
		if err != nil {
			return nil, err
		}
		zip(out.Data.([]bool), x, y, a.Shape, b.Shape, shape, f)
		return []*T{out}, nil
	}
}

// clip: max(min) of opset 6 as attributes, later as inputs.
func clip(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	lo, hi := c.in(1), c.in(2)
	if c.version() < 11 {
		lo = model.F32Tensor([]float32{float32(c.float("min", -math.MaxFloat32))})
		hi = model.F32Tensor([]float32{float32(c.float("max", math.MaxFloat32))})
		if lo, err = Cast(lo, x.Elem, true); err != nil {
			return nil, err
		}
		if hi, err = Cast(hi, x.Elem, true); err != nil {
			return nil, err
		}
	}
	for i, b := range []*T{lo, hi} {
		if b == nil {
			continue
		}
		if b.Len() != 1 {
			return nil, fmt.Errorf("bound of shape %v: %w", b.Shape, ErrShape)
		}
		if x, err = arithmetic([]string{"Max", "Min"}[i], c, x, reshaped(b), x.Shape); err != nil {
			return nil, err
		}
	}
	return []*T{x}, nil
}

// where picks from one of two, element by element.
func where(c *Call) ([]*T, error) {
	cond, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	x, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	y, err := c.tensor(2)
	if err != nil {
		return nil, err
	}
	b, ok := cond.Data.([]bool)
	if !ok || x.Elem != y.Elem {
		return nil, fmt.Errorf("condition %v, values %v and %v: %w", cond.Elem, x.Elem, y.Elem, ErrType)
	}
	shape, err := broadcast(cond.Shape, x.Shape, y.Shape)
	if err != nil {
		return nil, err
	}
	out, err := make0(x.Elem, shape...)
	if err != nil {
		return nil, err
	}
	o, xs, ys := column(out), column(x), column(y)
	st := [][]int{stretch(cond.Shape, shape), stretch(x.Shape, shape), stretch(y.Shape, shape)}
	n := len(shape)
	inner := 1
	var sc, sx, sy int
	if n > 0 {
		inner = shape[n-1]
		sc, sx, sy = st[0][n-1], st[1][n-1], st[2][n-1]
	}
	walk(shape, st, func(p int, at []int) {
		for i := range inner {
			if b[at[0]+i*sc] {
				o.copy(p+i, xs, at[1]+i*sx, 1)
			} else {
				o.copy(p+i, ys, at[2]+i*sy, 1)
			}
		}
	})
	return []*T{out}, nil
}
