package ptxsim

import "math/bits"

// The windows of generic addressing. Global addresses are their own generic
// addresses; shared and local offsets are moved up into their windows.
const (
	sharedWindow = uint64(0x7e0000000000)
	localWindow  = uint64(0x7d0000000000)
	windowSize   = uint64(1 << 32)
)

// decodeMov moves without reading: poison travels with the value.
func decodeMov(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	b.args(2)
	dst, src := st.args[0], st.args[1]
	switch {
	case t == tPred:
		return b.movPred(dst, src)
	case dst.kind == argVec:
		return b.unpack(dst, src, t)
	case src.kind == argVec:
		return b.pack(dst, src, t)
	}
	d := b.strictDst(dst, t)
	s := b.src(src, t)
	if s.wide != d.wide {
		if src.kind != argSpecial { // mov.u64 %rd, %clock and the like widen
			panic(b.unsupported("widths differ"))
		}
		return func(w *warp, m uint32) {
			for ; m != 0; m &= m - 1 {
				i := bits.TrailingZeros32(m)
				d.set(w, i, s.get(w, i))
			}
		}
	}
	if d.wide {
		return func(w *warp, m uint32) {
			w.d64[d.i] = w.d64[d.i]&^m | w.d64[s.i]&m
			o, p := &w.r64[d.i], &w.r64[s.i]
			if m == full {
				*o = *p
				return
			}
			for ; m != 0; m &= m - 1 {
				i := bits.TrailingZeros32(m) & 31
				o[i] = p[i]
			}
		}
	}
	return func(w *warp, m uint32) {
		w.d32[d.i] = w.d32[d.i]&^m | w.d32[s.i]&m
		o, p := &w.r32[d.i], &w.r32[s.i]
		if m == full {
			*o = *p
			return
		}
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m) & 31
			o[i] = p[i]
		}
	}
}

func (b *builder) movPred(dst, src operand) execFn {
	d := b.pred(dst)
	if src.kind == argImm {
		v := uint32(0)
		if src.bits != 0 {
			v = full
		}
		return func(w *warp, m uint32) { w.setPred(d.i, v, m) }
	}
	s := b.pred(src)
	return func(w *warp, m uint32) {
		def := w.dpr[s.i]
		v := w.pr[s.i]
		if s.neg {
			v = ^v
		}
		w.setPred(d.i, v, m)
		w.dpr[d.i] = w.dpr[d.i]&^m | def&m
	}
}

// partType is the type of one of n equal parts of t.
func (b *builder) partType(t dtype, n int) dtype {
	switch t.size() * 8 / max(n, 1) {
	case 8:
		return tB8
	case 16:
		return tB16
	case 32:
		return tB32
	}
	panic(b.unsupported("%d parts of %s", n, t))
}

// pack is mov.b32 d, {lo, hi}: one poisoned part poisons the whole.
func (b *builder) pack(dst, src operand, t dtype) execFn {
	pt := b.partType(t, len(src.list))
	d := b.strictDst(dst, t)
	parts := make([]slot, len(src.list))
	for i, a := range src.list {
		parts[i] = b.strict(a, pt)
	}
	width := 8 * pt.size()
	if len(parts) == 2 && !d.wide {
		lo, hi := parts[0].i, parts[1].i
		return func(w *warp, m uint32) {
			def := w.d32[lo] & w.d32[hi]
			p, q, o := &w.r32[lo], &w.r32[hi], w.out32(d.i, m)
			for i := range o {
				o[i] = p[i]&0xffff | q[i]<<16
			}
			w.put32(d.i, m)
			w.d32[d.i] &^= m &^ def
		}
	}
	return func(w *warp, m uint32) {
		def := full
		for _, p := range parts {
			def &= w.d32[p.i]
		}
		for mm := m; mm != 0; mm &= mm - 1 {
			i := bits.TrailingZeros32(mm)
			var v uint64
			for k, p := range parts {
				v |= p.get(w, i) << (k * width)
			}
			d.set(w, i, v)
		}
		if d.wide {
			w.d64[d.i] = w.d64[d.i]&^m | def&m
		} else {
			w.d32[d.i] = w.d32[d.i]&^m | def&m
		}
	}
}

