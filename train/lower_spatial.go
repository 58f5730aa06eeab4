package train

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// sides are the numbers of one dimension of a sliding window.
type sides struct{ kernel, stride, dilation, before, after, in, out int }

// window reads kernel, strides, pads, dilations and auto_pad and infers the output.
func (l *lowerer) window(n *model.Node, op *model.TensorOp, in model.Image, kh, kw int) (h, w sides, err error) {
	pick := func(name string, i, absent int) int {
		if a := op.Attrs[name].Ints; i < len(a) {
			return int(a[i])
		}
		return absent
	}
	ceil := op.Attrs["ceil_mode"].I != 0
	for i, s := range []*sides{&h, &w} {
		*s = sides{kernel: []int{kh, kw}[i], stride: pick("strides", i, 1), dilation: pick("dilations", i, 1), before: pick("pads", i, 0), after: pick("pads", i+2, 0), in: []int{in.H, in.W}[i]}
		if min(s.kernel, s.stride, s.dilation) < 1 || min(s.before, s.after) < 0 || max(s.kernel, s.stride, s.dilation, s.before, s.after) > maxSide {
			return h, w, l.refuse(n, fmt.Sprintf("window %+v", *s))
		}
		span := (s.kernel-1)*s.dilation + 1
		switch auto := op.Attrs["auto_pad"].S; auto {
		case "", "NOTSET":
		case "VALID":
			s.before, s.after = 0, 0
		case "SAME_UPPER", "SAME_LOWER":
			total := max(0, ((s.in+s.stride-1)/s.stride-1)*s.stride+span-s.in)
			s.before, s.after = total/2, total-total/2
			if auto == "SAME_LOWER" {
				s.before, s.after = s.after, s.before
			}
		default:
			return h, w, l.refuse(n, fmt.Sprintf("auto_pad %.20q", auto))
		}
		room := s.in + s.before + s.after - span
		if room < 0 {
			return h, w, l.refuse(n, fmt.Sprintf("window %+v is larger than its input", *s))
		}
		s.out = room/s.stride + 1
		if ceil && room%s.stride != 0 && s.out*s.stride < s.in+s.before {
			s.out++ // a last window that starts inside
		}
	}
	return h, w, nil
}

func (l *lowerer) conv(n *model.Node, op *model.TensorOp, x shaped) error {
	if n.Weight == nil || len(n.Weight.Shape) != 4 || !x.image() {
		return l.refuse(n, "want an image and a constant weight of rank 4")
	}
	s := n.Weight.Shape
	h, w, err := l.window(n, op, x.img, s[2], s[3])
	if err != nil {
		return err
	}
	groups := 1
	if a, ok := op.Attrs["group"]; ok {
		groups = int(a.I)
	}
	if groups < 1 || groups > x.img.C || s[1]*groups != x.img.C {
		return l.refuse(n, fmt.Sprintf("weight %v, groups %d: want %d input channels", s, groups, x.img.C))
	}
	out := model.Image{C: s[0], H: h.out, W: w.out}
	return l.emit(n, model.OpConv, imageDims(out), model.Conv{In: x.img, Out: out, KernelH: s[2], KernelW: s[3], StrideH: h.stride, StrideW: w.stride,
		PadTop: h.before, PadLeft: w.before, DilationH: h.dilation, DilationW: w.dilation, Groups: groups}, n.Weight, n.Bias, x.id)
}

func (l *lowerer) pool(n *model.Node, op *model.TensorOp, x shaped) error {
	k := op.Attrs["kernel_shape"].Ints
	if len(k) != 2 || !x.image() || len(n.Outs) > 1 {
		return l.refuse(n, "want an image, a kernel of two dimensions and one output")
	}
	h, w, err := l.window(n, op, x.img, int(k[0]), int(k[1]))
	if err != nil {
		return err
	}
	if h.dilation != 1 || w.dilation != 1 {
		return l.refuse(n, "dilated")
	}
	countPad := op.Attrs["count_include_pad"].I != 0
	if countPad && op.Attrs["ceil_mode"].I != 0 {
		return l.refuse(n, "ceil_mode with count_include_pad")
	}
	o := model.OpMaxPool
	if n.Op == "AveragePool" {
		o = model.OpAveragePool
	}
	out := model.Image{C: x.img.C, H: h.out, W: w.out}
	return l.emit(n, o, imageDims(out), model.Pool{In: x.img, Out: out, KernelH: h.kernel, KernelW: w.kernel, StrideH: h.stride, StrideW: w.stride,
		PadTop: h.before, PadLeft: w.before, CountPad: countPad}, nil, nil, x.id)
}

// slice leaves what subsamples an image - whole height and width in steps - to the Pad behind it,
// if only that one reads it; any other slice picks numbers.
func (l *lowerer) slice(n *model.Node, op *model.TensorOp, x shaped) error {
	c, err := l.cuts(n, op, x)
	if err != nil {
		return err
	}
	next := l.reader[n.Out]
	if next != nil && next.Op == "Pad" && l.readers[n.Out] == 1 && x.image() && c[0] == (span{0, x.img.C, 1}) && c[1].whole(x.img.H) && c[2].whole(x.img.W) {
		l.at[n.Out] = shaped{id: x.id, dims: x.dims, img: x.img, cut: &struct{ h, w, n int }{c[1].step, c[2].step, 1}}
		return nil
	}
	dims := make([]int, len(c))
	for i, s := range c {
		dims[i] = s.n
	}
	return l.pick(n, x, dims, func(at []int) int {
		for i, s := range c {
			at[i] = s.lo + at[i]*s.step
		}
		return offset(x.dims, at)
	})
}

// pad accepts new channels of zeros, behind a Slice or not: together they are a 1x1 convolution
// whose weights are ones and zeros and stay so (the parameter-free shortcut of He et al. 2016).
func (l *lowerer) pad(n *model.Node, op *model.TensorOp, x shaped) error {
	p := l.ints(n, 1)
	if mode := op.Attrs["mode"].S; len(p) != 8 || mode != "" && mode != "constant" || !x.image() {
		return l.refuse(n, "want an image, eight constant pads and mode constant")
	}
	if len(n.In) > 2 && n.In[2] != model.NoValue {
		t := l.src.Constants[n.In[2]]
		if t == nil {
			return l.refuse(n, "want a constant value")
		}
		if f, ok := t.Data.([]float32); !ok || len(f) != 1 || f[0] != 0 {
			return l.refuse(n, "want value 0")
		}
	}
	before, after := int(p[1]), int(p[5])
	if rest := slices.Concat(p[:1], p[2:5], p[6:]); slices.Max(rest) != 0 || slices.Min(rest) != 0 || before < 0 || after < 0 || max(before, after) > maxSide {
		return l.refuse(n, fmt.Sprintf("want pads on channels only, got %v", p))
	}
	sh, sw := 1, 1
	if x.cut != nil {
		sh, sw = x.cut.h, x.cut.w
	}
	in := x.img
	out := model.Image{C: before + in.C + after, H: (in.H-1)/sh + 1, W: (in.W-1)/sw + 1}
	w := make([]float32, out.C*in.C)
	for c := range in.C {
		w[(before+c)*in.C+c] = 1
	}
	weight := &model.Weight{Name: n.Name, Shape: []int{out.C, in.C, 1, 1}, Data: sparse.NewDense(out.C, in.C, w)}
	l.frozen[weight] = true
	return l.emit(n, model.OpConv, imageDims(out), model.Conv{In: in, Out: out, KernelH: 1, KernelW: 1, StrideH: sh, StrideW: sw, Groups: 1}, weight, nil, x.id)
}
