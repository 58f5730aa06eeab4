package ptxsim

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"sync"
)

// instrKind separates what the scheduler must handle from plain execution.
type instrKind uint8

const (
	kPlain  instrKind = iota
	kSync             // plain, but needs the lanes that need() names to be together
	kBranch           // to target, for the lanes the guard leaves
	kTable            // brx.idx
	kExit             // ret, exit
	kBar              // block barrier
)

// instr is one decoded instruction.
type instr struct {
	exec     execFn
	need     func(w *warp, m uint32) uint32 // kSync
	kind     instrKind
	guardNeg bool
	guard    int32 // predicate slot, -1 for none
	target   int32
	targets  []int32
	index    slot // kTable
	bar      barSpec
	line     int
	opcode   string
	id       int // position in the code: index of counters
}

// kernelCode is a function made ready to run.
type kernelCode struct {
	name     string
	fn       *function
	code     []instr
	n32, n64 int
	nPred    int
	const32  []constSlot
	const64  []constSlot
	constP   []int32 // predicate slots that are false in every lane
	special  []specialSlot
	names32  []string
	names64  []string
	namesP   []string
	opcodes  []string
	dynAlign int
	blocks   sync.Pool // machines of finished launches
}

type constSlot struct {
	slot int32
	bits uint64
}

type specialSlot struct {
	slot int32
	wide bool
	name string
}

func (k *kernelCode) name32(s int32) string   { return k.names32[s] }
func (k *kernelCode) name64(s int32) string   { return k.names64[s] }
func (k *kernelCode) namePred(s int32) string { return k.namesP[s] }

// builder decodes one function.
type builder struct {
	k       *kernelCode
	fn      *function
	addrOf  func(v *variable) uint64 // device address of a .global or .const
	slots   []int32                  // of fn.regs
	consts  map[uint64]int32         // by value, 32-bit class
	consts6 map[uint64]int32
	specs   map[string]slot
	sink32  int32
	sink64  int32
	sinkP   int32
	st      *statement
}

// decoder makes an instruction's closure; control flow is handled apart.
type decoder func(b *builder, st *statement) execFn

// decodePanic carries a load error from a decoder to decode; it never leaves the
// package. Decoders read straight on, as every misfit ends them.
type decodePanic struct{ err error }

// unsupported names the instruction, as every load error does.
func (b *builder) unsupported(why string, a ...any) decodePanic {
	return decodePanic{fmt.Errorf("%s: line %d: %s: %s: %w", b.fn.name, b.st.line, b.st.opcode(), fmt.Sprintf(why, a...), ErrUnsupported)}
}

// decode builds the code of fn.
func decode(fn *function, addrOf func(*variable) uint64) (k *kernelCode, err error) {
	defer func() {
		if r := recover(); r != nil {
			p, ok := r.(decodePanic)
			if !ok {
				panic(r)
			}
			k, err = nil, p.err
		}
	}()
	k = &kernelCode{name: fn.name, fn: fn, dynAlign: 16}
	b := &builder{k: k, fn: fn, addrOf: addrOf, consts: map[uint64]int32{}, consts6: map[uint64]int32{}, specs: map[string]slot{}}
	for _, r := range fn.regs {
		switch {
		case r.typ == tPred:
			b.slots = append(b.slots, b.newPred(r.name))
		case r.typ.size() == 8:
			b.slots = append(b.slots, b.new64(r.name))
		case r.typ.size() <= 4:
			b.slots = append(b.slots, b.new32(r.name))
		default:
			return nil, fmt.Errorf("%s: register %s of type %s: %w", fn.name, r.name, r.typ, ErrUnsupported)
		}
	}
	b.sink32, b.sink64, b.sinkP = b.new32("_"), b.new64("_"), b.newPred("_")
	for i, st := range fn.body {
		b.st = st
		in := instr{guard: -1, guardNeg: st.guardNeg, line: st.line, opcode: st.opcode(), id: i}
		if st.guard >= 0 {
			in.guard = b.slots[st.guard]
		}
		b.instr(&in, st)
		k.code = append(k.code, in)
		k.opcodes = append(k.opcodes, in.opcode)
	}
	return k, nil
}

