package kerneltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/sparserun/sparserun/cuda/tile"
	"github.com/sparserun/sparserun/sparse"
)

func TestTensorCore(t *testing.T)    { runChecks(t, tensorChecks()) }
func TestTensorCoreFP8(t *testing.T) { runChecks(t, fp8Checks()) }

// stages of each tile kernel, by BN: what tile_gemm.cuh instantiates.
func sharedBytes(f tile.Form, bn int) int {
	stages := map[int]int{128: 3, 64: 4, 32: 5, 16: 6}[bn]
	if !f.NM24 && f.Type != sparse.Int4 && bn <= 32 {
		stages--
	}
	return max(stages*(bn*128+2*f.Bytes()), bn*132*4)
}

func tileKernel(f tile.Form, bn int) string {
	op := "gemm"
	if f.NM24 {
		op = "spmm_nm24"
	}
	kind := f.Type.String()
	if f.Type == sparse.FP8 {
		kind = "e4m3"
	}
	return fmt.Sprintf("%s_%s_n%d", op, kind, bn)
}

func tensorChecks() []check {
	var cs []check
	for _, wt := range []sparse.DType{f16, bf16, sparse.Int8, sparse.Int4} {
		cs = append(cs, tileChecks(wt)...)
	}
	for _, t := range []sparse.DType{f16, bf16} {
		for _, bn := range []int{128, 64, 16} {
			for _, s := range []shape{
				{bn, 130, 136, .5, true}, {bn - 3, 64, 64, 1, false}, {1, 7, 200, 0, true}, {bn + 1, 66, 8, .3, true},
			} {
				cs = append(cs, bitmaskCheck(t, bn, 1, s))
			}
			for act := range 6 {
				cs = append(cs, bitmaskCheck(t, bn, 1, shape{1, 7 + act, 16, 1, true}))
			}
			cs = append(cs, bitmaskCheck(t, bn, 2, shape{5, 40, 200, .5, true}), bitmaskCheck(t, bn, 3, shape{4, 66, 128, .5, false}))
		}
	}
	for _, t := range []sparse.DType{f32, f16, bf16} {
		for act := range 6 {
			cs = append(cs, check{fmt.Sprintf("splitk_finish/%v/act%d", t, act), []string{"splitk_finish_" + t.String()},
				func(r *rig) error { return checkSplitK(r, t, 1+act, 5, 300, act) }})
		}
	}
	for _, wt := range []sparse.DType{f16, sparse.Int8} {
		for _, nm24 := range []bool{false, true} {
			for _, s := range [][2]int{{1, 1}, {64, 64}, {65, 172}, {192, 130}, {129, 300}} {
				cs = append(cs, packCheck(tile.Form{NM24: nm24, Type: wt}, s[0], s[1]))
			}
		}
	}
	return cs
}

func fp8Checks() []check {
	cs := tileChecks(sparse.FP8)
	for _, t := range []sparse.DType{f32, f16} {
		for _, s := range [][2]int{{1, 1}, {3, 33}, {2, 300}} {
			cs = append(cs, check{fmt.Sprintf("quantise_e4m3/%v/%dx%d", t, s[0], s[1]), []string{"quantise_e4m3_" + t.String()},
				func(r *rig) error { return checkQuantiseE4M3(r, t, s[0], s[1]) }})
		}
	}
	return cs
}

func tileChecks(wt sparse.DType) []check {
	var cs []check
	for _, nm24 := range []bool{true, false} {
		f := tile.Form{NM24: nm24, Type: wt}
		for _, bn := range []int{128, 64, 32, 16} {
			k := f.Columns()
			for _, s := range []shape{
				{bn, 128, 5 * k, 1, false}, {bn - 3, 130, 2*k + 16, .7, true}, {1, 7, 16, 1, true},
				{bn + 1, 66, k, 0, true}, {2, 192, 7*k + 48, 1, false},
			} {
				cs = append(cs, tileCheck(f, bn, 1, s))
			}
			for act := range 6 {
				cs = append(cs, tileCheck(f, bn, 1, shape{1, 7 + act, 16, 1, true}))
			}
			// The third split has nothing to do.
			cs = append(cs, tileCheck(f, bn, 3, shape{5, 70, 4*k + 16, 1, true}), tileCheck(f, bn, 3, shape{4, 66, 2 * k, 1, false}))
		}
	}
	return cs
}

// bytesOf is a grid of small integers as the bytes of type t (int8, e4m3).
func (g *grid) bytes(t sparse.DType, code func(x float64) byte) []byte {
	v := bytes.Repeat([]byte{0x7f}, max((g.rows-1)*g.ld+g.cols, 0))
	for i := range g.rows {
		for j := range g.cols {
			v[i*g.ld+j] = code(g.at(i, j))
		}
	}
	return v
}

