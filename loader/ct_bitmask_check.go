package loader

import (
	"fmt"
	"math/bits"
)

// dims settles rows and columns. The shape tensor is the truth where it agrees
// with the mask; for 2:4 a wrong one is known to occur (fused layers), and the
// values' own shape [R, C/2] decides.
func (b *bitmasked) dims(shape, offsets *safeTensor) ([]int, error) {
	var dims []int64
	var err error
	if shape != nil {
		if dims, err = shape.ints(2); err != nil {
			return nil, err
		}
		for _, d := range dims {
			if d < 0 || d > 1<<40 {
				return nil, shape.fail(ErrSparse, "shape", "non-negative numbers", fmt.Sprint(dims))
			}
		}
	}
	ms := b.mask.shape
	vs := b.values.shape
	b.is24 = offsets == nil && (b.f == nil || len(vs) == 2)
	if !b.is24 && offsets == nil {
		return nil, b.mask.fail(ErrSparse, "bit mask without "+ctOffsets, nil, nil)
	}
	switch {
	case b.is24 && b.f != nil:
		if len(ms) != 2 || ms[0] != vs[0] {
			return nil, b.mask.fail(ErrSparse, "shape of a 2:4 mask", fmt.Sprintf("[%d %d]", vs[0], (2*vs[1]+7)/8), fmt.Sprint(ms))
		}
		b.r, b.c = vs[0], 2*vs[1]
		if b.c%4 != 0 {
			return nil, b.values.fail(ErrSparse, "columns of a 2:4 weight", "a multiple of 4", b.c)
		}
	case len(dims) == 2 && len(ms) == 2:
		b.r, b.c = int(dims[0]), int(dims[1])
		if b.is24 && b.c%4 != 0 {
			return nil, b.values.fail(ErrSparse, "columns of a 2:4 weight", "a multiple of 4", b.c)
		}
	case len(dims) == 1 && len(ms) == 1:
		b.r, b.c = 1, int(dims[0])
		ms = []int{1, ms[0]}
	case shape == nil:
		return nil, b.mask.fail(ErrSparse, "sparse weight without a shape", nil, nil)
	default:
		return nil, shape.fail(ErrSparse, "shape", fmt.Sprint(len(ms), " numbers, as the mask has dimensions"), fmt.Sprint(dims))
	}
	if b.r < 1 || b.c < 1 {
		return nil, b.mask.fail(ErrSparse, "shape of a sparse weight", "at least [1 1]", fmt.Sprint([]int{b.r, b.c}))
	}
	if ms[0] != b.r || ms[1] != b.stride() {
		return nil, b.mask.fail(ErrSparse, "shape of the mask", fmt.Sprintf("[%d %d] for [%d %d]", b.r, b.stride(), b.r, b.c), fmt.Sprint(b.mask.shape))
	}
	if len(dims) == 1 {
		return []int{b.c}, nil
	}
	return []int{b.r, b.c}, nil
}

// scan walks the mask once: counts each row's bits, checks that none lies beyond
// the columns, that 2:4 groups have exactly two, and that values and row
// offsets agree with the counts.
func (b *bitmasked) scan(offsets *safeTensor) error {
	var rows []int64
	if offsets != nil {
		var err error
		if rows, err = offsets.ints(b.r); err != nil {
			return err
		}
		if len(rows) != b.r {
			return offsets.fail(ErrSparse, "number of row offsets", b.r, len(rows))
		}
	}
	nnz := int64(0)
	bs := b.stride()
	err := b.eachMaskRow(func(r int, row []byte) error {
		n := 0
		for j, m := range row {
			n += bits.OnesCount8(m)
			if b.is24 && (bits.OnesCount8(m&15) != 2 || (bits.OnesCount8(m>>4) != 2 && 8*j+4 < b.c)) {
				return b.mask.fail(ErrSparse, fmt.Sprintf("row %d columns %d..%d of a 2:4 mask", r, 8*j, 8*j+7), "two bits in every four", fmt.Sprintf("%08b", m))
			}
		}
		if b.c%8 != 0 && bs > 0 && row[bs-1]>>(b.c%8) != 0 {
			return b.mask.fail(ErrSparse, fmt.Sprint("row ", r, ": bit beyond column"), b.c-1, nil)
		}
		if rows != nil && rows[r] != nnz {
			return offsets.fail(ErrSparse, fmt.Sprint("offset of row ", r), fmt.Sprint(nnz, " by the mask"), rows[r])
		}
		nnz += int64(n)
		return nil
	})
	if err != nil {
		return err
	}
	if !b.is24 {
		b.ptr = append(rows, nnz)
	}
	have := int64(1)
	for _, d := range b.values.shape {
		have *= int64(d)
	}
	want := nnz
	if b.f == nil {
		want = (nnz + 1) / 2
	}
	if have != want {
		return b.values.fail(ErrSparse, "number of values", fmt.Sprint(want, " by the mask"), have)
	}
	return nil
}

func (b *bitmasked) eachMaskRow(f func(r int, row []byte) error) error {
	bs := b.stride()
	step := max(1, chunk/max(1, bs))
	for r := 0; r < b.r; r += step {
		n := min(step, b.r-r)
		err := b.mask.src.view(b.mask.off+int64(r)*int64(bs), n*bs, func(raw []byte) error {
			for i := range n {
				if err := f(r+i, raw[i*bs:(i+1)*bs]); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// hold24 refuses a mask that keeps more than the declared two of four.
func (b *bitmasked) hold24() error {
	return b.eachMaskRow(func(r int, row []byte) error {
		for j, m := range row {
			if bits.OnesCount8(m&15) > 2 || bits.OnesCount8(m>>4) > 2 {
				return b.mask.fail(ErrSparse, fmt.Sprintf("row %d columns %d..%d, declared 2:4", r, 8*j, 8*j+7), "at most two bits in every four", fmt.Sprintf("%08b", m))
			}
		}
		return nil
	})
}
