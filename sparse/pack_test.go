package sparse

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/x448/float16"
)

// random fills rows x cols with the given density; nm24 limits groups to 2 of 4.
func random(rng *rand.Rand, rows, cols int, density float64, nm24 bool) *Dense {
	f := make([]float32, rows*cols)
	for r := range rows {
		for g := 0; g < cols; g += 4 {
			n := 0
			for c := g; c < min(g+4, cols); c++ {
				if rng.Float64() < density && !(nm24 && n == 2) {
					f[r*cols+c] = float32(rng.NormFloat64())
					n++
				}
			}
		}
	}
	return NewDense(rows, cols, f)
}

func TestPackRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, shape := range [][2]int{{0, 0}, {1, 1}, {3, 0}, {7, 33}, {5, 4}, {4, 172}, {2, 130}, {33, 7}, {1, 66000}} {
		for _, density := range []float64{0, 0.1, 0.5, 1} {
			for _, layout := range Layouts {
				for _, typ := range []DType{F32, F16, BF16, Int8, Int4} {
					for _, group := range []int{0, 32, 128} {
						if group != 0 && !typ.Quantised() {
							continue
						}
						name := fmt.Sprintf("%v/%v/%v/%v/g%d", shape, density, layout, typ, group)
						src := random(rng, shape[0], shape[1], density, layout == LayoutNM24)
						m, err := Pack(src, layout, typ, group)
						require.NoError(t, err, name)
						if c, ok := m.(interface{ Check() error }); ok {
							require.NoError(t, c.Check(), name)
						}
						got, err := Read(m)
						require.NoError(t, err, name)
						lim := bounds(typ, src.Values.F32, shape[1], group)
						for i, w := range src.Values.F32 {
							if d := math.Abs(float64(w - got[i])); d > lim(i) || (w == 0 && got[i] != 0) { // zero is exact in every form
								t.Fatalf("%s: weight %d: want %g, got %g", name, i, w, got[i])
							}
						}
					}
				}
			}
		}
	}
}

// bounds gives the largest rounding error of weight i: half a step of its type.
func bounds(t DType, w []float32, cols, group int) func(i int) float64 {
	if group == 0 {
		group = max(1, cols)
	}
	amax := map[[2]int]float64{}
	for i, v := range w {
		k := [2]int{i / cols, i % cols / group}
		amax[k] = max(amax[k], math.Abs(float64(v)))
	}
	return func(i int) float64 {
		a := math.Abs(float64(w[i]))
		g := amax[[2]int{i / cols, i % cols / group}]
		switch t {
		case F16:
			return a/2048 + 1e-7
		case BF16:
			return a/256 + 1e-30
		case Int8:
			return g/127/2 + 1e-6
		case Int4:
			return g/7/2 + 1e-6
		}
		return 0
	}
}

func TestPackNM24RefusesDense(t *testing.T) {
	_, err := Pack(NewDense(1, 4, []float32{1, 2, 3, 0}), LayoutNM24, F32, 0)
	require.ErrorIs(t, err, ErrPattern)
	_, err = Pack(NewDense(1, 3, []float32{1, 2, 3}), LayoutNM24, F32, 0)
	require.ErrorIs(t, err, ErrPattern)
}

// TestBitmaskGolden is the golden row of compressed-tensors (formats.md 4.1).
func TestBitmaskGolden(t *testing.T) {
	m, err := Pack(NewDense(1, 10, []float32{0, 1, 0, 2, 3, 0, 0, 4, 0, 5}), LayoutBitmask, F32, 0)
	require.NoError(t, err)
	b := m.(*Bitmask)
	require.Equal(t, []byte{0x9A, 0x02}, b.Bits)
	require.Equal(t, []float32{1, 2, 3, 4, 5}, b.Values.F32)
}

