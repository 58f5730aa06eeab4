package kerneltest

import (
	"fmt"
	"math"
	"sort"

	"github.com/sparserun/sparserun/sparse"
)

func elementwiseChecks() []check {
	var cs []check
	for _, t := range []sparse.DType{f32, f16} {
		n := t.String()
		for _, s := range [][2]int{{1, 1}, {3, 7}, {2, 33}, {5, 300}} {
			rows, width := s[0], s[1]
			id := fmt.Sprintf("%s/%dx%d", n, rows, width)
			cs = append(cs,
				check{"rmsnorm/" + id, []string{"rmsnorm_" + n}, func(r *rig) error { return checkRMSNorm(r, t, rows, width) }},
				check{"add_rmsnorm/" + id, []string{"add_rmsnorm_" + n}, func(r *rig) error { return checkAddRMSNorm(r, t, rows, width) }},
				check{"add/" + id, []string{"add_" + n}, func(r *rig) error {
					return checkBinary(r, "add_"+n, t, rows, width, 1.001*0x1p-24, func(a, b float64) float64 { return a + b })
				}},
				check{"mul/" + id, []string{"mul_" + n}, func(r *rig) error {
					return checkBinary(r, "mul_"+n, t, rows, width, 1.001*0x1p-24, func(a, b float64) float64 { return a * b })
				}},
				check{"silu_gate/" + id, []string{"silu_gate_" + n}, func(r *rig) error {
					return checkBinary(r, "silu_gate_"+n, t, rows, width, special, func(g, u float64) float64 { return silu(g) * u })
				}},
				check{"softmax/" + id, []string{"softmax_" + n}, func(r *rig) error { return checkSoftmax(r, t, rows, width) }},
				check{"argmax/" + id, []string{"argmax_" + n}, func(r *rig) error { return checkArgmax(r, t, rows, width) }},
				check{"topk/" + id, []string{"topk_" + n}, func(r *rig) error { return checkTopK(r, t, rows, width, 5) }},
				check{"topk1/" + id, []string{"topk_" + n}, func(r *rig) error { return checkTopK(r, t, rows, width, 1) }},
				check{"topk0/" + id, []string{"topk_" + n}, func(r *rig) error { return checkTopK(r, t, rows, width, 0) }},
				check{"quantise_int8/" + id, []string{"quantise_int8_" + n}, func(r *rig) error { return checkQuantise(r, t, rows, width) }},
			)
			for act := range 6 {
				cs = append(cs, check{fmt.Sprintf("bias_act/%s/act%d", id, act), []string{"bias_act_" + n},
					func(r *rig) error { return checkBiasAct(r, t, rows, width, act) }})
			}
		}
		for _, w := range []sparse.DType{f32, f16, bf16, sparse.Int8} {
			for _, width := range []int{37, 70} { // less and more than a block has threads
				cs = append(cs, check{fmt.Sprintf("embedding/%v/%s/%d", w, n, width), []string{fmt.Sprintf("embedding_%v_%s", w, n)},
					func(r *rig) error { return checkEmbedding(r, w, t, width) }})
			}
		}
		cs = append(cs,
			check{"im2col/" + n, []string{"im2col_" + n}, func(r *rig) error { return checkIm2col(r, t) }},
			check{"rmsnorm_heads/" + n, []string{"rmsnorm_heads_" + n}, func(r *rig) error { return checkRMSNormHeads(r, t) }},
			check{"rope/" + n + "/halves", []string{"rope_" + n}, func(r *rig) error { return checkRope(r, t, 3, 16, 16, 0) }},
			check{"rope/" + n + "/pairs", []string{"rope_" + n}, func(r *rig) error { return checkRope(r, t, 2, 80, 80, 1) }},
			check{"rope/" + n + "/partial", []string{"rope_" + n}, func(r *rig) error { return checkRope(r, t, 1, 10, 6, 0) }},
		)
	}
	for _, t := range []sparse.DType{f32, f16, bf16} {
		n := t.String()
		for _, in := range []int{1, 4, 7, 16, 33, 172} {
			for _, scored := range []bool{true, false} {
				cs = append(cs, check{fmt.Sprintf("prune_nm24/%s/%d/%v", n, in, scored), []string{"prune_nm24_" + n},
					func(r *rig) error { return checkPrune(r, t, 3, in, scored) }})
			}
		}
	}
	return cs
}

