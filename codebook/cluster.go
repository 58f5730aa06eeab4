package codebook

import (
	"fmt"
	"math"
	"slices"
)

// MaxEntries is the largest codebook: 8 bits.
const MaxEntries = 256

// Codes are weights as indices into a codebook; -1 is a zero.
type Codes struct {
	Code    []int32
	Entries []float32 // ascending, without zero
}

// Cluster finds a codebook of at most n entries for the nonzero weights of w by k-means, its
// centroids spread evenly between the least and the largest at first: the initialisation that
// keeps large weights best (section 3.2 of the paper). Zeros stay zeros. w is not changed.
func Cluster(w []float32, n int) (*Codes, error) {
	if n < 1 || n > MaxEntries {
		return nil, fmt.Errorf("codebook: entries: want 1..%d, got %d: %w", MaxEntries, n, ErrValue)
	}
	sorted := make([]float32, 0, len(w))
	for i, v := range w {
		if v-v != 0 {
			return nil, fmt.Errorf("codebook: weight %d is %g: %w", i, v, ErrValue)
		}
		if v != 0 {
			sorted = append(sorted, v)
		}
	}
	slices.Sort(sorted)
	c := distinct(sorted, n)
	if c == nil {
		c = kMeans(sorted, n)
	}
	return &Codes{Code: assign(w, c), Entries: c}, nil
}

// Values are the weights that the codes stand for.
func (c *Codes) Values() []float32 {
	w := make([]float32, len(c.Code))
	for i, k := range c.Code {
		if k >= 0 {
			w[i] = c.Entries[k]
		}
	}
	return w
}

// distinct lists the values of sorted, nil if there are more than n.
func distinct(sorted []float32, n int) []float32 {
	c := []float32{}
	for i, v := range sorted {
		if i > 0 && v == sorted[i-1] {
			continue
		}
		if len(c) == n {
			return nil
		}
		c = append(c, v)
	}
	return c
}

// kMeans is Lloyd's in one dimension: clusters are runs of the sorted values, so that a round
// is one pass. A centroid without weights goes; one that is zero would be no weight, and moves
// to its nearest value.
func kMeans(sorted []float32, n int) []float32 {
	lo, hi := float64(sorted[0]), float64(sorted[len(sorted)-1])
	c := make([]float64, n)
	for i := range c {
		c[i] = lo + (hi-lo)*float64(i)/float64(max(1, n-1))
	}
	for range 100 {
		sum, count := make([]float64, len(c)), make([]int, len(c))
		k := 0
		for _, v := range sorted {
			for k+1 < len(c) && math.Abs(float64(v)-c[k+1]) < math.Abs(float64(v)-c[k]) {
				k++
			}
			sum[k] += float64(v)
			count[k]++
		}
		moved := false
		kept := c[:0]
		for i, m := range count {
			if m == 0 {
				moved = true
				continue
			}
			next := sum[i] / float64(m)
			moved = moved || next != c[i]
			kept = append(kept, next)
		}
		c = kept
		if !moved {
			break
		}
	}
	out := make([]float32, 0, len(c))
	for _, v := range c {
		f := float32(v)
		if f == 0 {
			f = nearest(sorted, 0)
		}
		out = append(out, f)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// nearest is the value of sorted, none of which is zero, that is closest to v.
func nearest(sorted []float32, v float32) float32 {
	best := sorted[0]
	for _, x := range sorted {
		if math.Abs(float64(x-v)) < math.Abs(float64(best-v)) {
			best = x
		}
	}
	return best
}

// assign gives every nonzero weight its nearest entry, the lower one between two.
func assign(w, entries []float32) []int32 {
	code := make([]int32, len(w))
	for i, v := range w {
		if v == 0 || len(entries) == 0 {
			code[i] = -1
			continue
		}
		k, found := slices.BinarySearch(entries, v)
		if !found {
			switch {
			case k == len(entries):
				k--
			case k > 0 && float64(v)-float64(entries[k-1]) <= float64(entries[k])-float64(v):
				k--
			}
		}
		code[i] = int32(k)
	}
	return code
}
