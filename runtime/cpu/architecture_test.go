package cpu_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"gorgonia.org/tensor"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// architecture is a small model of testdata/architectures.py.
type architecture struct {
	Name    string          `json:"name"`
	Config  json.RawMessage `json:"config"`
	Tensors [][2]any        `json:"tensors"` // name, shape, in the order that weights are numbered
	Prompt  []int32         `json:"prompt"`
	Rows    []int           `json:"rows"`
	Logits  [][]float64     `json:"logits"`
}

// write makes the model's folder: config.json as transformers saved it, and the
// weights by the formula of architectures.py.
func (a *architecture) write(t *testing.T) string {
	head, data := map[string]any{}, []byte{}
	for i, x := range a.Tensors {
		name, dims := x[0].(string), x[1].([]any)
		n, begin := 1, len(data)
		for _, d := range dims {
			n *= int(d.(float64))
		}
		for j := range n {
			h := uint32(uint64(j+1000003*i) * 2654435761)
			h ^= h >> 16
			h *= 0x45d9f3b
			h ^= h >> 16
			v := (float64(h)/(1<<32) - 0.5) * 0.8
			if len(dims) == 1 {
				v++
			}
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(float32(v)))
		}
		head[name] = map[string]any{"dtype": "F32", "shape": dims, "data_offsets": []int{begin, len(data)}}
	}
	h, err := json.Marshal(head)
	require.NoError(t, err)
	dir := t.TempDir()
	file := append(binary.LittleEndian.AppendUint64(nil, uint64(len(h))), h...)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "model.safetensors"), append(file, data...), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), a.Config, 0o600))
	return dir
}

// TestArchitectures holds every architecture and RoPE variant to transformers' logits
// in float64 (testdata/architectures.py), a prompt at once and in pieces that cut
// windows and pages. Rows behind position 0 and ones beyond the original context
// tell the variants of RoPE apart. transformers keeps angles in float32, and two
// layers of float32 sums of 32 to 44 products differ by some 1e-6 of logits up to 5:
// 1e-5 is what is left of both.
func TestArchitectures(t *testing.T) {
	b, err := os.ReadFile("testdata/architectures.json")
	require.NoError(t, err)
	var golden struct {
		Models []architecture `json:"models"`
	}
	require.NoError(t, json.Unmarshal(b, &golden))
	require.Len(t, golden.Models, 13)
	eachISA(t, func(t *testing.T) {
		for _, a := range golden.Models {
			dir := a.write(t)
			for _, chunk := range []int{5, 64} {
				s := session(t, dir, 1, runtime.WithOptions(runtime.Options{DType: sparse.F32, Chunk: chunk, Select: len(a.Prompt)}))
				y, err := s.Run(context.Background(), tensor.New(tensor.WithShape(len(a.Prompt)), tensor.WithBacking(a.Prompt)))
				require.NoError(t, err, a.Name)
				got := y.Data().([]float32)
				vocab := len(got) / len(a.Prompt)
				worst := 0.0
				for i, r := range a.Rows {
					require.Len(t, a.Logits[i], vocab, a.Name)
					for j, want := range a.Logits[i] {
						worst = max(worst, math.Abs(float64(got[r*vocab+j])-want))
					}
				}
				t.Logf("%s, pieces of %d: largest difference %.2g", a.Name, chunk, worst)
				require.Less(t, worst, 1e-5, a.Name)
			}
		}
	})
}
