package sparse

import (
	"fmt"
	"math/bits"
)

// Mask says which weights of a matrix are kept: bit c of row r.
type Mask struct {
	R, C int
	Bits []uint64 // [R, ceil(C/64)], bit j of word k is column 64k+j
}

// NewMask keeps nothing.
func NewMask(rows, cols int) *Mask {
	return &Mask{R: rows, C: cols, Bits: make([]uint64, rows*((cols+63)/64))}
}

// Row is the words of row r.
func (m *Mask) Row(r int) []uint64 {
	w := (m.C + 63) / 64
	return m.Bits[r*w : (r+1)*w]
}

// Keep marks a weight as kept.
func (m *Mask) Keep(r, c int) { m.Row(r)[c/64] |= 1 << (c % 64) }

// Drop marks a weight as pruned.
func (m *Mask) Drop(r, c int) { m.Row(r)[c/64] &^= 1 << (c % 64) }

// Kept reports whether a weight is kept.
func (m *Mask) Kept(r, c int) bool { return m.Row(r)[c/64]>>(c%64)&1 != 0 }

// Count is the number of kept weights.
func (m *Mask) Count() int {
	n := 0
	for _, w := range m.Bits {
		n += bits.OnesCount64(w)
	}
	return n
}

// Apply zeroes the pruned weights of w, row-major [R, C].
func (m *Mask) Apply(w []float32) error {
	if len(w) != m.R*m.C {
		return fmt.Errorf("sparse: mask [%d %d] applied to %d weights: %w", m.R, m.C, len(w), ErrShape)
	}
	for r := range m.R {
		row := w[r*m.C : (r+1)*m.C]
		for k, b := range m.Row(r) {
			seg := row[64*k : min(64*k+64, m.C)]
			if b == ^uint64(0) {
				continue
			}
			for j := range seg {
				if b>>j&1 == 0 {
					seg[j] = 0
				}
			}
		}
	}
	return nil
}

// MaskOf keeps exactly the nonzero weights of m.
func MaskOf(m Matrix) (*Mask, error) {
	rows, cols := m.Dims()
	k := NewMask(rows, cols)
	return k, EachRow(m, func(r int, row []float32) error {
		for c, x := range row {
			if x != 0 {
				k.Keep(r, c)
			}
		}
		return nil
	})
}