func (b *builder) instr(in *instr, st *statement) {
	switch st.op {
	case "bra":
		if len(st.targets) != 1 || len(st.args) != 1 || !onlyMods(st, "uni") {
			panic(b.unsupported("form of branch"))
		}
		in.kind, in.target = kBranch, int32(st.targets[0])
		return
	case "brx":
		if len(st.args) != 2 || len(st.targets) == 0 || !onlyMods(st, "idx", "uni") {
			panic(b.unsupported("form of branch"))
		}
		idx := b.src(st.args[0], tU32)
		in.kind, in.index = kTable, idx
		for _, t := range st.targets {
			in.targets = append(in.targets, int32(t))
		}
		return
	case "ret", "exit":
		if len(st.args) != 0 || !onlyMods(st, "uni") {
			panic(b.unsupported("form of exit"))
		}
		in.kind = kExit
		return
	case "bar", "barrier":
		b.barrier(in, st)
		return
	}
	d, ok := decoders[st.op]
	if !ok {
		panic(b.unsupported("unknown opcode"))
	}
	in.exec = d(b, st)
	if need := b.syncNeed(st); need != nil {
		in.kind, in.need = kSync, need
	}
}

// syncNeed says which lanes an instruction must have together: those of the
// member mask for .sync forms, all live ones for .aligned forms.
func (b *builder) syncNeed(st *statement) func(*warp, uint32) uint32 {
	allLive := func(w *warp, _ uint32) uint32 { return w.live }
	switch st.op {
	case "mma", "ldmatrix", "stmatrix", "movmatrix":
		return allLive
	case "shfl", "vote", "match", "redux":
		if !slices.Contains(st.mods, "sync") || len(st.args) == 0 {
			return nil
		}
		mask := b.strict(st.args[len(st.args)-1], tB32)
		uniform := st.op != "shfl"
		return func(w *warp, m uint32) uint32 { return w.memberMask(mask, m, uniform) }
	}
	return nil
}

// memberMask reads the member mask of a .sync instruction: every executing
// lane must be in its own mask, and lanes that exited do not count.
// With uniform set, all must name the same lanes: collectives over several
// masks at once are not modelled.
func (w *warp) memberMask(s slot, m uint32, uniform bool) uint32 {
	if m == 0 {
		return 0
	}
	r := w.in32(s.i, m)
	var all uint32
	first := r[firstLane(m)&31]
	same := true
	for mm := m; mm != 0; mm &= mm - 1 {
		if r[bits.TrailingZeros32(mm)&31] != first {
			same = false
			break
		}
	}
	if same && m&^first == 0 {
		return first & w.live
	}
	for i := 0; i < 32; i++ {
		if m>>i&1 == 0 {
			continue
		}
		mm := r[i]
		if mm>>i&1 == 0 {
			w.fail(KindOperand, i, "lane %d executes with member mask %#08x that lacks it", i, mm)
		}
		if uniform && mm != first {
			w.fail(KindOperand, i, "member masks differ: %#08x and %#08x", first, mm)
		}
		all |= mm
	}
	return all & w.live
}

func onlyMods(st *statement, allowed ...string) bool {
	for _, m := range st.mods {
		if !slices.Contains(allowed, m) {
			return false
		}
	}
	return true
}

// modset is an instruction's suffixes, sorted out.
type modset struct {
	types []dtype
	flags []string
	round rounding
	isRnd bool
}

func (ms modset) has(flag string) bool { return slices.Contains(ms.flags, flag) }

// mods sorts suffixes into types, a rounding mode and flags; a suffix that is
// none of these nor in allowed (blank-separated) is an error.
func (b *builder) mods(st *statement, allowed string) modset {
	var ms modset
	ok := fields(allowed)
	for _, m := range st.mods {
		if slices.Contains(ok, m) {
			ms.flags = append(ms.flags, m)
		} else if t, is := dtypeByName[m]; is {
			ms.types = append(ms.types, t)
		} else if r, is := roundingByName[m]; is && slices.Contains(ok, "ROUND") {
			ms.round, ms.isRnd = r, true
		} else {
			panic(b.unsupported("suffix .%s", m))
		}
	}
	return ms
}

// typed is mods of an instruction with one type.
func (b *builder) typed(st *statement, allowed string) (modset, dtype) {
	ms := b.mods(st, allowed)
	if len(ms.types) != 1 {
		panic(b.unsupported("%d types", len(ms.types)))
	}
	return ms, ms.types[0]
}

// fields is strings.Fields, remembered: the few lists of suffixes come by for
// every instruction.
func fields(s string) []string {
	if v, ok := fieldCache.Load(s); ok {
		return v.([]string)
	}
	v := strings.Fields(s)
	fieldCache.Store(s, v)
	return v
}

var fieldCache sync.Map

func (b *builder) new32(name string) int32 {
	b.k.names32 = append(b.k.names32, name)
	b.k.n32++
	return int32(b.k.n32 - 1)
}

func (b *builder) new64(name string) int32 {
	b.k.names64 = append(b.k.names64, name)
	b.k.n64++
	return int32(b.k.n64 - 1)
}

func (b *builder) newPred(name string) int32 {
	b.k.namesP = append(b.k.namesP, name)
	b.k.nPred++
	return int32(b.k.nPred - 1)
}
