package kerneltest

import (
	"bytes"
	"encoding/binary"
	"fmt"
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
			cs = append(cs, bitmaskCheck(t, bn, 2, shape{5, 40, 200, .5, true}), bitmaskCheck(t, bn, 3, shape{4, 66, 128, .5, false}),
				bitmaskCheck(t, bn, 4, shape{3, 20, 256, .5, true}), bitmaskCheck(t, bn, 9, shape{3, 20, 520, .5, true}))
		}
	}
	for _, wt := range []sparse.DType{f16, sparse.Int8} {
		for _, nm24 := range []bool{false, true} {
			for _, s := range [][2]int{{1, 1}, {64, 64}, {65, 172}, {192, 130}, {129, 300}} {
				cs = append(cs, packCheck(tile.Form{NM24: nm24, Type: wt}, s[0], s[1]))
			}
		}
	}
	for _, t := range []sparse.DType{f16, bf16} {
		for _, s := range [][2]int{{1, 1}, {3, 33}, {2, 300}} {
			name := fmt.Sprintf("round_%v_f16", t)
			cs = append(cs, check{fmt.Sprintf("%s/%dx%d", name, s[0], s[1]), []string{name}, func(r *rig) error { return checkRound(r, t, s[0], s[1]) }})
		}
	}
	for _, wt := range []sparse.DType{f16, bf16, sparse.Int8, sparse.Int4} {
		for _, s := range [][2]int{{1, 1}, {64, 64}, {65, 172}, {192, 130}, {129, 300}} {
			cs = append(cs, embeddingTileCheck(wt, s[0], s[1]))
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
			// The third split has nothing to do; 4 tiles of outputs and rows have tickets of their own.
			cs = append(cs, tileCheck(f, bn, 2, shape{bn + 2, 130, 2*k + 16, 1, true}), tileCheck(f, bn, 4, shape{3, 20, 4 * k, 1, true}),
				tileCheck(f, bn, 9, shape{3, 20, 8*k + 16, 1, true}), tileCheck(f, bn, 1, shape{bn/4 + 3, 20, 5 * k, 1, false}))
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
			xt = bf16
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
		if splits > 1 && s.extra { // in place: who adds twice is seen
			y, ldy = e.pr, e.ldr
		}
		ws, tickets, verify := r.splitK((s.out+127)/128*((s.rows+bn-1)/bn), splits, bn)
		if err := r.run(name, dim((s.out+127)/128, (s.rows+bn-1)/bn, splits), dim(128), sharedBytes(f, bn),
			y, px, up(r, p.Data), ws, tickets, ptok, pscale, e.pb, e.pr, s.rows, s.out, s.in, ldy, x.ld, e.ldr, e.act); err != nil {
			return err
		}
		if d := r.d.LastStats().MaxDegree(); d != 1 {
			return fmt.Errorf("bank conflicts: degree %d, want 1: %v", d, r.d.LastStats().Shared)
		}
		if err := verify(); err != nil {
			return err
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

// splitK is what splits of k share: room for the sums of every tile, which ends where the
// last of them does, and tickets; verify: the kernel leaves zeros in those.
func (r *rig) splitK(tiles, splits, bn int) (ws, tickets ptxPtr, verify func() error) {
	if splits == 1 {
		return null, null, func() error { return nil }
	}
	ws, tickets = room[float32](r, tiles*splits*bn*128), up(r, make([]uint32, tiles))
	return ws, tickets, func() error {
		for i, n := range down[uint32](r, tickets, tiles) {
			if n != 0 {
				return fmt.Errorf("ticket of tile %d: want 0, got %d", i, n)
			}
		}
		return nil
	}
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
