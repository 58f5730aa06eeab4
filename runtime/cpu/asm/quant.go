package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// quant writes the conversions: activations to int8 with a scale per 64 columns,
// rows of weights to int8 codes and to half precision. AVX2 serves every machine:
// they run once per activation or at load.
func quant() {
	packOrder = GLOBL("packOrder", RODATA|NOPTR)
	for i, v := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, U32(v))
	}
	quantUnits()
	absMax()
	quantCodes()
	halfRow()
}

func signMask() VecVirtual {
	m := YMM()
	VPCMPEQD(m, m, m)
	VPSRLD(Imm(1), m, m)
	return m
}

// across reduces a vector of 8 to its first lane.
func across(v VecVirtual, op func(...Op)) {
	h := XMM()
	y := v.(Vec)
	VEXTRACTF128(Imm(1), v, h)
	op(h, y.AsX(), y.AsX())
	VPSHUFD(Imm(0x4e), y.AsX(), h)
	op(h, y.AsX(), y.AsX())
	VPSHUFD(Imm(0xb1), y.AsX(), h)
	op(h, y.AsX(), y.AsX())
}

// codes rounds 32 floats times inv to bytes in their order.
func codes(x [4]VecVirtual, inv, order VecVirtual) VecVirtual {
	var d [4]VecVirtual
	for i := range d {
		d[i] = YMM()
		VMULPS(inv, x[i], d[i])
		VCVTPS2DQ(d[i], d[i])
	}
	VPACKSSDW(d[1], d[0], d[0])
	VPACKSSDW(d[3], d[2], d[2])
	VPACKSSWB(d[2], d[0], d[0])
	VPERMD(d[0], order, d[0])
	return d[0]
}

// packOrder undoes what packing inside 128-bit lanes does to words.
var packOrder Mem

func order() VecVirtual {
	o := YMM()
	VMOVDQU(packOrder, o)
	return o
}

// Offsets in runtime/cpu's quantArgs.
const (
	qX, qDst, qScale, qSum, qUnitStep, qScaleStep, qSumStep, qGroups = 0, 8, 16, 24, 32, 40, 48, 56
)

func quantUnits() {
	TEXT("quantUnits", NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	p := Load(Param("a"), GP64())
	load := func(off int) Register { r := GP64(); MOVQ(arg(p, off), r); return r }
	x, dst, scale, sum := load(qX), load(qDst), load(qScale), load(qSum)
	unit, scaleStep, sumStep, n := load(qUnitStep), load(qScaleStep), load(qSumStep), load(qGroups)
	mask, ord := signMask(), order()
	limit := XMM()
	c := GP32()
	MOVL(U32(0x42fe0000), c) // 127
	VMOVD(c, limit)
	ones16 := ones()
	ones8 := YMM()
	VPABSB(mask, ones8) // any
	VPCMPEQB(ones8, ones8, ones8)
	VPABSB(ones8, ones8)

	Label("group")
	var v [8]VecVirtual
	m := YMM()
	for i := range v {
		v[i] = YMM()
		VMOVUPS(Mem{Base: x, Disp: 32 * i}, v[i])
		if i == 0 {
			VANDPS(mask, v[0], m)
			continue
		}
		a := YMM()
		VANDPS(mask, v[i], a)
		VMAXPS(a, m, m)
	}
	across(m, VMAXPS)
	mx := m.(Vec).AsX()
	s, inv := XMM(), YMM()
	VDIVSS(limit, mx, s)
	VDIVSS(mx, limit, inv.AsX())
	// All zero, or so small that the inverse is infinite: the codes are zero.
	bits := GP32()
	VMOVD(inv.AsX(), bits)
	CMPL(bits, U32(0x7f800000))
	JNE(LabelRef("scaled"))
	VPXOR(inv.AsX(), inv.AsX(), inv.AsX())
	Label("scaled")
	VMOVSS(s, Mem{Base: scale})
	VBROADCASTSS(inv.AsX(), inv)
	for h := range 2 {
		q := codes([4]VecVirtual{v[4*h], v[4*h+1], v[4*h+2], v[4*h+3]}, inv, ord)
		VMOVDQU(q.(Vec).AsX(), Mem{Base: dst})
		ADDQ(unit, dst)
		VEXTRACTI128(Imm(1), q, Mem{Base: dst})
		ADDQ(unit, dst)
		t := YMM()
		VPMADDUBSW(q, ones8, t)
		VPMADDWD(ones16, t, t)
		across(t, VPADDD)
		VMOVD(t.AsX(), bits)
		NEGL(bits)
		MOVL(bits, Mem{Base: sum})
		ADDQ(sumStep, sum)
	}
	ADDQ(U32(256), x)
	ADDQ(scaleStep, scale)
	DECQ(n)
	JNZ(LabelRef("group"))
	VZEROUPPER()
	RET()
}

// absMax: n is a multiple of 8 and not 0.
func absMax() {
	TEXT("absMaxAVX2", NOSPLIT, "func(x *float32, n int) float32")
	Pragma("noescape")
	x, n := Load(Param("x"), GP64()), Load(Param("n"), GP64())
	mask := signMask()
	m := YMM()
	VPXOR(m, m, m)
	Label("max")
	a := YMM()
	VANDPS(Mem{Base: x}, mask, a)
	VMAXPS(a, m, m)
	ADDQ(U32(32), x)
	SUBQ(U32(8), n)
	JNZ(LabelRef("max"))
	across(m, VMAXPS)
	Store(m.AsX(), ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// quantCodes: n is a multiple of 16 and not 0.
func quantCodes() {
	TEXT("quantCodesAVX2", NOSPLIT, "func(dst *int8, x *float32, n int, inv float32)")
	Pragma("noescape")
	dst, x, n := Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("n"), GP64())
	inv := YMM()
	Load(Param("inv"), inv.AsX())
	VBROADCASTSS(inv.AsX(), inv)
	Label("codes")
	a, b, c := YMM(), YMM(), XMM()
	VMULPS(Mem{Base: x}, inv, a)
	VMULPS(Mem{Base: x, Disp: 32}, inv, b)
	VCVTPS2DQ(a, a)
	VCVTPS2DQ(b, b)
	VPACKSSDW(b, a, a)
	VPERMQ(Imm(0xd8), a, a) // undoes packing inside 128-bit lanes
	VEXTRACTI128(Imm(1), a, c)
	VPACKSSWB(c, a.AsX(), c)
	VMOVDQU(c, Mem{Base: dst})
	ADDQ(U32(64), x)
	ADDQ(U32(16), dst)
	SUBQ(U32(16), n)
	JNZ(LabelRef("codes"))
	VZEROUPPER()
	RET()
}

// halfRow: n is a multiple of 8 and not 0.
func halfRow() {
	TEXT("halfRowAVX2", NOSPLIT, "func(dst *uint16, x *float32, n int)")
	Pragma("noescape")
	dst, x, n := Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("n"), GP64())
	Label("half")
	v := YMM()
	VMOVUPS(Mem{Base: x}, v)
	h := XMM()
	VCVTPS2PH(Imm(0), v, h)
	VMOVDQU(h, Mem{Base: dst})
	ADDQ(U32(32), x)
	ADDQ(U32(16), dst)
	SUBQ(U32(8), n)
	JNZ(LabelRef("half"))
	VZEROUPPER()
	RET()
}
