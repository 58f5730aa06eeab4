package codebook

import (
	"encoding/binary"
	"hash/crc32"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// pruned draws n weights of which the given share is not zero, with long empty stretches.
func pruned(rng *rand.Rand, n int, keep float64) []float32 {
	w := make([]float32, n)
	for i := range w {
		if rng.Float64() < keep && i/1000%3 != 1 {
			w[i] = float32(rng.NormFloat64())
		}
	}
	return w
}

// TestRoundTrip: what Cluster makes comes back bit for bit, whatever the density.
func TestRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, n := range []int{0, 1, 7, 33, 257, 5000} {
		for _, keep := range []float64{0, 0.01, 0.1, 0.9, 1} {
			for _, k := range []int{1, 2, 5, 32, 256} {
				c, err := Cluster(pruned(rng, n, keep), k)
				require.NoError(t, err)
				require.LessOrEqual(t, len(c.Entries), k)
				w := c.Values()
				b, st, err := Encode(w, k)
				require.NoError(t, err)
				require.Equal(t, len(b), st.Bytes)
				require.Equal(t, st.Bytes, st.Codebook+st.Tables+(st.Values+st.Gaps+7)/8, "%+v", st)
				got, err := Decode(b, n)
				require.NoError(t, err)
				require.Equal(t, w, got)
				f, err := (&Tensor{Name: "w", Shape: []int{n}, Kind: KindCoded, Data: b}).Stats()
				require.NoError(t, err)
				require.Equal(t, st, f)
			}
		}
	}
}

// TestKMeans: against numbers worked out by hand, and no worse than any other split of sorted
// values can be by moving one boundary.
func TestKMeans(t *testing.T) {
	// Centroids start at 1, 4, 7, 10: 1 2 | 3 4 5 | nothing | 9 10. The one without weights goes.
	c, err := Cluster([]float32{1, 0, 2, 3, 4, 5, 9, 10}, 4)
	require.NoError(t, err)
	require.Equal(t, []float32{1.5, 4, 9.5}, c.Entries)
	require.Equal(t, []int32{0, -1, 0, 1, 1, 1, 2, 2}, c.Code)
	// A centroid at zero would prune: it moves to a weight.
	c, err = Cluster([]float32{-1, 1, -3, 3}, 1)
	require.NoError(t, err)
	require.Len(t, c.Entries, 1)
	require.NotZero(t, c.Entries[0])

	rng := rand.New(rand.NewPCG(2, 2))
	w := pruned(rng, 3000, 1)
	c, err = Cluster(w, 16)
	require.NoError(t, err)
	even := &Codes{Entries: make([]float32, 16)} // where k-means began
	lo, hi := float32(math.Inf(1)), float32(math.Inf(-1))
	for _, v := range w {
		lo, hi = min(lo, v), max(hi, v)
	}
	for i := range even.Entries {
		even.Entries[i] = lo + (hi-lo)*float32(i)/15
	}
	even.Code = assign(w, even.Entries)
	require.Less(t, squares(w, c.Values()), 0.8*squares(w, even.Values()))
	for k, e := range c.Entries { // every centroid is the mean of its weights: a fixed point
		sum, n := 0.0, 0
		for i, v := range w {
			if c.Code[i] == int32(k) {
				sum += float64(v)
				n++
			}
		}
		require.InDelta(t, sum/float64(n), float64(e), 1e-3)
	}
	_, err = Cluster([]float32{float32(math.NaN())}, 4)
	require.ErrorIs(t, err, ErrValue)
	_, err = Cluster(nil, 0)
	require.ErrorIs(t, err, ErrValue)
}

func squares(a, b []float32) (s float64) {
	for i := range a {
		d := float64(a[i] - b[i])
		s += d * d
	}
	return s
}

