package tokenizer

import "strings"

// worker is the scratch space of one running Encode. Workers are pooled, so
// the Tokenizer itself stays immutable.
type worker struct {
	syms  []symbol
	heap  candidateHeap
	text  []byte
	words [2][]string
	cache wordCache
}

// Bounds of what an idle worker keeps.
const (
	maxCachedWord  = 64      // bytes of a word worth caching
	maxCachedWords = 1 << 14 // then the cache starts anew
	maxKeptSymbols = 1 << 16
)

// trim drops what a very long text left behind, and the pieces of that text.
func (w *worker) trim() {
	if cap(w.syms) > maxKeptSymbols || cap(w.heap) > maxKeptSymbols {
		w.syms, w.heap = nil, nil
	}
	for i, p := range w.words {
		if cap(p) > maxKeptSymbols {
			w.words[i] = nil
			continue
		}
		clear(p[:cap(p)])
	}
}

// wordCache remembers the tokens of words seen before: text follows Zipf's law,
// and most words are old ones.
type wordCache struct {
	at  map[string][2]int32 // offset and length in ids
	ids []int32
}

func (c *wordCache) get(s string) ([]int32, bool) {
	p, ok := c.at[s]
	return c.ids[p[0] : p[0]+p[1]], ok
}

func (c *wordCache) put(s string, ids []int32) {
	if c.at == nil || len(c.at) >= maxCachedWords {
		c.at, c.ids = make(map[string][2]int32), c.ids[:0]
	}
	// The key is copied: a piece of the caller's text would keep all of it.
	c.at[strings.Clone(s)] = [2]int32{int32(len(c.ids)), int32(len(ids))}
	c.ids = append(c.ids, ids...)
}

// candidateHeap is a binary heap, first candidate on top. container/heap would
// box every element.
type candidateHeap []candidate

func (h candidateHeap) init() {
	for i := len(h)/2 - 1; i >= 0; i-- {
		h.down(i)
	}
}

func (h *candidateHeap) push(c candidate) {
	*h = append(*h, c)
	a := *h
	for i := len(a) - 1; i > 0; {
		p := (i - 1) / 2
		if !a[i].before(a[p]) {
			return
		}
		a[i], a[p] = a[p], a[i]
		i = p
	}
}

func (h *candidateHeap) pop() candidate {
	a := *h
	top := a[0]
	a[0] = a[len(a)-1]
	*h = a[:len(a)-1]
	h.down(0)
	return top
}

func (h candidateHeap) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1].before(h[c]) {
			c++
		}
		if !h[c].before(h[i]) {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}
