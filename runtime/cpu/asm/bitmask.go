package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// bitmask writes bitmask: unstructured weights with one bit for each weight and
// the nonzero ones packed, AVX-512 only. Rows are in lanes as in gemv_dense; what
// is stored of a column of rows is expanded into their lanes.
//
//   - f32, f16, bf16: a chunk is 8 columns. First the masks, 32 bits for each column;
//     then the stored numbers in the same order. With VBMI2 32 halves are read,
//     vpexpandw moves the first few of them to their places, and they become floats.
//     f16 without it, and f32: vexpandps, 16 rows at a time.
//   - int8 (VBMI2, VNNI): a chunk is 64 columns. First the masks, 64 bits for each 4
//     columns and vector of rows; then half-precision scales of rows where scales
//     are in groups; then codes+128, which vpexpandb puts among bytes of 128 - zeros.
//
// The next numbers start where the last ones end: a popcount away. Where nothing is
// moved to is zeroed before, although the instructions would do it: on Zen 4 they
// wait for what stood in their result, 8 cycles (f16: 8.1 -> 7.1 cycles a column of
// 32 rows, bf16 9.1 -> 4.7).
func bitmask() {
	for _, width := range avx512.floatWidths() {
		bitmaskTile(avx512, "F32", width, expandOne)
		bitmaskTile(avx512, "F16", width, expandOne)
		bitmaskTile(vbmi2, "F16", width, expandF16)
		bitmaskTile(vbmi2, "BF16", width, expandBF16)
	}
	for _, g := range groupings {
		for _, width := range []int{1, 2, 4} {
			bitmaskInt8(width, g)
		}
	}
}

var vbmi2 = isa{"VBMI2", 64, true}

// bitmaskColumns is the columns of a chunk of floats.
const bitmaskColumns = 8

// packedStream is where the stored numbers of a chunk are read.
type packedStream struct {
	t    *tile
	p    Register
	size int // bytes of a number
}

// packedAfter begins a stream n bytes behind the chunk.
func packedAfter(t *tile, n, size int) packedStream {
	p := GP64()
	LEAQ(Mem{Base: t.w, Disp: n}, p)
	return packedStream{t, p, size}
}

// skip moves on by the bits of mask, which is bits wide.
func (s packedStream) skip(mask Mem, bits int) {
	n := GP64()
	switch bits {
	case 64:
		POPCNTQ(mask, n)
	case 32:
		POPCNTL(mask, n.As32())
	default:
		MOVWQZX(mask, n)
		POPCNTQ(n, n)
	}
	// Shifts stand outside the chain of additions.
	for size := s.size; size > 1; size /= 2 {
		ADDQ(n, n)
	}
	ADDQ(n, s.p)
}

// expandOne puts a column's numbers into their lanes, a vector of rows at a time.
func expandOne(in packedStream, typ string, mask Mem, w []VecVirtual) {
	for v := range w {
		m := mask.Offset(2 * v)
		k, x := K(), in.t.reg()
		KMOVW(m, k)
		in.t.values(typ, Mem{Base: in.p}, x)
		VMOVAPS(in.t.none, w[v])
		VEXPANDPS(x, k, w[v])
		in.skip(m, 16)
	}
}

// expandHalves returns 32 halves in their places.
func expandHalves(in packedStream, mask Mem) VecVirtual {
	k, x, h := K(), ZMM(), ZMM()
	KMOVD(mask, k)
	VMOVUPS(Mem{Base: in.p}, x)
	VMOVAPS(in.t.none, h)
	VPEXPANDW(x, k, h)
	in.skip(mask, 32)
	return h
}

func expandF16(in packedStream, _ string, mask Mem, w []VecVirtual) {
	h := expandHalves(in, mask)
	upper := YMM()
	VEXTRACTI64X4(Imm(1), h, upper)
	VCVTPH2PS(h.(Vec).AsY(), w[0])
	VCVTPH2PS(upper, w[1])
}

