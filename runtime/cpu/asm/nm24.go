package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// nm24 writes spmm_nm24: 2:4 weights in f32, f16 and bf16. A chunk is 32 columns:
// one vector of indices (per row 8 groups of two 2-bit positions, low bits
// first), then per group the first and the second kept value of every row.
//
// A group of 4 activations is broadcast to every 128-bit lane, where vpermilps
// picks one of 4 floats by the low 2 bits of each row's index: exactly a 2:4
// position. bf16 has both kept values of a group in one 32-bit lane.
func nm24() {
	for _, name := range []string{"spmmNM24F32", "spmmNM24F16", "spmmNM24BF16"} {
		for _, width := range []int{1, 2, 4, 8} {
			nm24Tile(avx512, name, width)
		}
		for _, width := range []int{1, 2, 4} {
			nm24Tile(avx2, name, width)
		}
	}
}

func nm24Tile(s isa, name string, width int) {
	t := begin(s, name, width, width, false)
	chains := 1
	if width == 1 {
		chains = 2
	}
	sums := [][][]VecVirtual{t.acc}
	if chains == 2 {
		sums = append(sums, [][]VecVirtual{s.regs(width), s.regs(width)})
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
		idx := s.regs(rowVecs)
		for v := range idx {
			VMOVUPS(t.take(t.vec), idx[v])
		}
		for g := range 8 {
			x := s.regs(width)
			keep := s.evex || width < 4 // 16 registers do not hold 4 groups of activations
			for i := range x {
				if keep {
					s.quad(t.unit(g, i, 0), x[i])
				}
			}
			for k := range 2 {
				w := s.regs(rowVecs)
				switch name {
				case "spmmNM24F32":
					loadF32(t, k, w)
				case "spmmNM24F16":
					loadF16(t, k, w)
				default:
					loadBF16(t, k, w)
				}
				for v := range rowVecs {
					for i := range width {
						p := s.reg()
						if !keep {
							s.quad(t.unit(g, i, 0), p)
							x[i] = p
						}
						VPERMILPS(idx[v], x[i], p)
						VFMADD231PS(p, w[v], sums[k%chains][v][i])
					}
					if g*2+k < 15 {
						VPSRLD(Imm(2), idx[v], idx[v])
					}
				}
			}
		}
		t.nextUnits(8)
	}, func() {
		if chains == 2 {
			for v := range rowVecs {
				VADDPS(sums[1][v][0], sums[0][v][0], sums[0][v][0])
			}
		}
	})
}