// TestHuffman: the code is optimal where no length is cut (Huffman's cost by repeated merging),
// within a bit of entropy, and complete.
func TestHuffman(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	for range 200 {
		freq := make([]int, 2+rng.IntN(200))
		total := 0
		for i := range freq {
			if rng.IntN(4) > 0 {
				freq[i] = 1 + int(math.Exp(rng.Float64()*8))
			}
			total += freq[i]
		}
		l := codeLengths(freq)
		cost, used, entropy := 0, 0, 0.0
		for s, f := range freq {
			require.Equal(t, f > 0, l[s] > 0)
			cost += f * int(l[s])
			if f > 0 {
				used++
				entropy -= float64(f) * math.Log2(float64(f)/float64(total))
			}
		}
		if used > 1 {
			_, err := newDecoder(l, "test")
			require.NoError(t, err)
			require.Equal(t, mergeCost(freq), cost)
			require.Less(t, float64(cost), entropy+float64(total))
		}
	}
	fib := []int{1, 1} // Huffman's code for these is as deep as the list is long
	for len(fib) < 40 {
		fib = append(fib, fib[len(fib)-1]+fib[len(fib)-2])
	}
	_, err := newDecoder(codeLengths(fib), "test")
	require.NoError(t, err)
}

func mergeCost(freq []int) int {
	var heap []int
	for _, f := range freq {
		if f > 0 {
			heap = append(heap, f)
		}
	}
	cost := 0
	for len(heap) > 1 {
		for i := range 2 {
			for j := i + 1; j < len(heap); j++ {
				if heap[j] < heap[i] {
					heap[i], heap[j] = heap[j], heap[i]
				}
			}
		}
		cost += heap[0] + heap[1]
		heap = append(heap[2:], heap[0]+heap[1])
	}
	return cost
}

// coded is a small coded tensor of 20 weights: header of 3 + 4*2 + 4 bytes, 2 and 1 of lengths.
func coded(t testing.TB) []byte {
	w := make([]float32, 20)
	w[1], w[5], w[6], w[19] = 1, -2, 1, 1
	c, err := Cluster(w, 2)
	require.NoError(t, err)
	b, st := c.encode(2)
	require.Equal(t, 3, st.Fillers)
	got, err := Decode(b, 20)
	require.NoError(t, err)
	require.Equal(t, w, got)
	return b
}

func TestHostileTensor(t *testing.T) {
	good := coded(t)
	set := func(at int, v ...byte) []byte {
		b := append([]byte(nil), good...)
		copy(b[at:], v)
		return b
	}
	nan := binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.NaN())))
	for name, c := range map[string]struct {
		b    []byte
		n    int
		want error
	}{
		"empty":                  {nil, 20, ErrTruncated},
		"gaps of no bits":        {set(0, 0), 20, ErrFormat},
		"gaps of 9 bits":         {set(0, 9), 20, ErrFormat},
		"257 entries":            {set(1, 1, 1), 20, ErrFormat},
		"codebook cut":           {good[:8], 20, ErrTruncated},
		"entry NaN":              {set(3, nan...), 20, ErrFormat},
		"entry zero":             {set(3, 0, 0, 0, 0), 20, ErrFormat},
		"entries descend":        {set(3, good[7], good[8], good[9], good[10], good[3], good[4], good[5], good[6]), 20, ErrFormat},
		"more pairs than bits":   {set(11, 20), 1 << 20, ErrTruncated},
		"2^32-1 pairs":           {set(11, 255, 255, 255, 255), 20, ErrFormat},
		"2^32-1 pairs of many":   {set(11, 255, 255, 255, 255), math.MaxInt32, ErrFormat},
		"no codes":               {set(15, 0, 0, 0, 0), 20, ErrFormat},
		"too many short codes":   {set(15, 0x11, 0x10), 20, ErrFormat},
		"an incomplete code":     {set(15, 0x22, 0x20), 20, ErrFormat},
		"padding of the lengths": {set(16, good[16]|1), 20, ErrFormat},
		"fewer weights":          {good, 19, ErrFormat},
		"more weights":           {append(append([]byte(nil), good...), 0), 20, ErrFormat},
		"bits cut":               {good[:len(good)-1], 20, ErrTruncated},
		"padding of the bits":    {set(len(good)-1, good[len(good)-1]|1), 20, ErrFormat},
		"negative count":         {good, -1, ErrLimit},
	} {
		_, err := Decode(c.b, c.n)
		require.ErrorIs(t, err, c.want, name)
		require.NotContains(t, err.Error(), "\n")
	}
	require.Equal(t, byte(0), good[len(good)-1]&1, "the test of the padding needs some")
}

func file(t testing.TB) *File {
	return &File{Network: []byte("a network"), Tensors: []Tensor{{"w", []int{4, 5}, KindCoded, coded(t)}, Half("b", []int{3}, []float32{1, -0.5, 65504}), Half("c", []int{1}, []float32{1e6})}}
}

