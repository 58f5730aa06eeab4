package ptxsim

// run executes up to quantum instructions of the warp: always the group of lanes
// with the lowest pc, so that lanes which branched forward wait for those that
// did not, and all meet again where the code does.
func (w *warp) run(quantum int) {
	code := w.blk.k.code
	for n := 0; n < quantum; n++ {
		if w.pc >= len(code) {
			w.exit(w.mask)
			if w.state == warpDone {
				return
			}
			continue
		}
		in := &code[w.pc]
		m := w.mask
		if in.guard >= 0 {
			p := w.inPred(in.guard, m)
			if in.guardNeg {
				p = ^p
			}
			m &= p
		}
		w.steps++
		if c := w.blk.count; c != nil {
			c.ops[in.id]++
		}
		switch in.kind {
		case kPlain:
			if m != 0 {
				in.exec(w, m)
			}
			w.pc++
		case kSync:
			if m != 0 && !w.together(in, m) {
				continue
			}
			if m != 0 {
				in.exec(w, m)
			}
			w.pc++
		case kBranch:
			w.branch(int(in.target), m)
		case kTable:
			w.branchTable(in, m)
		case kExit:
			w.exit(m)
			if w.state == warpDone {
				return
			}
			if m != 0 && w.mask == 0 {
				continue
			}
		case kBar:
			if m == 0 {
				w.pc++
				break
			}
			if !w.together(in, m) {
				continue
			}
			w.pc++
			w.blk.arrive(w, in, m)
			if w.state != warpReady {
				w.settle()
				return
			}
		}
		if len(w.groups) > 0 {
			w.settle()
		}
	}
}

// together says whether all lanes that in needs are here. If some are still on
// their way, the group is parked and another one runs; if none can come, that
// is the fault of the kernel.
func (w *warp) together(in *instr, m uint32) bool {
	need := w.live
	if in.need != nil {
		need = in.need(w, m)
	}
	missing := need &^ m
	if missing == 0 {
		return true
	}
	if missing&^w.mask == 0 {
		w.fail(KindDivergence, -1, "lanes %#08x are needed, but their guard is false", missing)
	}
	best := -1
	for i, g := range w.groups {
		if !g.sync && (best < 0 || g.pc < w.groups[best].pc) {
			best = i
		}
	}
	if best < 0 {
		w.fail(KindDivergence, -1, "lanes %#08x execute it, lanes %#08x do not come", m, missing&^w.mask)
	}
	here := group{w.pc, w.mask, true}
	w.pc, w.mask = w.groups[best].pc, w.groups[best].mask
	w.groups[best] = here
	w.merge()
	return false
}

// branch sends the lanes of m to target.
func (w *warp) branch(target int, m uint32) {
	switch {
	case m == w.mask:
		w.pc = target
	case m == 0:
		w.pc++
	default:
		w.groups = append(w.groups, group{pc: target, mask: m})
		w.mask &^= m
		w.pc++
	}
}

func (w *warp) branchTable(in *instr, m uint32) {
	in.index.check(w, m)
	rest := w.mask &^ m
	for t := range in.targets {
		var to uint32
		for i := 0; i < 32; i++ {
			if m>>i&1 != 0 && in.index.get(w, i) == uint64(t) {
				to |= 1 << i
			}
		}
		m &^= to
		if to != 0 {
			w.groups = append(w.groups, group{pc: int(in.targets[t]), mask: to})
		}
	}
	if m != 0 {
		w.fail(KindOperand, firstLane(m), "branch index %d of %d", in.index.get(w, firstLane(m)), len(in.targets))
	}
	if rest != 0 {
		w.groups = append(w.groups, group{pc: w.pc + 1, mask: rest})
	}
	w.mask = 0
	w.next()
}

// settle lets the lowest group run and merges groups that met.
func (w *warp) settle() {
	for i := range w.groups {
		g := &w.groups[i]
		if !g.sync && g.pc < w.pc {
			w.pc, g.pc = g.pc, w.pc
			w.mask, g.mask = g.mask, w.mask
		}
	}
	w.merge()
}

// merge takes in the groups at the running group's pc.
func (w *warp) merge() {
	keep := w.groups[:0]
	for _, g := range w.groups {
		if g.pc == w.pc {
			w.mask |= g.mask
		} else if g.mask != 0 {
			keep = append(keep, g)
		}
	}
	w.groups = keep
}

// exit ends the lanes of m.
func (w *warp) exit(m uint32) {
	w.live &^= m
	w.mask &^= m
	if w.mask != 0 {
		w.pc++
		return
	}
	if len(w.groups) == 0 {
		w.state = warpDone
		w.blk.warpEnded()
		return
	}
	w.next()
}

// next makes the lowest waiting group the running one; those parked at an
// aligned instruction come last, for their lanes may not be missing any more.
func (w *warp) next() {
	best := 0
	for i, g := range w.groups {
		b := w.groups[best]
		if b.sync && !g.sync || b.sync == g.sync && g.pc < b.pc {
			best = i
		}
	}
	w.pc, w.mask = w.groups[best].pc, w.groups[best].mask
	w.groups = append(w.groups[:best], w.groups[best+1:]...)
	w.merge()
}
