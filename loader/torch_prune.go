package loader

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// masked is what torch.nn.utils.prune leaves in a state dict: weight_orig and
// weight_mask, the weight being their product. It implements sparse.Stored.
type masked struct {
	*stored
	mask *stored
}

// ReadRows implements sparse.Matrix.
func (m *masked) ReadRows(dst []float32, r0 int) error {
	if err := m.stored.ReadRows(dst, r0); err != nil {
		return err
	}
	keep := make([]float32, len(dst))
	if err := m.mask.ReadRows(keep, r0); err != nil {
		return err
	}
	for i, k := range keep {
		switch k {
		case 0:
			dst[i] = 0
		case 1:
		default:
			return inFile(fault(ErrSparse, m.mask.name, -1, fmt.Sprint("mask of row ", r0+i/max(1, m.c)), "0 or 1", k), m.mask.src.name)
		}
	}
	return nil
}

// Load implements sparse.Stored.
func (m *masked) Load() (sparse.Matrix, error) {
	t := m.f.t
	if t != sparse.F16 && t != sparse.BF16 {
		x, err := sparse.Read(m)
		return sparse.NewDense(m.r, m.c, x), err
	}
	v, err := sparse.MakeValues(t, m.r*m.c)
	if err != nil {
		return nil, err
	}
	return &sparse.Dense{R: m.r, C: m.c, Values: v}, sparse.EachRow(m, func(r int, row []float32) error {
		for c, x := range row {
			v.Set(r*m.c+c, x)
		}
		return nil
	})
}

// masked pairs <base>_orig with <base>_mask.
func (m *modules) masked(base string, t *safeTensor) (*model.Weight, error) {
	mask := m.byName[base+"_mask"]
	m.used[t.name], m.used[mask.name] = true, true
	if fmt.Sprint(mask.shape) != fmt.Sprint(t.shape) {
		return nil, mask.fail(ErrSparse, "shape of a mask", fmt.Sprint(t.shape), fmt.Sprint(mask.shape))
	}
	if m.byName[base] != nil {
		return nil, t.fail(ErrSparse, "pruned weight that also occurs as "+base, nil, nil)
	}
	w := &masked{t.matrix(m.o), mask.matrix(m.o)}
	m.count.dense(w)
	return &model.Weight{Name: base, Shape: t.shape, Data: w}, nil
}
