package tensorop

import (
	"math"

	"github.com/sparserun/sparserun/model"
)

// pool2D is pool for what images have: float32, two spatial dimensions, no
// dilation, no indices. nil: the general form does it.
func pool2D(c *Call, kind string, x *T, w *Window) (*T, error) {
	src, ok := x.Data.([]float32)
	if !ok || len(w.In) != 2 || w.Dilation[0] != 1 || w.Dilation[1] != 1 || c.Outs > 1 || kind == "LpPool" {
		return nil, nil
	}
	out, err := c.result(model.ElemF32, x.Shape[0], x.Shape[1], w.Out[0], w.Out[1])
	if err != nil {
		return nil, err
	}
	dst := out.Data.([]float32)
	count := make([]float64, product(w.Out))
	if kind == "AveragePool" {
		if c.int("count_include_pad", 0) != 0 {
			w.padded(count)
		} else {
			for i := range count {
				h0, h1 := w.clipped(0, i/w.Out[1])
				w0, w1 := w.clipped(1, i%w.Out[1])
				count[i] = float64((h1 - h0) * (w1 - w0))
			}
		}
	}
	in, p := product(w.In), product(w.Out)
	planes := x.Shape[0] * x.Shape[1]
	c.Pool.Split(planes, max(1, 1<<13/max(1, p*product(w.Kernel))), func(lo, hi int) {
		tall := make([]float32, w.In[1])
		for ch := lo; ch < hi; ch++ {
			plane, o := src[ch*in:(ch+1)*in], dst[ch*p:(ch+1)*p]
			if kind == "MaxPool" {
				w.maxPlane(o, plane, tall)
			} else {
				w.sumPlane(o, plane, count)
			}
		}
	})
	return out, nil
}

// clipped is the part of window i of a dimension that lies inside the input.
func (w *Window) clipped(d, i int) (lo, hi int) {
	lo = i*w.Stride[d] - w.Before[d]
	return max(0, min(lo, w.In[d])), min(w.In[d], lo+w.Kernel[d])
}

// maxPlane takes the largest of the window's rows first, column by column, then of
// its columns. NaN stays NaN.
func (w *Window) maxPlane(o, plane, tall []float32) {
	width := w.In[1]
	tall = tall[:width]
	for oh := range w.Out[0] {
		h0, h1 := w.clipped(0, oh)
		if h0 >= h1 {
			for i := range tall {
				tall[i] = float32(math.Inf(-1))
			}
		} else {
			copy(tall, plane[h0*width:])
		}
		for h := h0 + 1; h < h1; h++ {
			row := plane[h*width:][:len(tall)]
			for i, v := range row {
				tall[i] = max(tall[i], v)
			}
		}
		row := o[oh*w.Out[1]:][:w.Out[1]]
		for ow := range row {
			w0, w1 := w.clipped(1, ow)
			top := float32(math.Inf(-1))
			for _, v := range tall[w0:max(w0, w1)] {
				top = max(top, v)
			}
			row[ow] = top
		}
	}
}

func (w *Window) sumPlane(o, plane []float32, count []float64) {
	width := w.In[1]
	for oh := range w.Out[0] {
		h0, h1 := w.clipped(0, oh)
		for ow := range w.Out[1] {
			w0, w1 := w.clipped(1, ow)
			sum := 0.0
			for h := h0; h < h1; h++ {
				for _, v := range plane[h*width+w0 : h*width+max(w0, w1)] {
					sum += float64(v)
				}
			}
			o[oh*w.Out[1]+ow] = float32(sum / count[oh*w.Out[1]+ow])
		}
	}
}

// meanPlanes is the global average pool of float32.
func meanPlanes(x *T) (*T, error) {
	src, ok := x.Data.([]float32)
	if !ok {
		return nil, nil
	}
	shape := append([]int(nil), x.Shape[:2]...)
	for range x.Shape[2:] {
		shape = append(shape, 1)
	}
	out, err := make0(model.ElemF32, shape...)
	if err != nil {
		return nil, err
	}
	n := product(x.Shape[2:])
	for i := range out.Data.([]float32) {
		// Four sums: one would wait for every addition.
		var a, b, c, d float64
		plane := src[i*n : (i+1)*n]
		for ; len(plane) >= 4; plane = plane[4:] {
			a += float64(plane[0])
			b += float64(plane[1])
			c += float64(plane[2])
			d += float64(plane[3])
		}
		for _, v := range plane {
			a += float64(v)
		}
		out.Data.([]float32)[i] = float32((a + b + (c + d)) / float64(n))
	}
	return out, nil
}
