package cpu

import (
	"encoding/binary"
	"math"
	"math/bits"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// An unstructured weight as a bit for each weight and the nonzero ones packed: at 50
// to 80 % zeros fewer bytes than columns' indices would take. The kernels are those
// of tiled weights, AVX-512 only: rows in lanes, activations broadcast, and the
// numbers of a column of rows expanded into their lanes (vexpandps; int8:
// vpexpandb of VBMI2). With AVX2 expanding costs more than reading dense weights.
//
// A block is 32 rows, a chunk 8 columns of floats or 64 of int8. A chunk is the
// masks, half-precision scales of the rows for each group where there are some, then
// the numbers in the order of the bits. Masks of floats are 32 bits for each column, a bit a row
// (bf16: rows 0, 16, 1, 17 and so on, as kernels find them in 32-bit lanes); of int8
// 64 bits for each 4 columns and vector of 16 rows, bit 4*row+column, codes+128.

// bitmaskColumns is the columns of a chunk of floats; asm/ knows it.
const bitmaskColumns = 8

// packBitmask repacks m block by block.
func packBitmask(m sparse.Matrix, k runtime.Kernel, kern tileKernel, block, group int, s *scratch) (packed, error) {
	p, m, err := newTilePacker(m, k, kern, block, group)
	if err != nil {
		return nil, err
	}
	w := p.tiled
	if k.Weight.Quantised() {
		p.scale = make([]float32, w.blocks()*block)
	}
	p.ld = w.chunks * w.chunk
	f := s.rows(block * p.ld)
	var stream []byte // one block after another
	w.start = make([]int, 1, w.blocks()+1)
	for b := range w.blocks() {
		if err := p.read(f, m, b*block); err != nil {
			return nil, err
		}
		if k.Weight.Quantised() {
			if err := p.quantise(f, p.ld, b); err != nil {
				return nil, err
			}
			stream = p.maskCodes(stream)
		} else {
			stream = p.maskFloats(stream, f)
		}
		w.start = append(w.start, len(stream))
	}
	scale, n := p.scale, (len(stream)+63)&^63
	if w.mem, err = allocWeight(n + 4*len(scale)); err != nil {
		return nil, err
	}
	w.w = w.mem.bytes()[:len(stream)]
	copy(w.w, stream)
	if w.scale = nil; len(scale) > 0 {
		w.scale = f32s(w.mem.bytes()[n:])
		copy(w.scale, scale)
	}
	return w, nil
}

// extend makes room for n more bytes and returns them too.
func extend(b []byte, n int) (all, room []byte) {
	if cap(b)-len(b) < n {
		b = append(make([]byte, 0, 2*cap(b)+n), b...)
	}
	return b[:len(b)+n], b[len(b) : len(b)+n]
}

// maskFloats appends a block.
func (p *tilePacker) maskFloats(out []byte, f []float32) []byte {
	size := int(p.typ.Bits()) / 8
	put := func(d []byte, x float32) {
		switch p.typ {
		case sparse.F32:
			binary.LittleEndian.PutUint32(d, math.Float32bits(x))
		case sparse.F16:
			binary.LittleEndian.PutUint16(d, sparse.F32ToF16(x))
		case sparse.BF16:
			binary.LittleEndian.PutUint16(d, sparse.F32ToBF16(x))
		}
	}
	for ch := range p.chunks {
		var room []byte
		out, room = extend(out, p.meta+p.block*p.chunk*size)
		masks, values := room[:p.meta], room[p.meta:]
		for c := range p.chunk {
			var mask uint32
			for bit := range 32 {
				if x := f[maskRow(p.typ, bit)*p.ld+ch*p.chunk+c]; x != 0 {
					mask |= 1 << bit
					put(values, x)
					values = values[size:]
				}
			}
			binary.LittleEndian.PutUint32(masks[4*c:], mask)
		}
		out = out[:len(out)-len(values)]
	}
	return out
}

// maskRow is the row of a block that a bit of a column stands for.
func maskRow(t sparse.DType, bit int) int {
	if t == sparse.BF16 {
		return bit/2 + bit%2*16
	}
	return bit
}

// maskCodes appends a block. A code that was rounded to zero needs no place.
func (p *tilePacker) maskCodes(out []byte) []byte {
	for ch := range p.chunks {
		var room []byte
		out, room = extend(out, p.meta+p.scales+p.block*p.chunk)
		masks, codes := room[:p.meta], room[p.meta+p.scales:]
		if p.scales > 0 {
			d := u16s(room[p.meta:][:p.scales])
			per := p.chunk / p.shape.group
			for i := range d {
				d[i] = p.rel[i%p.block*p.groups()+ch*per+i/p.block]
			}
		}
		for i := range p.meta / 8 { // columns i/2*4 and on, vector i%2
			at := i%2*16*p.ld + ch*p.chunk + i/2*4
			var mask uint64
			for lane := range 16 {
				for c, q := range p.code[at+lane*p.ld:][:4] {
					if q != 0 {
						mask |= 1 << (4*lane + c)
						codes[0] = byte(q) ^ 0x80
						codes = codes[1:]
					}
				}
			}
			binary.LittleEndian.PutUint64(masks[8*i:], mask)
		}
		out = out[:len(out)-len(codes)]
	}
	return out
}

// readMasked unpacks row r as readRow does.
func (m *tiled) readMasked(dst []float32, r int) {
	clear(dst[:m.cols])
	w, row := m.w[m.start[r/m.block]:], r%m.block
	for ch := range m.chunks {
		values := w[m.meta+m.scales:]
		if m.typ.Quantised() {
			for i := range m.meta / 8 { // columns i/2*4 and on, vector i%2
				scale := m.scale[r]
				if m.group > 0 {
					scale *= sparse.F16ToF32(binary.LittleEndian.Uint16(w[m.meta+2*(i*2/m.group*m.block+row):]))
				}
				mask := binary.LittleEndian.Uint64(w[8*i:])
				for bit, n := 0, 0; bit < 64; bit++ {
					if mask>>bit&1 == 0 {
						continue
					}
					if c := ch*m.chunk + i/2*4 + bit%4; i%2*16+bit/4 == row && c < m.cols {
						dst[c] = float32(int8(values[n]^0x80)) * scale
					}
					n++
				}
				values = values[bits.OnesCount64(mask):]
			}
		} else {
			size := int(m.typ.Bits()) / 8
			for i := range m.chunk {
				mask := binary.LittleEndian.Uint32(w[4*i:])
				for bit, n := 0, 0; bit < 32; bit++ {
					if mask>>bit&1 == 0 {
						continue
					}
					if c := ch*m.chunk + i; maskRow(m.typ, bit) == row && c < m.cols {
						dst[c] = floatAt(m.typ, values[n*size:])
					}
					n++
				}
				values = values[bits.OnesCount32(mask)*size:]
			}
		}
		w = w[len(w)-len(values):]
	}
}

func floatAt(t sparse.DType, b []byte) float32 {
	switch t {
	case sparse.F16:
		return sparse.F16ToF32(binary.LittleEndian.Uint16(b))
	case sparse.BF16:
		return sparse.BF16ToF32(binary.LittleEndian.Uint16(b))
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(b))
}
