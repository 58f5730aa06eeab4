package cpu

import (
	"fmt"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// packFunc repacks a weight for a kernel. group is the number of columns that
// share a scale of quantised weights, 0 for the whole row.
type packFunc func(m sparse.Matrix, group int, s *scratch) (packed, error)

// rowReader is a packed form whose rows can be unpacked: an embedding reads the
// head's weight through it where the two are one.
type rowReader interface {
	readRow(dst []float32, r int)
}

// scratch is memory that a goroutine reuses from weight to weight while packing.
type scratch struct{ f []float32 }

// rows returns n floats of any content.
func (s *scratch) rows(n int) []float32 {
	if cap(s.f) < n {
		s.f = make([]float32, n)
	}
	return s.f[:n]
}

// pack repacks m for kernel k in the fastest form that this machine runs.
func pack(m sparse.Matrix, k runtime.Kernel, group int, s *scratch) (packed, error) {
	f := packerFor(k)
	if f == nil {
		f = portablePacker(k)
	}
	w, err := f(m, group, s)
	if err != nil {
		return nil, fmt.Errorf("cpu: %v: %w", k, err)
	}
	return w, nil
}
