package tensorop

import (
	"fmt"
	"math"
	"slices"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// Window is the geometry of a convolution or pool over any number of spatial
// dimensions, sizes all known.
type Window struct {
	In, Out  []int
	Kernel   []int
	Stride   []int
	Dilation []int
	Before   []int // padding in front
	After    []int
}

// window reads the attributes that convolutions and pools share.
func (c *Call) window(in, kernel []int) (*Window, error) {
	n := len(in)
	w := &Window{In: in, Kernel: kernel, Stride: c.ints("strides"), Dilation: c.ints("dilations")}
	if k := c.ints("kernel_shape"); k != nil && kernel == nil {
		w.Kernel = k
	}
	for _, p := range []*[]int{&w.Stride, &w.Dilation} {
		if *p == nil {
			*p = slices.Repeat([]int{1}, n)
		}
	}
	pads := c.ints("pads")
	if pads == nil {
		pads = make([]int, 2*n)
	}
	if len(w.Kernel) != n || len(w.Stride) != n || len(w.Dilation) != n || len(pads) != 2*n {
		return nil, fmt.Errorf("kernel %v, strides %v, dilations %v, pads %v of %d dimensions: %w", w.Kernel, w.Stride, w.Dilation, pads, n, ErrShape)
	}
	w.Before, w.After = slices.Clone(pads[:n]), slices.Clone(pads[n:])
	for i := range n {
		if w.Kernel[i] < 1 || w.Stride[i] < 1 || w.Dilation[i] < 1 || w.Kernel[i] > 1<<24 || w.Dilation[i] > 1<<24 || w.Stride[i] > 1<<31 ||
			max(w.Before[i], w.After[i]) > 1<<31 || min(w.Before[i], w.After[i]) < -1<<31 {
			return nil, fmt.Errorf("kernel %v, strides %v, dilations %v: %w", w.Kernel, w.Stride, w.Dilation, ErrShape)
		}
	}
	return w, nil
}

// span is the extent of the dilated kernel.
func (w *Window) span(i int) int { return (w.Kernel[i]-1)*w.Dilation[i] + 1 }

// size computes Out, and the padding where auto_pad asks for it.
func (w *Window) size(auto string, ceilMode bool) error {
	w.Out = make([]int, len(w.In))
	for i, d := range w.In {
		switch auto {
		case "", "NOTSET":
		case "VALID":
			w.Before[i], w.After[i] = 0, 0
		case "SAME_UPPER", "SAME_LOWER":
			out := (d + w.Stride[i] - 1) / w.Stride[i]
			total := max(0, (out-1)*w.Stride[i]+w.span(i)-d)
			w.Before[i], w.After[i] = total/2, total-total/2
			if auto == "SAME_LOWER" {
				w.Before[i], w.After[i] = w.After[i], w.Before[i]
			}
		default:
			return fmt.Errorf("auto_pad %.20q: %w", auto, ErrAttribute)
		}
		free := d + w.Before[i] + w.After[i] - w.span(i)
		if free < 0 {
			return fmt.Errorf("window of %d over %d with pads %d and %d: %w", w.span(i), d, w.Before[i], w.After[i], ErrShape)
		}
		w.Out[i] = free/w.Stride[i] + 1
		if ceilMode && auto != "VALID" {
			w.Out[i] = (free+w.Stride[i]-1)/w.Stride[i] + 1
			// The last window must start inside the input or the padding before it.
			if (w.Out[i]-1)*w.Stride[i] >= d+w.Before[i] {
				w.Out[i]--
			}
		}
	}
	return nil
}

// ConvWindow is the geometry of a Conv node for an input and a kernel of the given
// shapes ([N, C, ...] and [M, C/groups, ...]).
func ConvWindow(n *model.Node, x, w []int) (win *Window, groups int, err error) {
	c := &Call{Node: n, op: n.Attr.(*model.TensorOp)}
	groups = c.int("group", 1)
	if len(x) < 3 || len(x) != len(w) || groups < 1 || w[0]%groups != 0 || x[1] != w[1]*groups {
		return nil, 0, fmt.Errorf("convolution of %v by %v in %d groups: %w", x, w, groups, ErrShape)
	}
	if win, err = c.window(x[2:], w[2:]); err != nil {
		return nil, 0, err
	}
	if k := c.ints("kernel_shape"); k != nil && !slices.Equal(k, w[2:]) {
		return nil, 0, fmt.Errorf("kernel_shape %v of weights %v: %w", k, w, ErrShape)
	}
	return win, groups, win.size(c.str("auto_pad", ""), false)
}

// PoolWindow is the geometry of a MaxPool, AveragePool or LpPool node for an input of a
// given shape ([N, C, ...]).
func PoolWindow(n *model.Node, x []int) (*Window, error) {
	c := &Call{Node: n, op: n.Attr.(*model.TensorOp)}
	if len(x) < 3 {
		return nil, fmt.Errorf("pool of %v: %w", x, ErrShape)
	}
	w, err := c.window(x[2:], nil)
	if err != nil {
		return nil, err
	}
	return w, w.size(c.str("auto_pad", ""), c.int("ceil_mode", 0) != 0)
}

// Columns unrolls the windows of one image's channels (im2col): dst[(c*K + k)*P + p]
// is what kernel element k of channel c sees at output position p, zero in the
// padding. src is [channels, In...].
func (w *Window) Columns(dst, src []float32, channels int) {
	k, p, n := product(w.Kernel), product(w.Out), product(w.In)
	w.Each(func(ki, pi, at int) {
		for ch := range channels {
			v := float32(0)
			if at >= 0 {
				v = src[ch*n+at]
			}
			dst[(ch*k+ki)*p+pi] = v
		}
	})
}

// Each calls f for every kernel element and output position with the input
// position it reads, -1 in the padding.
func (w *Window) Each(f func(ki, pi, at int)) {
	n := len(w.In)
	st := steps(w.In)
	out, ker := make([]int, n), make([]int, n)
	kn, pn := product(w.Kernel), product(w.Out)
	for ki := range kn {
		unflat(ker, ki, w.Kernel)
		for pi := range pn {
			unflat(out, pi, w.Out)
			at := 0
			for d := range n {
				i := out[d]*w.Stride[d] - w.Before[d] + ker[d]*w.Dilation[d]
				if i < 0 || i >= w.In[d] {
					at = -1
					break
				}
				at += i * st[d]
			}
			f(ki, pi, at)
		}
	}
}

func unflat(idx []int, i int, shape []int) {
	for d := len(shape) - 1; d >= 0; d-- {
		idx[d] = i % shape[d]
		i /= shape[d]
	}
}

// conv is the reference: windows unrolled, one matrix product a group and image.
func conv(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	wt, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	w, groups, err := ConvWindow(c.Node, x.Shape, wt.Shape)
	if err != nil {
		return nil, err
	}
	if x.Elem == model.ElemF64 {
		return wide(c, conv)
	}
	xs, ok := x.Data.([]float32)
	ws, okW := wt.Data.([]float32)
	if !ok || !okW {
		return nil, fmt.Errorf("convolution of %v by %v: %w", x.Elem, wt.Elem, ErrType)
	}
	m, cg, k, p := wt.Shape[0]/groups, wt.Shape[1], product(w.Kernel), product(w.Out)
	out, o, err := newF32(append([]int{x.Shape[0], wt.Shape[0]}, w.Out...)...)
	if err != nil {
		return nil, err
	}
	if _, err := model.Elements(model.ElemF32, []int{cg * k, p}); err != nil {
		return nil, err
	}
	if out.Len() > 0 && cg*k > 0 {
		cols := make([]float32, cg*k*p)
		in := product(w.In)
		for i := range x.Shape[0] {
			for g := range groups {
				w.Columns(cols, xs[(i*groups+g)*cg*in:], cg)
				linalg.Gemm(c.Pool, false, false, m, p, cg*k, 1, ws[g*m*cg*k:], cg*k, cols, p, 0, o[(i*groups+g)*m*p:], p)
			}
		}
	}
	return []*T{out}, addChannels(o, c.in(2), wt.Shape[0], p)
}

func addChannels(o []float32, bias *T, m, p int) error {
	if bias == nil {
		return nil
	}
	b, ok := bias.Data.([]float32)
	if !ok || len(b) != m {
		return fmt.Errorf("bias %v %v of %d channels: %w", bias.Elem, bias.Shape, m, ErrShape)
	}
	for i := 0; i < len(o); i += p {
		v := b[i/p%m]
		for j := i; j < i+p; j++ {
			o[j] += v
		}
	}
	return nil
}

// wide computes a float64 op in float32.
func wide(c *Call, f Func) ([]*T, error) {
	d := *c
	d.In = slices.Clone(c.In)
	for i, t := range d.In {
		if t != nil && t.Elem == model.ElemF64 {
			var err error
			if d.In[i], err = Cast(t, model.ElemF32, true); err != nil {
				return nil, err
			}
		}
	}
	out, err := f(&d)
	for i, t := range out {
		if err == nil && t != nil && t.Elem == model.ElemF32 {
			out[i], err = Cast(t, model.ElemF64, true)
		}
	}
	return out, err
}

// convTranspose scatters: every input number adds its kernel to the output.
func convTranspose(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	wt, err := c.tensor(1)
	if err != nil {
		return nil, err
	}
	xs, ok := x.Data.([]float32)
	ws, okW := wt.Data.([]float32)
	if !ok || !okW {
		return nil, fmt.Errorf("convolution of %v by %v: %w", x.Elem, wt.Elem, ErrType)
	}
	groups := c.int("group", 1)
	if len(x.Shape) < 3 || len(x.Shape) != len(wt.Shape) || groups < 1 || x.Shape[1]%groups != 0 || x.Shape[1] != wt.Shape[0] {
		return nil, fmt.Errorf("convolution of %v by %v in %d groups: %w", x.Shape, wt.Shape, groups, ErrShape)
	}
	// The window is that of the convolution which this one turns around.
	w, err := c.window(x.Shape[2:], wt.Shape[2:])
	if err != nil {
		return nil, err
	}
	n := len(w.In)
	extra := c.ints("output_padding")
	if extra == nil {
		extra = make([]int, n)
	}
	want := c.ints("output_shape")
	auto := c.str("auto_pad", "NOTSET")
	if len(extra) != n || want != nil && len(want) != n {
		return nil, fmt.Errorf("output_padding %v, output_shape %v: %w", extra, want, ErrShape)
	}
	size := make([]int, n)
	for i, d := range w.In {
		full := (d-1)*w.Stride[i] + extra[i] + w.span(i)
		switch {
		case want != nil || auto == "SAME_UPPER" || auto == "SAME_LOWER":
			size[i] = d * w.Stride[i]
			if want != nil {
				size[i] = want[i]
			}
			total := max(0, full-size[i])
			w.Before[i] = total - total/2
			if auto == "SAME_UPPER" {
				w.Before[i] = total / 2
			}
		default:
			size[i] = full - w.Before[i] - w.After[i]
		}
		if size[i] < 0 {
			return nil, fmt.Errorf("output %v: %w", size, ErrShape)
		}
	}
	in, m := x.Shape[1]/groups, wt.Shape[1]
	rev := &Window{In: size, Out: w.In, Kernel: w.Kernel, Stride: w.Stride, Dilation: w.Dilation, Before: w.Before}
	out, o, err := newF32(append([]int{x.Shape[0], m * groups}, size...)...)
	if err != nil {
		return nil, err
	}
	k, p, q := product(w.Kernel), product(w.In), product(size)
	if out.Len() > 0 {
		rev.Each(func(ki, pi, at int) {
			if at < 0 {
				return
			}
			for i := range x.Shape[0] {
				for g := range groups {
					for ch := range in {
						v := xs[((i*groups+g)*in+ch)*p+pi]
						kern := ws[((g*in+ch)*m)*k+ki:]
						for oc := range m {
							o[((i*groups+g)*m+oc)*q+at] += v * kern[oc*k]
						}
					}
				}
			}
		})
	}
	return []*T{out}, addChannels(o, c.in(2), m*groups, q)
}

// pool over windows: max (with indices), average, Lp.
func pool(kind string) Func {
	return narrow(func(c *Call) ([]*T, error) {
		x, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		w, err := PoolWindow(c.Node, x.Shape)
		if err != nil {
			return nil, err
		}
		if y, err := pool2D(c, kind, x, w); y != nil || err != nil {
			return one(y, err)
		}
		get, err := reader(x)
		if err != nil {
			return nil, err
		}
		shape := append([]int{x.Shape[0], x.Shape[1]}, w.Out...)
		out, err := make0(model.ElemF64, shape...)
		if err != nil {
			return nil, err
		}
		o := out.Data.([]float64)
		in, p := product(w.In), product(w.Out)
		var idx []int64
		if kind == "MaxPool" {
			for i := range o {
				o[i] = math.Inf(-1)
			}
			if c.Outs > 1 {
				idx = make([]int64, len(o))
			}
		}
		lp := c.float("p", 2)
		if c.op.Attrs["p"].Kind == model.AttrInt {
			lp = float64(c.int("p", 2))
		}
		count := make([]float64, p)
		planes := x.Shape[0] * x.Shape[1]
		w.Each(func(_, pi, at int) {
			if at < 0 {
				return
			}
			count[pi]++
			for ch := range planes {
				v, d := get(ch*in+at), &o[ch*p+pi]
				switch kind {
				case "MaxPool":
					if v > *d || v != v {
						*d = v
						if idx != nil {
							idx[ch*p+pi] = int64(ch*in + at)
						}
					}
				case "LpPool":
					*d += math.Pow(math.Abs(v), lp)
				default:
					*d += v
				}
			}
		})
		switch kind {
		case "AveragePool":
			if c.int("count_include_pad", 0) != 0 {
				w.padded(count)
			}
			for i := range o {
				o[i] /= count[i%p]
			}
		case "LpPool":
			for i := range o {
				o[i] = math.Pow(o[i], 1/lp)
			}
		}
		y, err := Cast(out, x.Elem, true)
		if err != nil {
			return nil, err
		}
		res := []*T{y}
		if idx != nil {
			if c.int("storage_order", 0) != 0 {
				columnMajor(idx, w.In)
			}
			res = append(res, model.I64Tensor(idx, shape...))
		}
		return res, nil
	})
}

// padded counts the positions of each window inside the input and its padding, but
// not those that ceil mode put behind it.
func (w *Window) padded(count []float64) {
	n := len(w.In)
	out := make([]int, n)
	for pi := range count {
		unflat(out, pi, w.Out)
		c := 1
		for d := range n {
			first := out[d]*w.Stride[d] - w.Before[d]
			k := 0
			for j := range w.Kernel[d] {
				if first+j*w.Dilation[d] < w.In[d]+w.After[d] {
					k++
				}
			}
			c *= k
		}
		count[pi] = float64(c)
	}
}

func columnMajor(idx []int64, shape []int) {
	n := product(shape)
	at := make([]int, len(shape))
	for i, v := range idx {
		plane, in := int(v)/n, int(v)%n
		unflat(at, in, shape)
		p := 0
		for d := len(shape) - 1; d >= 0; d-- {
			p = p*shape[d] + at[d]
		}
		idx[i] = int64(plane*n + p)
	}
}

// globalPool reduces all spatial dimensions.
func globalPool(kind string) Func {
	return narrow(func(c *Call) ([]*T, error) {
		x, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		if len(x.Shape) < 3 {
			return nil, fmt.Errorf("pool of %v: %w", x.Shape, ErrShape)
		}
		if kind == "ReduceMean" {
			if y, err := meanPlanes(x); y != nil || err != nil {
				return one(y, err)
			}
		}
		get, err := reader(x)
		if err != nil {
			return nil, err
		}
		set := make([]bool, len(x.Shape))
		for i := 2; i < len(set); i++ {
			set[i] = true
		}
		out, err := make0(model.ElemF64, keptShape(x.Shape, set, true)...)
		if err != nil {
			return nil, err
		}
		base, inside := groups(x.Shape, set)
		fold(kind, out.Data.([]float64), base, inside, get)
		return one(Cast(out, x.Elem, true))
	})
}

// ColumnRows is Columns for the positions whose first output coordinate is r0 to
// r1-1: dst [channels*K, positions of those].
func (w *Window) ColumnRows(dst, src []float32, channels, r0, r1 int) {
	k, n := product(w.Kernel), product(w.In)
	per := product(w.Out[1:])
	ld := (r1 - r0) * per
	if len(w.In) != 2 {
		sub := *w
		sub.Out = append([]int{r1 - r0}, w.Out[1:]...)
		sub.Before = append([]int{w.Before[0] - r0*w.Stride[0]}, w.Before[1:]...)
		sub.Columns(dst, src, channels)
		return
	}
	width, sw := w.In[1], w.Stride[1]
	for ch := range channels {
		plane := src[ch*n : (ch+1)*n]
		for kh := range w.Kernel[0] {
			for kw := range w.Kernel[1] {
				row := dst[(ch*k+kh*w.Kernel[1]+kw)*ld:][:ld]
				// Outputs lo..hi-1 of a row see columns of the input, the others padding.
				shift := kw*w.Dilation[1] - w.Before[1]
				lo := min(w.Out[1], max(0, (-shift+sw-1)/sw))
				hi := min(w.Out[1], max(lo, (width-shift+sw-1)/sw))
				for oh := r0; oh < r1; oh++ {
					o := row[(oh-r0)*per:][:per]
					h := oh*w.Stride[0] - w.Before[0] + kh*w.Dilation[0]
					if h < 0 || h >= w.In[0] {
						clear(o)
						continue
					}
					clear(o[:lo])
					clear(o[hi:])
					if lo == hi {
						continue
					}
					from := plane[h*width:][:width]
					if sw == 1 {
						copy(o[lo:hi], from[lo+shift:])
						continue
					}
					for i, at := lo, lo*sw+shift; i < hi; i, at = i+1, at+sw {
						o[i] = from[at]
					}
				}
			}
		}
	}
}
