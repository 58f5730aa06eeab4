package codebook

import (
	"cmp"
	"fmt"
	"slices"
)

// maxCode is the longest code: four bits hold a length.
const maxCode = 15

// codeLengths are the lengths of an optimal prefix code of at most maxCode bits for the given
// frequencies (package-merge, Larmore & Hirschberg 1990); 0 for symbols that do not occur. One
// symbol alone gets one bit.
func codeLengths(freq []int) []uint8 {
	type coin struct {
		weight int
		symbol []int
	}
	var leaves []coin
	for s, f := range freq {
		if f > 0 {
			leaves = append(leaves, coin{f, []int{s}})
		}
	}
	out := make([]uint8, len(freq))
	if len(leaves) < 2 {
		for _, l := range leaves {
			out[l.symbol[0]] = 1
		}
		return out
	}
	slices.SortStableFunc(leaves, func(a, b coin) int { return cmp.Compare(a.weight, b.weight) })
	row := leaves
	for range maxCode - 1 {
		pairs := slices.Clone(leaves)
		for i := 0; i+1 < len(row); i += 2 {
			pairs = append(pairs, coin{row[i].weight + row[i+1].weight, slices.Concat(row[i].symbol, row[i+1].symbol)})
		}
		slices.SortStableFunc(pairs, func(a, b coin) int { return cmp.Compare(a.weight, b.weight) })
		row = pairs
	}
	for _, c := range row[:2*len(leaves)-2] {
		for _, s := range c.symbol {
			out[s]++
		}
	}
	return out
}

// canonical gives every symbol its code, by length and then by number, as in RFC 1951.
func canonical(lengths []uint8) []uint16 {
	var count, next [maxCode + 2]int
	for _, l := range lengths {
		if l > 0 {
			count[l]++
		}
	}
	for l := 1; l <= maxCode; l++ {
		next[l+1] = (next[l] + count[l]) << 1
	}
	codes := make([]uint16, len(lengths))
	for s, l := range lengths {
		if l > 0 {
			codes[s] = uint16(next[l])
			next[l]++
		}
	}
	return codes
}

// bitWriter puts the highest bit first.
type bitWriter struct {
	b    []byte
	acc  uint32
	held uint
}

func (w *bitWriter) put(code uint16, n uint8) {
	w.acc = w.acc<<n | uint32(code)
	w.held += uint(n)
	for w.held >= 8 {
		w.held -= 8
		w.b = append(w.b, byte(w.acc>>w.held))
	}
}

// bytes pads with zeros.
func (w *bitWriter) bytes() []byte {
	if w.held > 0 {
		w.b = append(w.b, byte(w.acc<<(8-w.held)))
		w.held = 0
	}
	return w.b
}

type bitReader struct {
	b    []byte
	at   int
	acc  uint32
	held uint
}

// decoder is one lookup: the next bits, as many as the longest code has, to symbol and length.
type decoder struct {
	bits  uint8
	table []uint16 // symbol<<4 | length; 0: no code
}

// newDecoder refuses lengths that are no complete prefix code: every string of bits must mean
// something. The one exception is a single symbol, of one bit.
func newDecoder(lengths []uint8, what string) (*decoder, error) {
	used, top := 0, uint8(0)
	sum := 0
	for _, l := range lengths {
		if l > 0 {
			used++
			top = max(top, l)
			sum += 1 << (maxCode - l)
		}
	}
	if used == 0 || used == 1 && top != 1 || used > 1 && sum != 1<<maxCode {
		return nil, fmt.Errorf("codebook: code lengths of %s: want a complete prefix code, got %d symbols that fill %d of %d: %w", what, used, sum, 1<<maxCode, ErrFormat)
	}
	d := &decoder{bits: top, table: make([]uint16, 1<<top)}
	codes := canonical(lengths)
	for s, l := range lengths {
		if l == 0 {
			continue
		}
		lo := int(codes[s]) << (top - l)
		for i := range 1 << (top - l) {
			d.table[lo+i] = uint16(s)<<4 | uint16(l)
		}
	}
	return d, nil
}

// next reads a symbol; false where the bits end or mean nothing.
func (d *decoder) next(r *bitReader) (int, bool) {
	for r.held < uint(d.bits) && r.at < len(r.b) {
		r.acc = r.acc<<8 | uint32(r.b[r.at])
		r.at++
		r.held += 8
	}
	var look uint32
	if r.held >= uint(d.bits) {
		look = r.acc >> (r.held - uint(d.bits))
	} else {
		look = r.acc << (uint(d.bits) - r.held)
	}
	e := d.table[look&(1<<d.bits-1)]
	n := uint(e & 15)
	if n == 0 || n > r.held {
		return 0, false
	}
	r.held -= n
	return int(e >> 4), true
}

// rest reports whether what is left is padding: fewer than eight bits, all zero.
func (r *bitReader) rest() bool {
	return r.at == len(r.b) && r.held < 8 && r.acc&(1<<r.held-1) == 0
}
