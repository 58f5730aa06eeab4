package main

import (
	"strings"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// int8s writes gemv_int8: codes of weights times codes of activations. A chunk is
// one group of 64 columns of activations, which share a scale.
//
//   - AVX-512 VNNI: weights are stored as code+128, vpdpbusd multiplies them with
//     signed activations; the surplus 128*sum(x) is the same for every row and the
//     sums start with it taken off.
//   - AVX2: |w| times x with w's sign (vpmaddubsw); |codes| <= 127, so pairs do
//     not saturate.
//
// gemvInt8Group reads a half-precision scale per row and group beside the codes,
// gemvInt8Group32 one for each half of a group, at its end.
func int8s() {
	for _, g := range groupings {
		for _, width := range []int{1, 2, 4} {
			int8VNNI(width, g)
		}
		for _, width := range []int{1, 2} {
			int8AVX2(width, g)
		}
	}
}

// grouping says where half-precision scales stand in a chunk: nowhere, at its end, or
// at the end of each half.
type grouping struct {
	suffix string
	parts  int // of a chunk that are summed and scaled apart
	scaled bool
}

var groupings = []grouping{{"", 1, false}, {"Group", 1, true}, {"Group32", 2, true}}

// name is the kernel's: int4 always has scales, those of 64 columns unless it says so.
func (g grouping) name(stem string) string {
	if strings.HasSuffix(stem, "Int4") && g.parts == 1 {
		return stem
	}
	return stem + g.suffix
}

// scaled adds the group's integer sums, times the scales of activations and
// group, to the running sums.
func (t *tile) scaled(sum [][]VecVirtual, group bool) {
	var gs []VecVirtual
	if group {
		gs = t.regs(rowVecs)
		for v := range gs {
			VCVTPH2PS(t.take(t.vec/2), gs[v])
		}
	}
	for i := range t.width {
		s := t.reg()
		VBROADCASTSS(Mem{Base: t.sx, Disp: 4 * i}, s)
		for v := range rowVecs {
			VCVTDQ2PS(sum[v][i], sum[v][i])
			if group {
				VMULPS(gs[v], sum[v][i], sum[v][i])
			}
			VFMADD231PS(s, sum[v][i], t.acc[v][i])
		}
	}
}

// nextGroup moves on to the next group of activations.
func (t *tile) nextGroup() {
	t.nextUnits(4)
	ADDQ(U32(uint32(4*t.stride)), t.sx)
	ADDQ(U32(uint32(8*t.stride)), t.ux)
}

// surplus starts sums at -(sum of the group's activation codes) << shift.
func (t *tile) surplus(sum [][]VecVirtual, shift uint64) {
	for i := range t.width {
		a := t.reg()
		VPBROADCASTD(Mem{Base: t.ux, Disp: 4 * i}, sum[0][i])
		VPBROADCASTD(Mem{Base: t.ux, Disp: 4 * (t.stride + i)}, a)
		VPADDD(a, sum[0][i], sum[0][i])
		VPSLLD(Imm(shift), sum[0][i], sum[0][i])
		VMOVUPS(sum[0][i], sum[1][i])
	}
}

func int8VNNI(width int, g grouping) {
	t := begin(avx512, g.name("gemvInt8"), width, width, true)
	t.blocks(nil, func() {
		words := 16 / g.parts
		chains := max(1, 2/width)
		sums := make([][][]VecVirtual, chains)
		for c := range sums {
			sums[c] = [][]VecVirtual{t.regs(width), t.regs(width)}
		}
		for part := range g.parts {
			if g.parts == 1 {
				t.surplus(sums[0], 7)
			} else {
				t.surplusHalf(sums[0], part, 7)
			}
			for _, c := range sums[1:] {
				t.clear(c...)
			}
			for j := part * words; j < (part+1)*words; j++ {
				w := t.regs(rowVecs)
				for v := range w {
					VMOVUPS(t.take(t.vec), w[v])
				}
				for i := range width {
					x := t.reg()
					VPBROADCASTD(t.unit(j/4, i, j%4), x)
					for v := range w {
						VPDPBUSD(x, w[v], sums[j%chains][v][i])
					}
				}
			}
			if chains == 2 {
				for v := range rowVecs {
					VPADDD(sums[1][v][0], sums[0][v][0], sums[0][v][0])
				}
			}
			t.scaled(sums[0], g.scaled)
		}
		t.nextGroup()
	}, nil)
}

// ones is a vector of sixteen-bit ones.
func ones() VecVirtual {
	o := YMM()
	VPCMPEQW(o, o, o)
	VPSRLW(Imm(15), o, o)
	return o
}

// signedDot adds w*x of 4 neighbouring bytes to sum; abs is |w|.
func signedDot(w, abs, x, one, sum VecVirtual) {
	p := YMM()
	VPSIGNB(w, x, p)
	VPMADDUBSW(p, abs, p)
	VPMADDWD(one, p, p)
	VPADDD(p, sum, sum)
}

func int8AVX2(width int, g grouping) {
	t := begin(avx2, g.name("gemvInt8"), width, width, true)
	one := ones()
	t.blocks(nil, func() {
		words := 16 / g.parts
		sums := [][]VecVirtual{t.regs(width), t.regs(width)}
		for part := range g.parts {
			t.clear(sums...)
			for j := part * words; j < (part+1)*words; j++ {
				for v := range rowVecs {
					w, abs := YMM(), YMM()
					VMOVUPS(t.take(t.vec), w)
					VPABSB(w, abs)
					for i := range width {
						x := YMM()
						VPBROADCASTD(t.unit(j/4, i, j%4), x)
						signedDot(w, abs, x, one, sums[v][i])
					}
				}
			}
			t.scaled(sums, g.scaled)
		}
		t.nextGroup()
	}, nil)
}
