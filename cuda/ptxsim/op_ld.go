package ptxsim

import (
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
)

// access is a decoded ld, st, atom or red address and its state space.
type access struct {
	sp   space
	base slot
	off  uint64
}

// memArg resolves [reg+off], [var+off] or [off] in space sp.
func (b *builder) memArg(a operand, sp space) access {
	if a.kind != argMem {
		panic(b.unsupported("operand is no address"))
	}
	acc := access{sp: sp, off: uint64(a.off)}
	switch {
	case a.isReg:
		rt := b.fn.regs[a.reg].typ
		if rt == tPred || rt.size() < 4 {
			panic(b.unsupported("address register %s", a.name))
		}
		acc.base = slot{b.slots[a.reg], rt.size() == 8, tU32}
		if acc.base.wide {
			acc.base.t = tU64
		}
	case a.v != nil:
		if a.v.space != sp && !(a.v.space == spConst && sp == spGlobal) && sp != spGeneric {
			panic(b.unsupported("%s lies in %s memory", a.name, a.v.space))
		}
		acc.base = slot{b.constant(b.address(a.v), true), true, tU64}
		if sp == spGeneric {
			acc.sp = a.v.space
		}
	default:
		acc.base = slot{b.constant(0, true), true, tU64}
	}
	return acc
}

// addresses computes the lanes' addresses.
func (a *access) addresses(w *warp, m uint32) *lanes64 {
	o := &w.addr
	if a.base.wide {
		p := w.in64(a.base.i, m)
		for i := range o {
			o[i] = p[i] + a.off
		}
	} else {
		p := w.in32(a.base.i, m)
		for i := range o {
			o[i] = uint64(p[i]) + a.off
		}
		if a.sp == spShared { // 32-bit arithmetic wraps
			for i := range o {
				o[i] = uint64(uint32(o[i]))
			}
		}
	}
	return o
}

// ldMods are suffixes that order or hint; the simulator keeps program order anyway.
const ldMods = "weak volatile relaxed acquire release acq_rel sc gpu cta sys cluster nc ca cg cs lu cv wb wt " +
	"L1::evict_normal L1::evict_unchanged L1::evict_first L1::evict_last L1::no_allocate " +
	"L2::cache_hint L2::64B L2::128B L2::256B L2::evict_first L2::evict_last L2::evict_normal " +
	"v2 v4 v8 global shared shared::cta local const param param::entry mmio"

// spaceOf picks the state space out of an instruction's suffixes.
func spaceOf(st *statement) space {
	for _, m := range st.mods {
		if sp, ok := spaceByName[m]; ok {
			return sp
		}
	}
	return spGeneric
}

// vectorLen is the number of elements that .v2, .v4, .v8 ask for.
func vectorLen(st *statement) int {
	for _, m := range st.mods {
		if len(m) == 2 && m[0] == 'v' && strings.IndexByte("248", m[1]) >= 0 {
			return int(m[1] - '0')
		}
	}
	return 1
}

// elements resolves a register, or a vector of n of them, each by f.
func (b *builder) elements(a operand, n int, t dtype, f func(operand, dtype) slot) []slot {
	list := []operand{a}
	if a.kind == argVec {
		list = a.list
	}
	if len(list) != n {
		panic(b.unsupported("%d elements for a vector of %d", len(list), n))
	}
	out := make([]slot, n)
	for i, e := range list {
		out[i] = f(e, t)
	}
	return out
}

func decodeLd(b *builder, st *statement) execFn {
	ms, t := b.typed(st, ldMods)
	if len(st.args) < 2 || len(st.args) > 3 || t == tPred || t.size() > 8 {
		panic(b.unsupported("operands or type"))
	}
	if len(st.args) == 3 && !ms.has("L2::cache_hint") {
		panic(b.unsupported("third operand"))
	}
	n := vectorLen(st)
	acc := b.memArg(st.args[1], spaceOf(st))
	regs := b.elements(st.args[0], n, t, b.dst)
	first := st.args[0]
	if first.kind == argVec {
		first = first.list[0]
	}
	widen := b.widen(first, t)
	for _, r := range regs {
		if t.wide() && !r.wide {
			panic(b.unsupported("destination of %d bytes", t.size()))
		}
	}
	size := t.size()
	total := uint64(size * n)
	if acc.sp == spParam {
		return b.ldParam(acc, regs, t, widen)
	}
	// Elements of 4 bytes into 32-bit registers are what matters for speed.
	plain := size == 4 && !slices.ContainsFunc(regs, func(s slot) bool { return s.wide })
	return func(w *warp, m uint32) {
		addrs := acc.addresses(w, m)
		sp := w.account(acc.sp, addrs, m, total, false)
		for mm := m; mm != 0; mm &= mm - 1 {
			i := bits.TrailingZeros32(mm) & 31
			p := w.lookup(sp, addrs[i], total, i, false)
			if plain {
				for e, r := range regs {
					w.r32[r.i][i] = binary.LittleEndian.Uint32(p[4*e:])
				}
				continue
			}
			for e, r := range regs {
				r.set(w, i, widen(loadLE(p[e*size:], size)))
			}
		}
		for _, r := range regs {
			if !r.wide {
				w.d32[r.i] |= m
			}
		}
	}
}

