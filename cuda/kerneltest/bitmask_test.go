package kerneltest

import (
	"fmt"

	"github.com/sparserun/sparserun/cuda/tile"
	"github.com/sparserun/sparserun/sparse"
)

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
		e := r.makeTail(f16, s.rows, s.out, s.extra, s.act())
		pscale := null
		if s.extra {
			o32 := r.gains(s.out)
			for i := range w.v {
				w.v[i] *= float64(o32[i/s.in])
			}
			pscale = up(r, o32)
		}
		y := space(r, f16, s.rows, s.out, s.out+1)
		ws, tickets, verify := r.splitK((s.out+127)/128*((s.rows+bn-1)/bn), splits, bn)
		shared := max(16384+2*(bn*128+2*b.Max), bn*132*4)
		if err := r.run(name, dim((s.out+127)/128, (s.rows+bn-1)/bn, splits), dim(128), shared,
			y, x.upload(r), up(r, b.Data), up(r, b.Offset), b.Max, ws, tickets, pscale, e.pb, e.pr,
			s.rows, s.out, s.in, s.out+1, s.in+8, e.ldr, e.act); err != nil {
			return err
		}
		if d := r.d.LastStats().MaxDegree(); d != 1 {
			return fmt.Errorf("bank conflicts: degree %d, want 1: %v", d, r.d.LastStats().Shared)
		}
		if err := verify(); err != nil {
			return err
		}
		got, err := download(r, y, f16, s.rows, s.out, s.out+1)
		if err != nil {
			return err
		}
		sum, size := product(x, w.v, s.in)
		return e.compare(got, s.in, sum, size)
	}}
}
