package tensorop

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/model"
)

// spread says which scale each element of x has: one for all, one per index of an
// axis, or one per block of an axis.
func (c *Call) spread(x, scale *T) (func(i int) int, error) {
	if scale.Len() == 1 && len(scale.Shape) <= 1 {
		return func(int) int { return 0 }, nil
	}
	missing := 1
	ax, err := axis(c.int("axis", missing), len(x.Shape))
	if err != nil {
		return nil, err
	}
	n, inner := x.Shape[ax], product(x.Shape[ax+1:])
	if block := c.int("block_size", 0); block > 0 {
		if len(scale.Shape) != len(x.Shape) {
			return nil, fmt.Errorf("scale %v of %v in blocks of %d: %w", scale.Shape, x.Shape, block, ErrShape)
		}
		nb := scale.Shape[ax]
		for d, v := range scale.Shape {
			if d != ax && v != x.Shape[d] || d == ax && v != (n+block-1)/block {
				return nil, fmt.Errorf("scale %v of %v in blocks of %d: %w", scale.Shape, x.Shape, block, ErrShape)
			}
		}
		return func(i int) int { return (i/(n*inner)*nb+i/inner%n/block)*inner + i%inner }, nil
	}
	if scale.Len() != n {
		return nil, fmt.Errorf("scale %v of %v along %d: %w", scale.Shape, x.Shape, ax, ErrShape)
	}
	return func(i int) int { return i / inner % n }, nil
}

// zeroPoint reads an optional zero point of as many numbers as the scale.
func (c *Call) zeroPoint(i, n int) ([]float64, error) {
	t := c.in(i)
	if t == nil {
		return make([]float64, n), nil
	}
	z, err := asF64(t)
	if err == nil && len(z) == 1 && n > 1 {
		v := z[0]
		z = make([]float64, n)
		for k := range z {
			z[k] = v
		}
	}
	if err == nil && len(z) != n {
		err = fmt.Errorf("zero point of %d numbers for %d scales: %w", len(z), n, ErrShape)
	}
	return z, err
}

func (c *Call) quantised(missing model.Elem) (model.Elem, error) {
	e := model.Elem(c.int("output_dtype", 0))
	if z := c.in(2); z != nil {
		e = z.Elem
	}
	if e == 0 {
		e = missing
	}
	if !e.Supported() {
		return 0, fmt.Errorf("type %v: %w", e, ErrType)
	}
	return e, nil
}

// limits is the range of an integer type.
func limits(e model.Elem) (lo, hi float64) {
	switch e {
	case model.ElemI8, model.ElemI16, model.ElemI4, model.ElemI2, model.ElemI32:
		return -math.Ldexp(1, e.Bits()-1), math.Ldexp(1, e.Bits()-1) - 1
	}
	return 0, math.Ldexp(1, e.Bits()) - 1
}

// quantize: round(x / scale) + zero, saturated. The division is done in the type of
// the scale (float32 or narrower), as the specification says.
func quantize(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	sc, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	e, err := c.quantised(model.ElemU8)
	if err != nil {
		return nil, err
	}
	which, err := c.spread(x, sc)
	if err != nil {
		return nil, err
	}
	s, err := asFloats(sc)
	if err != nil {
		return nil, err
	}
	z, err := c.zeroPoint(2, len(s))
	if err != nil {
		return nil, err
	}
	get, err := reader(x)
	if err != nil {
		return nil, err
	}
	tmp, err := make0(model.ElemF64, x.Shape...)
	if err != nil {
		return nil, err
	}
	o := tmp.Data.([]float64)
	lo, hi := limits(e)
	for i := range o {
		k := which(i)
		v := float64(float32(get(i)) / s[k])
		if x.Elem == model.ElemF16 && sc.Elem == model.ElemF16 {
			v = rounded(v, model.ElemF16)
		}
		if !e.Float() {
			v = max(lo, min(hi, math.RoundToEven(v)+z[k]))
			if v != v {
				v = 0
			}
		} else {
			v += z[k]
		}
		o[i] = v
	}
	return one(Cast(tmp, e, c.int("saturate", 1) != 0))
}