// TestNibbles holds Keep24 to the table of formats.md 4.2.
func TestNibbles(t *testing.T) {
	for _, c := range []struct {
		keep []int
		want int
	}{{[]int{0, 1}, 4}, {[]int{0, 2}, 8}, {[]int{1, 2}, 9}, {[]int{0, 3}, 0xC}, {[]int{1, 3}, 0xD}, {[]int{2, 3}, 0xE},
		{nil, 0xE}, {[]int{0}, 8}, {[]int{1}, 9}, {[]int{2}, 0xE}, {[]int{3}, 0xE}} {
		g := make([]float32, 4)
		for _, i := range c.keep {
			g[i] = 1
		}
		i0, i1, ok := Keep24(g)
		require.True(t, ok)
		require.Equal(t, c.want, i0|i1<<2, "%v", c.keep)
	}
}

func TestCheckRejects(t *testing.T) {
	good := func() *NM24 {
		m, _ := Pack(NewDense(2, 8, make([]float32, 16)), LayoutNM24, F32, 0)
		return m.(*NM24)
	}
	m := good()
	m.Meta[1] = 0x4E // second group of row 1: pair 0,1 is fine
	require.NoError(t, m.Check())
	m.Meta[1] = 0x0E // pair 0,0: equal
	require.ErrorIs(t, m.Check(), ErrFormat)
	m.Meta[1] = 0x1E // pair 1,0: descending
	require.ErrorIs(t, m.Check(), ErrFormat)
	m = good()
	m.Meta = m.Meta[:1]
	require.ErrorIs(t, m.Check(), ErrFormat)

	c := &CSR{R: 2, C: 3, RowPtr: []int64{0, 2, 3}, Col16: []uint16{0, 2, 1}, Values: Values{Type: F32, F32: make([]float32, 3)}}
	require.NoError(t, c.Check())
	for _, bad := range []*CSR{
		{R: 2, C: 3, RowPtr: []int64{1, 2, 3}, Col16: []uint16{0, 2, 1}, Values: c.Values},
		{R: 2, C: 3, RowPtr: []int64{0, 4, 3}, Col16: []uint16{0, 2, 1}, Values: c.Values},
		{R: 2, C: 3, RowPtr: []int64{0, 2, 3}, Col16: []uint16{0, 3, 1}, Values: c.Values},
		{R: 2, C: 3, RowPtr: []int64{0, 2, 3}, Col16: []uint16{2, 2, 1}, Values: c.Values},
		{R: 2, C: 3, RowPtr: []int64{0, 2, 3}, Col16: []uint16{0, 2, 1}, Values: Values{Type: F32, F32: make([]float32, 2)}},
	} {
		require.ErrorIs(t, bad.Check(), ErrFormat)
	}
	b := &Bitmask{R: 1, C: 3, Bits: []byte{0x08}, RowPtr: []int64{0, 1}, Values: Values{Type: F32, F32: make([]float32, 1)}}
	require.ErrorIs(t, b.Check(), ErrFormat)
}

func TestHalfConversions(t *testing.T) {
	for i := range 1 << 16 {
		h := uint16(i)
		want := float16.Frombits(h).Float32()
		if want != want {
			if f := F16ToF32(h); f == f {
				t.Fatalf("%#x: want NaN, got %g", h, f)
			}
			continue
		}
		if got := F16ToF32(h); math.Float32bits(want) != math.Float32bits(got) || F32ToF16(want) != h {
			t.Fatalf("%#x: want %g, got %g and back %#x", h, want, got, F32ToF16(want))
		}
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 1 << 20 {
		f := math.Float32frombits(rng.Uint32())
		if f != f {
			continue
		}
		if want := uint16(float16.Fromfloat32(f)); want != F32ToF16(f) {
			t.Fatalf("%g: want %#x, got %#x", f, want, F32ToF16(f))
		}
	}
}

func TestMask(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	d := random(rng, 5, 70, 0.5, false)
	m, err := MaskOf(d)
	require.NoError(t, err)
	ones := make([]float32, 5*70)
	for i := range ones {
		ones[i] = 1
	}
	require.NoError(t, m.Apply(ones))
	n := 0
	for i, w := range d.Values.F32 {
		require.Equal(t, w != 0, ones[i] != 0)
		require.Equal(t, w != 0, m.Kept(i/70, i%70))
		if w != 0 {
			n++
		}
	}
	require.Equal(t, n, m.Count())
	c, err := CountZeros(d)
	require.NoError(t, err)
	require.EqualValues(t, 350-n, c.Zeros)
}
