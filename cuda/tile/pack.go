package tile

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/sparserun/sparserun/sparse"
)

// Packed is a matrix in tiles.
type Packed struct {
	Form Form
	R, C int
	Data []byte
	// RowScale is the scale of each row for Int8 and FP8, applied by the kernels'
	// epilogue; nil for other types. Int4 has its scales in the tiles.
	RowScale []float32
}

// legal is the metadata of a group of zeros: indices 0 and 1.
const legal = 4

// Pack stores a canonical dense or 2:4 matrix in tiles. Int8 and FP8 must be
// symmetric with one scale a row; Int4 symmetric with groups of a multiple of 64
// columns (or one a row).
func Pack(m sparse.Matrix) (*Packed, error) {
	f, err := FormOf(m)
	if err != nil {
		return nil, err
	}
	var src source
	switch m := m.(type) {
	case *sparse.NM24:
		if err := m.Check(); err != nil {
			return nil, err
		}
		src = source{values: m.Values, stored: 2 * m.Groups(), quant: m.Quant, nm: m}
	case *sparse.Dense:
		src = source{values: m.Values, stored: m.C, quant: m.Quant}
	default:
		return nil, fmt.Errorf("tile: %T: %w", m, ErrForm)
	}
	p := &Packed{Form: f}
	p.R, p.C = m.Dims()
	if err := src.check(p); err != nil {
		return nil, err
	}
	p.Data = make([]byte, f.Size(p.R, p.C))
	nm, nk := f.Counts(p.R, p.C)
	places := f.places()
	parallel(nm, func(mt int) {
		for kt := range nk {
			at := f.Start(mt, kt, p.R, p.C)
			p.fill(p.Data[at:at+f.Bytes()], &src, places, mt, kt)
		}
	})
	return p, nil
}

// parallel calls f(0) to f(n-1), several at a time.
func parallel(n int, f func(i int)) {
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(n, runtime.GOMAXPROCS(0)) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				f(i)
			}
		})
	}
	wg.Wait()
}

// place is where a tile keeps an element.
type place struct {
	off   uint16
	shift uint8
}

// places are those of all elements, row by row: the same in every tile.
func (f Form) places() []place {
	var out []place
	for row := range Rows {
		for c := range f.stored() {
			off, shift := f.Value(row, c)
			out = append(out, place{uint16(off), uint8(shift)})
		}
	}
	return out
}

// source is what a canonical matrix stores.
type source struct {
	values sparse.Values
	stored int // elements of a row
	quant  *sparse.Quant
	nm     *sparse.NM24
}

// index is the position of element c of row r in values.
func (s *source) index(r, c int) int {
	ld := s.stored
	if s.values.Type == sparse.Int4 {
		ld = (ld + 1) / 2 * 2
	}
	return r*ld + c
}

// check refuses quantisations that the kernels do not compute, and takes row scales.
func (s *source) check(p *Packed) error {
	q := s.quant
	if !p.Form.Type.Quantised() {
		return nil
	}
	if q == nil {
		return fmt.Errorf("tile: %v without scales: %w", p.Form.Type, ErrForm)
	}
	if q.Zeros != nil {
		return fmt.Errorf("tile: zero points: %w", ErrForm)
	}
	wholeRow := q.Group == 0 || q.Group >= p.C
	if p.Form.Type == sparse.Int4 {
		if !wholeRow && q.Group%64 != 0 {
			return fmt.Errorf("tile: int4 group of %d columns, want a multiple of 64: %w", q.Group, ErrForm)
		}
		return nil
	}
	if !wholeRow {
		return fmt.Errorf("tile: %v group of %d columns, want one scale a row: %w", p.Form.Type, q.Group, ErrForm)
	}
	p.RowScale = make([]float32, p.R)
	for r := range p.R {
		p.RowScale[r], _ = q.Scale(r, 0, p.C)
	}
	return nil
}

// fill writes one tile.
func (p *Packed) fill(to []byte, s *source, places []place, mt, kt int) {
	f := p.Form
	n := f.stored()
	if f.Type == sparse.Int4 { // code 8 is zero
		for i := range to[:f.metaStart()] {
			to[i] = 0x88
		}
	}
	for row := range Rows {
		r := mt*Rows + row
		if r < p.R {
			at := places[row*n : (row+1)*n]
			at = at[:min(n, s.stored-kt*n)]
			switch first := s.index(r, kt*n); f.Type {
			case sparse.F16, sparse.BF16:
				for c, v := range s.values.U16[first : first+len(at)] {
					binary.LittleEndian.PutUint16(to[at[c].off:], v)
				}
			case sparse.Int4:
				for c, x := range at {
					i := first + c
					code := s.values.Q[i/2] >> (4 * (i % 2)) & 15
					to[x.off] ^= (code ^ 8) << x.shift
				}
			default:
				for c, v := range s.values.Q[first : first+len(at)] {
					to[at[c].off] = v
				}
			}
		}
		if f.NM24 {
			for w := range f.Columns() / 16 {
				binary.LittleEndian.PutUint16(to[f.Meta(row, w):], s.meta(r, (kt*f.Columns()/16+w)*4))
			}
		}
		if f.Type == sparse.Int4 && r < p.R {
			scale, _ := s.quant.Scale(r, kt*f.Columns(), p.C)
			binary.LittleEndian.PutUint16(to[f.Scale(row):], sparse.F32ToF16(scale))
		}
	}
}

// meta is the word of the four groups from g on of row r.
func (s *source) meta(r, g int) uint16 {
	var word uint16
	for q := range 4 {
		nibble := byte(legal)
		if r < s.nm.R && g+q < s.nm.Groups() {
			nibble = s.nm.Nibble(r, g+q)
		}
		word |= uint16(nibble) << (4 * q)
	}
	return word
}

// Read unpacks to dense float32 rows: the inverse of Pack, and the proof of it.
func (p *Packed) Read() []float32 {
	out := make([]float32, p.R*p.C)
	f := p.Form
	for r := range p.R {
		for c := range p.C {
			kt, in := c/f.Columns(), c%f.Columns()
			tile := p.Data[f.Start(r/Rows, kt, p.R, p.C):]
			row, stored := r%Rows, in
			if f.NM24 {
				word := binary.LittleEndian.Uint16(tile[f.Meta(row, in/16):])
				nibble := int(word >> (in % 16 / 4 * 4) & 15)
				switch in % 4 {
				case nibble & 3:
					stored = in / 4 * 2
				case nibble >> 2:
					stored = in/4*2 + 1
				default:
					continue
				}
			}
			out[r*p.C+c] = p.value(tile, row, r, stored)
		}
	}
	return out
}

// value is stored element c of a tile's row, scaled.
func (p *Packed) value(tile []byte, row, r, c int) float32 {
	off, shift := p.Form.Value(row, c)
	switch p.Form.Type {
	case sparse.F16:
		return sparse.F16ToF32(binary.LittleEndian.Uint16(tile[off:]))
	case sparse.BF16:
		return sparse.BF16ToF32(binary.LittleEndian.Uint16(tile[off:]))
	case sparse.Int8:
		return float32(int8(tile[off])) * p.RowScale[r]
	case sparse.FP8:
		return sparse.FP8ToF32(tile[off]) * p.RowScale[r]
	}
	scale := sparse.F16ToF32(binary.LittleEndian.Uint16(tile[p.Form.Scale(row):]))
	return float32(int(tile[off]>>shift&15)-8) * scale
}
