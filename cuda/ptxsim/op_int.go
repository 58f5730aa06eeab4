package ptxsim

import (
	"math/bits"
)

func sizeMask(t dtype) uint64 {
	if t.size() == 8 {
		return ^uint64(0)
	}
	return 1<<(8*t.size()) - 1
}

// slots2 resolves d, x, y of one type.
func (b *builder) slots2(t dtype) (d, x, y int32) {
	to, s := b.operands(t, t, t)
	return to.i, s[0].i, s[1].i
}

func decodeAddSub(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "ftz sat noftz ROUND")
	sub := st.op == "sub"
	if t.float() {
		return b.floatArith(st.op, t, ms)
	}
	if ms.has("sat") {
		if t != tS32 {
			panic(b.unsupported(".sat of %s", t))
		}
		return b.map2(t, t, t, func(x, y uint64) uint64 {
			if sub {
				y = -y
			}
			return uint64(max(min(int64(x+y), 1<<31-1), -1<<31))
		})
	}
	switch t.size() {
	case 4:
		d, x, y := b.slots2(t)
		if sub {
			return func(w *warp, m uint32) {
				p, q := w.in32(x, m), w.in32(y, m)
				o := w.out32(d, m)
				for i := range o {
					o[i] = p[i] - q[i]
				}
				w.put32(d, m)
			}
		}
		return func(w *warp, m uint32) {
			p, q := w.in32(x, m), w.in32(y, m)
			o := w.out32(d, m)
			for i := range o {
				o[i] = p[i] + q[i]
			}
			w.put32(d, m)
		}
	case 8:
		d, x, y := b.slots2(t)
		if sub {
			return func(w *warp, m uint32) {
				p, q := w.in64(x, m), w.in64(y, m)
				o := w.out64(d, m)
				for i := range o {
					o[i] = p[i] - q[i]
				}
				w.put64(d, m)
			}
		}
		return func(w *warp, m uint32) {
			p, q := w.in64(x, m), w.in64(y, m)
			o := w.out64(d, m)
			for i := range o {
				o[i] = p[i] + q[i]
			}
			w.put64(d, m)
		}
	}
	if sub {
		return b.map2(t, t, t, func(x, y uint64) uint64 { return x - y })
	}
	return b.map2(t, t, t, func(x, y uint64) uint64 { return x + y })
}

// mulHi is the upper half of the product of two values of type t.
func mulHi(t dtype, x, y uint64) uint64 {
	if t.size() < 8 {
		return uint64(int64(x*y) >> (8 * t.size()))
	}
	hi, _ := bits.Mul64(x, y)
	if t.signed() {
		if int64(x) < 0 {
			hi -= y
		}
		if int64(y) < 0 {
			hi -= x
		}
	}
	return hi
}

// wideOf doubles an integer type's width.
func wideOf(t dtype) dtype {
	switch t {
	case tU16:
		return tU32
	case tS16:
		return tS32
	case tU32:
		return tU64
	case tS32:
		return tS64
	}
	return tNone
}

func decodeMul(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "lo hi wide ftz sat noftz ROUND")
	switch {
	case t.float():
		return b.floatArith("mul", t, ms)
	case ms.has("wide"):
		wt := wideOf(t)
		if wt == tNone {
			panic(b.unsupported(".wide of %s", t))
		}
		if t == tS32 || t == tU32 {
			return b.mulWide(t, wt)
		}
		return b.map2(wt, t, t, func(x, y uint64) uint64 { return x * y })
	case ms.has("hi"):
		return b.map2(t, t, t, func(x, y uint64) uint64 { return mulHi(t, x, y) })
	case !ms.has("lo"):
		panic(b.unsupported("neither .lo, .hi nor .wide"))
	case t.size() == 4:
		d, x, y := b.slots2(t)
		return func(w *warp, m uint32) {
			p, q := w.in32(x, m), w.in32(y, m)
			o := w.out32(d, m)
			for i := range o {
				o[i] = p[i] * q[i]
			}
			w.put32(d, m)
		}
	}
	return b.map2(t, t, t, func(x, y uint64) uint64 { return x * y })
}

