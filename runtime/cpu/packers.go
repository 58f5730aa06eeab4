package cpu

import (
	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// packerFor is the constructor of the fastest form of kernel k on this machine,
// nil where only the portable form has it.
func packerFor(k runtime.Kernel) packFunc {
	if linalg.ISA() == linalg.Portable || k.Op != model.OpLinear {
		return nil
	}
	if k.Weight.Quantised() != (k.Act == sparse.Int8) {
		return nil
	}
	if k.Layout == sparse.LayoutCSR {
		return csrPacker(k)
	}
	return func(m sparse.Matrix, group int, s *scratch) (packed, error) {
		g, ok := scaleGroup(k.Weight, group)
		kern, block := tileFor(tileKey{k.Layout, k.Weight, g})
		if !ok || kern == 0 {
			return portablePacker(k)(m, group, s)
		}
		if k.Layout == sparse.LayoutBitmask {
			return packBitmask(m, k, kern, block, group, s)
		}
		return packTiled(m, k, kern, block, group, s)
	}
}

// tileKey names the kernels of one layout and type.
type tileKey struct {
	layout sparse.Layout
	weight sparse.DType
	group  int
}

// scaleGroup is the group of half-precision scales that a kernel reads: columns
// that share a scale, 64 or 32 of them where more do. ok is false where there is no
// such kernel.
func scaleGroup(t sparse.DType, group int) (g int, ok bool) {
	switch {
	case !t.Quantised() || (t == sparse.Int8 && group == 0):
		return 0, true
	case group%64 == 0:
		return 64, true
	case group%32 == 0:
		return 32, true
	}
	return 0, false
}
