package cpu

import (
	"slices"
	"unsafe"

	"github.com/sparserun/sparserun/sparse"
)

// csrLists are the nonzeros of a sparse float32 weight once more, row by row within
// spans of columns, for batches: steps of all rows of a block are then part padding,
// which decode does not feel but arithmetic does. They cost 6 bytes a nonzero.
//
// Within a span the rows of a block are sorted by their number of nonzeros and go in
// pairs, the shorter one padded with zeros: lengths then change seldom from pair to
// pair, so that the ends of loops are predicted, and pairs have chains of sums enough
// to keep the multipliers busy.
//
//	v1 row by row, each with a length of its own: an ill-predicted end a row, and half
//	of the FMAs' rate; v2 pairs of sorted rows
type csrLists struct {
	span   int
	spans  int
	blocks int
	block  int
	first  []uint32 // [spans*blocks+1]: first entry
	heads  []uint32 // [spans, blocks, block/2]: row, other row <<8, entries <<16
	list   []byte   // [entries] of csrEntry bytes: column in the span times 64 of either row, 16 bits each, and their values
	mem    *weightMemory
}

// csrEntry is the bytes of an entry; csrUnit what columns are multiplied with. The
// kernels know both.
const csrEntry, csrUnit = 12, 64

// csrListDensity is the share of nonzeros below which lists pay.
const csrListDensity = 0.25

// csrListSpan is the columns of a span: some ten entries a row.
func csrListSpan(nonzeros, weights int) int {
	if float64(nonzeros) < 0.075*float64(weights) {
		return 256
	}
	return 128
}

// csrListPacker collects lists block by block.
type csrListPacker struct {
	l        csrLists
	nonzeros int
	weights  int
}

// add appends a block of rows.
func (p *csrListPacker) add(rows []csrRow, cols int) {
	l := &p.l
	n := 0
	for i := range rows {
		n += len(rows[i].col)
	}
	if l.span == 0 { // the first block speaks for all
		l.span, l.block = csrListSpan(n, len(rows)*cols), len(rows)
		l.spans = (cols + l.span - 1) / l.span
	}
	p.nonzeros, p.weights = p.nonzeros+n, p.weights+len(rows)*cols
	l.blocks++
	var from, to [maxBlock]int
	var order [maxBlock]uint8
	for s := range l.spans {
		for i := range rows {
			r := &rows[i]
			order[i], from[i] = uint8(i), to[i]
			for to[i] < len(r.col) && int(r.col[to[i]]) < (s+1)*l.span {
				to[i]++
			}
		}
		slices.SortStableFunc(order[:len(rows)], func(a, b uint8) int { return (to[b] - from[b]) - (to[a] - from[a]) })
		l.first = append(l.first, uint32(len(l.list)/csrEntry))
		for i := 0; i < len(rows); i += 2 {
			pair := order[i : i+2]
			n := to[pair[0]] - from[pair[0]]
			l.heads = append(l.heads, uint32(pair[0])|uint32(pair[1])<<8|uint32(n)<<16)
			for k := range n {
				var room []byte
				l.list, room = extend(l.list, csrEntry)
				clear(room)
				for j, r := range pair {
					if at := from[r] + k; at < to[r] {
						u16s(room)[j] = uint16((int(rows[r].col[at]) - s*l.span) * csrUnit)
						f32s(room[4:])[j] = rows[r].val[at]
					}
				}
			}
		}
	}
}

// lists are what was added, span by span in memory of their own; nil where there
// are too many nonzeros to gain.
func (p *csrListPacker) lists() (*csrLists, error) {
	l := p.l
	if p.nonzeros == 0 || float64(p.nonzeros) > csrListDensity*float64(p.weights) {
		return nil, nil
	}
	pairs := l.block / 2
	nf, nh := 4*(len(l.first)+1), 4*len(l.heads)
	m, err := allocWeight(nf + nh + len(l.list))
	if err != nil {
		return nil, err
	}
	b := m.bytes()
	l.mem, l.first, l.heads, l.list = m, u32s(b[:nf]), u32s(b[nf:nf+nh]), b[nf+nh:]
	at := 0
	for s := range l.spans {
		for k := range l.blocks {
			// Added block by block, [blocks, spans].
			i := k*l.spans + s
			from, to := int(p.l.first[i])*csrEntry, len(p.l.list)
			if i+1 < len(p.l.first) {
				to = int(p.l.first[i+1]) * csrEntry
			}
			o := s*l.blocks + k
			l.first[o] = uint32(at / csrEntry)
			copy(l.heads[o*pairs:(o+1)*pairs], p.l.heads[i*pairs:])
			at += copy(l.list[at:], p.l.list[from:to])
		}
	}
	l.first[len(l.first)-1] = uint32(at / csrEntry)
	return &l, nil
}

func (l *csrLists) clone() (*csrLists, error) {
	mem, err := l.mem.clone()
	if err != nil {
		return nil, err
	}
	c := *l
	c.mem, c.first = mem, again(l.first, l.mem, mem)
	c.heads, c.list = again(l.heads, l.mem, mem), again(l.list, l.mem, mem)
	return &c, nil
}

func (l *csrLists) bytes() sparse.Bytes {
	n := int64(len(l.list) / csrEntry)
	return sparse.Bytes{Values: 8 * n, Metadata: 4*n + int64(4*len(l.first)+4*len(l.heads))}
}

// run adds the products of span s of block b to the sums at a.out; x is the
// activations of all columns, width bytes each.
func (l *csrLists) run(a *csrArgs, b, s, vecs int, x unsafe.Pointer, width int) {
	i := s*l.blocks + b
	if l.first[i] == l.first[i+1] {
		return
	}
	a.x = unsafe.Add(x, s*l.span*width)
	a.lanes = l.block / 2
	a.off = unsafe.Pointer(&l.heads[i*a.lanes])
	a.step = unsafe.Pointer(&l.list[int(l.first[i])*csrEntry])
	runList(a, vecs)
}
