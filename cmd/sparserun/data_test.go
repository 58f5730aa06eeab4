package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestData: a BERT that PyTorch exported is fine-tuned, pruned, scanned and cut on token ids with classes from a file.
func TestData(t *testing.T) {
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	// The class is whether the first of eight ids, of 60, is odd.
	var b strings.Builder
	rng := rand.New(rand.NewPCG(1, 1))
	for range 600 {
		ids := make([]string, 8)
		first := rng.IntN(60)
		for i := range ids {
			ids[i] = fmt.Sprint(rng.IntN(60))
		}
		ids[0] = fmt.Sprint(first)
		fmt.Fprintf(&b, "{\"x\": [%s], \"y\": %d}\n", strings.Join(ids, ", "), first%2)
	}
	data := file("ids.jsonl")
	require.NoError(t, os.WriteFile(data, []byte(b.String()), 0o600))
	bert := filepath.Join("..", "..", "train", "testdata", "bert.onnx")

	m := doJSON(t, "train", bert, "--data", data, "-o", file("t.onnx"), "--epochs", "20", "--rate", "2e-3", "--seed", "3")
	require.Less(t, m["value_before"], 0.6)
	require.Greater(t, m["value"], 0.8, "of the last quarter, which nothing was trained on")
	require.Positive(t, m["masked"], "half of the file's weights are zero and stay")

	m = doJSON(t, "prune", file("t.onnx"), "--data", data, "-o", file("p.onnx"), "--sparsity", "0.6", "--method", "fisher", "--schedule", "cubic", "--finetune", "4", "--batch", "32")
	require.InDelta(t, 0.6, m["sparsity"], 1e-3)
	require.Equal(t, true, doJSON(t, "verify", file("p.onnx"))["ok"])
	m = doJSON(t, "sensitivity", file("t.onnx"), "--data", data, "--levels", "0.5,0.9")
	require.EqualValues(t, 150, m["n"])
	m = doJSON(t, "prune", file("t.onnx"), "--data", data, "-o", file("s.onnx"), "--structured", "0.5", "--finetune", "2", "--batch", "32")
	require.Positive(t, m["sparsity"])
	require.NotEmpty(t, m["latency"], "token ids are fed as what they are")

	short := file("short.jsonl")
	require.NoError(t, os.WriteFile(short, []byte("{\"x\": [1, 2], \"y\": 0}\n{\"x\": [1, 2], \"y\": 0}\n"), 0o600))
	for _, c := range []struct {
		code int
		want string
		args []string
	}{
		{exitFailed, "[-1 8]", []string{"train", bert, "--data", short, "-o", file("x.onnx")}},
		{exitFailed, "absent", []string{"train", bert, "--data", file("absent.jsonl"), "-o", file("x.onnx")}},
		{exitFailed, "ONNX", []string{"prune", stories(t), "--data", data, "-o", file("x.safetensors"), "--sparsity", "0.5"}},
		{exitUsage, "--data FILE", []string{"train", bert, "--data", data, "--cifar", "x", "-o", file("x.onnx")}},
		{exitUsage, "--augment", []string{"train", bert, "--data", data, "--augment", "-o", file("x.onnx")}},
		{exitUsage, "--mean", []string{"prune", bert, "--data", data, "--mean", "1", "--sparsity", "0.6", "-o", file("x.onnx")}},
		{exitUsage, ".onnx", []string{"train", bert, "--data", data, "-o", file("x.safetensors")}},
	} {
		code, _, errs := do(c.args...)
		require.Equal(t, c.code, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.want)
	}
}
