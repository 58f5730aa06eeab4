package main

import (
	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// dense writes gemv_dense: f32, f16 and bf16. A chunk is one unit, 4 columns.
func dense() {
	for _, k := range []struct {
		name string
		load func(t *tile, c int, w []VecVirtual)
	}{
		{"gemvF32", loadF32}, {"gemvF16", loadF16}, {"gemvBF16", loadBF16},
	} {
		for _, s := range []isa{avx512, avx2} {
			for _, width := range s.floatWidths() {
				denseTile(s, k.name, width, k.load)
			}
		}
	}
}

// unpack writes unpack: chunks of dense f16 and bf16 become those of f32, for
// batches, where converting once for every panel of tokens costs more than the
// memory of a block in f32.
func unpack() {
	for _, s := range []isa{avx512, avx2} {
		unpackTile(s, "unpackF16", loadF16)
		unpackTile(s, "unpackBF16", loadBF16)
	}
}

func unpackTile(s isa, name string, load func(t *tile, c int, w []VecVirtual)) {
	TEXT(name+s.name, NOSPLIT, "func(dst *float32, src *byte, chunks int)")
	Pragma("noescape")
	dst := Load(Param("dst"), GP64())
	t := &tile{isa: s, w: Load(Param("src"), GP64()), ahead: 2048}
	n := Load(Param("chunks"), GP64())
	Label("chunk")
	t.wOff = 0
	column := rowVecs * s.vec
	for c := range 4 {
		w := s.regs(rowVecs)
		load(t, c, w)
		for v := range w {
			VMOVUPS(w[v], Mem{Base: dst, Disp: c*column + v*s.vec})
		}
	}
	ADDQ(U32(uint32(t.wOff)), t.w)
	ADDQ(U32(uint32(4*column)), dst)
	DECQ(n)
	JNZ(LabelRef("chunk"))
	VZEROUPPER()
	RET()
}

func (s isa) floatWidths() []int {
	if s.evex {
		return []int{1, 2, 4, 8}
	}
	return []int{1, 2, 4}
}

func denseTile(s isa, name string, width int, load func(t *tile, c int, w []VecVirtual)) {
	t := begin(s, name, width, width, false)
	// One token alone would wait for the latency of its FMAs: its columns are summed
	// in several chains.
	chains := max(1, 4/width)
	sums := make([][][]VecVirtual, chains)
	sums[0] = t.acc
	for i := 1; i < chains; i++ {
		sums[i] = [][]VecVirtual{s.regs(width), s.regs(width)}
	}
	pre := func() {
		for _, c := range sums[1:] {
			for _, v := range c {
				for _, a := range v {
					s.zero(a)
				}
			}
		}
	}
	t.blocks(pre, func() {
		for c := range 4 {
			w := s.regs(rowVecs)
			load(t, c, w)
			for i := range width {
				x := s.reg()
				VBROADCASTSS(t.unit(0, i, c), x)
				for v := range rowVecs {
					VFMADD231PS(x, w[v], sums[c%chains][v][i])
				}
			}
		}
		t.nextUnits(1)
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

func loadF32(t *tile, _ int, w []VecVirtual) {
	for v := range w {
		VMOVUPS(t.take(t.vec), w[v])
	}
}

func loadF16(t *tile, _ int, w []VecVirtual) {
	for v := range w {
		VCVTPH2PS(t.take(t.vec/2), w[v])
	}
}

// loadBF16 has two columns in every 32-bit lane: the even one below, the odd one above.
func loadBF16(t *tile, c int, w []VecVirtual) {
	if c%2 == 0 {
		t.pair = t.regs(rowVecs)
	}
	for v := range w {
		if c%2 == 0 {
			VMOVUPS(t.take(t.vec), t.pair[v])
			VPSLLD(Imm(16), t.pair[v], w[v])
			continue
		}
		VPSRLD(Imm(16), t.pair[v], w[v])
		VPSLLD(Imm(16), w[v], w[v])
	}
}
