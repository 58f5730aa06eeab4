package cuda

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/sparserun/sparserun/sparse"
)

// weight is a Linear's weight in device memory: in the row-major forms of
// kernels/weights.cuh and spmv_csr.cuh, or in tensor-core tiles.
type weight struct {
	layout    sparse.Layout
	t         sparse.DType
	rows, in  int
	ld        int  // elements from row to row of values: ldw, ldv
	ldm       int  // uint16 words of metadata a row (nm24)
	lds       int  // scales a row (int4)
	shift     int  // log2 of the columns of a scale (int4)
	colBits   int  // csr
	tiled     bool // values in tiles; metadata, and int4's scales, are inside
	kt        int  // tiles across
	maxTile   int  // bytes of the largest bitmap tile
	values    Ptr
	meta      Ptr // nm24 metadata, csr columns, where bitmap tiles start
	rowptr    Ptr // csr
	scale     Ptr // int8: f32 a row; int4: f16 a group
	bytes     sparse.Bytes
	nonzeros  int64
	addresses []Ptr
}

// elementBits of stored values; the device knows only these.
func elementBits(t sparse.DType) int { return int(t.Bits()) }

func up(n, to int) int { return (n + to - 1) / to * to }

// padding is the multiple of dense columns that a row is padded to, so that one
// lane may read 16 bytes of values at a time.
func padding(l sparse.Layout, t sparse.DType) int {
	n := 128 / elementBits(t) // values in 16 bytes
	if l == sparse.LayoutNM24 {
		switch n *= 2; t {
		case sparse.F32:
			n = 16
		}
	}
	return n
}

// upload packs m in the layout and type of the plan and copies it to the device,
// dense rows padded to a multiple of pad columns.
func (p *program) upload(m sparse.Matrix, l sparse.Layout, t sparse.DType, group, pad int) (*weight, error) {
	packed, err := sparse.Pack(m, l, t, group)
	if err != nil {
		return nil, err
	}
	rows, in := m.Dims()
	w := &weight{layout: l, t: t, rows: rows, in: in, bytes: packed.Bytes()}
	var q *sparse.Quant
	switch x := packed.(type) {
	case *sparse.Dense:
		q = x.Quant
		w.ld = up(in, pad)
		w.nonzeros = int64(rows) * int64(in)
		err = p.put(w, &w.values, padRows(x.Values, rows, in, w.ld))
	case *sparse.NM24:
		q = x.Quant
		wide := up(in, pad)
		w.ld, w.ldm = wide/2, wide/16
		w.nonzeros = int64(rows) * int64(2*x.Groups())
		if err = p.put(w, &w.values, padRows(x.Values, rows, 2*x.Groups(), w.ld)); err == nil {
			err = p.put(w, &w.meta, padMeta(x, w.ldm))
		}
	case *sparse.CSR:
		q = x.Quant
		w.nonzeros = int64(x.NNZ())
		err = p.putCSR(w, x)
	default:
		err = fmt.Errorf("cuda: layout %v: %w", l, sparse.ErrType)
	}
	if err == nil && q != nil {
		err = p.putScales(w, q)
	}
	if err != nil {
		return nil, err
	}
	return w, nil
}

// put allocates, copies and remembers the address for Close.
func (p *program) put(w *weight, at *Ptr, b []byte) error {
	if len(b) == 0 {
		b = make([]byte, 16)
	}
	a, err := p.d.Alloc(int64(len(b)))
	if err != nil {
		return err
	}
	*at = a
	if w != nil {
		w.addresses = append(w.addresses, a)
	}
	p.held = append(p.held, a)
	p.deviceBytes += int64(len(b))
	return p.d.HtoD(a, b)
}

// padRows copies rows of n values to a stride of ld values, zeros (int4: code 8) between.
func padRows(v sparse.Values, rows, n, ld int) []byte {
	bits := elementBits(v.Type)
	out := make([]byte, rows*ld*bits/8)
	switch v.Type {
	case sparse.F32:
		for r := range rows {
			for c, x := range v.F32[r*n : (r+1)*n] {
				binary.LittleEndian.PutUint32(out[4*(r*ld+c):], math.Float32bits(x))
			}
		}
	case sparse.F16, sparse.BF16:
		for r := range rows {
			for c, x := range v.U16[r*n : (r+1)*n] {
				binary.LittleEndian.PutUint16(out[2*(r*ld+c):], x)
			}
		}
	case sparse.Int4:
		for i := range out {
			out[i] = 0x88
		}
		stride := (n + 1) / 2
		for r := range rows {
			copy(out[r*ld/2:], v.Q[r*stride:(r+1)*stride])
		}
	default:
		for r := range rows {
			copy(out[r*ld:], v.Q[r*n:(r+1)*n])
		}
	}
	return out
}

// padMeta copies metadata rows to ldm uint16 words; padded groups take nibble 4.
func padMeta(m *sparse.NM24, ldm int) []byte {
	out := make([]byte, m.R*ldm*2)
	for i := range out {
		out[i] = 0x44
	}
	for r := range m.R {
		row := out[r*ldm*2:]
		for g := range m.Groups() {
			s := 4 * (g & 1)
			row[g/2] = row[g/2]&^(15<<s) | m.Nibble(r, g)<<s
		}
	}
	return out
}

func (p *program) putCSR(w *weight, m *sparse.CSR) error {
	ptr := make([]byte, 4*len(m.RowPtr))
	for i, n := range m.RowPtr {
		if n > math.MaxUint32 {
			return fmt.Errorf("cuda: csr of %d weights: %w", n, sparse.ErrShape)
		}
		binary.LittleEndian.PutUint32(ptr[4*i:], uint32(n))
	}
	var cols []byte
	w.colBits = 16
	for _, c := range m.Col16 {
		cols = binary.LittleEndian.AppendUint16(cols, c)
	}
	if m.Col32 != nil {
		w.colBits = 32
		for _, c := range m.Col32 {
			cols = binary.LittleEndian.AppendUint32(cols, c)
		}
	}
	n := m.NNZ()
	if err := p.put(w, &w.values, padRows(m.Values, 1, n, n)); err != nil {
		return err
	}
	if err := p.put(w, &w.rowptr, ptr); err != nil {
		return err
	}
	return p.put(w, &w.meta, cols)
}

func (p *program) putScales(w *weight, q *sparse.Quant) error {
	if q.Zeros != nil {
		return fmt.Errorf("cuda: asymmetric scales: %w", sparse.ErrType)
	}
	if w.t == sparse.Int8 {
		if q.Group != 0 && q.Group < w.in {
			return fmt.Errorf("cuda: int8 in groups of %d columns: %w", q.Group, sparse.ErrType)
		}
		b := make([]byte, 0, 4*len(q.Scales))
		for _, s := range q.Scales {
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(s))
		}
		return p.put(w, &w.scale, b)
	}
	group := q.Group
	if group == 0 { // one scale a row: any power of two that covers it
		group = 32
		for group < w.in {
			group *= 2
		}
	}
	if group < 32 || group&(group-1) != 0 {
		return fmt.Errorf("cuda: int4 in groups of %d columns, want a power of two of 32 or more: %w", q.Group, sparse.ErrType)
	}
	for w.shift = 5; 1<<w.shift < group; w.shift++ {
	}
	w.lds = q.Groups(w.in)
	b := make([]byte, 0, 2*len(q.Scales))
	for _, s := range q.Scales {
		b = binary.LittleEndian.AppendUint16(b, sparse.F32ToF16(s))
	}
	return p.put(w, &w.scale, b)
}
