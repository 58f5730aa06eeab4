package loader

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// sparseProto is a SparseTensorProto: values and where they stand. Positions are
// validated before anything is decoded by them (CVE-2025-62164 is what happens
// otherwise): inside the shape, ascending, each once.
type sparseProto struct {
	name   string
	at     int64
	dims   []int
	values *model.Tensor
	index  []int // position of each value in the dense tensor, row-major
}

func (d *onnx) sparseInitializer(x field) error {
	s, err := d.sparseTensor(x)
	if err != nil {
		return err
	}
	id, err := d.write(s.name, "initializer", x.at)
	if err != nil {
		return err
	}
	v := &d.g.Values[id]
	if err := declared(*v, s.values.Elem, s.dims, x.at); err != nil {
		return err
	}
	d.sparse[id] = s
	v.Elem, v.Shape = s.values.Elem, s.dims
	return nil
}

func (d *onnx) sparseTensor(x field) (*sparseProto, error) {
	s := &sparseProto{at: x.at}
	var values, indices *tensorProto
	err := x.body.each(func(y field) (err error) {
		switch y.num {
		case 1, 2:
			if err = y.want(protowire.BytesType); err != nil {
				return err
			}
			p, err := d.tensor(y.body)
			if err != nil {
				return err
			}
			if y.num == 1 {
				values = p
			} else {
				indices = p
			}
		case 3:
			return y.numbers(protowire.VarintType, func(v uint64) error {
				if v == 0 || v > math.MaxInt32*1024 || len(s.dims) >= maxRank {
					return fault(ErrShape, "", y.at, "dimension of a sparse tensor", "1 or more", int64(v))
				}
				s.dims = append(s.dims, int(v))
				return nil
			})
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	if values == nil || indices == nil || len(s.dims) == 0 {
		return nil, fault(ErrFormat, "", x.at, "sparse tensor", "values, indices and dims", nil)
	}
	name := values.name
	s.name = name
	if _, err := model.Elements(values.elem, s.dims); err != nil {
		return nil, fault(ErrShape, name, x.at, "shape of a sparse tensor", "a product in memory", fmt.Sprint(s.dims))
	}
	v, err := d.decode(values)
	if err != nil {
		return nil, err
	}
	if len(v.Shape) != 1 {
		return nil, fault(ErrSparse, name, x.at, "values of a sparse tensor", "[nnz]", fmt.Sprint(v.Shape))
	}
	idx, err := d.decode(indices)
	if err != nil {
		return nil, named(err, name)
	}
	at, ok := idx.Data.([]int64)
	if !ok {
		return nil, fault(ErrSparse, name, x.at, "type of sparse indices", "int64", idx.Elem)
	}
	if s.index, err = s.positions(name, at, idx.Shape, v.Len()); err != nil {
		return nil, err
	}
	s.values = v
	return s, nil
}

// positions turns linear ([nnz]) or coordinate ([nnz, rank]) indices into checked
// positions.
func (s *sparseProto) positions(name string, at []int64, shape []int, nnz int) ([]int, error) {
	rank := len(s.dims)
	linear := len(shape) == 1 && shape[0] == nnz
	coords := len(shape) == 2 && shape[0] == nnz && shape[1] == rank
	if !linear && !coords {
		return nil, fault(ErrSparse, name, s.at, "shape of sparse indices", fmt.Sprintf("[%d] or [%d %d]", nnz, nnz, rank), fmt.Sprint(shape))
	}
	total := 1
	for _, n := range s.dims {
		total *= n
	}
	out := make([]int, nnz)
	last := -1
	for i := range out {
		p := 0
		if linear {
			if at[i] < 0 || at[i] >= int64(total) {
				return nil, fault(ErrSparse, name, s.at, fmt.Sprint("sparse index ", i), fmt.Sprint("0 to ", total-1), at[i])
			}
			p = int(at[i])
		} else {
			for k, n := range s.dims {
				c := at[i*rank+k]
				if c < 0 || c >= int64(n) {
					return nil, fault(ErrSparse, name, s.at, fmt.Sprint("sparse index ", i, " of dimension ", k), fmt.Sprint("0 to ", n-1), c)
				}
				p = p*n + int(c)
			}
		}
		if p <= last {
			return nil, fault(ErrSparse, name, s.at, fmt.Sprint("sparse index ", i), fmt.Sprint("more than the last, ", last), p)
		}
		out[i], last = p, p
	}
	return out, nil
}

// dense unpacks a sparse tensor.
func (s *sparseProto) dense(d *onnx) (*model.Tensor, error) {
	n, _ := model.Elements(s.values.Elem, s.dims)
	if err := d.f.spend(int64(n)*int64(s.values.Elem.Size()), s.name, s.at); err != nil {
		return nil, err
	}
	t, err := model.NewTensor(s.values.Elem, s.dims...)
	if err != nil {
		return nil, err
	}
	switch v := s.values.Data.(type) {
	case []float32:
		scatter(t.Data, v, s.index)
	case []float64:
		scatter(t.Data, v, s.index)
	case []int8:
		scatter(t.Data, v, s.index)
	case []uint8:
		scatter(t.Data, v, s.index)
	case []int16:
		scatter(t.Data, v, s.index)
	case []uint16:
		scatter(t.Data, v, s.index)
	case []int32:
		scatter(t.Data, v, s.index)
	case []uint32:
		scatter(t.Data, v, s.index)
	case []int64:
		scatter(t.Data, v, s.index)
	case []uint64:
		scatter(t.Data, v, s.index)
	case []bool:
		scatter(t.Data, v, s.index)
	case []string:
		scatter(t.Data, v, s.index)
	}
	return t, nil
}

func scatter[T any](dst any, v []T, index []int) {
	out := dst.([]T)
	for i, p := range index {
		out[p] = v[i]
	}
}

// matrix is the tensor as a CSR matrix of rows x cols, its first dimension against
// the others; transposed, the other way round (of a matrix only). nil: not of a type that
// weights have.
func (s *sparseProto) matrix(d *onnx, transposed bool) (sparse.Matrix, error) {
	vals := s.values.Data
	var v sparse.Values
	switch s.values.Elem {
	case model.ElemF32:
		v = sparse.Values{Type: sparse.F32, F32: vals.([]float32)}
	case model.ElemF16:
		v = sparse.Values{Type: sparse.F16, U16: vals.([]uint16)}
	case model.ElemBF16:
		v = sparse.Values{Type: sparse.BF16, U16: vals.([]uint16)}
	default:
		return nil, nil
	}
	rows := s.dims[0]
	cols := 1
	for _, n := range s.dims[1:] {
		cols *= n
	}
	outR, outC := rows, cols
	if transposed {
		outR, outC = cols, rows
	}
	if err := d.f.spend(int64(8*(outR+1)+12*len(s.index)), s.name, s.at); err != nil {
		return nil, err
	}
	m := &sparse.CSR{R: outR, C: outC, RowPtr: make([]int64, outR+1)}
	small := outC <= 1<<16
	if small {
		m.Col16 = make([]uint16, len(s.index))
	} else {
		m.Col32 = make([]uint32, len(s.index))
	}
	out, err := sparse.MakeValues(v.Type, len(s.index))
	if err != nil {
		return nil, err
	}
	place := func(p int) (r, c int) {
		r, c = p/cols, p%cols
		if transposed {
			r, c = c, r
		}
		return r, c
	}
	for _, p := range s.index {
		r, _ := place(p)
		m.RowPtr[r+1]++
	}
	for r := range outR {
		m.RowPtr[r+1] += m.RowPtr[r]
	}
	next := make([]int64, outR)
	copy(next, m.RowPtr)
	for i, p := range s.index { // ascending positions give ascending columns either way
		r, c := place(p)
		k := next[r]
		next[r]++
		if small {
			m.Col16[k] = uint16(c)
		} else {
			m.Col32[k] = uint32(c)
		}
		if v.Type == sparse.F32 {
			out.F32[k] = v.F32[i]
		} else {
			out.U16[k] = v.U16[i]
		}
	}
	m.Values = out
	return m, m.Check()
}
