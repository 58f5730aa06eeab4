package tensorop

import (
	"math"
	"sync"

	"github.com/sparserun/sparserun/model"
)

// smallFloat is a float of at most 8 bits (OCP 8-bit and MX formats, and the
// variants without negative zero).
type smallFloat struct {
	exp, man int // bits
	bias     int
	signed   bool
	infs     bool // all exponent bits set are infinity and NaN, as in IEEE 754
	fnuz     bool // no infinity, no negative zero: 0x80 is NaN
	nan      bool // has a NaN (the highest code, where there are no infinities)

	once sync.Once
	tab  [256]float64
}

var smallFloats = map[model.Elem]*smallFloat{
	model.ElemF8E4M3FN:   {exp: 4, man: 3, bias: 7, signed: true, nan: true},
	model.ElemF8E4M3FNUZ: {exp: 4, man: 3, bias: 8, signed: true, fnuz: true},
	model.ElemF8E5M2:     {exp: 5, man: 2, bias: 15, signed: true, infs: true, nan: true},
	model.ElemF8E5M2FNUZ: {exp: 5, man: 2, bias: 16, signed: true, fnuz: true},
	model.ElemF4E2M1:     {exp: 2, man: 1, bias: 1, signed: true},
	model.ElemF8E8M0:     {exp: 8, man: 0, bias: 127, nan: true},
}

func (f *smallFloat) bits() int { return f.exp + f.man }

// top is the highest finite code without sign.
func (f *smallFloat) top() int {
	n := 1<<f.bits() - 1
	switch {
	case f.infs:
		return n - 1<<f.man
	case f.nan:
		return n - 1
	}
	return n
}

func (f *smallFloat) value(code int) float64 {
	e, m := code>>f.man, code&(1<<f.man-1)
	if f.exp == 8 { // only powers of two, no zero
		return math.Ldexp(1, e-f.bias)
	}
	if e == 0 {
		return math.Ldexp(float64(m), 1-f.bias-f.man)
	}
	return math.Ldexp(float64(m+1<<f.man), e-f.bias-f.man)
}

// table is the value of every code.
func (f *smallFloat) table() *[256]float64 {
	f.once.Do(func() {
		n := 1 << f.bits()
		for c := range n {
			v := f.value(c)
			if c > f.top() {
				v = math.NaN()
				if f.infs && c == f.top()+1 {
					v = math.Inf(1)
				}
			}
			f.tab[c] = v
			if f.signed {
				f.tab[c+n] = -v
			}
		}
		if f.fnuz {
			f.tab[n] = math.NaN()
		}
	})
	return &f.tab
}

// encode rounds to nearest, ties to even codes.
func (f *smallFloat) encode(v float64, saturate bool) uint8 {
	n := 1 << f.bits()
	sign := 0
	if f.signed && math.Signbit(v) {
		sign = n
	}
	nan := n - 1 + sign
	if f.fnuz {
		nan = n
	}
	if f.exp == 8 {
		return f.encodeE8M0(v, saturate)
	}
	if v != v {
		if !f.nan && !f.fnuz {
			return uint8(n) // there is no NaN to be had: negative zero
		}
		return uint8(nan)
	}
	a := math.Abs(v)
	top := f.top()
	limit := f.value(top)
	// Half a step beyond the largest rounds to what would come next.
	half := limit + (limit-f.value(top-1))/2
	if math.IsInf(a, 0) || a > half || a == half && top&1 == 1 {
		switch {
		case f.infs && !saturate:
			return uint8(top + 1 + sign)
		case f.infs && math.IsInf(a, 0) && !saturate:
			return uint8(top + 1 + sign)
		case !saturate && (f.nan || f.fnuz):
			return uint8(nan)
		}
		return uint8(top + sign)
	}
	lo, hi := 0, top
	for lo < hi { // the largest code that is not above a
		mid := (lo + hi + 1) / 2
		if f.value(mid) <= a {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	if lo < top {
		d, u := a-f.value(lo), f.value(lo+1)-a
		if d > u || d == u && lo&1 == 1 {
			lo++
		}
	}
	if lo == 0 && f.fnuz {
		return 0
	}
	return uint8(lo + sign)
}

// encodeE8M0 rounds up to a power of two (the default mode of Cast).
func (f *smallFloat) encodeE8M0(v float64, saturate bool) uint8 {
	if v != v || math.IsInf(v, 0) {
		return 255
	}
	a := math.Abs(v)
	if a == 0 {
		return 0
	}
	m, e := math.Frexp(a) // a = m * 2^e, m in [0.5, 1)
	k := e - 1 + f.bias
	if m > 0.5 {
		k++
	}
	if k > 254 {
		if saturate {
			return 254
		}
		return 255
	}
	return uint8(max(0, k))
}
