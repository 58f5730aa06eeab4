package loader

import (
	"math"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestCodebookSave: a pruned network's matrices go through the file as the codebook says, and
// where that has room for all their values, exactly; Gemm, MatMul and Conv, turned or not.
func TestCodebookSave(t *testing.T) {
	for _, name := range []string{"lenet/lenet300100_sparse.onnx", "lenet/lenet5_sparse.onnx", "onnx/mnist.onnx"} {
		g, err := Open(testenv.Data(t, name))
		require.NoError(t, err)
		for _, n := range g.Linears() { // 16 values a matrix
			w, err := sparse.Read(n.Weight.Data)
			require.NoError(t, err)
			c, err := codebook.Cluster(w, 16)
			require.NoError(t, err)
			rows, cols := n.Weight.Data.Dims()
			n.Weight.Data = sparse.NewDense(rows, cols, c.Values())
		}
		path := filepath.Join(t.TempDir(), "net.srcb")
		require.NoError(t, Save(g, path, SaveOptions{Format: FormatCodebook, Codebook: 16, Meta: map[string]string{"prune.method": "magnitude"}}))
		got, err := Open(path)
		require.NoError(t, err)
		require.Equal(t, "codebook", got.Source.Format)
		require.Equal(t, "magnitude", got.Source.Meta["prune.method"])
		require.Equal(t, len(g.Linears()), len(got.Linears()))
		for i, n := range g.Linears() {
			m := got.Linears()[i]
			want, err := sparse.Read(n.Weight.Data)
			require.NoError(t, err)
			have, err := sparse.Read(m.Weight.Data)
			require.NoError(t, err)
			require.Equal(t, want, have, n.Name)
			if n.Bias != nil { // float16: 11 bits
				want, err := n.Bias.Vector()
				require.NoError(t, err)
				have, err := m.Bias.Vector()
				require.NoError(t, err)
				for j := range want {
					require.InDelta(t, want[j], have[j], math.Abs(float64(want[j]))/2048, n.Name)
				}
			}
		}
		st, err := os.Stat(path)
		require.NoError(t, err)
		require.Less(t, st.Size(), 5*g.Parameters(), name) // it is not bytes that fail to shrink
		_, err = Open(path, WithMaxMemory(100))
		require.ErrorIs(t, err, ErrLimit)
	}
}

// codebookFile is the graph x * w with w outside, and what it is made of.
func codebookFile(t testing.TB, network []byte, tensors ...codebook.Tensor) []byte {
	if tensors == nil {
		w, _, err := codebook.Coded("w", []int{2, 2}, []float32{0, 1, 0.5, 0}, 4)
		require.NoError(t, err)
		tensors = []codebook.Tensor{w}
	}
	return (&codebook.File{Network: network, Tensors: tensors}).Append(nil)
}

func TestHostileCodebook(t *testing.T) {
	dir := hostileFolder(t)
	good := codebookFile(t, matmul())
	huge, _, err := codebook.Coded("w", []int{1 << 14, 1 << 13}, nil, 4)
	require.NoError(t, err)
	wrong, _, err := codebook.Coded("w", []int{2, 3}, []float32{0, 1, 0.5, 0, 0, 1}, 4)
	require.NoError(t, err)
	wrong.Shape = []int{2, 2}
	for name, c := range map[string]struct {
		b    []byte
		want error
	}{
		"cut":                        {good[:len(good)-3], ErrFormat},
		"magic alone":                {good[:8], ErrTruncated},
		"a weight that is missing":   {codebookFile(t, matmul(), []codebook.Tensor{}...), ErrGraph},
		"a weight that is there too": {codebookFile(t, matmul(init4())), ErrGraph},
		"no network":                 {codebookFile(t, nil), ErrFormat},
		"external data":              {codebookFile(t, matmul(pbExternal("location", "w.bin")), codebook.Half("v", []int{1}, []float32{1})), ErrUnsupported},
		"half a gigabyte of zeros":   {codebookFile(t, matmul(), huge), ErrLimit},
		"weights that overflow":      {codebookFile(t, matmul(), wrong), ErrFormat},
		"codes cut":                  {codebookFile(t, matmul(), codebook.Tensor{Name: "w", Shape: []int{2, 2}, Kind: codebook.KindCoded, Data: []byte{1}}), ErrTruncated},
		"weight that is no number":   {codebookFile(t, matmul(), codebook.Tensor{Name: "w", Shape: []int{2, 2}, Kind: codebook.KindF16, Data: []byte{0, 0x7e, 0, 0, 0, 0, 0, 0}}), ErrNonFinite},
	} {
		if name == "a weight that is missing" { // no tensor at all means the default above
			c.b = codebookFile(t, matmul(), codebook.Half("v", []int{1}, []float32{1}))
		}
		path := filepath.Join(dir, "model.srcb")
		require.NoError(t, os.WriteFile(path, c.b, 0o600))
		var before, after goruntime.MemStats
		goruntime.ReadMemStats(&before)
		_, err := Open(path)
		goruntime.ReadMemStats(&after)
		require.ErrorIs(t, err, c.want, name)
		line := err.Error()
		require.NotContains(t, line, "\n")
		require.True(t, strings.HasPrefix(line, "loader: model.srcb: "), line)
		require.Less(t, len(line), 600, line)
		require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(maxRatio*len(c.b)+64<<20), name)
	}
}

// FuzzCodebook: whatever stands behind a checksum that fits, a one-line error or a graph that checks.
func FuzzCodebook(f *testing.F) {
	f.Add(matmul(), []byte{2, 2}, []byte{1, 1, 0, 0, 0, 128, 63, 1, 0, 0, 0, 0x10, 0x10, 0})
	f.Add(matmul(), []byte{0, 255}, []byte{})
	dir := hostileFolder(f)
	f.Fuzz(func(t *testing.T, network, shape, data []byte) {
		var dims []int
		for _, d := range shape[:min(4, len(shape))] {
			dims = append(dims, int(d))
		}
		b := (&codebook.File{Network: network, Tensors: []codebook.Tensor{{Name: "w", Shape: dims, Kind: codebook.KindCoded, Data: data}}}).Append(nil)
		path := fuzzFile(t, dir, "model.srcb", b)
		src, err := openFile(path)
		if err != nil {
			t.Fatal(err)
		}
		g, err := openCodebook(src, &options{})
		if err != nil {
			if s := inFile(err, "model.srcb").Error(); strings.Contains(s, "\n") || !strings.HasPrefix(s, "loader: ") {
				t.Fatalf("error is not one line of ours: %q", s)
			}
			return
		}
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		readAll(t, g.Weights)
	})
}
