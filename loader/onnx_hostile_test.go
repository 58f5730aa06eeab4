//go:build unix

package loader

import (
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"
)

// Messages are built field by field: what is hostile, no library would write.

func pbInt(num protowire.Number, v int64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, num, protowire.VarintType), uint64(v))
}

func pbBytes(num protowire.Number, parts ...[]byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, num, protowire.BytesType), cat(parts...))
}

func pbStr(num protowire.Number, s string) []byte { return pbBytes(num, []byte(s)) }

func cat(parts ...[]byte) []byte {
	var b []byte
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

// pbTensor is a float32 TensorProto with raw data.
func pbTensor(name string, raw []byte, dims ...int64) []byte {
	var b []byte
	for _, d := range dims {
		b = append(b, pbInt(1, d)...)
	}
	return cat(b, pbInt(2, 1), pbStr(8, name), pbBytes(9, raw))
}

func pbValue(name string) []byte {
	dims := cat(pbBytes(1, pbStr(2, "N")), pbBytes(1, pbInt(1, 2)))
	return cat(pbStr(1, name), pbBytes(2, pbBytes(1, pbInt(1, 1), pbBytes(2, dims))))
}

// pbShaped is a value of a type and shape.
func pbShaped(name string, elem int64, dims ...int64) []byte {
	var b []byte
	for _, d := range dims {
		b = append(b, pbBytes(1, pbInt(1, d))...)
	}
	return cat(pbStr(1, name), pbBytes(2, pbBytes(1, pbInt(1, elem), pbBytes(2, b))))
}

func pbNode(op string, out string, in ...string) []byte {
	var b []byte
	for _, i := range in {
		b = append(b, pbStr(1, i)...)
	}
	return cat(b, pbStr(2, out), pbStr(3, "n_"+out), pbStr(4, op))
}

// pbModel wraps a graph.
func pbModel(opset int64, graph ...[]byte) []byte {
	return cat(pbInt(1, 8), pbBytes(7, graph...), pbBytes(8, pbInt(2, opset)))
}

// matmul is a well-formed graph x * w with some fields of its own in front.
func matmul(more ...[]byte) []byte {
	return pbModel(17, append(more, pbBytes(1, pbNode("MatMul", "y", "x", "w")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))...)
}

func init4() []byte { return pbBytes(5, pbTensor("w", make([]byte, 16), 2, 2)) }

// pbExternal is an initializer whose data lie elsewhere; pairs of keys and values.
func pbExternal(kv ...string) []byte {
	b := cat(pbInt(1, 2), pbInt(1, 2), pbInt(2, 1), pbStr(8, "w"), pbInt(14, 1))
	for i := 0; i < len(kv); i += 2 {
		b = append(b, pbBytes(13, pbStr(1, kv[i]), pbStr(2, kv[i+1]))...)
	}
	return pbBytes(5, b)
}

// pbSparse is a sparse initializer of [2 2] with the given indices.
func pbSparse(idx []byte, idxDims []int64, nnz int64) []byte {
	var d []byte
	for _, n := range idxDims {
		d = append(d, pbInt(1, n)...)
	}
	indices := cat(d, pbInt(2, 7), pbBytes(9, idx))
	return pbBytes(15, pbBytes(1, pbTensor("w", make([]byte, 4*nnz), nnz)), pbBytes(2, indices), pbInt(3, 2), pbInt(3, 2))
}

type onnxCase struct {
	no   int
	name string
	want error
	file []byte
}

func onnxCases() []onnxCase {
	long := append([]byte{0x08}, []byte(strings.Repeat("\xff", 11))...)
	ext := func(no int, name string, want error, kv ...string) onnxCase {
		return onnxCase{no, name, want, matmul(pbExternal(kv...))}
	}
	typed := func(fields ...[]byte) []byte {
		return matmul(pbBytes(5, append([][]byte{pbInt(1, 2), pbInt(1, 2), pbInt(2, 1), pbStr(8, "w")}, fields...)...))
	}
	return []onnxCase{
		{26, "length beyond the file", ErrTruncated, cat(pbInt(1, 8), []byte{0x3a, 0xff, 0xff, 0x7f}, make([]byte, 8))},
		{26, "length 2^63", ErrTruncated, cat(pbInt(1, 8), []byte{0x3a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, make([]byte, 8))},
		{26, "length beyond its message", ErrTruncated, pbModel(17, []byte{0x0a, 0x7f, 0x00, 0x00})},
		{26, "varint of 11 bytes", ErrFormat, cat(pbInt(1, 8), long, make([]byte, 8))},
		{26, "varint cut off", ErrTruncated, cat(pbModel(17), []byte{0x28, 0xff})},
		{26, "field number 0", ErrFormat, cat(pbInt(1, 8), []byte{0x00, 0x00}, make([]byte, 8))},
		{26, "group wire type", ErrFormat, cat(pbInt(1, 8), []byte{0x0b, 0x0c}, make([]byte, 8))},
		{26, "name that is a number", ErrFormat, pbModel(17, pbBytes(1, pbInt(4, 7)))},
		{26, "name that is no UTF-8", ErrFormat, pbModel(17, pbBytes(1, pbStr(4, "a\xff")))},
		{26, "name of 2 MB", ErrLimit, pbModel(17, pbBytes(1, pbStr(4, strings.Repeat("a", 2<<20))))},
		{26, "graph twice", ErrFormat, cat(pbModel(17), pbBytes(7))},
		{26, "no graph", ErrFormat, cat(pbInt(1, 8), pbBytes(8, pbInt(2, 17)), pbStr(2, "producer"))},
		{27, "cycle", ErrGraph, pbModel(17, pbBytes(1, pbNode("Add", "a", "x", "b")), pbBytes(1, pbNode("Add", "b", "x", "a")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("b")))},
		{27, "node that reads itself", ErrGraph, pbModel(17, pbBytes(1, pbNode("Add", "a", "a", "x")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("a")))},
		{27, "missing input", ErrGraph, pbModel(17, pbBytes(1, pbNode("Relu", "y", "z")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))},
		{27, "missing output", ErrGraph, pbModel(17, pbBytes(1, pbNode("Relu", "y", "x")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("q")))},
		{27, "value written twice", ErrGraph, pbModel(17, pbBytes(1, pbNode("Relu", "y", "x")), pbBytes(1, pbNode("Neg", "y", "x")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))},
		{27, "initializer twice", ErrGraph, matmul(init4(), init4())},
		{27, "input twice", ErrGraph, pbModel(17, pbBytes(11, pbValue("x")), pbBytes(11, pbValue("x")))},
		{27, "attribute twice", ErrFormat, pbModel(17, pbBytes(1, pbNode("Elu", "y", "x"), pbBytes(5, pbStr(1, "alpha"), pbInt(3, 1)), pbBytes(5, pbStr(1, "alpha"), pbInt(3, 1))), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))},
		{27, "opset 0", ErrUnsupported, pbModel(0)},
		{27, "opset 5", ErrUnsupported, pbModel(5)},
		{27, "opset 99", ErrUnsupported, pbModel(99)},
		{27, "opset twice", ErrFormat, cat(pbModel(17), pbBytes(8, pbInt(2, 16)))},
		{27, "no opset", ErrUnsupported, cat(pbInt(1, 8), pbBytes(7, pbStr(2, "a graph")))},
		{27, "IR version 99", ErrUnsupported, append([]byte{0x08, 0xe3, 0x07}, pbModel(17)[2:]...)},
		{27, "domain that is not imported", ErrUnsupported, pbModel(17, pbBytes(1, pbNode("Foo", "y", "x"), pbStr(7, "com.evil")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))},
		{27, "model-local functions", ErrUnsupported, cat(pbModel(17), pbBytes(25, pbStr(1, "f")))},
		{27, "op of two lines", ErrFormat, pbModel(17, pbBytes(1, pbNode("Re\nlu", "y", "x")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))},
		{27, "op of two lines that reads nothing", ErrFormat, pbModel(17, pbBytes(1, pbNode("Re\nlu", "y", "z")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))},
		{27, "op of 4 kB", ErrLimit, pbModel(17, pbBytes(1, pbNode(strings.Repeat("a", 4096), "y", "x")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))},
		{27, "domain of two lines", ErrFormat, cat(pbInt(1, 8), pbBytes(8, pbStr(1, "a\nb"), pbInt(2, 1)), pbBytes(7, pbBytes(1, pbNode("Foo", "y", "x"), pbStr(7, "a\nb")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y"))))},
		{27, "opset of a domain of two lines", ErrUnsupported, cat(pbModel(17), pbBytes(8, pbStr(1, "a\nb"), pbInt(2, 1<<40)))},
		{31, "initializer that is declared wider", ErrShape, pbModel(17, init4(), pbBytes(1, pbNode("Conv", "y", "x", "w")), pbBytes(11, pbValue("x")), pbBytes(11, pbShaped("w", 1, 2, 4)), pbBytes(12, pbValue("y")))},
		{31, "initializer that was declared wider", ErrShape, pbModel(17, pbBytes(13, pbShaped("w", 1, 2, 4)), init4(), pbBytes(1, pbNode("Conv", "y", "x", "w")), pbBytes(11, pbValue("x")), pbBytes(12, pbValue("y")))},
		{31, "initializer that is declared of another type", ErrShape, matmul(init4(), pbBytes(11, pbShaped("w", 10, 2, 2)))},
		{31, "sparse initializer that is declared wider", ErrShape, matmul(pbSparse(le([]uint64{1, 2}), []int64{2}, 2), pbBytes(11, pbShaped("w", 1, 2, 4)))},
		ext(28, "location ..", ErrFormat, "location", "../secret"),
		ext(28, "location inside then out", ErrFormat, "location", "a/../../secret"),
		ext(28, "backslashes out", ErrFormat, "location", `..\secret`),
		ext(28, "absolute location", ErrFormat, "location", "/etc/passwd"),
		ext(28, "UNC path", ErrFormat, "location", `\\host\share`),
		ext(28, "drive letter", ErrFormat, "location", "C:w.bin"),
		ext(28, "NUL", ErrFormat, "location", "w.bin\x00"),
		ext(28, "no location", ErrFormat, "offset", "0"),
		ext(28, "empty location", ErrFormat, "location", ""),
		ext(28, "location twice", ErrFormat, "location", "w.bin", "location", "../secret"),
		ext(28, "absent file", os.ErrNotExist, "location", "absent.bin"),
		ext(29, "symlink out", ErrUnsupported, "location", "link.bin"),
		ext(29, "symlink that stays inside", ErrUnsupported, "location", "inner.bin"),
		ext(29, "symlink for a parent", ErrUnsupported, "location", "dir/secret"),
		ext(29, "hardlink", ErrUnsupported, "location", "hard.bin"),
		ext(29, "FIFO", ErrUnsupported, "location", "fifo"),
		ext(29, "folder", ErrUnsupported, "location", "folder"),
		ext(30, "negative offset", ErrFormat, "location", "w.bin", "offset", "-4"),
		ext(30, "offset no number", ErrFormat, "location", "w.bin", "offset", "0x10"),
		ext(30, "offset beyond the file", ErrTruncated, "location", "w.bin", "offset", "64"),
		ext(30, "offset near 2^63", ErrTruncated, "location", "w.bin", "offset", "9223372036854775800"),
		ext(30, "offset beyond 2^63", ErrFormat, "location", "w.bin", "offset", "18446744073709551615"),
		ext(30, "length beyond the file", ErrTruncated, "location", "w.bin", "offset", "8"),
		ext(30, "negative length", ErrFormat, "location", "w.bin", "length", "-16"),
		ext(30, "length that is not the shape's", ErrShape, "location", "w.bin", "length", "12"),
		{31, "raw and typed data", ErrFormat, typed(pbBytes(4, make([]byte, 16)), pbBytes(9, make([]byte, 16)))},
		{31, "raw and external data", ErrFormat, typed(pbBytes(9, make([]byte, 16)), pbInt(14, 1), pbBytes(13, pbStr(1, "location"), pbStr(2, "w.bin")))},
		{31, "external data that is not declared", ErrFormat, typed(pbBytes(9, make([]byte, 16)), pbBytes(13, pbStr(1, "location"), pbStr(2, "w.bin")))},
		{31, "typed data of another type", ErrFormat, typed(pbBytes(7, make([]byte, 4)))},
		{31, "two kinds of typed data", ErrFormat, typed(pbBytes(4, make([]byte, 16)), pbBytes(10, make([]byte, 32)))},
		{31, "too few raw bytes", ErrShape, typed(pbBytes(9, make([]byte, 12)))},
		{31, "too many raw bytes", ErrShape, typed(pbBytes(9, make([]byte, 20)))},
		{31, "too few numbers", ErrShape, typed(pbBytes(4, make([]byte, 12)))},
		{31, "too many numbers", ErrShape, typed(pbBytes(4, make([]byte, 20)))},
		{31, "packed numbers cut", ErrTruncated, typed(pbBytes(4, make([]byte, 15)))},
		{31, "no data", ErrShape, typed()},
		{31, "negative dimension", ErrShape, matmul(pbBytes(5, pbTensor("w", nil, -2, 2)))},
		{31, "product overflows", ErrShape, matmul(pbBytes(5, pbTensor("w", nil, 1<<40, 1<<40)))},
		{31, "a terabyte of zeros", ErrShape, matmul(pbBytes(5, pbTensor("w", nil, 1<<20, 1<<18)))},
		{31, "a gigabyte of typed zeros", ErrLimit, matmul(pbBytes(5, pbInt(1, 1<<14), pbInt(1, 1<<14), pbInt(2, 1), pbStr(8, "w"), pbBytes(4, make([]byte, 4))))},
		{31, "dtype 77", ErrUnsupported, matmul(pbBytes(5, pbInt(2, 77), pbStr(8, "w")))},
		{31, "complex numbers", ErrUnsupported, matmul(pbBytes(5, pbInt(2, 14), pbStr(8, "w")))},
		{31, "no dtype", ErrFormat, matmul(pbBytes(5, pbInt(1, 2), pbStr(8, "w")))},
		{31, "33 dimensions", ErrLimit, matmul(pbBytes(5, pbTensor("w", nil, make([]int64, 33)...)))},
		{41, "sparse index beyond the shape", ErrSparse, matmul(pbSparse(le([]uint64{1, 4}), []int64{2}, 2))},
		{41, "negative sparse index", ErrSparse, matmul(pbSparse(le([]uint64{^uint64(0), 1}), []int64{2}, 2))},
		{41, "sparse index twice", ErrSparse, matmul(pbSparse(le([]uint64{1, 1}), []int64{2}, 2))},
		{41, "sparse indices descend", ErrSparse, matmul(pbSparse(le([]uint64{2, 1}), []int64{2}, 2))},
		{41, "fewer sparse indices than values", ErrSparse, matmul(pbSparse(le([]uint64{1}), []int64{1}, 2))},
		{41, "coordinate beyond its dimension", ErrSparse, matmul(pbSparse(le([]uint64{0, 2}), []int64{1, 2}, 1))},
		{41, "coordinates of another rank", ErrSparse, matmul(pbSparse(le([]uint64{0, 0, 0}), []int64{1, 3}, 1))},
		{46, "weight that is no number", ErrNonFinite, matmul(pbBytes(5, pbTensor("w", []byte{0, 0, 0xc0, 0x7f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, 2, 2)))},
	}
}

// hostileFolder has what external data may point at.
func hostileFolder(t testing.TB) string {
	top := t.TempDir()
	dir := filepath.Join(top, "model")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(top, "secret"), make([]byte, 16), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "w.bin"), make([]byte, 16), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "hard.bin"), make([]byte, 16), 0o600))
	require.NoError(t, os.Link(filepath.Join(dir, "hard.bin"), filepath.Join(top, "other")))
	require.NoError(t, os.Symlink("../secret", filepath.Join(dir, "link.bin")))
	require.NoError(t, os.Symlink("w.bin", filepath.Join(dir, "inner.bin")))
	require.NoError(t, os.Symlink("..", filepath.Join(dir, "dir")))
	require.NoError(t, os.Mkdir(filepath.Join(dir, "folder"), 0o700))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	return dir
}

// TestHostileONNX: cases 26 to 31 of the reference list and the sparse ones, each
// refused with one line that names the file, within the memory bound.
func TestHostileONNX(t *testing.T) {
	seen := map[int]bool{}
	dir := hostileFolder(t)
	for _, h := range onnxCases() {
		seen[h.no] = true
		t.Run(fmt.Sprint(h.no, " ", h.name), func(t *testing.T) {
			path := filepath.Join(dir, "model.onnx")
			require.NoError(t, os.WriteFile(path, h.file, 0o600))
			var before, after goruntime.MemStats
			goruntime.ReadMemStats(&before)
			_, err := Open(path)
			goruntime.ReadMemStats(&after)
			require.Error(t, err)
			require.ErrorIs(t, err, h.want)
			line := err.Error()
			require.NotContains(t, line, "\n")
			require.True(t, strings.HasPrefix(line, "loader: "), line)
			require.Equal(t, 1, strings.Count(line, "loader: "), line)
			require.Less(t, len(line), 600, line)
			require.True(t, strings.Contains(line, "model.onnx") || strings.Contains(line, "model/"), line)
			require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(2*len(h.file)+64<<20), line)
		})
	}
	for _, no := range []int{26, 27, 28, 29, 30, 31, 41} {
		require.True(t, seen[no], "case %d has no test", no)
	}
}

// TestONNXPlain: the messages that the hostile ones are made of are read.
func TestONNXPlain(t *testing.T) {
	dir := hostileFolder(t)
	for name, b := range map[string][]byte{
		"raw": matmul(init4()), "typed": matmul(pbBytes(5, pbInt(1, 2), pbInt(1, 2), pbInt(2, 1), pbStr(8, "w"), pbBytes(4, make([]byte, 16)))),
		"external": matmul(pbExternal("location", "w.bin", "offset", "0", "length", "16")),
		"linear":   matmul(pbSparse(le([]uint64{1, 2}), []int64{2}, 2)), "coo": matmul(pbSparse(le([]uint64{0, 1, 1, 0}), []int64{2, 2}, 2)),
	} {
		path := filepath.Join(dir, "model.onnx")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		g, err := Open(path)
		require.NoError(t, err, name)
		require.Len(t, g.Linears(), 1, name)
		require.Equal(t, []int{2, 2}, g.Weights[0].Shape)
		require.Equal(t, []int{-1, 2}, g.Values[g.Inputs[0]].Shape)
		require.True(t, g.Tensors())
	}
	_, err := Open(filepath.Join(dir, "model.onnx"), WithMaxMemory(20))
	require.ErrorIs(t, err, ErrLimit)
}

// FuzzONNX: whatever the bytes, a one-line error or a graph that checks.
func FuzzONNX(f *testing.F) {
	for _, h := range onnxCases() {
		if len(h.file) < 1<<12 {
			f.Add(h.file)
		}
	}
	f.Add(matmul(init4()))
	f.Add(matmul(pbExternal("location", "w.bin")))
	dir := hostileFolder(f)
	f.Fuzz(func(t *testing.T, b []byte) {
		path := fuzzFile(t, dir, "model.onnx", b)
		src, err := openFile(path)
		if err != nil {
			t.Fatal(err)
		}
		g, err := openONNX(src, path, &options{})
		if err != nil {
			if s := inFile(err, "model.onnx").Error(); strings.Contains(s, "\n") || !strings.HasPrefix(s, "loader: ") {
				t.Fatalf("error is not one line of ours: %q", s)
			}
			return
		}
		if err := g.Check(); err != nil {
			t.Fatal(err)
		}
		for _, c := range g.Constants {
			if err := c.Check(); err != nil {
				t.Fatal(err)
			}
		}
		readAll(t, g.Weights)
	})
}