func silu(x float64) float64 { return x / (1 + math.Exp(-x)) }

// activation is the formula of each act number, and how far a value of size s may be off.
func activation(act int, x float64) float64 {
	switch act {
	case 1:
		return math.Max(x, 0)
	case 2:
		return silu(x)
	case 3:
		return .5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+.044715*x*x*x)))
	case 4:
		return 1 / (1 + math.Exp(-x))
	case 5:
		return math.Tanh(x)
	}
	return x
}

// gains is a vector of f32 weights near one.
func (r *rig) gains(n int) []float32 {
	w := make([]float32, n)
	for i := range w {
		w[i] = float32(1 + r.rng.NormFloat64()/4)
	}
	return w
}

const eps = 1e-5

func norm(row []float64, w []float32) func(j int) float64 {
	var sum float64
	for _, v := range row {
		sum += v * v
	}
	s := 1 / math.Sqrt(sum/float64(len(row))+float64(float32(eps)))
	return func(j int) float64 { return row[j] * s * float64(w[j]) }
}

func checkRMSNorm(r *rig, t sparse.DType, rows, width int) error {
	x, w := r.values(t, rows, width, width+3, 1), r.gains(width)
	y := space(r, t, rows, width, width+1)
	if err := r.run("rmsnorm_"+t.String(), dim(rows), dim(256), 0,
		y, x.upload(r), up(r, w), width, width+1, width+3, float32(eps)); err != nil {
		return err
	}
	got, err := download(r, y, t, rows, width, width+1)
	if err != nil {
		return err
	}
	want := func(i, j int) float64 { return norm(x.v[i*width:(i+1)*width], w)(j) }
	return near(got, want, func(i, j int) float64 { return special*math.Abs(want(i, j)) + store(t, want(i, j)) })
}

func checkRMSNormHeads(r *rig, t sparse.DType) error {
	rows, heads, width := 3, 2, 40
	x, w := r.values(t, rows, heads*width, heads*width, 1), r.gains(width)
	p := x.upload(r)
	if err := r.run("rmsnorm_heads_"+t.String(), dim(rows, heads), dim(64), 0, p, up(r, w), width, heads*width, float32(eps)); err != nil {
		return err
	}
	got, err := download(r, p, t, rows, heads*width, heads*width)
	if err != nil {
		return err
	}
	want := func(i, j int) float64 {
		at := i*heads*width + j/width*width
		return norm(x.v[at:at+width], w)(j % width)
	}
	return near(got, want, func(i, j int) float64 { return special*math.Abs(want(i, j)) + store(t, want(i, j)) })
}

func checkAddRMSNorm(r *rig, t sparse.DType, rows, width int) error {
	x, res, w := r.values(t, rows, width, width, 1), r.values(t, rows, width, width+2, 1), r.gains(width)
	y, px := space(r, t, rows, width, width), x.upload(r)
	if err := r.run("add_rmsnorm_"+t.String(), dim(rows), dim(256), 0,
		y, px, res.upload(r), up(r, w), width, width, width, width+2, float32(eps)); err != nil {
		return err
	}
	sum := &grid{t, rows, width, width, make([]float64, rows*width)}
	for i := range sum.v {
		sum.v[i] = round(t, float64(float32(x.v[i]+res.v[i])))
	}
	gotX, err := download(r, px, t, rows, width, width)
	if err != nil {
		return err
	}
	if err := near(gotX, sum.at, func(i, j int) float64 { return 0 }); err != nil {
		return fmt.Errorf("x: %w", err)
	}
	got, err := download(r, y, t, rows, width, width)
	if err != nil {
		return err
	}
	want := func(i, j int) float64 { return norm(sum.v[i*width:(i+1)*width], w)(j) }
	return near(got, want, func(i, j int) float64 { return special*math.Abs(want(i, j)) + store(t, want(i, j)) })
}

