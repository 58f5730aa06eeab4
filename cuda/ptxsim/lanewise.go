package ptxsim

// map1, map2 and map3 make an instruction of a function of one lane. Operands
// come widened to 64 bits by their types; results are cut to dt's size. The
// function runs for all 32 lanes, whatever they hold, so it must be total.

// scratch holds widened operands of the running instruction.
type scratch [3]lanes64

// load widens operand s for every lane into buf, or points at the register if
// there is nothing to widen.
func (s slot) load(w *warp, m uint32, buf *lanes64) *lanes64 {
	if s.wide {
		r := w.in64(s.i, m)
		if s.t.size() == 8 {
			return r
		}
		for i := range buf {
			buf[i] = s.t.sext(r[i])
		}
		return buf
	}
	r := w.in32(s.i, m)
	switch s.t {
	case tS32:
		for i := range buf {
			buf[i] = uint64(int64(int32(r[i])))
		}
	case tS16:
		for i := range buf {
			buf[i] = uint64(int64(int16(r[i])))
		}
	case tS8:
		for i := range buf {
			buf[i] = uint64(int64(int8(r[i])))
		}
	default:
		mask := uint32(sizeMask(s.t))
		for i := range buf {
			buf[i] = uint64(r[i] & mask)
		}
	}
	return buf
}

// store writes the results of the lanes of m.
func (s slot) store(w *warp, m uint32, v *lanes64) {
	if s.wide {
		o := w.out64(s.i, m)
		*o = *v
		w.put64(s.i, m)
		return
	}
	o := w.out32(s.i, m)
	mask := uint32(sizeMask(s.t))
	for i := range o {
		o[i] = uint32(v[i]) & mask
	}
	w.put32(s.i, m)
}

func (b *builder) operands(dt dtype, types ...dtype) (d slot, s [3]slot) {
	b.args(1 + len(types))
	for i, t := range types {
		s[i] = b.strict(b.st.args[i+1], t)
	}
	return b.strictDst(b.st.args[0], dt), s
}

func (b *builder) map1(dt, t dtype, f func(x uint64) uint64) execFn {
	d, s := b.operands(dt, t)
	return func(w *warp, m uint32) {
		x, o := s[0].load(w, m, &w.tmp[0]), &w.res
		for i := range o {
			o[i] = f(x[i])
		}
		d.store(w, m, o)
	}
}

func (b *builder) map2(dt, xt, yt dtype, f func(x, y uint64) uint64) execFn {
	d, s := b.operands(dt, xt, yt)
	return func(w *warp, m uint32) {
		x, y, o := s[0].load(w, m, &w.tmp[0]), s[1].load(w, m, &w.tmp[1]), &w.res
		for i := range o {
			o[i] = f(x[i], y[i])
		}
		d.store(w, m, o)
	}
}

func (b *builder) map3(dt, xt, yt, zt dtype, f func(x, y, z uint64) uint64) execFn {
	d, s := b.operands(dt, xt, yt, zt)
	return func(w *warp, m uint32) {
		x, y, z := s[0].load(w, m, &w.tmp[0]), s[1].load(w, m, &w.tmp[1]), s[2].load(w, m, &w.tmp[2])
		o := &w.res
		for i := range o {
			o[i] = f(x[i], y[i], z[i])
		}
		d.store(w, m, o)
	}
}
