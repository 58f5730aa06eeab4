package main

import (
	"fmt"
	"math/bits"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Unstructured weights: 32 rows (AVX2: 8) advance through the columns together.
// A step has one kept weight of every row, all of whose columns lie in a window
// that starts at the step's offset: 64 columns wide with AVX-512, where two
// vpermi2ps pick any of 64 floats that lie in 4 registers, 256 with AVX2, where
// every float is loaded by itself (faster than vgatherdps).
//
// csr*: a few tokens, lanes are rows. csrBatch*: lanes are tokens, activations
// transposed in tiles; every row walks down its own lane of the same steps.

// Offsets in runtime/cpu's csrArgs.
const (
	cOut, cStep, cOff, cX, cLdx, cSteps, cRs, cLanes, cLd, cNext = 0, 8, 16, 24, 32, 40, 48, 56, 64, 72
)

var csrTypes = []struct {
	name string
	size int
}{{"F32", 4}, {"F16", 2}, {"BF16", 2}, {"Int8", 1}}

func csr() {
	for _, v := range csrTypes {
		for _, tokens := range []int{1, 2, 4} {
			csrAVX512(v.name, v.size, tokens)
		}
		csrAVX2(v.name, v.size)
	}
}

func csrBatch() {
	for _, v := range csrTypes {
		for vecs := 1; vecs <= 4; vecs++ {
			csrBatchTile(avx512, v.name, v.size, vecs)
			csrBatchTile(avx2, v.name, v.size, vecs)
		}
	}
	for vecs := 1; vecs <= 4; vecs++ {
		csrList(avx512, vecs)
	}
	csrOut()
}

// csrList is csrBatchTile for lists instead of steps: lanes pairs of rows, each
// with a head of 4 bytes - the two rows, a byte each, and the 16-bit count of its
// entries - and then, in a stream of their own, entries of 12 bytes: the column of
// either row times 64, 16 bits each, and both float32 values. Rows that share a
// pair have about as many entries, so that a column of activations is loaded for
// every FMA and nothing else is waited for; two rows of 4 vectors are chains enough.
// cOff points at the heads, cStep at the entries.
func csrList(s isa, vecs int) {
	TEXT(fmt.Sprintf("csrList%sx%d", s.name, vecs), NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	a := Load(Param("a"), GP64())
	load := func(off int) Register { r := GP64(); MOVQ(arg(a, off), r); return r }
	out, entry, x, pairs, head := load(cOut), load(cStep), load(cX), load(cLanes), load(cOff)
	acc := [2][]VecVirtual{s.regs(vecs), s.regs(vecs)}
	Label("pair")
	n := GP64()
	MOVWQZX(Mem{Base: head, Disp: 2}, n)
	TESTQ(n, n)
	JZ(LabelRef("none"))
	var row [2]Register
	for i := range row {
		row[i] = GP64()
		MOVBQZX(Mem{Base: head, Disp: i}, row[i])
		scale(row[i], s.vec*vecs)
		ADDQ(out, row[i])
		for j, r := range acc[i] {
			VMOVUPS(Mem{Base: row[i], Disp: s.vec * j}, r)
		}
	}
	for i := range row { // the next pair's sums
		r := GP64()
		MOVBQZX(Mem{Base: head, Disp: 4 + i}, r)
		scale(r, s.vec*vecs)
		for j := range vecs {
			PREFETCHT0(Mem{Base: out, Index: r, Scale: 1, Disp: s.vec * j})
		}
	}
	Label("entry")
	PREFETCHT0(Mem{Base: entry, Disp: 1024})
	for i := range row {
		c, w := GP64(), s.reg()
		MOVWQZX(Mem{Base: entry, Disp: 2 * i}, c)
		VBROADCASTSS(Mem{Base: entry, Disp: 4 + 4*i}, w)
		m := Mem{Base: x, Index: c, Scale: uint8(vecs)}
		if vecs == 3 {
			LEAQ(Mem{Base: c, Index: c, Scale: 2}, c)
			m.Scale = 1
		}
		for j, r := range acc[i] {
			VFMADD231PS(m.Offset(s.vec*j), w, r)
		}
	}
	ADDQ(U32(12), entry)
	DECQ(n)
	JNZ(LabelRef("entry"))
	for i := range row {
		for j, r := range acc[i] {
			VMOVUPS(r, Mem{Base: row[i], Disp: s.vec * j})
		}
	}
	Label("none")
	ADDQ(U32(4), head)
	DECQ(pairs)
	JNZ(LabelRef("pair"))
	VZEROUPPER()
	RET()
}

// values loads the values of a step as float32.
func (s isa) values(typ string, m Mem, w VecVirtual) {
	switch typ {
	case "F32":
		VMOVUPS(m, w)
	case "F16":
		VCVTPH2PS(m, w)
	case "BF16":
		VPMOVZXWD(m, w)
		VPSLLD(Imm(16), w, w)
	case "Int8":
		VPMOVSXBD(m, w)
		VCVTDQ2PS(w, w)
	}
}

// csrAVX512: out[t*ld+lane] += sum, times the row's scale for int8.
func csrAVX512(typ string, size, tokens int) {
	s := avx512
	TEXT(fmt.Sprintf("csr%sAVX512x%d", typ, tokens), NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	a := Load(Param("a"), GP64())
	load := func(off int) Register { r := GP64(); MOVQ(arg(a, off), r); return r }
	out, step, off, x, ldx, n := load(cOut), load(cStep), load(cOff), load(cX), load(cLdx), load(cSteps)
	acc := [][]VecVirtual{s.regs(tokens), s.regs(tokens)}
	for _, v := range append(acc[0], acc[1]...) {
		s.zero(v)
	}
	upper, c := s.reg(), GP32()
	MOVL(U32(32), c)
	VPBROADCASTD(c, upper)
	bytes := 32*size + 32
	Label("step")
	p := GP64()
	MOVWQZX(Mem{Base: off}, p)
	LEAQ(Mem{Base: x, Index: p, Scale: 4}, p)
	idx, w, k := s.regs(2), s.regs(2), [2]Register{K(), K()}
	for v := range 2 {
		VPMOVZXBD(Mem{Base: step, Disp: 32*size + 16*v}, idx[v])
		s.values(typ, Mem{Base: step, Disp: 16 * size * v}, w[v])
		VPTESTMD(upper, idx[v], k[v])
	}
	for l := 0; l < bytes; l += 64 {
		PREFETCHT0(Mem{Base: step, Disp: 2048 + l})
	}
	for t := range tokens {
		x := s.regs(4)
		for i := range x {
			VMOVUPS(Mem{Base: p, Disp: 64 * i}, x[i])
		}
		for v := range 2 {
			lo, hi := s.reg(), s.reg()
			VMOVAPS(idx[v], lo)
			VMOVAPS(idx[v], hi)
			VPERMI2PS(x[1], x[0], lo)
			VPERMI2PS(x[3], x[2], hi)
			VBLENDMPS(hi, lo, k[v], lo)
			VFMADD231PS(lo, w[v], acc[v][t])
		}
		if t+1 < tokens {
			ADDQ(ldx, p)
		}
	}
	ADDQ(U32(uint32(bytes)), step)
	ADDQ(U32(2), off)
	DECQ(n)
	JNZ(LabelRef("step"))
	rs, ld := load(cRs), load(cLd)
	for t := range tokens {
		for i := range 2 {
			v := acc[i][t]
			if typ == "Int8" {
				VMULPS(Mem{Base: rs, Disp: 64 * i}, v, v)
			}
			VADDPS(Mem{Base: out, Disp: 64 * i}, v, v)
			VMOVUPS(v, Mem{Base: out, Disp: 64 * i})
		}
		if t+1 < tokens {
			ADDQ(ld, out)
		}
	}
	VZEROUPPER()
	RET()
}

// csrAVX2 is csrAVX512 for 8 rows and one token.
func csrAVX2(typ string, size int) {
	s := avx2
	TEXT(fmt.Sprintf("csr%sAVX2x1", typ), NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	a := Load(Param("a"), GP64())
	load := func(off int) Register { r := GP64(); MOVQ(arg(a, off), r); return r }
	out, step, off, x, n := load(cOut), load(cStep), load(cOff), load(cX), load(cSteps)
	acc := s.reg()
	s.zero(acc)
	bytes := 8*size + 8
	Label("step")
	p := GP64()
	MOVWQZX(Mem{Base: off}, p)
	LEAQ(Mem{Base: x, Index: p, Scale: 4}, p)
	PREFETCHT0(Mem{Base: step, Disp: 2048})
	half := [2]VecVirtual{XMM(), XMM()}
	for l := range 8 {
		i := GP64()
		MOVBQZX(Mem{Base: step, Disp: 8*size + l}, i)
		m := Mem{Base: p, Index: i, Scale: 4}
		if l%4 == 0 {
			VMOVSS(m, half[l/4])
		} else {
			VINSERTPS(Imm(uint64(l%4*16)), m, half[l/4], half[l/4])
		}
	}
	v := s.reg()
	VINSERTF128(Imm(1), half[1], half[0].AsY(), v)
	w := s.reg()
	s.values(typ, Mem{Base: step}, w)
	VFMADD231PS(v, w, acc)
	ADDQ(U32(uint32(bytes)), step)
	ADDQ(U32(2), off)
	DECQ(n)
	JNZ(LabelRef("step"))
	if typ == "Int8" {
		rs := load(cRs)
		VMULPS(Mem{Base: rs}, acc, acc)
	}
	VADDPS(Mem{Base: out}, acc, acc)
	VMOVUPS(acc, Mem{Base: out})
	VZEROUPPER()
	RET()
}

// csrBatchTile: out[lane][tokens] += sum over steps of value * x[column][tokens]
// for a tile of vecs vectors of tokens. Several lanes go together: one alone would
// wait for the latency of its own sums.
func csrBatchTile(s isa, typ string, size, vecs int) {
	TEXT(fmt.Sprintf("csrBatch%s%sx%d", typ, s.name, vecs), NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	a := Load(Param("a"), GP64())
	load := func(off int) Register { r := GP64(); MOVQ(arg(a, off), r); return r }
	out, first, x, lanes := load(cOut), load(cStep), load(cX), load(cLanes)
	rows := 8
	if s.vec == 64 {
		rows = 32
	}
	bytes := rows*size + rows
	stride := s.vec * vecs // of a column of x
	next := load(cNext)
	together := 4
	if s.vec == 32 && vecs > 2 {
		together = 2
	}
	// Values and places of a lane start at its own spot.
	place := GP64()
	LEAQ(Mem{Base: first, Disp: rows * size}, place)
	Label("lane")
	off, n := load(cOff), load(cSteps)
	v, i := GP64(), GP64()
	MOVQ(first, v)
	MOVQ(place, i)
	acc := s.regs(vecs * together)
	for j, r := range acc {
		VMOVUPS(Mem{Base: out, Disp: s.vec * j}, r)
	}
	Label("step")
	c := GP64()
	MOVWQZX(Mem{Base: off}, c)
	scale(c, stride)
	ADDQ(x, c)
	PREFETCHT1(Mem{Base: next})
	ADDQ(U32(64), next)
	for l := range together {
		d := GP64()
		MOVBQZX(Mem{Base: i, Disp: l}, d)
		scale(d, stride)
		w := s.reg()
		s.one(typ, Mem{Base: v, Disp: l * size}, w)
		for j := range vecs {
			VFMADD231PS(Mem{Base: c, Index: d, Scale: 1, Disp: s.vec * j}, w, acc[l*vecs+j])
		}
	}
	ADDQ(U32(uint32(bytes)), v)
	ADDQ(U32(uint32(bytes)), i)
	ADDQ(U32(2), off)
	DECQ(n)
	JNZ(LabelRef("step"))
	for j, r := range acc {
		VMOVUPS(r, Mem{Base: out, Disp: s.vec * j})
	}
	ADDQ(U32(uint32(stride*together)), out)
	ADDQ(U32(uint32(size*together)), first)
	ADDQ(U32(uint32(together)), place)
	SUBQ(U32(uint32(together)), lanes)
	JNZ(LabelRef("lane"))
	VZEROUPPER()
	RET()
}

// scale multiplies r by a small number.
func scale(r Register, n int) {
	if n&(n-1) == 0 {
		SHLQ(Imm(uint64(bits.TrailingZeros(uint(n)))), r)
		return
	}
	IMUL3Q(U32(uint32(n)), r, r)
}

// one loads one value as float32 into all lanes.
func (s isa) one(typ string, m Mem, w VecVirtual) {
	switch typ {
	case "F32":
		VBROADCASTSS(m, w)
	case "F16":
		h := XMM()
		VPBROADCASTW(m, h)
		VCVTPH2PS(h, h)
		VBROADCASTSS(h, w)
	case "BF16":
		h, g := XMM(), GP32()
		MOVWLZX(m, g)
		SHLL(Imm(16), g)
		VMOVD(g, h)
		VBROADCASTSS(h, w)
	case "Int8":
		h, g := XMM(), GP32()
		MOVBLSX(m, g)
		VMOVD(g, h)
		VCVTDQ2PS(h, h)
		VBROADCASTSS(h, w)
	}
}

// csrOut transposes 8 rows by 8 tokens: out[t*ld+r] += tile[r*ldt+t] * rs[r].
func csrOut() {
	TEXT("csrOutAVX2", NOSPLIT, "func(out *float32, ld uintptr, tile *float32, ldt uintptr, rs *float32)")
	Pragma("noescape")
	out, ld := Load(Param("out"), GP64()), Load(Param("ld"), GP64())
	src, ldt := Load(Param("tile"), GP64()), Load(Param("ldt"), GP64())
	rs := Load(Param("rs"), GP64())
	var r, q [8]VecVirtual
	for i := range r {
		r[i] = YMM()
		VMOVUPS(Mem{Base: src}, r[i])
		ADDQ(ldt, src)
	}
	transpose(&r, &q)
	scale := YMM()
	VMOVUPS(Mem{Base: rs}, scale)
	for i := range q {
		VFMADD213PS(Mem{Base: out}, scale, q[i])
		VMOVUPS(q[i], Mem{Base: out})
		ADDQ(ld, out)
	}
	VZEROUPPER()
	RET()

	TEXT("transposeAVX2", NOSPLIT, "func(dst *float32, ldd uintptr, src *float32, lds uintptr, n int)")
	Pragma("noescape")
	// dst[c*ldd+i] = src[i*lds+c] for 8 rows i and n blocks of 8 columns c.
	dst, ldd := Load(Param("dst"), GP64()), Load(Param("ldd"), GP64())
	from, lds := Load(Param("src"), GP64()), Load(Param("lds"), GP64())
	n := Load(Param("n"), GP64())
	Label("columns")
	p := GP64()
	MOVQ(from, p)
	var u, v [8]VecVirtual
	for i := range u {
		u[i] = YMM()
		VMOVUPS(Mem{Base: p}, u[i])
		ADDQ(lds, p)
	}
	transpose(&u, &v)
	for i := range v {
		VMOVUPS(v[i], Mem{Base: dst})
		ADDQ(ldd, dst)
	}
	ADDQ(U32(32), from)
	DECQ(n)
	JNZ(LabelRef("columns"))
	VZEROUPPER()
	RET()
}

// transpose is the usual 8 x 8 network: pairs, quadruples, halves.
func transpose(r, out *[8]VecVirtual) {
	var t [8]VecVirtual
	for i := range 4 {
		t[2*i], t[2*i+1] = YMM(), YMM()
		VUNPCKLPS(r[2*i+1], r[2*i], t[2*i])
		VUNPCKHPS(r[2*i+1], r[2*i], t[2*i+1])
	}
	var u [8]VecVirtual
	for h := range 2 {
		for k := range 2 {
			lo, hi := YMM(), YMM()
			VSHUFPS(Imm(0x44), t[4*h+2+k], t[4*h+k], lo)
			VSHUFPS(Imm(0xee), t[4*h+2+k], t[4*h+k], hi)
			u[4*h+2*k], u[4*h+2*k+1] = lo, hi
		}
	}
	for i := range 4 {
		out[i], out[i+4] = YMM(), YMM()
		VPERM2F128(Imm(0x20), u[i+4], u[i], out[i])
		VPERM2F128(Imm(0x31), u[i+4], u[i], out[i+4])
	}
}
