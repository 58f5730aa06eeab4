package cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/sparse"
)

// csrLists are the nonzeros of a very sparse float32 weight once more, row by row
// within spans of columns, for batches: steps of all rows of a block are then
// half padding, which decode does not feel but arithmetic does. They cost 6 bytes
// a nonzero.
type csrLists struct {
	span   int
	spans  int
	first  []uint32  // [blocks, spans]: first entry
	counts []uint16  // [blocks, spans, block]: entries of each row
	cols   []uint16  // [entries]
	vals   []float32 // [entries]
	mem    *weightMemory
}

// csrListDensity is the share of nonzeros below which lists pay.
const csrListDensity = 0.15

// csrListSpan is the columns of a span: some ten entries a row.
func csrListSpan(nonzeros, weights int) int {
	if float64(nonzeros) < 0.075*float64(weights) {
		return 256
	}
	return 128
}

// csrListPacker collects lists block by block.
type csrListPacker struct {
	l csrLists
}

// add appends a block of rows.
func (p *csrListPacker) add(rows []csrRow, cols int) {
	l := &p.l
	if l.span == 0 { // the first block speaks for all
		n := 0
		for i := range rows {
			n += len(rows[i].col)
		}
		l.span = csrListSpan(n, len(rows)*cols)
	}
	l.spans = (cols + l.span - 1) / l.span
	var at [maxBlock]int
	for s := range l.spans {
		l.first = append(l.first, uint32(len(l.cols)))
		for i := range rows {
			r := &rows[i]
			k := at[i]
			for ; k < len(r.col) && int(r.col[k]) < (s+1)*l.span; k++ {
				l.cols = append(l.cols, r.col[k])
				l.vals = append(l.vals, r.val[k])
			}
			l.counts = append(l.counts, uint16(k-at[i]))
			at[i] = k
		}
	}
}

// lists are what was added, in memory of their own; nil where there are too many
// nonzeros to gain.
func (p *csrListPacker) lists(rows, cols int) (*csrLists, error) {
	l := p.l
	if n := len(l.cols); n == 0 || float64(n) > csrListDensity*float64(rows)*float64(cols) {
		return nil, nil
	}
	nf, nv, nc := 4*len(l.first), 4*len(l.vals), 2*len(l.cols)
	m, err := allocWeight(nf + nv + nc + 2*len(l.counts))
	if err != nil {
		return nil, err
	}
	b := m.bytes()
	l.mem = m
	l.first = moved(u32s(b[:nf]), l.first)
	l.vals = moved(f32s(b[nf:nf+nv]), l.vals)
	l.cols = moved(u16s(b[nf+nv:nf+nv+nc]), l.cols)
	l.counts = moved(u16s(b[nf+nv+nc:]), l.counts)
	return &l, nil
}

func (l *csrLists) clone() (*csrLists, error) {
	mem, err := l.mem.clone()
	if err != nil {
		return nil, err
	}
	c := *l
	c.mem, c.first, c.counts = mem, again(l.first, l.mem, mem), again(l.counts, l.mem, mem)
	c.cols, c.vals = again(l.cols, l.mem, mem), again(l.vals, l.mem, mem)
	return &c, nil
}

func moved[T any](dst, src []T) []T {
	copy(dst, src)
	return dst
}

func (l *csrLists) bytes() sparse.Bytes {
	return sparse.Bytes{Values: int64(4 * len(l.vals)), Metadata: int64(2*len(l.cols) + 4*len(l.first) + 2*len(l.counts))}
}

// run adds the products of span s of block b to the sums at a.out.
func (l *csrLists) run(a *csrArgs, b, s, vecs int) {
	i := b*l.spans + s
	e := l.first[i]
	if int(e) == len(l.cols) {
		return
	}
	a.off = unsafe.Pointer(&l.counts[i*a.lanes])
	a.rs = unsafe.Pointer(&l.cols[e])
	a.step = unsafe.Pointer(&l.vals[e])
	a.next = a.step
	if n := i + l.spans; n < len(l.first) { // the next block's
		a.next = unsafe.Add(unsafe.Pointer(unsafe.SliceData(l.vals)), 4*int(l.first[n]))
	}
	runList(a, vecs)
}
