package kerneltest

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/sparserun/sparserun/cuda/ptxsim"
	"github.com/sparserun/sparserun/sparse"
)

type ptxPtr = ptxsim.Ptr

// Pairs of weight and activation types that decode kernels exist for.
var linearTypes = [][2]sparse.DType{
	{f32, f32}, {f16, f32}, {f16, f16}, {bf16, f32}, {bf16, f16},
	{sparse.Int8, f32}, {sparse.Int8, f16}, {sparse.Int4, f32}, {sparse.Int4, f16},
}

// shape is one product y (rows, out) = x (rows, in) w^T; extra turns on bias,
// activation and residual.
type shape struct {
	rows, out, in int
	density       float64
	extra         bool
}

// act is the activation that goes with extra: shapes differ in it.
func (s shape) act() int { return (s.rows + s.out + s.in) % 6 }

func (s shape) String() string {
	return fmt.Sprintf("%dx%dx%d/d%v/%v", s.rows, s.out, s.in, s.density, s.extra)
}

func linearChecks() []check {
	var cs []check
	for _, wt := range linearTypes {
		w, t := wt[0], wt[1]
		for _, s := range []shape{
			{1, 1, 1, 1, false}, {1, 19, 33, 1, true}, {1, 7, 576, 1, false}, {1, 3, 2100, .5, true}, {1, 5, 172, 0, true},
		} {
			cs = append(cs, gemvCheck(w, t, 1, s), gemvNM24Check(w, t, 1, s))
		}
		if w == sparse.Int4 { // long enough for the unrolled loop
			cs = append(cs, gemvCheck(w, t, 1, shape{1, 3, 4360, .5, false}), gemvNM24Check(w, t, 1, shape{1, 3, 4360, .5, false}))
		}
		for act := range 6 {
			s := shape{1, 3, 9 + act, 1, true}
			cs = append(cs, gemvCheck(w, t, 1, s), gemvNM24Check(w, t, 1, s), gemvCheck(w, t, 4, s), gemvNM24Check(w, t, 8, s),
				linearCheck(w, t, s, false), linearCheck(w, t, s, true))
		}
		for _, b := range []int{4, 8} {
			for _, s := range []shape{{b, 9, 300, 1, true}, {b - 1, 3, 1100, .5, false}, {2, 19, 7, 1, true}} {
				cs = append(cs, gemvCheck(w, t, b, s), gemvNM24Check(w, t, b, s))
			}
		}
		for _, s := range []shape{{3, 5, 37, 1, true}, {1, 130, 4, 1, false}} {
			cs = append(cs, linearCheck(w, t, s, false), linearCheck(w, t, s, true))
		}
	}
	for _, wt := range [][2]sparse.DType{{f32, f32}, {f16, f32}, {f16, f16}, {sparse.Int8, f32}, {sparse.Int8, f16}} {
		for _, bits := range []int{16, 32} {
			for _, s := range []shape{{1, 1, 1, 1, false}, {1, 9, 333, .4, true}, {1, 6, 200, 0, true}, {1, 5, 300, 1, false}} {
				cs = append(cs, csrCheck(wt[0], wt[1], bits, 1, s))
			}
			for act := range 6 {
				cs = append(cs, csrCheck(wt[0], wt[1], bits, 1, shape{1, 3, 9 + act, .7, true}),
					csrCheck(wt[0], wt[1], bits, 8, shape{1, 3, 9 + act, .7, true}))
			}
			for _, s := range []shape{{8, 5, 90, .3, true}, {5, 6, 200, .5, false}} {
				cs = append(cs, csrCheck(wt[0], wt[1], bits, 8, s))
			}
		}
	}
	return cs
}

func linearCheck(w, t sparse.DType, s shape, nm24 bool) check {
	name := fmt.Sprintf("linear_%v_%v", w, t)
	if nm24 {
		name = fmt.Sprintf("linear_nm24_%v_%v", w, t)
	}
	return check{name + "/" + s.String(), []string{name}, func(r *rig) error { return checkRows(r, name, w, t, s, nm24, 0) }}
}

func gemvCheck(w, t sparse.DType, b int, s shape) check {
	name := fmt.Sprintf("gemv_%v_%v_b%d", w, t, b)
	return check{name + "/" + s.String(), []string{name}, func(r *rig) error { return checkRows(r, name, w, t, s, false, b) }}
}

func gemvNM24Check(w, t sparse.DType, b int, s shape) check {
	name := fmt.Sprintf("gemv_nm24_%v_%v_b%d", w, t, b)
	return check{name + "/" + s.String(), []string{name}, func(r *rig) error { return checkRows(r, name, w, t, s, true, b) }}
}

