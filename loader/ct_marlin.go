package loader

import (
	"fmt"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// marlin reads a marlin-24 weight: symmetric int4 or int8, 2:4, tiled for the
// kernel of that name. Its tiles mix rows and columns, so it is decoded whole
// into the 2:4 form. Layout: reference formats.md 4.1, "marlin-24".
func (m *modules) marlin(mod string, t *safeTensor) (*model.Weight, error) {
	m.used[t.name] = true
	scale, meta := m.part(mod, ctMarlin), m.part(mod, ctMeta)
	if meta == nil {
		return nil, t.fail(ErrSparse, "marlin-24 weight without "+mod+ctMeta, nil, nil)
	}
	sch := m.cfg.scheme(mod)
	if len(t.shape) != 2 || len(meta.shape) != 2 || len(scale.shape) != 2 || t.t != sparse.Int32 || meta.t != sparse.Int16 || scale.t != sparse.F16 {
		return nil, t.fail(ErrSparse, "marlin-24 tensors", "I32, I16 and F16 of two dimensions", fmt.Sprint(t.t, t.shape, meta.t, meta.shape, scale.t, scale.shape))
	}
	bits := sch.bits
	n := scale.shape[1]  // outputs
	k := 32 * t.shape[0] // inputs
	groups := scale.shape[0]
	if (bits != 4 && bits != 8) || sch.asym {
		return nil, t.fail(ErrUnsupported, "marlin-24", "symmetric 4 or 8 bits", bits)
	}
	switch {
	case n < 64 || n%64 != 0 || k < 32 || n > 1<<24 || k > 1<<24:
		return nil, t.fail(ErrSparse, "marlin-24 shape", "outputs in multiples of 64", fmt.Sprintf("[%d %d]", n, k))
	case t.shape[1] != 16*n*bits/32:
		return nil, t.fail(ErrSparse, "packed shape", fmt.Sprintf("[%d %d]", k/32, 16*n*bits/32), fmt.Sprint(t.shape))
	case meta.shape[0] != k/32 || meta.shape[1] != 2*n:
		return nil, meta.fail(ErrSparse, "shape of metadata", fmt.Sprintf("[%d %d]", k/32, 2*n), fmt.Sprint(meta.shape))
	case groups != 1 && (sch.group == 0 || groups != (k+sch.group-1)/sch.group):
		return nil, scale.fail(ErrSparse, "groups of scales", fmt.Sprintf("1 or %d inputs by %d", k, sch.group), groups)
	}
	w := &sparse.NM24{R: n, C: k}
	var err error
	if w.Meta, err = marlinMeta(meta, n, k); err != nil {
		return nil, err
	}
	typ := sparse.Int4
	if bits == 8 {
		typ = sparse.Int8
	}
	if w.Values, err = sparse.MakeValues(typ, n*k/2); err != nil {
		return nil, err
	}
	if err := marlinValues(t, w.Values, n, k/2, bits); err != nil {
		return nil, err
	}
	if w.Quant, err = marlinScales(scale, n, k, groups, sch.group); err != nil {
		return nil, err
	}
	if err := w.Check(); err != nil {
		return nil, meta.fail(ErrSparse, err.Error(), nil, nil)
	}
	m.count.weights += int64(n) * int64(k)
	m.count.sparse += int64(n) * int64(k)
	m.count.certain += int64(n) * int64(k) / 2
	m.count.maybeZero += int64(n) * int64(k) / 2
	return &model.Weight{Name: mod + ".weight", Shape: []int{n, k}, Data: w}, nil
}

// marlinMeta undoes the reordering of the index pairs. Element (row, col) of the
// [n, k/16] int16 matrix of pairs lies at a place that swaps rows inside blocks
// of 64, then 2x2 off-diagonals, then interleaves columns by two.
func marlinMeta(t *safeTensor, n, k int) ([]byte, error) {
	raw, err := t.bytes()
	if err != nil {
		return nil, err
	}
	cols := k / 16
	if cols%2 != 0 {
		return nil, t.fail(ErrSparse, "inputs of a marlin-24 weight", "a multiple of 32", k)
	}
	out := make([]byte, n*k/8) // a nibble a group of 4
	for r := range n {
		base := r/64*64 + r%2*2 + r%8/4 + r%4/2*32 + r%64/8*4
		for c := range cols {
			row, col := base, c
			switch {
			case row%2 == 0 && col%2 == 1:
				row, col = row+1, col-1
			case row%2 == 1 && col%2 == 0:
				row, col = row-1, col+1
			}
			at := col/2*n*2 + row*2 + col%2
			v := le16(raw[2*at:])
			for i := range 4 {
				if p := v >> (4 * i) & 15; p&3 >= p>>2 {
					return nil, t.fail(ErrSparse, fmt.Sprintf("index pair of row %d group %d", r, 4*c+i), "ascending", fmt.Sprint(p&3, ",", p>>2))
				}
			}
			copy(out[r*cols*2+2*c:], []byte{byte(v), byte(v >> 8)})
		}
	}
	return out, nil
}

// marlinValues undoes packing and tiling: codes of the compressed matrix, which
// lies input first, [kc, n], in 16x16 tiles whose runs of 1024 are permuted.
func marlinValues(t *safeTensor, v sparse.Values, n, kc, bits int) error {
	perm := marlinPerm(bits)
	rowCodes := 16 * n
	rb := rowCodes * bits / 8
	bias := 1 << (bits - 1)
	for tr := range kc / 16 {
		err := t.src.view(t.off+int64(tr)*int64(rb), rb, func(raw []byte) error {
			for i := range rowCodes {
				at := i * bits
				u := int(raw[at/8]>>(at%8)) & (1<<bits - 1)
				j := i/1024*1024 + perm[i%1024] // place in the tiled row
				col, in := j/256*16+j%16, tr*16+j%256/16
				v.Set(col*kc+in, float32(u-bias))
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// marlinPerm is the order in which a run of 1024 codes is gathered from tiles.
func marlinPerm(bits int) [1024]int {
	var perm [1024]int
	inter := []int{0, 2, 4, 6, 1, 3, 5, 7}
	if bits == 8 {
		inter = []int{0, 2, 1, 3}
	}
	var flat []int
	for i := range 32 {
		var one []int
		col := i / 4
		co := col / 2
		for block := range 2 {
			for _, row := range []int{2 * (i % 4), 2*(i%4) + 1, 2 * (i%4 + 4), 2*(i%4+4) + 1} {
				one = append(one, 16*row+co*256+8*(col%2)+4*block)
			}
		}
		for j := range 4 {
			for _, p := range one {
				flat = append(flat, p+j)
			}
		}
	}
	for i := range perm {
		perm[i] = flat[i/len(inter)*len(inter)+inter[i%len(inter)]]
	}
	return perm
}

// marlinScales undoes the permutation of scales: [groups, n] to [n, groups].
func marlinScales(t *safeTensor, n, k, groups, group int) (*sparse.Quant, error) {
	b, err := t.bytes()
	if err != nil {
		return nil, err
	}
	q := &sparse.Quant{Type: sparse.F16, Scales: make([]float32, n*groups)}
	if groups > 1 {
		q.Group = group
	}
	// The writer compares the group with the compressed inputs, not with all.
	permuted := group > 0 && group < k/2
	order := [8]int{0, 4, 1, 5, 2, 6, 3, 7}
	for g := range groups {
		for i := range n {
			from := i
			if permuted {
				from = i/8*8 + order[i%8]
			}
			s := halfTable[le16(b[2*(g*n+i):])]
			if !(s > 0) || s-s != 0 {
				return nil, t.fail(ErrSparse, fmt.Sprint("scale ", g*n+i), "a positive number", s)
			}
			q.Scales[from*groups+g] = s
		}
	}
	return q, nil
}
