package tensorop

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/model"
)

// tap is what one output index takes of one input index.
type tap struct {
	at int
	w  float64
}

// resize interpolates one dimension after the other: nearest, linear or cubic.
func resize(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	rank := len(x.Shape)
	var scales []float64
	var sizes []int
	roi := []float64(nil)
	old := c.Node.Op == "Upsample" || c.version() < 11
	read := func(i int) ([]float64, error) {
		if t := c.in(i); t != nil && t.Len() > 0 {
			return asF64(t)
		}
		return nil, nil
	}
	switch {
	case old && c.has("scales"):
		for _, f := range c.op.Attrs["scales"].Floats {
			scales = append(scales, float64(f))
		}
	case old:
		scales, err = read(1)
	default:
		if roi, err = read(1); err != nil {
			return nil, err
		}
		if scales, err = read(2); err != nil {
			return nil, err
		}
		if scales == nil {
			sizes, err = c.intsIn(3)
		}
	}
	if err != nil {
		return nil, err
	}
	list := c.ints("axes")
	if list == nil {
		for i := range rank {
			list = append(list, i)
		}
	}
	if _, err := axes(list, rank); err != nil {
		return nil, err
	}
	if scales == nil && sizes == nil || scales != nil && len(scales) != len(list) || sizes != nil && len(sizes) != len(list) {
		return nil, fmt.Errorf("scales %v, sizes %v of axes %v: %w", scales, sizes, list, ErrShape)
	}
	out := x
	cc := resizer{c: c, mode: c.str("mode", "nearest"), coord: c.str("coordinate_transformation_mode", "half_pixel"), old: old}
	factor := make([]float64, len(list))
	size := make([]int, len(list))
	for k, a := range list {
		a, _ = axis(a, rank)
		d := x.Shape[a]
		if sizes == nil {
			if !(scales[k] > 0) || scales[k] > 1<<24 {
				return nil, fmt.Errorf("scales %v: %w", scales, ErrShape)
			}
			factor[k], size[k] = scales[k], int(math.Floor(float64(d)*scales[k]))
			continue
		}
		factor[k], size[k] = float64(sizes[k])/float64(d), sizes[k]
	}
	if policy := c.str("keep_aspect_ratio_policy", "stretch"); sizes != nil && policy != "stretch" {
		best := factor[0]
		for _, f := range factor {
			if policy == "not_larger" {
				best = min(best, f)
			} else {
				best = max(best, f)
			}
		}
		for k, a := range list {
			a, _ = axis(a, rank)
			factor[k], size[k] = best, int(math.Floor(best*float64(x.Shape[a])+0.5))
		}
	}
	var taps [][][]tap
	for k, a := range list {
		a, _ = axis(a, rank)
		lo, hi := 0.0, 1.0
		if cc.coord == "tf_crop_and_resize" {
			if len(roi) != 2*len(list) {
				return nil, fmt.Errorf("region %v of axes %v: %w", roi, list, ErrShape)
			}
			lo, hi = roi[k], roi[len(list)+k]
		}
		t, err := cc.taps(x.Shape[a], size[k], factor[k], lo, hi)
		if err != nil {
			return nil, err
		}
		taps = append(taps, t)
	}
	if cc.mode == "nearest" && cc.coord != "tf_crop_and_resize" {
		for k, a := range list {
			a, _ = axis(a, rank)
			if out, err = pickAxis(out, a, taps[k]); err != nil {
				return nil, err
			}
		}
		return []*T{out}, nil
	}
	if out, err = Cast(x, model.ElemF64, true); err != nil {
		return nil, err
	}
	for k, a := range list {
		a, _ = axis(a, rank)
		if size[k] == x.Shape[a] && factor[k] == 1 && cc.coord != "tf_crop_and_resize" {
			continue
		}
		if out, err = mixAxis(out, a, taps[k], c.float("extrapolation_value", 0)); err != nil {
			return nil, err
		}
	}
	return one(Cast(out, x.Elem, true))
}

type resizer struct {
	c           *Call
	mode, coord string
	old         bool
}

// source is the position in the input that output index i lies at.
func (r *resizer) source(i, in, out int, f, lo, hi float64) float64 {
	x := float64(i)
	switch r.coord {
	case "asymmetric":
		return x / f
	case "align_corners":
		if out <= 1 {
			return 0
		}
		return x * float64(in-1) / float64(out-1)
	case "pytorch_half_pixel":
		if out <= 1 {
			return 0
		}
	case "half_pixel_symmetric":
		adjust := float64(out) / (f * float64(in))
		return float64(in)/2*(1-adjust) + (x+0.5)/f - 0.5
	case "tf_half_pixel_for_nn":
		return (x + 0.5) / f
	case "tf_crop_and_resize":
		if out <= 1 {
			return 0.5 * (lo + hi) * float64(in-1)
		}
		return lo*float64(in-1) + x*(hi-lo)*float64(in-1)/float64(out-1)
	}
	return (x+0.5)/f - 0.5
}

