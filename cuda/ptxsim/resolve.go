package ptxsim

// constant gives a slot that holds bits in every lane.
func (b *builder) constant(bits uint64, wide bool) int32 {
	if wide {
		s, ok := b.consts6[bits]
		if !ok {
			s = b.new64("constant")
			b.consts6[bits] = s
			b.k.const64 = append(b.k.const64, constSlot{s, bits})
		}
		return s
	}
	bits &= 0xffffffff
	s, ok := b.consts[bits]
	if !ok {
		s = b.new32("constant")
		b.consts[bits] = s
		b.k.const32 = append(b.k.const32, constSlot{s, bits})
	}
	return s
}

// isConstant says whether a 64-bit slot holds a constant; constantValue gives it.
func (b *builder) isConstant(s slot) bool { return s.wide && b.k.names64[s.i] == "constant" }

func (b *builder) constantValue(s slot) uint64 {
	for _, c := range b.k.const64 {
		if c.slot == s.i {
			return c.bits
		}
	}
	return 0
}

// src resolves an operand read as type t. Registers keep their own width, so
// that ld, st and cvt may use wider ones; strict forbids that elsewhere.
func (b *builder) src(a operand, t dtype) slot {
	if a.neg && a.kind != argImm {
		panic(b.unsupported("negated operand %s", a.name))
	}
	switch a.kind {
	case argReg:
		rt := b.fn.regs[a.reg].typ
		if rt == tPred {
			panic(b.unsupported("predicate %s as a value", a.name))
		}
		return slot{b.slots[a.reg], rt.size() == 8, t}
	case argImm:
		bits := literalBits(a.bits, a.fp, a.neg, t)
		if t.size() < 8 {
			bits &= 1<<(8*max(t.size(), 1)) - 1
		}
		return slot{b.constant(bits, t.wide()), t.wide(), t}
	case argVar:
		return slot{b.constant(b.address(a.v)+uint64(a.off), t.wide()), t.wide(), t}
	case argSpecial:
		return b.specialReg(a.name, t)
	}
	panic(b.unsupported("operand of this form"))
}

// address of a variable in its own state space.
func (b *builder) address(v *variable) uint64 {
	if v.space == spGlobal || v.space == spConst {
		return b.addrOf(v)
	}
	if v.space == spShared && v.extern {
		b.k.dynAlign = max(b.k.dynAlign, v.align)
		a := uint64(b.k.dynAlign)
		return (uint64(b.fn.sharedFixed) + a - 1) &^ (a - 1)
	}
	return uint64(v.off)
}

// strict resolves a source whose register must be of t's class.
func (b *builder) strict(a operand, t dtype) slot {
	s := b.src(a, t)
	if s.wide != t.wide() {
		panic(b.unsupported("operand %s is not of %d bytes", a.name, t.size()))
	}
	return s
}

// dst resolves a destination written as type t.
func (b *builder) dst(a operand, t dtype) slot {
	switch a.kind {
	case argReg:
		rt := b.fn.regs[a.reg].typ
		if rt == tPred {
			panic(b.unsupported("predicate %s as a destination", a.name))
		}
		return slot{b.slots[a.reg], rt.size() == 8, t}
	case argSink:
		if t.wide() {
			return slot{b.sink64, true, t}
		}
		return slot{b.sink32, false, t}
	}
	panic(b.unsupported("destination of this form"))
}

func (b *builder) strictDst(a operand, t dtype) slot {
	s := b.dst(a, t)
	if s.wide != t.wide() {
		panic(b.unsupported("destination %s is not of %d bytes", a.name, t.size()))
	}
	return s
}

// predSlot is a predicate operand with its negation.
type predSlot struct {
	i   int32
	neg bool
}

func (p predSlot) get(w *warp, m uint32) uint32 {
	v := w.inPred(p.i, m)
	if p.neg {
		return ^v
	}
	return v
}

func (b *builder) pred(a operand) predSlot {
	switch a.kind {
	case argReg:
		if b.fn.regs[a.reg].typ == tPred {
			return predSlot{b.slots[a.reg], a.neg}
		}
	case argSink:
		return predSlot{b.sinkP, false}
	}
	panic(b.unsupported("%s is no predicate", a.name))
}

// args checks the number of operands.
func (b *builder) args(n int) {
	if len(b.st.args) != n {
		panic(b.unsupported("%d operands, want %d", len(b.st.args), n))
	}
}