// e4m3 is the code of a number that has one.
func e4m3(x float64) byte {
	for b := range 256 {
		if float64(sparse.FP8ToF32(byte(b))) == x {
			return byte(b)
		}
	}
	panic(fmt.Sprint("no e4m3 for ", x))
}

// canonical makes a matrix of package sparse from drawn weights.
func (r *rig) canonical(f tile.Form, out, in int, density float64) (sparse.Matrix, []float64) {
	pad := 1
	if f.Type == sparse.Int4 {
		pad = 2
	}
	w := r.makeWeights(f.Type, out, in, density, f.NM24, pad, 1)
	v := sparse.Values{Type: f.Type}
	switch f.Type {
	case f16, bf16:
		v.U16 = make([]uint16, len(w.v)/2)
		for i := range v.U16 {
			v.U16[i] = binary.LittleEndian.Uint16(w.v[2*i:])
		}
	default:
		v.Q = w.v
	}
	var q *sparse.Quant
	if f.Type.Quantised() {
		q = &sparse.Quant{Type: f32}
		if f.Type == sparse.Int4 {
			q.Group, q.Type = 64, f16
		}
		for range out * q.Groups(in) {
			q.Scales = append(q.Scales, sparse.F16ToF32(sparse.F32ToF16(float32(.01+.05*r.rng.Float64()))))
		}
	}
	if f.Type == sparse.FP8 { // any codes but NaN
		for i := range v.Q {
			v.Q[i] = v.Q[i] & 0xbf
		}
	}
	var m sparse.Matrix = &sparse.Dense{R: out, C: in, Values: v, Quant: q}
	if f.NM24 {
		ng := (in + 3) / 4
		n := &sparse.NM24{R: out, C: in, Values: v, Quant: q, Meta: make([]byte, out*((ng+1)/2))}
		for o := range out {
			for g := range ng {
				nibble := byte(w.meta[o*w.ldm+g/4] >> (4 * (g % 4)) & 15)
				n.Meta[o*((ng+1)/2)+g/2] |= nibble << (4 * (g % 2))
			}
		}
		m = n
	}
	dense, err := sparse.Read(m)
	if err != nil {
		panic(err)
	}
	exact := make([]float64, len(dense))
	for i := range dense {
		exact[i] = float64(dense[i])
		if f.Type == sparse.Int4 { // the kernel multiplies in f16
			exact[i] = round(f16, exact[i])
		}
	}
	return m, exact
}

// tileCheck multiplies packed tiles, k split over `splits` blocks.
func tileCheck(f tile.Form, bn, splits int, s shape) check {
	name := tileKernel(f, bn)
	covers := []string{name}
	return check{fmt.Sprintf("%s/z%d/%v", name, splits, s), covers, func(r *rig) error {
		m, exact := r.canonical(f, s.out, s.in, s.density)
		p, err := tile.Pack(m)
		if err != nil {
			return err
		}
		xt, yt := f16, f16
		if f.Type == bf16 {
			xt, yt = bf16, bf16
		}
		align := 8
		var x *grid
		var px, ptok, pscale ptxPtr
		tok := make([]float64, s.rows)
		for i := range tok {
			tok[i] = 1
		}
		if f.Type == sparse.Int8 || f.Type == sparse.FP8 {
			align = 16
			x = r.values(f32, s.rows, s.in, (s.in+align-1)/align*align+align, 1)
			code := func(v float64) byte { return byte(int8(v)) }
			for i := range x.v {
				x.v[i] = float64(r.rng.IntN(255) - 127)
				if f.Type == sparse.FP8 {
					x.v[i] = float64(sparse.FP8ToF32(byte(r.rng.IntN(0x70) | r.rng.IntN(2)<<7)))
				}
			}
			if f.Type == sparse.FP8 {
				code = e4m3
			}
			px = up(r, x.bytes(f.Type, code))
			t32 := r.gains(s.rows)
			for i := range tok {
				tok[i] = float64(t32[i])
			}
			ptok, pscale = up(r, t32), up(r, p.RowScale)
		} else {
			x = r.values(xt, s.rows, s.in, (s.in+7)/8*8+8, 1)
			px = x.upload(r)
			if s.extra { // scales are for every type
				t32, o32 := r.gains(s.rows), r.gains(s.out)
				for i := range tok {
					tok[i] = float64(t32[i])
				}
				for i := range exact {
					exact[i] *= float64(o32[i/s.in])
				}
				ptok, pscale = up(r, t32), up(r, o32)
			}
		}
		e := r.makeTail(yt, s.rows, s.out, s.extra, s.act())
		ldy := s.out + 3
		if s.rows%2 == 0 { // wide stores
			ldy = (s.out + 3) / 4 * 4
		}
		y := space(r, yt, s.rows, s.out, ldy)
		ws := null
		if splits > 1 {
			ws = room[float32](r, splits*s.rows*s.out)
		}
		if err := r.run(name, dim((s.out+127)/128, (s.rows+bn-1)/bn, splits), dim(128), sharedBytes(f, bn),
			y, px, up(r, p.Data), ws, ptok, pscale, e.pb, e.pr, s.rows, s.out, s.in, ldy, x.ld, e.ldr, e.act); err != nil {
			return err
		}
		if d := r.d.LastStats().MaxDegree(); d != 1 {
			return fmt.Errorf("bank conflicts: degree %d, want 1: %v", d, r.d.LastStats().Shared)
		}
		if splits > 1 {
			if err := r.run("splitk_finish_"+yt.String(), dim((s.out+255)/256, s.rows), dim(256), 0,
				y, ws, ptok, pscale, e.pb, e.pr, splits, s.rows, s.out, ldy, e.ldr, e.act); err != nil {
				return err
			}
		}
		got, err := download(r, y, yt, s.rows, s.out, ldy)
		if err != nil {
			return err
		}
		scaled := make([]float64, len(x.v))
		for i := range scaled {
			scaled[i] = x.v[i] * tok[i/s.in]
		}
		sum, size := product(&grid{xt, s.rows, s.in, s.in, scaled}, exact, s.in)
		return e.compare(got, s.in, sum, size)
	}}
}

