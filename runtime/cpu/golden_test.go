package cpu_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"gorgonia.org/tensor"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// session opens a model on a backend of its own.
func session(t testing.TB, path string, threads int, opts ...runtime.Option) *runtime.Session {
	t.Helper()
	g, err := loader.Open(path)
	require.NoError(t, err)
	b := cpu.New(cpu.Threads(threads))
	s, err := runtime.New(g, b, append(opts, runtime.WithTableDir("off"))...)
	require.NoError(t, err)
	require.NoError(t, g.Close())
	t.Cleanup(func() {
		require.NoError(t, s.Close())
		require.NoError(t, b.Close())
	})
	return s
}

// eachISA runs f with every instruction set of this machine.
func eachISA(t *testing.T, f func(t *testing.T)) {
	for _, isa := range linalg.ISAs() {
		t.Run(isa.String(), func(t *testing.T) {
			before, err := linalg.ForceISA(isa)
			require.NoError(t, err)
			defer func() { _, _ = linalg.ForceISA(before) }()
			f(t)
		})
	}
}

// tensors reads the float32 and int64 tensors of a small safetensors file.
func tensors(t *testing.T, path string) map[string][]float64 {
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	n := binary.LittleEndian.Uint64(b)
	var head map[string]struct {
		DType   string `json:"dtype"`
		Offsets [2]int `json:"data_offsets"`
	}
	require.NoError(t, json.Unmarshal(b[8:8+n], &head))
	out := map[string][]float64{}
	for name, h := range head {
		raw := b[8+int(n)+h.Offsets[0] : 8+int(n)+h.Offsets[1]]
		switch h.DType {
		case "F32":
			for i := 0; i < len(raw); i += 4 {
				out[name] = append(out[name], float64(math.Float32frombits(binary.LittleEndian.Uint32(raw[i:]))))
			}
		case "I64":
			for i := 0; i < len(raw); i += 8 {
				out[name] = append(out[name], float64(int64(binary.LittleEndian.Uint64(raw[i:]))))
			}
		case "I32":
			for i := 0; i < len(raw); i += 4 {
				out[name] = append(out[name], float64(int32(binary.LittleEndian.Uint32(raw[i:]))))
			}
		}
	}
	return out
}

func toIDs(x []float64) []int32 {
	var out []int32
	for _, v := range x {
		out = append(out, int32(v))
	}
	return out
}

// TestStories holds a whole model in float32 to logits computed in float64. The
// tolerance is twice what transformers in float32 differs by (data/README.md).
func TestStories(t *testing.T) {
	dir := testenv.Data(t, "stories260K/config.json")
	dir = dir[:len(dir)-len("/config.json")]
	ref := tensors(t, testenv.Data(t, "stories260K/reference.safetensors"))
	ids := toIDs(ref["input_ids"])
	require.Len(t, ref["logits"], len(ids)*512)
	eachISA(t, func(t *testing.T) {
		for _, threads := range []int{1, 3} {
			for _, chunk := range []int{7, 256} {
				s := session(t, dir, threads, runtime.WithOptions(runtime.Options{DType: sparse.F32, Chunk: chunk, Select: 64}), runtime.WithContext(512))
				y, err := s.Run(context.Background(), tensor.New(tensor.WithShape(len(ids)), tensor.WithBacking(ids)))
				require.NoError(t, err)
				var worst float64
				for i, v := range y.Data().([]float32) {
					worst = max(worst, math.Abs(float64(v)-ref["logits"][i]))
				}
				t.Logf("%d threads, chunks of %d: largest logit difference %.2g", threads, chunk, worst)
				require.Less(t, worst, 9.2e-5)
				prompt := []int32{1, 403, 407, 261, 378}
				res, err := s.GenerateTokens(context.Background(), prompt, runtime.GenerateOptions{MaxTokens: 200, IgnoreEOS: true})
				require.NoError(t, err)
				want := toIDs(ref["greedy_ids"])
				if len(want) == len(res.Tokens)+len(prompt) {
					want = want[len(prompt):]
				}
				require.Equal(t, want, res.Tokens)
			}
		}
	})
}

// TestSmolLM2 holds the real model in float32 to transformers' logits, of which the
// golden file keeps four decimals. Sums of 1,536 float32 products in another order
// differ by some 1e-5 of their size a layer; 30 layers and logits of up to 20 leave
// 2e-3.
func TestSmolLM2(t *testing.T) {
	path := testenv.Model(t)
	var golden struct {
		Generations []struct {
			Prompt    []int32   `json:"prompt_ids"`
			TopIDs    []int32   `json:"top5_ids"`
			TopLogits []float64 `json:"top5_logits"`
			Greedy    []int32   `json:"greedy_ids"`
			Gap       []float64 `json:"top1_top2_gap"`
		}
	}
	b, err := os.ReadFile(testenv.Data(t, "smollm2/golden.json"))
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &golden))
	s := session(t, path, 0, runtime.WithDType(sparse.F32), runtime.WithContext(512))
	for _, g := range golden.Generations {
		q := s.NewSequence()
		logits, err := q.Extend(context.Background(), g.Prompt, nil)
		require.NoError(t, err)
		for i, id := range g.TopIDs {
			require.InDelta(t, g.TopLogits[i], float64(logits[id]), 2e-3)
		}
		// Steps whose best two are nearly equal may go either way.
		for i, id := range g.Greedy {
			if g.Gap[i] < 0.05 {
				break
			}
			best := 0
			for j, v := range logits {
				if v > logits[best] {
					best = j
				}
			}
			require.Equal(t, int(id), best, "token %d", i)
			logits, err = q.Extend(context.Background(), []int32{id}, nil)
			require.NoError(t, err)
		}
		q.Close()
	}
}
