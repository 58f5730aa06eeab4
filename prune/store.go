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
	// Asymmetric gives every scale a zero point.
	Asymmetric bool
	// Nearest rounds every weight by itself. Without it, methods that have the
	// Gram matrix of the inputs let the weights that follow make up for the
	// rounding of the ones before, in the same pass that prunes.
	Nearest bool
}

func (s Store) check() error {
	switch s.DType {
	case 0, sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.Int4:
	default:
		return fmt.Errorf("prune: store as %v: %w", s.DType, sparse.ErrType)
	}
	if s.Group < 0 {
		return fmt.Errorf("prune: store: group of %d columns: %w", s.Group, sparse.ErrShape)
	}
	return nil
}

// recipe says how weights are quantised, if they are.
func (s Store) recipe(kv map[string]string) {
	if s.DType.Quantised() {
		kv["prune.quant"] = fmt.Sprintf("%v group %d asymmetric %v nearest %v", s.DType, s.Group, s.Asymmetric, s.Nearest)
	}
}

// layout chooses the form for the mask at hand.
func (s Store) layout(m sparse.Matrix, p Pattern) (sparse.Layout, error) {
	if s.Layout != 0 {
		return s.Layout, nil
	}
	c, err := sparse.CountZeros(m)
	if err != nil {
		return 0, err
	}
	nm, isNM := p.(NM) // 1:4 holds 2:4, but every second value kept would be a zero
	switch {
	case c.Hold24 && (isNM && 2*nm.Keep >= nm.Of || c.Sparsity() < 0.55):
		return sparse.LayoutNM24, nil
	case c.Sparsity()*s.DType.Bits() > 1.5:
		return sparse.LayoutBitmask, nil
	}
	return sparse.LayoutDense, nil
}

// pack stores w, row-major [rows, cols], whose zeros are final. q has the codes
// where the method has quantised already.
func (s Store) pack(w []float32, q *quantiser, rows, cols int, p Pattern) (sparse.Matrix, error) {
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
	layout, err := s.layout(d, p)
	if err != nil {
		return nil, err
	}
	if s.DType.Quantised() {
		if q == nil {
			q = newQuantiser(s, rows, cols)
			q.nearest(nil, w)
		}
		return q.pack(layout)
	}
	return sparse.Pack(d, layout, s.DType, 0)
}

// finish packs the pruned weights of a matrix into w and returns its report and
// the digest of the mask as stored.
func (s Store) finish(w *model.Weight, f []float32, q *quantiser, p Pattern) (LayerReport, [sha256.Size]byte, error) {
	rows, cols := w.Data.Dims()
	m, err := s.pack(f, q, rows, cols, p)
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
