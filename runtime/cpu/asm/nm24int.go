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
//     16j+8..16j+15 in its high nibbles, as code+8.
//
// AVX-512: int8 multiplies the picked activations + 128 (unsigned) with signed
// codes and takes 128*sum(codes) off; int4 multiplies unsigned code+8 with signed
// activations and takes 8*sum(picked) off. AVX2: as gemv_int8.
func nm24int8() {
	for _, group := range []bool{false, true} {
		for _, width := range []int{1, 2, 4} {
			nm24Int8VNNI(width, group)
		}
		for _, width := range []int{1, 2} {
			nm24Int8AVX2(width, group)
		}
	}
}

func nm24int4() {
	nm24Int4VNNI(1, 1)
	nm24Int4VNNI(2, 2)
	nm24Int4VNNI(2, 4) // registers do not hold 4 tokens: two at a time
	nm24Int4AVX2(1, 1)
	nm24Int4AVX2(1, 2)
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

func (t *tile) zeroed(n int) []VecVirtual {
	r := t.regs(n)
	for _, a := range r {
		t.zero(a)
	}
	return r
}

func nm24Int8VNNI(width int, group bool) {
	t := begin(avx512, groupName("spmmNM24Int8", group), width, width, true)
	pick := newPicker(avx512)
	b128 := splat(avx512, 0x80808080)
	t.blocks(nil, func() {
		sums := [][]VecVirtual{t.zeroed(width), t.zeroed(width)}
		codes := t.zeroed(rowVecs)
		for h := range 2 {
			idx := t.regs(rowVecs)
			for v := range idx {
				VMOVUPS(t.take(t.vec), idx[v])
			}
			for q := range 2 { // 16 columns
				x := t.regs(width)
				for i := range x {
					t.quad(t.unit(2*h+q, i, 0), x[i])
					VPXORD(b128, x[i], x[i])
				}
				for j := range 2 { // 8 columns
					for v := range rowVecs {
						w := t.reg()
						VMOVUPS(t.take(t.vec), w)
						VPDPBUSD(w, b128, codes[v])
						ctl := pick.control(idx[v], 2*q+j)
						for i := range width {
							p := ctl
							if i < width-1 {
								p = t.reg()
							}
							VPSHUFB(ctl, x[i], p)
							VPDPBUSD(w, p, sums[v][i])
						}
					}
				}
			}
		}
		for v := range rowVecs {
			for i := range width {
				VPSUBD(codes[v], sums[v][i], sums[v][i])
			}
		}
		t.scaled(sums, group)
		t.nextGroup()
	}, nil)
}

func nm24Int8AVX2(width int, group bool) {
	t := begin(avx2, groupName("spmmNM24Int8", group), width, width, true)
	pick := newPicker(avx2)
	one := ones()
	t.blocks(nil, func() {
		sums := [][]VecVirtual{t.zeroed(width), t.zeroed(width)}
		for h := range 2 {
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
		t.scaled(sums, group)
		t.nextGroup()
	}, nil)
}

func nm24Int4VNNI(width, stride int) {
	t := begin(avx512, "spmmNM24Int4", width, stride, true)
	pick := newPicker(avx512)
	low := splat(avx512, 0x0f0f0f0f)
	eight := splat(avx512, 0x08080808)
	t.blocks(nil, func() {
		sums := [][]VecVirtual{t.zeroed(width), t.zeroed(width)}
		over := [][]VecVirtual{t.zeroed(width), t.zeroed(width)}
		idx := [][]VecVirtual{t.regs(rowVecs), t.regs(rowVecs)}
		for h := range 2 {
			for v := range rowVecs {
				VMOVUPS(t.take(t.vec), idx[h][v])
			}
		}
		for q := range 4 { // 16 columns
			x := t.regs(width)
			for i := range x {
				t.quad(t.unit(q, i, 0), x[i])
			}
			for v := range rowVecs {
				lo, hi := t.nibbles(low)
				for j, w := range []VecVirtual{lo, hi} { // 8 columns
					ctl := pick.control(idx[q/2][v], q%2*2+j)
					for i := range width {
						p := t.reg()
						VPSHUFB(ctl, x[i], p)
						VPDPBUSD(p, w, sums[v][i])
						VPDPBUSD(p, eight, over[v][i])
					}
				}
			}
		}
		for v := range rowVecs {
			for i := range width {
				VPSUBD(over[v][i], sums[v][i], sums[v][i])
			}
		}
		t.scaled(sums, true)
		t.nextGroup()
	}, nil)
}

func nm24Int4AVX2(width, stride int) {
	t := begin(avx2, "spmmNM24Int4", width, stride, true)
	pick := newPicker(avx2)
	one := ones()
	low := splat(avx2, 0x0f0f0f0f)
	eight := splat(avx2, 0x08080808)
	t.blocks(nil, func() {
		// Sums of 16 bits over the whole chunk: 8 pairs of at most 2*8*127 for each lane.
		sums := [][]VecVirtual{t.zeroed(width), t.zeroed(width)}
		idx := [4]Mem{}
		for i := range idx {
			idx[i] = t.take(t.vec)
		}
		for q := range 4 { // 16 columns
			for v := range rowVecs {
				nib := t.take(t.vec)
				for j := range 2 { // 8 columns
					w, c := YMM(), YMM()
					VMOVUPS(nib, w)
					if j == 1 {
						VPSRLD(Imm(4), w, w)
					}
					VPAND(low, w, w)
					VMOVUPS(idx[q/2*2+v], c)
					c = pick.control(c, q%2*2+j)
					for i := range width {
						p, o := YMM(), YMM()
						t.quad(t.unit(q, i, 0), p)
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
		t.nextGroup()
	}, nil)
}
