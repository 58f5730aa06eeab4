package sparse

import "fmt"

// CSR is unstructured sparsity with a column index per nonzero (compressed sparse
// row). Exactly one of Col16 and Col32 is used: 16 bits where C <= 65536.
type CSR struct {
	R, C   int
	RowPtr []int64 // [R+1]
	Col16  []uint16
	Col32  []uint32
	Values Values // [nnz]
	Quant  *Quant
}

// NNZ is the number of stored weights.
func (m *CSR) NNZ() int { return len(m.Col16) + len(m.Col32) }

// Col is the column of stored weight i.
func (m *CSR) Col(i int) int {
	if m.Col32 != nil {
		return int(m.Col32[i])
	}
	return int(m.Col16[i])
}

func (m *CSR) Dims() (int, int) { return m.R, m.C }
func (m *CSR) Layout() Layout   { return LayoutCSR }
func (m *CSR) DType() DType     { return m.Values.Type }

// Bytes implements Matrix.
func (m *CSR) Bytes() Bytes {
	return Bytes{Values: m.Values.Bytes(), Metadata: int64(2*len(m.Col16) + 4*len(m.Col32) + 8*len(m.RowPtr)), Scales: m.Quant.Bytes()}
}

// ReadRows implements Matrix.
func (m *CSR) ReadRows(dst []float32, r0 int) error {
	n, err := checkRows(m.R, m.C, len(dst), r0)
	if err != nil {
		return err
	}
	for i := range n {
		row := dst[i*m.C : (i+1)*m.C]
		clear(row)
		r := r0 + i
		for k := int(m.RowPtr[r]); k < int(m.RowPtr[r+1]); k++ {
			c := m.Col(k)
			x := m.Values.At(k)
			if m.Quant != nil {
				s, z := m.Quant.Scale(r, c, m.C)
				x = (x - z) * s
			}
			row[c] = x
		}
	}
	return nil
}

// Check validates row pointers and that columns ascend inside the row.
func (m *CSR) Check() error {
	nnz := m.NNZ()
	if m.R < 0 || m.C < 0 || len(m.RowPtr) != m.R+1 || m.RowPtr[0] != 0 || m.RowPtr[m.R] != int64(nnz) || (m.Col16 != nil && m.Col32 != nil) {
		return fmt.Errorf("sparse: csr [%d %d]: row pointers do not span 0..%d: %w", m.R, m.C, nnz, ErrFormat)
	}
	if got := m.Values.Len(); got != nnz && !(m.Values.Type == Int4 && got == (nnz+1)&^1) {
		return fmt.Errorf("sparse: csr: want %d values, got %d: %w", nnz, got, ErrFormat)
	}
	for r := range m.R {
		a, b := m.RowPtr[r], m.RowPtr[r+1]
		if a > b || b > int64(nnz) {
			return fmt.Errorf("sparse: csr row %d: row pointer falls from %d to %d: %w", r, a, b, ErrFormat)
		}
		last := -1
		for k := int(a); k < int(b); k++ {
			c := m.Col(k)
			if c <= last || c >= m.C {
				return fmt.Errorf("sparse: csr row %d: column %d after %d of %d: %w", r, c, last, m.C, ErrFormat)
			}
			last = c
		}
	}
	return m.Quant.check(m.Values.Type, m.R, m.C)
}
