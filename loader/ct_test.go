package loader

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestCompressedTensors: every reference folder decodes, bit for bit in the
// type of its dense file, to that file; in the file's form and loaded.
func TestCompressedTensors(t *testing.T) {
	dir := testenv.Data(t, "compressed-tensors")
	list, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, list, 30)
	for _, e := range list {
		t.Run(e.Name(), func(t *testing.T) {
			got, closeGot, err := OpenTensors(filepath.Join(dir, e.Name()))
			require.NoError(t, err)
			defer closeGot()
			want, closeWant, err := OpenTensors(filepath.Join(dir, e.Name(), "dense.safetensors"))
			require.NoError(t, err)
			defer closeWant()
			require.Equal(t, len(want), len(got))
			byName := map[string]*model.Weight{}
			for _, w := range got {
				byName[w.Name] = w
			}
			for _, w := range want {
				g := byName[w.Name]
				require.NotNil(t, g, w.Name)
				require.Equal(t, w.Shape, g.Shape, w.Name)
				sameBits(t, w, g.Data)
				m, err := sparse.Load(g.Data)
				require.NoError(t, err, w.Name)
				if c, ok := m.(interface{ Check() error }); ok {
					require.NoError(t, c.Check(), w.Name)
				}
				require.Equal(t, g.Data.Layout(), m.Layout(), w.Name)
				sameBits(t, w, m)
			}
		})
	}
}

// sameBits compares m, rounded to the stored type of w, with w.
func sameBits(t *testing.T, w *model.Weight, m sparse.Matrix) {
	t.Helper()
	want, err := sparse.Read(w.Data)
	require.NoError(t, err)
	got, err := sparse.Read(m)
	require.NoError(t, err, w.Name)
	for i, x := range got {
		switch w.Data.DType() {
		case sparse.BF16:
			x = sparse.BF16ToF32(sparse.F32ToBF16(x))
		case sparse.F16:
			x = sparse.F16ToF32(sparse.F32ToF16(x))
		}
		if math.Float32bits(x) != math.Float32bits(want[i]) {
			// The dense files hold weights as pruning left them, with -0 at some
			// pruned places; a mask stores no pruned place, hence +0 (torch.equal
			// calls these equal too).
			if math.Float32bits(x) == 0 && want[i] == 0 {
				continue
			}
			t.Fatalf("%s: weight %d: want %g, got %g", w.Name, i, want[i], x)
		}
	}
}

// TestTinyLlamaGraphs: the reference folders that are models open as models.
func TestTinyLlamaGraphs(t *testing.T) {
	for _, name := range []string{"dense-2of4-bf16", "marlin-24-int4-g128", "pack-quantized-int4-g128", "sparse-24-bitmask-bf16", "sparse-24-fp8", "sparse-bitmask-bf16"} {
		g, err := Open(testenv.Data(t, "compressed-tensors/tinyllama-"+name))
		require.NoError(t, err, name)
		require.Len(t, g.Linears(), 14)
		require.NoError(t, g.Close())
	}
}

// TestMarlinHalfGroup: with a group of half the inputs the writer leaves the
// scales in order (testdata/make_marlin.py).
func TestMarlinHalfGroup(t *testing.T) {
	b, err := os.ReadFile("testdata/marlin_64x256.safetensors")
	require.NoError(t, err)
	dir := folder(t, map[string][]byte{fileWeights: b, fileConfig: []byte(quantConfig(groups("4", "true", "128")))})
	ws, closeFiles, err := OpenTensors(dir)
	require.NoError(t, err)
	defer closeFiles()
	require.Len(t, ws, 2)
	got, want := ws[0], ws[1]
	if got.Name == "want" {
		got, want = want, got
	}
	require.Equal(t, "m.weight", got.Name)
	sameBits(t, want, got.Data)
}
