package cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/sparse"
)

// The fast Linear kernels keep rows of the weight in the lanes of vector
// registers and broadcast activations. Their weights are cut into blocks of rows
// (two vectors of float32 lanes: 32 rows with AVX-512, 16 with AVX2; missing rows
// and columns are zeros), a block into chunks of columns, and a thread reads its
// blocks as one sequential stream. Inside a chunk, for vectors v = 0, 1 of rows
// innermost, lane = row:
//
//	f32, f16  4 columns: per column one number a row
//	bf16      4 columns: per pair of columns one 32-bit word a row, even column low
//	int8      64 columns: per 4 columns one word a row; code+128 with VNNI
//	int4      64 columns: per 8 columns one word of code+8 a row, columns 0..3 in
//	          the low and 4..7 in the high nibbles
//	nm24 f*   32 columns: one word of indices a row (16 positions of 2 bits, low
//	          first), then 16 kept values as above
//	nm24 int8 32 columns, twice a chunk: one word of indices a row (byte b has kept
//	          value b of 4 words, 2 bits each, low first), then 4 words of 4 codes
//	nm24 int4 64 columns: 2 words of indices as nm24 int8, then 4 words of 8 codes
//	          as int4, with VNNI in two's complement
//	bitmask   see bitmask.go: chunks, and so blocks, differ in length
//
// Quantised weights in groups have one half-precision scale a row at the end of
// each group of 64 or 32 columns, relative to the row's scale, and behind these, where
// weights have zero points (dense int4), their zero points + 8, a byte a row. Groups
// of 32 cut a chunk in two halves, each with its own indices, codes and scales.
//
// tile is the argument of such a kernel: out[t*ld+r] += sum_c W[r,c]*x[t,c] for n
// blocks of k chunks and the tokens of one panel. The layout is known to asm/.
type tile struct {
	out unsafe.Pointer // float32
	ld  uintptr        // bytes
	w   unsafe.Pointer
	x   unsafe.Pointer // units of the panel
	sx  unsafe.Pointer // int8: scales of activations [group of 64][token]
	ux  unsafe.Pointer // int8: -(sums of 32 codes) [group of 32][token]
	rs  unsafe.Pointer // quantised: scales of rows
	k   int
	n   int
}

// tileKernel is a kernel of any number of tokens; see tile_amd64.go.
type tileKernel uint8

// tiled is a weight in such a form.
type tiled struct {
	shape
	kern  tileKernel
	reads form
	mem   *weightMemory
	w     []byte
	scale []float32 // of rows; nil unless quantised
	start []int     // bitmask: where blocks start in w, and its end
}

// shape says how a form lies in memory.
type shape struct {
	rows, cols int
	layout     sparse.Layout
	typ        sparse.DType
	block      int  // rows
	group      int  // columns per half-precision scale: 0, 32 or 64
	bias       bool // dense int8: codes are stored + 128
	signed     bool // nm24 int4: codes are stored in two's complement, not + 8
	zeros      bool // dense int4: groups have zero points
	chunk      int  // columns
	chunks     int  // per block
	values     int  // bytes of a chunk, by purpose
	meta       int
	scales     int
}

func (s *shape) chunkBytes() int { return s.values + s.meta + s.scales }
func (s *shape) blockBytes() int { return s.chunks * s.chunkBytes() }
func (s *shape) blocks() int     { return (s.rows + s.block - 1) / s.block }

// measure fills in chunk sizes from layout, type, block and group.
func (s *shape) measure() {
	s.chunk = 64
	switch {
	case s.typ.Quantised():
	case s.layout == sparse.LayoutBitmask:
		s.chunk = bitmaskColumns
	case s.layout == sparse.LayoutNM24:
		s.chunk = 32
	default:
		s.chunk = 4
	}
	stored := s.chunk
	switch s.layout {
	case sparse.LayoutNM24:
		stored /= 2
		s.meta = s.block * s.chunk / 8
	case sparse.LayoutBitmask:
		stored = 0 // differs from chunk to chunk
		s.meta = s.block * s.chunk / 8
	}
	s.values = s.block * stored * int(s.typ.Bits()) / 8
	if s.group > 0 {
		s.scales = s.block * 2 * s.chunk / s.group
		if s.zeros {
			s.scales += s.scales / 2
		}
	}
	s.chunks = (s.cols + s.chunk - 1) / s.chunk
}

