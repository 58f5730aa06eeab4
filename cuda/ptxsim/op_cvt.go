package ptxsim

import (
	"math"
	"math/bits"
)

// decodeCvt converts between types. The register of a destination may be wider
// than its type: integers are then extended by sign, as PTX says.
func decodeCvt(b *builder, st *statement) execFn {
	if len(st.mods) > 0 && st.mods[0] == "pack" {
		return b.cvtPack(st)
	}
	ms := b.mods(st, "ftz sat satfinite relu ROUND")
	if len(ms.types) != 2 {
		panic(b.unsupported("%d types", len(ms.types)))
	}
	dt, t := ms.types[0], ms.types[1]
	switch {
	case len(st.args) == 3:
		return b.cvtPair(st, dt, t, ms)
	case dt.size() == 4 && (dt == tF16x2 || dt == tBF16x2):
		return b.cvtUnpackFP8(st, dt, t, ms)
	case dt == tE4M3x2 || dt == tE5M2x2:
		return b.cvtHalvesFP8(st, dt, t, ms)
	}
	b.args(2)
	d := b.dst(st.args[0], dt)
	x := b.src(st.args[1], t)
	if x.wide && !t.wide() { // cvt.u16.u32 from a wider register reads its low bits
		x.t = t
	} else if !x.wide && t.wide() {
		panic(b.unsupported("source of %d bytes", t.size()))
	}
	if !d.wide && dt.wide() {
		panic(b.unsupported("destination of %d bytes", dt.size()))
	}
	if f := b.cvtFast(d, x, dt, t, ms); f != nil {
		return f
	}
	f := converter(dt, t, ms)
	if f == nil {
		panic(b.unsupported("conversion"))
	}
	out := b.widen(st.args[0], dt)
	return func(w *warp, m uint32) {
		x.check(w, m)
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m)
			d.set(w, i, out(f(x.get(w, i))))
		}
	}
}

// widen says how a value of type t fills the register of operand a.
func (b *builder) widen(a operand, t dtype) func(uint64) uint64 {
	size := t.size()
	if a.kind == argReg {
		size = b.fn.regs[a.reg].typ.size()
	}
	mask := ^uint64(0)
	if size < 8 {
		mask = 1<<(8*size) - 1
	}
	return func(x uint64) uint64 { return t.sext(x) & mask }
}

// converter is the function on 64-bit images.
func converter(dt, t dtype, ms modset) func(uint64) uint64 {
	switch {
	case t.integer() && dt.integer():
		if ms.has("sat") {
			return func(x uint64) uint64 { return clampInt(x, t, dt) }
		}
		return func(x uint64) uint64 { return x & sizeMask(dt) }
	case t.integer():
		return func(x uint64) uint64 {
			if t == tU64 && dt != tF64 || t == tS64 && dt != tF64 {
				return finish(encodeFloat(oddInt(x, t), dt, ms.round, false), dt, ms.has("sat"), false)
			}
			v := float64(x)
			if t.signed() {
				v = float64(int64(x))
			}
			return finish(encodeFloat(v, dt, ms.round, ms.has("satfinite")), dt, ms.has("sat"), false)
		}
	case dt.integer():
		return func(x uint64) uint64 {
			return floatToInt(decodeFloat(ftzIn(x, t, ms.has("ftz")), t), dt, ms.round)
		}
	case !t.float() || !dt.float() && dt != tTF32:
		return nil
	}
	return func(x uint64) uint64 {
		v := decodeFloat(ftzIn(x, t, ms.has("ftz")), t)
		if dt == t && ms.isRnd { // cvt.rni.f32.f32: to an integral value
			v = roundIntegral(v, ms.round)
		}
		r := encodeFloat(v, dt, ms.round, ms.has("satfinite"))
		if ms.has("relu") && (v < 0 || v != v) {
			r = 0
		}
		return finish(r, dt, ms.has("sat"), ms.has("ftz"))
	}
}

// oddInt is a 64-bit integer as float64, rounded to odd.
func oddInt(x uint64, t dtype) float64 {
	neg := t.signed() && int64(x) < 0
	if neg {
		x = -x
	}
	if n := bits.Len64(x); n > 53 {
		lost := x&(1<<(n-53)-1) != 0
		x = x >> (n - 53)
		if lost {
			x |= 1
		}
		x <<= n - 53
	}
	if neg {
		return -float64(x)
	}
	return float64(x)
}

func intRange(t dtype) (lo, hi float64) {
	n := 8 * t.size()
	if t.signed() {
		return -math.Ldexp(1, n-1), math.Ldexp(1, n-1) - 1
	}
	return 0, math.Ldexp(1, n) - 1
}

// clampInt saturates an integer of type t to type dt.
func clampInt(x uint64, t, dt dtype) uint64 {
	n := 8 * dt.size()
	if t.signed() {
		v := int64(x)
		lo, hi := int64(-1)<<(n-1), int64(1)<<(n-1)-1
		if !dt.signed() {
			lo, hi = 0, math.MaxInt64
			if n < 64 {
				hi = 1<<n - 1
			}
		}
		return uint64(max(lo, min(hi, v))) & sizeMask(dt)
	}
	hi := sizeMask(dt)
	if dt.signed() {
		hi >>= 1
	}
	return min(x, hi)
}

func roundIntegral(v float64, mode rounding) float64 {
	switch mode {
	case roundZero:
		return math.Trunc(v)
	case roundDown:
		return math.Floor(v)
	case roundUp:
		return math.Ceil(v)
	}
	return math.RoundToEven(v)
}

