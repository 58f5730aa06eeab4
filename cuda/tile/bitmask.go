package tile

import (
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/sparse"
)

// Bitmask is an unstructured sparse matrix in the tiles of spmm_bitmask.cuh: 64 x
// 64, one bit a weight in the order of an A fragment, then the values.
type Bitmask struct {
	Type   sparse.DType // F16 or BF16
	R, C   int
	Data   []byte
	Offset []uint32 // [ceil(R/64), ceil(C/64) + 1], in units of 16 bytes
	Max    int      // bytes of the largest tile, rounded up to 64
}

// bitmaskHead is the bytes before a tile's values: 64 words, 16 running counts.
const bitmaskHead = 512 + 32

// PackBitmask stores m's nonzeros in bitmap tiles, rounded to t.
func PackBitmask(m sparse.Matrix, t sparse.DType) (*Bitmask, error) {
	if t != sparse.F16 && t != sparse.BF16 {
		return nil, fmt.Errorf("tile: bitmap tiles of %v: %w", t, ErrForm)
	}
	dense, err := sparse.Read(m)
	if err != nil {
		return nil, err
	}
	b := &Bitmask{Type: t}
	b.R, b.C = m.Dims()
	nm, nk := (b.R+63)/64, (b.C+63)/64
	tiles := make([][]byte, nm*nk)
	parallel(nm, func(mt int) {
		for kt := range nk {
			tiles[mt*nk+kt] = b.tile(dense, mt, kt)
		}
	})
	size := 0
	for i, t := range tiles {
		b.Offset = append(b.Offset, uint32(size/16))
		size += len(t)
		if i%nk == nk-1 {
			b.Offset = append(b.Offset, uint32(size/16))
		}
		b.Max = max(b.Max, (len(t)+63)/64*64)
	}
	b.Data = slices.Concat(tiles...)
	return b, nil
}

// spot is the row and column, inside a tile, of bit n of word w.
func spot(w, n int) (row, col int) {
	s, i, j, lane := w/16, w/4%4, w%4, n/2
	return 16*i + lane/4 + 8*(j%2), 16*s + 8*(j/2) + lane%4*2 + n%2
}

// tile packs one tile.
func (b *Bitmask) tile(dense []float32, mt, kt int) []byte {
	out := make([]byte, bitmaskHead, bitmaskHead+64*64)
	half := sparse.F32ToF16
	if b.Type == sparse.BF16 {
		half = sparse.F32ToBF16
	}
	for w := range 64 {
		if w%4 == 0 {
			binary.LittleEndian.PutUint16(out[512+w/4*2:], uint16((len(out)-bitmaskHead)/2))
		}
		var bits uint64
		for n := range 64 {
			row, col := spot(w, n)
			r, c := mt*64+row, kt*64+col
			if r >= b.R || c >= b.C || dense[r*b.C+c] == 0 {
				continue
			}
			bits |= 1 << n
			out = binary.LittleEndian.AppendUint16(out, half(dense[r*b.C+c]))
		}
		binary.LittleEndian.PutUint64(out[w*8:], bits)
	}
	return append(out, make([]byte, -len(out)&15)...)
}

// Read unpacks to dense float32 rows.
func (b *Bitmask) Read() []float32 {
	out := make([]float32, b.R*b.C)
	nk := (b.C + 63) / 64
	for mt := range (b.R + 63) / 64 {
		for kt := range nk {
			tile := b.Data[int(b.Offset[mt*(nk+1)+kt])*16:]
			at := bitmaskHead
			for w := range 64 {
				bits := binary.LittleEndian.Uint64(tile[w*8:])
				for n := range 64 {
					if bits>>n&1 == 0 {
						continue
					}
					row, col := spot(w, n)
					half := binary.LittleEndian.Uint16(tile[at:])
					at += 2
					v := sparse.F16ToF32(half)
					if b.Type == sparse.BF16 {
						v = sparse.BF16ToF32(half)
					}
					out[(mt*64+row)*b.C+kt*64+col] = v
				}
			}
		}
	}
	return out
}
