package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// 2:4 weights in int8 and int4 times int8 activations. A chunk is 64 columns.
//
// 16 activations are broadcast to every 128-bit lane; vpshufb picks a row's 4
// kept ones of 8 columns into the row's 32-bit lane. Byte b of a row's index word
// holds, for kept value b of 4 successive vectors of values, its 2-bit position,
// low bits first; the group's place (0, 4, 8 or 12) is or-ed in.
//
//   - int8: per 32 columns a vector of indices, then 4 vectors of codes.
//   - int4: per 64 columns 2 vectors of indices (columns 0..31, 32..63), then 4
//     vectors of nibbles: vector j has columns 16j..16j+7 in its low and
//     16j+8..16j+15 in its high nibbles.
//   - Group32: each half of a chunk has its indices, its values, its scales.
//
// AVX-512: the picked activations + 128 (unsigned) times signed codes, and
// 128*sum(codes) off, which all tokens share. Nibbles are two's complement and stay
// in the upper half of their byte: codes times 16, taken off at the end of a block.
// AVX2: int8 as gemv_int8; int4 multiplies unsigned code+8 with signed activations
// and takes 8*sum(picked) off.
//
// int4 with AVX-512, v1 as AVX2 (sums of the picked ones for each token, 2 tokens at a
// time for want of registers); v2 as above; v3 nm24Int4VBMI for one or two tokens.
func nm24int8() {
	for _, g := range groupings {
		for _, width := range []int{1, 2, 4} {
			nm24Int8VNNI(width, g)
		}
		for _, width := range []int{1, 2} {
			nm24Int8AVX2(width, g)
		}
	}
}

func nm24int4() {
	tables := vbmiTables()
	for _, g := range groupings[1:] {
		for _, width := range []int{1, 2, 4} {
			nm24Int4VNNI(width, g)
		}
		for _, width := range []int{1, 2} {
			nm24Int4VBMI(width, g, tables)
		}
		nm24Int4AVX2(1, 1, g)
		nm24Int4AVX2(1, 2, g) // registers do not hold 2 tokens
	}
}

// picker turns index words into shuffle controls.
type picker struct {
	isa
	two  VecVirtual
	base [2]VecVirtual
}

func splat(s isa, word uint32) VecVirtual {
	r, c := s.reg(), GP32()
	MOVL(U32(word), c)
	if s.vec == 64 {
		VPBROADCASTD(c, r)
	} else {
		VMOVD(c, r.AsX())
		VPBROADCASTD(r.AsX(), r)
	}
	return r
}

func newPicker(s isa) picker {
	return picker{s, splat(s, 0x03030303), [2]VecVirtual{splat(s, 0x04040000), splat(s, 0x0c0c0808)}}
}

// control gives the shuffle of value vector v (8 columns) of an index vector.
func (p picker) control(idx VecVirtual, v int) VecVirtual {
	c := p.reg()
	if p.vec == 64 {
		if v == 0 {
			VMOVUPS(idx, c)
		} else {
			VPSRLD(Imm(uint64(2*v)), idx, c)
		}
		VPTERNLOGD(Imm(0xEA), p.base[v%2], p.two, c) // c&two | base
		return c
	}
	if v == 0 {
		VPAND(p.two, idx, c)
	} else {
		VPSRLD(Imm(uint64(2*v)), idx, c)
		VPAND(p.two, c, c)
	}
	VPOR(p.base[v%2], c, c)
	return c
}

// load is control of an index vector in memory.
func (p picker) load(idx Mem, v int) VecVirtual {
	c := p.reg()
	VMOVUPS(idx, c)
	return p.control(c, v)
}

// clear zeroes registers. Those of parts of a chunk are the same ones: zeroing counts
// as reading, so that new ones would be taken from the beginning.
func (t *tile) clear(sums ...[]VecVirtual) {
	for _, v := range sums {
		for _, a := range v {
			t.zero(a)
		}
	}
}