func rounded(v float64, e model.Elem) float64 {
	t, err := Cast(&T{Elem: model.ElemF64, Data: []float64{v}}, e, true)
	if err != nil {
		return v
	}
	get, err := reader(t)
	if err != nil {
		return v
	}
	return get(0)
}

// dequantize: (x - zero) * scale.
func dequantize(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	sc, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	which, err := c.spread(x, sc)
	if err != nil {
		return nil, err
	}
	s, err := asFloats(sc)
	if err != nil {
		return nil, err
	}
	z, err := c.zeroPoint(2, len(s))
	if err != nil {
		return nil, err
	}
	get, err := reader(x)
	if err != nil {
		return nil, err
	}
	out, o, err := newF32(x.Shape...)
	if err != nil {
		return nil, err
	}
	for i := range o {
		k := which(i)
		o[i] = float32(get(i)-z[k]) * s[k]
	}
	to := sc.Elem
	if e := model.Elem(c.int("output_dtype", 0)); e != 0 {
		to = e
	}
	if !to.Supported() {
		return nil, fmt.Errorf("type %v: %w", to, ErrType)
	}
	return one(Cast(out, to, true))
}

// dynamicQuantize chooses scale and zero point from the range of x, zero included.
func dynamicQuantize(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	f, err := asFloats(x)
	if err != nil {
		return nil, err
	}
	var lo, hi float32
	for _, v := range f {
		lo, hi = min(lo, v), max(hi, v)
	}
	scale := (hi - lo) / 255
	zero := float32(0)
	if scale != 0 {
		zero = float32(math.RoundToEven(float64(max(0, min(255, -lo/scale)))))
	}
	out, err := make0(model.ElemU8, x.Shape...)
	if err != nil {
		return nil, err
	}
	q := out.Data.([]uint8)
	for i, v := range f {
		y := float32(0)
		if scale != 0 {
			y = float32(math.RoundToEven(float64(v / scale)))
		}
		q[i] = uint8(max(0, min(255, y+zero)))
	}
	return []*T{out, model.F32Tensor([]float32{scale}), {Elem: model.ElemU8, Data: []uint8{uint8(zero)}}}, nil
}

// shifted is an int8 or uint8 tensor less its zero point (one number, or one per
// index of an axis), as int32.
func shifted(t, zero *T, ax int) (*T, error) {
	x, err := Cast(t, model.ElemI32, true)
	if err != nil || zero == nil {
		return x, err
	}
	z, err := Cast(zero, model.ElemI32, true)
	if err != nil {
		return nil, err
	}
	zs := z.Data.([]int32)
	inner, n := 1, 1
	if len(zs) != 1 {
		if ax, err = axis(ax, len(x.Shape)); err != nil {
			return nil, err
		}
		inner, n = product(x.Shape[ax+1:]), x.Shape[ax]
		if len(zs) != n {
			return nil, fmt.Errorf("zero point %v of %v: %w", zero.Shape, t.Shape, ErrShape)
		}
	}
	src := x.Data.([]int32)
	d := make([]int32, len(src))
	for i, v := range src {
		d[i] = v - zs[i/inner%n]
	}
	return &T{Elem: model.ElemI32, Shape: x.Shape, Data: d}, nil
}

func matmulInteger(c *Call) ([]*T, error) {
	a, b, err := c.shiftedPair(0, 1, 2, 3)
	if err != nil {
		return nil, err
	}
	return one(MatMul(c.Pool, a, b))
}

// shiftedPair are two operands less their zero points: rows of the left one,
// columns of the right one may have their own.
func (c *Call) shiftedPair(ia, ib, iza, izb int) (a, b *T, err error) {
	if a, err = c.tensor(ia); err != nil {
		return
	}
	if b, err = c.tensor(ib); err != nil {
		return
	}
	if a, err = shifted(a, c.in(iza), -2); err != nil {
		return
	}
	b, err = shifted(b, c.in(izb), -1)
	return
}

// requantize scales int32 sums and rounds them into the output's type.
func (c *Call) requantize(y *T, scale func(i int) float64, yScale, yZero int) ([]*T, error) {
	sc, err := c.scalar(yScale, 1)
	if err != nil {
		return nil, err
	}
	z, err := c.scalar(yZero, 0)
	if err != nil {
		return nil, err
	}
	e := model.ElemU8
	if t := c.in(yZero); t != nil {
		e = t.Elem
	}
	lo, hi := limits(e)
	src := y.Data.([]int32)
	tmp := make([]float64, len(src))
	for i, v := range src {
		tmp[i] = max(lo, min(hi, math.RoundToEven(float64(v)*scale(i)/sc)+z))
	}
	return one(Cast(&T{Elem: model.ElemF64, Shape: y.Shape, Data: tmp}, e, true))
}

