package ptxsim

import "math/bits"

const full = ^uint32(0)

// lanes32 and lanes64 are one register of a whole warp.
type (
	lanes32 [32]uint32
	lanes64 [32]uint64
)

// execFn runs one instruction for the lanes in m.
type execFn func(w *warp, m uint32)

// warp is the state of 32 threads. Registers lie side by side by lane; beside
// each a mask says which lanes were ever written (poison).
type warp struct {
	blk *block
	id  int

	r32 []lanes32
	r64 []lanes64
	pr  []uint32
	d32 []uint32
	d64 []uint32
	dpr []uint32

	t32  lanes32 // results of partial masks wait here for put32
	t64  lanes64
	addr lanes64 // of the running memory instruction
	tmp  scratch
	res  lanes64

	// The running group; others wait, sorted by nothing: there are few.
	pc     int
	mask   uint32
	groups []group
	live   uint32 // lanes that exist and have not exited
	launch uint32 // lanes that exist

	state    warpState
	barrier  int
	onResume func(*barrierState) // bar.red: delivers the reduction

	clock uint32   // own component of vc
	vc    []uint32 // happens-before: what this warp knows of each warp's clock
	steps int64

	local  []byte // 32 frames of localSize bytes
	copies []asyncCopy
	groupN [32]uint32 // committed cp.async groups by lane
}

// group is a set of lanes at one pc, waiting for its turn.
type group struct {
	pc   int
	mask uint32
	sync bool // parked at an aligned instruction until the missing lanes arrive
}

type warpState uint8

const (
	warpReady warpState = iota
	warpAtBarrier
	warpDone
)

func firstLane(m uint32) int {
	if m == 0 {
		return 0
	}
	return bits.TrailingZeros32(m)
}

func (w *warp) at() *instr {
	code := w.blk.k.code
	if w.pc < len(code) {
		return &code[w.pc]
	}
	return &instr{opcode: "end of code"}
}

// in32 gives register s for reading by the lanes of m.
func (w *warp) in32(s int32, m uint32) *lanes32 {
	if m&^w.d32[s] != 0 {
		w.poisoned(w.blk.k.name32(s), m&^w.d32[s])
	}
	return &w.r32[s]
}

func (w *warp) in64(s int32, m uint32) *lanes64 {
	if m&^w.d64[s] != 0 {
		w.poisoned(w.blk.k.name64(s), m&^w.d64[s])
	}
	return &w.r64[s]
}

func (w *warp) inPred(s int32, m uint32) uint32 {
	if m&^w.dpr[s] != 0 {
		w.poisoned(w.blk.k.namePred(s), m&^w.dpr[s])
	}
	return w.pr[s]
}

func (w *warp) poisoned(name string, lanes uint32) {
	w.fail(KindPoison, firstLane(lanes), "%s, lanes %#08x", name, lanes)
}

// out32 gives the place for results of the lanes of m; put32 must follow.
func (w *warp) out32(s int32, m uint32) *lanes32 {
	w.d32[s] |= m
	if m == full {
		return &w.r32[s]
	}
	return &w.t32
}

func (w *warp) put32(s int32, m uint32) {
	if m != full {
		d := &w.r32[s]
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m) & 31
			d[i] = w.t32[i]
		}
	}
}

func (w *warp) out64(s int32, m uint32) *lanes64 {
	w.d64[s] |= m
	if m == full {
		return &w.r64[s]
	}
	return &w.t64
}

func (w *warp) put64(s int32, m uint32) {
	if m != full {
		d := &w.r64[s]
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m) & 31
			d[i] = w.t64[i]
		}
	}
}

func (w *warp) setPred(s int32, v, m uint32) {
	w.dpr[s] |= m
	w.pr[s] = w.pr[s]&^m | v&m
}

// slot is a decoded operand: where it lies and how to widen it.
type slot struct {
	i    int32
	wide bool
	t    dtype
}

// check reports poison; get may then be called for lanes of m.
func (s slot) check(w *warp, m uint32) {
	if s.wide {
		w.in64(s.i, m)
	} else {
		w.in32(s.i, m)
	}
}

// get returns lane i's value extended to 64 bits by the operand's type.
func (s slot) get(w *warp, i int) uint64 {
	if s.wide {
		return s.t.sext(w.r64[s.i][i])
	}
	return s.t.sext(uint64(w.r32[s.i][i]))
}

// set writes lane i and marks it written. Narrow values are kept zero-extended
// to the register's width unless the type says sign-extend (see widen).
func (s slot) set(w *warp, i int, v uint64) {
	if s.wide {
		w.r64[s.i][i] = v
		w.d64[s.i] |= 1 << i
	} else {
		w.r32[s.i][i] = uint32(v)
		w.d32[s.i] |= 1 << i
	}
}