func (m *tiled) rowBlock() int { return m.block }
func (m *tiled) form() form    { return m.reads }
func (m *tiled) free()         { m.mem.free() }

func (m *tiled) clone() (packed, error) {
	mem, err := m.mem.clone()
	if err != nil {
		return nil, err
	}
	c := *m
	c.mem, c.w, c.scale = mem, again(m.w, m.mem, mem), again(m.scale, m.mem, mem)
	return &c, nil
}

func (m *tiled) bytes() sparse.Bytes {
	n := int64(m.blocks()) * int64(m.chunks)
	if m.start != nil {
		fixed := n * int64(m.meta+m.scales)
		return sparse.Bytes{Values: int64(len(m.w)) - fixed, Metadata: n*int64(m.meta) + int64(8*len(m.start)), Scales: n*int64(m.scales) + int64(4*len(m.scale))}
	}
	return sparse.Bytes{Values: n * int64(m.values), Metadata: n * int64(m.meta), Scales: n*int64(m.scales) + int64(4*len(m.scale))}
}

// tileCache is how many bytes of weights are worked on for all tokens before the
// next: they stay in a second-level cache.
const tileCache = 128 << 10

// maxBlock is the largest number of rows in a block, maxPanel of tokens in a panel.
const maxBlock, maxPanel = 32, 8

func (m *tiled) mul(out []float32, ld int, x *acts, e epilogue, r0, r1 int) {
	e.start(out, ld, x.rows, r0, r1)
	if m.chunks == 0 || r1 <= r0 || x.rows == 0 {
		return
	}
	if x.rows >= wideRows && m.wide() {
		m.mulWide(out, ld, x, r0, r1)
		return
	}
	first, full := r0/m.block, (r1-r0)/m.block
	step := full
	if x.rows > 1 {
		step = max(1, tileCache*m.blocks()/len(m.w))
	}
	t := tile{ld: uintptr(4 * ld), k: m.chunks}
	for b := 0; b < full; b += step {
		t.n = min(step, full-b)
		m.at(&t, first+b)
		for t0 := 0; t0 < x.rows; {
			w := x.panel(&t, m.reads, t0)
			t.out = unsafe.Pointer(&out[t0*ld+r0+b*m.block])
			m.kern.run(&t, w)
			t0 += w
		}
	}
	// The last block of the matrix may have fewer rows than lanes.
	rest := (r1 - r0) % m.block
	if rest == 0 {
		return
	}
	var edge [maxBlock * maxPanel]float32
	t.n, t.ld = 1, uintptr(4*m.block)
	m.at(&t, first+full)
	for t0 := 0; t0 < x.rows; {
		w := x.panel(&t, m.reads, t0)
		clear(edge[:w*m.block])
		t.out = unsafe.Pointer(&edge)
		m.kern.run(&t, w)
		addEdge(out[t0*ld+r0+full*m.block:], ld, edge[:w*m.block], m.block, rest)
		t0 += w
	}
}

// addEdge adds the first rows of whole blocks of sums, one block a token, to out.
func addEdge(out []float32, ld int, edge []float32, block, rows int) {
	for i := 0; i*block < len(edge); i++ {
		for r, s := range edge[i*block:][:rows] {
			out[i*ld+r] += s
		}
	}
}

// at points t at block b.
func (m *tiled) at(t *tile, b int) {
	at := b * m.blockBytes()
	if m.start != nil {
		at = m.start[b]
	}
	t.w = unsafe.Pointer(&m.w[at])
	if m.scale != nil {
		t.rs = unsafe.Pointer(&m.scale[b*m.block])
	}
}

// start is what stands in out before products are added.
func (e epilogue) start(out []float32, ld, rows, r0, r1 int) {
	if e.add && e.bias == nil {
		return
	}
	for t := range rows {
		o := out[t*ld+r0 : t*ld+r1]
		switch {
		case e.bias == nil:
			clear(o)
		case !e.add:
			copy(o, e.bias[r0:r1])
		default:
			for i, b := range e.bias[r0:r1] {
				o[i] += b
			}
		}
	}
}

// from is t for the tokens of the panel from token i on.
func (t tile) from(i int) tile {
	t.out = unsafe.Add(t.out, uintptr(i)*t.ld)
	t.x = unsafe.Add(t.x, 16*i)
	t.sx = unsafe.Add(t.sx, 4*i)
	t.ux = unsafe.Add(t.ux, 4*i)
	return t
}
