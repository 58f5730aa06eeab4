package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
)

// stream writes what the machine is measured with: a loop that only reads, one of
// independent FMAs, one of independent vpdpbusd.
func stream() {
	for _, s := range []isa{avx512, avx2} {
		readBytes(s)
		fmaPeak(s)
	}
	dotPeak()
	dotPeakAVX2()
}

// readBytes: n is a multiple of 512 and not 0. It prefetches as the kernels of one
// token do.
func readBytes(s isa) {
	TEXT("readBytes"+s.name, NOSPLIT, "func(p *byte, n int) uint32")
	Pragma("noescape")
	p, n := Load(Param("p"), GP64()), Load(Param("n"), GP64())
	acc := s.regs(4)
	for _, a := range acc {
		s.zero(a)
	}
	Label("read")
	for o := 0; o < 512; o += s.vec {
		if ahead := s.ahead(1); ahead > 0 && o%64 == 0 {
			PREFETCHT0(Mem{Base: p, Disp: o + ahead})
		}
		a := acc[o/s.vec%4]
		if s.vec == 64 {
			VPORD(Mem{Base: p, Disp: o}, a, a)
		} else {
			VPOR(Mem{Base: p, Disp: o}, a, a)
		}
	}
	ADDQ(U32(512), p)
	SUBQ(U32(512), n)
	JNZ(LabelRef("read"))
	for _, a := range acc[1:] {
		if s.vec == 64 {
			VPORD(a, acc[0], acc[0])
		} else {
			VPOR(a, acc[0], acc[0])
		}
	}
	r := GP32()
	VMOVD(acc[0].AsX(), r)
	Store(r, ReturnIndex(0))
	VZEROUPPER()
	RET()
}

// fmaPeak runs n times 12 independent FMAs of vectors of float32.
func fmaPeak(s isa) {
	TEXT("fmaPeak"+s.name, NOSPLIT, "func(n int)")
	n := Load(Param("n"), GP64())
	acc, x := s.regs(12), s.reg()
	s.zero(x)
	for _, a := range acc {
		s.zero(a)
	}
	Label("fma")
	for _, a := range acc {
		VFMADD231PS(x, x, a)
	}
	DECQ(n)
	JNZ(LabelRef("fma"))
	VZEROUPPER()
	RET()
}

// dotPeak runs n times 12 independent vpdpbusd of 64 bytes.
func dotPeak() {
	TEXT("dotPeakVNNI", NOSPLIT, "func(n int)")
	n := Load(Param("n"), GP64())
	acc, x := avx512.regs(12), avx512.reg()
	avx512.zero(x)
	for _, a := range acc {
		avx512.zero(a)
	}
	Label("dot")
	for _, a := range acc {
		VPDPBUSD(x, x, a)
	}
	DECQ(n)
	JNZ(LabelRef("dot"))
	VZEROUPPER()
	RET()
}

// dotPeakAVX2 runs n times 6 independent products of 32 bytes as the int8 kernels
// need them without VNNI: vpsignb, vpmaddubsw, vpmaddwd, vpaddd.
func dotPeakAVX2() {
	TEXT("dotPeakAVX2", NOSPLIT, "func(n int)")
	n := Load(Param("n"), GP64())
	acc, x, one := avx2.regs(6), avx2.reg(), ones()
	avx2.zero(x)
	for _, a := range acc {
		avx2.zero(a)
	}
	Label("dot")
	for _, a := range acc {
		signedDot(x, x, x, one, a)
	}
	DECQ(n)
	JNZ(LabelRef("dot"))
	VZEROUPPER()
	RET()
}
