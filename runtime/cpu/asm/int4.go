package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// int4s writes gemv_int4: 4-bit codes+8 of weights times int8 activations, one
// half-precision scale per row and 64 columns (gemvInt4) or 32 (gemvInt4Group32).
// A chunk is 64 columns: 8 steps of 8 columns, whose first 4 lie in the low and
// last 4 in the high nibbles of a row's 4 bytes.
//
// Unsigned codes times signed activations sum to a surplus of 8*sum(x), taken off
// at the start. AVX2: 8 products of at most 2*15*127 fit 16 bits, so vpmaddwd
// runs once per 32 columns.
//
// gemvInt4Zero: a row has a zero point (+8, a byte) behind the scales of each group,
// and zero*sum(x) is taken off instead.
func int4s() {
	for _, zero := range []bool{false, true} {
		for _, g := range groupings[1:] {
			for _, width := range []int{1, 2, 4} {
				int4Tile(avx512, width, g, zero)
			}
			for _, width := range []int{1, 2} {
				int4Tile(avx2, width, g, zero)
			}
		}
	}
}

func int4Tile(s isa, width int, g grouping, zero bool) {
	name := g.name("gemvInt4")
	if zero {
		name += "Zero"
	}
	t := begin(s, name, width, width, true)
	var one VecVirtual
	low := splat(s, 0x0f0f0f0f)
	if s.vec == 32 {
		one = ones()
	}
	t.blocks(nil, func() {
		sums := [][]VecVirtual{t.regs(width), t.regs(width)}
		// Of words, of scales, of zero points.
		words, scales, zeros := 8/g.parts*rowVecs*t.vec, rowVecs*t.vec/2, rowVecs*t.vec/4
		for part := range g.parts {
			switch {
			case zero:
				t.zeroPoints(sums, part, g.parts, part*(words+scales+zeros)+words+scales)
			case g.parts == 1:
				t.surplus(sums, 3)
			default:
				t.surplusHalf(sums, part, 3)
			}
			for h := part * 2 / g.parts; h < (part+1)*2/g.parts; h++ {
				t.int4Half(h, sums, low, one)
			}
			t.scaled(sums, true)
			if zero {
				t.take(zeros)
			}
		}
		t.nextGroup()
	}, nil)
}

// int4Half adds the products of half a chunk.
func (t *tile) int4Half(h int, sums [][]VecVirtual, low, one VecVirtual) {
	words := [][]VecVirtual{nil, nil}
	if t.vec == 32 {
		words = [][]VecVirtual{t.regs(t.width), t.regs(t.width)}
	}
	for j := range 4 {
		for v := range rowVecs {
			lo, hi := t.nibbles(low)
			for i := range t.width {
				for k, w := range []VecVirtual{lo, hi} {
					x := t.reg()
					VPBROADCASTD(t.unit(2*h+j/2, i, j%2*2+k), x)
					switch {
					case t.vec == 64:
						VPDPBUSD(x, w, sums[v][i])
					case j == 0 && k == 0:
						VPMADDUBSW(x, w, words[v][i])
					default:
						VPMADDUBSW(x, w, x)
						VPADDW(x, words[v][i], words[v][i])
					}
				}
			}
		}
	}
	if t.vec == 32 {
		for v := range rowVecs {
			for i := range t.width {
				VPMADDWD(one, words[v][i], words[v][i])
				VPADDD(words[v][i], sums[v][i], sums[v][i])
			}
		}
	}
}

// zeroPoints starts sums at -(sum of the part's activation codes) times the rows' zero
// points, bytes at offset at of the chunk. Both fit 16 bits.
func (t *tile) zeroPoints(sum [][]VecVirtual, part, parts, at int) {
	z := t.regs(rowVecs)
	for v := range z {
		VPMOVZXBD(Mem{Base: t.w, Disp: at + v*t.vec/4}, z[v])
	}
	for i := range t.width {
		x := t.reg()
		VPBROADCASTD(Mem{Base: t.ux, Disp: 4 * (part*t.width + i)}, x)
		if parts == 1 {
			y := t.reg()
			VPBROADCASTD(Mem{Base: t.ux, Disp: 4 * (t.width + i)}, y)
			VPADDD(y, x, x)
		}
		for v := range z {
			VPMADDWD(x, z[v], sum[v][i])
		}
	}
}

// nibbles loads a vector of bytes and splits it.
func (t *tile) nibbles(low VecVirtual) (lo, hi VecVirtual) {
	lo, hi = t.reg(), t.reg()
	VMOVUPS(t.take(t.vec), lo)
	if t.vec == 64 {
		VPSRLD(Imm(4), lo, hi)
		VPANDD(low, hi, hi)
		VPANDD(low, lo, lo)
		return
	}
	VPSRLD(Imm(4), lo, hi)
	VPAND(low, hi, hi)
	VPAND(low, lo, lo)
	return
}

// surplusHalf starts sums at -(sum of 32 activation codes) << shift.
func (t *tile) surplusHalf(sum [][]VecVirtual, half int, shift uint64) {
	for i := range t.width {
		VPBROADCASTD(Mem{Base: t.ux, Disp: 4 * (half*t.width + i)}, sum[0][i])
		VPSLLD(Imm(shift), sum[0][i], sum[0][i])
		VMOVUPS(sum[0][i], sum[1][i])
	}
}