func nm24Int8VNNI(width int, g grouping) {
	t := begin(avx512, g.name("spmmNM24Int8"), width, width, true)
	pick := newPicker(avx512)
	b128 := splat(avx512, 0x80808080)
	t.blocks(nil, func() {
		sums, codes := [][]VecVirtual{t.regs(width), t.regs(width)}, t.regs(rowVecs)
		for part := range g.parts {
			t.clear(sums[0], sums[1], codes)
			for h := part * 2 / g.parts; h < (part+1)*2/g.parts; h++ {
				idx := t.regs(rowVecs)
				for v := range idx {
					VMOVUPS(t.take(t.vec), idx[v])
				}
				for q := range 2 { // 16 columns
					x := t.unsignedQuads(2*h+q, b128)
					for j := range 2 { // 8 columns
						for v := range rowVecs {
							w := t.reg()
							VMOVUPS(t.take(t.vec), w)
							VPDPBUSD(w, b128, codes[v])
							t.pickDot(pick.control(idx[v], 2*q+j), w, x, sums[v])
						}
					}
				}
			}
			t.takeOff(codes, sums)
			t.scaled(sums, g.scaled)
		}
		t.nextGroup()
	}, nil)
}

// unsignedQuads are the activations + 128 of 16 columns (unit u) of every token.
func (t *tile) unsignedQuads(u int, b128 VecVirtual) []VecVirtual {
	x := t.regs(t.width)
	for i := range x {
		t.quad(t.unit(u, i, 0), x[i])
		VPXORD(b128, x[i], x[i])
	}
	return x
}

// pickDot adds the products of codes w and picked activations to every token's sum.
func (t *tile) pickDot(control, w VecVirtual, x, sum []VecVirtual) {
	for i := range x {
		p := control
		if i < len(x)-1 {
			p = t.reg()
		}
		VPSHUFB(control, x[i], p)
		VPDPBUSD(w, p, sum[i])
	}
}

// takeOff takes what every token has too much off its sums.
func (t *tile) takeOff(over []VecVirtual, sums [][]VecVirtual) {
	for v := range sums {
		for i := range sums[v] {
			VPSUBD(over[v], sums[v][i], sums[v][i])
		}
	}
}

func nm24Int8AVX2(width int, g grouping) {
	t := begin(avx2, g.name("spmmNM24Int8"), width, width, true)
	pick := newPicker(avx2)
	one := ones()
	t.blocks(nil, func() {
		sums := [][]VecVirtual{t.regs(width), t.regs(width)}
		for part := range g.parts {
			t.clear(sums...)
			for h := part * 2 / g.parts; h < (part+1)*2/g.parts; h++ {
				// The index vectors stay in memory: registers are scarce.
				idx := []Mem{t.take(t.vec), t.take(t.vec)}
				for j := range 4 { // 8 columns
					for v := range rowVecs {
						w := YMM()
						ctl := YMM()
						VMOVUPS(idx[v], ctl)
						ctl = pick.control(ctl, j)
						VMOVUPS(t.take(t.vec), w)
						picked := t.regs(width)
						for i := range width {
							t.quad(t.unit(2*h+j/2, i, 0), picked[i])
							VPSHUFB(ctl, picked[i], picked[i])
						}
						abs := ctl
						VPABSB(w, abs)
						for i := range width {
							p := picked[i]
							VPSIGNB(w, p, p)
							VPMADDUBSW(p, abs, p)
							VPMADDWD(one, p, p)
							VPADDD(p, sums[v][i], sums[v][i])
						}
					}
				}
			}
			t.scaled(sums, g.scaled)
		}
		t.nextGroup()
	}, nil)
}

