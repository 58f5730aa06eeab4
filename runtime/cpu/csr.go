package cpu

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// csrTiled is an unstructured weight: blocks of 32 rows (AVX2: 8) advance through
// the columns together. A step has one kept weight of every row - its values, then
// its places, a byte each - whose columns lie in a window that starts at the
// step's offset; a row that has none there has a zero. Windows are chosen
// greedily: the next starts at the smallest column that is still to be done.
// Activations are float32 for every type of weight.
//
// Batches: every row walks down its lane of the steps with tokens in lanes, for a
// span of columns whose activations stay in cache, then the next span.
//
//	v1 steps of 16 rows, windows anywhere: loads of 4 registers cross cache lines
//	v2 windows start on cache lines: 1.1x
//	v3 two vectors of rows share the registers of a window: 1.2x
//	batch v1 one row at a time waits for its own sums; v2 four rows at a time, sums
//	of all rows in scratch: 1.6x; v3 16 blocks at a time: 1.1x
type csrTiled struct {
	rows, cols int
	typ        sparse.DType
	block      int // rows
	wide       bool
	span       int // columns that a batch works on before the next
	mem        *weightMemory
	first      []uint32  // [blocks+1] first step
	off        []uint16  // [steps]
	w          []byte    // [steps][block values, block places]
	scale      []float32 // of rows, padded
	stored     sparse.Bytes
	lists      *csrLists // nil: batches use the steps
}

// csrWindow is the columns that a step of a block can reach.
func csrWindow(wide bool) int {
	if wide {
		return 64
	}
	return 256
}

// csrFew is the largest batch that runs token by token; more are transposed, and
// so are the last few tokens of such.
const csrFew = 8

// csrArgs is the argument of the kernels; the layout is known to asm/.
type csrArgs struct {
	out, step, off, x unsafe.Pointer
	ldx               uintptr // bytes between tokens
	steps             int
	rs                unsafe.Pointer
	lanes             int
	ld                uintptr        // bytes between tokens of out
	next              unsafe.Pointer // what to prefetch
}

func (m *csrTiled) bytes() sparse.Bytes { return m.stored }
func (m *csrTiled) rowBlock() int       { return m.block }
func (m *csrTiled) form() form          { return formTokens }

func (m *csrTiled) free() {
	m.mem.free()
	if m.lists != nil {
		m.lists.mem.free()
	}
}

func (m *csrTiled) clone() (packed, error) {
	mem, err := m.mem.clone()
	if err != nil {
		return nil, err
	}
	c := *m
	c.mem, c.w, c.off = mem, again(m.w, m.mem, mem), again(m.off, m.mem, mem)
	c.scale, c.first = again(m.scale, m.mem, mem), again(m.first, m.mem, mem)
	if m.lists != nil {
		if c.lists, err = m.lists.clone(); err != nil {
			mem.free()
			return nil, err
		}
	}
	return &c, nil
}

func (m *csrTiled) stepBytes() int { return m.block * (int(m.typ.Bits())/8 + 1) }

func (m *csrTiled) mul(out []float32, ld int, x *acts, e epilogue, r0, r1 int) {
	e.start(out, ld, x.rows, r0, r1)
	if x.pt == nil {
		m.few(out, ld, x, r0, r1)
		return
	}
	m.many(out, ld, x, r0, r1)
}

func (m *csrTiled) few(out []float32, ld int, x *acts, r0, r1 int) {
	var edge [4 * maxBlock]float32
	for r := r0; r < r1; r += m.block {
		a, n := m.args(r)
		if n == 0 {
			continue
		}
		a.ldx = uintptr(4 * x.cols)
		whole := r1-r >= m.block
		for t := 0; t < x.rows; {
			w := 1
			if m.wide {
				for w = 4; w > x.rows-t; w /= 2 {
				}
			}
			a.x = unsafe.Pointer(&x.f32[t*x.cols])
			if whole {
				a.out, a.ld = unsafe.Pointer(&out[t*ld+r]), uintptr(4*ld)
				m.run(&a, w)
			} else {
				clear(edge[:w*m.block])
				a.out, a.ld = unsafe.Pointer(&edge), uintptr(4*m.block)
				m.run(&a, w)
				for i := range w {
					o := out[(t+i)*ld+r : (t+i)*ld+r1]
					for k := range o {
						o[k] += edge[i*m.block+k]
					}
				}
			}
			t += w
		}
	}
}

// args are the steps of the block that starts at row r.
func (m *csrTiled) args(r int) (csrArgs, int) {
	b := r / m.block
	s0, s1 := int(m.first[b]), int(m.first[b+1])
	a := csrArgs{steps: s1 - s0, rs: unsafe.Pointer(&m.scale[b*m.block]), lanes: m.block}
	if s1 > s0 {
		a.step, a.off = unsafe.Pointer(&m.w[s0*m.stepBytes()]), unsafe.Pointer(&m.off[s0])
	}
	return a, s1 - s0
}

// csrTokens is the tokens of a tile of transposed activations, csrLanes those of a
// vector.
func csrTokens(wide bool) int {
	return csrLanes(wide) * csrVecs
}

