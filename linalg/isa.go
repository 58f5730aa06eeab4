package linalg

import (
	"fmt"
	"os"
	"sync/atomic"
)

// InstructionSet is a family of kernels.
type InstructionSet uint32

// The families, each a superset of the one before.
const (
	Portable InstructionSet = iota // plain Go
	AVX2                           // with FMA and F16C
	AVX512                         // F, BW, DQ and VL
)

func (s InstructionSet) String() string {
	switch s {
	case AVX2:
		return "avx2"
	case AVX512:
		return "avx512"
	}
	return "portable"
}

// ParseISA reads the value of SPARSERUN_ISA.
func ParseISA(s string) (InstructionSet, error) {
	for _, x := range []InstructionSet{Portable, AVX2, AVX512} {
		if s == x.String() {
			return x, nil
		}
	}
	return Portable, fmt.Errorf("linalg: SPARSERUN_ISA: want portable, avx2 or avx512, got %q: %w", s, ErrISA)
}

// current is the family in use plus one, 0 until it is first asked for. It is not chosen in
// an init function: `go test` records which variables of the environment a test read, to know
// when a cached result is stale, but only from the start of the tests on.
var current atomic.Uint32

// chosen is what the machine has, lowered by SPARSERUN_ISA; a value that is unknown or
// beyond the machine changes nothing here and is reported by CheckISA.
func chosen() InstructionSet {
	best := detect()
	if want, err := ParseISA(os.Getenv("SPARSERUN_ISA")); err == nil && want <= best {
		return want
	}
	return best
}

// CheckISA says whether SPARSERUN_ISA could be honoured.
func CheckISA() error {
	v := os.Getenv("SPARSERUN_ISA")
	if v == "" {
		return nil
	}
	want, err := ParseISA(v)
	if err == nil && want > detect() {
		err = fmt.Errorf("linalg: SPARSERUN_ISA: want at most %v on this machine, got %v: %w", detect(), want, ErrISA)
	}
	return err
}

// ISA is the family of kernels in use.
func ISA() InstructionSet {
	v := current.Load()
	if v == 0 {
		current.CompareAndSwap(0, uint32(chosen())+1)
		v = current.Load()
	}
	return InstructionSet(v - 1)
}

// ISAs lists the families that this machine runs, Portable first.
func ISAs() []InstructionSet {
	var out []InstructionSet
	for s := Portable; s <= detect(); s++ {
		out = append(out, s)
	}
	return out
}

// ForceISA has the kernels of s used from now on and returns what was in use. It is
// for tests and measurements: nothing may run kernels at the same time. A family
// that the machine lacks is an error.
func ForceISA(s InstructionSet) (before InstructionSet, err error) {
	if s > detect() {
		return ISA(), fmt.Errorf("linalg: want at most %v on this machine, got %v: %w", detect(), s, ErrISA)
	}
	before = ISA()
	current.Store(uint32(s) + 1)
	return before, nil
}