func decodeMad(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "lo hi wide ftz sat ROUND")
	switch {
	case t.float():
		return b.floatFma(t, ms)
	case ms.has("wide"):
		wt := wideOf(t)
		if wt == tNone {
			panic(b.unsupported(".wide of %s", t))
		}
		return b.map3(wt, t, t, wt, func(x, y, z uint64) uint64 { return x*y + z })
	case ms.has("hi"):
		if ms.has("sat") {
			panic(b.unsupported(".sat"))
		}
		return b.map3(t, t, t, t, func(x, y, z uint64) uint64 { return mulHi(t, x, y) + z })
	case !ms.has("lo"):
		panic(b.unsupported("neither .lo, .hi nor .wide"))
	}
	if t.size() == 4 && !ms.has("sat") {
		d, s := b.operands(t, t, t, t)
		return func(w *warp, m uint32) {
			x, y, z := w.in32(s[0].i, m), w.in32(s[1].i, m), w.in32(s[2].i, m)
			o := w.out32(d.i, m)
			for i := range o {
				o[i] = x[i]*y[i] + z[i]
			}
			w.put32(d.i, m)
		}
	}
	return b.map3(t, t, t, t, func(x, y, z uint64) uint64 { return x*y + z })
}

// mulWide multiplies 32-bit values into 64 bits.
func (b *builder) mulWide(t, wt dtype) execFn {
	d, s := b.operands(wt, t, t)
	if t == tU32 {
		return func(w *warp, m uint32) {
			x, y := w.in32(s[0].i, m), w.in32(s[1].i, m)
			o := w.out64(d.i, m)
			for i := range o {
				o[i] = uint64(x[i]) * uint64(y[i])
			}
			w.put64(d.i, m)
		}
	}
	return func(w *warp, m uint32) {
		x, y := w.in32(s[0].i, m), w.in32(s[1].i, m)
		o := w.out64(d.i, m)
		for i := range o {
			o[i] = uint64(int64(int32(x[i])) * int64(int32(y[i])))
		}
		w.put64(d.i, m)
	}
}

func decodeDiv(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "ftz approx full ROUND")
	if t.float() {
		if st.op == "rem" {
			panic(b.unsupported("rem of %s", t))
		}
		return b.floatArith("div", t, ms)
	}
	rem := st.op == "rem"
	return b.map2(t, t, t, func(x, y uint64) uint64 {
		switch {
		case y == 0: // PTX: unspecified, machine specific
			if rem {
				return x
			}
			return ^uint64(0)
		case t.signed() && y == ^uint64(0): // -1: avoids the overflow of MinInt64 / -1
			if rem {
				return 0
			}
			return -x
		case t.signed() && rem:
			return uint64(int64(x) % int64(y))
		case t.signed():
			return uint64(int64(x) / int64(y))
		case rem:
			return x % y
		}
		return x / y
	})
}

func decodeMinMax(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "ftz NaN xorsign abs relu")
	isMax := st.op == "max"
	if t.float() {
		return b.floatMinMax(isMax, t, ms)
	}
	if ms.has("relu") && t != tS32 {
		panic(b.unsupported(".relu of %s", t))
	}
	return b.map2(t, t, t, func(x, y uint64) uint64 {
		less := x < y
		if t.signed() {
			less = int64(x) < int64(y)
		}
		r := x
		if less == isMax {
			r = y
		}
		if ms.has("relu") && int64(r) < 0 {
			r = 0
		}
		return r
	})
}

func decodeNegAbs(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "ftz")
	neg := st.op == "neg"
	if t.float() {
		var sign uint64
		switch t {
		case tF16, tBF16:
			sign = 0x8000
		case tF16x2, tBF16x2:
			sign = 0x80008000
		case tF32:
			sign = 1 << 31
		default:
			sign = 1 << 63
		}
		return b.map1(t, t, func(x uint64) uint64 {
			if t == tF32 && ms.has("ftz") {
				x = uint64(flush(uint32(x)))
			}
			if neg {
				return x ^ sign
			}
			return x &^ sign
		})
	}
	return b.map1(t, t, func(x uint64) uint64 {
		if neg || int64(x) < 0 {
			return -x
		}
		return x
	})
}
