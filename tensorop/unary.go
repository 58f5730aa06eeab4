package tensorop

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// pointwise applies a function of float64 to every float; f is made for a call,
// so that attributes are read once.
func pointwise(f func(c *Call) func(float64) float64) Func {
	return narrow(func(c *Call) ([]*T, error) {
		x, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		g := f(c)
		switch d := x.Data.(type) {
		case []float32:
			out := make([]float32, len(d))
			for i, v := range d {
				out[i] = float32(g(float64(v)))
			}
			return []*T{model.F32Tensor(out, x.Shape...)}, nil
		case []float64:
			out := make([]float64, len(d))
			for i, v := range d {
				out[i] = g(v)
			}
			return []*T{{Elem: x.Elem, Shape: x.Shape, Data: out}}, nil
		}
		// Integers that the op takes by its definition (Sign, Shrink, Relu...).
		if x.Elem.Float() || x.Elem == model.ElemString || x.Elem == model.ElemBool {
			return nil, fmt.Errorf("operand is %v: %w", x.Elem, ErrType)
		}
		v, err := asF64(x)
		if err != nil {
			return nil, err
		}
		out := make([]float64, len(v))
		for i := range v {
			out[i] = g(v[i])
		}
		return one(Cast(&T{Elem: model.ElemF64, Shape: x.Shape, Data: out}, x.Elem, true))
	})
}

func plain(f func(float64) float64) Func {
	return pointwise(func(*Call) func(float64) float64 { return f })
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

func sign(x float64) float64 {
	switch {
	case x > 0:
		return 1
	case x < 0:
		return -1
	}
	return x
}

func softplus(x float64) float64 { return math.Log1p(math.Exp(-math.Abs(x))) + math.Max(x, 0) }

func relu(c *Call) ([]*T, error) {
	if x := c.in(0); x != nil {
		if d, ok := x.Data.([]float32); ok {
			y, err := c.result(model.ElemF32, x.Shape...)
			if err != nil {
				return nil, err
			}
			out := y.Data.([]float32)
			for i, v := range d {
				out[i] = max(v, 0)
			}
			return []*T{y}, nil
		}
	}
	return plain(func(x float64) float64 { return max(x, 0) })(c)
}

func gelu(c *Call) func(float64) float64 {
	if c.str("approximate", "none") == "tanh" {
		return func(x float64) float64 {
			return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
		}
	}
	return func(x float64) float64 { return 0.5 * x * (1 + math.Erf(x/math.Sqrt2)) }
}

func leaky(c *Call) func(float64) float64 {
	a := c.float("alpha", 0.01)
	return func(x float64) float64 {
		if x < 0 {
			return a * x
		}
		return x
	}
}

func elu(c *Call) func(float64) float64 {
	a := c.float("alpha", 1)
	return func(x float64) float64 {
		if x < 0 {
			return a * math.Expm1(x)
		}
		return x
	}
}

func celu(c *Call) func(float64) float64 {
	a := c.float("alpha", 1)
	return func(x float64) float64 { return math.Max(0, x) + math.Min(0, a*math.Expm1(x/a)) }
}

func selu(c *Call) func(float64) float64 {
	a, g := c.float("alpha", 1.67326319217681884765625), c.float("gamma", 1.05070102214813232421875)
	if c.version() < 6 {
		a, g = c.float("alpha", 1.6732), c.float("gamma", 1.0507)
	}
	return func(x float64) float64 {
		if x <= 0 {
			return g * a * math.Expm1(x)
		}
		return g * x
	}
}

func hardSigmoid(c *Call) func(float64) float64 {
	a, b := c.float("alpha", 0.2), c.float("beta", 0.5)
	return func(x float64) float64 { return math.Max(0, math.Min(1, a*x+b)) }
}

func hardSwish(*Call) func(float64) float64 {
	return func(x float64) float64 { return x * math.Max(0, math.Min(1, x/6+0.5)) }
}

func thresholded(c *Call) func(float64) float64 {
	a := c.float("alpha", 1)
	return func(x float64) float64 {
		if x > a {
			return x
		}
		return 0
	}
}

func swish(c *Call) func(float64) float64 {
	a := c.float("alpha", 1)
	return func(x float64) float64 { return x * sigmoid(a*x) }
}

func shrink(c *Call) func(float64) float64 {
	bias, lambda := c.float("bias", 0), c.float("lambd", 0.5)
	return func(x float64) float64 {
		switch {
		case x < -lambda:
			return x + bias
		case x > lambda:
			return x - bias
		}
		return 0
	}
}

func isInf(c *Call) ([]*T, error) {
	neg, pos := c.int("detect_negative", 1) != 0, c.int("detect_positive", 1) != 0
	return test(c, func(x float64) bool { return pos && math.IsInf(x, 1) || neg && math.IsInf(x, -1) })
}

func test(c *Call, f func(float64) bool) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	get, err := reader(x)
	if err != nil {
		return nil, err
	}
	out := make([]bool, x.Len())
	for i := range out {
		out[i] = f(get(i))
	}
	return []*T{{Elem: model.ElemBool, Shape: x.Shape, Data: out}}, nil
}