// expandBF16: row r and row 16+r share 32 bits.
func expandBF16(in packedStream, _ string, mask Mem, w []VecVirtual) {
	h := expandHalves(in, mask)
	VPSLLD(Imm(16), h, w[0])
	VPANDD(in.t.upper, h, w[1])
}

func bitmaskTile(s isa, typ string, width int, expand func(in packedStream, typ string, mask Mem, w []VecVirtual)) {
	size := map[string]int{"F32": 4, "F16": 2, "BF16": 2}[typ]
	t := begin(s, "bitmask"+typ, width, width, false)
	t.none = s.reg()
	s.zero(t.none)
	if typ == "BF16" {
		t.upper = splat(s, 0xffff0000)
	}
	chains := max(1, 4/width)
	sums := make([][][]VecVirtual, chains)
	sums[0] = t.acc
	for i := 1; i < chains; i++ {
		sums[i] = [][]VecVirtual{s.regs(width), s.regs(width)}
	}
	t.blocks(func() {
		for _, c := range sums[1:] {
			for _, v := range c {
				for _, a := range v {
					s.zero(a)
				}
			}
		}
	}, func() {
		masks := 2 * rowVecs * bitmaskColumns
		in := packedAfter(t, masks, size)
		for c := range bitmaskColumns {
			t.prefetch(Mem{Base: in.p})
			w := s.regs(rowVecs)
			expand(in, typ, Mem{Base: t.w, Disp: 2 * rowVecs * c}, w)
			for i := range width {
				x := s.reg()
				VBROADCASTSS(t.unit(c/4, i, c%4), x)
				for v := range rowVecs {
					VFMADD231PS(x, w[v], sums[c%chains][v][i])
				}
			}
		}
		MOVQ(in.p, t.w)
		t.nextUnits(bitmaskColumns / 4)
	}, func() {
		for n := chains; n > 1; n /= 2 {
			for c := range n / 2 {
				for v := range rowVecs {
					for i := range width {
						VADDPS(sums[c+n/2][v][i], sums[c][v][i], sums[c][v][i])
					}
				}
			}
		}
	})
}

func bitmaskInt8(width int, g grouping) {
	t := begin(avx512, g.name("bitmaskInt8"), width, width, true)
	zero := splat(avx512, 0x80808080) // code 0
	t.blocks(nil, func() {
		masks := 8 * rowVecs * 16
		scales := 0 // bytes of those of a group
		if g.scaled {
			scales = 2 * rowVecs * 16
		}
		in := packedAfter(t, masks+g.parts*scales, 1)
		for part := range g.parts {
			sums := [][]VecVirtual{t.regs(width), t.regs(width)}
			if g.parts == 1 {
				t.surplus(sums, 7)
			} else {
				t.surplusHalf(sums, part, 7)
			}
			for j := part * 16 / g.parts; j < (part+1)*16/g.parts; j++ {
				if j%2 == 0 {
					t.prefetch(Mem{Base: in.p})
				}
				w := t.regs(rowVecs)
				for v := range w {
					mask := Mem{Base: t.w, Disp: 8 * (rowVecs*j + v)}
					k := K()
					KMOVQ(mask, k)
					codes := t.reg()
					VMOVUPS(Mem{Base: in.p}, codes)
					VMOVAPS(zero, w[v])
					VPEXPANDB(codes, k, w[v])
					in.skip(mask, 64)
				}
				for i := range width {
					x := t.reg()
					VPBROADCASTD(t.unit(j/4, i, j%4), x)
					for v := range w {
						VPDPBUSD(x, w[v], sums[v][i])
					}
				}
			}
			t.wOff = masks + part*scales // where scales are taken from
			t.scaled(sums, g.scaled)
		}
		MOVQ(in.p, t.w)
		t.wOff = 0
		t.nextGroup()
	}, nil)
}