func TestFile(t *testing.T) {
	f := file(t)
	b := f.Append([]byte("before"))[6:]
	got, err := Read(b, 24)
	require.NoError(t, err)
	require.Equal(t, f, got)
	x, err := got.Tensors[1].Floats()
	require.NoError(t, err)
	require.Equal(t, []float32{1, -0.5, 65504}, x)
	require.Equal(t, KindF32, got.Tensors[2].Kind)
	_, err = Read(b, 23)
	require.ErrorIs(t, err, ErrLimit)
	for i := range b { // any one damaged byte is noticed
		bad := append([]byte(nil), b...)
		bad[i] ^= 0x20
		_, err := Read(bad, 1<<20)
		require.Error(t, err, "byte %d", i)
	}
}

// sealed corrects the checksum: what a checksum cannot keep out must be checked all the same.
func sealed(b []byte) []byte {
	if len(b) >= len(Magic)+4 {
		binary.LittleEndian.PutUint32(b[len(Magic):], crc32.ChecksumIEEE(b[len(Magic)+4:]))
	}
	return b
}

func TestHostileFile(t *testing.T) {
	head := append([]byte(Magic), 0, 0, 0, 0)
	with := func(x ...byte) []byte { return sealed(append(append([]byte(nil), head...), x...)) }
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"empty":               {nil, ErrTruncated},
		"another file":        {[]byte("GGUF...................."), ErrFormat},
		"checksum":            {append([]byte(Magic), 1, 2, 3, 4, 0, 0), ErrFormat},
		"network cut":         {with(9, 'a'), ErrTruncated},
		"network of 2^63":     {with(255, 255, 255, 255, 255, 255, 255, 255, 127), ErrLimit},
		"number of 11 bytes":  {with(255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1), ErrTruncated},
		"tensors cut":         {with(0, 1), ErrTruncated},
		"name of 1 MB":        {with(0, 1, 128, 128, 64), ErrLimit},
		"no name":             {with(0, 1, 0, 1, 0, 0), ErrFormat},
		"kind 9":              {with(0, 1, 1, 'w', 9, 0, 0), ErrFormat},
		"rank 9":              {with(0, 1, 1, 'w', 1, 9, 0), ErrFormat},
		"a billion weights":   {with(0, 1, 1, 'w', 1, 2, 128, 128, 4, 128, 128, 4, 0), ErrLimit},
		"twice the same name": {with(0, 2, 1, 'w', 2, 1, 0, 0, 1, 'w', 2, 1, 0, 0), ErrFormat},
		"bytes after the end": {with(0, 0, 0), ErrFormat},
	} {
		_, err := Read(c.b, 1<<20)
		require.ErrorIs(t, err, c.want, name)
	}
	f, err := Read(with(0, 1, 1, 'w', 2, 1, 3, 2, 0, 0), 1<<20)
	require.NoError(t, err)
	_, err = f.Tensors[0].Floats()
	require.ErrorIs(t, err, ErrFormat)
}

// FuzzDecode: an error, or weights whose code is as long or shorter and means the same.
func FuzzDecode(f *testing.F) {
	f.Add(coded(f), 20)
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0}, 5)
	f.Fuzz(func(t *testing.T, b []byte, n int) {
		if n > 1<<16 {
			return
		}
		w, err := Decode(b, n)
		if err != nil {
			return
		}
		if len(w) != n {
			t.Fatalf("want %d weights, got %d", n, len(w))
		}
		again, _, err := Encode(w, MaxEntries)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(again, n)
		if err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			if v != w[i] {
				t.Fatalf("weight %d: want %g, got %g", i, w[i], v)
			}
		}
	})
}

// FuzzRead: no panic, whatever stands behind a checksum that fits.
func FuzzRead(f *testing.F) {
	f.Add(file(f).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := Read(sealed(append([]byte(nil), b...)), 1<<16)
		if err != nil {
			return
		}
		for i := range x.Tensors {
			if w, err := x.Tensors[i].Floats(); err == nil && len(w) != x.Tensors[i].Len() {
				t.Fatalf("tensor %d: want %d weights, got %d", i, x.Tensors[i].Len(), len(w))
			}
		}
	})
}
