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
}

// decodeMma is mma.sync and mma.sp. Sums are taken exactly enough (float64, or
// int64 for integers) and rounded once to D's type: the hardware's order and
// intermediate rounding are not specified and not imitated.
func decodeMma(b *builder, st *statement) (execFn, error) {
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
				return nil, b.unsupported("suffix .%s", m)
			}
			types = append(types, t)
		}
	}
	if len(types) != 4 {
		return nil, b.unsupported("%d types", len(types))
	}
	s.dt, s.at, s.bt, s.ct = types[0], types[1], types[2], types[3]
	s.kc = s.k
	want := 4
	if s.sparse {
		s.kc, want = s.k/2, 6
	}
	if err := b.args(want); err != nil {
		return nil, err
	}
	if !s.valid() {
		return nil, b.unsupported("combination of shape and types")
	}
	if err := b.mmaOperands(&s, st); err != nil {
		return nil, err
	}
	if s.at.integer() {
		return s.runInt, nil
	}
	return s.runFloat, nil
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

func (b *builder) mmaOperands(s *mmaShape, st *statement) (err error) {
	get := func(a operand, n int) ([]slot, error) {
		return b.elements(a, n, func(e operand) (slot, error) { return b.strict(e, tB32) })
	}
	perReg := 4 / s.at.size()
	acc := 4
	if s.dt == tF16 {
		acc = 2
	}
	if s.d, err = b.elements(st.args[0], acc, func(e operand) (slot, error) { return b.strictDst(e, tB32) }); err != nil {
		return err
	}
	if s.a, err = get(st.args[1], 16*s.kc/32/perReg); err != nil {
		return err
	}
	if s.b, err = get(st.args[2], 8*s.k/32/perReg); err != nil {
		return err
	}
	if s.c, err = get(st.args[3], acc); err != nil {
		return err
	}
	if !s.sparse {
		return nil
	}
	if s.e, err = b.strict(st.args[4], tB32); err != nil {
		return err
	}
	if st.args[5].kind != argImm {
		return b.unsupported("sparsity selector is no constant")
	}
	s.sel = int(st.args[5].bits)
	limit := 1 // k64 of 8-bit types
	if s.at.size() == 2 {
		limit = 64 / s.k // m16n8k32: a pair of the four lanes, m16n8k16: one of them
	}
	if s.sel < 0 || s.sel >= limit {
		return b.unsupported("sparsity selector %d, want less than %d", s.sel, limit)
	}
	return nil
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

// fragment widens one operand's registers of the whole warp with f and stores
// each element where pos says.
func fragment[T any](w *warp, regs []slot, size int, f func(uint32) T, put func(l, i int, v T)) {
	per := 4 / size
	mask := uint32(sizeMask(tB8))
	switch size {
	case 2:
		mask = 0xffff
	case 4:
		mask = full
	}
	for r, s := range regs {
		v := w.in32(s.i, full)
		for l := range v {
			for j := 0; j < per; j++ {
				put(l, r*per+j, f(v[l]>>(8*size*j)&mask))
			}
		}
	}
}

func floatDecoder(t dtype) func(uint32) float64 {
	switch t {
	case tF16:
		return func(x uint32) float64 { return float64(halfToFloat(x)) }
	case tBF16:
		return func(x uint32) float64 { return float64(bfloatToFloat(x)) }
	}
	return func(x uint32) float64 { return decodeFloat(uint64(x), t) }
}

// runFloat multiplies float fragments.
func (s *mmaShape) runFloat(w *warp, m uint32) {
	if m == 0 {
		return
	}
	var a [16][32]float64
	var b [64][8]float64
	fragment(w, s.a, s.at.size(), floatDecoder(s.at), func(l, i int, v float64) {
		r, c := s.aPos(l, i)
		a[r][c] = v
	})
	fragment(w, s.b, s.bt.size(), floatDecoder(s.bt), func(l, i int, v float64) {
		k, n := s.bPos(l, i)
		b[k][n] = v
	})
	var at [16][32]uint8
	s.columns(w, &at)
	var d [16][8]float64
	for r := range d {
		var c0, c1, c2, c3, c4, c5, c6, c7 float64
		for c := 0; c < s.kc; c++ {
			x, y := a[r][c], &b[at[r][c]&63]
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
	var a [16][32]int64
	var b [64][8]int64
	fragment(w, s.a, 1, ext(s.at), func(l, i int, v int64) {
		r, c := s.aPos(l, i)
		a[r][c] = v
	})
	fragment(w, s.b, 1, ext(s.bt), func(l, i int, v int64) {
		k, n := s.bPos(l, i)
		b[k][n] = v
	})
	var at [16][32]uint8
	s.columns(w, &at)
	var c [4]lanes32
	for i := range c {
		c[i] = *w.in32(s.c[i].i, full)
	}
	var d [16][8]int64
	for r := range d {
		for c := 0; c < s.kc; c++ {
			x, y := a[r][c], &b[at[r][c]&63]
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