func qlinearMatmul(c *Call) ([]*T, error) {
	a, b, err := c.shiftedPair(0, 3, 2, 5)
	if err != nil {
		return nil, err
	}
	y, err := MatMul(c.Pool, a, b)
	if err != nil {
		return nil, err
	}
	var s [2][]float64
	for k, i := range []int{1, 4} {
		t, err := c.tensor(i)
		if err != nil {
			return nil, err
		}
		if s[k], err = asF64(t); err != nil {
			return nil, err
		}
	}
	n := y.Shape[len(y.Shape)-1]
	m := 1
	if len(y.Shape) > 1 {
		m = y.Shape[len(y.Shape)-2]
	}
	if l := len(s[0]); l != 1 && l != m {
		return nil, fmt.Errorf("%d scales of %d rows: %w", l, m, ErrShape)
	}
	if l := len(s[1]); l != 1 && l != n {
		return nil, fmt.Errorf("%d scales of %d columns: %w", l, n, ErrShape)
	}
	return c.requantize(y, func(i int) float64 {
		return s[0][i/n%m%len(s[0])] * s[1][i%n%len(s[1])]
	}, 6, 7)
}

// convInts is a convolution of int32.
func convInts(c *Call, x, w *T) (*T, error) {
	win, groups, err := ConvWindow(c.Node, x.Shape, w.Shape)
	if err != nil {
		return nil, err
	}
	m, cg, k, p := w.Shape[0]/groups, w.Shape[1], product(win.Kernel), product(win.Out)
	out, err := make0(model.ElemI32, append([]int{x.Shape[0], w.Shape[0]}, win.Out...)...)
	if err != nil {
		return nil, err
	}
	xs, ws, o := x.Data.([]int32), w.Data.([]int32), out.Data.([]int32)
	in := product(win.In)
	win.Each(func(ki, pi, at int) {
		if at < 0 {
			return
		}
		for i := range x.Shape[0] {
			for oc := range w.Shape[0] {
				g := oc / m
				sum := int32(0)
				for ch := range cg {
					sum += xs[((i*groups+g)*cg+ch)*in+at] * ws[(oc*cg+ch)*k+ki]
				}
				o[(i*w.Shape[0]+oc)*p+pi] += sum
			}
		}
	})
	return out, nil
}

func convInteger(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	w, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	if x, err = shifted(x, c.in(2), 0); err != nil {
		return nil, err
	}
	if w, err = shifted(w, c.in(3), 0); err != nil {
		return nil, err
	}
	return one(convInts(c, x, w))
}

func qlinearConv(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	w, err := c.tensor(3)
	if err != nil {
		return nil, err
	}
	if x, err = shifted(x, c.in(2), 0); err != nil {
		return nil, err
	}
	if w, err = shifted(w, c.in(5), 0); err != nil {
		return nil, err
	}
	y, err := convInts(c, x, w)
	if err != nil {
		return nil, err
	}
	m, p := y.Shape[1], product(y.Shape[2:])
	if b := c.in(8); b != nil {
		bs, ok := b.Data.([]int32)
		if !ok || len(bs) != m {
			return nil, fmt.Errorf("bias %v %v: %w", b.Elem, b.Shape, ErrShape)
		}
		d := y.Data.([]int32)
		for i := range d {
			d[i] += bs[i/p%m]
		}
	}
	sx, err := c.scalar(1, 1)
	if err != nil {
		return nil, err
	}
	wt, err := c.tensor(4)
	if err != nil {
		return nil, err
	}
	sw, err := asF64(wt)
	if err != nil {
		return nil, err
	}
	if len(sw) != 1 && len(sw) != m {
		return nil, fmt.Errorf("%d scales of %d channels: %w", len(sw), m, ErrShape)
	}
	return c.requantize(y, func(i int) float64 { return sx * sw[i/p%m%len(sw)] }, 6, 7)
}