// checkBinary: y = f(a, b), three different strides.
func checkBinary(r *rig, kernel string, t sparse.DType, rows, width int, rel float64, f func(a, b float64) float64) error {
	a, b := r.values(t, rows, width, width+1, 2), r.values(t, rows, width, width+2, 2)
	y := space(r, t, rows, width, width+3)
	if err := r.run(kernel, dim((width+255)/256, rows), dim(256), 0,
		y, a.upload(r), b.upload(r), width, width+3, width+1, width+2); err != nil {
		return err
	}
	got, err := download(r, y, t, rows, width, width+3)
	if err != nil {
		return err
	}
	want := func(i, j int) float64 { return f(a.at(i, j), b.at(i, j)) }
	return near(got, want, func(i, j int) float64 { return rel*math.Abs(want(i, j)) + store(t, want(i, j)) })
}

func checkBiasAct(r *rig, t sparse.DType, rows, width, act int) error {
	x, bias := r.values(t, rows, width, width, 2), r.gains(width)
	pb := up(r, bias)
	if act == 0 { // without bias, too
		pb, bias = null, make([]float32, width)
	}
	y := space(r, t, rows, width, width)
	if err := r.run("bias_act_"+t.String(), dim((width+255)/256, rows), dim(256), 0, y, x.upload(r), pb, width, width, width, act); err != nil {
		return err
	}
	got, err := download(r, y, t, rows, width, width)
	if err != nil {
		return err
	}
	arg := func(i, j int) float64 { return x.at(i, j) + float64(bias[j]) }
	want := func(i, j int) float64 { return activation(act, arg(i, j)) }
	// tanh and GELU subtract from 1: their error is relative to 1, times the argument for GELU.
	return near(got, want, func(i, j int) float64 {
		return special*(1+math.Abs(arg(i, j))) + store(t, want(i, j))
	})
}

func checkEmbedding(r *rig, wt, t sparse.DType, width int) error {
	vocab := 11
	tokens := []int32{3, 0, 10, 3, -1, 11}
	y := space(r, t, len(tokens), width, width+1)
	table := make([]float64, vocab*width)
	var pw, ps any = null, null
	if wt == sparse.Int8 {
		q, scale := make([]int8, vocab*width), r.gains(vocab)
		for i := range q {
			q[i] = int8(r.rng.IntN(255) - 127)
			table[i] = float64(q[i]) * float64(scale[i/width])
		}
		pw, ps = up(r, q), up(r, scale)
	} else {
		g := r.values(wt, vocab, width, width, 1)
		table, pw = g.v, g.upload(r)
	}
	if err := r.run(fmt.Sprintf("embedding_%v_%v", wt, t), dim(len(tokens)), dim(64), 0,
		y, pw, ps, up(r, tokens), vocab, width, width+1); err != nil {
		return err
	}
	got, err := download(r, y, t, len(tokens), width, width+1)
	if err != nil {
		return err
	}
	want := func(i, j int) float64 {
		if id := int(tokens[i]); id >= 0 && id < vocab {
			return table[id*width+j]
		}
		return 0
	}
	return near(got, want, func(i, j int) float64 { return 0x1p-23*math.Abs(want(i, j)) + store(t, want(i, j)) })
}

func checkRope(r *rig, t sparse.DType, heads, headdim, rot, interleaved int) error {
	pos := []int32{0, 5, 2}
	rows, ld := len(pos), heads*headdim+1
	x := r.values(t, rows, heads*headdim, ld, 1)
	cos, sin := make([]float32, 6*rot/2), make([]float32, 6*rot/2)
	for i := range cos {
		a := float64(i/(rot/2)) * math.Pow(10000, -2*float64(i%(rot/2))/float64(rot))
		cos[i], sin[i] = float32(math.Cos(a)), float32(math.Sin(a))
	}
	p := x.upload(r)
	if err := r.run("rope_"+t.String(), dim(rows, heads), dim(32), 0, p, up(r, cos), up(r, sin), up(r, pos), ld, headdim, rot, interleaved); err != nil {
		return err
	}
	// Between the rows lies NaN from the upload, not 0xff: read without that check.
	want := func(i, j int) float64 {
		h, d := j/headdim*headdim, j%headdim
		if d >= rot {
			return x.at(i, j)
		}
		a, b, pair := d, d+rot/2, d
		second := d >= rot/2
		if second {
			a, b, pair = d-rot/2, d, d-rot/2
		}
		if interleaved == 1 {
			a, b, pair, second = d/2*2, d/2*2+1, d/2, d%2 == 1
		}
		c, s := float64(cos[int(pos[i])*rot/2+pair]), float64(sin[int(pos[i])*rot/2+pair])
		va, vb := x.at(i, h+a), x.at(i, h+b)
		if second {
			return va*s + vb*c
		}
		return va*c - vb*s
	}
	got, err := reread(r, p, t, rows, heads*headdim, ld)
	if err != nil {
		return err
	}
	return near(got, want, func(i, j int) float64 { return 0x1p-21 + store(t, want(i, j)) })
}

