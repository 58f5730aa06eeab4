package tokenizer

import (
	"fmt"
	"math/bits"
	"math/rand/v2"
	"strings"
)

// merge is what a pair of adjacent tokens becomes: the lower rank goes first.
type merge struct{ rank, id int32 }

// mergeTable maps a pair of token ids to its merge: open addressing, 16 bytes
// a slot, at most half full. The multiplier is drawn at random, so that a file
// cannot be written to make every pair collide.
type mergeTable struct {
	keys  []uint64
	vals  []merge
	mul   uint64
	shift int
}

const noPair = ^uint64(0)

func pairKey(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

func newMergeTable(n int) *mergeTable {
	size := 16
	for size < 2*n {
		size *= 2
	}
	m := &mergeTable{
		keys:  make([]uint64, size),
		vals:  make([]merge, size),
		mul:   rand.Uint64() | 1,
		shift: 64 - bits.TrailingZeros(uint(size)),
	}
	for i := range m.keys {
		m.keys[i] = noPair
	}
	return m
}

func (m *mergeTable) slot(key uint64) int {
	i := int((key ^ key>>29) * m.mul >> m.shift)
	for m.keys[i] != key && m.keys[i] != noPair {
		i = (i + 1) & (len(m.keys) - 1)
	}
	return i
}

func (m *mergeTable) get(a, b int32) (merge, bool) {
	i := m.slot(pairKey(a, b))
	return m.vals[i], m.keys[i] != noPair
}

// add enters the merge left+right at the given rank. Both sides and their
// concatenation must be tokens and both sides non-empty, so that every merge
// makes a longer token and no chain of merges can run in a circle.
func (m *mergeTable) add(v *vocab, rank int, left, right string) error {
	fail := func(want string) error {
		return fmt.Errorf("merge %d: %.40q + %.40q: want %s: %w", rank, left, right, want, ErrFormat)
	}
	if left == "" || right == "" {
		return fail("two non-empty tokens")
	}
	a, b := v.id(left), v.id(right)
	if a < 0 || b < 0 {
		return fail("two tokens of the vocabulary")
	}
	// The concatenation is looked up in a stack buffer where it fits.
	var buf [128]byte
	id := v.idBytes(append(append(buf[:0], left...), right...))
	if id < 0 {
		return fail("a merged token of the vocabulary")
	}
	key := pairKey(a, b)
	i := m.slot(key)
	if m.keys[i] == key {
		return fail(fmt.Sprintf("each pair once, got merge %d again", m.vals[i].rank))
	}
	m.keys[i], m.vals[i] = key, merge{int32(rank), id}
	return nil
}

// cutMerge splits the text form "left right". Tokens of a merge hold no space
// of their own except as the first byte.
func cutMerge(s string) (left, right string) {
	if s == "" {
		return "", ""
	}
	i := strings.IndexByte(s[1:], ' ')
	if i < 0 {
		return s, ""
	}
	return s[:i+1], s[i+2:]
}
