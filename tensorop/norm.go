package tensorop

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/model"
)

// perChannel reads vectors of one number a channel.
func (c *Call) perChannel(n int, from int, count int) ([][]float32, error) {
	var out [][]float32
	for i := from; i < from+count; i++ {
		t, err := c.tensor(i)
		if err != nil {
			return nil, err
		}
		if t.Len() != n {
			return nil, fmt.Errorf("input %d: %v for %d channels: %w", i, t.Shape, n, ErrShape)
		}
		f, err := asFloats(t)
		if err != nil {
			return nil, err
		}
		out = append(out, f)
	}
	return out, nil
}

// batchNorm with given statistics: (x - mean) / sqrt(var + eps) * scale + bias.
func batchNorm(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	if c.int("training_mode", 0) != 0 || c.version() < 7 && !c.has("is_test") && c.has("consumed_inputs") {
		return nil, fmt.Errorf("training mode: %w", ErrUnsupported)
	}
	if len(x.Shape) < 2 {
		return nil, fmt.Errorf("batch norm of %v: %w", x.Shape, ErrShape)
	}
	if x.Elem == model.ElemF64 {
		return wide(c, batchNorm)
	}
	ch := x.Shape[1]
	v, err := c.perChannel(ch, 1, 4)
	if err != nil {
		return nil, err
	}
	xs, err := asFloats(x)
	if err != nil {
		return nil, err
	}
	eps := c.float("epsilon", 1e-5)
	out, o, err := newF32(x.Shape...)
	if err != nil {
		return nil, err
	}
	p := product(x.Shape[2:])
	for i := 0; i < len(o); i += p {
		k := i / p % ch
		a := float64(v[0][k]) / math.Sqrt(float64(v[3][k])+eps)
		b := float64(v[1][k]) - a*float64(v[2][k])
		for j := i; j < i+p; j++ {
			o[j] = float32(a*float64(xs[j]) + b)
		}
	}
	return []*T{out}, nil
}

// rowNorm normalises the last dimensions from an axis on: layer norm, and RMS norm
// without centring.
func rowNorm(centre bool) Func {
	return narrow(func(c *Call) ([]*T, error) {
		x, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		ax, err := axis(c.int("axis", -1), len(x.Shape))
		if err != nil {
			return nil, err
		}
		get, err := asF64OrSelf(x)
		if err != nil {
			return nil, err
		}
		var params [2]*T
		for i := range params {
			if t := c.in(i + 1); t != nil {
				shape, err := broadcast(t.Shape, x.Shape[ax:])
				if err != nil || product(shape) != product(x.Shape[ax:]) {
					return nil, fmt.Errorf("input %d: %v over %v: %w", i+1, t.Shape, x.Shape[ax:], ErrShape)
				}
				if params[i], err = Expand(t, x.Shape[ax:]); err != nil {
					return nil, err
				}
			}
		}
		scale, bias := func(int) float64 { return 1 }, func(int) float64 { return 0 }
		if params[0] != nil {
			if scale, err = reader(params[0]); err != nil {
				return nil, err
			}
		}
		if params[1] != nil {
			if bias, err = reader(params[1]); err != nil {
				return nil, err
			}
		}
		out, err := make0(x.Elem, x.Shape...)
		if err != nil {
			return nil, err
		}
		put := writer(out)
		n, rows := product(x.Shape[ax:]), product(x.Shape[:ax])
		eps := c.float("epsilon", 1e-5)
		stat := append([]int(nil), x.Shape[:ax]...)
		for range x.Shape[ax:] {
			stat = append(stat, 1)
		}
		mean, inv := make([]float32, rows), make([]float32, rows)
		for r := range rows {
			m, v := 0.0, 0.0
			if centre {
				for i := range n {
					m += get(r*n + i)
				}
				m /= float64(n)
			}
			for i := range n {
				d := get(r*n+i) - m
				v += d * d
			}
			s := 1 / math.Sqrt(v/float64(n)+eps)
			mean[r], inv[r] = float32(m), float32(s)
			for i := range n {
				put(r*n+i, (get(r*n+i)-m)*s*scale(i)+bias(i))
			}
		}
		if !centre {
			return []*T{out}, nil
		}
		return []*T{out, model.F32Tensor(mean, stat...), model.F32Tensor(inv, stat...)}, nil
	})
}

