package codebook

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A coded tensor:
//
//	1 byte     G, the bits of a gap, 1..8
//	2 bytes    K, the entries of the codebook, 0..256
//	4 K bytes  the entries, float32, ascending, none of them zero
//	4 bytes    E, how many pairs follow
//	lengths    of the codes of the K+1 values (the last is the filler), then of the 2^G gaps;
//	           four bits each, the first high, padded to a byte after each of the two
//	bits       E pairs: gap, value; the highest bit first
//
// A pair says: skip gap zeros, then comes the value. Where more than 2^G-1 zeros follow one
// another, a filler - a zero that is written - follows the largest gap.

// maxGap is the most bits of a gap.
const maxGap = 8

// Stats say where the bytes of a coded tensor went.
type Stats struct {
	Weights  int `json:"weights"`
	Nonzero  int `json:"nonzero"`
	Entries  int `json:"codebook_entries"`
	Fillers  int `json:"fillers"`
	GapBits  int `json:"gap_bits"` // of a gap before Huffman
	Codebook int `json:"codebook_bytes"`
	Tables   int `json:"table_bytes"` // of the code lengths and counts
	Values   int `json:"value_bits"`  // all values, Huffman coded
	Gaps     int `json:"index_bits"`  // all gaps, Huffman coded
	Bytes    int `json:"bytes"`       // all together
}

// Encode writes weights with a codebook of at most n entries. It is exact where w has no more
// distinct nonzero values than that; otherwise Cluster's nearest entries are written. The
// width of gaps is the one that gives the fewest bytes.
func Encode(w []float32, n int) ([]byte, Stats, error) {
	c, err := Cluster(w, n)
	if err != nil {
		return nil, Stats{}, err
	}
	if len(w) > math.MaxInt32 {
		return nil, Stats{}, fmt.Errorf("codebook: %d weights: want at most %d: %w", len(w), math.MaxInt32, ErrLimit)
	}
	var best []byte
	var stats Stats
	for g := 1; g <= maxGap; g++ {
		b, st := c.encode(g)
		if best == nil || len(b) < len(best) {
			best, stats = b, st
		}
	}
	return best, stats, nil
}

type pair struct{ gap, value uint16 }

func (c *Codes) encode(g int) ([]byte, Stats) {
	filler, longest := uint16(len(c.Entries)), uint16(1<<g-1)
	st := Stats{Weights: len(c.Code), Entries: len(c.Entries), GapBits: g, Codebook: 4 * len(c.Entries)}
	var pairs []pair
	values, gaps := make([]int, len(c.Entries)+1), make([]int, 1<<g)
	zeros := uint16(0)
	for _, k := range c.Code {
		if k < 0 {
			if zeros < longest {
				zeros++
				continue
			}
			// This zero is written, if a value comes after it at all.
			pairs = append(pairs, pair{longest, filler})
			zeros = 0
			continue
		}
		pairs = append(pairs, pair{zeros, uint16(k)})
		zeros = 0
		st.Nonzero++
	}
	for len(pairs) > 0 && pairs[len(pairs)-1].value == filler {
		pairs = pairs[:len(pairs)-1]
	}
	for _, p := range pairs {
		values[p.value]++
		gaps[p.gap]++
	}
	st.Fillers = values[filler]
	b := binary.LittleEndian.AppendUint16([]byte{byte(g)}, uint16(len(c.Entries)))
	for _, e := range c.Entries {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(e))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(len(pairs)))
	if len(pairs) == 0 {
		st.Tables = len(b) - st.Codebook
		st.Bytes = len(b)
		return b, st
	}
	vl, gl := codeLengths(values), codeLengths(gaps)
	b = appendNibbles(appendNibbles(b, vl), gl)
	st.Tables = len(b) - st.Codebook
	vc, gc := canonical(vl), canonical(gl)
	out := &bitWriter{b: b}
	for _, p := range pairs {
		out.put(gc[p.gap], gl[p.gap])
		out.put(vc[p.value], vl[p.value])
		st.Gaps += int(gl[p.gap])
		st.Values += int(vl[p.value])
	}
	b = out.bytes()
	st.Bytes = len(b)
	return b, st
}

func appendNibbles(b []byte, x []uint8) []byte {
	for i := 0; i < len(x); i += 2 {
		v := x[i] << 4
		if i+1 < len(x) {
			v |= x[i+1]
		}
		b = append(b, v)
	}
	return b
}
