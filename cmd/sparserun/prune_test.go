package main

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// pruneArgs are the arguments of a small calibrated pruning of stories260K.
func pruneArgs(t *testing.T, text, out string, extra ...string) []string {
	return append([]string{"prune", stories(t), "-o", out, "--calib", text, "--calib-window", "64", "--calib-windows", "4"}, extra...)
}

// TestStructured: heads, channels and layers leave, by every score; what is left is
// an ordinary model.
func TestStructured(t *testing.T) {
	text, out := storyText(t), filepath.Join(t.TempDir(), "o.safetensors")
	for _, score := range []string{"activation", "taylor", "random"} {
		m := doJSON(t, pruneArgs(t, text, out, "--heads", "0.25", "--channels", "0.25", "--layers", "1", "--score", score)...)
		need(t, m, "before.bytes", "after.bytes", "recipe", "sizes.f16_bytes")
		require.Equal(t, score, m["recipe"].(map[string]any)["prune.score"])
		m = doJSON(t, "run", out, "-n", "4")
		require.Less(t, m["dense"].(map[string]any)["weight_bytes"], float64(500000))
		m = doJSON(t, "inspect", out)
		require.Less(t, m["parameters"], 250000.0)
		code, stdout, errs := do("verify", out)
		require.Zero(t, code, errs)
		require.Contains(t, stdout, "layers 4 heads 6 kv 3 ffn 136")
	}
	code, _, errs := do("prune", "x", "-o", out, "--channels", "0.25", "--calib", text, "--score", "taste")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "taste")
}

// TestLayerErrors: every matrix's error is printed, a line for a layer.
func TestLayerErrors(t *testing.T) {
	text, out := storyText(t), filepath.Join(t.TempDir(), "o.safetensors")
	code, stdout, errs := do(pruneArgs(t, text, out, "-m", "wanda", "--pattern", "2:4")...)
	require.Zero(t, code, errs)
	for b := range 5 {
		require.Regexp(t, fmt.Sprintf(`(?m)^  layer %d: q 0\.\d+, k 0\.\d+, v 0\.\d+, o 0\.\d+, gate 0\.\d+, up 0\.\d+, down 0\.\d+$`, b), stdout)
	}
	require.Contains(t, stdout, "X the calibration inputs")
	code, stdout, errs = do("prune", stories(t), "-o", out, "--sparsity", "0.5", "--include", "model.embed_tokens.weight")
	require.Zero(t, code, errs)
	require.Regexp(t, `(?m)^  model.embed_tokens 0\.\d+$`, stdout)
}

// TestSizes: sizes name their base, count masks, scales and embeddings, and are
// what the file takes.
func TestSizes(t *testing.T) {
	text, dir := storyText(t), t.TempDir()
	for _, c := range []struct {
		args     []string
		bits     float64 // of a pruned weight; 172 columns make groups and masks end early
		tol      float64
		int8head bool
	}{
		{[]string{"-m", "sparsegpt", "--pattern", "2:4"}, 9, 0.2, false},
		{[]string{"-m", "sparsegpt", "--pattern", "2:4", "--quant", "int4"}, 3.5, 0.1, false},
		{[]string{"-m", "best", "--pattern", "2:4", "--quant", "int4", "--quant-embed", "int8"}, 3.5, 0.1, true},
		{[]string{"-m", "wanda", "--sparsity", "0.5", "--quant", "int8", "--asymmetric", "--format", "dense"}, 8.4, 0.3, false},
		{[]string{"-m", "sparsegpt", "--sparsity", "0.5", "--quant", "int4", "--asymmetric", "--format", "dense"}, 4.79, 0.1, false},
		{[]string{"-m", "wanda+resolve", "--pattern", "16x4/0.5"}, 9.84, 0.1, false}, // 8 bytes a row for where it begins
		{[]string{"-m", "wanda", "--pattern", "1:4"}, 5.86, 0.1, false},
	} {
		out := filepath.Join(dir, "o.safetensors")
		m := doJSON(t, pruneArgs(t, text, out, c.args...)...)
		need(t, m, "cpu_seconds", "sizes.source_bytes", "sizes.stored_bytes", "sizes.f16_bytes", "sizes.f32_bytes", "sizes.embedding_bytes", "sizes.layers_f16_bytes", "sizes.bits_per_weight")
		s := m["sizes"].(map[string]any)
		require.InDelta(t, c.bits, s["layers_bits_per_weight"], c.tol, "%v", c.args)
		require.Equal(t, 2*s["f16_bytes"].(float64), s["f32_bytes"])
		require.Equal(t, 2*260032.0, s["f16_bytes"], "stories260K has 260,032 weights")
		require.Equal(t, 2*226560.0, s["layers_f16_bytes"])
		embed := 2.0 * 512 * 64
		if c.int8head {
			embed = 512 * (64 + 2) // a f16 scale a row
		}
		require.Equal(t, embed, s["embedding_bytes"], "%v", c.args)
		in := doJSON(t, "inspect", out)
		require.Equal(t, 260032.0, in["parameters"])
		code, stdout, errs := do("verify", out)
		require.Zero(t, code, stdout+errs)
		if c.int8head {
			require.Equal(t, in["weight_bytes"], s["stored_bytes"])
			code, stdout, errs = do(pruneArgs(t, text, out, c.args...)...)
			require.Zero(t, code, errs)
			require.Contains(t, stdout, "smaller than fp16")
			require.Contains(t, stdout, "than fp32")
			require.Contains(t, stdout, "peak memory")
			f16 := s["layers_f16_bytes"].(float64)
			require.Greater(t, 2*f16/s["layers_bytes"].(float64), 9.0, fmt.Sprint("block linears against fp32", c.args))
		}
	}
}

