package ptxsim

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
)

// Dim3 is an extent or a position; the zero of an extent counts as 1.
type Dim3 struct{ X, Y, Z int }

func (d Dim3) String() string { return fmt.Sprintf("(%d,%d,%d)", d.X, d.Y, d.Z) }

func (d Dim3) orOne() Dim3 { return Dim3{max(d.X, 1), max(d.Y, 1), max(d.Z, 1)} }

// Count is the number of positions.
func (d Dim3) Count() int { d = d.orOne(); return d.X * d.Y * d.Z }

func (d Dim3) at(i int) Dim3 { return Dim3{i % d.X, i / d.X % d.Y, i / (d.X * d.Y)} }

// launch is one running grid.
type launch struct {
	dev         *Device
	k           *kernelCode
	grid, block Dim3
	dynShared   int
	sharedSize  int
	params      []byte
	seq         uint64
}

// block is the machine that runs one thread block after another.
type block struct {
	run      *launch
	k        *kernelCode
	idx      Dim3
	linear   int
	warps    []*warp
	alive    int // warps not ended
	shared   sharedMem
	barriers [16]barrierState
	count    *counters // nil without statistics
	rng      uint64
	threads  int
}

// takeBlock gives a machine for the launch: one left over from an earlier launch
// of the kernel with as many threads, or a new one.
func takeBlock(l *launch) *block {
	b, _ := l.k.blocks.Get().(*block)
	if b == nil || b.threads != l.block.Count() {
		b = newBlock(l)
	}
	b.run = l
	b.shared.check, b.shared.poison = !l.dev.cfg.NoRaces, !l.dev.cfg.NoUninit
	for _, w := range b.warps {
		w.setSpecials(false)
	}
	b.count = nil
	if l.dev.cfg.Stats {
		b.count = newCounters(len(l.k.code))
	}
	return b
}

func newBlock(l *launch) *block {
	b := &block{run: l, k: l.k, threads: l.block.Count()}
	n := (b.threads + 31) / 32
	for i := 0; i < n; i++ {
		w := &warp{blk: b, id: i, vc: make([]uint32, n), launch: full,
			r32: make([]lanes32, l.k.n32), r64: make([]lanes64, l.k.n64), pr: make([]uint32, l.k.nPred),
			d32: make([]uint32, l.k.n32), d64: make([]uint32, l.k.n64), dpr: make([]uint32, l.k.nPred),
			local: make([]byte, 32*l.k.fn.localSize)}
		if rest := b.threads - 32*i; rest < 32 {
			w.launch = 1<<rest - 1
		}
		w.setConstants()
		b.warps = append(b.warps, w)
	}
	return b
}

// threadDim is the position of a thread by its linear number.
func (b *block) threadDim(i int) Dim3 { return b.run.block.at(i) }

// reset makes the machine ready for block number linear: registers and memory
// poisoned, constants and special registers set.
func (b *block) reset(linear int) {
	b.linear, b.idx = linear, b.run.grid.at(linear)
	b.rng = uint64(b.run.dev.cfg.Seed)*0x9e3779b97f4a7c15 + uint64(linear)*0xbf58476d1ce4e5b9 + 0x94d049bb133111eb
	b.shared.reset(b.run.sharedSize)
	b.alive = len(b.warps)
	for i := range b.barriers {
		b.barriers[i].arrived, b.barriers[i].waiting = 0, b.barriers[i].waiting[:0]
	}
	for _, w := range b.warps {
		w.poisonAll()
		clear(w.vc)
		for i := range w.local {
			w.local[i] = poisonByte
		}
		w.pc, w.mask, w.live, w.state, w.steps = 0, w.launch, w.launch, warpReady, 0
		w.onResume = nil
		w.groups, w.copies, w.groupN = w.groups[:0], w.copies[:0], [32]uint32{}
		w.clock = 0
		w.syncWarp() // clocks start at 1: 0 means never
		w.setSpecials(true)
	}
}