// groupNorm normalises groups of channels of each item; instance norm has groups
// of one channel.
func groupNorm(instance bool) Func {
	return narrow(func(c *Call) ([]*T, error) {
		x, err := c.tensor(0)
		if err != nil {
			return nil, err
		}
		if len(x.Shape) < 2 {
			return nil, fmt.Errorf("norm of %v: %w", x.Shape, ErrShape)
		}
		ch := x.Shape[1]
		g := c.int("num_groups", 0)
		if instance {
			g = ch
		}
		if g < 1 || ch%g != 0 {
			return nil, fmt.Errorf("%d channels in %d groups: %w", ch, g, ErrShape)
		}
		per := ch // numbers of scale and bias
		if !instance && c.version() < 21 {
			per = g
		}
		v, err := c.perChannel(per, 1, 2)
		if err != nil {
			return nil, err
		}
		xs, err := asFloats(x)
		if err != nil {
			return nil, err
		}
		out, o, err := newF32(x.Shape...)
		if err != nil {
			return nil, err
		}
		eps := c.float("epsilon", 1e-5)
		p := product(x.Shape[2:])
		n := ch / g * p
		for i := range x.Shape[0] * g {
			row := xs[i*n : (i+1)*n]
			m, s := moments(row, eps)
			for j, u := range row {
				k := (i*n + j) / p % ch * per / ch
				o[i*n+j] = float32((float64(u)-m)*s*float64(v[0][k]) + float64(v[1][k]))
			}
		}
		return []*T{out}, nil
	})
}

// moments are the mean and one over the standard deviation.
func moments(row []float32, eps float64) (mean, inv float64) {
	for _, v := range row {
		mean += float64(v)
	}
	mean /= float64(len(row))
	sum := 0.0
	for _, v := range row {
		d := float64(v) - mean
		sum += d * d
	}
	return mean, 1 / math.Sqrt(sum/float64(len(row))+eps)
}

func lrn(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	size := c.int("size", 0)
	if len(x.Shape) < 2 || size < 1 {
		return nil, fmt.Errorf("response norm of %v over %d: %w", x.Shape, size, ErrShape)
	}
	xs, err := asFloats(x)
	if err != nil {
		return nil, err
	}
	out, o, err := newF32(x.Shape...)
	if err != nil {
		return nil, err
	}
	alpha, beta, bias := c.float("alpha", 1e-4), c.float("beta", 0.75), c.float("bias", 1)
	ch, p := x.Shape[1], product(x.Shape[2:])
	for i := range o {
		n, k, j := i/(ch*p), i/p%ch, i%p
		sum := 0.0
		for q := max(0, k-(size-1)/2); q <= min(ch-1, k+size/2); q++ {
			v := float64(xs[(n*ch+q)*p+j])
			sum += v * v
		}
		o[i] = float32(float64(xs[i]) / math.Pow(bias+alpha/float64(size)*sum, beta))
	}
	return []*T{out}, nil
}

func lpNorm(c *Call) ([]*T, error) {
	x, err := c.tensor(0)
	if err != nil {
		return nil, err
	}
	ax, err := axis(c.int("axis", -1), len(x.Shape))
	if err != nil {
		return nil, err
	}
	get, err := asF64OrSelf(x)
	if err != nil {
		return nil, err
	}
	set := make([]bool, len(x.Shape))
	set[ax] = true
	base, inside := groups(x.Shape, set)
	out, err := make0(x.Elem, x.Shape...)
	if err != nil {
		return nil, err
	}
	put := writer(out)
	for _, p := range base {
		sum := 0.0
		for _, q := range inside {
			v := math.Abs(get(p + q))
			if c.int("p", 2) == 2 {
				v *= v
			}
			sum += v
		}
		if c.int("p", 2) == 2 {
			sum = math.Sqrt(sum)
		}
		for _, q := range inside {
			if sum != 0 {
				put(p+q, get(p+q)/sum)
			}
		}
	}
	return []*T{out}, nil
}
