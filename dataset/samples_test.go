package dataset

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// npy writes an array as numpy.save does.
func npy(kind, shape string, data any) []byte {
	head := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }\n", kind, shape)
	b := append([]byte("\x93NUMPY\x01\x00"), byte(len(head)), byte(len(head)>>8))
	b, err := binary.Append(append(b, head...), binary.LittleEndian, data)
	if err != nil {
		panic(err)
	}
	return b
}

func npz(files map[string][]byte) []byte {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	for name, data := range files {
		w, err := z.Create(name)
		if err == nil {
			_, err = w.Write(data)
		}
		if err != nil {
			panic(err)
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func TestSamples(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, b []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		return path
	}
	y := npy("<i8", "2,", []int64{1, 0})
	for _, c := range []struct {
		name string
		data []byte
	}{
		{"ids.jsonl", []byte("{\"x\": [5, 6, 7], \"y\": 1}\n\n{\"y\": 0, \"x\": [[8], [9], [1]]}\n")},
		{"long.npz", npz(map[string][]byte{"x.npy": npy("<i8", "2, 3", []int64{5, 6, 7, 8, 9, 1}), "y.npy": y})},
		{"int.npz", npz(map[string][]byte{"x.npy": npy("<i4", "2, 3", []int32{5, 6, 7, 8, 9, 1}), "y.npy": y})},
		{"byte.npz", npz(map[string][]byte{"x.npy": npy("|u1", "2, 1, 3", []uint8{5, 6, 7, 8, 9, 1}), "y.npy": y})},
		{"double.npz", npz(map[string][]byte{"x.npy": npy("<f8", "2, 3", []float64{5, 6, 7, 8, 9, 1}), "y.npy": y})},
	} {
		d, err := Samples(write(c.name, c.data))
		require.NoError(t, err, c.name)
		require.Equal(t, 3, d.Width, c.name)
		require.Equal(t, []float32{5, 6, 7, 8, 9, 1}, d.X, c.name)
		require.Equal(t, []int32{1, 0}, d.Y, c.name)
	}
	x := npy("<f4", "2, 1", []float32{1, 2})
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"a.jsonl", []byte("{\"x\": [1, 2], \"y\": 0}\n{\"x\": [1], \"y\": 0}"), "line 2: want 2 numbers x and a class y, got 1 and 0"},
		{"b.jsonl", []byte(`{"x": [1]}`), "line 1"},
		{"c.jsonl", []byte(`{"y": 1}`), "line 1"},
		{"d.jsonl", []byte(`{"x": [1], "y": -1}`), "line 1"},
		{"e.jsonl", []byte(`{"x": [1], "y": 1.5}`), "line 1"},
		{"f.jsonl", []byte(`{"x": [1], "y": 1} 3`), "line 1"},
		{"g.jsonl", []byte(`{"x": [1], "y": 1, "z": 2}`), `"z"`},
		{"h.jsonl", []byte(`{"x": ["a"], "y": 1}`), "line 1"},
		{"i.jsonl", []byte(`{"x": [1], "x": [2], "y": 1}`), "line 1"},
		{"j.jsonl", []byte(`{"x": ` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `, "y": 1}`), "line 1"},
		{"k.jsonl", []byte(`{"x": [1], "y": 40000}`), "0..32767"},
		{"l.jsonl", nil, "got none"},
		{"m.jsonl", []byte("{\"x\": [1], \"y\": 1}\n" + strings.Repeat(" ", maxLine+1)), "line 2"},
		{"n.npz", []byte("no zip"), "npz"},
		{"o.npz", npz(map[string][]byte{"x.npy": x}), "arrays x and y"},
		{"p.npz", npz(map[string][]byte{"x.npy": x, "y.npy": npy("<i8", "3,", []int64{1, 2, 3})}), "[2 1] and [3]"},
		{"q.npz", npz(map[string][]byte{"x.npy": x, "y.npy": npy("<i8", "2,", []int64{1, -2})}), "y[1]"},
		{"r.npz", npz(map[string][]byte{"x.npy": x, "y.npy": npy("<f4", "2,", []float32{1, 1.5})}), "y[1]"},
		{"s.npz", npz(map[string][]byte{"x.npy": npy("<i8", "1, 1", []int64{1<<24 + 1}), "y.npy": y}), "array x: npy: number 0"},
		{"t.npz", npz(map[string][]byte{"x.npy": x[:len(x)-1], "y.npy": y}), "want 8 bytes"},
		{"u.npz", npz(map[string][]byte{"x.npy": npy(">f4", "2, 1", []float32{1, 2}), "y.npy": y}), "little-endian"},
		{"v.npz", npz(map[string][]byte{"x.npy": npy("<f4", "4294967296, 4294967296", []float32{1, 2}), "y.npy": y}), "shape"},
		{"w.npz", npz(map[string][]byte{"x.npy": npy("<f4", "-1, 2", []float32{1, 2}), "y.npy": y}), "shape"},
		{"x.npz", npz(map[string][]byte{"x.npy": x[:11], "y.npy": y}), "npy"},
	} {
		_, err := Samples(write(c.name, c.data))
		require.ErrorIs(t, err, ErrData, c.name)
		require.ErrorContains(t, err, c.want, c.name)
		require.ErrorContains(t, err, c.name)
		require.NotContains(t, err.Error(), "\n", c.name)
	}
	_, err := Samples(filepath.Join(dir, "absent.jsonl"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = Samples(filepath.Join(dir, "absent.npz"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// FuzzNPY: any bytes give numbers of the shape, or one line of error.
func FuzzNPY(f *testing.F) {
	f.Add(npy("<f4", "2, 1", []float32{1, 2}))
	f.Add(npy("<i8", "", []int64{7}))
	f.Add(npy("|u1", "0, 9", []uint8{}))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, shape, err := NPY(b)
		if err != nil {
			require.ErrorIs(t, err, ErrData)
			require.NotContains(t, err.Error(), "\n")
			return
		}
		n := 1
		for _, d := range shape {
			n *= d
		}
		require.Len(t, x, n)
	})
}
