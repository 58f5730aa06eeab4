package ptxsim

import (
	"slices"
	"sort"
)

// Stats counts what one launch did. Filled when Config.Stats is set.
type Stats struct {
	Kernel        string
	Instructions  int64            // warp instructions
	Opcodes       map[string]int64 // warp instructions by full opcode
	GlobalLoads   Traffic
	GlobalStores  Traffic
	GlobalAtomics Traffic
	Shared        []SharedAccess // by PTX line, in order
}

// Traffic is global memory movement.
type Traffic struct {
	Requests int64 // warp instructions
	Bytes    int64 // asked for by lanes
	Sectors  int64 // distinct 32-byte sectors, per instruction
}

// SharedAccess is the bank behaviour of one instruction that touches shared
// memory: 32 banks of 4 bytes; 8-byte accesses go by half warps, 16-byte ones
// and rows of ldmatrix by quarter warps.
type SharedAccess struct {
	Line      int
	Opcode    string
	Phases    int64 // conflict-free minimum
	Cycles    int64 // with conflicts
	MaxDegree int   // 1: none
}

// MaxDegree is the worst bank conflict of the launch; 1 means none.
func (s *Stats) MaxDegree() int {
	d := 1
	for _, a := range s.Shared {
		d = max(d, a.MaxDegree)
	}
	return d
}

// counters are a worker's own; merge adds them up.
type counters struct {
	ops    []int64 // by instruction
	load   Traffic
	store  Traffic
	atom   Traffic
	shared []SharedAccess // by instruction
	steps  int64
}

func newCounters(n int) *counters {
	return &counters{ops: make([]int64, n), shared: make([]SharedAccess, n)}
}

func (t *Traffic) add(o Traffic) {
	t.Requests += o.Requests
	t.Bytes += o.Bytes
	t.Sectors += o.Sectors
}

// countGlobal counts one warp access of n bytes a lane.
func (t *Traffic) countGlobal(addrs *lanes64, m uint32, n uint64) {
	t.Requests++
	var seen [64]uint64
	k := 0
	last := ^uint64(0)
	for i := 0; i < 32; i++ {
		if m>>i&1 == 0 {
			continue
		}
		t.Bytes += int64(n)
		for s := addrs[i] >> 5; s <= (addrs[i]+n-1)>>5; s++ {
			if s == last {
				continue
			}
			last = s
			if !slices.Contains(seen[:k], s) {
				seen[k] = s
				k++
			}
		}
	}
	t.Sectors += int64(k)
}

// countBanks counts one warp access to shared memory of n bytes a lane.
func (c *counters) countBanks(in *instr, addrs *lanes64, m uint32, n uint64) {
	per := 32 // lanes a phase
	switch {
	case n == 8:
		per = 16
	case n >= 16:
		per = 8
	}
	for from := 0; from < 32; from += per {
		var list [64]uint64
		k := 0
		for i := from; i < from+per; i++ {
			if m>>i&1 == 0 {
				continue
			}
			for a := addrs[i] &^ 3; a < addrs[i]+n && k < len(list); a += 4 {
				if !slices.Contains(list[:k], a) {
					list[k] = a
					k++
				}
			}
		}
		if k > 0 {
			c.phase(in, list[:k])
		}
	}
}

// phase counts distinct words accessed together.
func (c *counters) phase(in *instr, words []uint64) {
	var bank [32]uint8
	degree := 0
	for _, a := range words {
		b := a >> 2 & 31
		bank[b]++
		degree = max(degree, int(bank[b]))
	}
	s := &c.shared[in.id]
	s.Phases++
	s.Cycles += int64(degree)
	s.MaxDegree = max(s.MaxDegree, degree)
}

func (c *counters) merge(o *counters) {
	c.steps += o.steps
	c.load.add(o.load)
	c.store.add(o.store)
	c.atom.add(o.atom)
	for i := range o.ops {
		c.ops[i] += o.ops[i]
		s, t := &c.shared[i], &o.shared[i]
		s.Phases += t.Phases
		s.Cycles += t.Cycles
		s.MaxDegree = max(s.MaxDegree, t.MaxDegree)
	}
}

// stats turns counters into the public form.
func (k *kernelCode) stats(c *counters) *Stats {
	s := &Stats{Kernel: k.name, Opcodes: map[string]int64{}, Instructions: c.steps,
		GlobalLoads: c.load, GlobalStores: c.store, GlobalAtomics: c.atom}
	for i, n := range c.ops {
		if n > 0 {
			s.Opcodes[k.opcodes[i]] += n
		}
		if a := c.shared[i]; a.Phases > 0 {
			a.Line, a.Opcode = k.code[i].line, k.opcodes[i]
			s.Shared = append(s.Shared, a)
		}
	}
	sort.SliceStable(s.Shared, func(i, j int) bool { return s.Shared[i].Line < s.Shared[j].Line })
	return s
}
