package sparse

import (
	"fmt"
	"math/bits"
)

// Bitmask is unstructured sparsity with one bit per weight.
type Bitmask struct {
	R, C   int
	Bits   []byte  // [R, ceil(C/8)], bit j of byte k is column 8k+j
	RowPtr []int64 // [R+1]: where a row's values start
	Values Values  // the weights whose bit is set, row-major
	Quant  *Quant
}

// BitStride is the number of mask bytes of a row.
func (m *Bitmask) BitStride() int { return (m.C + 7) / 8 }

func (m *Bitmask) Dims() (int, int) { return m.R, m.C }
func (m *Bitmask) Layout() Layout   { return LayoutBitmask }
func (m *Bitmask) DType() DType     { return m.Values.Type }

// Bytes implements Matrix.
func (m *Bitmask) Bytes() Bytes {
	return Bytes{Values: m.Values.Bytes(), Metadata: int64(len(m.Bits) + 8*len(m.RowPtr)), Scales: m.Quant.Bytes()}
}

// ReadRows implements Matrix.
func (m *Bitmask) ReadRows(dst []float32, r0 int) error {
	n, err := checkRows(m.R, m.C, len(dst), r0)
	if err != nil {
		return err
	}
	bs := m.BitStride()
	for i := range n {
		row := dst[i*m.C : (i+1)*m.C]
		clear(row)
		r := r0 + i
		k := int(m.RowPtr[r])
		for j, b := range m.Bits[r*bs : (r+1)*bs] {
			for ; b != 0; b &= b - 1 {
				c := 8*j + bits.TrailingZeros8(b)
				x := m.Values.At(k)
				if m.Quant != nil {
					s, z := m.Quant.Scale(r, c, m.C)
					x = (x - z) * s
				}
				row[c] = x
				k++
			}
		}
	}
	return nil
}

// Check validates lengths, row pointers and that no bit lies beyond the columns.
func (m *Bitmask) Check() error {
	bs := m.BitStride()
	if m.R < 0 || m.C < 0 || len(m.Bits) != m.R*bs || len(m.RowPtr) != m.R+1 || m.RowPtr[0] != 0 {
		return fmt.Errorf("sparse: bitmask [%d %d]: want %d mask bytes and %d row pointers, got %d and %d: %w",
			m.R, m.C, m.R*bs, m.R+1, len(m.Bits), len(m.RowPtr), ErrFormat)
	}
	var k int64
	for r := range m.R {
		row := m.Bits[r*bs : (r+1)*bs]
		for _, b := range row {
			k += int64(bits.OnesCount8(b))
		}
		if m.C%8 != 0 && row[bs-1]>>(m.C%8) != 0 {
			return fmt.Errorf("sparse: bitmask row %d: a bit is set beyond column %d: %w", r, m.C-1, ErrFormat)
		}
		if m.RowPtr[r+1] != k {
			return fmt.Errorf("sparse: bitmask row %d: mask has %d bits up to here, row pointer says %d: %w", r, k, m.RowPtr[r+1], ErrFormat)
		}
	}
	if got := int64(m.Values.Len()); got != k && !(m.Values.Type == Int4 && got == (k+1)&^1) {
		return fmt.Errorf("sparse: bitmask: want %d values, got %d: %w", k, got, ErrFormat)
	}
	return m.Quant.check(m.Values.Type, m.R, m.C)
}