func checkSplitK(r *rig, t sparse.DType, splits, rows, out, act int) error {
	ws := r.values(f32, splits*rows, out, out, 1)
	e := r.makeTail(t, rows, out, act > 0, act)
	tok, scale := r.gains(rows), r.gains(out)
	ptok, pscale := up(r, tok), up(r, scale)
	if act == 0 { // nothing but the sum
		ptok, pscale = null, null
		for i := range tok {
			tok[i] = 1
		}
		for i := range scale {
			scale[i] = 1
		}
	}
	y := space(r, t, rows, out, out+1)
	if err := r.run("splitk_finish_"+t.String(), dim((out+255)/256, rows), dim(256), 0,
		y, ws.upload(r), ptok, pscale, e.pb, e.pr, splits, rows, out, out+1, e.ldr, e.act); err != nil {
		return err
	}
	got, err := download(r, y, t, rows, out, out+1)
	if err != nil {
		return err
	}
	f := func(abs bool) func(i, o int) float64 {
		return func(i, o int) float64 {
			var v float64
			for z := range splits {
				p := ws.at(z*rows+i, o) * float64(tok[i]) * float64(scale[o])
				if abs {
					p = math.Abs(p)
				}
				v += p
			}
			return v
		}
	}
	return e.compare(got, splits, f(false), f(true))
}

func bitmaskCheck(t sparse.DType, bn, splits int, s shape) check {
	name := fmt.Sprintf("spmm_bitmask_%v_n%d", t, bn)
	return check{fmt.Sprintf("%s/z%d/%v", name, splits, s), []string{name}, func(r *rig) error {
		w := r.values(t, s.out, s.in, s.in, 1)
		single := make([]float32, len(w.v))
		for i := range w.v {
			if r.rng.Float64() >= s.density || i/s.in == 5 { // row 5 is empty
				w.v[i] = 0
			}
			single[i] = float32(w.v[i])
		}
		b, err := tile.PackBitmask(sparse.NewDense(s.out, s.in, single), t)
		if err != nil {
			return err
		}
		x := r.values(t, s.rows, s.in, s.in+8, 1)
		e := r.makeTail(t, s.rows, s.out, s.extra, s.act())
		pscale := null
		if s.extra {
			o32 := r.gains(s.out)
			for i := range w.v {
				w.v[i] *= float64(o32[i/s.in])
			}
			pscale = up(r, o32)
		}
		y, ws := space(r, t, s.rows, s.out, s.out+1), null
		if splits > 1 {
			ws = room[float32](r, splits*s.rows*s.out)
		}
		shared := max(16384+2*(bn*128+2*b.Max), bn*132*4)
		if err := r.run(name, dim((s.out+127)/128, (s.rows+bn-1)/bn, splits), dim(128), shared,
			y, x.upload(r), up(r, b.Data), up(r, b.Offset), b.Max, ws, pscale, e.pb, e.pr,
			s.rows, s.out, s.in, s.out+1, s.in+8, e.ldr, e.act); err != nil {
			return err
		}
		if d := r.d.LastStats().MaxDegree(); d != 1 {
			return fmt.Errorf("bank conflicts: degree %d, want 1: %v", d, r.d.LastStats().Shared)
		}
		if splits > 1 {
			if err := r.run("splitk_finish_"+t.String(), dim((s.out+255)/256, s.rows), dim(256), 0,
				y, ws, null, pscale, e.pb, e.pr, splits, s.rows, s.out, s.out+1, e.ldr, e.act); err != nil {
				return err
			}
		}
		got, err := download(r, y, t, s.rows, s.out, s.out+1)
		if err != nil {
			return err
		}
		sum, size := product(x, w.v, s.in)
		return e.compare(got, s.in, sum, size)
	}}
}

