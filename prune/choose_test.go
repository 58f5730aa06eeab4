package prune

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"testing"

	"github.com/stretchr/testify/require"
)

// smallest is the obvious form of dropSmallest.
func smallest(keys []uint32, k int) map[int]bool {
	idx := make([]int, len(keys))
	for i := range idx {
		idx[i] = i
	}
	sort.SliceStable(idx, func(a, b int) bool { return keys[idx[a]] < keys[idx[b]] })
	out := map[int]bool{}
	for _, i := range idx[:k] {
		out[i] = true
	}
	return out
}

func TestDropSmallestIsExactAndStable(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 7, 33, 1000} {
		for _, values := range []uint64{1, 3, 1 << 31} { // all equal, many ties, hardly any
			keys := make([]uint32, n)
			for i := range keys {
				keys[i] = uint32(rng.Uint64N(values)) * 7919
			}
			for _, k := range []int{0, 1, n / 3, n / 2, n - 1, n} {
				if k < 0 || k > n {
					continue
				}
				want := smallest(keys, k)
				for name, f := range map[string]func(drop func(int)){
					"histogram": func(drop func(int)) { dropSmallest(keys, k, drop) },
					"row":       func(drop func(int)) { dropRow(keys, k, make([]int32, n), drop) },
				} {
					got := map[int]bool{}
					f(func(i int) { got[i] = true })
					require.Equal(t, want, got, "%s n=%d values=%d k=%d", name, n, values, k)
				}
			}
		}
	}
}

func TestKeyOrdersAsTheNumber(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 10000 {
		a := math.Float32frombits(rng.Uint32() & 0x7f7fffff)
		b := math.Float32frombits(rng.Uint32() & 0x7f7fffff)
		require.Equal(t, a < b, key(a) < key(b))
		require.Equal(t, key(a), key(-a))
	}
}

func TestNMMasks(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, p := range []NM{{2, 4}, {4, 8}, {6, 8}, {1, 4}, {0, 4}, {4, 4}, {1, 2}, {3, 7}} {
		for _, cols := range []int{1, 2, 3, 4, 7, 33, 172} {
			keys := make([]uint32, 5*cols)
			for i := range keys {
				keys[i] = rng.Uint32N(6) // many ties
			}
			m, err := maskOf(keys, 5, cols, p)
			require.NoError(t, err)
			for r := range 5 {
				for g := 0; g < cols; g += p.Of {
					n := min(p.Of, cols-g)
					want := smallest(keys[r*cols+g:r*cols+g+n], n-p.keep(n))
					for i := range n {
						require.Equal(t, !want[i], m.Kept(r, g+i), "%v cols %d row %d col %d", p, cols, r, g+i)
					}
				}
			}
		}
	}
}

func TestBlockMasks(t *testing.T) {
	// Two tiles of 2x3 across, the last of one column; means 1, 9, 5, 3.
	keys := []uint32{}
	for r := range 4 {
		for c := range 4 {
			v := []float32{1, 9, 5, 3}[r/2*2+c/3]
			keys = append(keys, key(v))
		}
	}
	m, err := maskOf(keys, 4, 4, Block{Rows: 2, Cols: 3, Sparsity: 0.5})
	require.NoError(t, err)
	for r := range 4 {
		for c := range 4 {
			require.Equal(t, r < 2 == (c == 3), m.Kept(r, c), "row %d col %d", r, c)
		}
	}
}

func TestScopesPruneExactly(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 8))
	const rows, cols = 13, 70
	keys := make([]uint32, rows*cols)
	for i := range keys {
		keys[i] = rng.Uint32N(50)
	}
	for _, s := range []float64{0, 0.1, 0.5, 0.7, 0.99, 1} {
		m, err := maskOf(keys, rows, cols, Unstructured{s, ScopeLayer})
		require.NoError(t, err)
		require.Equal(t, rows*cols-budget(rows*cols, s), m.Count())
		m, err = maskOf(keys, rows, cols, Unstructured{s, ScopeRow})
		require.NoError(t, err)
		require.Equal(t, rows*(cols-budget(cols, s)), m.Count())
	}
	require.Equal(t, 7, budget(10, 0.7)) // 0.7*10 is 7 in binary, 0.29*100 is 28.999...
	require.Equal(t, 29, budget(100, 0.29))
	require.Equal(t, 3, budget(7, 0.5))
}

func TestParsePattern(t *testing.T) {
	for in, want := range map[string]Pattern{
		"2:4": Pattern24, "1:4": NM{1, 4}, "0.5": Unstructured{Sparsity: 0.5}, "50%": Unstructured{Sparsity: 0.5},
		"0.7/row": Unstructured{0.7, ScopeRow}, "0.7/global": Unstructured{0.7, ScopeGlobal}, "16x4/0.8": Block{16, 4, 0.8}, "4x1/80%": Block{4, 1, 0.8},
	} {
		got, err := ParsePattern(in)
		require.NoError(t, err, in)
		require.Equal(t, want, got)
		again, err := ParsePattern(got.String())
		require.NoError(t, err)
		require.Equal(t, want, again)
	}
	for _, in := range []string{"", "x", "2:", "5:4", "-1:4", "2:0", "1.5", "-0.1", "NaN", "0.5/diag", "0x4/0.5", "4x4", "4x4/2", "2:4:8", "101%"} {
		_, err := ParsePattern(in)
		require.ErrorIs(t, err, ErrPattern, in)
	}
	require.InDelta(t, 0.75, NM{1, 4}.Target(), 1e-12)
	require.Equal(t, "2:4", fmt.Sprint(Pattern24))
}
