package ptxsim

import (
	"math/bits"
	"slices"
)

// decodeShfl exchanges a register between lanes. Reading a lane that does not
// take part, or whose register is poisoned, is an error for the reader.
func decodeShfl(b *builder, st *statement) execFn {
	ms := b.mods(st, "sync up down bfly idx")
	if !slices.Equal(ms.types, []dtype{tB32}) || !ms.has("sync") {
		panic(b.unsupported("form of shfl"))
	}
	b.args(5)
	dst, pOut := st.args[0], operand{kind: argSink}
	if dst.kind == argPair {
		dst, pOut = dst.list[0], dst.list[1]
	}
	d := b.strictDst(dst, tB32)
	p := b.pred(pOut)
	var s [4]slot
	for i := range s {
		s[i] = b.strict(st.args[i+1], tB32)
	}
	mode := "idx"
	for _, m := range []string{"up", "down", "bfly"} {
		if ms.has(m) {
			mode = m
		}
	}
	return func(w *warp, m uint32) {
		if m == 0 {
			return
		}
		lane, clamp, member := w.in32(s[1].i, m), w.in32(s[2].i, m), w.in32(s[3].i, m)
		src := *w.in32(s[0].i, 0)
		def := w.d32[s[0].i]
		if m == full && def == full && mode == "bfly" && sameInAll(lane) && sameInAll(clamp) && sameInAll(member) && clamp[0] == 31 && member[0] == full {
			o := &w.r32[d.i]
			for i := range o {
				o[i] = src[(uint32(i)^lane[0])&31]
			}
			w.d32[d.i] = full
			w.setPred(p.i, full, m)
			return
		}
		var pred uint32
		var out lanes32
		for mm := m; mm != 0; mm &= mm - 1 {
			i := bits.TrailingZeros32(mm) & 31
			j, in := shuffleSource(mode, i, int(lane[i]&31), clamp[i])
			if in {
				pred |= 1 << i
			} else {
				j = i
			}
			j &= 31
			if m>>j&1 == 0 || member[i]>>j&1 == 0 {
				w.fail(KindOperand, i, "shfl reads lane %d, which does not take part (lanes %#08x)", j, m)
			}
			if def>>j&1 == 0 {
				w.poisoned(w.blk.k.name32(s[0].i), 1<<j)
			}
			out[i] = src[j]
		}
		o := &w.r32[d.i]
		for mm := m; mm != 0; mm &= mm - 1 {
			i := bits.TrailingZeros32(mm) & 31
			o[i] = out[i]
		}
		w.d32[d.i] |= m
		w.setPred(p.i, pred, m)
	}
}

func sameInAll(v *lanes32) bool {
	first := v[0]
	for i := range v {
		if v[i] != first {
			return false
		}
	}
	return true
}

// shuffleSource gives the lane that lane i reads, and whether it is in range
// (PTX ISA, shfl.sync: c holds the clamp value in bits 0-4, the segment mask in 8-12).
func shuffleSource(mode string, i, b int, c uint32) (int, bool) {
	clamp, seg := int(c&31), int(c>>8&31)
	maxLane := i&seg | clamp&^seg
	minLane := i & seg
	switch mode {
	case "up":
		j := i - b
		return j, j >= maxLane
	case "down":
		j := i + b
		return j, j <= maxLane
	case "bfly":
		j := i ^ b
		return j, j <= maxLane
	}
	j := minLane | b&^seg
	return j, j <= maxLane
}

