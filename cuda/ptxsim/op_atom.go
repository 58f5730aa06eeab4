package ptxsim

import (
	"math"
	"math/bits"
	"sync/atomic"
	"unsafe"
)

const atomMods = "relaxed acquire release acq_rel sc gpu cta sys cluster global shared shared::cta " +
	"add min max inc dec and or xor exch cas noftz L2::cache_hint"

// combine gives the function of an atomic: old and operand to new value.
func combine(op string, t dtype) func(old, x uint64) uint64 {
	mask := sizeMask(t)
	pair := func(f func(e dtype, a, b uint64) uint64) func(a, b uint64) uint64 {
		e := halfOf(t)
		return func(a, b uint64) uint64 {
			return f(e, a&0xffff, b&0xffff) | f(e, a>>16&0xffff, b>>16&0xffff)<<16
		}
	}
	add := func(e dtype, a, b uint64) uint64 {
		return encodeFloat(sumOdd(decodeFloat(a, e), decodeFloat(b, e)), e, roundNearest, false)
	}
	switch op {
	case "add":
		switch t {
		case tF16x2, tBF16x2:
			return pair(add)
		case tF64:
			return func(a, b uint64) uint64 {
				return math.Float64bits(math.Float64frombits(a) + math.Float64frombits(b))
			}
		case tF16, tBF16, tF32:
			return func(a, b uint64) uint64 { return add(t, a, b) }
		}
		return func(a, b uint64) uint64 { return (a + b) & mask }
	case "min", "max":
		if t.float() {
			return nil
		}
		return func(a, b uint64) uint64 {
			less := a < b
			if t.signed() {
				less = int64(t.sext(a)) < int64(t.sext(b))
			}
			if less == (op == "min") {
				return a
			}
			return b
		}
	case "inc":
		return func(a, b uint64) uint64 {
			if a >= b {
				return 0
			}
			return a + 1
		}
	case "dec":
		return func(a, b uint64) uint64 {
			if a == 0 || a > b {
				return b
			}
			return a - 1
		}
	case "and":
		return func(a, b uint64) uint64 { return a & b }
	case "or":
		return func(a, b uint64) uint64 { return a | b }
	case "xor":
		return func(a, b uint64) uint64 { return a ^ b }
	case "exch":
		return func(_, b uint64) uint64 { return b }
	}
	return nil
}

// decodeAtom is atom and red. Lanes go one after the other; blocks on other
// goroutines are kept out by compare-and-swap on the containing word.
func decodeAtom(b *builder, st *statement) execFn {
	ms, t := b.typed(st, atomMods)
	op := ""
	for _, m := range st.mods {
		switch m {
		case "add", "min", "max", "inc", "dec", "and", "or", "xor", "exch", "cas":
			op = m
		}
	}
	args := st.args
	d := slot{b.sink32, false, t}
	if t.wide() {
		d = slot{b.sink64, true, t}
	}
	if st.op == "atom" {
		if len(args) < 3 {
			panic(b.unsupported("%d operands", len(args)))
		}
		d = b.strictDst(args[0], t)
		args = args[1:]
	}
	want := 2
	if op == "cas" {
		want = 3
	}
	if ms.has("L2::cache_hint") {
		want++
	}
	f := combine(op, t)
	if len(args) != want || f == nil && op != "cas" {
		panic(b.unsupported("operation or operands"))
	}
	acc := b.memArg(args[0], spaceOf(st))
	x := b.strict(args[1], t)
	y := x
	if op == "cas" {
		y = b.strict(args[2], t)
	}
	size := uint64(t.size())
	return func(w *warp, m uint32) {
		addrs := acc.addresses(w, m)
		x.check(w, m)
		y.check(w, m)
		if c := w.blk.count; c != nil && m != 0 && acc.sp != spShared {
			c.atom.countGlobal(addrs, m, size)
		}
		for ; m != 0; m &= m - 1 {
			i := bits.TrailingZeros32(m)
			v, cmp := x.get(w, i)&sizeMask(t), uint64(0)
			g := f
			if op == "cas" {
				cmp, v = v, y.get(w, i)&sizeMask(t)
				g = func(old, b uint64) uint64 {
					if old == cmp {
						return b
					}
					return old
				}
			}
			sp, a := acc.sp, addrs[i]
			if sp == spGeneric {
				sp, a = splitGeneric(a)
			}
			if sp == spShared {
				p := w.sharedAtomic(a, size, i)
				old := loadLE(p, int(size))
				storeLE(p, int(size), g(old, v))
				d.set(w, i, old)
				continue
			}
			d.set(w, i, atomicUpdate(w.global(a, size, i), g, v))
		}
	}
}

// atomicUpdate replaces the value in p, 2, 4 or 8 aligned bytes of host memory.
func atomicUpdate(p []byte, f func(old, x uint64) uint64, x uint64) uint64 {
	switch len(p) {
	case 8:
		q := (*uint64)(unsafe.Pointer(&p[0]))
		for {
			old := atomic.LoadUint64(q)
			if atomic.CompareAndSwapUint64(q, old, f(old, x)) {
				return old
			}
		}
	case 4:
		q := (*uint32)(unsafe.Pointer(&p[0]))
		for {
			old := atomic.LoadUint32(q)
			if atomic.CompareAndSwapUint32(q, old, uint32(f(uint64(old), x))) {
				return uint64(old)
			}
		}
	}
	low := uintptr(unsafe.Pointer(&p[0])) & 2
	shift := low * 8
	q := (*uint32)(unsafe.Pointer(uintptr(unsafe.Pointer(&p[0])) - low))
	for {
		old := atomic.LoadUint32(q)
		h := uint64(old >> shift & 0xffff)
		if atomic.CompareAndSwapUint32(q, old, old&^(0xffff<<shift)|uint32(f(h, x)&0xffff)<<shift) {
			return h
		}
	}
}

// sharedAtomic checks an atomic access to shared memory. Atomics do not race
// with one another, so they leave no writer behind; they do read and initialise.
func (w *warp) sharedAtomic(addr, n uint64, lane int) []byte {
	w.sharedBounds(addr, n, lane)
	s := &w.blk.shared
	for a := addr; a < addr+n; a += 4 {
		sh, part := &s.shadow[a>>2], byteMask(a, n)
		if sh.flight&part != 0 {
			w.fail(KindInFlight, lane, "shared address %#x is updated before cp.async.wait", a)
		}
		if s.poison && sh.init&part != part {
			w.fail(KindUninitShared, lane, "shared address %#x, %d bytes", a, n)
		}
		if s.check && sh.wBytes&part != 0 && int(sh.wWarp) != w.id && w.vc[sh.wWarp] < sh.wClock {
			w.fail(KindRace, lane, "shared address %#x: atomic on what warp %d wrote at line %d without a barrier between", a, sh.wWarp, sh.wLine)
		}
		if me := uint32(1) << w.id; sh.rMask != me || sh.rClock != w.clock {
			w.noteRead(sh, me) // a later plain write must come after a barrier
		}
	}
	return s.data[addr : addr+n]
}
