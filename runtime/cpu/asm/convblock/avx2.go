package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// With AVX2 a block of channels is two vectors, and a kernel takes one block or half of
// it: 12 sums, two weights and what is broadcast fit 16 registers. A tile of
// Winograd's takes more of them than there are: columns, then rows, half a block of
// channels at a time, what lies between them in memory (aOff, 36 vectors).
func withAVX2() {
	for halves := 1; halves <= 2; halves++ {
		for p := 1; p <= 12/halves; p++ {
			block(avx2, half, halves, p)
		}
	}
	winogradInAVX2("winogradIn", false)
	winogradInAVX2("winogradEdge", true)
	winogradOutAVX2()
	blockMaxAVX2()
	blockMeanAVX2()
}

// six loads what transforms take.
func six(from func(i int) Mem) []VecVirtual {
	x := make([]VecVirtual, 6)
	for i := range x {
		x[i] = YMM()
		VMOVUPS(from(i), x[i])
	}
	return x
}

func winogradInAVX2(name string, edge bool) {
	_, load := start(name + avx2)
	c := newInConstants(half)
	src, row, dst, xi, between := load(aSrc), load(aSrcRow), load(aDst), load(aPix), load(aOff)
	var masks GPVirtual
	if edge {
		masks = load(aW)
		ADDQ(load(aN), src)
	}
	row3, lower := GP64(), GP64()
	LEAQ(Mem{Base: row, Index: row, Scale: 2}, row3)
	LEAQ(Mem{Base: src, Index: row3, Scale: 1}, lower)
	for j := range 6 {
		x := make([]VecVirtual, 6)
		for i := range x {
			x[i] = YMM()
			m := sixth(src, lower, row, i).Offset(64 * j)
			if !edge {
				VMOVUPS(m, x[i])
				continue
			}
			VPBROADCASTW(at(masks, 2*(6*i+j)), x[i])
			VMASKMOVPS(m, x[i], x[i])
		}
		transformIn(half, c, x, func(i int, v VecVirtual) { VMOVUPS(v, at(between, 32*(6*i+j))) })
	}
	xi3, xi6, out3 := GP64(), GP64(), GP64()
	LEAQ(Mem{Base: xi, Index: xi, Scale: 2}, xi3)
	LEAQ(Mem{Base: xi3, Index: xi3, Scale: 1}, xi6)
	for i := range 6 {
		x := six(func(j int) Mem { return at(between, 32*(6*i+j)) })
		LEAQ(Mem{Base: dst, Index: xi3, Scale: 1}, out3)
		transformIn(half, c, x, func(j int, v VecVirtual) { VMOVUPS(v, sixth(dst, out3, xi, j)) })
		if i < 5 {
			ADDQ(xi6, dst)
		}
	}
	VZEROUPPER()
	RET()
}

func winogradOutAVX2() {
	arg, load := start("winogradOut" + avx2)
	k := newOutConstants(half)
	src, xi, dst, row, bias, res, between := load(aSrc), load(aPix), load(aDst), load(aSrcRow), load(aBias), load(aRes), load(aOff)
	xi6, xi18, lower := GP64(), GP64(), GP64()
	LEAQ(Mem{Base: xi, Index: xi, Scale: 2}, xi6)
	ADDQ(xi6, xi6)
	LEAQ(Mem{Base: xi6, Index: xi6, Scale: 2}, xi18)
	for j := range 6 {
		LEAQ(Mem{Base: src, Index: xi18, Scale: 1}, lower)
		x := six(func(i int) Mem { return sixth(src, lower, xi6, i) })
		for i, y := range transformOut(half, k, x) {
			VMOVUPS(y, at(between, 32*(6*i+j)))
		}
		if j < 5 {
			ADDQ(xi, src)
		}
	}
	for r := range 4 {
		x := six(func(j int) Mem { return at(between, 32*(6*r+j)) })
		y := transformOut(half, k, x)
		for c := range y {
			VADDPS(at(bias, 0), y[c], y[c])
		}
		skip := fmt.Sprintf("alone%d", r)
		TESTQ(res, res)
		JZ(LabelRef(skip))
		for c := range y {
			VADDPS(at(res, 64*c), y[c], y[c])
		}
		ADDQ(row, res)
		Label(skip)
		floor := YMM()
		VBROADCASTSS(arg(aFloor), floor)
		for c := range y {
			VMAXPS(y[c], floor, y[c]) // NaN stays
			VMOVUPS(y[c], at(dst, 64*c))
		}
		ADDQ(row, dst)
	}
	VZEROUPPER()
	RET()
}

func blockMaxAVX2() {
	_, load := start("blockMax" + avx2)
	dst, src, count, step := load(aDst), load(aSrc), load(aCount), load(aStep)
	Label("pixel")
	off, n := load(aOff), load(aN)
	p := GP64()
	acc, bad, x, nan := [2]VecVirtual{YMM(), YMM()}, [2]VecVirtual{YMM(), YMM()}, YMM(), YMM()
	MOVLQSX(Mem{Base: off}, p)
	for h := range acc {
		VMOVUPS(Mem{Base: src, Index: p, Scale: 1, Disp: 32 * h}, acc[h])
		VCMPPS(Imm(3), acc[h], acc[h], bad[h])
	}
	JMP(LabelRef("next"))
	Label("more")
	MOVLQSX(Mem{Base: off}, p)
	for h := range acc {
		VMOVUPS(Mem{Base: src, Index: p, Scale: 1, Disp: 32 * h}, x)
		VCMPPS(Imm(3), x, x, nan)
		VORPS(nan, bad[h], bad[h])
		VMAXPS(x, acc[h], acc[h])
	}
	Label("next")
	ADDQ(Imm(4), off)
	DECQ(n)
	JNZ(LabelRef("more"))
	for h := range acc {
		VORPS(bad[h], acc[h], acc[h]) // all bits are a NaN
		VMOVUPS(acc[h], at(dst, 32*h))
	}
	ADDQ(Imm(64), dst)
	ADDQ(step, src)
	DECQ(count)
	JNZ(LabelRef("pixel"))
	VZEROUPPER()
	RET()
}

func blockMeanAVX2() {
	_, load := start("blockMean" + avx2)
	dst, src, n := load(aDst), load(aSrc), load(aN)
	sums := [4]VecVirtual{YMM(), YMM(), YMM(), YMM()}
	for _, s := range sums {
		VPXOR(s, s, s)
	}
	by, d := YMM(), XMM()
	VPXOR(d, d, d)
	CVTSQ2SD(n, d)
	VBROADCASTSD(d, by)
	Label("add")
	for i, s := range sums {
		x := YMM()
		VCVTPS2PD(at(src, 16*i), x)
		VADDPD(x, s, s)
	}
	ADDQ(Imm(64), src)
	DECQ(n)
	JNZ(LabelRef("add"))
	for i, s := range sums {
		VDIVPD(by, s, s)
		x := XMM()
		VCVTPD2PSY(s, x)
		VMOVUPS(x, at(dst, 16*i))
	}
	VZEROUPPER()
	RET()
}
