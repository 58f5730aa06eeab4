package kerneltest

import (
	"fmt"
	"math"
	"sort"

	"github.com/sparserun/sparserun/cuda/tile"
	"github.com/sparserun/sparserun/sparse"
)

func checkQuantise(r *rig, t sparse.DType, rows, width int) error {
	x := r.values(t, rows, width, width+1, 3)
	for j := range width { // the last row is zero
		x.v[(rows-1)*width+j] = 0
	}
	ldq := (width + 15) / 16 * 16
	q, scale := room[int8](r, rows*ldq), room[float32](r, rows)
	if err := r.run("quantise_int8_"+t.String(), dim(rows), dim(256), 0, q, scale, x.upload(r), width, ldq, width+1); err != nil {
		return err
	}
	gq, gs := down[int8](r, q, rows*ldq), down[float32](r, scale, rows)
	for i := range rows {
		var top float64
		for j := range width {
			top = math.Max(top, math.Abs(x.at(i, j)))
		}
		if !(math.Abs(float64(gs[i])-top/127) <= 1e-6*top) {
			return fmt.Errorf("row %d: want scale %v, got %v", i, top/127, gs[i])
		}
		for j := range ldq {
			var want float64
			if j < width && top > 0 {
				want = x.at(i, j) / top * 127
			}
			// Near a tie either neighbour is right: the quotient carries two roundings.
			if !(math.Abs(float64(gq[i*ldq+j])-want) <= .5+1e-4) {
				return fmt.Errorf("row %d column %d: want %v, got %d", i, j, want, gq[i*ldq+j])
			}
		}
	}
	return nil
}

func checkPrune(r *rig, t sparse.DType, out, in int, scored bool) error {
	w := r.coarse(t, out, in, in+1) // ties among magnitudes
	norms := r.gains(in)
	for j := range norms {
		norms[j] = float32(math.Abs(float64(norms[j])))
		if j%3 == 0 {
			norms[j] = 1
		}
	}
	pn := null
	if scored {
		pn = up(r, norms)
	} else {
		for j := range norms {
			norms[j] = 1
		}
	}
	ldm := (in + 15) / 16
	ldv := ldm * 8
	meta := room[uint16](r, out*ldm)
	values := space(r, t, out, ldv, ldv)
	if err := r.run("prune_nm24_"+t.String(), dim((ldm+127)/128, out), dim(128), 0,
		values, meta, w.upload(r), pn, in, in+1, ldv, ldm); err != nil {
		return err
	}
	gv, err := download(r, values, t, out, ldv, ldv)
	if err != nil {
		return err
	}
	gm := down[uint16](r, meta, out*ldm)
	for i := range out {
		for g := range ldm * 4 {
			score := make([]float64, 4)
			for q := range score {
				score[q] = -1
				if c := 4*g + q; c < in {
					score[q] = float64(float32(math.Abs(w.at(i, c))) * norms[c])
				}
			}
			top := ranked(score)[:2]
			sort.Ints(top)
			nibble := int(gm[i*ldm+g/4] >> (4 * (g % 4)) & 15)
			if want := top[0] | top[1]<<2; nibble != want {
				return fmt.Errorf("row %d group %d (%v): want nibble %d, got %d", i, g, score, want, nibble)
			}
			for n, q := range top {
				var want float64
				if c := 4*g + q; c < in {
					want = w.at(i, c)
				}
				if got := gv.at(i, 2*g+n); got != want {
					return fmt.Errorf("row %d group %d kept %d: want %v, got %v", i, g, n, want, got)
				}
			}
		}
	}
	return nil
}

func checkIm2col(r *rig, t sparse.DType) error {
	batch, ch, h, w, kh, kw := 2, 3, 7, 6, 3, 2
	sh, sw, ph, pw, dh, dw := 2, 1, 1, 2, 2, 3
	oh, ow := (h+2*ph-dh*(kh-1)-1)/sh+1, (w+2*pw-dw*(kw-1)-1)/sw+1
	x := r.values(t, batch, ch*h*w, ch*h*w, 1)
	cols, rows := ch*kh*kw, batch*oh*ow
	y := space(r, t, rows, cols, cols+2)
	if err := r.run("im2col_"+t.String(), dim((cols+255)/256, rows), dim(256), 0,
		y, x.upload(r), ch, h, w, kh, kw, oh, ow, sh, sw, ph, pw, dh, dw, cols+2); err != nil {
		return err
	}
	got, err := download(r, y, t, rows, cols, cols+2)
	if err != nil {
		return err
	}
	want := func(i, j int) float64 {
		ox, oy, b := i%ow, i/ow%oh, i/ow/oh
		kx, ky, c := j%kw, j/kw%kh, j/kw/kh
		iy, ix := oy*sh-ph+ky*dh, ox*sw-pw+kx*dw
		if iy < 0 || iy >= h || ix < 0 || ix >= w {
			return 0
		}
		return x.at(b, (c*h+iy)*w+ix)
	}
	return near(got, want, func(i, j int) float64 { return 0 })
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

// embeddingTileCheck looks rows up in packed tiles, exactly what those hold.
func embeddingTileCheck(wt sparse.DType, vocab, width int) check {
	name := fmt.Sprintf("embedding_tile_%v_f16", wt)
	return check{fmt.Sprintf("%s/%dx%d", name, vocab, width), []string{name}, func(r *rig) error {
		m, _ := r.canonical(tile.Form{Type: wt}, vocab, width, 1)
		p, err := tile.Pack(m)
		if err != nil {
			return err
		}
		scale := null
		if p.RowScale != nil {
			scale = up(r, p.RowScale)
		}
		tokens := []int32{int32(vocab - 1), 0, int32(vocab), int32(vocab / 2), -1, int32(vocab - 1)}
		for i := range 9 { // every place of a row in its tile
			tokens = append(tokens, int32((11*i+8)%vocab))
		}
		y := space(r, f16, len(tokens), width, width+1)
		if err := r.run(name, dim(len(tokens)), dim(64), 0, y, up(r, p.Data), scale, up(r, tokens), vocab, width, width+1); err != nil {
			return err
		}
		got, err := download(r, y, f16, len(tokens), width, width+1)
		if err != nil {
			return err
		}
		w := p.Read()
		return near(got, func(i, j int) float64 {
			if t := int(tokens[i]); t >= 0 && t < vocab {
				return round(f16, float64(w[t*width+j]))
			}
			return 0
		}, func(i, j int) float64 { return 0 })
	}}
}

func checkRound(r *rig, t sparse.DType, rows, width int) error {
	x := r.values(f16, rows, width, width+1, 1)
	ldq := (width + 15) / 16 * 16
	q := room[uint16](r, rows*ldq)
	if err := r.run("round_"+t.String()+"_f16", dim((ldq+255)/256, rows), dim(256), 0, q, x.upload(r), width, ldq, width+1); err != nil {
		return err
	}
	for n, got := range down[uint16](r, q, rows*ldq) {
		var want uint16
		if j := n % ldq; j < width {
			if want = sparse.F32ToF16(float32(x.at(n/ldq, j))); t == bf16 {
				want = sparse.F32ToBF16(float32(x.at(n/ldq, j)))
			}
		}
		if got != want {
			return fmt.Errorf("row %d column %d: want %#x, got %#x", n/ldq, n%ldq, want, got)
		}
	}
	return nil
}
