package ptxsim

import "math/bits"

const manyLanes = 0xff

// shadowWord is what is known of four bytes of shared memory: who wrote and read
// them last, in terms of the warps' clocks. A warp's clock advances when it
// passes a barrier; at a barrier warps learn each other's clocks.
type shadowWord struct {
	wClock uint32
	wLine  int32
	rMask  uint32 // warps that read since the last write
	rClock uint32
	wWarp  uint8
	wLane  uint8 // manyLanes: several
	wBytes uint8 // bytes of the last writer
	init   uint8 // bytes ever written
	flight uint8 // bytes that a cp.async will write
}

// sharedMem is the shared memory of a block.
type sharedMem struct {
	data   []byte
	shadow []shadowWord
	check  bool // races
	poison bool
}

func (s *sharedMem) reset(n int) {
	if cap(s.data) < n {
		s.data = make([]byte, n)
		s.shadow = make([]shadowWord, (n+3)/4)
	}
	s.data = s.data[:n]
	s.shadow = s.shadow[:(n+3)/4]
	for i := range s.data {
		s.data[i] = poisonByte
	}
	clear(s.shadow)
}

func (w *warp) sharedBounds(addr, n uint64, lane int) {
	if addr&(n-1) != 0 {
		w.fail(KindAlignment, lane, "shared address %#x for %d bytes", addr, n)
	}
	if size := uint64(len(w.blk.shared.data)); addr >= size || n > size-addr {
		w.fail(KindBounds, lane, "shared address %#x, %d bytes, of %d", addr, n, size)
	}
}

// byteMask is the bytes of the word at addr&^3 that n bytes from addr cover.
func byteMask(addr, n uint64) uint8 {
	if n >= 4 {
		return 0xf
	}
	return (1<<n - 1) << (addr & 3)
}

// sharedRead checks a read of n bytes by lane (manyLanes: by all, ldmatrix) and
// gives the bytes.
func (w *warp) sharedRead(addr, n uint64, lane int) []byte {
	at := lane
	if at == manyLanes {
		at = firstLane(w.mask)
	}
	w.sharedBounds(addr, n, at)
	s := &w.blk.shared
	for a := addr; a < addr+n; a += 4 {
		sh, need := &s.shadow[a>>2], byteMask(a, n)
		if sh.flight&need != 0 {
			w.fail(KindInFlight, at, "shared address %#x is read before cp.async.wait", a)
		}
		if s.poison && sh.init&need != need {
			w.fail(KindUninitShared, at, "shared address %#x, %d bytes", a, n)
		}
		if !s.check {
			continue
		}
		if sh.wBytes&need != 0 {
			if int(sh.wWarp) != w.id {
				if w.vc[sh.wWarp] < sh.wClock {
					w.fail(KindRace, at, "shared address %#x: warp %d reads what warp %d wrote at line %d without a barrier between", a, w.id, sh.wWarp, sh.wLine)
				}
			} else if sh.wClock == w.clock && sh.wLane != manyLanes && int(sh.wLane) != lane {
				w.fail(KindRace, at, "shared address %#x: read of what lane %d of the same warp wrote at line %d without bar.warp.sync between", a, sh.wLane, sh.wLine)
			}
		}
		if me := uint32(1) << w.id; sh.rMask != me || sh.rClock != w.clock {
			w.noteRead(sh, me)
		}
	}
	return s.data[addr : addr+n : addr+n]
}

// noteRead adds a reader. Readers that happened before this one are forgotten;
// of concurrent ones at different clocks the lowest is kept, which can only
// miss a race, never invent one.
func (w *warp) noteRead(sh *shadowWord, me uint32) {
	known := true
	for m := sh.rMask &^ me; m != 0; m &= m - 1 {
		if w.vc[bits.TrailingZeros32(m)] < sh.rClock {
			known = false
			break
		}
	}
	switch {
	case known && sh.rClock < w.clock:
		sh.rMask, sh.rClock = me, w.clock
	case sh.rMask == 0:
		sh.rMask, sh.rClock = me, w.clock
	default:
		sh.rMask |= me
		sh.rClock = min(sh.rClock, w.clock)
	}
}

// sharedWrite checks a write of n bytes by lane and gives the bytes.
func (w *warp) sharedWrite(addr, n uint64, lane int) []byte {
	w.sharedBounds(addr, n, lane)
	s := &w.blk.shared
	for a := addr; a < addr+n; a += 4 {
		sh, part := &s.shadow[a>>2], byteMask(a, n)
		if sh.flight&part != 0 {
			w.fail(KindInFlight, lane, "shared address %#x is written before cp.async.wait", a)
		}
		w.raceOnWrite(sh, part, a, lane)
		w.noteWrite(sh, part, lane)
	}
	return s.data[addr : addr+n : addr+n]
}

// raceOnWrite reports a write that an earlier access of another warp does not
// happen before.
func (w *warp) raceOnWrite(sh *shadowWord, part uint8, a uint64, lane int) {
	if !w.blk.shared.check {
		return
	}
	if sh.wBytes&part != 0 && int(sh.wWarp) != w.id && w.vc[sh.wWarp] < sh.wClock {
		w.fail(KindRace, lane, "shared address %#x: warp %d overwrites what warp %d wrote at line %d without a barrier between", a, w.id, sh.wWarp, sh.wLine)
	}
	if part != 0xf { // readers are known by the word only
		return
	}
	for m := sh.rMask &^ (1 << w.id); m != 0; m &= m - 1 {
		if r := bits.TrailingZeros32(m); w.vc[r] < sh.rClock {
			w.fail(KindRace, lane, "shared address %#x: warp %d overwrites what warp %d still reads, without a barrier between", a, w.id, r)
		}
	}
}

func (w *warp) noteWrite(sh *shadowWord, part uint8, lane int) {
	if sh.wBytes != 0 && int(sh.wWarp) == w.id && sh.wClock == w.clock {
		if sh.wBytes|part != sh.wBytes || part != sh.wBytes || int(sh.wLane) != lane {
			if part == 0xf {
				sh.wLane = uint8(lane)
			} else if int(sh.wLane) != lane {
				sh.wLane = manyLanes
			}
			sh.wBytes |= part
		}
	} else {
		sh.wWarp, sh.wLane, sh.wClock, sh.wBytes = uint8(w.id), uint8(lane), w.clock, part
	}
	sh.wLine = int32(w.at().line)
	sh.init |= part
	sh.rMask = 0
}

// syncWarp is bar.warp.sync: what the lanes wrote is now known to all of them.
func (w *warp) syncWarp() {
	w.clock++
	w.vc[w.id] = w.clock
}
