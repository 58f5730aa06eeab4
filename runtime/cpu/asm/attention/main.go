// Command attention writes the assembly of the attention kernels: a few rows times
// a block of the KV cache.
//
//	c[i, j] (+)= sum_p a[i, p] * b[p, j]   i < rows, p < k, j < cols
//
// b is [k, n] in f16 or f32, one sequential stream; a is broadcast. A kernel is made
// for each number of rows that its accumulators leave room for, so that the
// widening of b is shared by as many rows as there are.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func main() {
	ConstraintExpr("amd64")
	for _, half := range []bool{true, false} {
		for _, rows := range []int{1, 2, 3, 4, 6, 8, 12} {
			pageAVX512(half, rows)
		}
		for _, rows := range []int{1, 2, 3, 4, 6} {
			for _, vecs := range []int{2, 1} {
				pageAVX2(half, rows, vecs)
			}
		}
	}
	rope(512)
	rope(256)
	Generate()
}

// rope rotates the pairs (i, half+i) of a head: n = half/lanes rounds, at least one.
func rope(width int) {
	isa, lanes := "AVX512", 16
	vec := func() reg.VecVirtual { return ZMM() }
	if width == 256 {
		isa, lanes, vec = "AVX2", 8, func() reg.VecVirtual { return YMM() }
	}
	TEXT("rope"+isa, NOSPLIT, "func(n int, dst, x *float32, half int, cs *float32)")
	Doc("rope" + isa + ": dst[i], dst[half+i] = x[i]*c - x[half+i]*s, x[half+i]*c + x[i]*s for " + fmt.Sprint(lanes) + "*n pairs; cs is c [half], then s [half].")
	Pragma("noescape")
	n, half := Load(Param("n"), GP64()), Load(Param("half"), GP64())
	dst, x, cs := Load(Param("dst"), GP64()), Load(Param("x"), GP64()), Load(Param("cs"), GP64())
	Label("pairs")
	c, s := vec(), vec()
	VMOVUPS(Mem{Base: cs}, c)
	VMOVUPS(Mem{Base: cs, Index: half, Scale: 4}, s)
	a, b, u, v := vec(), vec(), vec(), vec()
	VMOVUPS(Mem{Base: x}, a)
	VMOVUPS(Mem{Base: x, Index: half, Scale: 4}, b)
	VMULPS(s, b, u)
	VFMSUB231PS(a, c, u)
	VMULPS(s, a, v)
	VFMADD231PS(b, c, v)
	VMOVUPS(u, Mem{Base: dst})
	VMOVUPS(v, Mem{Base: dst, Index: half, Scale: 4})
	for _, r := range []reg.Register{dst, x, cs} {
		ADDQ(U32(uint32(4*lanes)), r)
	}
	DECQ(n)
	JNZ(LabelRef("pairs"))
	VZEROUPPER()
	RET()
}

func elem(half bool) (name, typ string, size int) {
	if half {
		return "F16", "uint16", 2
	}
	return "F32", "float32", 4
}

// rowAddr gives operands for the rows of a matrix with a stride in a register, one
// base register for every three rows.
type rowAddr struct {
	base   []reg.GPVirtual
	stride reg.GPVirtual
}

func newRowAddr(ptr, strideBytes reg.GPVirtual, rows int) rowAddr {
	r := rowAddr{base: []reg.GPVirtual{ptr}, stride: strideBytes}
	for i := 3; i < rows; i += 3 {
		b := GP64()
		last := r.base[len(r.base)-1]
		LEAQ(Mem{Base: last, Index: strideBytes, Scale: 2}, b)
		ADDQ(strideBytes, b)
		r.base = append(r.base, b)
	}
	return r
}

func (r rowAddr) at(i, disp int) Mem {
	m := Mem{Base: r.base[i/3], Disp: disp}
	if i%3 > 0 {
		m.Index, m.Scale = r.stride, uint8(i%3)
	}
	return m
}

// step moves the rows on by n bytes.
func (r rowAddr) step(n int) {
	for _, b := range r.base {
		ADDQ(U32(uint32(n)), b)
	}
}

// prefetch asks for n bytes from p on: the block that follows this one in time,
// which lies on another page, where the hardware does not look by itself.
func prefetch(p reg.Register, n int) {
	for o := 0; o < n; o += 64 {
		PREFETCHT0(Mem{Base: p, Disp: o})
	}
}