// weights is a matrix in row form, as it lies on the device, and what it means.
type weights struct {
	dense        []float64 // out x in
	v            []byte    // values, row stride ldv elements
	ldv          int
	meta         []uint16
	ldm          int
	gscale       []uint16 // f16, int4
	lds, gshift  int
	scale        []float32 // f32 per row, int8 and fp8
	elementBytes float64
}

// element writes stored element n of the values.
func (w *weights) element(t sparse.DType, n int, x float64) {
	switch t {
	case f32:
		binary.LittleEndian.PutUint32(w.v[4*n:], math.Float32bits(float32(x)))
	case f16:
		binary.LittleEndian.PutUint16(w.v[2*n:], sparse.F32ToF16(float32(x)))
	case bf16:
		binary.LittleEndian.PutUint16(w.v[2*n:], sparse.F32ToBF16(float32(x)))
	case sparse.Int4:
		sh := 4 * (n % 2)
		w.v[n/2] = w.v[n/2]&^(15<<sh) | byte(int(x)+8)<<sh
	default:
		w.v[n] = byte(int8(x))
	}
}

// makeWeights draws a matrix. pad: elements a stored row is padded to; the padding of
// a row holds values that would show if they were used.
func (r *rig) makeWeights(t sparse.DType, out, in int, density float64, nm24 bool, pad, metaPad int) *weights {
	w := &weights{dense: make([]float64, out*in), elementBytes: t.Bits() / 8}
	stored := in
	if nm24 {
		stored = (in + 3) / 4 * 2
		w.ldm = ((in+15)/16 + metaPad - 1) / metaPad * metaPad
		w.meta = make([]uint16, out*w.ldm)
	}
	w.ldv = (stored + pad - 1) / pad * pad
	w.v = make([]byte, int(float64(out*w.ldv)*w.elementBytes))
	for n := range out * w.ldv {
		w.element(t, n, 7) // padding, if not overwritten
	}
	w.gshift = 5
	if nm24 {
		w.gshift = 6
	}
	w.lds = in>>w.gshift + 1
	switch t {
	case sparse.Int4:
		for range out * w.lds {
			w.gscale = append(w.gscale, sparse.F32ToF16(float32(.05+.1*r.rng.Float64())))
		}
	case sparse.Int8, sparse.FP8:
		for range out {
			w.scale = append(w.scale, float32(.01+.02*r.rng.Float64()))
		}
	}
	draw := func() float64 {
		if r.rng.Float64() >= density {
			return 0
		}
		switch t {
		case sparse.Int4:
			return float64(r.rng.IntN(16) - 8)
		case sparse.Int8:
			return float64(r.rng.IntN(255) - 127)
		}
		return round(t, r.rng.NormFloat64())
	}
	mean := func(o, k int, x float64) float64 {
		switch {
		case w.gscale != nil:
			return x * float64(sparse.F16ToF32(w.gscale[o*w.lds+k>>w.gshift]))
		case w.scale != nil:
			return x * float64(w.scale[o])
		}
		return x
	}
	for o := range out {
		if !nm24 {
			for k := range in {
				x := draw()
				w.element(t, o*w.ldv+k, x)
				w.dense[o*in+k] = mean(o, k, x)
			}
			continue
		}
		for g := range (in + 3) / 4 {
			a, b := r.rng.IntN(4), r.rng.IntN(3)
			if b >= a {
				b++
			}
			a, b = min(a, b), max(a, b)
			w.meta[o*w.ldm+g/4] |= uint16(a|b<<2) << (4 * (g % 4))
			for n, c := range []int{4*g + a, 4*g + b} {
				x := draw()
				w.element(t, o*w.ldv+2*g+n, x)
				if c < in {
					w.dense[o*in+c] = mean(o, c, x)
				}
			}
		}
		for q := (in + 3) / 4; q < 4*w.ldm; q++ {
			w.meta[o*w.ldm+q/4] |= 4 << (4 * (q % 4))
		}
	}
	return w
}

// tail is the epilogue's operands: what is on the device and what they mean.
type tail struct {
	bias []float32
	res  *grid
	act  int
	pb   ptxPtr
	pr   ptxPtr
	ldr  int
}

func (r *rig) makeTail(t sparse.DType, rows, out int, extra bool, act int) tail {
	e := tail{ldr: out + 1}
	if extra {
		e.bias, e.res, e.act = r.gains(out), r.values(t, rows, out, e.ldr, 1), act
		e.pb, e.pr = up(r, e.bias), e.res.upload(r)
	}
	return e
}

