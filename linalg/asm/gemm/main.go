// Command gemm writes linalg/gemm_amd64.s: the matrix product micro-kernels.
//
// c[i,j] = (c[i,j] if accumulate) + alpha * sum over p of a[i,p]*b[p,j]
// for i < mr and all j of a panel of one to three vectors; the sum is one chain of fused
// multiply-adds per element, in order of p, so that every kernel of every width
// gives the same bits.
//
// Three vectors by 8 rows (AVX-512: 24 of 32 registers hold sums) or by 4 rows
// (AVX2: 12 of 16): 11 loads for 24 FMAs, 7 for 12, so that neither load port
// limits the FMA units, and batches of powers of two leave no ragged rows. Narrow panels
// are for narrow matrices (attention heads).
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// kernel is one element type and vector width.
type kernel struct {
	name   string
	mr     int // rows of the largest tile
	vec    int // bytes of a vector
	elem   int // bytes of an element
	double bool
	n      int // vectors of a panel
}

func main() {
	ConstraintExpr("amd64")
	for _, k := range []kernel{
		{name: "gemmF32AVX512", mr: 8, vec: 64, elem: 4},
		{name: "gemmF32AVX2", mr: 4, vec: 32, elem: 4},
		{name: "gemmF64AVX512", mr: 8, vec: 64, elem: 8, double: true},
		{name: "gemmF64AVX2", mr: 4, vec: 32, elem: 8, double: true},
	} {
		for k.n = 1; k.n <= 3; k.n++ {
			k.emit()
		}
	}
	transpose8()
	Generate()
}

func (k kernel) reg() VecVirtual {
	if k.vec == 64 {
		return ZMM()
	}
	return YMM()
}

func (k kernel) broadcast(src, dst Op) {
	if k.double {
		VBROADCASTSD(src, dst)
	} else {
		VBROADCASTSS(src, dst)
	}
}

func (k kernel) load(src, dst Op) {
	if k.double {
		VMOVUPD(src, dst)
	} else {
		VMOVUPS(src, dst)
	}
}

func (k kernel) fma(a, b, acc Op) {
	if k.double {
		VFMADD231PD(a, b, acc)
	} else {
		VFMADD231PS(a, b, acc)
	}
}

func (k kernel) mul(a, b, dst Op) {
	if k.double {
		VMULPD(a, b, dst)
	} else {
		VMULPS(a, b, dst)
	}
}

func (k kernel) emit() {
	t := "float32"
	if k.double {
		t = "float64"
	}
	k.name += fmt.Sprintf("x%d", k.n)
	TEXT(k.name, NOSPLIT, fmt.Sprintf("func(mr, k int, a *%s, ars, acs int, b *%s, bs int, c *%s, ldc int, alpha %s, accumulate int)", t, t, t, t))
	Pragma("noescape")
	Doc(fmt.Sprintf("%s: mr in 1..%d rows by %d columns, k >= 1. a[i,p] is at a + i*ars + p*acs, b[p,j]", k.name, k.mr, k.n*k.vec/k.elem),
		"at b + p*bs + j, c[i,j] at c + i*ldc + j, all in elements.")
	mr := Load(Param("mr"), GP64())
	for n := 1; n < k.mr; n++ {
		CMPQ(mr, Imm(uint64(n)))
		JE(LabelRef(fmt.Sprintf("rows%d", n)))
	}
	k.tile(k.mr)
	for n := k.mr - 1; n >= 1; n-- {
		k.tile(n)
	}
}

// tile emits the loop for n rows.
func (k kernel) tile(n int) {
	label := func(s string) string { return fmt.Sprintf("%s%d", s, n) }
	Label(label("rows"))
	count := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64())
	ars := Load(Param("ars"), GP64())
	acs := Load(Param("acs"), GP64())
	b := Load(Param("b"), GP64())
	bs := Load(Param("bs"), GP64())
	shift := uint64(2)
	if k.double {
		shift = 3
	}
	for _, r := range []Op{ars, acs, bs} {
		SHLQ(Imm(shift), r)
	}
	a4 := GP64()
	ars3 := GP64()
	LEAQ(Mem{Base: ars, Index: ars, Scale: 2}, ars3)
	if n > 4 {
		LEAQ(Mem{Base: a, Index: ars, Scale: 4}, a4)
	}
	row := func(i int) Mem {
		base := Register(a)
		if i >= 4 {
			base = a4
		}
		switch i % 4 {
		case 1:
			return Mem{Base: base, Index: ars, Scale: 1}
		case 2:
			return Mem{Base: base, Index: ars, Scale: 2}
		case 3:
			return Mem{Base: base, Index: ars3, Scale: 1}
		}
		return Mem{Base: base}
	}
	acc := make([][]VecVirtual, n)
	for i := range acc {
		acc[i] = make([]VecVirtual, k.n)
		for v := range acc[i] {
			acc[i][v] = k.reg()
			if k.vec == 64 {
				VPXORD(acc[i][v], acc[i][v], acc[i][v])
			} else {
				VPXOR(acc[i][v], acc[i][v], acc[i][v])
			}
		}
	}
	Label(label("loop"))
	bv := make([]VecVirtual, k.n)
	for v := range bv {
		bv[v] = k.reg()
		k.load(Mem{Base: b, Disp: v * k.vec}, bv[v])
	}
	for i := range n {
		av := k.reg()
		k.broadcast(row(i), av)
		for v := range bv {
			k.fma(bv[v], av, acc[i][v])
		}
	}
	ADDQ(bs, b)
	ADDQ(acs, a)
	if n > 4 {
		ADDQ(acs, a4)
	}
	DECQ(count)
	JNZ(LabelRef(label("loop")))

	c := Load(Param("c"), GP64())
	ldc := Load(Param("ldc"), GP64())
	SHLQ(Imm(shift), ldc)
	alpha := k.reg()
	addr, err := Param("alpha").Resolve()
	if err != nil {
		panic(err)
	}
	k.broadcast(addr.Addr, alpha)
	add := Load(Param("accumulate"), GP64())
	TESTQ(add, add)
	JNZ(LabelRef(label("add")))
	for i := range n {
		for v := range acc[i] {
			k.mul(alpha, acc[i][v], acc[i][v])
			k.load(acc[i][v], Mem{Base: c, Disp: v * k.vec})
		}
		ADDQ(ldc, c)
	}
	VZEROUPPER()
	RET()
	Label(label("add"))
	for i := range n {
		for v := range acc[i] {
			t := k.reg()
			k.load(Mem{Base: c, Disp: v * k.vec}, t)
			k.fma(alpha, acc[i][v], t)
			k.load(t, Mem{Base: c, Disp: v * k.vec})
		}
		ADDQ(ldc, c)
	}
	VZEROUPPER()
	RET()
}

