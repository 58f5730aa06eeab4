package ptxsim

import (
	"math"
)

// floatArith decodes add, sub, mul and div of every float type.
func (b *builder) floatArith(op string, t dtype, ms modset) execFn {
	mode, sat, ftz := ms.round, ms.has("sat"), ms.has("ftz")
	if t == tF32 && mode == roundNearest && !sat && !ftz && op != "div" {
		return b.floatFast(op)
	}
	f := func(x, y float64) float64 {
		switch op {
		case "add":
			return sumFor(mode, x, y)
		case "sub":
			return sumFor(mode, x, -y)
		case "mul":
			return x * y // exact for f32 and narrower
		}
		return divOdd(x, y)
	}
	switch t {
	case tF16x2, tBF16x2:
		if t == tF16x2 && mode == roundNearest && !sat && !ftz && op != "div" {
			return b.halvesFast(op)
		}
		e := halfOf(t)
		return b.map2(t, t, t, func(x, y uint64) uint64 {
			lo := floatOp(e, mode, sat, ftz, f, x&0xffff, y&0xffff)
			return lo | floatOp(e, mode, sat, ftz, f, x>>16, y>>16)<<16
		})
	case tF64:
		return b.map2(t, t, t, func(x, y uint64) uint64 {
			p, q := math.Float64frombits(x), math.Float64frombits(y)
			switch op {
			case "add":
				return math.Float64bits(p + q)
			case "sub":
				return math.Float64bits(p - q)
			case "mul":
				return math.Float64bits(p * q)
			}
			return math.Float64bits(p / q)
		})
	}
	return b.map2(t, t, t, func(x, y uint64) uint64 { return floatOp(t, mode, sat, ftz, f, x, y) })
}

func halfOf(t dtype) dtype {
	if t == tF16x2 {
		return tF16
	}
	return tBF16
}

// floatOp computes one narrow float result through float64.
func floatOp(t dtype, mode rounding, sat, ftz bool, f func(x, y float64) float64, x, y uint64) uint64 {
	r := encodeFloat(f(decodeFloat(ftzIn(x, t, ftz), t), decodeFloat(ftzIn(y, t, ftz), t)), t, mode, false)
	return finish(r, t, sat, ftz)
}

// ftzIn flushes a subnormal operand.
func ftzIn(x uint64, t dtype, ftz bool) uint64 {
	if !ftz {
		return x
	}
	if t == tF32 {
		return uint64(flush(uint32(x)))
	}
	if t == tF16 && x&0x7c00 == 0 {
		return x & 0x8000
	}
	return x
}

// finish flushes and saturates a result to [0, 1] as asked.
func finish(r uint64, t dtype, sat, ftz bool) uint64 {
	r = ftzIn(r, t, ftz)
	if sat {
		v := decodeFloat(r, t)
		switch {
		case !(v > 0): // NaN becomes +0 too
			return encodeFloat(0, t, roundNearest, false)
		case v > 1:
			return encodeFloat(1, t, roundNearest, false)
		}
	}
	return r
}

// divOdd is x/y rounded to odd.
func divOdd(x, y float64) float64 {
	q := x / y
	if math.IsInf(q, 0) || q != q || q == 0 {
		return q
	}
	r := math.FMA(-q, y, x) // exact remainder
	if r == 0 || math.Float64bits(q)&1 == 1 {
		return q
	}
	up := (r > 0) == (y > 0) // the true quotient is above q
	bitsQ := math.Float64bits(q)
	if up == (q > 0) {
		return math.Float64frombits(bitsQ + 1)
	}
	return math.Float64frombits(bitsQ - 1)
}

// floatFast is f32 add, sub and mul to nearest.
func (b *builder) floatFast(op string) execFn {
	d, x, y := b.slots2(tF32)
	switch op {
	case "add":
		return func(w *warp, m uint32) {
			p, q := w.in32(x, m), w.in32(y, m)
			o := w.out32(d, m)
			for i := range o {
				o[i] = canonNaN(math.Float32frombits(p[i]) + math.Float32frombits(q[i]))
			}
			w.put32(d, m)
		}
	case "sub":
		return func(w *warp, m uint32) {
			p, q := w.in32(x, m), w.in32(y, m)
			o := w.out32(d, m)
			for i := range o {
				o[i] = canonNaN(math.Float32frombits(p[i]) - math.Float32frombits(q[i]))
			}
			w.put32(d, m)
		}
	}
	return func(w *warp, m uint32) {
		p, q := w.in32(x, m), w.in32(y, m)
		o := w.out32(d, m)
		for i := range o {
			o[i] = canonNaN(math.Float32frombits(p[i]) * math.Float32frombits(q[i]))
		}
		w.put32(d, m)
	}
}