// packCheck: the device packs what the host's twin packs.
func packCheck(f tile.Form, out, in int) check {
	op, size := "pack_dense_b16", 16
	if f.Type == sparse.Int8 {
		size = 8
	}
	op = fmt.Sprintf("pack_dense_b%d", size)
	if f.NM24 {
		op = fmt.Sprintf("pack_nm24_b%d", size)
	}
	return check{fmt.Sprintf("%s/%dx%d", op, out, in), []string{op}, func(r *rig) error {
		m, _ := r.canonical(f, out, in, 1)
		p, err := tile.Pack(m)
		if err != nil {
			return err
		}
		packed := room[uint8](r, len(p.Data))
		mt, kt := f.Counts(out, in)
		switch m := m.(type) {
		case *sparse.Dense:
			err = r.run(op, dim(kt, mt), dim(128), 0, packed, r.raw(m.Values), out, in, in)
		case *sparse.NM24:
			ldm := (in + 15) / 16
			meta := make([]uint16, out*ldm)
			for o := range out {
				for g := range m.Groups() {
					meta[o*ldm+g/4] |= uint16(m.Nibble(o, g)) << (4 * (g % 4))
				}
			}
			err = r.run(op, dim(kt, mt), dim(128), 0, packed, r.raw(m.Values), up(r, meta), out, in, 2*m.Groups(), ldm)
		}
		if err != nil {
			return err
		}
		got := down[uint8](r, packed, len(p.Data))
		for i := range got {
			if got[i] != p.Data[i] {
				return fmt.Errorf("byte %d: want %#x, got %#x", i, p.Data[i], got[i])
			}
		}
		return nil
	}}
}

func (r *rig) raw(v sparse.Values) ptxPtr {
	if v.U16 != nil {
		return up(r, v.U16)
	}
	return up(r, v.Q)
}

func checkQuantiseE4M3(r *rig, t sparse.DType, rows, width int) error {
	x := r.values(t, rows, width, width+1, 3)
	for j := range width { // the last row is zero
		x.v[(rows-1)*width+j] = 0
	}
	ldq := (width + 15) / 16 * 16
	q, scale := room[uint8](r, rows*ldq), room[float32](r, rows)
	if err := r.run("quantise_e4m3_"+t.String(), dim(rows), dim(256), 0, q, scale, x.upload(r), width, ldq, width+1); err != nil {
		return err
	}
	gq, gs := down[uint8](r, q, rows*ldq), down[float32](r, scale, rows)
	for i := range rows {
		var top float64
		for j := range width {
			top = math.Max(top, math.Abs(x.at(i, j)))
		}
		if !(math.Abs(float64(gs[i])-top/448) <= 1e-6*top) {
			return fmt.Errorf("row %d: want scale %v, got %v", i, top/448, gs[i])
		}
		for j := range ldq {
			var want float64
			if j < width && top > 0 {
				want = x.at(i, j) / top * 448
			}
			got := float64(sparse.FP8ToF32(gq[i*ldq+j]))
			// Half an ulp of 3 mantissa bits, or of the smallest subnormal 2^-9.
			if !(math.Abs(got-want) <= math.Max(math.Abs(want)/16, 0x1p-10)*1.0001) { // NaN fails, too
				return fmt.Errorf("row %d column %d: want %v, got %v", i, j, want, got)
			}
		}
	}
	return nil
}

// Every kernel has a check.
func TestEveryKernelIsCovered(t *testing.T) {
	covered := map[string]bool{}
	for _, c := range allChecks() {
		for _, k := range c.covers {
			covered[k] = true
		}
	}
	for i, m := range newRig(t).mods {
		var missing []string
		for _, k := range m.Names() {
			if !covered[k] {
				missing = append(missing, k)
			}
		}
		if missing != nil {
			t.Errorf("kernels_%s.ptx: without a check: %s", families[i], strings.Join(missing, " "))
		}
	}
}

// allChecks is every check.
func allChecks() []check {
	var cs []check
	cs = append(cs, elementwiseChecks()...)
	cs = append(cs, linearChecks()...)
	cs = append(cs, attentionChecks()...)
	cs = append(cs, tensorChecks()...)
	return append(cs, fp8Checks()...)
}
