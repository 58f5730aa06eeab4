package sparse

import "fmt"

// NM24 is 2:4 structured sparsity: of every group of 4 neighbouring columns of a
// row exactly 2 are stored. A group with fewer than 2 nonzeros stores explicit
// zeros, so that its index pair is legal for sparse tensor cores. The last group
// of a row whose length is no multiple of 4 refers only to columns that exist,
// except that a group of one column stores its second value as zero at index 1.
type NM24 struct {
	R, C   int
	Values Values // [R, 2*Groups]; Int4 rows start on whole bytes
	// Meta is [R, ceil(Groups/2)] bytes: one nibble a group, low nibble first,
	// nibble = i0 | i1<<2 with i0 < i1 the kept positions: 4, 8, 9, 12, 13 or 14
	// (PTX ISA 9.7.14.6; the same order as CUTLASS before its reordering).
	Meta  []byte
	Quant *Quant
}

// Groups is the number of groups of 4 columns in a row.
func (m *NM24) Groups() int { return (m.C + 3) / 4 }

// MetaStride is the number of metadata bytes of a row.
func (m *NM24) MetaStride() int { return (m.Groups() + 1) / 2 }

// Nibble is the index pair of group g of row r: i0 | i1<<2.
func (m *NM24) Nibble(r, g int) byte {
	return m.Meta[r*m.MetaStride()+g/2] >> (4 * (g & 1)) & 15
}

func (m *NM24) Dims() (int, int) { return m.R, m.C }
func (m *NM24) Layout() Layout   { return LayoutNM24 }
func (m *NM24) DType() DType     { return m.Values.Type }

// Bytes implements Matrix.
func (m *NM24) Bytes() Bytes {
	return Bytes{Values: m.Values.Bytes(), Metadata: int64(len(m.Meta)), Scales: m.Quant.Bytes()}
}

// ReadRows implements Matrix.
func (m *NM24) ReadRows(dst []float32, r0 int) error {
	n, err := checkRows(m.R, m.C, len(dst), r0)
	if err != nil {
		return err
	}
	ng := m.Groups()
	ld := stride(m.Values.Type, 2*ng)
	for i := range n {
		row := dst[i*m.C : (i+1)*m.C]
		clear(row)
		r := r0 + i
		for g := range ng {
			nib := m.Nibble(r, g)
			for k, p := range [2]int{int(nib & 3), int(nib >> 2)} {
				if c := 4*g + p; c < m.C {
					x := m.Values.At(r*ld + 2*g + k)
					if m.Quant != nil {
						s, z := m.Quant.Scale(r, c, m.C)
						x = (x - z) * s
					}
					row[c] = x
				}
			}
		}
	}
	return nil
}

// Check validates lengths and every index pair, so that kernels may trust them.
func (m *NM24) Check() error {
	ng := m.Groups()
	if m.R < 0 || m.C < 0 || m.Values.Len() < m.R*stride(m.Values.Type, 2*ng) || len(m.Meta) != m.R*m.MetaStride() {
		return fmt.Errorf("sparse: 2:4 [%d %d]: want %d values and %d metadata bytes, got %d and %d: %w",
			m.R, m.C, m.R*2*ng, m.R*m.MetaStride(), m.Values.Len(), len(m.Meta), ErrFormat)
	}
	for r := range m.R {
		for g := range ng {
			if i0, i1 := m.Nibble(r, g)&3, m.Nibble(r, g)>>2; i0 >= i1 {
				return fmt.Errorf("sparse: 2:4 row %d group %d: index pair %d,%d does not ascend: %w", r, g, i0, i1, ErrFormat)
			}
		}
	}
	return m.Quant.check(m.Values.Type, m.R, m.C)
}

// Keep24 chooses the 2 positions of a group that a 2:4 form stores: the nonzero
// ones, filled up with zeros so that the pair ascends. It reports false when more
// than 2 are nonzero. The choice for fewer than 2 follows CUTLASS: none and only 2
// or 3 give (2,3), only 0 gives (0,2), only 1 gives (1,2).
func Keep24(g []float32) (i0, i1 int, ok bool) {
	var idx [5]int
	n := 0
	for i, v := range g {
		if v != 0 {
			idx[n] = i
			n++
		}
	}
	switch n {
	case 0:
		i0, i1 = 2, 3
	case 1:
		switch idx[0] {
		case 0:
			i0, i1 = 0, 2
		case 1:
			i0, i1 = 1, 2
		default:
			i0, i1 = 2, 3
		}
	default:
		i0, i1 = idx[0], idx[1]
	}
	return i0, i1, n <= 2
}
