// Command convblock writes the assembly of convolutions over images in channel blocks:
// 16 channels of a pixel lie together, in one vector of AVX-512 or two of AVX2
// (avx2.go).
//
//	convBlock  dst[p, v] = max(bias[v] + sum_k src[off[k] + p*step] * w[k, v] + res[p, v], floor)
//	           for p pixels (at most 16) and 8v output channels, a pixel's channels
//	           broadcast, count times along the row; of an odd v the last 8 channels
//	           are in half a vector
//	winogradIn    V = B' d B of 6x6 pixels d, a vector of channels at once
//	winogradEdge  the same, n bytes on from src, of pixels that lie outside of the image or
//	           not: of one whose mask at w, 36 of 16 bits, is 0 nothing is read
//	winogradOut   dst = max(A' M A + bias + res, floor): 4x4 pixels
//	              (all three also for half a vector)
//	blockMax   dst[p] = max_k src[off[k] + p*step], NaN where one is
//	blockMean  dst = mean of n vectors, summed in float64
//	transpose16  [16 rows] of numbers to 16 numbers a row, and back
//
// The arguments are runtime/cpu's blockArgs, the same struct for all.
package main

import (
	"fmt"
	"math"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets in blockArgs.
const (
	aDst, aSrc, aOff, aW, aBias, aRes = 0, 8, 16, 24, 32, 40
	aN, aCount, aStep, aPix, aVec     = 48, 56, 64, 72, 80
	aSrcRow, aFloor                   = 88, 96
	aAtDst, aAtRes, aLeft             = 104, 112, 120 // a kernel's own
)

// most is the largest number of pixels at once for 1 to 4 registers of channels: 16 or
// 24 sums, the channels' weights and what is broadcast fit 32 registers.
var most = [5]int{0, 16, 12, 8, 6}

const avx512, avx2 = "AVX512", "AVX2"

// half is 8 channels: a processor that takes two cycles for a vector of 512 bits takes
// one for it.
func half() VecVirtual { return YMM() }
func full() VecVirtual { return ZMM() }

func main() {
	ConstraintExpr("amd64")
	for halves := 1; halves <= 8; halves++ {
		for p := 1; p <= most[(halves+1)/2]; p++ {
			block(avx512, full, halves, p)
		}
	}
	winogradIn("winogradIn", full, false)
	winogradIn("winogradInHalf", half, false)
	winogradIn("winogradEdge", full, true)
	winogradIn("winogradEdgeHalf", half, true)
	winogradOut("winogradOut", full)
	winogradOut("winogradOutHalf", half)
	blockMax()
	blockMean()
	transpose16()
	withAVX2()
	Generate()
}

// begin starts a kernel: arg is the address of an argument, load its value.
func begin(name string) (arg func(off int) Mem, load func(off int) GPVirtual) {
	return start(name + avx512)
}

func start(name string) (arg func(off int) Mem, load func(off int) GPVirtual) {
	TEXT(name, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	a := Load(Param("a"), GP64())
	arg = func(off int) Mem { return Mem{Base: a, Disp: off} }
	return arg, func(off int) GPVirtual { r := GP64(); MOVQ(arg(off), r); return r }
}

// sameLanes is as much of x as y has.
func sameLanes(x, y VecVirtual) Register {
	if y.Size() == 32 {
		return x.AsY()
	}
	return x
}

func at(base Register, disp int) Mem { return Mem{Base: base, Disp: disp} }

// pixels gives the address of each of p pixels in the channel whose offset is at off;
// step3 is three times the step from pixel to pixel.
func pixels(p int, off, src, step, step3 GPVirtual) func(i int) Mem {
	base := []GPVirtual{GP64()}
	MOVLQSX(Mem{Base: off}, base[0])
	ADDQ(src, base[0])
	for q := 1; 3*q < p; q++ {
		b := GP64()
		switch q {
		case 1, 2:
			LEAQ(Mem{Base: base[0], Index: step3, Scale: uint8(q)}, b)
		case 3:
			LEAQ(Mem{Base: base[1], Index: step3, Scale: 2}, b)
		case 4:
			LEAQ(Mem{Base: base[0], Index: step3, Scale: 4}, b)
		case 5:
			LEAQ(Mem{Base: base[1], Index: step3, Scale: 4}, b)
		}
		base = append(base, b)
	}
	return func(i int) Mem {
		m := Mem{Base: base[i/3]}
		if i%3 > 0 {
			m.Index, m.Scale = step, uint8(i%3)
		}
		return m
	}
}

// block is a kernel of AVX-512 or, where there is no vector longer than half, of AVX2,
// which broadcasts into a register and has 16 of those.
func block(isa string, longest func() VecVirtual, halves, p int) {
	arg, load := start(fmt.Sprintf("convBlock%dx%d%s", halves, p, isa))
	x := []VecVirtual{longest(), longest()}
	size := int(x[0].Size())
	v := (32*halves + size - 1) / size
	vector := func(j int) VecVirtual { // the j-th
		if size*(j+1) > 32*halves {
			return half()
		}
		return longest()
	}
	src, step := load(aSrc), load(aStep)
	// What changes from tile to tile stays in memory: registers are for addresses. It is
	// a copy, as what points past the end of something is no pointer to Go.
	for _, c := range [][2]int{{aDst, aAtDst}, {aRes, aAtRes}, {aCount, aLeft}} {
		MOVQ(load(c[0]), arg(c[1]))
	}
	step3 := GP64()
	LEAQ(Mem{Base: step, Index: step, Scale: 2}, step3)
	Label("tile")
	off, w, n, bias := load(aOff), load(aW), load(aN), load(aBias)
	acc := make([][]VecVirtual, p)
	for i := range acc {
		for j := range v {
			acc[i] = append(acc[i], vector(j))
			if i == 0 {
				VMOVUPS(at(bias, size*j), acc[0][j])
			} else {
				VMOVAPS(acc[0][j], acc[i][j])
			}
		}
	}
	Label("step")
	pixel := pixels(p, off, src, step, step3)
	ws := make([]VecVirtual, v)
	for j := range ws {
		ws[j] = vector(j)
		VMOVUPS(at(w, size*j), ws[j])
	}
	if v == 1 && isa == avx512 {
		for i := range p {
			VFMADD231PS_BCST(pixel(i), ws[0], acc[i][0])
		}
	} else {
		for i := range p {
			VBROADCASTSS(pixel(i), x[i%2])
			for j := range v {
				VFMADD231PS(sameLanes(x[i%2], ws[j]), ws[j], acc[i][j])
			}
		}
	}
	ADDQ(Imm(4), off)
	ADDQ(U32(uint32(32*halves)), w)
	DECQ(n)
	JNZ(LabelRef("step"))

	pix, vec := load(aPix), load(aVec)
	each := func(from GPVirtual, f func(m Mem, x VecVirtual)) {
		for j := range v {
			r := GP64()
			switch {
			case size*j%64 > 0: // the second half of a vector
				LEAQ(at(from, 32), r)
			case j == 0:
				MOVQ(from, r)
			default:
				LEAQ(Mem{Base: from, Index: vec, Scale: 1}, r)
				if j > 1 {
					ADDQ(vec, r)
				}
				if j > 2 {
					ADDQ(vec, r)
				}
			}
			for i := range p {
				f(Mem{Base: r}, acc[i][j])
				if i+1 < p {
					ADDQ(pix, r)
				}
			}
		}
	}
	res := load(aAtRes)
	TESTQ(res, res)
	JZ(LabelRef("alone"))
	each(res, func(m Mem, x VecVirtual) { VADDPS(m, x, x) })
	Label("alone")
	floor := x[0]
	VBROADCASTSS(arg(aFloor), floor)
	each(load(aAtDst), func(m Mem, x VecVirtual) {
		VMAXPS(x, sameLanes(floor, x), x) // NaN stays
		VMOVUPS(x, m)
	})
	// The next p pixels.
	d := GP64()
	IMUL3Q(Imm(uint64(p)), pix, d)
	ADDQ(d, arg(aAtDst))
	CMPQ(arg(aAtRes), Imm(0))
	JEQ(LabelRef("same"))
	ADDQ(d, arg(aAtRes))
	Label("same")
	IMUL3Q(Imm(uint64(p)), step, d)
	ADDQ(d, src)
	DECQ(arg(aLeft))
	JNZ(LabelRef("tile"))
	VZEROUPPER()
	RET()
}

// Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016) at the points 0,
// +-1/sqrt 2, +-sqrt 2 and infinity: their squares are 1/2 and 2, and float32 loses
// half as much as with 0, +-1, +-2.
var (
	pointA = float32(math.Sqrt(0.5))
	pointB = float32(math.Sqrt(2))
)

var constants = map[uint32]Mem{}

// constant is a vector of one number.
func constant(lanes func() VecVirtual, x float32) VecVirtual {
	bits := math.Float32bits(x)
	m, ok := constants[bits]
	if !ok {
		m = ConstData(fmt.Sprintf("block%08x", bits), U32(bits))
		constants[bits] = m
	}
	z := lanes()
	VBROADCASTSS(m, z)
	return z
}

// sixth is the address of vector j of 6 that lie step bytes apart; third is the address
// of the fourth.
func sixth(base, third, step Register, j int) Mem {
	m := Mem{Base: base}
	if j >= 3 {
		m.Base = third
	}
	if j%3 > 0 {
		m.Index, m.Scale = step, uint8(j%3)
	}
	return m
}

type inConstants struct{ half, two, twoHalf, a, b VecVirtual }

func newInConstants(lanes func() VecVirtual) inConstants {
	return inConstants{constant(lanes, 0.5), constant(lanes, 2), constant(lanes, 2.5), constant(lanes, pointA), constant(lanes, pointB)}
}

// transformIn is B' of 6 numbers.
func transformIn(lanes func() VecVirtual, c inConstants, x []VecVirtual, store func(j int, v VecVirtual)) {
	t := lanes()
	VADDPS(x[0], x[4], t)
	VFNMADD231PS(x[2], c.twoHalf, t)
	store(0, t)
	t = lanes()
	VADDPS(x[1], x[5], t)
	VFNMADD231PS(x[3], c.twoHalf, t)
	store(5, t)
	for k, c := range [][2]VecVirtual{{c.two, c.a}, {c.half, c.b}} {
		even, odd, plus := lanes(), lanes(), lanes()
		VMOVAPS(x[4], even)
		VFNMADD231PS(x[2], c[0], even)
		VMOVAPS(x[3], odd)
		VFNMADD231PS(x[1], c[0], odd)
		VMOVAPS(even, plus)
		VFMADD231PS(odd, c[1], plus)
		VFNMADD231PS(odd, c[1], even)
		store(1+2*k, plus)
		store(2+2*k, even)
	}
}

func winogradIn(name string, lanes func() VecVirtual, edge bool) {
	_, load := begin(name)
	c := newInConstants(lanes)
	src, row, dst, xi, count, plane := load(aSrc), load(aSrcRow), load(aDst), load(aPix), load(aCount), load(aVec)
	row3, xi3, xi6 := GP64(), GP64(), GP64()
	LEAQ(Mem{Base: row, Index: row, Scale: 2}, row3)
	LEAQ(Mem{Base: xi, Index: xi, Scale: 2}, xi3)
	LEAQ(Mem{Base: xi3, Index: xi3, Scale: 1}, xi6)
	lower := GP64()
	var masks GPVirtual
	if edge {
		masks = load(aW)
		ADDQ(load(aN), src)
	}
	Label("block")
	LEAQ(Mem{Base: src, Index: row3, Scale: 1}, lower)
	d := func(i, j int) Op {
		m := sixth(src, lower, row, i).Offset(64 * j)
		if edge {
			k, x := K(), lanes()
			KMOVW(Mem{Base: masks, Disp: 2 * (6*i + j)}, k)
			VMOVUPS_Z(m, k, x)
			return x
		}
		return m
	}
	// take is d in a register that may be written to.
	take := func(i, j int) VecVirtual {
		m := d(i, j)
		if edge {
			return m.(VecVirtual)
		}
		x := lanes()
		VMOVUPS(m, x)
		return x
	}
	// across transforms a row and stores it as row i of V.
	out, out3 := GP64(), GP64()
	MOVQ(dst, out)
	across := func(x []VecVirtual) {
		LEAQ(Mem{Base: out, Index: xi3, Scale: 1}, out3)
		transformIn(lanes, c, x, func(j int, v VecVirtual) { VMOVUPS(v, sixth(out, out3, xi, j)) })
	}
	// Rows 0 and 5 alone, the others in pairs.
	for i, rows := range [][]int{{0}, {1, 2}, {3, 4}, {5}} {
		x := [2][]VecVirtual{}
		for j := range 6 {
			switch i {
			case 0, 3:
				b := i / 3
				t := take(b, j)
				VADDPS(d(b+4, j), t, t)
				VFNMADD231PS(d(b+2, j), c.twoHalf, t)
				x[0] = append(x[0], t)
			default:
				q, p := c.two, c.a
				if i == 2 {
					q, p = c.half, c.b
				}
				even, odd, plus := take(4, j), take(3, j), lanes()
				VFNMADD231PS(d(2, j), q, even)
				VFNMADD231PS(d(1, j), q, odd)
				VMOVAPS(even, plus)
				VFMADD231PS(odd, p, plus)
				VFNMADD231PS(odd, p, even)
				x[0], x[1] = append(x[0], plus), append(x[1], even)
			}
		}
		for k := range rows {
			across(x[k])
			ADDQ(xi6, out)
		}
	}
	ADDQ(plane, src)
	ADDQ(Imm(64), dst)
	DECQ(count)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

type outConstants struct{ half, two, a, b, a3, b3 VecVirtual }

func newOutConstants(lanes func() VecVirtual) outConstants {
	return outConstants{constant(lanes, 0.5), constant(lanes, 2), constant(lanes, pointA), constant(lanes, pointB), constant(lanes, pointA/2), constant(lanes, 2*pointB)}
}

// even is y0 = x0 + s1 + s2 and y2 = s1/2 + 2 s2 of A' of 6 numbers, from the sums s of
// x1 + x2 and x3 + x4.
func (k outConstants) even(lanes func() VecVirtual, x0 Op, s1, s2 VecVirtual) (y0, y2 VecVirtual) {
	y2 = lanes()
	VMULPS(s1, k.half, y2)
	VFMADD231PS(s2, k.two, y2)
	VADDPS(s2, s1, s1)
	VADDPS(x0, s1, s1)
	return s1, y2
}

// odd is y1 = a d1 + b d2 and y3 = a^3 d1 + b^3 d2 + x5, from the differences.
func (k outConstants) odd(lanes func() VecVirtual, x5 Op, d1, d2 VecVirtual) (y1, y3 VecVirtual) {
	y1 = lanes()
	VMULPS(d1, k.a, y1)
	VFMADD231PS(d2, k.b, y1)
	VMULPS(d1, k.a3, d1)
	VFMADD231PS(d2, k.b3, d1)
	VADDPS(x5, d1, d1)
	return y1, d1
}

// transformOut is A' of 6 numbers, which it overwrites.
func transformOut(lanes func() VecVirtual, k outConstants, x []VecVirtual) []VecVirtual {
	s1, s2, d1, d2 := lanes(), lanes(), x[1], x[3]
	VADDPS(x[2], x[1], s1)
	VADDPS(x[4], x[3], s2)
	VSUBPS(x[2], x[1], d1)
	VSUBPS(x[4], x[3], d2)
	y := make([]VecVirtual, 4)
	y[0], y[2] = k.even(lanes, x[0], s1, s2)
	y[1], y[3] = k.odd(lanes, x[5], d1, d2)
	return y
}

func winogradOut(name string, lanes func() VecVirtual) {
	arg, load := begin(name)
	k := newOutConstants(lanes)
	floor := lanes()
	VBROADCASTSS(arg(aFloor), floor)
	src, xi, dst, row, bias, res, count, plane := load(aSrc), load(aPix), load(aDst), load(aSrcRow), load(aBias), load(aRes), load(aCount), load(aVec)
	xi3, xi6 := GP64(), GP64()
	LEAQ(Mem{Base: xi, Index: xi, Scale: 2}, xi3)
	LEAQ(Mem{Base: xi3, Index: xi3, Scale: 1}, xi6)
	Label("block")
	b := lanes()
	VMOVUPS(at(bias, 0), b)
	for h := range 2 {
		x := [2][]VecVirtual{}
		col := GP64()
		MOVQ(src, col)
		for j := range 6 {
			// Row i of column j of M is xi 6i+j.
			r3 := GP64()
			LEAQ(Mem{Base: col, Index: xi6, Scale: 1}, r3) // row 1
			m := func(i int) Mem {
				switch i {
				case 0:
					return Mem{Base: col}
				case 1:
					return Mem{Base: r3}
				case 2:
					return Mem{Base: r3, Index: xi6, Scale: 1}
				case 3:
					return Mem{Base: r3, Index: xi6, Scale: 2}
				case 5:
					return Mem{Base: r3, Index: xi6, Scale: 4}
				}
				return Mem{}
			}
			r4 := GP64()
			LEAQ(Mem{Base: col, Index: xi6, Scale: 4}, r4) // row 4
			u, w := lanes(), lanes()
			VMOVUPS(m(1), u)
			VMOVUPS(m(3), w)
			if h == 0 {
				VADDPS(m(2), u, u)
				VADDPS(Mem{Base: r4}, w, w)
				y0, y2 := k.even(lanes, m(0), u, w)
				x[0], x[1] = append(x[0], y0), append(x[1], y2)
			} else {
				VSUBPS(m(2), u, u)
				VSUBPS(Mem{Base: r4}, w, w)
				y1, y3 := k.odd(lanes, m(5), u, w)
				x[0], x[1] = append(x[0], y1), append(x[1], y3)
			}
			if j < 5 {
				ADDQ(xi, col)
			}
		}
		for pair := range 2 {
			r := 2*pair + h // row of the output
			y := transformOut(lanes, k, x[pair])
			for c := range y {
				VADDPS(b, y[c], y[c])
			}
			to := func(base GPVirtual) func(c int) Mem {
				p := base
				if r == 3 {
					p = GP64()
					LEAQ(Mem{Base: base, Index: row, Scale: 1}, p)
				}
				return func(c int) Mem {
					m := Mem{Base: p, Disp: 64 * c}
					switch r {
					case 1, 2:
						m.Index, m.Scale = row, uint8(r)
					case 3:
						m.Index, m.Scale = row, 2
					}
					return m
				}
			}
			skip := fmt.Sprintf("alone%d", r)
			TESTQ(res, res)
			JZ(LabelRef(skip))
			from := to(res)
			for c := range y {
				VADDPS(from(c), y[c], y[c])
			}
			Label(skip)
			into := to(dst)
			for c := range y {
				VMAXPS(y[c], floor, y[c])
				VMOVUPS(y[c], into(c))
			}
		}
	}
	ADDQ(Imm(64), src)
	ADDQ(Imm(64), bias)
	ADDQ(plane, dst)
	TESTQ(res, res)
	JZ(LabelRef("same"))
	ADDQ(plane, res)
	Label("same")
	DECQ(count)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

func blockMax() {
	_, load := begin("blockMax")
	dst, src, count, step := load(aDst), load(aSrc), load(aCount), load(aStep)
	nan := constant(full, float32(math.NaN()))
	Label("pixel")
	off, n := load(aOff), load(aN)
	acc, p, bad, k := ZMM(), GP64(), K(), K()
	MOVLQSX(Mem{Base: off}, p)
	VMOVUPS(Mem{Base: src, Index: p, Scale: 1}, acc)
	VCMPPS(Imm(3), acc, acc, bad)
	JMP(LabelRef("next"))
	Label("more")
	MOVLQSX(Mem{Base: off}, p)
	x := ZMM()
	VMOVUPS(Mem{Base: src, Index: p, Scale: 1}, x)
	VCMPPS(Imm(3), x, x, k)
	KORW(k, bad, bad)
	VMAXPS(x, acc, acc)
	Label("next")
	ADDQ(Imm(4), off)
	DECQ(n)
	JNZ(LabelRef("more"))
	VMOVAPS(nan, bad, acc)
	VMOVUPS(acc, Mem{Base: dst})
	ADDQ(Imm(64), dst)
	ADDQ(step, src)
	DECQ(count)
	JNZ(LabelRef("pixel"))
	VZEROUPPER()
	RET()
}

func blockMean() {
	_, load := begin("blockMean")
	dst, src, n := load(aDst), load(aSrc), load(aN)
	lo, hi := ZMM(), ZMM()
	VPXORQ(lo, lo, lo)
	VPXORQ(hi, hi, hi)
	by := ZMM()
	d := XMM()
	CVTSQ2SD(n, d)
	VBROADCASTSD(d, by)
	Label("add")
	a, b := ZMM(), ZMM()
	VCVTPS2PD(Mem{Base: src}, a)
	VCVTPS2PD(Mem{Base: src, Disp: 32}, b)
	VADDPD(a, lo, lo)
	VADDPD(b, hi, hi)
	ADDQ(Imm(64), src)
	DECQ(n)
	JNZ(LabelRef("add"))
	for i, s := range []VecVirtual{lo, hi} {
		VDIVPD(by, s, s)
		y := YMM()
		VCVTPD2PS(s, y)
		VMOVUPS(y, Mem{Base: dst, Disp: 32 * i})
	}
	VZEROUPPER()
	RET()
}

// transpose16: count squares of 16x16, rows step (source) and pix (destination)
// bytes apart, squares srcRow and vec bytes.
func transpose16() {
	_, load := begin("transpose16")
	dst, src, sld, dld, sadv, dadv, count := load(aDst), load(aSrc), load(aStep), load(aPix), load(aSrcRow), load(aVec), load(aCount)
	Label("square")
	p := GP64()
	MOVQ(src, p)
	x := make([]VecVirtual, 16)
	for i := range x {
		x[i] = ZMM()
		VMOVUPS(Mem{Base: p}, x[i])
		if i < 15 {
			ADDQ(sld, p)
		}
	}
	pairs := func(lo, hi func(ops ...Op), a, b int) (VecVirtual, VecVirtual) {
		l, h := ZMM(), x[a]
		lo(x[b], x[a], l)
		hi(x[b], x[a], h)
		return l, h
	}
	y := make([]VecVirtual, 16)
	for i := 0; i < 16; i += 2 { // 32-bit pairs of rows i, i+1
		y[i], y[i+1] = pairs(func(o ...Op) { VUNPCKLPS(o[0], o[1], o[2]) }, func(o ...Op) { VUNPCKHPS(o[0], o[1], o[2]) }, i, i+1)
	}
	copy(x, y)
	for i := 0; i < 16; i += 4 { // 64-bit pairs: columns 0..3 of each 128-bit lane, of 4 rows
		y[i], y[i+1] = pairs(func(o ...Op) { VUNPCKLPD(o[0], o[1], o[2]) }, func(o ...Op) { VUNPCKHPD(o[0], o[1], o[2]) }, i, i+2)
		y[i+2], y[i+3] = pairs(func(o ...Op) { VUNPCKLPD(o[0], o[1], o[2]) }, func(o ...Op) { VUNPCKHPD(o[0], o[1], o[2]) }, i+1, i+3)
	}
	copy(x, y)
	lanes := func(sel uint64) func(o ...Op) { return func(o ...Op) { VSHUFF32X4(Imm(sel), o[0], o[1], o[2]) } }
	for c := range 4 { // column c of each lane: rows 0-3, 4-7, 8-11, 12-15 in x[c], x[4+c], ...
		y[c], y[4+c] = pairs(lanes(0x88), lanes(0xdd), c, 4+c)
		y[8+c], y[12+c] = pairs(lanes(0x88), lanes(0xdd), 8+c, 12+c)
	}
	copy(x, y)
	out := make([]VecVirtual, 16)
	for c := range 4 {
		out[c], out[8+c] = pairs(lanes(0x88), lanes(0xdd), c, 8+c)
		out[4+c], out[12+c] = pairs(lanes(0x88), lanes(0xdd), 4+c, 12+c)
	}
	MOVQ(dst, p)
	for i, v := range out {
		VMOVUPS(v, Mem{Base: p})
		if i < 15 {
			ADDQ(dld, p)
		}
	}
	ADDQ(sadv, src)
	ADDQ(dadv, dst)
	DECQ(count)
	JNZ(LabelRef("square"))
	VZEROUPPER()
	RET()
}