// csrVecs is the vectors of tokens of a tile.
const csrVecs = 4

func csrLanes(wide bool) int {
	if wide {
		return 16
	}
	return 8
}

// csrSums is the blocks of rows whose sums are in work together: they fit mulScratch
// and a second-level cache beside a span of activations.
const csrSums = 16

// many multiplies transposed tiles of activations: lanes are tokens. Sums of all
// rows stand in scratch memory while columns advance.
func (m *csrTiled) many(out []float32, ld int, x *acts, r0, r1 int) {
	for ; r0 < r1; r0 += csrSums * m.block {
		m.manyRows(out, ld, x, r0, min(r1, r0+csrSums*m.block))
	}
}

func (m *csrTiled) manyRows(out []float32, ld int, x *acts, r0, r1 int) {
	top := csrTokens(m.wide)
	lanes := csrLanes(m.wide)
	b0, blocks := r0/m.block, (r1-r0+m.block-1)/m.block
	sc := takeScratch()
	defer sc.give()
	for t := 0; t < x.rows; t += top {
		tokens := min(x.rows-t, top)
		vecs := (tokens + lanes - 1) / lanes
		width := vecs * lanes
		tile := m.block * width
		sums, next := sc.f[:blocks*tile], sc.u[:blocks]
		clear(sums)
		copy(next, m.first[b0:b0+blocks])
		a := csrArgs{x: unsafe.Pointer(&x.pt[t*x.cols]), lanes: m.block}
		for s := 0; m.lists != nil && s < m.lists.spans; s++ {
			for b := range blocks {
				a.out = unsafe.Pointer(&sums[b*tile])
				m.lists.run(&a, b0+b, s, vecs, unsafe.Pointer(&x.pt[t*x.cols]), 4*width)
			}
		}
		for c := m.span; m.lists == nil; c += m.span {
			for b, s0 := range next {
				s1, last := s0, m.first[b0+b+1]
				for s1 < last && int(m.off[s1]) < c {
					s1++
				}
				if s1 == s0 {
					continue
				}
				next[b] = s1
				a.steps = int(s1 - s0)
				a.step, a.off = unsafe.Pointer(&m.w[int(s0)*m.stepBytes()]), unsafe.Pointer(&m.off[s0])
				a.out = unsafe.Pointer(&sums[b*tile])
				// The next block's steps for these columns lie elsewhere.
				a.next = unsafe.Add(unsafe.Pointer(unsafe.SliceData(m.w)), int(next[(b+1)%blocks])*m.stepBytes())
				m.runBatch(&a, vecs)
			}
			if c >= x.cols {
				break
			}
		}
		m.put(out[t*ld+r0:], ld, sums, width, tokens, r1-r0, m.scale[r0:])
	}
}

// put adds tiles [blocks][rows of a block][width] to out [tokens][rows]. All rows of
// 8 tokens go together: tokens are often powers of two apart, in the same set of a
// cache.
func (m *csrTiled) put(out []float32, ld int, tiles []float32, width, tokens, rows int, scale []float32) {
	t8, r8 := tokens&^7, rows&^7
	for t := 0; t < t8; t += 8 {
		for r := 0; r < r8; r += 8 {
			csrOut(&out[t*ld+r], ld, &tiles[r*width+t], width, &scale[r])
		}
	}
	for t := range tokens {
		r := r8
		if t >= t8 {
			r = 0
		}
		for ; r < rows; r++ {
			out[t*ld+r] += tiles[r*width+t] * scale[r]
		}
	}
}

// csrPacker is the constructor of unstructured weights of kernel k, nil where
// there is none.
func csrPacker(k runtime.Kernel) packFunc {
	if !csrHas(k.Weight) {
		return nil
	}
	return func(m sparse.Matrix, group int, s *scratch) (packed, error) {
		wide, block := csrShape()
		// Windows of fewer columns than a row has, places of 16 bits, scales by row:
		// the rest is left to the portable form.
		if _, cols := m.Dims(); cols < csrWindow(wide) || cols > 1<<16 || (k.Weight.Quantised() && group != 0) {
			return portablePacker(k)(m, group, s)
		}
		return packCSR(m, k.Weight, wide, block, s)
	}
}