func not(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	if x.Elem != model.ElemBool {
		return nil, fmt.Errorf("operand is %v: %w", x.Elem, ErrType)
	}
	return test(c, func(v float64) bool { return v == 0 })
}

// negation keeps integers exact.
func negation(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	if x.Elem.Float() {
		return plain(func(x float64) float64 { return -x })(c)
	}
	zero, err := make0(x.Elem)
	if err != nil {
		return nil, err
	}
	return one(arithmetic("Sub", c, zero, x, x.Shape))
}

func absolute(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	if x.Elem.Float() {
		return plain(math.Abs)(c)
	}
	neg, err := negation(c)
	if err != nil {
		return nil, err
	}
	switch x.Elem {
	case model.ElemU8, model.ElemU16, model.ElemU32, model.ElemU64:
		return []*T{x}, nil
	}
	return one(arithmetic("Max", c, x, neg[0], x.Shape))
}

func bitNot(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	ones, err := Cast(model.I64Tensor([]int64{-1}), x.Elem, true)
	if err != nil || x.Elem.Float() {
		return nil, fmt.Errorf("operand is %v: %w", x.Elem, ErrType)
	}
	return one(arithmetic("BitwiseXor", c, x, reshaped(ones), x.Shape))
}

func identity(c *Call) ([]*T, error) {
	if len(c.In) == 0 {
		return nil, fmt.Errorf("input is missing: %w", ErrAttribute)
	}
	return []*T{c.In[0]}, nil
}

// dropout at inference passes its input on; a mask keeps everything.
func dropout(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	if t := c.in(2); t != nil {
		if b, ok := t.Data.([]bool); ok && len(b) == 1 && b[0] {
			return nil, fmt.Errorf("training mode: %w", ErrUnsupported)
		}
	}
	out := []*T{x}
	if c.Outs > 1 {
		e := model.ElemBool
		if c.version() < 10 {
			e = x.Elem
		}
		mask, err := make0(e, x.Shape...)
		if err != nil {
			return nil, err
		}
		if b, ok := mask.Data.([]bool); ok {
			for i := range b {
				b[i] = true
			}
		}
		out = append(out, mask)
	}
	return out, nil
}

// softmax over one axis; before opset 13 over all from the axis on. log gives the
// logarithm, hard one at the largest.
func softmax(kind string) Func {
	return narrow(func(c *Call) ([]*T, error) {
		x, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		missing := -1
		if c.version() < 13 {
			missing = 1
		}
		ax := c.int("axis", missing)
		if len(x.Shape) == 0 || c.version() < 13 && ax == len(x.Shape) {
			ax = 0
			x = reshaped(x, append(append([]int(nil), x.Shape...), 1)...)
		}
		if ax, err = axis(ax, len(x.Shape)); err != nil {
			return nil, err
		}
		outer, n, inner := product(x.Shape[:ax]), x.Shape[ax], product(x.Shape[ax+1:])
		if c.version() < 13 {
			n, inner = n*inner, 1
		}
		in, err := asF64OrSelf(x)
		if err != nil {
			return nil, err
		}
		out, err := make0(x.Elem, c.In[0].Shape...)
		if err != nil {
			return nil, err
		}
		if f, ok := x.Data.([]float32); ok && inner == 1 && kind == "Softmax" {
			o := out.Data.([]float32)
			for i := range outer {
				linalg.Softmax(o[i*n:(i+1)*n], f[i*n:(i+1)*n], 1)
			}
			return []*T{out}, nil
		}
		row := make([]float64, n)
		put := writer(out)
		for i := range outer {
			for j := range inner {
				for k := range n {
					row[k] = in((i*n+k)*inner + j)
				}
				softmaxRow(row, kind)
				for k := range n {
					put((i*n+k)*inner+j, row[k])
				}
			}
		}
		return []*T{out}, nil
	})
}

func softmaxRow(row []float64, kind string) {
	top, at := math.Inf(-1), 0
	for i, v := range row {
		if v > top || v != v {
			top, at = v, i
		}
	}
	if kind == "Hardmax" {
		clear(row)
		if len(row) > 0 {
			row[at] = 1
		}
		return
	}
	sum := 0.0
	for i, v := range row {
		row[i] = v - top
		sum += math.Exp(v - top)
	}
	for i, v := range row {
		if kind == "LogSoftmax" {
			row[i] = v - math.Log(sum)
		} else {
			row[i] = math.Exp(v) / sum
		}
	}
}

func asF64OrSelf(t *T) (func(int) float64, error) {
	if !t.Elem.Float() {
		return nil, fmt.Errorf("operand is %v: %w", t.Elem, ErrType)
	}
	return reader(t)
}

// writer stores floats into a float32 or float64 tensor.
func writer(t *T) func(i int, v float64) {
	switch d := t.Data.(type) {
	case []float32:
		return func(i int, v float64) { d[i] = float32(v) }
	case []float64:
		return func(i int, v float64) { d[i] = v }
	}
	return func(int, float64) {}
}