func nm24Int4VNNI(width int, g grouping) {
	t := begin(avx512, g.name("spmmNM24Int4"), width, width, true)
	pick := newPicker(avx512)
	high := splat(avx512, 0xf0f0f0f0)
	b128 := splat(avx512, 0x80808080)
	t.blocks(nil, func() {
		sums, codes := [][]VecVirtual{t.regs(width), t.regs(width)}, t.regs(rowVecs)
		for part := range g.parts {
			t.clear(sums[0], sums[1], codes)
			// The index vectors stay in memory: 4 tokens take up the registers.
			idx := make([]Mem, 4/g.parts)
			for i := range idx {
				idx[i] = t.take(t.vec)
			}
			for q := range 4 / g.parts { // 16 columns
				x := t.unsignedQuads(part*2+q, b128)
				for v := range rowVecs {
					hi := t.reg()
					VMOVUPS(t.take(t.vec), hi)
					lo := t.reg()
					VPSLLD(Imm(4), hi, lo)
					VPANDD(high, lo, lo)
					VPANDD(high, hi, hi)
					for j, w := range []VecVirtual{lo, hi} { // 8 columns
						VPDPBUSD(w, b128, codes[v])
						t.pickDot(pick.load(idx[q/2*2+v], q%2*2+j), w, x, sums[v])
					}
				}
			}
			t.takeOff(codes, sums)
			t.scaled(sums, true)
		}
		t.nextGroup()
	}, t.sixteenth)
}

// vbmiTables are the second and third order of activations: what index i of 6 bits
// picks where its bits 2-3 or 4-5 are the position in a group of 4 columns and the
// others, in order, are the group. Then the matrix that moves low nibbles up, and for
// each 8 columns the groups of a row's 4 bytes where those bits are.
func vbmiTables() Mem {
	m := GLOBL("vbmiTables", RODATA|NOPTR)
	for i := range 64 {
		DATA(i, U8(uint8(4*(i>>4<<2|i&3)+i>>2&3)))
	}
	for i := range 64 {
		DATA(64+i, U8(uint8(4*(i&15)+i>>4)))
	}
	DATA(128, U64(0x01020408))
	for v := range 8 { // groups 2v and 2v+1
		at := func(g int) uint32 {
			switch v % 4 {
			case 1:
				return uint32(g>>2<<4 | g&3)
			case 2:
				return uint32(g)
			}
			return uint32(g << 2)
		}
		DATA(136+4*v, U32(at(2*v)*0x0101|at(2*v+1)*0x01010000))
	}
	return m
}

var vbmi = isa{"VBMI", 64, true}

// nm24Int4VBMI is nm24Int4VNNI for one or two tokens where there are VBMI and GFNI (Ice Lake,
// Zen 4): vpermb picks from all 64 activations of the chunk with the low 6 bits of a
// byte, so that positions in bits 0-1, 2-3 and 4-5 need no shift if the activations
// lie in three orders; one vgf2p8affineqb moves the low nibbles up.
func nm24Int4VBMI(width int, g grouping, tables Mem) {
	t := begin(vbmi, g.name("spmmNM24Int4"), width, width, true)
	high, b128 := splat(avx512, 0xf0f0f0f0), splat(avx512, 0x80808080)
	mask := []VecVirtual{splat(avx512, 0x03030303), splat(avx512, 0x0c0c0c0c), splat(avx512, 0x30303030)}
	up := t.reg()
	VPBROADCASTQ(tables.Offset(128), up)
	order := [3]VecVirtual{}
	for k := 1; k < 3; k++ {
		order[k] = t.reg()
		VMOVUPS(tables.Offset(64*(k-1)), order[k])
	}
	t.blocks(nil, func() {
		sums, codes := [][]VecVirtual{t.regs(width), t.regs(width)}, t.regs(rowVecs)
		var x [3][]VecVirtual // by order and token
		x[0] = t.chunkOf(b128)
		for k := 1; k < len(x); k++ {
			for i := range width {
				r := t.reg()
				VPERMB(x[0][i], order[k], r)
				x[k] = append(x[k], r)
			}
		}
		for part := range g.parts {
			t.clear(sums[0], sums[1], codes)
			idx := t.regs(4 / g.parts)
			for i := range idx {
				VMOVUPS(t.take(t.vec), idx[i])
			}
			for q := range 4 / g.parts { // 16 columns
				for v := range rowVecs {
					hi, lo := t.reg(), t.reg()
					VMOVUPS(t.take(t.vec), hi)
					VGF2P8AFFINEQB(Imm(0), up, hi, lo)
					VPANDD(high, hi, hi)
					for j, w := range []VecVirtual{lo, hi} { // 8 columns
						i, f := idx[q/2*2+v], q%2*2+j
						c, from := t.reg(), f
						switch f {
						case 3:
							from = 0
							VPSRLD(Imm(6), i, c)
						default:
							VMOVAPS(i, c)
						}
						VPTERNLOGD_BCST(Imm(0xEA), tables.Offset(136+4*(part*4+q/2*4+f)), mask[from], c) // c&mask | groups
						VPDPBUSD(w, b128, codes[v])
						for i := range width {
							picked := c
							if i < width-1 {
								picked = t.reg()
							}
							VPERMB(x[from][i], c, picked)
							VPDPBUSD(w, picked, sums[v][i])
						}
					}
				}
			}
			t.takeOff(codes, sums)
			t.scaled(sums, true)
		}
		t.nextGroup()
	}, t.sixteenth)
}

