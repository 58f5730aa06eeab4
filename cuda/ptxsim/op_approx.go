package ptxsim

import (
	"math"
	"math/bits"
)

// approximations are exact functions rounded once: a GPU's differ in the last bits.
var approximations = map[string]func(float64) float64{
	"ex2": math.Exp2, "lg2": math.Log2, "sin": math.Sin, "cos": math.Cos, "tanh": math.Tanh,
	"rcp": func(x float64) float64 { return divOdd(1, x) }, "sqrt": sqrtOdd,
	"rsqrt": func(x float64) float64 {
		if x == 0 {
			return math.Copysign(math.Inf(1), x)
		}
		return 1 / math.Sqrt(x)
	},
}

// sqrtOdd is the square root rounded to odd.
func sqrtOdd(x float64) float64 {
	s := math.Sqrt(x)
	if s != s || s == 0 || math.IsInf(s, 0) {
		return s
	}
	r := math.FMA(-s, s, x)
	b := math.Float64bits(s)
	if r == 0 || b&1 == 1 {
		return s
	}
	if r > 0 {
		return math.Float64frombits(b + 1)
	}
	return math.Float64frombits(b - 1)
}

// decodeApprox is the one-operand functions, approximate and rounded.
func decodeApprox(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "approx ftz ftz64 ROUND")
	f, ftz, mode := approximations[st.op], ms.has("ftz"), ms.round
	if !t.float() {
		panic(b.unsupported("type %s", t))
	}
	if t == tF32 && mode == roundNearest {
		return b.approxFast(f, ftz)
	}
	if t == tF64 && st.op == "sqrt" {
		f = math.Sqrt
	} else if t == tF64 && st.op == "rcp" {
		f = func(x float64) float64 { return 1 / x }
	}
	one := func(e dtype, x uint64) uint64 {
		r := encodeFloat(f(decodeFloat(ftzIn(x, e, ftz), e)), e, mode, false)
		return ftzIn(r, e, ftz)
	}
	if t == tF16x2 || t == tBF16x2 {
		e := halfOf(t)
		return b.map1(t, t, func(x uint64) uint64 { return one(e, x&0xffff) | one(e, x>>16)<<16 })
	}
	return b.map1(t, t, func(x uint64) uint64 { return one(t, x) })
}

func (b *builder) approxFast(f func(float64) float64, ftz bool) execFn {
	b.args(2)
	d := b.strictDst(b.st.args[0], tF32)
	x := b.strict(b.st.args[1], tF32)
	return func(w *warp, m uint32) {
		p := w.in32(x.i, m)
		w.d32[d.i] |= m
		o := &w.r32[d.i]
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m) & 31
			v := p[i]
			if ftz {
				v = flush(v)
			}
			v = canonNaN(float32(f(float64(math.Float32frombits(v)))))
			if ftz {
				v = flush(v)
			}
			o[i] = v
		}
	}
}

func decodeCopysign(b *builder, st *statement) execFn {
	_, t := b.typed(st, "")
	sign := uint64(1) << (8*t.size() - 1)
	return b.map2(t, t, t, func(x, y uint64) uint64 { return x&sign | y&^sign }) // sign of the first
}

func decodeTestp(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "finite infinite number notanumber normal subnormal")
	b.args(2)
	d := b.pred(st.args[0])
	x := b.strict(st.args[1], t)
	smallest := 0x1p-126
	if t == tF64 {
		smallest = 0x1p-1022
	}
	return func(w *warp, m uint32) {
		x.check(w, m)
		var r uint32
		for i := 0; i < 32; i++ {
			v := math.Abs(decodeFloat(x.get(w, i), t))
			ok := false
			switch {
			case ms.has("finite"):
				ok = v <= math.MaxFloat64
			case ms.has("infinite"):
				ok = math.IsInf(v, 0)
			case ms.has("number"):
				ok = v == v
			case ms.has("notanumber"):
				ok = v != v
			case ms.has("normal"):
				ok = v >= smallest && v <= math.MaxFloat64
			case ms.has("subnormal"):
				ok = v > 0 && v < smallest
			}
			if ok {
				r |= 1 << i
			}
		}
		w.setPred(d.i, r, m)
	}
}
