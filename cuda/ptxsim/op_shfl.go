package ptxsim

import (
	"math/bits"
	"slices"
)

// decodeShfl exchanges a register between lanes. Reading a lane that does not
// take part, or whose register is poisoned, is an error for the reader.
func decodeShfl(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "sync up down bfly idx")
	if err != nil {
		return nil, err
	}
	if !slices.Equal(ms.types, []dtype{tB32}) || !ms.has("sync") {
		return nil, b.unsupported("form of shfl")
	}
	if err := b.args(5); err != nil {
		return nil, err
	}
	dst, pOut := st.args[0], operand{kind: argSink}
	if dst.kind == argPair {
		dst, pOut = dst.list[0], dst.list[1]
	}
	d, err := b.strictDst(dst, tB32)
	if err != nil {
		return nil, err
	}
	p, err := b.pred(pOut)
	if err != nil {
		return nil, err
	}
	var s [4]slot
	for i := range s {
		if s[i], err = b.strict(st.args[i+1], tB32); err != nil {
			return nil, err
		}
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
	}, nil
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
func decodeVote(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "sync all any uni ballot")
	if err != nil {
		return nil, err
	}
	if !ms.has("sync") {
		return nil, b.unsupported("form of vote")
	}
	if err := b.args(3); err != nil {
		return nil, err
	}
	var x predSlot
	if st.args[1].kind == argImm {
		x = predSlot{b.newPred("constant"), st.args[1].bits != 0}
		b.k.constP = append(b.k.constP, x.i)
	} else if x, err = b.pred(st.args[1]); err != nil {
		return nil, err
	}
	if ms.has("ballot") {
		d, err := b.strictDst(st.args[0], tB32)
		if err != nil {
			return nil, err
		}
		return func(w *warp, m uint32) {
			v := x.get(w, m) & m
			o := w.out32(d.i, m)
			for i := range o {
				o[i] = v
			}
			w.put32(d.i, m)
		}, nil
	}
	d, err := b.pred(st.args[0])
	if err != nil {
		return nil, err
	}
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
	}, nil
}

// decodeMatch is match.{any,all}.sync: the lanes that hold the same value.
func decodeMatch(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "any all sync")
	if err != nil {
		return nil, err
	}
	t, err := b.one(ms)
	if err != nil {
		return nil, err
	}
	if err := b.args(3); err != nil {
		return nil, err
	}
	dst, pOut := st.args[0], operand{kind: argSink}
	if dst.kind == argPair {
		dst, pOut = dst.list[0], dst.list[1]
	}
	d, err := b.strictDst(dst, tB32)
	if err != nil {
		return nil, err
	}
	p, err := b.pred(pOut)
	if err != nil {
		return nil, err
	}
	x, err := b.strict(st.args[1], t)
	if err != nil {
		return nil, err
	}
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
	}, nil
}

// decodeRedux combines a register over the warp.
func decodeRedux(b *builder, st *statement) (execFn, error) {
	ms, err := b.mods(st, "sync add min max and or xor")
	if err != nil {
		return nil, err
	}
	t, err := b.one(ms)
	if err != nil {
		return nil, err
	}
	if err := b.args(3); err != nil {
		return nil, err
	}
	d, err := b.strictDst(st.args[0], t)
	if err != nil {
		return nil, err
	}
	x, err := b.strict(st.args[1], t)
	if err != nil {
		return nil, err
	}
	var f func(old, x uint64) uint64
	for _, op := range ms.flags {
		if op != "sync" {
			f = combine(op, t)
		}
	}
	if f == nil || t.float() {
		return nil, b.unsupported("operation")
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
	}, nil
}

func decodeActivemask(b *builder, st *statement) (execFn, error) {
	if err := b.args(1); err != nil {
		return nil, err
	}
	d, err := b.strictDst(st.args[0], tB32)
	if err != nil {
		return nil, err
	}
	return func(w *warp, m uint32) {
		o := w.out32(d.i, m)
		for i := range o {
			o[i] = m
		}
		w.put32(d.i, m)
	}, nil
}

// decodeElect is elect.sync d|p, mask: one lane of the mask is the leader.
func decodeElect(b *builder, st *statement) (execFn, error) {
	if err := b.args(2); err != nil {
		return nil, err
	}
	dst, pOut := st.args[0], operand{kind: argSink}
	if dst.kind == argPair {
		dst, pOut = dst.list[0], dst.list[1]
	}
	d, err := b.strictDst(dst, tB32)
	if err != nil {
		return nil, err
	}
	p, err := b.pred(pOut)
	if err != nil {
		return nil, err
	}
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
	}, nil
}