// chunkOf is the activations + 128 of the chunk's 64 columns, a register for each of 1
// or 2 tokens.
func (t *tile) chunkOf(b128 VecVirtual) []VecVirtual {
	x := t.regs(t.width)
	if t.width == 1 {
		VPXORD(t.unit(0, 0, 0), b128, x[0])
		return x
	}
	lo, hi := t.reg(), t.reg() // 16 columns of either token by turns
	VPXORD(t.unit(0, 0, 0), b128, lo)
	VPXORD(t.unit(2, 0, 0), b128, hi)
	VSHUFI32X4(Imm(0x88), hi, lo, x[0])
	VSHUFI32X4(Imm(0xdd), hi, lo, x[1])
	return x
}

// sixteenth takes off what codes in the upper half of a byte are too large by.
func (t *tile) sixteenth() {
	by := splat(avx512, 0x3d800000)
	for _, v := range t.acc {
		for _, a := range v {
			VMULPS(by, a, a)
		}
	}
}

func nm24Int4AVX2(width, stride int, g grouping) {
	t := begin(avx2, g.name("spmmNM24Int4"), width, stride, true)
	pick := newPicker(avx2)
	one := ones()
	low := splat(avx2, 0x0f0f0f0f)
	eight := splat(avx2, 0x08080808)
	t.blocks(nil, func() {
		// Sums of 16 bits over the whole chunk: 8 pairs of at most 2*8*127 for each lane.
		sums := [][]VecVirtual{t.regs(width), t.regs(width)}
		for part := range g.parts {
			t.clear(sums...)
			idx := make([]Mem, 4/g.parts)
			for i := range idx {
				idx[i] = t.take(t.vec)
			}
			for q := range 4 / g.parts { // 16 columns
				for v := range rowVecs {
					nib := t.take(t.vec)
					for j := range 2 { // 8 columns
						w := YMM()
						VMOVUPS(nib, w)
						if j == 1 {
							VPSRLD(Imm(4), w, w)
						}
						VPAND(low, w, w)
						c := pick.load(idx[q/2*2+v], q%2*2+j)
						for i := range width {
							p, o := YMM(), YMM()
							t.quad(t.unit(part*2+q, i, 0), p)
							VPSHUFB(c, p, p)
							// 8 of every code is surplus: 8*sum(x) goes off at once.
							VPMADDUBSW(p, w, o)
							VPADDW(o, sums[v][i], sums[v][i])
							VPMADDUBSW(p, eight, o)
							VPSUBW(o, sums[v][i], sums[v][i])
						}
					}
				}
			}
			for v := range rowVecs {
				for i := range width {
					VPMADDWD(one, sums[v][i], sums[v][i])
				}
			}
			t.scaled(sums, true)
		}
		t.nextGroup()
	}, nil)
}
