package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
)

// TestPruneNet: a LeNet of an ONNX file goes through criterion, schedule, fine-tuning and gate, and the
// file that comes out holds what the report says.
func TestPruneNet(t *testing.T) {
	net := testenv.Data(t, "lenet/lenet300100_original.onnx")
	mnist := filepath.Dir(testenv.Data(t, "mnist/t10k-images-idx3-ubyte.gz"))
	out := filepath.Join(t.TempDir(), "o.onnx")
	m := doJSON(t, "prune", net, "-o", out, "--method", "taylor", "--sparsity", "0.85", "--schedule", "cubic", "--finetune", "0.4", "--distill",
		"--mnist", mnist, "--pixel-scale", "256", "--max-loss", "0.02")
	require.Equal(t, "taylor", m["method"])
	require.InDelta(t, 0.85, m["sparsity"], 1e-4)
	tune := m["tune"].(map[string]any)
	require.Len(t, tune["rounds"], 10, "a gate wants rounds to go back to")
	require.Greater(t, tune["value"], tune["value_dense"].(float64)-0.02)
	test := m["test"].(map[string]any)
	require.InDelta(t, 0.9772, test["value_dense"], 1e-9, "what onnxruntime measured")
	require.Greater(t, test["value"], 0.96)
	require.Less(t, m["after"].(map[string]any)["bytes"], m["before"].(map[string]any)["bytes"].(float64)/3)

	e := doJSON(t, "eval", out, "--mnist", mnist, "--pixel-scale", "256", "--dtype", "f32")
	require.InDelta(t, test["value"], e["value"], 3e-4, "another order of sums")
	v := doJSON(t, "verify", out)
	require.Equal(t, true, v["ok"])

	// What cannot be met is an error, and nothing is written.
	none := filepath.Join(t.TempDir(), "none.onnx")
	code, _, errs := do("prune", net, "-o", none, "--sparsity", "0.995", "--mnist", mnist, "--pixel-scale", "256", "--max-loss", "0.001")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "gate")
	_, err := os.Stat(none)
	require.ErrorIs(t, err, os.ErrNotExist)
	for _, bad := range [][]string{
		{"--method", "luck", "--sparsity", "0.5", "--mnist", mnist}, {"--sparsity", "0.5", "--mnist", mnist, "--batch", "0"},
		{"--sparsity", "0.5", "--mnist", mnist, "--cifar", "x"}, {"--pattern", "2:4", "--method", "sensitivity", "--mnist", mnist}, {"--sparsity", "0.5", "--mnist", mnist, "--permute"},
	} {
		code, _, errs := do(append([]string{"prune", net, "-o", none}, bad...)...)
		require.Equal(t, exitUsage, code, "%v: %s", bad, errs)
	}
}

// TestSensitivity: the files that --out promises, and rates that amount to what was asked for.
func TestSensitivity(t *testing.T) {
	net := testenv.Data(t, "lenet/lenet300100_original.onnx")
	mnist := filepath.Dir(testenv.Data(t, "mnist/t10k-images-idx3-ubyte.gz"))
	dir := t.TempDir()
	m := doJSON(t, "sensitivity", net, "--mnist", mnist, "--pixel-scale", "256", "--count", "500", "--levels", "0,0.5,0.9,0.99", "--sparsity", "0.9", "--out", dir)
	require.Equal(t, "accuracy", m["metric"])
	require.Len(t, m["points"], 12)
	require.EqualValues(t, 500, m["n"])
	for _, how := range []string{"budget", "greedy"} {
		r := m[how].(map[string]any)
		require.InDelta(t, 0.9*266200, 235200*r["ip1.weight"].(float64)+30000*r["ip2.weight"].(float64)+1000*r["ip3.weight"].(float64), 1)
	}
	csv, err := os.ReadFile(filepath.Join(dir, "sensitivity.csv"))
	require.NoError(t, err)
	require.Equal(t, 13, strings.Count(string(csv), "\n"))
	for _, f := range []string{"sensitivity.json", "sensitivity.png"} {
		st, err := os.Stat(filepath.Join(dir, f))
		require.NoError(t, err)
		require.Positive(t, st.Size())
	}
}

// TestPruneStories: a small language model by a gradient criterion with a few steps of fine-tuning.
func TestPruneStories(t *testing.T) {
	text, err := os.ReadFile(testenv.Data(t, "tinystories/moe-routing-bench-val.txt"))
	require.NoError(t, err)
	dir := t.TempDir()
	file := func(name string, b []byte) string {
		p := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(p, b, 0o644))
		return p
	}
	// Lines of the text become documents.
	doc := strings.ReplaceAll(string(text[:60000]), "\n", "\n\n")
	m := doJSON(t, "prune", stories(t), "-o", filepath.Join(dir, "o.safetensors"), "--method", "fisher", "--sparsity", "0.3", "--finetune", "0.5", "--batch", "8", "--text-window", "96",
		"--text", file("train.txt", []byte(doc[:50000])), "--eval-text", file("eval.txt", []byte(doc[50000:])))
	tune := m["tune"].(map[string]any)
	require.Equal(t, "perplexity", tune["metric"])
	first := tune["rounds"].([]any)[0].(map[string]any)
	require.Less(t, tune["value"], first["value_pruned"], "fine-tuning helps")
	require.InDelta(t, 0.3, m["sparsity"], 1e-3)
}