// compare checks a product's result: sum is the exact sum, size the sum of magnitudes,
// n the number of terms.
func (e tail) compare(got *grid, n int, sum, size func(i, o int) float64) error {
	pre := func(i, o int) float64 {
		v := sum(i, o)
		if e.bias != nil {
			v += float64(e.bias[o])
		}
		return v
	}
	want := func(i, o int) float64 {
		v := activation(e.act, pre(i, o))
		if e.res != nil {
			v += e.res.at(i, o)
		}
		return v
	}
	return near(got, want, func(i, o int) float64 {
		tol := float64(n+8) * 0x1p-24 * (size(i, o) + math.Abs(pre(i, o)))
		if e.act != 0 { // slopes are at most 1.13; tanh and GELU subtract from 1
			tol = 1.13*tol + special*(1+math.Abs(pre(i, o)))
		}
		if e.res != nil {
			tol += 0x1p-23 * math.Abs(e.res.at(i, o))
		}
		return tol + store(got.t, want(i, o))
	})
}

// checkRows tests a product with weights in row form: gemv (batch b) or, with b 0,
// the naive kernels.
func checkRows(r *rig, kernel string, wt, t sparse.DType, s shape, nm24 bool, b int) error {
	pad, metaPad := 1, 1
	if wt == sparse.Int4 {
		pad = 8
	}
	if b > 0 {
		pad = int(128 / wt.Bits())
		if nm24 && wt == sparse.Int8 {
			metaPad = 2
		} else if nm24 && wt == sparse.Int4 {
			metaPad = 4
		}
	}
	w := r.makeWeights(wt, s.out, s.in, s.density, nm24, pad, metaPad)
	ldx := (s.in + 7) / 8 * 8
	x := r.values(t, s.rows, s.in, ldx, 1)
	e := r.makeTail(t, s.rows, s.out, s.extra, s.act())
	y := space(r, t, s.rows, s.out, s.out+2)
	ps, pg := null, null
	if w.scale != nil {
		ps = up(r, w.scale)
	}
	if w.gscale != nil {
		pg = up(r, w.gscale)
	}
	gridDim := dim((s.out + 7) / 8)
	if b == 0 {
		gridDim = dim((s.out+127)/128, s.rows)
	}
	args := []any{y, x.upload(r), up(r, w.v)}
	if nm24 {
		args = append(args, up(r, w.meta))
	}
	args = append(args, pg, ps, e.pb, e.pr, s.rows, s.out, s.in, s.out+2, ldx, w.ldv)
	if nm24 {
		args = append(args, w.ldm)
	}
	args = append(args, w.lds, w.gshift, e.ldr, e.act)
	if err := r.run(kernel, gridDim, dim(128), 0, args...); err != nil {
		return err
	}
	got, err := download(r, y, t, s.rows, s.out, s.out+2)
	if err != nil {
		return err
	}
	sum, size := product(x, w.dense, s.in)
	return e.compare(got, s.in, sum, size)
}

// product is the exact sum and the sum of magnitudes of each output.
func product(x *grid, dense []float64, in int) (sum, size func(i, o int) float64) {
	f := func(abs bool) func(i, o int) float64 {
		return func(i, o int) float64 {
			var v float64
			for k := range in {
				p := dense[o*in+k] * x.at(i, k)
				if abs {
					p = math.Abs(p)
				}
				v += p
			}
			return v
		}
	}
	return f(false), f(true)
}

func csrCheck(wt, t sparse.DType, bits, b int, s shape) check {
	name := fmt.Sprintf("spmv_csr_%v_%v_c%d_b%d", wt, t, bits, b)
	return check{name + "/" + s.String(), []string{name}, func(r *rig) error {
		full := r.makeWeights(wt, s.out, s.in, 1, false, 1, 1)
		w := &weights{}
		rowptr := []uint32{0}
		var col16 []uint16
		var col32 []uint32
		dense := make([]float64, s.out*s.in)
		size := int(full.elementBytes)
		for o := range s.out {
			for k := range s.in {
				if r.rng.Float64() >= s.density || o == 3 { // row 3 is empty
					continue
				}
				n := (o*s.in + k) * size
				w.v = append(w.v, full.v[n:n+size]...)
				col16, col32 = append(col16, uint16(k)), append(col32, uint32(k))
				dense[o*s.in+k] = full.dense[o*s.in+k]
			}
			rowptr = append(rowptr, uint32(len(col32)))
		}
		x := r.values(t, s.rows, s.in, s.in+1, 1)
		e := r.makeTail(t, s.rows, s.out, s.extra, s.act())
		y := space(r, t, s.rows, s.out, s.out)
		ps, pc := null, up(r, col32)
		if bits == 16 {
			pc = up(r, col16)
		}
		if full.scale != nil {
			ps = up(r, full.scale)
		}
		if err := r.run(name, dim((s.out+3)/4), dim(128), 0, y, x.upload(r), up(r, rowptr), pc, up(r, w.v), ps, e.pb, e.pr,
			s.rows, s.out, s.out, s.in+1, e.ldr, e.act); err != nil {
			return err
		}
		got, err := download(r, y, t, s.rows, s.out, s.out)
		if err != nil {
			return err
		}
		sum, mag := product(x, dense, s.in)
		return e.compare(got, s.in, sum, mag)
	}}
}
