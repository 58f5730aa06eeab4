package codebook

import (
	"encoding/binary"
	"fmt"
	"math"
)

// reader takes fields off the front of bytes.
type reader struct {
	b    []byte
	base int // of b[0], for errors
}

func (r *reader) take(n int, what string) ([]byte, error) {
	if n < 0 || n > len(r.b) {
		return nil, fmt.Errorf("codebook: offset %d: %s: want %d bytes, got %d: %w", r.base, what, n, len(r.b), ErrTruncated)
	}
	x := r.b[:n]
	r.b, r.base = r.b[n:], r.base+n
	return x, nil
}

func (r *reader) u32(what string) (uint32, error) {
	b, err := r.take(4, what)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (r *reader) nibbles(n int, what string) ([]uint8, error) {
	b, err := r.take((n+1)/2, what)
	if err != nil {
		return nil, err
	}
	out := make([]uint8, n)
	for i := range out {
		out[i] = b[i/2] >> (4 * (1 - i%2)) & 15
	}
	if n%2 == 1 && b[n/2]&15 != 0 {
		return nil, fmt.Errorf("codebook: offset %d: %s: padding is not zero: %w", r.base-1, what, ErrFormat)
	}
	return out, nil
}

// header is what stands before the bits of a coded tensor.
type header struct {
	gap     int
	entries []float32
	pairs   int
	values  *decoder
	gaps    *decoder
}

func readHeader(r *reader, n int) (*header, error) {
	b, err := r.take(3, "gap width and codebook size")
	if err != nil {
		return nil, err
	}
	h := &header{gap: int(b[0])}
	k := int(binary.LittleEndian.Uint16(b[1:]))
	if h.gap < 1 || h.gap > maxGap || k > MaxEntries {
		return nil, fmt.Errorf("codebook: offset %d: want gaps of 1..%d bits and at most %d entries, got %d and %d: %w", r.base-3, maxGap, MaxEntries, h.gap, k, ErrFormat)
	}
	if b, err = r.take(4*k, "codebook"); err != nil {
		return nil, err
	}
	for i := range k {
		v := math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		if v-v != 0 || v == 0 || i > 0 && v <= h.entries[i-1] {
			return nil, fmt.Errorf("codebook: entry %d: want finite numbers, ascending, none of them zero, got %g: %w", i, v, ErrFormat)
		}
		h.entries = append(h.entries, v)
	}
	e, err := r.u32("number of pairs")
	if err != nil {
		return nil, err
	}
	// A pair is at least one weight.
	if int64(e) > int64(n) {
		return nil, fmt.Errorf("codebook: pairs: want at most the %d weights, got %d: %w", n, e, ErrFormat)
	}
	h.pairs = int(e)
	if e == 0 {
		return h, nil
	}
	for _, t := range []struct {
		n    int
		what string
		to   **decoder
	}{{k + 1, "values", &h.values}, {1 << h.gap, "gaps", &h.gaps}} {
		l, err := r.nibbles(t.n, "code lengths of "+t.what)
		if err != nil {
			return nil, err
		}
		if *t.to, err = newDecoder(l, t.what); err != nil {
			return nil, err
		}
	}
	if int64(len(r.b))*8 < 2*int64(e) {
		return nil, fmt.Errorf("codebook: %d pairs in %d bytes: %w", e, len(r.b), ErrTruncated)
	}
	return h, nil
}

// Decode reads a coded tensor of n weights, all of b. Nothing larger than the n weights is
// allocated, and they only once the header has been believed.
func Decode(b []byte, n int) ([]float32, error) {
	if n < 0 || n > math.MaxInt32 {
		return nil, fmt.Errorf("codebook: %d weights: want 0..%d: %w", n, math.MaxInt32, ErrLimit)
	}
	r := &reader{b: b}
	h, err := readHeader(r, n)
	if err != nil {
		return nil, err
	}
	if h.pairs == 0 && len(r.b) > 0 {
		return nil, fmt.Errorf("codebook: offset %d: %d bytes after the end: %w", r.base, len(r.b), ErrFormat)
	}
	w := make([]float32, n)
	bits := &bitReader{b: r.b}
	at := 0
	for i := range h.pairs {
		gap, ok := h.gaps.next(bits)
		value, ok2 := 0, false
		if ok {
			value, ok2 = h.values.next(bits)
		}
		if !ok2 {
			return nil, fmt.Errorf("codebook: pair %d of %d: the bits end or are no code: %w", i, h.pairs, ErrTruncated)
		}
		if at += gap; at >= n {
			return nil, fmt.Errorf("codebook: pair %d of %d is weight %d of %d: %w", i, h.pairs, at, n, ErrFormat)
		}
		if value < len(h.entries) {
			w[at] = h.entries[value]
		} else if gap != 1<<h.gap-1 || i == h.pairs-1 {
			return nil, fmt.Errorf("codebook: pair %d of %d: a filler after a gap of %d, or the last: %w", i, h.pairs, gap, ErrFormat)
		}
		at++
	}
	if !bits.rest() {
		return nil, fmt.Errorf("codebook: bits after pair %d: %w", h.pairs, ErrFormat)
	}
	return w, nil
}
