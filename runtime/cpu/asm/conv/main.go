// Command conv writes the assembly of convolutions whose output positions lie in
// the lanes:
//
//	dense:  dst[r, j] = max(bias[r] + sum_k w[k, r] * src[off[k] + j], floor)  8 rows (AVX2: 4), 3 vectors
//	sparse: dst[j]    = max(bias    + sum_k w[k]    * src[off[k] + j], floor)  1 row, at most 8 vectors
//
// off are bytes, so that a kernel element reads the padded input where it lies:
// nothing is unrolled (im2col) or packed. The arguments are runtime/cpu's convArgs.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// Offsets in convArgs.
const (
	aDst, aSrc, aOff, aW, aN, aLd, aBias, aFloor, aMore = 0, 8, 16, 24, 32, 40, 48, 56, 60
)

type isa struct {
	name string
	vec  func() VecVirtual
	size int // bytes of a vector
	rows int // of the dense kernel
}

func main() {
	ConstraintExpr("amd64")
	for _, s := range []isa{
		{"AVX512", func() VecVirtual { return ZMM() }, 64, 8},
		{"AVX2", func() VecVirtual { return YMM() }, 32, 4},
	} {
		for vecs := 1; vecs <= 3; vecs++ { // fewer for what is left of the positions
			s.kernel(fmt.Sprint("convDense", vecs), s.rows, vecs)
		}
		for vecs := 1; vecs <= 8; vecs++ {
			s.kernel(fmt.Sprint("convSparse", vecs), 1, vecs)
		}
	}
	Generate()
}

func (s isa) kernel(name string, rows, vecs int) {
	TEXT(fmt.Sprintf("%s%s", name, s.name), NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	a := Load(Param("a"), GP64())
	load := func(off int) Register { r := GP64(); MOVQ(Mem{Base: a, Disp: off}, r); return r }
	src, off, w, n, bias := load(aSrc), load(aOff), load(aW), load(aN), load(aBias)
	acc := make([][]VecVirtual, rows)
	for r := range acc {
		for v := range vecs {
			acc[r] = append(acc[r], s.vec())
			if v == 0 {
				VBROADCASTSS(Mem{Base: bias, Disp: 4 * r}, acc[r][0])
			} else {
				VMOVAPS(acc[r][0], acc[r][v])
			}
		}
	}
	// A later part of the kernel's elements adds to what stands there.
	CMPL(Mem{Base: a, Disp: aMore}, Imm(0))
	JEQ(LabelRef("first"))
	dst0, ld0 := load(aDst), load(aLd)
	for r := range rows {
		for v := range vecs {
			VMOVUPS(Mem{Base: dst0, Disp: v * s.size}, acc[r][v])
		}
		ADDQ(ld0, dst0)
	}
	Label("first")
	TESTQ(n, n)
	JZ(LabelRef("done"))
	Label("step")
	p := GP64()
	MOVLQSX(Mem{Base: off}, p)
	ADDQ(src, p)
	if rows == 1 {
		b := s.vec()
		VBROADCASTSS(Mem{Base: w}, b)
		for v := range vecs {
			VFMADD231PS(Mem{Base: p, Disp: v * s.size}, b, acc[0][v])
		}
	} else {
		x := make([]VecVirtual, vecs)
		for v := range x {
			x[v] = s.vec()
			VMOVUPS(Mem{Base: p, Disp: v * s.size}, x[v])
		}
		b := s.vec()
		for r := range rows {
			VBROADCASTSS(Mem{Base: w, Disp: 4 * r}, b)
			for v := range vecs {
				VFMADD231PS(x[v], b, acc[r][v])
			}
		}
	}
	ADDQ(Imm(4), off)
	ADDQ(Imm(uint64(4*rows)), w)
	DECQ(n)
	JNZ(LabelRef("step"))
	Label("done")
	floor := s.vec()
	VBROADCASTSS(Mem{Base: a, Disp: aFloor}, floor)
	dst, ld := load(aDst), load(aLd)
	for r := range rows {
		for v := range vecs {
			VMAXPS(acc[r][v], floor, acc[r][v]) // NaN stays
			VMOVUPS(acc[r][v], Mem{Base: dst, Disp: v * s.size})
		}
		if r+1 < rows {
			ADDQ(ld, dst)
		}
	}
	VZEROUPPER()
	RET()
}
