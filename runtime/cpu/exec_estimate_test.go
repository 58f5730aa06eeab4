package cpu_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestEstimate holds what is foretold from a file's header to what a session holds:
// no less, and not half as much again.
func TestEstimate(t *testing.T) {
	paths := []string{filepath.Dir(testenv.Data(t, "stories260K/config.json"))}
	if !testing.Short() {
		paths = append(paths, testenv.Model(t))
	}
	for _, path := range paths {
		for _, o := range []runtime.Options{{}, {DType: sparse.F32, Context: 2048, Hidden: true}, {DType: sparse.Int8, Chunk: 512, Select: 64}, {DType: sparse.Int4, Context: 64}} {
			o.Sparse = runtime.SparseOff
			g, err := loader.Open(path)
			require.NoError(t, err)
			want, err := runtime.Estimate(g, o)
			require.NoError(t, err)
			once, err := runtime.DenseWeightBytes(g, o)
			require.NoError(t, err)
			require.NoError(t, g.Close())
			s := session(t, path, 2, runtime.WithOptions(o))
			got := s.Counters().Memory
			t.Logf("%s %+v: foretold %d = %d weights + %d KV + %d workspace, held %d = %d + %d + %d; weights once %d", filepath.Base(path), o,
				want.Total(), want.Weights.Total(), want.KVCache, want.Workspace, got.Total(), got.Weights.Total(), got.KVCache, got.Workspace, once)
			require.LessOrEqual(t, got.Total(), want.Total())
			require.Less(t, float64(want.Total()), 1.5*float64(got.Total()))
			require.InEpsilon(t, once, got.Weights.Total(), 0.35)
		}
	}
}
