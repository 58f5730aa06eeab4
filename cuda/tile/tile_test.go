package tile

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
)

var forms = []Form{
	{true, sparse.F16}, {true, sparse.BF16}, {true, sparse.Int8}, {true, sparse.FP8}, {true, sparse.Int4},
	{false, sparse.F16}, {false, sparse.BF16}, {false, sparse.Int8}, {false, sparse.FP8}, {false, sparse.Int4},
}

// Every byte (nibble) of a tile is the place of exactly one value, metadata word or scale.
func TestPlacesCoverTheTile(t *testing.T) {
	for _, f := range forms {
		seen := make([]int, 2*f.Bytes())
		mark := func(off, nibble, n int) {
			for i := range n {
				seen[2*off+nibble+i]++
			}
		}
		for row := range Rows {
			for c := range f.stored() {
				off, shift := f.Value(row, c)
				switch f.Type {
				case sparse.Int4:
					mark(off, shift/4, 1)
				case sparse.F16, sparse.BF16:
					mark(off, 0, 4)
				default:
					mark(off, 0, 2)
				}
			}
			if f.NM24 {
				for w := range f.Columns() / 16 {
					mark(f.Meta(row, w), 0, 4)
				}
			}
			if f.Type == sparse.Int4 {
				mark(f.Scale(row), 0, 4)
			}
		}
		for n, times := range seen {
			require.Equal(t, 1, times, "%+v: nibble %d", f, n)
		}
	}
}

// The bytes a weight costs are the ideal ones of reference/cuda.md 6.1.
func TestBytesAreIdeal(t *testing.T) {
	for f, want := range map[Form]float64{
		{true, sparse.F16}: 1.125, {true, sparse.Int8}: .625, {true, sparse.FP8}: .625, {true, sparse.Int4}: .40625,
		{false, sparse.F16}: 2, {false, sparse.Int8}: 1,
	} {
		require.Equal(t, want, float64(f.Size(4096, 4096))/(4096*4096), "%+v", f)
	}
}

// random is a 2:4 matrix: every group of 4 has at most 2 nonzeros.
func random(rng *rand.Rand, out, in int) []float32 {
	w := make([]float32, out*in)
	for r := range out {
		for g := 0; g < in; g += 4 {
			n := min(4, in-g)
			for _, c := range rng.Perm(n)[:min(2, n)] {
				w[r*in+g+c] = float32(rng.IntN(15)-7) / 4
			}
		}
	}
	return w
}

// retype makes fp8 of an int8 matrix: package sparse packs no fp8, it only reads it.
// The codes become other numbers; clearing a bit keeps them from being NaN.
func retype(m sparse.Matrix) {
	var v *sparse.Values
	switch m := m.(type) {
	case *sparse.NM24:
		v = &m.Values
	case *sparse.Dense:
		v = &m.Values
	}
	v.Type = sparse.FP8
	for i := range v.Q {
		v.Q[i] &= 0xf7
	}
}

func TestPackAndReadAreInverse(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, f := range forms {
		for _, dim := range [][2]int{{1, 1}, {7, 33}, {64, 64}, {65, 172}, {128, 192}, {192, 576}, {129, 130}} {
			t.Run(fmt.Sprintf("%v/%v/%dx%d", f.NM24, f.Type, dim[0], dim[1]), func(t *testing.T) {
				layout, group := sparse.LayoutDense, 0
				if f.NM24 {
					layout = sparse.LayoutNM24
				}
				if f.Type == sparse.Int4 {
					group = 64
				}
				as := f.Type
				if as == sparse.FP8 {
					as = sparse.Int8
				}
				m, err := sparse.Pack(sparse.NewDense(dim[0], dim[1], random(rng, dim[0], dim[1])), layout, as, group)
				require.NoError(t, err)
				if f.Type == sparse.FP8 {
					retype(m)
				}
				want, err := sparse.Read(m)
				require.NoError(t, err)
				p, err := Pack(m)
				require.NoError(t, err)
				got := p.Read()
				for i := range want {
					if f.Type == sparse.Int4 { // its scale is stored as f16
						require.InDelta(t, want[i], got[i], 1e-3)
					} else {
						require.Equal(t, want[i], got[i], "element %d", i)
					}
				}
			})
		}
	}
}

func TestBitmaskRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, density := range []float64{0, .1, .5, 1} {
		for _, dim := range [][2]int{{1, 1}, {7, 33}, {64, 64}, {65, 172}} {
			w := make([]float32, dim[0]*dim[1])
			for i := range w {
				if rng.Float64() < density {
					w[i] = float32(rng.IntN(100)+1) / 8
				}
			}
			b, err := PackBitmask(sparse.NewDense(dim[0], dim[1], w), sparse.F16)
			require.NoError(t, err)
			require.Equal(t, w, b.Read(), "density %v, %v", density, dim)
		}
	}
}

func TestPackRefusesWhatKernelsDoNotCompute(t *testing.T) {
	dense := sparse.NewDense(64, 128, make([]float32, 64*128))
	_, err := Pack(dense) // f32
	require.True(t, errors.Is(err, ErrForm))
	int8groups, err := sparse.Pack(dense, sparse.LayoutDense, sparse.Int8, 32)
	require.NoError(t, err)
	_, err = Pack(int8groups)
	require.True(t, errors.Is(err, ErrForm))
	int4groups, err := sparse.Pack(dense, sparse.LayoutNM24, sparse.Int4, 32)
	require.NoError(t, err)
	_, err = Pack(int4groups)
	require.True(t, errors.Is(err, ErrForm))
}