// reread is download for a grid that was uploaded: the gaps hold the upload's NaN.
func reread(r *rig, p ptxPtr, t sparse.DType, rows, cols, ld int) (*grid, error) {
	g := &grid{t, rows, cols, ld, make([]float64, rows*cols)}
	for i := range rows {
		row, err := download(r, p+ptxPtr(i*ld*int(t.Bits()/8)), t, 1, cols, cols)
		if err != nil {
			return nil, fmt.Errorf("row %d: %w", i, err)
		}
		copy(g.v[i*cols:], row.v)
	}
	return g, nil
}

func checkSoftmax(r *rig, t sparse.DType, rows, width int) error {
	x := r.values(t, rows, width, width+1, 3)
	scale := float32(.7)
	y := space(r, t, rows, width, width)
	if err := r.run("softmax_"+t.String(), dim(rows), dim(128), 0, y, x.upload(r), width, width, width+1, scale); err != nil {
		return err
	}
	got, err := download(r, y, t, rows, width, width)
	if err != nil {
		return err
	}
	want := func(i, j int) float64 {
		top, sum := math.Inf(-1), 0.
		for k := range width {
			top = math.Max(top, x.at(i, k))
		}
		for k := range width {
			sum += math.Exp((x.at(i, k) - top) * float64(scale))
		}
		return math.Exp((x.at(i, j)-top)*float64(scale)) / sum
	}
	return near(got, want, func(i, j int) float64 { return 4*special*want(i, j) + store(t, want(i, j)) })
}

// ranked is the order of argmax and topk: larger first, then smaller index.
func ranked(row []float64) []int {
	order := make([]int, len(row))
	for i := range order {
		order[i] = i
	}
	sort.SliceStable(order, func(a, b int) bool { return row[order[a]] > row[order[b]] })
	return order
}

// coarse makes ties likely.
func (r *rig) coarse(t sparse.DType, rows, width, ld int) *grid {
	x := r.values(t, rows, width, ld, 1)
	for i := range x.v {
		x.v[i] = math.Round(2*x.v[i]) / 2
	}
	return x
}

func checkArgmax(r *rig, t sparse.DType, rows, width int) error {
	x := r.coarse(t, rows, width, width+1)
	index := room[int32](r, rows)
	if err := r.run("argmax_"+t.String(), dim(rows), dim(128), 0, index, x.upload(r), width, width+1); err != nil {
		return err
	}
	for i, got := range down[int32](r, index, rows) {
		if want := ranked(x.v[i*width : (i+1)*width])[0]; int(got) != want {
			return fmt.Errorf("row %d: want index %d, got %d", i, want, got)
		}
	}
	return nil
}

func checkTopK(r *rig, t sparse.DType, rows, width, k int) error {
	x := r.coarse(t, rows, width, width+1)
	index, values := room[int32](r, rows*k), room[float32](r, rows*k)
	if k == 0 {
		index, values = null, null // nothing may be touched
	}
	if err := r.run("topk_"+t.String(), dim(rows), dim(128), 0, values, index, x.upload(r), width, width+1, k); err != nil {
		return err
	}
	gi, gv := down[int32](r, index, rows*k), down[float32](r, values, rows*k)
	for i := range rows {
		order := ranked(x.v[i*width : (i+1)*width])
		for n := range k {
			want, value := -1, math.Inf(-1)
			if n < width {
				want, value = order[n], x.at(i, order[n])
			}
			if int(gi[i*k+n]) != want || float64(gv[i*k+n]) != value {
				return fmt.Errorf("row %d place %d: want %d (%v), got %d (%v)", i, n, want, value, gi[i*k+n], gv[i*k+n])
			}
		}
	}
	return nil
}
