package ptxsim

import (
	"math/bits"
)

// one reports the single type of an instruction.
func (b *builder) one(ms modset) (dtype, error) {
	if len(ms.types) != 1 {
		return tNone, b.unsupported("%d types", len(ms.types))
	}
	return ms.types[0], nil
}

func sizeMask(t dtype) uint64 {
	if t.size() == 8 {
		return ^uint64(0)
	}
	return 1<<(8*t.size()) - 1
}

// slots2 resolves d, x, y of one type.
func (b *builder) slots2(t dtype) (d, x, y int32, err error) {
	if err = b.args(3); err != nil {
		return
	}
	var s [3]slot
	if s[0], err = b.strictDst(b.st.args[0], t); err != nil {
		return
	}
	for i := 1; i < 3; i++ {
		if s[i], err = b.strict(b.st.args[i], t); err != nil {
			return
		}
	}
	return s[0].i, s[1].i, s[2].i, nil
}

func decodeAddSub(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "ftz sat noftz ROUND")
	if err != nil {
		return nil, err
	}
	t, err := b.one(ms)
	if err != nil {
		return nil, err
	}
	sub := st.op == "sub"
	if t.float() {
		return b.floatArith(st.op, t, ms)
	}
	if ms.has("sat") {
		if t != tS32 {
			return nil, b.unsupported(".sat of %s", t)
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
		d, x, y, err := b.slots2(t)
		if err != nil {
			return nil, err
		}
		if sub {
			return func(w *warp, m uint32) {
				p, q := w.in32(x, m), w.in32(y, m)
				o := w.out32(d, m)
				for i := range o {
					o[i] = p[i] - q[i]
				}
				w.put32(d, m)
			}, nil
		}
		return func(w *warp, m uint32) {
			p, q := w.in32(x, m), w.in32(y, m)
			o := w.out32(d, m)
			for i := range o {
				o[i] = p[i] + q[i]
			}
			w.put32(d, m)
		}, nil
	case 8:
		d, x, y, err := b.slots2(t)
		if err != nil {
			return nil, err
		}
		if sub {
			return func(w *warp, m uint32) {
				p, q := w.in64(x, m), w.in64(y, m)
				o := w.out64(d, m)
				for i := range o {
					o[i] = p[i] - q[i]
				}
				w.put64(d, m)
			}, nil
		}
		return func(w *warp, m uint32) {
			p, q := w.in64(x, m), w.in64(y, m)
			o := w.out64(d, m)
			for i := range o {
				o[i] = p[i] + q[i]
			}
			w.put64(d, m)
		}, nil
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

func decodeMul(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "lo hi wide ftz sat noftz ROUND")
	if err != nil {
		return nil, err
	}
	t, err := b.one(ms)
	if err != nil {
		return nil, err
	}
	switch {
	case t.float():
		return b.floatArith("mul", t, ms)
	case ms.has("wide"):
		wt := wideOf(t)
		if wt == tNone {
			return nil, b.unsupported(".wide of %s", t)
		}
		return b.map2(wt, t, t, func(x, y uint64) uint64 { return x * y })
	case ms.has("hi"):
		return b.map2(t, t, t, func(x, y uint64) uint64 { return mulHi(t, x, y) })
	case !ms.has("lo"):
		return nil, b.unsupported("neither .lo, .hi nor .wide")
	case t.size() == 4:
		d, x, y, err := b.slots2(t)
		if err != nil {
			return nil, err
		}
		return func(w *warp, m uint32) {
			p, q := w.in32(x, m), w.in32(y, m)
			o := w.out32(d, m)
			for i := range o {
				o[i] = p[i] * q[i]
			}
			w.put32(d, m)
		}, nil
	}
	return b.map2(t, t, t, func(x, y uint64) uint64 { return x * y })
}

func decodeMad(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "lo hi wide ftz sat ROUND")
	if err != nil {
		return nil, err
	}
	t, err := b.one(ms)
	if err != nil {
		return nil, err
	}
	switch {
	case t.float():
		return b.floatFma(t, ms)
	case ms.has("wide"):
		wt := wideOf(t)
		if wt == tNone {
			return nil, b.unsupported(".wide of %s", t)
		}
		return b.map3(wt, t, t, wt, func(x, y, z uint64) uint64 { return x*y + z })
	case ms.has("hi"):
		if ms.has("sat") {
			return nil, b.unsupported(".sat")
		}
		return b.map3(t, t, t, t, func(x, y, z uint64) uint64 { return mulHi(t, x, y) + z })
	case !ms.has("lo"):
		return nil, b.unsupported("neither .lo, .hi nor .wide")
	}
	return b.map3(t, t, t, t, func(x, y, z uint64) uint64 { return x*y + z })
}

func decodeDiv(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "ftz approx full ROUND")
	if err != nil {
		return nil, err
	}
	t, err := b.one(ms)
	if err != nil {
		return nil, err
	}
	if t.float() {
		if st.op == "rem" {
			return nil, b.unsupported("rem of %s", t)
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

func decodeMinMax(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "ftz NaN xorsign abs relu")
	if err != nil {
		return nil, err
	}
	t, err := b.one(ms)
	if err != nil {
		return nil, err
	}
	isMax := st.op == "max"
	if t.float() {
		return b.floatMinMax(isMax, t, ms)
	}
	if ms.has("relu") && t != tS32 {
		return nil, b.unsupported(".relu of %s", t)
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

func decodeNegAbs(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "ftz")
	if err != nil {
		return nil, err
	}
	t, err := b.one(ms)
	if err != nil {
		return nil, err
	}
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
