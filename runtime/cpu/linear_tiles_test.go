package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// TestDealer: every part goes to one worker, and to the same one in every run in
// which workers keep step; one that comes first takes what others have left.
func TestDealer(t *testing.T) {
	for _, workers := range []int{1, 2, 3, 8} {
		d := dealer{hands: make([]hand, workers)}
		for n := range 20 {
			d.start(n)
			took := make([]int, n)
			for k := range n {
				took[d.take(workers-1-k%workers)]++
			}
			for i, k := range took {
				require.Equal(t, 1, k, "part %d of %d, %d workers", i, n, workers)
			}
		}
		d.start(4 * workers)
		for k := range 4 {
			for w := range workers {
				require.Equal(t, 4*w+k, d.take(w))
			}
		}
		d.start(2 * workers)
		for k := range 2 * workers {
			require.Equal(t, k, d.take(0))
		}
		const n = 2000
		d.start(n)
		var mu sync.Mutex
		took := make([]int, n)
		var all sync.WaitGroup
		for w := range workers {
			all.Go(func() {
				for range n / workers {
					i := d.take(w)
					mu.Lock()
					took[i]++
					mu.Unlock()
				}
			})
		}
		all.Wait()
		for _, k := range took {
			require.LessOrEqual(t, k, 1)
		}
	}
}

// TestLinearTiles: a step whose tiles of tokens are dealt out over threads computes
// the same bits as on one thread, bias and residual included; one thread is held to
// float64 by TestTiled.
func TestLinearTiles(t *testing.T) {
	eachISA(t, func(t *testing.T) {
		rng := rand.New(rand.NewPCG(2, 11))
		const cols = 300
		for _, typ := range []sparse.DType{sparse.F32, sparse.F16, sparse.Int8} {
			k := runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutCSR, Weight: typ, Act: runtime.ActType(typ)}
			var ws []packed
			rows := []int{600, 40, 7}
			for _, r := range rows {
				w, err := packerFor(k)(randomWeight(rng, r, cols, 0.1, k.Layout), 0, &scratch{})
				require.NoError(t, err)
				require.Equal(t, formTokens, w.form())
				defer w.free()
				ws = append(ws, w)
			}
			bias := make([]float32, rows[0])
			for i := range bias {
				bias[i] = float32(rng.NormFloat64())
			}
			for _, n := range []int{5, 64, 65, 75, 130, 200} {
				p := &program{rows: n}
				for _, width := range append([]int{cols, rows[1]}, rows...) { // input, residual, results
					b := make([]float32, n*width)
					for i := range b {
						b[i] = float32(rng.NormFloat64())
					}
					p.bufs = append(p.bufs, b)
				}
				var want [][]float32
				for _, threads := range []int{1, 2, 3, 7} {
					s := &linearStep{x: &acts{cols: cols}, fresh: []form{formTokens}}
					mem, err := alloc(formBytes(formTokens, n, cols))
					require.NoError(t, err)
					for i := range mem.bytes() {
						mem.bytes()[i] = 0xff // NaN wherever a kernel reads what nobody wrote
					}
					s.x.mem[formTokens] = mem.bytes()
					for i, w := range ws {
						s.parts = append(s.parts, linear{w: w, rows: rows[i], out: 2 + i, residual: -1})
					}
					s.parts[0].bias, s.parts[1].residual = bias, 1
					s.cut(threads)
					p.pool = newPool(threads)
					p.pool.retain()
					for range 3 {
						for _, b := range p.bufs[2:] {
							for i := range b {
								b[i] = float32(math.NaN())
							}
						}
						s.run(p)
						for i, b := range p.bufs[2:] {
							if threads == 1 && len(want) <= i {
								want = append(want, append([]float32(nil), b...))
								for _, x := range b {
									require.False(t, math.IsNaN(float64(x)))
								}
							}
							require.True(t, slices.Equal(want[i], b), "%v, %d tokens, %d threads, weight %d", typ, n, threads, i)
						}
					}
					p.pool.release()
					mem.free()
				}
			}
		}
	})
}
