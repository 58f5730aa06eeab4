package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	. "github.com/mmcloughlin/avo/operand"
	. "github.com/mmcloughlin/avo/reg"
)

// isa is a vector width: 64 bytes with AVX-512, 32 with AVX2.
type isa struct {
	name string
	vec  int
	evex bool // 32 registers
}

var (
	avx512 = isa{"AVX512", 64, true}
	avx2   = isa{"AVX2", 32, false}
)

// rowVecs is the number of vectors of rows in a block.
const rowVecs = 2

func (s isa) reg() VecVirtual {
	if s.vec == 64 {
		return ZMM()
	}
	return YMM()
}

func (s isa) regs(n int) []VecVirtual {
	r := make([]VecVirtual, n)
	for i := range r {
		r[i] = s.reg()
	}
	return r
}

func (s isa) zero(r VecVirtual) {
	if s.evex {
		VPXORD(r, r, r)
	} else {
		VPXOR(r, r, r)
	}
}

// half loads half a vector of f16 at m as f32.
func (s isa) half(m Mem, r VecVirtual) { VCVTPH2PS(m, r) }

// quad loads 16 bytes at m into every 128-bit lane.
func (s isa) quad(m Mem, r VecVirtual) {
	if s.evex {
		VBROADCASTI32X4(m, r)
	} else {
		VBROADCASTI128(m, r)
	}
}

// tile is a kernel under construction. Its argument is *tile of runtime/cpu.
type tile struct {
	isa
	stride                      int // tokens of the panel, of which the kernel takes width
	width                       int // tokens
	args, out, ld, w, x, n, cnt Register
	sx, ux, rs                  Register
	acc                         [][]VecVirtual // [rowVecs][width] running sums in f32
	wOff                        int            // bytes of the weight stream consumed in the chunk
	ahead                       int            // prefetch distance in bytes; 0: none
	pair                        []VecVirtual   // bf16: two columns a lane
	none, upper                 VecVirtual     // bitmask: zeros; bf16: the upper half of every lane
}

// Offsets in runtime/cpu's tile.
const (
	argOut, argLd, argW, argX, argSx, argUx, argRs, argK, argN = 0, 8, 16, 24, 32, 40, 48, 56, 64
)

func arg(base Register, off int) Mem { return Mem{Base: base, Disp: off} }

// written are the names of all kernels.
var written []string

// begin opens function name and loads its arguments.
func begin(s isa, name string, width, stride int, quantised bool) *tile {
	full := fmt.Sprintf("%s%sx%d", name, s.name, width)
	if stride != width {
		full += fmt.Sprintf("of%d", stride)
	}
	written = append(written, full)
	TEXT(full, NOSPLIT, "func(a *byte)")
	Pragma("noescape")
	t := &tile{isa: s, width: width, stride: stride, ahead: s.ahead(width)}
	t.args = Load(Param("a"), GP64())
	load := func(off int) Register { r := GP64(); MOVQ(arg(t.args, off), r); return r }
	t.out, t.ld, t.w, t.n = load(argOut), load(argLd), load(argW), load(argN)
	t.x, t.cnt = GP64(), GP64()
	if quantised {
		t.rs = load(argRs)
		t.sx, t.ux = GP64(), GP64()
	}
	for range rowVecs {
		t.acc = append(t.acc, s.regs(width))
	}
	return t
}

// ahead is how far ahead of its loads a kernel for width tokens prefetches weights.
// Weights that are read as fast as memory gives them are left to the processor's own
// prefetching: beside it, prefetching 1 to 8 KiB ahead into the first-level cache costs
// f16, int8, int4 and 2:4 decode 10-20 % on Zen 4 (f16, 4096x4096, one thread: 1128 us
// without, 1282 with 2 KiB, 1227 with 4). It gains where more is done with each weight:
// 2:4 f16, 8 tokens, 2165 us against 2567 without; so in csr.go. AVX2 is left as it was
// found good on Zen 3.
func (s isa) ahead(width int) int {
	if s.evex && width <= 2 {
		return 0
	}
	return 2048
}

// prefetch prefetches the line at m, which is at the distance of ahead.
func (t *tile) prefetch(m Mem) {
	if t.ahead > 0 {
		PREFETCHT0(m.Offset(t.ahead))
	}
}

// blocks loops over blocks of rows; body emits the loop over chunks.
func (t *tile) blocks(pre func(), chunk func(), post func()) {
	Label("block")
	MOVQ(arg(t.args, argX), t.x)
	MOVQ(arg(t.args, argK), t.cnt)
	if t.rs != nil {
		MOVQ(arg(t.args, argSx), t.sx)
		MOVQ(arg(t.args, argUx), t.ux)
	}
	for _, v := range t.acc {
		for _, a := range v {
			t.zero(a)
		}
	}
	if pre != nil {
		pre()
	}
	Label("chunk")
	t.wOff = 0
	chunk()
	ADDQ(U32(uint32(t.wOff)), t.w)
	DECQ(t.cnt)
	JNZ(LabelRef("chunk"))
	if post != nil {
		post()
	}
	t.store()
	ADDQ(U32(uint32(rowVecs*t.vec)), t.out)
	if t.rs != nil {
		ADDQ(U32(uint32(rowVecs*t.vec)), t.rs)
	}
	DECQ(t.n)
	JNZ(LabelRef("block"))
	VZEROUPPER()
	RET()
}

// store adds the sums to out, times the row scales where there are any.
func (t *tile) store() {
	p := GP64()
	MOVQ(t.out, p)
	for i := range t.width {
		for v := range rowVecs {
			o := Mem{Base: p, Disp: v * t.vec}
			if t.rs != nil {
				y := t.reg()
				VMOVUPS(o, y)
				VFMADD231PS(Mem{Base: t.rs, Disp: v * t.vec}, t.acc[v][i], y)
				VMOVUPS(y, o)
				continue
			}
			VADDPS(o, t.acc[v][i], t.acc[v][i])
			VMOVUPS(t.acc[v][i], o)
		}
		if i+1 < t.width {
			ADDQ(t.ld, p)
		}
	}
}

// take is the address of the next n bytes of the weight stream; it prefetches
// the line that lies ahead whenever one is finished.
func (t *tile) take(n int) Mem {
	m := Mem{Base: t.w, Disp: t.wOff}
	for l := (t.wOff + 63) / 64 * 64; l < t.wOff+n; l += 64 {
		t.prefetch(Mem{Base: t.w, Disp: l})
	}
	t.wOff += n
	return m
}

// unit is the address of 4 bytes d of unit u (16 bytes of a token's columns) of
// token i, relative to the chunk's first unit.
func (t *tile) unit(u, i, d int) Mem { return Mem{Base: t.x, Disp: (u*t.stride+i)*16 + 4*d} }

// nextUnits moves on by n units.
func (t *tile) nextUnits(n int) { ADDQ(U32(uint32(n*t.stride*16)), t.x) }