// halvesFast is f16x2 add, sub and mul to nearest by way of float32, whose 24
// bits are enough that rounding twice is rounding once (24 >= 2*11+2).
func (b *builder) halvesFast(op string) execFn {
	d, x, y := b.slots2(tF16x2)
	f := func(p, q float32) float32 { return p + q }
	switch op {
	case "sub":
		f = func(p, q float32) float32 { return p - q }
	case "mul":
		f = func(p, q float32) float32 { return p * q }
	}
	return func(w *warp, m uint32) {
		p, q := w.in32(x, m), w.in32(y, m)
		o := w.out32(d, m)
		for i := range o {
			lo := floatToHalf(f(halfToFloat(p[i]&0xffff), halfToFloat(q[i]&0xffff)))
			o[i] = lo | floatToHalf(f(halfToFloat(p[i]>>16), halfToFloat(q[i]>>16)))<<16
		}
		w.put32(d, m)
	}
}

// canonNaN gives the bits of x; every NaN is the canonical 0x7fffffff.
func canonNaN(x float32) uint32 {
	if x != x {
		return 0x7fffffff
	}
	return math.Float32bits(x)
}

// floatFma decodes fma and mad of floats: one rounding.
func (b *builder) floatFma(t dtype, ms modset) execFn {
	mode, sat, ftz, relu := ms.round, ms.has("sat"), ms.has("ftz"), ms.has("relu")
	if t == tF64 {
		if mode != roundNearest {
			panic(b.unsupported("rounding of f64"))
		}
		return b.map3(t, t, t, t, func(x, y, z uint64) uint64 {
			return math.Float64bits(math.FMA(math.Float64frombits(x), math.Float64frombits(y), math.Float64frombits(z)))
		})
	}
	if t == tF32 && mode == roundNearest && !sat && !ftz && !relu {
		return b.fmaFast()
	}
	one := func(e dtype, x, y, z uint64) uint64 {
		p := decodeFloat(ftzIn(x, e, ftz), e) * decodeFloat(ftzIn(y, e, ftz), e) // exact
		r := finish(encodeFloat(sumFor(mode, p, decodeFloat(ftzIn(z, e, ftz), e)), e, mode, false), e, sat, ftz)
		if relu && decodeFloat(r, e) < 0 {
			return 0
		}
		return r
	}
	if t == tF16x2 || t == tBF16x2 {
		e := halfOf(t)
		return b.map3(t, t, t, t, func(x, y, z uint64) uint64 {
			return one(e, x&0xffff, y&0xffff, z&0xffff) | one(e, x>>16, y>>16, z>>16)<<16
		})
	}
	return b.map3(t, t, t, t, func(x, y, z uint64) uint64 { return one(t, x, y, z) })
}

func (b *builder) fmaFast() execFn {
	b.args(4)
	d := b.strictDst(b.st.args[0], tF32)
	var s [3]slot
	for i := range s {
		s[i] = b.strict(b.st.args[i+1], tF32)
	}
	return func(w *warp, m uint32) {
		x, y, z := w.in32(s[0].i, m), w.in32(s[1].i, m), w.in32(s[2].i, m)
		o := w.out32(d.i, m)
		for i := range o {
			// fma32's quick case by hand: a finite normal result off the ties.
			s := float64(math.Float32frombits(x[i]))*float64(math.Float32frombits(y[i])) + float64(math.Float32frombits(z[i]))
			b := math.Float64bits(s)
			if e := b >> 52 & 0x7ff; b&0x1fffffff != 0x10000000 && e-(1023-126) < 0x7ff-(1023-126) {
				o[i] = math.Float32bits(float32(s))
			} else if b<<1 == 0 { // a zero sum is exact
				o[i] = uint32(b >> 32)
			} else {
				o[i] = canonNaN(fma32(math.Float32frombits(x[i]), math.Float32frombits(y[i]), math.Float32frombits(z[i])))
			}
		}
		w.put32(d.i, m)
	}
}

func decodeFma(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "ftz sat relu noftz oob ROUND")
	if !t.float() || ms.has("oob") {
		panic(b.unsupported("fma of %s", t))
	}
	return b.floatFma(t, ms)
}

// floatMinMax: a NaN loses unless .NaN; -0 is below +0.
func (b *builder) floatMinMax(isMax bool, t dtype, ms modset) execFn {
	if ms.has("abs") || ms.has("xorsign") || ms.has("relu") {
		panic(b.unsupported("suffix of a float minimum"))
	}
	pick := func(e dtype, x, y uint64) uint64 {
		x, y = ftzIn(x, e, ms.has("ftz")), ftzIn(y, e, ms.has("ftz"))
		p, q := decodeFloat(x, e), decodeFloat(y, e)
		switch {
		case p != p && q != q, ms.has("NaN") && (p != p || q != q):
			return encodeFloat(math.NaN(), e, roundNearest, false) & sizeMask(e)
		case p != p:
			return y
		case q != q:
			return x
		}
		less := p < q || p == q && math.Signbit(p) && !math.Signbit(q)
		if less == isMax {
			return y
		}
		return x
	}
	if t == tF16x2 || t == tBF16x2 {
		e := halfOf(t)
		return b.map2(t, t, t, func(x, y uint64) uint64 { return pick(e, x&0xffff, y&0xffff) | pick(e, x>>16, y>>16)<<16 })
	}
	return b.map2(t, t, t, func(x, y uint64) uint64 { return pick(t, x, y) })
}
