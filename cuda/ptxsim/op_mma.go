package ptxsim

import (
	"math"
	"strings"
)

// mmaShape is a decoded matrix instruction: D(16x8) = A(16xK) B(Kx8) + C.
// For sparse forms A holds K/2 columns and sel, ordered say how to place them.
type mmaShape struct {
	k, kc          int // depth, and columns of A as stored
	dt, at, bt, ct dtype
	sparse         bool
	ordered        bool
	sat            bool
	sel            int
	d, a, b, c     []slot
	e              slot
	aAt, bAt       []uint16 // places of the elements of A and B
}

// decodeMma is mma.sync and mma.sp. Sums are taken exactly enough (float64, or
// int64 for integers) and rounded once to D's type: the hardware's order and
// intermediate rounding are not specified and not imitated.
func decodeMma(b *builder, st *statement) execFn {
	s := mmaShape{}
	var types []dtype
	for _, m := range st.mods {
		switch m {
		case "sync", "aligned", "row", "col", "kind::f8f6f4":
		case "sp":
			s.sparse = true
		case "sp::ordered_metadata":
			s.sparse, s.ordered = true, true
		case "satfinite":
			s.sat = true
		case "m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32", "m16n8k64":
			s.k = int(atoi(strings.TrimPrefix(m, "m16n8k")))
		default:
			t, ok := dtypeByName[m]
			if !ok {
				panic(b.unsupported("suffix .%s", m))
			}
			types = append(types, t)
		}
	}
	if len(types) != 4 {
		panic(b.unsupported("%d types", len(types)))
	}
	s.dt, s.at, s.bt, s.ct = types[0], types[1], types[2], types[3]
	s.kc = s.k
	want := 4
	if s.sparse {
		s.kc, want = s.k/2, 6
	}
	b.args(want)
	if !s.valid() {
		panic(b.unsupported("combination of shape and types"))
	}
	b.mmaOperands(&s, st)
	if s.at.integer() {
		return s.runInt
	}
	return s.runFloat
}

func atoi(s string) (n int64) {
	for _, c := range s {
		n = 10*n + int64(c-'0')
	}
	return n
}

// valid lists what exists among the shapes handled here.
func (s *mmaShape) valid() bool {
	acc := s.dt == tF32 && s.ct == tF32
	switch s.at {
	case tF16:
		acc = acc || s.dt == tF16 && s.ct == tF16
		return acc && s.bt == tF16 && (s.kc == 8 || s.kc == 16)
	case tBF16:
		return acc && s.bt == tBF16 && (s.kc == 8 || s.kc == 16)
	case tTF32:
		return acc && s.bt == tTF32 && !s.sparse && (s.k == 4 || s.k == 8)
	case tS8, tU8:
		int8s := (s.bt == tS8 || s.bt == tU8) && s.dt == tS32 && s.ct == tS32
		return int8s && (s.kc == 32 || s.kc == 16 && !s.sparse)
	case tE4M3, tE5M2:
		acc = acc || s.dt == tF16 && s.ct == tF16
		return acc && (s.bt == tE4M3 || s.bt == tE5M2) && (s.kc == 32 || s.kc == 16 && !s.sparse)
	}
	return false
}

func (b *builder) mmaOperands(s *mmaShape, st *statement) {
	perReg := 4 / s.at.size()
	acc := 4
	if s.dt == tF16 {
		acc = 2
	}
	s.d = b.elements(st.args[0], acc, tB32, b.strictDst)
	s.a = b.elements(st.args[1], 16*s.kc/32/perReg, tB32, b.strict)
	s.b = b.elements(st.args[2], 8*s.k/32/perReg, tB32, b.strict)
	s.c = b.elements(st.args[3], acc, tB32, b.strict)
	s.aAt = places(len(s.a), s.at.size(), 32, s.aPos)
	s.bAt = places(len(s.b), s.bt.size(), 8, s.bPos)
	if !s.sparse {
		return
	}
	s.e = b.strict(st.args[4], tB32)
	if st.args[5].kind != argImm {
		panic(b.unsupported("sparsity selector is no constant"))
	}
	s.sel = int(st.args[5].bits)
	limit := 1 // k64 of 8-bit types
	if s.at.size() == 2 {
		limit = 64 / s.k // m16n8k32: a pair of the four lanes, m16n8k16: one of them
	}
	if s.sel < 0 || s.sel >= limit {
		panic(b.unsupported("sparsity selector %d, want less than %d", s.sel, limit))
	}
}

