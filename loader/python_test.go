package loader

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestWriteForPython writes what testdata/check_ct.py hands to
// compressed-tensors 0.14.0.1: folders in every form that library reads, and
// beside each the same weights dense in f32.
func TestWriteForPython(t *testing.T) {
	dir := os.Getenv("SPARSERUN_CT_OUT")
	if dir == "" {
		t.Skip("run testdata/check_ct.py")
	}
	for _, c := range []struct {
		name   string
		layout sparse.Layout
		typ    sparse.DType
		group  int
	}{
		{"nm24-f16", sparse.LayoutNM24, sparse.F16, 0}, {"nm24-bf16", sparse.LayoutNM24, sparse.BF16, 0}, {"nm24-f32", sparse.LayoutNM24, sparse.F32, 0},
		{"bitmask-f16", sparse.LayoutBitmask, sparse.F16, 0}, {"csr-f16", sparse.LayoutCSR, sparse.F16, 0},
		{"nm24-int8", sparse.LayoutNM24, sparse.Int8, 0}, {"dense-int8", sparse.LayoutDense, sparse.Int8, 0},
		{"bitmask-int8", sparse.LayoutBitmask, sparse.Int8, 0},
		{"dense-int4", sparse.LayoutDense, sparse.Int4, 0}, {"dense-int4-g4", sparse.LayoutDense, sparse.Int4, 4},
		{"dense-int4-asym", sparse.LayoutDense, sparse.Int4, 4}, {"dense-int8-asym", sparse.LayoutDense, sparse.Int8, 0},
	} {
		g, err := Open(testenv.Data(t, "stories260K"))
		require.NoError(t, err)
		prune24(t, g, c.layout, c.typ, c.group)
		for _, n := range g.Linears() {
			halfScales(n.Weight.Data)
			if strings.HasSuffix(c.name, "asym") {
				asymmetric(n.Weight.Data)
			}
		}
		opts := SaveOptions{DType: c.typ}
		if c.typ.Quantised() {
			opts.DType = sparse.F32
		}
		require.NoError(t, Save(g, filepath.Join(dir, c.name)+"/", opts))
		require.NoError(t, Save(g, filepath.Join(dir, c.name+".dense.safetensors"), SaveOptions{Format: FormatDense, DType: sparse.F32}))
		require.NoError(t, g.Close())
	}
	// A real tokenizer, from GGUF, in the form that other programs read.
	g, err := Open(testenv.Model(t))
	require.NoError(t, err)
	defer g.Close()
	files, err := g.Source.Tokenizer()
	require.NoError(t, err)
	spec, err := parseSpec(files[fileTokenizerSpec])
	require.NoError(t, err)
	for name, b := range hfTokenizer(&spec) {
		path := filepath.Join(dir, "tokenizer", name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, b, 0o644))
	}
}

// halfScales rounds scales to f16: where a file is sparse and quantised,
// compressed-tensors 0.14.0.1 reads scales into f16 whatever they are.
func halfScales(m sparse.Matrix) {
	var q *sparse.Quant
	switch m := m.(type) {
	case *sparse.Dense:
		q = m.Quant
	case *sparse.NM24:
		q = m.Quant
	case *sparse.Bitmask:
		q = m.Quant
	}
	if q == nil {
		return
	}
	q.Type = sparse.F16
	for i, s := range q.Scales {
		q.Scales[i] = sparse.F16ToF32(sparse.F32ToF16(s))
	}
}
