package prune

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Store is the form pruned matrices are kept in.
type Store struct {
	Layout sparse.Layout // 0: NM24 where 2:4 holds, else Bitmask where it is smaller than dense
	DType  sparse.DType  // 0: F16
	Group  int           // columns per scale of Int8 and Int4; 0: the row
}

// pack stores w, row-major [rows, cols], whose zeros are final.
func (s Store) pack(w []float32, rows, cols int, p Pattern) (sparse.Matrix, error) {
	if s.DType == 0 {
		s.DType = sparse.F16
	}
	d := sparse.NewDense(rows, cols, w)
	if s.DType == sparse.F16 {
		for i, x := range w {
			if h := sparse.F32ToF16(x); h&0x7fff == 0x7c00 {
				return nil, fmt.Errorf("row %d column %d: %g is beyond f16, store f32 or bf16: %w", i/cols, i%cols, x, ErrWeight)
			}
		}
	}
	if s.Layout == 0 {
		c, err := sparse.CountZeros(d)
		if err != nil {
			return nil, err
		}
		_, nm := p.(NM)
		switch {
		case c.Hold24 && (nm || c.Sparsity() < 0.55):
			s.Layout = sparse.LayoutNM24
		case c.Sparsity()*s.DType.Bits() > 1.5:
			s.Layout = sparse.LayoutBitmask
		default:
			s.Layout = sparse.LayoutDense
		}
	}
	return sparse.Pack(d, s.Layout, s.DType, s.Group)
}

// finish packs the pruned weights of a matrix into w and returns its report and
// the digest of the mask as stored.
func (s Store) finish(w *model.Weight, f []float32, p Pattern) (LayerReport, [sha256.Size]byte, error) {
	rows, cols := w.Data.Dims()
	m, err := s.pack(f, rows, cols, p)
	if err != nil {
		return LayerReport{}, [sha256.Size]byte{}, fmt.Errorf("prune: %q: %w", w.Name, err)
	}
	zeros, sum, err := digest(m)
	if err != nil {
		return LayerReport{}, sum, fmt.Errorf("prune: %q: %w", w.Name, err)
	}
	w.Data = m
	return LayerReport{Name: w.Name, Rows: rows, Cols: cols, Sparsity: float64(zeros) / float64(max(1, rows*cols)),
		Bytes: m.Bytes().Total(), Layout: m.Layout(), DType: m.DType()}, sum, nil
}

// digest counts the zeros of a matrix and hashes its mask: SHA-256 of the bits,
// 64 columns to a little-endian word, rows padded to whole words.
func digest(m sparse.Matrix) (zeros int64, sum [sha256.Size]byte, err error) {
	k, err := sparse.MaskOf(m)
	if err != nil {
		return 0, sum, err
	}
	h := sha256.New()
	writeMask(h, k)
	h.Sum(sum[:0])
	return int64(k.R)*int64(k.C) - int64(k.Count()), sum, nil
}

func writeMask(h hash.Hash, k *sparse.Mask) {
	buf := make([]byte, 0, 1<<12)
	for _, x := range k.Bits {
		if buf = binary.LittleEndian.AppendUint64(buf, x); len(buf) == cap(buf) {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	h.Write(buf)
}