// aPos is row and column of element i of A in lane l; PTX ISA, figures of mma.
func (s *mmaShape) aPos(l, i int) (row, col int) {
	g, t := l>>2, l&3
	switch s.at.size() {
	case 2:
		return g + 8*(i>>1&1), 2*t + i&1 + 8*(i>>2)
	case 1:
		return g + 8*(i>>2&1), 4*t + i&3 + 16*(i>>3)
	}
	return g + 8*(i&1), t + 4*(i>>1) // tf32
}

// bPos is row (depth) and column of element i of B in lane l.
func (s *mmaShape) bPos(l, i int) (k, n int) {
	g, t := l>>2, l&3
	switch s.at.size() {
	case 2:
		return 2*t + i&1 + 8*(i>>1), g
	case 1:
		return 4*t + i&3 + 16*(i>>2), g
	}
	return t + 4*i, g
}

// places lists where each element of an operand goes in a row-major matrix with
// the given number of columns: by register, element within it, lane.
func places(regs, size, cols int, pos func(l, i int) (row, col int)) []uint16 {
	per := 4 / size
	out := make([]uint16, 0, 32*regs*per)
	for i := 0; i < regs*per; i++ {
		for l := 0; l < 32; l++ {
			r, c := pos(l, i)
			out = append(out, uint16(r*cols+c))
		}
	}
	return out
}

// fragment widens an operand of the whole warp with f into out.
func fragment[T any](w *warp, regs []slot, size int, at []uint16, f func(uint32) T, out []T) {
	mask := uint32(full)
	if size < 4 {
		mask = 1<<(8*size) - 1
	}
	for _, s := range regs {
		v := w.in32(s.i, full)
		for shift := 0; shift < 32; shift += 8 * size {
			to := at[:32]
			at = at[32:]
			for l := range v {
				out[to[l]] = f(v[l] >> shift & mask)
			}
		}
	}
}

// halves is fragment for f16, the type of the inner loops.
func halves(w *warp, regs []slot, at []uint16, out []float64) {
	for _, s := range regs {
		v := w.in32(s.i, full)
		lo, hi := at[:32], at[32:64]
		at = at[64:]
		for l, x := range v {
			out[lo[l]] = float64(halfToFloat(x & 0xffff))
			out[hi[l]] = float64(halfToFloat(x >> 16))
		}
	}
}

func floats(w *warp, regs []slot, t dtype, at []uint16, out []float64) {
	switch t {
	case tF16:
		halves(w, regs, at, out)
	case tBF16:
		fragment(w, regs, 2, at, func(x uint32) float64 { return float64(bfloatToFloat(x)) }, out)
	default:
		fragment(w, regs, t.size(), at, func(x uint32) float64 { return decodeFloat(uint64(x), t) }, out)
	}
}

