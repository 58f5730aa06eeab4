package linalg

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestISA(t *testing.T) {
	best := detect()
	for _, c := range []struct {
		env   string
		want  InstructionSet
		fails bool
	}{
		{"", best, false}, {"portable", Portable, false}, {"avx2", min(AVX2, best), AVX2 > best}, {"avx512", min(AVX512, best), AVX512 > best},
		{"AVX2", best, true}, {"sse", best, true},
	} {
		t.Setenv("SPARSERUN_ISA", c.env)
		require.Equal(t, c.want, chosen(), c.env)
		if err := CheckISA(); c.fails {
			require.ErrorIs(t, err, ErrISA, c.env)
		} else {
			require.NoError(t, err, c.env)
		}
	}
	require.Contains(t, ISAs(), ISA())
	require.Equal(t, Portable, ISAs()[0])
	_, err := ForceISA(best + 1)
	require.ErrorIs(t, err, ErrISA)
	for _, s := range ISAs() {
		before, err := ForceISA(s)
		require.NoError(t, err)
		require.Equal(t, s, ISA())
		parsed, err := ParseISA(s.String())
		require.NoError(t, err)
		require.Equal(t, s, parsed)
		_, err = ForceISA(before)
		require.NoError(t, err)
	}
}

// TestPool: every index once, never more goroutines than allowed, ranges that tile.
func TestPool(t *testing.T) {
	for _, threads := range []int{-1, 1, 2, 7} {
		var p *Pool
		if threads > 0 {
			p = NewPool(threads)
		}
		require.Equal(t, max(threads, 1), p.Threads())
		for _, n := range []int{0, 1, 5, 100} {
			seen := make([]atomic.Int32, n)
			var now, most atomic.Int32
			p.Run(n, func(i int) {
				if v := now.Add(1); v > most.Load() {
					most.Store(v)
				}
				seen[i].Add(1)
				now.Add(-1)
			})
			for i := range seen {
				require.Equal(t, int32(1), seen[i].Load())
			}
			require.LessOrEqual(t, int(most.Load()), p.Threads())
			for _, grain := range []int{0, 1, 16} {
				hits := make([]atomic.Int32, n)
				var calls atomic.Int32
				p.Split(n, grain, func(lo, hi int) {
					calls.Add(1)
					if grain > 0 && (lo%grain != 0 || hi != n && hi%grain != 0) {
						t.Errorf("range %d..%d of grain %d", lo, hi, grain)
					}
					for i := lo; i < hi; i++ {
						hits[i].Add(1)
					}
				})
				require.LessOrEqual(t, int(calls.Load()), p.Threads())
				for i := range hits {
					require.Equal(t, int32(1), hits[i].Load())
				}
			}
		}
	}
}
