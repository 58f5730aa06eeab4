package cpu

import (
	"fmt"
	"math/bits"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// newTilePacker lays out the form of m in kernel k; what comes back is what to read,
// m or its stored codes.
func newTilePacker(m sparse.Matrix, k runtime.Kernel, kern tileKernel, block, group int) (*tilePacker, sparse.Matrix, error) {
	p := &tilePacker{tiled: &tiled{kern: kern, reads: actForm(k.Weight)}, group: group}
	w := p.tiled
	w.rows, w.cols = m.Dims()
	var err error
	if m, p.stored, err = takeCodes(m, k.Weight, group); err != nil {
		return nil, nil, err
	}
	w.layout, w.typ, w.block = k.Layout, k.Weight, block
	w.shape.group, _ = scaleGroup(k.Weight, group)
	if codes, q, err := takeZeros(m, k, group); err != nil {
		return nil, nil, err
	} else if q != nil {
		m, p.stored, w.zeros = codes, q, true
		w.kern = zeroKernel(w.shape.group)
	}
	w.bias = k.Weight == sparse.Int8 && k.Layout == sparse.LayoutDense && hasVNNI()
	w.signed = k.Weight == sparse.Int4 && k.Layout == sparse.LayoutNM24 && hasVNNI()
	w.measure()
	return p, m, nil
}

// packTiled repacks m block by block; it never holds the matrix in float32.
func packTiled(m sparse.Matrix, k runtime.Kernel, kern tileKernel, block, group int, s *scratch) (packed, error) {
	p, m, err := newTilePacker(m, k, kern, block, group)
	if err != nil {
		return nil, err
	}
	w := p.tiled
	n := w.blocks() * w.blockBytes()
	scales := 0
	if k.Weight.Quantised() {
		scales = w.blocks() * block
	}
	if w.mem, err = allocWeight(n + 4*scales); err != nil {
		return nil, err
	}
	w.w = w.mem.bytes()[:n]
	if scales > 0 {
		w.scale = f32s(w.mem.bytes()[n:])
	}
	if n == 0 {
		return w, nil
	}
	p.ld = w.chunks * w.chunk
	f := s.rows(block * p.ld)
	for b := range w.blocks() {
		if err := p.read(f, m, b*block); err != nil {
			w.free()
			return nil, err
		}
		if err := p.pack(f, b); err != nil {
			w.free()
			return nil, err
		}
	}
	return w, nil
}

// tilePacker is the state of one weight's packing.
type tilePacker struct {
	*tiled
	group  int           // columns per scale as asked for
	ld     int           // padded columns
	stored *sparse.Quant // scales of a matrix that is read as codes; nil: it is read as weights
	kept   []float32
	half   []uint16
	code   []int8   // [block][stored columns]
	rel    []uint16 // [block][groups]: half-precision scales
	zero   []byte   // [block][groups]: zero points + 8
	index  []uint32
}

// read unpacks the rows of a block from r0 on, padded with zeros.
func (p *tilePacker) read(f []float32, m sparse.Matrix, r0 int) error {
	if p.cols == 0 {
		return nil
	}
	n := min(p.block, p.rows-r0)
	if err := m.ReadRows(f[:n*p.cols], r0); err != nil {
		return err
	}
	clear(f[n*p.cols:])
	if p.ld != p.cols {
		for r := n - 1; r >= 0; r-- {
			copy(f[r*p.ld:], f[r*p.cols:(r+1)*p.cols])
			clear(f[r*p.ld+p.cols : (r+1)*p.ld])
		}
	}
	return nil
}

func (p *tilePacker) pack(f []float32, b int) error {
	dst := p.w[b*p.blockBytes() : (b+1)*p.blockBytes()]
	ld := p.ld
	if p.layout == sparse.LayoutNM24 {
		ld /= 2
		if err := p.keep(f, b*p.block); err != nil {
			return err
		}
		p.putIndices(dst)
		f = p.kept
	}
	if !p.typ.Quantised() {
		p.putFloats(dst, f, ld)
		return nil
	}
	if err := p.quantise(f, ld, b); err != nil {
		return err
	}
	p.putScales(dst)
	p.putCodes(dst, ld)
	return nil
}

// grow returns s with n elements of any content.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// keep24 are the two positions (low, high<<2) that stand for each set of nonzeros
// of a group, as sparse.Keep24 chooses them.
var keep24 = func() (t [16]uint8) {
	for m := range t {
		var g [4]float32
		for i := range g {
			g[i] = float32(m >> i & 1)
		}
		i0, i1, _ := sparse.Keep24(g[:])
		t[m] = uint8(i0 | i1<<2)
	}
	return
}()

// keep collects the two kept weights of every group of 4 columns, and their
// positions as 16 (int8: 4 times 4) pairs of bits per 32 columns.
func (p *tilePacker) keep(f []float32, r0 int) error {
	p.kept = grow(p.kept, p.block*p.ld/2)
	p.index = grow(p.index, p.block*p.ld/32)
	bytewise := p.typ.Quantised()
	for r := range p.block {
		row := f[r*p.ld : (r+1)*p.ld]
		kept := p.kept[r*p.ld/2 : (r+1)*p.ld/2]
		index := p.index[r*p.ld/32 : (r+1)*p.ld/32]
		for c := 0; c < len(row); c += 32 {
			var word uint32
			for g := range 8 {
				x := (*[4]float32)(row[c+4*g:])
				var m uint8
				if x[0] != 0 {
					m = 1
				}
				if x[1] != 0 {
					m |= 2
				}
				if x[2] != 0 {
					m |= 4
				}
				if x[3] != 0 {
					m |= 8
				}
				if bits.OnesCount8(m) > 2 {
					return fmt.Errorf("row %d columns %d..%d: more than 2 of 4 are nonzero: %w", r0+r, c+4*g, c+4*g+3, sparse.ErrPattern)
				}
				n := keep24[m]
				i0, i1 := n&3, n>>2
				k := (*[2]float32)(kept[c/2+2*g:])
				k[0], k[1] = x[i0], x[i1&3]
				if bytewise {
					// Kept values 2g, 2g+1 are bytes of word g/2.
					at := 16*(g&1) + 2*(g/2)
					word |= uint32(i0)<<at | uint32(i1)<<(at+8)
				} else {
					word |= uint32(n) << (4 * g)
				}
			}
			index[c/32] = word
		}
	}
	return nil
}

// putIndices writes the index words of a block: before each 32 columns, for int4 in
// groups of 64 before each 64.
func (p *tilePacker) putIndices(dst []byte) {
	n := p.ld / 32
	per := p.chunk / 32
	for i := range n {
		d := u32s(dst[i/per*p.chunkBytes()+p.indexAt(i%per):])[:p.block]
		for r := range d {
			d[r] = p.index[r*n+i]
		}
	}
}

// putFloats writes the numbers of a block, ld of each row.
func (p *tilePacker) putFloats(dst []byte, f []float32, ld int) {
	stored := ld / p.chunks // numbers of a row in a chunk
	if p.typ == sparse.F32 {
		for ch := range p.chunks {
			d := f32s(dst[ch*p.chunkBytes()+p.meta:])
			for c := range stored {
				for r := range p.block {
					d[c*p.block+r] = f[r*ld+ch*stored+c]
				}
			}
		}
		return
	}
	p.half = grow(p.half, p.block*ld)
	if p.typ == sparse.F16 {
		halfRow(p.half, f[:p.block*ld])
	} else {
		for i, x := range f[:p.block*ld] {
			p.half[i] = sparse.F32ToBF16(x)
		}
	}
	for ch := range p.chunks {
		d := u16s(dst[ch*p.chunkBytes()+p.meta:])
		if p.typ == sparse.BF16 {
			for r := range p.block {
				h := p.half[r*ld+ch*stored:][:stored]
				for c, x := range h {
					d[c/2*2*p.block+2*r+c%2] = x
				}
			}
			continue
		}
		// Eight rows at a time: more lie in the same set of the cache where rows are a
		// power of two apart.
		for r := 0; r < p.block; r += 8 {
			h0, h1, h2, h3 := p.half[r*ld+ch*stored:][:stored], p.half[(r+1)*ld+ch*stored:][:stored], p.half[(r+2)*ld+ch*stored:][:stored], p.half[(r+3)*ld+ch*stored:][:stored]
			h4, h5, h6, h7 := p.half[(r+4)*ld+ch*stored:][:stored], p.half[(r+5)*ld+ch*stored:][:stored], p.half[(r+6)*ld+ch*stored:][:stored], p.half[(r+7)*ld+ch*stored:][:stored]
			for c := range stored {
				o := (*[8]uint16)(d[c*p.block+r:])
				o[0], o[1], o[2], o[3] = h0[c], h1[c], h2[c], h3[c]
				o[4], o[5], o[6], o[7] = h4[c], h5[c], h6[c], h7[c]
			}
		}
	}
}

// putCodes writes the codes of a block in words of 4, int4 of 8.
func (p *tilePacker) putCodes(dst []byte, ld int) {
	var flip uint32
	if p.bias {
		flip = 0x80808080
	}
	src := u32s(codeBytes(p.code[:p.block*ld]))
	n := ld / 4 // words of a row
	per := n / p.chunks
	step := 1
	if p.typ == sparse.Int4 {
		if step, flip = 2, 0x08080808; p.signed {
			flip = 0
		}
	}
	for ch := range p.chunks {
		base := dst[ch*p.chunkBytes():]
		for j := 0; j < per; j += step {
			d := u32s(base[p.wordAt(j/step):])[:p.block]
			for r := range d {
				x := src[r*n+ch*per+j]
				if step == 1 {
					d[r] = x ^ flip
					continue
				}
				// Codes are -8..7: adding 8 to each byte carries nowhere.
				y := src[r*n+ch*per+j+1]
				d[r] = addBytes(x, flip)&0x0f0f0f0f | addBytes(y, flip)<<4&0xf0f0f0f0
			}
		}
	}
}

// addBytes adds byte by byte, without carries between bytes.
func addBytes(x, y uint32) uint32 {
	return ((x & 0x7f7f7f7f) + (y & 0x7f7f7f7f)) ^ ((x ^ y) & 0x80808080)
}

// wordAt is where in a chunk the words j of its rows begin.
func (s *shape) wordAt(j int) int {
	at := j * 4 * s.block
	half := 2 * at / s.values // that the words are of
	if s.group == 32 {
		at += half * s.scales / 2
	}
	switch {
	case s.layout == sparse.LayoutNM24 && (s.group == 32 || s.typ == sparse.Int8):
		at += (half + 1) * s.meta / 2
	case s.layout == sparse.LayoutNM24:
		at += s.meta
	}
	return at
}

// indexAt is where in a chunk of 2:4 the indices of its 32 columns h begin.
func (s *shape) indexAt(h int) int {
	switch {
	case s.group == 32:
		return h * s.chunkBytes() / 2
	case s.typ == sparse.Int8:
		return h * (s.values + s.meta) / 2
	}
	return h * s.meta / 2
}
