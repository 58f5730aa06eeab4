package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
)

// npy writes a NumPy file by hand.
func npy(t *testing.T, shape string, x ...float32) []byte {
	t.Helper()
	head := "{'descr': '<f4', 'fortran_order': False, 'shape': " + shape + ", }"
	head += strings.Repeat(" ", 63-(10+len(head))%64) + "\n"
	b := append([]byte("\x93NUMPY\x01\x00"), binary.LittleEndian.AppendUint16(nil, uint16(len(head)))...)
	b = append(b, head...)
	for _, v := range x {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
	}
	return b
}

func TestReadNumbers(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		name string
		data []byte
		want []float32
		dims []int
		bad  string
	}{
		{"a.npy", npy(t, "(2, 3)", 1, 2, 3, 4, 5, 6), []float32{1, 2, 3, 4, 5, 6}, []int{2, 3}, ""},
		{"b.npy", npy(t, "(3,)", 1, 2, 3), []float32{1, 2, 3}, []int{3}, ""},
		{"c.json", []byte(`[[1,2],[3,4.5]]`), []float32{1, 2, 3, 4.5}, []int{2, 2}, ""},
		{"d.f32", npy(t, "(3,)", 7)[len(npy(t, "(3,)", 7))-4:], []float32{7}, []int{1}, ""},
		{"e.npy", npy(t, "(2, 4)", 1, 2, 3), nil, nil, "want 32 bytes"},
		{"f.npy", npy(t, "(-1, 4)", 1), nil, nil, `shape "-1, 4"`},
		{"g.npy", npy(t, "(99999999999, 99999999999)", 1), nil, nil, `shape "99999999999`},
		{"h.npy", npy(t, "(1,)", 1)[:40], nil, nil, "header of"},
		{"i.npy", []byte("\x93NUMPY"), nil, nil, "want a header"},
		{"j.npy", bytes.Replace(npy(t, "(1,)", 1), []byte("<f4"), []byte("<c8"), 1), nil, nil, "<c8"},
		{"k.json", []byte(`[[1,2],[3]]`), nil, nil, "one shape"},
		{"l.json", []byte(`[1,"x"]`), nil, nil, "arrays of numbers"},
		{"m.json", []byte(strings.Repeat("[", 40) + strings.Repeat("]", 40)), nil, nil, "16 dimensions"},
		{"n.raw", []byte{1, 2, 3}, nil, nil, "float32"},
	} {
		path := filepath.Join(dir, c.name)
		require.NoError(t, os.WriteFile(path, c.data, 0o600))
		x, shape, err := readNumbers(path)
		if c.bad != "" {
			require.ErrorContains(t, err, c.bad, c.name)
			require.ErrorContains(t, err, c.name)
			continue
		}
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, x, c.name)
		require.Equal(t, c.dims, shape, c.name)
	}
}

// TestRunNetwork runs a pruned classifier dense beside sparse, from a file of numbers.
func TestRunNetwork(t *testing.T) {
	model := testenv.Data(t, "lenet/lenet300100_sparse.onnx")
	in := filepath.Join(t.TempDir(), "x.f32")
	raw := make([]byte, 2*784*4)
	for i := range 784 { // the second row stays zero
		binary.LittleEndian.PutUint32(raw[4*i:], math.Float32bits(float32(i%7)/7))
	}
	require.NoError(t, os.WriteFile(in, raw, 0o600))
	run := func(args ...string) (netRunJSON, int, string) {
		var stdout, stderr bytes.Buffer
		code := realMain(append([]string{"run", model, "--json", "-q", "--dtype", "f32", "--rounds", "1", "-t", "1"}, args...), &stdout, &stderr)
		var out netRunJSON
		if code == 0 {
			require.NoError(t, json.Unmarshal(stdout.Bytes(), &out))
		}
		return out, code, stderr.String()
	}
	both, code, msg := run("--input", in, "--compare", "--sparse", "csr")
	require.Zero(t, code, msg)
	require.Equal(t, []int{2, 10}, both.OutputShape)
	require.Less(t, both.MemoryRatio, 0.5)
	require.Positive(t, both.Sparse.Layouts["csr"])
	require.Equal(t, both.Dense.Layouts["dense"], both.Sparse.Layouts["csr"]+both.Sparse.Layouts["dense"])
	require.LessOrEqual(t, *both.MaxAbsError, both.Tolerance)
	require.NotEqual(t, both.Output[:10], both.Output[10:])
	require.Positive(t, both.Dense.Latency["p50"])

	dense, code, msg := run("--input", in, "--sparse", "off")
	require.Zero(t, code, msg)
	require.InDeltaSlice(t, dense.Output, both.Output, 1e-4)
	require.Nil(t, dense.Sparse)

	noise, code, msg := run("--batch", "3", "--seed", "5", "--sparse", "off")
	require.Zero(t, code, msg)
	require.Equal(t, []int{3, 784}, noise.InputShape)

	for _, args := range [][]string{{"--shape", "2,783", "--input", in}, {"--compare", "--sparse", "off"}, {"--baseline", model, "--compare"}, {"--batch", "0"}} {
		_, code, msg := run(args...)
		require.NotZero(t, code, args)
		require.Equal(t, 1, strings.Count(msg, "\n"), msg)
	}
}
