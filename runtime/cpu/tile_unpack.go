package cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/sparse"
)

func codeBytes(c []int8) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(c))), len(c))
}

// readRow unpacks row r. It is for embeddings that share the head's weight, and
// for tests; it is not fast.
func (m *tiled) readRow(dst []float32, r int) {
	if m.layout == sparse.LayoutBitmask {
		m.readMasked(dst, r)
		return
	}
	w := m.w[r/m.block*m.blockBytes():]
	lane := r % m.block
	if m.layout == sparse.LayoutDense {
		for c := range dst[:m.cols] {
			dst[c] = (m.stored(w, lane, c/m.chunk, c%m.chunk) - m.zeroAt(w, lane, c)) * m.scaleAt(w, r, c)
		}
		return
	}
	clear(dst[:m.cols])
	half := m.chunk / 2
	for k := range m.chunks * half {
		c := m.column(w, lane, k/half, k%half)
		if c < m.cols {
			dst[c] = m.stored(w, lane, k/half, k%half) * m.scaleAt(w, r, c)
		}
	}
}

// stored is number k of a row in chunk ch, before scaling.
func (m *tiled) stored(w []byte, lane, ch, k int) float32 {
	w = w[ch*m.chunkBytes():]
	switch m.typ {
	case sparse.F32:
		return f32s(w[m.meta:])[k*m.block+lane]
	case sparse.F16:
		return sparse.F16ToF32(u16s(w[m.meta:])[k*m.block+lane])
	case sparse.BF16:
		return sparse.BF16ToF32(u16s(w[m.meta:])[k/2*2*m.block+2*lane+k%2])
	case sparse.Int8:
		b := w[m.wordAt(k/4)+4*lane+k%4]
		if m.bias {
			b ^= 0x80
		}
		return float32(int8(b))
	}
	b := w[m.wordAt(k/8)+4*lane+k%4] >> (k % 8 / 4 * 4) & 15
	if m.signed {
		b ^= 8
	}
	return float32(int(b) - 8)
}

// scaleAt is the scale of a row's dense column c.
func (m *tiled) scaleAt(w []byte, r, c int) float32 {
	if m.scale == nil {
		return 1
	}
	if m.group == 0 {
		return m.scale[r]
	}
	return m.scale[r] * sparse.F16ToF32(u16s(w[m.scalesAt(c):])[r%m.block])
}

// scalesAt is where in a block the scales of the group of column c begin.
func (m *tiled) scalesAt(c int) int {
	per := m.chunk / m.group
	ch, k := c/m.chunk, c%m.chunk/m.group
	return ch*m.chunkBytes() + (k+1)*m.chunkBytes()/per - m.scales/per
}

// zeroAt is the zero point of a row's dense column c.
func (m *tiled) zeroAt(w []byte, lane, c int) float32 {
	if !m.zeros {
		return 0
	}
	return float32(int(w[m.scalesAt(c)+2*m.block+lane]) - 8)
}

// column is the dense column of kept number k of chunk ch.
func (m *tiled) column(w []byte, lane, ch, k int) int {
	g := k / 2 // group of 4 columns in the chunk
	base := ch*m.chunk + 4*g
	w = w[ch*m.chunkBytes():]
	if !m.typ.Quantised() {
		return base + int(u32s(w)[lane]>>(2*k)&3)
	}
	word := u32s(w[m.indexAt(g/8):])[lane]
	g %= 8
	return base + int(word>>(16*(g&1)+2*(g/2)+8*(k&1))&3)
}
