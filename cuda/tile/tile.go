// Package tile packs weights for the tensor-core kernels: tiles of 64 rows by 128
// bytes of dense row, stored in the order in which the lanes of a warp read them.
// The layout is written out at the head of cuda/kernels/tile.cuh, which reads it,
// and cuda/kernels/tile_pack.cuh, its twin on the device.
//
// Rows and columns beyond the matrix are zero, so that every width works.
package tile

import (
	"errors"
	"fmt"

	"github.com/sparserun/sparserun/sparse"
)

// ErrForm is returned for a matrix that no tile form holds.
var ErrForm = errors.New("no tile form for it")

// Rows is the number of rows of a tile.
const Rows = 64

// Form is a tile form: which weights are stored, and in which type.
type Form struct {
	NM24 bool
	Type sparse.DType // F16, BF16, Int8, FP8 or Int4
}

// Columns is the number of dense columns of a tile: 128 bytes of activations,
// which for Int4 weights are f16.
func (f Form) Columns() int {
	if f.narrow() {
		return 128
	}
	return 64
}

func (f Form) narrow() bool { return f.Type == sparse.Int8 || f.Type == sparse.FP8 }

// stored is the number of stored elements of a tile's row.
func (f Form) stored() int {
	if f.NM24 {
		return f.Columns() / 2
	}
	return f.Columns()
}

// metaStart and scaleStart are byte offsets inside a tile; where a part is absent
// it starts where the next one does.
func (f Form) metaStart() int {
	n := Rows * f.stored()
	switch f.Type {
	case sparse.Int4:
		return n / 2
	case sparse.F16, sparse.BF16:
		return 2 * n
	}
	return n
}

func (f Form) scaleStart() int {
	if f.NM24 {
		return f.metaStart() + Rows*f.Columns()/16*2
	}
	return f.metaStart()
}

// Bytes is the size of a tile.
func (f Form) Bytes() int {
	if f.Type == sparse.Int4 {
		return f.scaleStart() + Rows*2
	}
	return f.scaleStart()
}

// Counts is how many tiles a matrix has down and across.
func (f Form) Counts(out, in int) (mt, kt int) {
	return (out + Rows - 1) / Rows, (in + f.Columns() - 1) / f.Columns()
}

// Size is the bytes of a packed matrix.
func (f Form) Size(out, in int) int {
	mt, kt := f.Counts(out, in)
	return mt * kt * f.Bytes()
}

// Start is the byte offset of tile (mt, kt): two row blocks share a band, in which
// the tiles of one k-tile are neighbours.
func (f Form) Start(mt, kt, out, in int) int {
	nm, nk := f.Counts(out, in)
	band := mt / 2
	return (band*2*nk + kt*min(2, nm-2*band) + mt%2) * f.Bytes()
}

// lane splits a row of a tile into m16 block, lane group and half.
func split(row int) (i, g, half int) { return row / 16, row % 8, row / 8 % 2 }

// Value is where a tile keeps stored element c of a row: the byte, and for Int4 the
// bit shift of its nibble.
func (f Form) Value(row, c int) (off, shift int) {
	i, g, half := split(row)
	if f.Type == sparse.Int4 {
		s, e := c/16, c%16
		j, t, odd := e/8*2+half, e%8/2, e%2
		nibble := j + 4*odd
		return s*512 + (4*g+t)*16 + 4*i + nibble/2, 4 * (nibble % 2)
	}
	size := 2
	if f.narrow() {
		size = 1
	}
	b := c * size
	s, b := b/32, b%32
	j, t := b/16*2+half, b%16/4
	return ((s*4+i)*32+4*g+t)*16 + 4*j + b%4, 0
}

// Meta is where a tile keeps the metadata word (2 bytes) of columns 16w..16w+15.
func (f Form) Meta(row, w int) int {
	i, g, half := split(row)
	if f.narrow() {
		s, t := w/4, w%4/2*2+half
		return f.metaStart() + s*512 + (4*g+t)*16 + 4*i + 2*(w%2)
	}
	s, t := w/2, 2*(i%2)+w%2
	return f.metaStart() + s*256 + (4*g+t)*8 + i/2*4 + 2*half
}

// Scale is where an Int4 tile keeps the f16 scale of a row.
func (f Form) Scale(row int) int {
	i, g, half := split(row)
	return f.scaleStart() + (g*4+i)*4 + 2*half
}

// FormOf is the tile form of a canonical matrix.
func FormOf(m sparse.Matrix) (Form, error) {
	f := Form{NM24: m.Layout() == sparse.LayoutNM24, Type: m.DType()}
	switch f.Type {
	case sparse.F16, sparse.BF16, sparse.Int8, sparse.FP8, sparse.Int4:
		if f.NM24 || m.Layout() == sparse.LayoutDense {
			return f, nil
		}
	}
	return f, fmt.Errorf("tile: layout %v, type %v: %w", m.Layout(), m.DType(), ErrForm)
}
