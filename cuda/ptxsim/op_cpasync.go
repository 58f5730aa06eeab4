package ptxsim

import (
	"math/bits"
	"slices"
)

// asyncCopy is a cp.async that was issued but not waited for. Its destination
// reads as "in flight" until then, and its source is read only at the wait: the
// latest moment the hardware may take.
type asyncCopy struct {
	dst, src uint64
	n, valid uint64 // bytes written, of which valid come from src and the rest are zero
	lane     int
	group    uint32
	line     int
}

func decodeCp(b *builder, st *statement) execFn {
	if len(st.mods) == 0 || st.mods[0] != "async" {
		panic(b.unsupported("form of cp"))
	}
	has := func(m string) bool { return slices.Contains(st.mods, m) }
	switch {
	case has("bulk"), has("mbarrier"):
		panic(b.unsupported("form of cp.async"))
	case has("commit_group"):
		b.args(0)
		return func(w *warp, m uint32) {
			for ; m != 0; m &= m - 1 {
				w.groupN[bits.TrailingZeros32(m)&31]++
			}
		}
	case has("wait_all"):
		b.args(0)
		return func(w *warp, m uint32) {
			for mm := m; mm != 0; mm &= mm - 1 {
				w.groupN[bits.TrailingZeros32(mm)&31]++
			}
			w.finishCopies(m, 0)
		}
	case has("wait_group"):
		b.args(1)
		if st.args[0].kind != argImm {
			panic(b.unsupported("number of groups is no constant"))
		}
		n := uint32(st.args[0].bits)
		return func(w *warp, m uint32) { w.finishCopies(m, n) }
	}
	return b.cpAsync(st)
}

// cpAsync is cp.async.{ca,cg}.shared.global [dst], [src], size{, src-size | , ignore-src}.
func (b *builder) cpAsync(st *statement) execFn {
	ms := b.mods(st, "async ca cg shared shared::cta global L2::64B L2::128B L2::256B L2::cache_hint")
	extra := len(st.args) - 3
	if ms.has("L2::cache_hint") {
		extra--
	}
	if extra < 0 || extra > 1 || st.args[2].kind != argImm {
		panic(b.unsupported("operands"))
	}
	n := st.args[2].bits
	if n != 16 && (ms.has("cg") || n != 4 && n != 8) {
		panic(b.unsupported("size %d", n))
	}
	dst := b.memArg(st.args[0], spShared)
	src := b.memArg(st.args[1], spGlobal)
	size := slot{b.constant(n, false), false, tU32}
	ignore, byPred := predSlot{}, false
	if extra == 1 {
		a := st.args[3]
		if a.kind == argReg && b.fn.regs[a.reg].typ == tPred {
			ignore = b.pred(a)
			byPred = true
		} else {
			size = b.strict(a, tU32)
		}
	}
	return func(w *warp, m uint32) {
		from := *src.addresses(w, m)
		to := dst.addresses(w, m)
		size.check(w, m)
		var skip uint32
		if byPred {
			skip = ignore.get(w, m)
		}
		if c := w.blk.count; c != nil && m != 0 {
			c.countBanks(w.at(), to, m, n)
			var read uint32
			for i := 0; i < 32; i++ {
				if m>>i&1 != 0 && skip>>i&1 == 0 && size.get(w, i) > 0 {
					read |= 1 << i
				}
			}
			if read != 0 {
				c.load.countGlobal(&from, read, n)
			}
		}
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m)
			valid := size.get(w, i)
			if skip>>i&1 != 0 {
				valid = 0
			}
			if valid > n {
				w.fail(KindOperand, i, "cp.async of %d bytes with src-size %d", n, valid)
			}
			w.issueCopy(asyncCopy{dst: to[i], src: from[i], n: n, valid: valid, lane: i, group: w.groupN[i]})
		}
	}
}

// issueCopy checks a copy when it is issued: the hardware may write at once.
func (w *warp) issueCopy(c asyncCopy) {
	w.sharedBounds(c.dst, c.n, c.lane)
	if c.src&(c.n-1) != 0 {
		w.fail(KindAlignment, c.lane, "global address %#x for cp.async of %d bytes", c.src, c.n)
	}
	if c.valid > 0 {
		w.globalSpan(c.src, c.valid, c.lane)
	}
	s := &w.blk.shared
	for a := c.dst; a < c.dst+c.n; a += 4 {
		sh := &s.shadow[a>>2]
		if sh.flight != 0 {
			w.fail(KindInFlight, c.lane, "shared address %#x is already the destination of a copy", a)
		}
		w.raceOnWrite(sh, 0xf, a, c.lane)
		sh.flight, sh.init, sh.rMask = 0xf, 0, 0
	}
	c.line = w.at().line
	w.copies = append(w.copies, c)
}

// globalSpan is global for a size that is no power of two.
func (w *warp) globalSpan(addr, n uint64, lane int) []byte {
	if n&(n-1) == 0 && addr&(n-1) == 0 {
		return w.global(addr, n, lane)
	}
	p, err := w.blk.run.dev.mem.bytes(addr, int(n))
	if err != nil {
		w.fail(KindBounds, lane, "%v", err)
	}
	return p
}

// finishCopies performs the copies of the lanes of m, but for those of each
// lane's newest n committed groups and those not committed.
func (w *warp) finishCopies(m uint32, n uint32) {
	keep := w.copies[:0]
	for _, c := range w.copies {
		if m>>c.lane&1 == 0 || c.group+n >= w.groupN[c.lane] {
			keep = append(keep, c)
			continue
		}
		s := &w.blk.shared
		p := s.data[c.dst : c.dst+c.n]
		clear(p)
		if c.valid > 0 {
			copy(p, w.globalSpan(c.src, c.valid, c.lane))
		}
		for a := c.dst; a < c.dst+c.n; a += 4 {
			sh := &s.shadow[a>>2]
			sh.flight = 0
			sh.wBytes = 0
			w.noteWrite(sh, 0xf, c.lane)
			sh.wLine = int32(c.line)
		}
	}
	w.copies = keep
}
