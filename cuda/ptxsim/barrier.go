package ptxsim

import (
	"math/bits"
	"slices"
)

// barSpec is a decoded block barrier.
type barSpec struct {
	id, count slot
	hasCount  bool
	arrive    bool
	red       string // "", popc, and, or
	pred      predSlot
	d         slot
	dPred     predSlot
}

// barrierState is one of the block's 16 barriers. Warps are counted, not threads.
type barrierState struct {
	arrived int
	want    int // 0: every warp that has not ended
	waiting []*warp
	vc      []uint32 // what those who arrived knew
	popc    uint32
	all     bool
	any     bool
}

// barrier decodes bar.sync, bar.arrive, bar.red, barrier.* and bar.warp.sync.
func (b *builder) barrier(in *instr, st *statement) {
	if slices.Contains(st.mods, "warp") {
		b.args(1)
		mask := b.strict(st.args[0], tB32)
		in.kind = kSync
		in.need = func(w *warp, m uint32) uint32 { return w.memberMask(mask, m, false) }
		in.exec = func(w *warp, m uint32) { w.syncWarp() }
		return
	}
	ms := b.mods(st, "cta sync aligned arrive red popc and or")
	in.kind = kBar
	args := st.args
	if ms.has("red") {
		for _, op := range []string{"popc", "and", "or"} {
			if ms.has(op) {
				in.bar.red = op
			}
		}
		if len(args) < 3 || in.bar.red == "" {
			panic(b.unsupported("operands"))
		}
		if in.bar.red == "popc" {
			in.bar.d = b.strictDst(args[0], tU32)
		} else {
			in.bar.dPred = b.pred(args[0])
		}
		in.bar.pred = b.pred(args[len(args)-1])
		args = args[1 : len(args)-1]
	} else if !ms.has("sync") && !ms.has("arrive") {
		panic(b.unsupported("form of barrier"))
	}
	in.bar.arrive = ms.has("arrive")
	if len(args) < 1 || len(args) > 2 || in.bar.arrive && len(args) != 2 {
		panic(b.unsupported("operands"))
	}
	in.bar.id = b.strict(args[0], tU32)
	if len(args) == 2 {
		in.bar.hasCount = true
		in.bar.count = b.strict(args[1], tU32)
	}
}

// uniform reads an operand that all lanes of m must agree on.
func (w *warp) uniform(s slot, m uint32, what string) uint64 {
	s.check(w, m)
	v := s.get(w, firstLane(m))
	for i := 0; i < 32; i++ {
		if m>>i&1 != 0 && s.get(w, i) != v {
			w.fail(KindDivergence, i, "lanes disagree on the %s: %d and %d", what, v, s.get(w, i))
		}
	}
	return v
}

// arrive brings w, whole, to a barrier. w.pc is already behind it.
func (blk *block) arrive(w *warp, in *instr, m uint32) {
	w.pc-- // for messages
	id := w.uniform(in.bar.id, m, "barrier")
	if id > 15 {
		w.fail(KindOperand, -1, "barrier %d of 16", id)
	}
	want := 0
	if in.bar.hasCount {
		n := w.uniform(in.bar.count, m, "number of threads")
		if n == 0 || n%32 != 0 || int(n) > 32*len(blk.warps) {
			w.fail(KindOperand, -1, "barrier for %d threads in a block of %d warps", n, len(blk.warps))
		}
		want = int(n / 32)
	}
	st := &blk.barriers[id]
	if st.arrived == 0 {
		*st = barrierState{want: want, all: true, waiting: st.waiting[:0], vc: st.vc}
		if len(st.vc) != len(w.vc) {
			st.vc = make([]uint32, len(w.vc))
		}
		clear(st.vc)
	} else if st.want != want {
		w.fail(KindOperand, -1, "barrier %d for %d warps, others wait for %d (0: all)", id, want, st.want)
	}
	if in.bar.red != "" {
		p := in.bar.pred.get(w, m)
		st.popc += uint32(bits.OnesCount32(p & m))
		st.all = st.all && p&m == m
		st.any = st.any || p&m != 0
	}
	w.pc++
	st.arrived++
	for i, c := range w.vc {
		st.vc[i] = max(st.vc[i], c)
	}
	if in.bar.arrive {
		w.syncWarp()
	} else {
		w.state, w.barrier = warpAtBarrier, int(id)
		w.onResume = nil
		if in.bar.red != "" {
			w.deliver(in.bar, m)
		}
		st.waiting = append(st.waiting, w)
	}
	blk.tryRelease(st)
}

// deliver arranges for the result of bar.red to be written when w goes on.
func (w *warp) deliver(spec barSpec, m uint32) {
	w.onResume = func(st *barrierState) {
		if spec.red == "popc" {
			o := w.out32(spec.d.i, m)
			for i := range o {
				o[i] = st.popc
			}
			w.put32(spec.d.i, m)
			return
		}
		v := uint32(0)
		if spec.red == "and" && st.all || spec.red == "or" && st.any {
			v = full
		}
		w.setPred(spec.dPred.i, v, m)
	}
}

// tryRelease lets the waiting warps go if all that are expected arrived.
func (blk *block) tryRelease(st *barrierState) {
	want := st.want
	if want == 0 {
		want = blk.alive
	}
	if st.arrived == 0 || st.arrived < want {
		return
	}
	for _, w := range st.waiting {
		for i, c := range st.vc {
			w.vc[i] = max(w.vc[i], c)
		}
		w.syncWarp()
		if w.onResume != nil {
			w.onResume(st)
		}
		w.state = warpReady
	}
	st.arrived, st.waiting = 0, st.waiting[:0]
}

// warpEnded re-examines barriers that wait for every warp.
func (blk *block) warpEnded() {
	blk.alive--
	for i := range blk.barriers {
		if st := &blk.barriers[i]; st.arrived > 0 && st.want == 0 && blk.alive > 0 {
			blk.tryRelease(st)
		}
	}
}
