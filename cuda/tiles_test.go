package cuda

import (
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
)

// Whatever the batch, its blocks cover it, splits of k all have work, and small
// batches fill the device.
func TestCut(t *testing.T) {
	for _, layout := range []sparse.Layout{sparse.LayoutNM24, sparse.LayoutBitmask} {
		for _, sms := range []int{1, 4, 108, 132} {
			for _, out := range []int{1, 128, 129, 4096, 49152} {
				for _, kt := range []int{1, 2, 9, 64, 224} {
					w := &weight{layout: layout, rows: out, kt: kt}
					for _, rows := range []int{1, 8, 16, 17, 32, 33, 64, 65, 128, 129, 1000} {
						c := w.cut(rows, sms)
						require.Contains(t, w.columns(), c.n)
						require.GreaterOrEqual(t, c.n*c.y, rows)
						require.Less(t, c.n*(c.y-1), rows)
						require.GreaterOrEqual(t, tileOutputs*c.x, out)
						per := blocks(kt, c.splits)
						require.Less(t, per*(c.splits-1), kt, "%+v: the last split has nothing to do", c)
						if c.splits > 1 {
							require.LessOrEqual(t, c.x*c.y*c.splits, 2*sms)
							require.GreaterOrEqual(t, per, splitTiles)
							require.LessOrEqual(t, c.splitBytes(), int64(2*sms)*int64(c.n)*tileOutputs*4)
						} else if kt > splitTiles {
							require.Greater(t, 2*c.x*c.y*2, 2*sms, "%+v: %d multiprocessors wait", c, sms)
						}
					}
				}
			}
		}
	}
}

// The runs of any batch are its rows in order; a query tile holds rows of one
// sequence at rising positions.
func TestCutRuns(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var pos, seq []int32
		for s := range 1 + rng.IntN(5) {
			n, at := 1, rng.IntN(50)
			if rng.IntN(2) == 0 {
				n = 1 + rng.IntN(150)
			}
			for i := range n {
				pos, seq = append(pos, int32(at+i)), append(seq, int32(s))
			}
		}
		if rng.IntN(3) == 0 { // rows in any order
			rng.Shuffle(len(pos), func(i, j int) { pos[i], pos[j], seq[i], seq[j] = pos[j], pos[i], seq[j], seq[i] })
		}
		runs, tiles := cutRuns(pos, seq)
		row, tile := 0, 0
		for i, r := range runs {
			require.Equal(t, row, r.first)
			require.Positive(t, r.n)
			if i > 0 {
				require.NotEqual(t, runs[i-1].tiles > 0, r.tiles > 0, "neighbours of one kind are one run")
			}
			row += r.n
			if r.tiles == 0 {
				continue
			}
			require.Equal(t, tile, r.tile)
			at := r.first
			for ; tile < r.tile+r.tiles; tile++ {
				first, n := int(tiles[2*tile]), int(tiles[2*tile+1])
				require.Equal(t, at, first)
				require.True(t, n > 0 && n <= queryTile)
				for k := first + 1; k < first+n; k++ {
					require.True(t, seq[k] == seq[first] && pos[k] > pos[k-1])
				}
				at += n
			}
			require.Equal(t, r.first+r.n, at)
		}
		require.Equal(t, len(pos), row)
		require.Equal(t, len(tiles), 2*tile)
	}
}

// Splits of a context are few enough for the device and the class, and a power of two.
func TestSplits(t *testing.T) {
	c := &attentionCall{p: &program{b: &Backend{info: Info{SMs: 108}}}}
	for _, kv := range []int{1, 3, 8} {
		for _, window := range []int{0, 100, 300} {
			c.a.KVHeads, c.a.Window = kv, window
			for _, n := range []int{1, 128, 129, 1000, 8192} {
				for _, rows := range []int{1, 4, 64, 500} {
					s := c.splits(rows, contextClass(n))
					require.Equal(t, 0, s&(s-1))
					require.True(t, s == 1 || s*rows*kv <= 216)
					require.LessOrEqual(t, s*splitContext, contextClass(n))
					if window > 0 {
						require.LessOrEqual(t, s*splitContext, contextClass(window))
					}
				}
			}
		}
	}
}