// TestVerifyFinds: a pruned file in which a weight was changed, a zero filled or
// bytes were added fails, and the line says where.
func TestVerifyFinds(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good.safetensors")
	code, _, errs := do("prune", stories(t), "-o", good, "--pattern", "2:4")
	require.Zero(t, code, errs)
	const name = "model.layers.1.self_attn.k_proj.weight"
	save := func(change func(gr *model.Graph)) string {
		gr, err := loader.Open(good)
		require.NoError(t, err)
		defer gr.Close()
		change(gr)
		bad := filepath.Join(dir, "bad.safetensors")
		require.NoError(t, loader.Save(gr, bad, loader.SaveOptions{Meta: gr.Source.Meta}))
		return bad
	}
	rewrite := func(gr *model.Graph, f func(w []float32)) {
		w, err := gr.Weight(name)
		require.NoError(t, err)
		x, err := sparse.Read(w.Data)
		require.NoError(t, err)
		f(x)
		r, c := w.Data.Dims()
		w.Data = sparse.NewDense(r, c, x)
	}
	for _, c := range []struct {
		what   string
		change func(*model.Graph)
		want   []string
	}{
		{"nothing", func(*model.Graph) {}, nil},
		{"a zero filled", func(gr *model.Graph) {
			rewrite(gr, func(w []float32) { w[0], w[1], w[2], w[3] = 1, 1, 1, 1 })
		}, []string{name, "row 0 columns 0..3"}},
		{"another pair kept", func(gr *model.Graph) {
			rewrite(gr, func(w []float32) { w[0], w[1], w[2], w[3] = w[3], w[2], w[0], w[1] })
		}, []string{name, "mask digest"}},
		{"a weight lost", func(gr *model.Graph) {
			rewrite(gr, func(w []float32) { clear(w[:4]) })
		}, []string{name, "mask digest"}},
		{"zeros stored", func(gr *model.Graph) { rewrite(gr, func([]float32) {}) }, nil}, // dense is a form too
	} {
		code, _, errs := do("verify", save(c.change))
		if c.want == nil {
			require.Zero(t, code, "%s: %s", c.what, errs)
			continue
		}
		require.Equal(t, exitFailed, code, c.what)
		for _, w := range c.want {
			require.Contains(t, errs, w, c.what)
		}
	}
	// A recipe that names what the file has not.
	code, _, errs = do("verify", save(func(gr *model.Graph) {
		gr.Source.Meta["prune.mask.model.layers.7.mlp.up_proj.weight"] = "00"
	}))
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "model.layers.7.mlp.up_proj.weight")
	// Bytes that no weight needs.
	b := must(os.ReadFile(good))
	gr, err := loader.Open(good)
	require.NoError(t, err)
	defer gr.Close()
	need := gr.WeightBytes().Total()
	n, err := tensorBytes(good)
	require.NoError(t, err)
	require.InDelta(t, need, n, 32*float64(len(gr.Weights)))
	require.Less(t, n, int64(len(b)))
}