func (b *builder) ldParam(acc access, regs []slot, t dtype, widen func(uint64) uint64) execFn {
	size := t.size()
	if b.isConstant(acc.base) && len(regs) == 1 && int(b.constantValue(acc.base)+acc.off)%size == 0 {
		at := b.constantValue(acc.base) + acc.off
		r := regs[0]
		return func(w *warp, m uint32) {
			params := w.blk.run.params
			if at+uint64(size) > uint64(len(params)) {
				w.fail(KindBounds, -1, "parameter offset %d, %d bytes, of %d", at, size, len(params))
			}
			v := widen(loadLE(params[at:], size))
			if r.wide {
				o := w.out64(r.i, m)
				for i := range o {
					o[i] = v
				}
				w.put64(r.i, m)
				return
			}
			o := w.out32(r.i, m)
			for i := range o {
				o[i] = uint32(v)
			}
			w.put32(r.i, m)
		}
	}
	return func(w *warp, m uint32) {
		addrs := acc.addresses(w, m)
		params := w.blk.run.params
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m) & 31
			for e, r := range regs {
				at := addrs[i] + uint64(e*size)
				if at%uint64(size) != 0 {
					w.fail(KindAlignment, i, "parameter offset %d for %d bytes", at, size)
				}
				if at+uint64(size) > uint64(len(params)) {
					w.fail(KindBounds, i, "parameter offset %d, %d bytes, of %d", at, size, len(params))
				}
				r.set(w, i, widen(loadLE(params[at:], size)))
			}
		}
	}
}

func decodeSt(b *builder, st *statement) execFn {
	ms, t := b.typed(st, ldMods)
	if len(st.args) < 2 || t == tPred || t.size() > 8 {
		panic(b.unsupported("operands or type"))
	}
	if len(st.args) == 3 && !ms.has("L2::cache_hint") || len(st.args) > 3 {
		panic(b.unsupported("third operand"))
	}
	n := vectorLen(st)
	sp := spaceOf(st)
	if sp == spConst || sp == spParam {
		panic(b.unsupported("store to %s memory", sp))
	}
	acc := b.memArg(st.args[0], sp)
	regs := b.elements(st.args[1], n, t, b.src)
	size := t.size()
	for _, r := range regs {
		if t.wide() && !r.wide {
			panic(b.unsupported("source of %d bytes", size))
		}
	}
	total := uint64(size * n)
	return func(w *warp, m uint32) {
		addrs := acc.addresses(w, m)
		for _, r := range regs {
			r.check(w, m)
		}
		sp := w.account(acc.sp, addrs, m, total, true)
		for mm := m; mm != 0; mm &= mm - 1 {
			i := bits.TrailingZeros32(mm) & 31
			p := w.lookup(sp, addrs[i], total, i, true)
			for e, r := range regs {
				storeLE(p[e*size:], size, r.get(w, i))
			}
		}
	}
}

func loadLE(p []byte, size int) uint64 {
	switch size {
	case 1:
		return uint64(p[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(p))
	case 4:
		return uint64(binary.LittleEndian.Uint32(p))
	}
	return binary.LittleEndian.Uint64(p)
}

func storeLE(p []byte, size int, v uint64) {
	switch size {
	case 1:
		p[0] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(p, uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(p, uint32(v))
	default:
		binary.LittleEndian.PutUint64(p, v)
	}
}

// account counts an access if statistics are wanted. A generic access stays
// generic unless all lanes agree on the space.
func (w *warp) account(sp space, addrs *lanes64, m uint32, n uint64, store bool) space {
	if m == 0 {
		return sp
	}
	if sp == spGeneric {
		first, _ := splitGeneric(addrs[firstLane(m)])
		for i := 0; i < 32; i++ {
			if m>>i&1 == 0 {
				continue
			}
			if s, _ := splitGeneric(addrs[i]); s != first {
				return spGeneric
			}
		}
		for i := 0; i < 32; i++ {
			_, addrs[i] = splitGeneric(addrs[i])
		}
		sp = first
	}
	if c := w.blk.count; c != nil {
		switch {
		case sp == spShared:
			c.countBanks(w.at(), addrs, m, n)
		case sp == spGlobal && store:
			c.store.countGlobal(addrs, m, n)
		case sp == spGlobal:
			c.load.countGlobal(addrs, m, n)
		}
	}
	return sp
}

// lookup checks one lane's access and gives its bytes.
func (w *warp) lookup(sp space, addr, n uint64, lane int, store bool) []byte {
	if sp == spGeneric {
		sp, addr = splitGeneric(addr)
	}
	switch sp {
	case spShared:
		if store {
			return w.sharedWrite(addr, n, lane)
		}
		return w.sharedRead(addr, n, lane)
	case spLocal:
		size := uint64(w.blk.k.fn.localSize)
		if addr&(n-1) != 0 {
			w.fail(KindAlignment, lane, "local address %#x for %d bytes", addr, n)
		}
		if addr >= size || n > size-addr {
			w.fail(KindBounds, lane, "local address %#x, %d bytes, of %d", addr, n, size)
		}
		at := uint64(lane)*size + addr
		return w.local[at : at+n]
	}
	return w.global(addr, n, lane)
}
