package depgraph

import (
	"github.com/sparserun/sparserun/model"
)

// place is one axis of one tensor: of a value (constants are values too), or of a weight.
type place struct {
	v    model.ValueID
	w    *model.Weight
	axis int
}

// span is the elements of a place: n of them from base on.
type span struct {
	place
	base, n int
}

// maxElements bounds the elements of a graph, whose shapes are what a file says: 20 bytes each. Large networks
// have some 100,000.
const maxElements = 1 << 24

// elements is a union-find over the elements of all places.
type elements struct {
	full   bool   // there were more than maxElements
	spans  []span // by base
	at     map[place]int
	parent []int32
	pinned []string // by root: why; "" free
}

// span finds or makes the elements of a place with n of them; nil where there is nothing to choose.
func (e *elements) span(p place, n int) *span {
	if n < 2 {
		return nil
	}
	if i, ok := e.at[p]; ok {
		return &e.spans[i]
	}
	if n > maxElements-len(e.parent) {
		e.full = true
		return nil
	}
	e.at[p] = len(e.spans)
	e.spans = append(e.spans, span{p, len(e.parent), n})
	for range n {
		e.parent = append(e.parent, int32(len(e.parent)))
		e.pinned = append(e.pinned, "")
	}
	return &e.spans[len(e.spans)-1]
}

func (e *elements) find(i int) int {
	for int(e.parent[i]) != i {
		e.parent[i] = e.parent[e.parent[i]]
		i = int(e.parent[i])
	}
	return i
}

func (e *elements) union(a, b int) {
	a, b = e.find(a), e.find(b)
	if a == b {
		return
	}
	if b < a {
		a, b = b, a
	}
	e.parent[b] = int32(a)
	if e.pinned[a] == "" {
		e.pinned[a] = e.pinned[b]
	}
}

// same ties two spans index by index, from the given offsets on; one that is nil ties nothing.
func (e *elements) same(a, b *span, offA, offB, n int) {
	if a == nil || b == nil {
		return
	}
	for i := range n {
		e.union(a.base+offA+i, b.base+offB+i)
	}
}

// major ties index j of the long span to index j/inner of the short one.
func (e *elements) major(long, short *span, inner int) {
	for j := range long.n {
		e.union(long.base+j, short.base+j/inner)
	}
}

// pin keeps all elements of a span.
func (e *elements) pin(s *span, why string) {
	if s == nil {
		return
	}
	for i := range s.n {
		r := e.find(s.base + i)
		if e.pinned[r] == "" {
			e.pinned[r] = why
		}
	}
}