// floatToInt clamps to the type's range; NaN becomes 0 for 32 bits and less,
// the top bit alone for 64 bits.
func floatToInt(v float64, dt dtype, mode rounding) uint64 {
	if v != v {
		if dt.size() == 8 {
			return 1 << 63
		}
		return 0
	}
	v = roundIntegral(v, mode)
	lo, hi := intRange(dt)
	switch {
	case v <= lo:
		if dt.signed() {
			return 1 << (8*dt.size() - 1)
		}
		return 0
	case v >= hi:
		if dt.signed() {
			return sizeMask(dt) >> 1
		}
		return sizeMask(dt)
	}
	if dt.signed() {
		return uint64(int64(v)) & sizeMask(dt)
	}
	return uint64(v)
}

// cvtFast has loops for the conversions of inner loops.
func (b *builder) cvtFast(d, x slot, dt, t dtype, ms modset) execFn {
	plain := ms.round == roundNearest && !ms.has("sat") && !ms.has("satfinite") && !ms.has("relu") && !ms.has("ftz")
	if !plain || d.wide || x.wide {
		return nil
	}
	var f func(p, o *lanes32)
	switch {
	case dt == tF32 && t == tF16:
		f = func(p, o *lanes32) {
			for i := range p {
				o[i] = canonNaN(halfToFloat(p[i] & 0xffff))
			}
		}
	case dt == tF32 && t == tBF16:
		f = func(p, o *lanes32) {
			for i := range p {
				o[i] = canonNaN(bfloatToFloat(p[i] & 0xffff))
			}
		}
	case dt == tF16 && t == tF32:
		f = func(p, o *lanes32) {
			for i := range p {
				o[i] = floatToHalf(math.Float32frombits(p[i]))
			}
		}
	case dt == tBF16 && t == tF32:
		f = func(p, o *lanes32) {
			for i := range p {
				o[i] = floatToBfloat(math.Float32frombits(p[i]))
			}
		}
	case dt == tF32 && t == tS32:
		f = func(p, o *lanes32) {
			for i := range p {
				o[i] = math.Float32bits(float32(int32(p[i])))
			}
		}
	default:
		return nil
	}
	return func(w *warp, m uint32) {
		p := w.in32(x.i, m)
		f(p, w.out32(d.i, m))
		w.put32(d.i, m)
	}
}

// cvtPair is cvt.f16x2.f32 d, hi, lo and its bf16 and fp8 twins.
func (b *builder) cvtPair(st *statement, dt, t dtype, ms modset) execFn {
	var e dtype
	switch dt {
	case tF16x2, tBF16x2:
		e = halfOf(dt)
	case tE4M3x2:
		e = tE4M3
	case tE5M2x2:
		e = tE5M2
	default:
		panic(b.unsupported("pair conversion"))
	}
	if t != tF32 {
		panic(b.unsupported("pair from %s", t))
	}
	one := func(x uint64) uint64 {
		v := decodeFloat(x, t)
		if ms.has("relu") && (v < 0 || v != v) {
			return 0
		}
		return encodeFloat(v, e, ms.round, ms.has("satfinite"))
	}
	width := 8 * e.size()
	out := tB16
	if dt.size() == 4 {
		out = tB32
	}
	return b.map2(out, t, t, func(hi, lo uint64) uint64 { return one(hi)<<width | one(lo) })
}

// cvtUnpackFP8 is cvt.rn.f16x2.e4m3x2 d, a.
func (b *builder) cvtUnpackFP8(st *statement, dt, t dtype, ms modset) execFn {
	e := tE4M3
	switch t {
	case tE4M3x2:
	case tE5M2x2:
		e = tE5M2
	default:
		panic(b.unsupported("conversion from %s", t))
	}
	one := func(x uint64) uint64 {
		v := decodeFloat(x&0xff, e)
		if ms.has("relu") && (v < 0 || v != v) {
			return 0
		}
		return encodeFloat(v, halfOf(dt), roundNearest, false)
	}
	return b.map1(dt, tB16, func(x uint64) uint64 { return one(x>>8)<<16 | one(x) })
}

// cvtHalvesFP8 is cvt.rn.satfinite.e4m3x2.f16x2 d, a.
func (b *builder) cvtHalvesFP8(st *statement, dt, t dtype, ms modset) execFn {
	e := tE4M3
	if dt == tE5M2x2 {
		e = tE5M2
	}
	if t != tF16x2 && t != tBF16x2 {
		panic(b.unsupported("conversion from %s", t))
	}
	one := func(x uint64) uint64 {
		return encodeFloat(decodeFloat(x&0xffff, halfOf(t)), e, ms.round, ms.has("satfinite"))
	}
	return b.map1(tB16, t, func(x uint64) uint64 { return one(x>>16)<<8 | one(x) })
}

// cvtPack is cvt.pack.sat.{u8,s8}.s32.b32 d, a, b, c: two integers saturated into
// the low bytes, the low half of c above them; and the 16-bit form without c.
func (b *builder) cvtPack(st *statement) execFn {
	if len(st.mods) < 4 || st.mods[1] != "sat" {
		panic(b.unsupported("form of cvt.pack"))
	}
	dt, t := dtypeByName[st.mods[2]], dtypeByName[st.mods[3]]
	if t != tS32 || dt.size() > 2 || !dt.integer() {
		panic(b.unsupported("types of cvt.pack"))
	}
	width := 8 * dt.size()
	if dt.size() == 2 {
		return b.map2(tB32, t, t, func(x, y uint64) uint64 { return clampInt(x, t, dt)<<width | clampInt(y, t, dt) })
	}
	return b.map3(tB32, t, t, tB32, func(x, y, z uint64) uint64 {
		return z<<16 | clampInt(x, t, dt)<<8 | clampInt(y, t, dt)
	})
}
