package loader

import (
	"fmt"
	"io"

	"github.com/sparserun/sparserun/sparse"
)

// formatPacked is the one form of our own: bitmask with int4 codes, two a byte
// (docs/format.md). compressed-tensors has none for sparse int4.
const formatPacked = "sparserun-bitmask-int4"

// pendingSparse is a sparse matrix whose form waits for all others to be known:
// a file of compressed-tensors has one sparse format.
type pendingSparse struct {
	mod string
	m   sparse.Matrix
}

// planSparse adds a sparse matrix under compressed-tensors' names.
func (s *saver) planSparse(mod string, m sparse.Matrix) error {
	s.pending = append(s.pending, pendingSparse{mod, m})
	return nil
}

// finish gives the sparse matrices their tensors: sparse-24-bitmask if all are
// 2:4 over whole groups, else sparse-bitmask.
func (s *saver) finish() error {
	s.only24 = len(s.pending) > 0
	for _, p := range s.pending {
		_, cols := p.m.Dims()
		s.only24 = s.only24 && p.m.Layout() == sparse.LayoutNM24 && cols%4 == 0
	}
	for _, p := range s.pending {
		if err := s.finishOne(p); err != nil {
			return err
		}
	}
	return nil
}

func (s *saver) finishOne(p pendingSparse) error {
	m, err := sparse.Load(p.m) // dropped again: one matrix in memory at a time
	if err != nil {
		return err
	}
	v, q, err := partsOf(m)
	if err != nil {
		return err
	}
	rows, cols := m.Dims()
	nnz := 0
	for r := range rows {
		eachKept(m, r, func(_, _ int) { nnz++ })
	}
	s.kept += int64(nnz)
	s.sparse = append(s.sparse, p.mod)

	name, t, shape := p.mod+".compressed", v.Type, []int{nnz}
	if s.only24 {
		shape = []int{rows, cols / 2}
	}
	switch {
	case q == nil:
		t = s.opts.DType
	case q.Zeros != nil && t != sparse.Int4:
		return errAsymmetric(p.mod)
	case t == sparse.Int4:
		s.quantised(p.mod, scheme{bits: 4, format: formatPacked}, q, rows, cols)
		name, shape = p.mod+".compressed_int4", []int{(nnz + 1) / 2}
	case t == sparse.FP8:
		s.quantised(p.mod, scheme{bits: 8, float: true, format: "float-quantized"}, q, rows, cols)
	default:
		s.quantised(p.mod, scheme{bits: 8, format: "int-quantized"}, q, rows, cols)
	}
	dtype := safeNames[t]
	if t == sparse.Int4 {
		dtype = "U8"
	}
	s.add(name, dtype, shape, p.reload(func(w io.Writer, m sparse.Matrix) error { return s.values(w, name, m, t) }))
	s.add(p.mod+".bitmask", "U8", []int{rows, (cols + 7) / 8}, p.reload(writeMask))
	if s.only24 {
		s.shape(p.mod+".shape", []int{2, 1}, rows, cols)
		return nil
	}
	s.shape(p.mod+".shape", []int{2}, rows, cols)
	s.add(p.mod+".row_offsets", "I64", []int{rows}, p.reload(writeOffsets))
	return nil
}

// errAsymmetric: compressed-tensors would give a pruned weight the code 0, which
// is not zero where there is a zero point.
func errAsymmetric(mod string) error {
	return fault(ErrUnsupported, mod, -1, "sparse weight with zero points", "a symmetric one", nil)
}

// reload gives f the matrix in memory when its turn to be written comes.
func (p pendingSparse) reload(f func(io.Writer, sparse.Matrix) error) func(io.Writer) error {
	return func(w io.Writer) error {
		m, err := sparse.Load(p.m)
		if err != nil {
			return err
		}
		return f(w, m)
	}
}

// partsOf is a sparse form's values and scales.
func partsOf(m sparse.Matrix) (sparse.Values, *sparse.Quant, error) {
	switch m := m.(type) {
	case *sparse.NM24:
		return m.Values, m.Quant, m.Check()
	case *sparse.Bitmask:
		return m.Values, m.Quant, m.Check()
	case *sparse.CSR:
		return m.Values, m.Quant, m.Check()
	}
	return sparse.Values{}, nil, fault(ErrUnsupported, "", -1, "form to save", "NM24, Bitmask or CSR", fmt.Sprintf("%T", m))
}

// eachKept calls f with the column of every stored weight of row r, ascending,
// and the place of its value.
func eachKept(m sparse.Matrix, r int, f func(c, k int)) {
	switch m := m.(type) {
	case *sparse.NM24:
		ng := m.Groups()
		for g := range ng {
			nib := m.Nibble(r, g)
			k := r*2*ng + 2*g
			f(4*g+int(nib&3), k)
			if c := 4*g + int(nib>>2); c < m.C { // a last group of one column stores a second value that is none
				f(c, k+1)
			}
		}
	case *sparse.Bitmask:
		bs, k := m.BitStride(), int(m.RowPtr[r])
		for j, b := range m.Bits[r*bs : (r+1)*bs] {
			for i := range 8 {
				if b>>i&1 != 0 {
					f(8*j+i, k)
					k++
				}
			}
		}
	case *sparse.CSR:
		for k := int(m.RowPtr[r]); k < int(m.RowPtr[r+1]); k++ {
			f(m.Col(k), k)
		}
	}
}

// values writes the stored weights in row-major order as type t.
func (s *saver) values(w io.Writer, name string, m sparse.Matrix, t sparse.DType) error {
	v, _, err := partsOf(m)
	if err != nil {
		return err
	}
	rows, _ := m.Dims()
	var row []float32
	var buf []byte
	odd := -1 // the int4 code that waits for its neighbour
	for r := range rows {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		buf, row = buf[:0], row[:0]
		eachKept(m, r, func(_, k int) {
			switch t {
			case sparse.Int8, sparse.FP8:
				buf = append(buf, v.Q[k])
			case sparse.Int4:
				u := int(v.Q[k/2]>>(4*(k&1))) & 15
				if odd < 0 {
					odd = u
				} else {
					buf, odd = append(buf, byte(odd|u<<4)), -1
				}
			default:
				row = append(row, v.At(k))
			}
		})
		bad := -1
		if len(row) > 0 {
			buf, bad = appendNumbers(buf, row, t)
		}
		if bad >= 0 {
			return fault(ErrNonFinite, name, -1, fmt.Sprintf("row %d as %v", r, t), "a finite number (bf16 and f32 hold larger ones)", row[bad])
		}
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	if odd >= 0 {
		_, err = w.Write([]byte{byte(odd)})
	}
	return err
}

// writeMask writes one bit per weight, least significant bit first.
func writeMask(w io.Writer, m sparse.Matrix) error {
	rows, cols := m.Dims()
	buf := make([]byte, (cols+7)/8)
	for r := range rows {
		clear(buf)
		eachKept(m, r, func(c, _ int) { buf[c/8] |= 1 << (c % 8) })
		if _, err := w.Write(buf); err != nil {
			return err
		}
	}
	return nil
}

// writeOffsets writes where each row's values begin.
func writeOffsets(w io.Writer, m sparse.Matrix) error {
	rows, _ := m.Dims()
	buf := make([]byte, 8*rows)
	n := uint64(0)
	for r := range rows {
		for i := range 8 {
			buf[8*r+i] = byte(n >> (8 * i))
		}
		eachKept(m, r, func(_, _ int) { n++ })
	}
	_, err := w.Write(buf)
	return err
}