// pageAVX512: up to 32 columns, masked.
func pageAVX512(half bool, rows int) {
	name, typ, size := elem(half)
	fn := fmt.Sprintf("page%sAVX512x%d", name, rows)
	TEXT(fn, NOSPLIT, fmt.Sprintf("func(k int, a *float32, lda int, b *%s, n int, c *float32, ldc int, cols int, add int, next *%s)", typ, typ))
	Doc(fmt.Sprintf("%s: %d rows by cols <= 32 columns; strides in elements, k >= 1.", fn, rows))
	Pragma("noescape")
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64()).(reg.GPVirtual)
	lda := Load(Param("lda"), GP64()).(reg.GPVirtual)
	b := Load(Param("b"), GP64())
	n := Load(Param("n"), GP64())
	next := Load(Param("next"), GP64())
	c := Load(Param("c"), GP64()).(reg.GPVirtual)
	ldc := Load(Param("ldc"), GP64()).(reg.GPVirtual)
	SHLQ(U8(2), lda)
	SHLQ(U8(2), ldc)
	if size == 4 {
		SHLQ(U8(2), n)
	} else {
		SHLQ(U8(1), n)
	}
	// Masks of the two vectors of columns.
	mask, cols := GP64(), Load(Param("cols"), GP64())
	MOVQ(U64(0xffffffff), mask)
	count := GP64()
	MOVQ(U32(32), count)
	SUBQ(cols, count)
	SHRXQ(count, mask, mask)
	m0, m1 := K(), K()
	KMOVW(mask.As32(), m0)
	SHRQ(U8(16), mask)
	KMOVW(mask.As32(), m1)
	masks := []reg.Register{m0, m1}

	ar := newRowAddr(a, lda, rows)
	acc := make([][2]reg.VecVirtual, rows)
	for i := range acc {
		for v := range 2 {
			acc[i][v] = ZMM()
			VPXORD(acc[i][v], acc[i][v], acc[i][v])
		}
	}
	x := []reg.VecVirtual{ZMM(), ZMM()}
	Label("loop")
	for v := range 2 {
		src := Mem{Base: b, Disp: v * 16 * size}
		if half {
			VCVTPH2PS_Z(src, masks[v], x[v])
		} else {
			VMOVUPS_Z(src, masks[v], x[v])
		}
	}
	for i := range rows {
		y := ZMM()
		VBROADCASTSS(ar.at(i, 0), y)
		for v := range 2 {
			VFMADD231PS(x[v], y, acc[i][v])
		}
	}
	prefetch(next, 32*size)
	ADDQ(n, b)
	ADDQ(n, next)
	ar.step(4)
	DECQ(k)
	JNZ(LabelRef("loop"))

	cr := newRowAddr(c, ldc, rows)
	add := Load(Param("add"), GP64())
	TESTQ(add, add)
	JZ(LabelRef("store"))
	for i := range rows {
		for v := range 2 {
			VADDPS_Z(cr.at(i, v*64), acc[i][v], masks[v], acc[i][v])
		}
	}
	Label("store")
	for i := range rows {
		for v := range 2 {
			VMOVUPS(acc[i][v], masks[v], cr.at(i, v*64))
		}
	}
	VZEROUPPER()
	RET()
}

// pageAVX2: 8*vecs columns.
func pageAVX2(half bool, rows, vecs int) {
	name, typ, size := elem(half)
	fn := fmt.Sprintf("page%sAVX2x%dx%d", name, rows, 8*vecs)
	TEXT(fn, NOSPLIT, fmt.Sprintf("func(k int, a *float32, lda int, b *%s, n int, c *float32, ldc int, add int, next *%s)", typ, typ))
	Doc(fmt.Sprintf("%s: %d rows by %d columns; strides in elements, k >= 1.", fn, rows, 8*vecs))
	Pragma("noescape")
	k := Load(Param("k"), GP64())
	a := Load(Param("a"), GP64()).(reg.GPVirtual)
	lda := Load(Param("lda"), GP64()).(reg.GPVirtual)
	b := Load(Param("b"), GP64())
	n := Load(Param("n"), GP64())
	next := Load(Param("next"), GP64())
	c := Load(Param("c"), GP64()).(reg.GPVirtual)
	ldc := Load(Param("ldc"), GP64()).(reg.GPVirtual)
	SHLQ(U8(2), lda)
	SHLQ(U8(2), ldc)
	if size == 4 {
		SHLQ(U8(2), n)
	} else {
		SHLQ(U8(1), n)
	}
	ar := newRowAddr(a, lda, rows)
	acc := make([][]reg.VecVirtual, rows)
	for i := range acc {
		for range vecs {
			r := YMM()
			VPXOR(r, r, r)
			acc[i] = append(acc[i], r)
		}
	}
	var x []reg.VecVirtual
	for range vecs {
		x = append(x, YMM())
	}
	y := YMM()
	Label("loop")
	for v := range vecs {
		src := Mem{Base: b, Disp: v * 8 * size}
		if half {
			VCVTPH2PS(src, x[v])
		} else {
			VMOVUPS(src, x[v])
		}
	}
	for i := range rows {
		VBROADCASTSS(ar.at(i, 0), y)
		for v := range vecs {
			VFMADD231PS(x[v], y, acc[i][v])
		}
	}
	prefetch(next, 8*vecs*size)
	ADDQ(n, b)
	ADDQ(n, next)
	ar.step(4)
	DECQ(k)
	JNZ(LabelRef("loop"))

	cr := newRowAddr(c, ldc, rows)
	add := Load(Param("add"), GP64())
	TESTQ(add, add)
	JZ(LabelRef("store"))
	for i := range rows {
		for v := range vecs {
			VADDPS(cr.at(i, v*32), acc[i][v], acc[i][v])
		}
	}
	Label("store")
	for i := range rows {
		for v := range vecs {
			VMOVUPS(acc[i][v], cr.at(i, v*32))
		}
	}
	VZEROUPPER()
	RET()
}
