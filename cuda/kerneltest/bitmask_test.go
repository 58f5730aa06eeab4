package kerneltest

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/cuda/tile"
	"github.com/sparserun/sparserun/sparse"
)

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