// runFloat multiplies float fragments.
func (s *mmaShape) runFloat(w *warp, m uint32) {
	if m == 0 {
		return
	}
	var a [16 * 32]float64
	var b [64 * 8]float64
	floats(w, s.a, s.at, s.aAt, a[:])
	floats(w, s.b, s.bt, s.bAt, b[:])
	var at [16][32]uint8
	s.columns(w, &at)
	var d [16][8]float64
	for r := range d {
		var c0, c1, c2, c3, c4, c5, c6, c7 float64
		for c := 0; c < s.kc; c++ {
			k := int(at[r][c]&63) * 8
			x, y := a[r*32+c], (*[8]float64)(b[k:k+8])
			c0 += x * y[0]
			c1 += x * y[1]
			c2 += x * y[2]
			c3 += x * y[3]
			c4 += x * y[4]
			c5 += x * y[5]
			c6 += x * y[6]
			c7 += x * y[7]
		}
		d[r] = [8]float64{c0, c1, c2, c3, c4, c5, c6, c7}
	}
	if s.dt == tF16 {
		for r := range s.d {
			c := *w.in32(s.c[r].i, full)
			o := &w.r32[s.d[r].i]
			for l := range o {
				row := l>>2 + 8*r
				lo := d[row][2*(l&3)] + float64(halfToFloat(c[l]&0xffff))
				hi := d[row][2*(l&3)+1] + float64(halfToFloat(c[l]>>16))
				o[l] = fmtF16.encode(lo, roundNearest, false) | fmtF16.encode(hi, roundNearest, false)<<16
			}
			w.d32[s.d[r].i] = full
		}
		return
	}
	var c [4]lanes32
	for i := range c {
		c[i] = *w.in32(s.c[i].i, full)
	}
	for i := range s.d {
		o := &w.r32[s.d[i].i]
		for l := range o {
			v := d[l>>2+8*(i>>1)][2*(l&3)+i&1] + float64(math.Float32frombits(c[i][l]))
			o[l] = canonNaN(float32(v))
		}
		w.d32[s.d[i].i] = full
	}
}

// runInt multiplies 8-bit integers; sums wrap, or saturate with .satfinite.
func (s *mmaShape) runInt(w *warp, m uint32) {
	if m == 0 {
		return
	}
	ext := func(t dtype) func(uint32) int64 {
		return func(x uint32) int64 { return int64(t.sext(uint64(x))) }
	}
	var a [16 * 32]int64
	var b [64 * 8]int64
	fragment(w, s.a, 1, s.aAt, ext(s.at), a[:])
	fragment(w, s.b, 1, s.bAt, ext(s.bt), b[:])
	var at [16][32]uint8
	s.columns(w, &at)
	var c [4]lanes32
	for i := range c {
		c[i] = *w.in32(s.c[i].i, full)
	}
	var d [16][8]int64
	for r := range d {
		for c := 0; c < s.kc; c++ {
			k := int(at[r][c]&63) * 8
			x, y := a[r*32+c], (*[8]int64)(b[k:k+8])
			for n := range y {
				d[r][n] += x * y[n]
			}
		}
	}
	for i := range s.d {
		o := &w.r32[s.d[i].i]
		for l := range o {
			v := d[l>>2+8*(i>>1)][2*(l&3)+i&1] + int64(int32(c[i][l]))
			if s.sat {
				v = max(math.MinInt32, min(math.MaxInt32, v))
			}
			o[l] = uint32(v)
		}
		w.d32[s.d[i].i] = full
	}
}

// columns says which row of B each stored column of A meets.
func (s *mmaShape) columns(w *warp, at *[16][32]uint8) {
	if !s.sparse {
		for r := range at {
			for c := range at[r] {
				at[r][c] = uint8(c)
			}
		}
		return
	}
	for r := 0; r < 16; r++ {
		for q := 0; q < s.kc/2; q++ { // groups of four dense columns
			lane, shift := s.metadataPlace(r, q)
			nib := w.in32(s.e.i, 1<<lane)[lane] >> shift & 0xf
			lo, hi := nib&3, nib>>2
			if lo == hi || s.ordered && lo > hi {
				w.fail(KindMetadata, lane, "nibble %#x for row %d, columns %d-%d", nib, r, 4*q, 4*q+3)
			}
			at[r][2*q], at[r][2*q+1] = uint8(4*q)+uint8(lo), uint8(4*q)+uint8(hi)
		}
	}
}

// metadataPlace is the lane and the bit at which the nibble of row r, group q
// lies (cuda.md section 5). Lanes that the selector leaves out are never read.
func (s *mmaShape) metadataPlace(r, q int) (lane, shift int) {
	g := r & 7
	switch {
	case s.at.size() == 1: // k64: two lanes a row half, eight groups each
		return 4*g + r>>3 + 2*(q>>3), 4 * (q & 7)
	case s.k == 32: // k32: lanes 2f, 2f+1
		return 4*g + 2*s.sel + q>>2, 4*(q&3) + 16*(r>>3)
	}
	return 4*g + s.sel, 4*q + 16*(r>>3) // k16: lane f
}