// setConstants fills the slots of constants; nothing ever writes to them again.
func (w *warp) setConstants() {
	k := w.blk.k
	for _, c := range k.const32 {
		for i := range w.r32[c.slot] {
			w.r32[c.slot][i] = uint32(c.bits)
		}
	}
	for _, c := range k.const64 {
		for i := range w.r64[c.slot] {
			w.r64[c.slot][i] = c.bits
		}
	}
}

// poisonAll forgets which registers were written, but for constants and special
// registers.
func (w *warp) poisonAll() {
	clear(w.d32)
	clear(w.d64)
	clear(w.dpr)
	k := w.blk.k
	for _, c := range k.const32 {
		w.d32[c.slot] = full
	}
	for _, c := range k.const64 {
		w.d64[c.slot] = full
	}
	for _, s := range k.constP {
		w.pr[s], w.dpr[s] = 0, full
	}
	for _, s := range k.special {
		if s.wide {
			w.d64[s.slot] = full
		} else {
			w.d32[s.slot] = full
		}
	}
}

// setSpecials fills the special registers: once a launch those that say where a
// thread is in its block, once a block those that say which block it is.
func (w *warp) setSpecials(ofBlock bool) {
	for _, s := range w.blk.k.special {
		if strings.HasPrefix(s.name, "%ctaid") || s.name == "%smid" {
			if ofBlock {
				v := w.specialValue(s.name, 0)
				for i := range w.r32[s.slot] {
					w.r32[s.slot][i] = uint32(v)
				}
			}
			continue
		}
		if ofBlock {
			continue
		}
		for i := 0; i < 32; i++ {
			v := w.specialValue(s.name, i)
			if s.wide {
				w.r64[s.slot][i] = v
			} else {
				w.r32[s.slot][i] = uint32(v)
			}
		}
	}
}

// random is a small generator: the order of warps needs no better.
func (b *block) random(n int) int {
	b.rng ^= b.rng << 13
	b.rng ^= b.rng >> 7
	b.rng ^= b.rng << 17
	return int(b.rng >> 33 % uint64(n))
}

// exec runs the block to its end or its first fault.
func (b *block) exec() (err error) {
	var current *warp
	defer func() {
		r := recover()
		if r == nil {
			return
		}
		if f, ok := r.(faultPanic); ok {
			err = f.f
			return
		}
		f := &Fault{Result: ErrLaunchFailed, Kind: KindInternal, Kernel: b.k.name, Block: b.idx,
			Detail: fmt.Sprintf("%v\n%s", r, debug.Stack())}
		if current != nil {
			f.Line, f.Opcode = current.at().line, current.at().opcode
		}
		err = f
	}()
	budget := b.run.dev.cfg.MaxInstructions
	ready := make([]*warp, 0, len(b.warps))
	for b.alive > 0 {
		ready = ready[:0]
		for _, w := range b.warps {
			if w.state == warpReady {
				ready = append(ready, w)
			}
		}
		if len(ready) == 0 {
			return b.deadlock()
		}
		current = ready[b.random(len(ready))]
		before := current.steps
		current.run(1 + b.random(b.run.dev.cfg.Quantum))
		if budget -= current.steps - before; budget < 0 {
			current.fail(KindBudget, -1, "more than %d warp instructions in a block", b.run.dev.cfg.MaxInstructions)
		}
	}
	if b.count != nil {
		for _, w := range b.warps {
			b.count.steps += w.steps
		}
	}
	return nil
}

func (b *block) deadlock() error {
	var where []string
	var first *warp
	for _, w := range b.warps {
		if w.state == warpAtBarrier {
			w.pc--
			where = append(where, fmt.Sprintf("warp %d at barrier %d, line %d", w.id, w.barrier, w.at().line))
			if first == nil {
				first = w
			}
		}
	}
	if first == nil {
		return errors.New("no warp can run and none waits")
	}
	return &Fault{Result: ErrLaunchTimeout, Kind: KindDeadlock, Kernel: b.k.name, Block: b.idx, Thread: b.threadDim(first.id * 32),
		Line: first.at().line, Opcode: first.at().opcode, Detail: strings.Join(where, "; ")}
}