func (r *resizer) taps(in, out int, f, lo, hi float64) ([][]tap, error) {
	if in == 0 && out > 0 || out < 0 {
		return nil, fmt.Errorf("resize of %d to %d: %w", in, out, ErrShape)
	}
	if _, err := model.Elements(model.ElemF64, []int{out, 8}); err != nil {
		return nil, fmt.Errorf("resize of %d to %d: %w", in, out, ErrShape)
	}
	t := make([][]tap, out)
	if r.old {
		r.coord = "asymmetric"
	}
	anti := r.c.int("antialias", 0) != 0 && f < 1
	for i := range t {
		x := r.source(i, in, out, f, lo, hi)
		if r.coord == "tf_crop_and_resize" && (x < 0 || x > float64(in-1)) {
			t[i] = []tap{{-1, 1}} // outside: the extrapolation value
			continue
		}
		switch r.mode {
		case "nearest":
			t[i] = []tap{{r.nearest(x, in), 1}}
		case "linear", "bilinear":
			width := 1.0
			if anti {
				width = 1 / f
			}
			t[i] = r.kernel(x, in, width, width, func(d float64) float64 { return max(0, 1-math.Abs(d)) })
		case "cubic":
			width := 1.0
			if anti {
				width = 1 / f
			}
			a := r.c.float("cubic_coeff_a", -0.75)
			t[i] = r.kernel(x, in, 2*width, width, func(d float64) float64 {
				d = math.Abs(d)
				switch {
				case d <= 1:
					return (a+2)*d*d*d - (a+3)*d*d + 1
				case d < 2:
					return a*d*d*d - 5*a*d*d + 8*a*d - 4*a
				}
				return 0
			})
		default:
			return nil, fmt.Errorf("mode %.20q: %w", r.mode, ErrAttribute)
		}
	}
	return t, nil
}

func (r *resizer) nearest(x float64, in int) int {
	n := 0.0
	mode := r.c.str("nearest_mode", "round_prefer_floor")
	if r.old {
		mode = "floor"
	}
	switch mode {
	case "floor":
		n = math.Floor(x)
	case "ceil":
		n = math.Ceil(x)
	case "round_prefer_ceil":
		n = math.Floor(x + 0.5)
	default:
		n = math.Ceil(x - 0.5)
	}
	return max(0, min(in-1, int(n)))
}

// kernel weighs the inputs within reach of x; those beyond the edge count as the
// edge, or not at all with exclude_outside.
func (r *resizer) kernel(x float64, in int, reach, width float64, f func(float64) float64) []tap {
	var out []tap
	sum := 0.0
	exclude := r.c.int("exclude_outside", 0) != 0
	for j := int(math.Floor(x-reach)) + 1; float64(j) < x+reach || float64(j) == x; j++ {
		w := f((float64(j) - x) / width)
		if w == 0 || exclude && (j < 0 || j >= in) {
			continue
		}
		out = append(out, tap{max(0, min(in-1, j)), w})
		sum += w
	}
	for i := range out {
		out[i].w /= sum
	}
	return out
}

// pickAxis takes whole slices of a dimension.
func pickAxis(x *T, ax int, taps [][]tap) (*T, error) {
	shape := append([]int(nil), x.Shape...)
	shape[ax] = len(taps)
	if _, err := model.Elements(x.Elem, shape); err != nil {
		return nil, fmt.Errorf("resize to %v: %w", shape, ErrShape)
	}
	outer, n, inner := product(shape[:ax]), x.Shape[ax], product(shape[ax+1:])
	idx := make([]int, 0, outer*len(taps))
	for o := range outer {
		for _, t := range taps {
			idx = append(idx, (o*n+t[0].at)*inner)
		}
	}
	return picked(x, idx, inner, shape...)
}

func mixAxis(x *T, ax int, taps [][]tap, outside float64) (*T, error) {
	shape := append([]int(nil), x.Shape...)
	shape[ax] = len(taps)
	out, err := make0(model.ElemF64, shape...)
	if err != nil {
		return nil, err
	}
	src, dst := x.Data.([]float64), out.Data.([]float64)
	outer, n, inner := product(shape[:ax]), x.Shape[ax], product(shape[ax+1:])
	for o := range outer {
		for i, ts := range taps {
			row := dst[(o*len(taps)+i)*inner:][:inner]
			for _, t := range ts {
				if t.at < 0 {
					for k := range row {
						row[k] = outside
					}
					continue
				}
				for k, v := range src[(o*n+t.at)*inner:][:inner] {
					row[k] += t.w * v
				}
			}
		}
	}
	return out, nil
}