// decodeVote is vote.sync.{all,any,uni,ballot}.
func decodeVote(b *builder, st *statement) execFn {
	ms := b.mods(st, "sync all any uni ballot")
	if !ms.has("sync") {
		panic(b.unsupported("form of vote"))
	}
	b.args(3)
	var x predSlot
	if st.args[1].kind == argImm {
		x = predSlot{b.newPred("constant"), st.args[1].bits != 0}
		b.k.constP = append(b.k.constP, x.i)
	} else {
		x = b.pred(st.args[1])
	}
	if ms.has("ballot") {
		d := b.strictDst(st.args[0], tB32)
		return func(w *warp, m uint32) {
			v := x.get(w, m) & m
			o := w.out32(d.i, m)
			for i := range o {
				o[i] = v
			}
			w.put32(d.i, m)
		}
	}
	d := b.pred(st.args[0])
	return func(w *warp, m uint32) {
		v := x.get(w, m) & m
		ok := v == m // all
		if ms.has("any") {
			ok = v != 0
		} else if ms.has("uni") {
			ok = v == m || v == 0
		}
		r := uint32(0)
		if ok {
			r = full
		}
		w.setPred(d.i, r, m)
	}
}

// decodeMatch is match.{any,all}.sync: the lanes that hold the same value.
func decodeMatch(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "any all sync")
	b.args(3)
	dst, pOut := st.args[0], operand{kind: argSink}
	if dst.kind == argPair {
		dst, pOut = dst.list[0], dst.list[1]
	}
	d := b.strictDst(dst, tB32)
	p := b.pred(pOut)
	x := b.strict(st.args[1], t)
	all := ms.has("all")
	return func(w *warp, m uint32) {
		x.check(w, m)
		var out lanes32
		for mm := m; mm != 0; mm &= mm - 1 {
			i := bits.TrailingZeros32(mm) & 31
			v := x.get(w, i)
			for nn := m; nn != 0; nn &= nn - 1 {
				if j := bits.TrailingZeros32(nn); x.get(w, j) == v {
					out[i] |= 1 << j
				}
			}
		}
		var pred uint32
		for mm := m; mm != 0; mm &= mm - 1 {
			i := bits.TrailingZeros32(mm) & 31
			if out[i] == m {
				pred |= 1 << i
			} else if all {
				out[i] = 0
			}
			d.set(w, i, uint64(out[i]))
		}
		w.setPred(p.i, pred, m)
	}
}

// decodeRedux combines a register over the warp.
func decodeRedux(b *builder, st *statement) execFn {
	ms, t := b.typed(st, "sync add min max and or xor")
	b.args(3)
	d := b.strictDst(st.args[0], t)
	x := b.strict(st.args[1], t)
	var f func(old, x uint64) uint64
	for _, op := range ms.flags {
		if op != "sync" {
			f = combine(op, t)
		}
	}
	if f == nil || t.float() {
		panic(b.unsupported("operation"))
	}
	return func(w *warp, m uint32) {
		if m == 0 {
			return
		}
		x.check(w, m)
		first := firstLane(m)
		v := x.get(w, first) & sizeMask(t)
		for mm := m &^ (1 << first); mm != 0; mm &= mm - 1 {
			v = f(v, x.get(w, bits.TrailingZeros32(mm))&sizeMask(t))
		}
		for mm := m; mm != 0; mm &= mm - 1 {
			d.set(w, bits.TrailingZeros32(mm), v)
		}
	}
}

func decodeActivemask(b *builder, st *statement) execFn {
	b.args(1)
	d := b.strictDst(st.args[0], tB32)
	return func(w *warp, m uint32) {
		o := w.out32(d.i, m)
		for i := range o {
			o[i] = m
		}
		w.put32(d.i, m)
	}
}

// decodeElect is elect.sync d|p, mask: one lane of the mask is the leader.
func decodeElect(b *builder, st *statement) execFn {
	b.args(2)
	dst, pOut := st.args[0], operand{kind: argSink}
	if dst.kind == argPair {
		dst, pOut = dst.list[0], dst.list[1]
	}
	d := b.strictDst(dst, tB32)
	p := b.pred(pOut)
	return func(w *warp, m uint32) {
		if m == 0 {
			return
		}
		leader := firstLane(m)
		o := w.out32(d.i, m)
		for i := range o {
			o[i] = uint32(leader)
		}
		w.put32(d.i, m)
		w.setPred(p.i, 1<<leader, m)
	}
}
