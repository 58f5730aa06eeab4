package ptxsim

import (
	"math/bits"
)

// predLogic is and/or/xor on predicates.
func (b *builder) predLogic(op string) execFn {
	b.args(3)
	var p [3]predSlot
	for i := range p {
		p[i] = b.pred(b.st.args[i])
	}
	d, x, y := p[0].i, p[1], p[2]
	switch op {
	case "and":
		return func(w *warp, m uint32) { w.setPred(d, x.get(w, m)&y.get(w, m), m) }
	case "or":
		return func(w *warp, m uint32) { w.setPred(d, x.get(w, m)|y.get(w, m), m) }
	}
	return func(w *warp, m uint32) { w.setPred(d, x.get(w, m)^y.get(w, m), m) }
}

func decodeLogic(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	if t == tPred {
		return b.predLogic(st.op)
	}
	if t.size() != 4 {
		switch st.op {
		case "and":
			return b.map2(t, t, t, func(x, y uint64) uint64 { return x & y })
		case "or":
			return b.map2(t, t, t, func(x, y uint64) uint64 { return x | y })
		}
		return b.map2(t, t, t, func(x, y uint64) uint64 { return x ^ y })
	}
	d, x, y := b.slots2(t)
	switch st.op {
	case "and":
		return func(w *warp, m uint32) {
			p, q := w.in32(x, m), w.in32(y, m)
			o := w.out32(d, m)
			for i := range o {
				o[i] = p[i] & q[i]
			}
			w.put32(d, m)
		}
	case "or":
		return func(w *warp, m uint32) {
			p, q := w.in32(x, m), w.in32(y, m)
			o := w.out32(d, m)
			for i := range o {
				o[i] = p[i] | q[i]
			}
			w.put32(d, m)
		}
	}
	return func(w *warp, m uint32) {
		p, q := w.in32(x, m), w.in32(y, m)
		o := w.out32(d, m)
		for i := range o {
			o[i] = p[i] ^ q[i]
		}
		w.put32(d, m)
	}
}

func decodeNot(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	if t == tPred {
		b.args(2)
		d := b.pred(st.args[0])
		x := b.pred(st.args[1])
		return func(w *warp, m uint32) { w.setPred(d.i, ^x.get(w, m), m) }
	}
	if st.op == "cnot" {
		return b.map1(t, t, func(x uint64) uint64 {
			if x == 0 {
				return 1
			}
			return 0
		})
	}
	return b.map1(t, t, func(x uint64) uint64 { return ^x })
}

// decodeShift: amounts beyond the width are clamped to it, as PTX says.
func decodeShift(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	width := uint64(8 * t.size())
	if st.op == "shl" {
		if t.size() == 4 {
			b.args(3)
			if st.args[2].kind == argImm {
				return b.shlImm(t)
			}
		}
		return b.map2(t, t, tU32, func(x, y uint64) uint64 { return x << min(y, width) })
	}
	if t.size() == 4 && !t.signed() && len(st.args) == 3 && st.args[2].kind == argImm {
		d, s := b.operands(t, t, tU32)
		n := min(st.args[2].bits&0xffffffff, 32)
		return func(w *warp, m uint32) {
			p := w.in32(s[0].i, m)
			o := w.out32(d.i, m)
			for i := range o {
				o[i] = p[i] >> n
			}
			w.put32(d.i, m)
		}
	}
	if t.signed() {
		return b.map2(t, t, tU32, func(x, y uint64) uint64 { return uint64(int64(x) >> min(y, 63)) })
	}
	return b.map2(t, t, tU32, func(x, y uint64) uint64 { return x >> min(y, width) })
}

func (b *builder) shlImm(t dtype) execFn {
	d := b.strictDst(b.st.args[0], t)
	x := b.strict(b.st.args[1], t)
	n := min(b.st.args[2].bits&0xffffffff, 32)
	return func(w *warp, m uint32) {
		p := w.in32(x.i, m)
		o := w.out32(d.i, m)
		for i := range o {
			o[i] = p[i] << n
		}
		w.put32(d.i, m)
	}
}

// decodeFunnel is shf: a 64-bit value {hi:lo} shifted, one half kept.
func decodeFunnel(b *builder, st *statement) execFn {
	ms := b.mods(st, "l r clamp wrap")
	if ms.has("l") == ms.has("r") || ms.has("clamp") == ms.has("wrap") {
		panic(b.unsupported("direction or mode missing"))
	}
	return b.map3(tB32, tB32, tB32, tU32, func(lo, hi, n uint64) uint64 {
		if ms.has("wrap") {
			n &= 31
		} else {
			n = min(n, 32)
		}
		v := hi<<32 | lo
		if ms.has("l") {
			return v << n >> 32
		}
		return v >> n
	})
}

func decodeBfe(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	return b.map3(t, t, tU32, tU32, func(x, pos, n uint64) uint64 { return bitExtract(t, x, pos&0xff, n&0xff) })
}

// bitExtract is bfe: signed fields are filled with their top bit, or with the
// value's sign where they reach beyond it.
func bitExtract(t dtype, x, pos, n uint64) uint64 {
	width := uint64(8 * t.size())
	if n == 0 {
		return 0
	}
	var sbit uint64
	if t.signed() {
		sbit = x >> min(pos+n-1, width-1) & 1
	}
	x &= sizeMask(t)
	var r uint64
	if pos < width {
		r = x >> pos
		if k := min(n, width-pos); k < 64 {
			r &= 1<<k - 1
		}
	}
	if k := min(n, width-min(pos, width)); sbit == 1 && k < 64 {
		r |= ^uint64(0) << k
	}
	return r
}

// decodeBfi: d = b with n bits of a inserted at pos.
func decodeBfi(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	b.args(5)
	d := b.strictDst(st.args[0], t)
	var s [4]slot
	for i, ty := range []dtype{t, t, tU32, tU32} {
		s[i] = b.strict(st.args[i+1], ty)
	}
	mask := sizeMask(t)
	width := uint64(8 * t.size())
	return func(w *warp, m uint32) {
		for _, x := range s {
			x.check(w, m)
		}
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m)
			pos, n := s[2].get(w, i)&0xff, s[3].get(w, i)&0xff
			r := s[1].get(w, i)
			if pos < width && n > 0 {
				n = min(n, width-pos)
				field := (^uint64(0) >> (64 - n)) << pos
				r = r&^field | s[0].get(w, i)<<pos&field
			}
			d.set(w, i, r&mask)
		}
	}
}

func decodeBfind(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "shiftamt")
	width := 8 * t.size()
	return b.map1(tU32, t, func(x uint64) uint64 {
		if t.signed() && int64(x) < 0 {
			x = ^x
		}
		x &= sizeMask(t)
		if x == 0 {
			return 0xffffffff
		}
		top := bits.Len64(x) - 1
		if ms.has("shiftamt") {
			top = width - 1 - top
		}
		return uint64(top)
	})
}

// decodeCount is popc, clz and brev.
func decodeCount(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	switch st.op {
	case "popc":
		return b.map1(tU32, t, func(x uint64) uint64 { return uint64(bits.OnesCount64(x)) })
	case "clz":
		return b.map1(tU32, t, func(x uint64) uint64 { return uint64(8*t.size() - bits.Len64(x)) })
	}
	return b.map1(t, t, func(x uint64) uint64 { return bits.Reverse64(x) >> (64 - 8*t.size()) })
}