// transpose8 turns 8 rows into columns, 8 by 8 (AVX): dst[p,i] = src[i,p].
func transpose8() {
	TEXT("transpose8AVX", NOSPLIT, "func(dst *float32, ldd int, src *float32, lds int, blocks int)")
	Pragma("noescape")
	Doc("transpose8AVX: dst[p*ldd+i] = src[i*lds+p] for i < 8 and p < 8*blocks, blocks >= 1.")
	dst := Load(Param("dst"), GP64())
	ldd := Load(Param("ldd"), GP64())
	src := Load(Param("src"), GP64())
	lds := Load(Param("lds"), GP64())
	n := Load(Param("blocks"), GP64())
	SHLQ(Imm(2), ldd)
	SHLQ(Imm(2), lds)
	src4, lds3, dst4, ldd3 := GP64(), GP64(), GP64(), GP64()
	LEAQ(Mem{Base: src, Index: lds, Scale: 4}, src4)
	LEAQ(Mem{Base: lds, Index: lds, Scale: 2}, lds3)
	LEAQ(Mem{Base: ldd, Index: ldd, Scale: 2}, ldd3)
	at := func(i int, lo, hi, ld, ld3 Register) Mem {
		base := lo
		if i >= 4 {
			base = hi
		}
		switch i % 4 {
		case 1:
			return Mem{Base: base, Index: ld, Scale: 1}
		case 2:
			return Mem{Base: base, Index: ld, Scale: 2}
		case 3:
			return Mem{Base: base, Index: ld3, Scale: 1}
		}
		return Mem{Base: base}
	}
	Label("loop")
	LEAQ(Mem{Base: dst, Index: ldd, Scale: 4}, dst4)
	// Rows i and i+4 share a register: its halves hold columns 0..3 of both, then
	// 4..7; unpacking within halves finishes the transposition.
	lo, hi := make([]VecVirtual, 4), make([]VecVirtual, 4)
	for i := range 4 {
		lo[i], hi[i] = YMM(), YMM()
		x := at(i, src, src4, lds, lds3)
		VMOVUPS(x, lo[i].AsX())
		VINSERTF128(Imm(1), at(i+4, src, src4, lds, lds3), lo[i], lo[i])
		x.Disp = 16
		VMOVUPS(x, hi[i].AsX())
		y := at(i+4, src, src4, lds, lds3)
		y.Disp = 16
		VINSERTF128(Imm(1), y, hi[i], hi[i])
	}
	for half, r := range [][]VecVirtual{lo, hi} {
		t0, t1, t2, t3 := YMM(), YMM(), YMM(), YMM()
		VUNPCKLPS(r[1], r[0], t0)
		VUNPCKHPS(r[1], r[0], t1)
		VUNPCKLPS(r[3], r[2], t2)
		VUNPCKHPS(r[3], r[2], t3)
		for i, p := range [][2]VecVirtual{{t0, t2}, {t0, t2}, {t1, t3}, {t1, t3}} {
			o := YMM()
			imm := Imm(0x44) // low pairs of both
			if i%2 == 1 {
				imm = Imm(0xee) // high pairs
			}
			VSHUFPS(imm, p[1], p[0], o)
			VMOVUPS(o, at(half*4+i, dst, dst4, ldd, ldd3))
		}
	}
	ADDQ(Imm(32), src)
	ADDQ(Imm(32), src4)
	LEAQ(Mem{Base: dst, Index: ldd, Scale: 8}, dst)
	DECQ(n)
	JNZ(LabelRef("loop"))
	VZEROUPPER()
	RET()
}