// unpack is mov.b32 {lo, hi}, a.
func (b *builder) unpack(dst, src operand, t dtype) execFn {
	pt := b.partType(t, len(dst.list))
	s := b.strict(src, t)
	parts := make([]slot, len(dst.list))
	for i, a := range dst.list {
		parts[i] = b.strictDst(a, pt)
	}
	width, mask := 8*pt.size(), sizeMask(pt)
	if len(parts) == 2 && !s.wide && parts[0].i != s.i {
		return func(w *warp, m uint32) {
			known := w.d32[s.i]
			x := &w.r32[s.i]
			for k, p := range parts {
				shift := 16 * k
				o := w.out32(p.i, m)
				for i := range o {
					o[i] = x[i] >> shift & 0xffff
				}
				w.put32(p.i, m)
				w.d32[p.i] &^= m &^ known
			}
		}
	}
	return func(w *warp, m uint32) {
		def := w.d32
		if s.wide {
			def = w.d64
		}
		known := def[s.i]
		for mm := m; mm != 0; mm &= mm - 1 {
			i := bits.TrailingZeros32(mm)
			v := s.get(w, i)
			for k, p := range parts {
				p.set(w, i, v>>(k*width)&mask)
			}
		}
		for _, p := range parts {
			w.d32[p.i] &^= m &^ known
		}
	}
}

// decodeSelp: only the chosen operand must be defined, and poison travels.
func decodeSelp(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	b.args(4)
	d := b.strictDst(st.args[0], t)
	x := b.strict(st.args[1], t)
	y := b.strict(st.args[2], t)
	p := b.pred(st.args[3])
	if t.wide() {
		return func(w *warp, m uint32) {
			c := p.get(w, m)
			def := w.d64[x.i]&c | w.d64[y.i]&^c
			o, q, r := w.out64(d.i, m), &w.r64[x.i], &w.r64[y.i]
			for i := range o {
				if c>>i&1 != 0 {
					o[i] = q[i]
				} else {
					o[i] = r[i]
				}
			}
			w.put64(d.i, m)
			w.d64[d.i] &^= m &^ def
		}
	}
	return func(w *warp, m uint32) {
		c := p.get(w, m)
		def := w.d32[x.i]&c | w.d32[y.i]&^c
		o, q, r := w.out32(d.i, m), &w.r32[x.i], &w.r32[y.i]
		for i := range o {
			if c>>i&1 != 0 {
				o[i] = q[i]
			} else {
				o[i] = r[i]
			}
		}
		w.put32(d.i, m)
		w.d32[d.i] &^= m &^ def
	}
}

// decodeSlct: d = a if c >= 0 else b.
func decodeSlct(b *builder, st *statement) execFn {
	ms := b.mods(st, "ftz")
	if len(ms.types) != 2 {
		panic(b.unsupported("%d types", len(ms.types)))
	}
	t, ct := ms.types[0], ms.types[1]
	return b.map3(t, t, t, ct, func(x, y, c uint64) uint64 {
		if ct == tF32 && decodeFloat(c, ct) >= 0 || ct == tS32 && int64(c) >= 0 {
			return x
		}
		return y
	})
}

// decodeCvta converts between a state space and the generic space.
func decodeCvta(b *builder, st *statement) execFn {
	to, sp := false, spGeneric
	for _, m := range st.mods {
		if s, ok := spaceByName[m]; ok {
			sp = s
		} else if m == "to" {
			to = true
		} else if m != "u64" {
			panic(b.unsupported("suffix .%s", m))
		}
	}
	var base uint64
	switch sp {
	case spShared:
		base = sharedWindow
	case spLocal:
		base = localWindow
	case spGlobal, spConst, spParam:
	default:
		panic(b.unsupported("state space missing"))
	}
	if to {
		base = -base
	}
	return b.map1(tU64, tU64, func(x uint64) uint64 { return x + base })
}

func decodeIsspacep(b *builder, st *statement) execFn {
	if len(st.mods) != 1 {
		panic(b.unsupported("suffixes"))
	}
	sp, ok := spaceByName[st.mods[0]]
	if !ok {
		panic(b.unsupported("state space %s", st.mods[0]))
	}
	b.args(2)
	d := b.pred(st.args[0])
	x := b.strict(st.args[1], tU64)
	return func(w *warp, m uint32) {
		x.check(w, m)
		var r uint32
		for i := 0; i < 32; i++ {
			if s, _ := splitGeneric(x.get(w, i)); s == sp {
				r |= 1 << i
			}
		}
		w.setPred(d.i, r, m)
	}
}

// splitGeneric gives a generic address's space and the address within it.
func splitGeneric(a uint64) (space, uint64) {
	switch {
	case a-sharedWindow < windowSize:
		return spShared, a - sharedWindow
	case a-localWindow < windowSize:
		return spLocal, a - localWindow
	}
	return spGlobal, a
}

// decodeNothing is for hints and orderings that an in-order machine keeps anyway.
func decodeNothing(b *builder, st *statement) execFn {
	return func(*warp, uint32) {}
}

func decodeTrap(b *builder, st *statement) execFn {
	return func(w *warp, m uint32) {
		if m != 0 {
			w.fail(KindTrap, firstLane(m), "the kernel asked for it")
		}
	}
}