func packCSR(m sparse.Matrix, typ sparse.DType, wide bool, block int, s *scratch) (packed, error) {
	c := &csrTiled{typ: typ, wide: wide, block: block}
	c.rows, c.cols = m.Dims()
	m, stored, err := takeCodes(m, typ, 0)
	if err != nil {
		return nil, err
	}
	blocks := (c.rows + block - 1) / block
	first := make([]uint32, 1, blocks+1)
	scale := make([]float32, blocks*block)
	for i := range scale {
		scale[i] = 1
	}
	var lists csrListPacker
	p := csrSteps{csrTiled: c, rows: make([]csrRow, block)}
	f := s.rows(block * c.cols)
	for b := range blocks {
		r0 := b * block
		n := min(block, c.rows-r0)
		if err := m.ReadRows(f[:n*c.cols], r0); err != nil {
			return nil, err
		}
		for r := range p.rows {
			var row []float32
			if r < n {
				row = f[r*c.cols : (r+1)*c.cols]
			}
			if p.rows[r].collect(row); r >= n || !typ.Quantised() {
				continue
			}
			if stored != nil {
				scale[r0+r] = stored.Scales[r0+r]
			} else if scale[r0+r], err = sparse.QuantiseSymmetric(p.rows[r].val, 127); err != nil {
				return nil, fmt.Errorf("row %d: %w", r0+r, err)
			}
		}
		if wide && typ == sparse.F32 {
			lists.add(p.rows, c.cols)
		}
		p.schedule(csrWindow(wide))
		first = append(first, uint32(len(p.off)))
	}
	// One region: steps, offsets, scales, first steps.
	n := len(p.w)
	at := []int{n, n + (2*len(p.off)+63)&^63}
	at = append(at, at[1]+4*len(scale))
	if c.mem, err = allocWeight(at[2] + 4*len(first)); err != nil {
		return nil, err
	}
	mem := c.mem.bytes()
	c.w, c.off = mem[:n], u16s(mem[at[0]:at[1]])[:len(p.off)]
	c.scale, c.first = f32s(mem[at[1]:at[2]]), u32s(mem[at[2]:])
	copy(c.w, p.w)
	copy(c.off, p.off)
	copy(c.scale, scale)
	copy(c.first, first)
	// A span has some 16 steps of a block, and its activations stay in a cache.
	for c.span = 64; c.span < 256 && blocks > 0 && len(p.off)/blocks*c.span < 16*c.cols; {
		c.span *= 2
	}
	steps := int64(len(p.off)) * int64(block)
	c.stored = sparse.Bytes{Values: steps * int64(typ.Bits()) / 8, Metadata: steps + int64(2*len(p.off)+4*len(first))}
	if typ.Quantised() {
		c.stored.Scales = int64(4 * len(scale))
	}
	if c.lists, err = lists.lists(); err != nil {
		c.mem.free()
		return nil, err
	}
	if c.lists != nil {
		c.stored = c.stored.Add(c.lists.bytes())
	}
	return c, nil
}

// csrRow is the nonzeros of one row.
type csrRow struct {
	col  []uint16
	val  []float32
	next int
}

// collect takes the nonzeros of a row.
func (r *csrRow) collect(row []float32) {
	r.col, r.val, r.next = grow(r.col, len(row)), grow(r.val, len(row)), 0
	n := 0
	for c, x := range row {
		r.col[n], r.val[n] = uint16(c), x // overwritten unless x is kept
		if x != 0 {
			n++
		}
	}
	r.col, r.val = r.col[:n], r.val[:n]
}

// csrSteps is the steps made so far.
type csrSteps struct {
	*csrTiled
	rows []csrRow
	w    []byte
	off  []uint16
}

// schedule appends the steps of a block.
func (p *csrSteps) schedule(window int) {
	size := int(p.typ.Bits()) / 8
	for {
		start := math.MaxInt
		for i := range p.rows {
			if r := &p.rows[i]; r.next < len(r.col) {
				start = min(start, int(r.col[r.next]))
			}
		}
		if start == math.MaxInt {
			return
		}
		// Whole cache lines of activations, never beyond the row's end.
		start = min(start&^15, p.cols-window)
		p.off = append(p.off, uint16(start))
		n := len(p.w)
		p.w = append(p.w, make([]byte, p.stepBytes())...)
		step := p.w[n:]
		place := step[p.block*size:]
		for i := range p.rows {
			r := &p.rows[i]
			if r.next >= len(r.col) || int(r.col[r.next]) >= start+window {
				continue
			}
			place[i] = byte(int(r.col[r.next]) - start)
			v := r.val[r.next]
			r.next++
			switch p.typ {
			case sparse.F32:
				f32s(step)[i] = v
			case sparse.F16:
				u16s(step)[i] = sparse.F32ToF16(v)
			case sparse.BF16:
				u16s(step)[i] = sparse.F32ToBF16(v)
			case sparse.Int8:
				step[i] = byte(int8(v))
			}
		}
	}
}

// readRow unpacks row r; it is for tests.
func (m *csrTiled) readRow(dst []float32, r int) {
	clear(dst[:m.cols])
	b, lane := r/m.block, r%m.block
	size := int(m.typ.Bits()) / 8
	for s := m.first[b]; s < m.first[b+1]; s++ {
		step := m.w[int(s)*m.stepBytes():][:m.stepBytes()]
		c := int(m.off[s]) + int(step[m.block*size+lane])
		switch m.typ {
		case sparse.F32:
			dst[c] += f32s(step)[lane]
		case sparse.F16:
			dst[c] += sparse.F16ToF32(u16s(step)[lane])
		case sparse.BF16:
			dst[c] += sparse.BF16ToF32(u16s(step)[lane])
		case sparse.Int8:
			dst[c] += float32(int8(step[lane])) * m.scale[r]
		}
	}
}
