package main

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
)

// TestTrainClassifier: a network from nothing, fine-tuned again, made narrower, and coded: each file
// is what the report says of it.
func TestTrainClassifier(t *testing.T) {
	mnist := filepath.Dir(testenv.Data(t, "mnist/t10k-images-idx3-ubyte.gz"))
	dir := t.TempDir()
	dense := filepath.Join(dir, "dense.onnx")
	accuracy := func(file string) float64 {
		return doJSON(t, "eval", file, "--mnist", mnist, "--dtype", "f32")["value"].(float64)
	}
	m := doJSON(t, "train", "--net", "lenet-300-100", "--mnist", mnist, "-o", dense, "--steps", "150", "--seed", "3")
	need(t, m, "epochs", "loss", "metric", "value", "seconds", "samples_per_second", "history", "output", "file_bytes")
	require.Equal(t, "accuracy", m["metric"])
	test := m["test"].(map[string]any)
	require.Greater(t, test["value"], 0.9)
	require.Less(t, test["value_dense"], 0.3, "before training")
	require.InDelta(t, test["value"], accuracy(dense), 3e-4, "another order of sums")

	// Fine-tuning holds zeros.
	sparse := testenv.Data(t, "lenet/lenet300100_sparse.onnx")
	tuned := filepath.Join(dir, "tuned.onnx")
	m = doJSON(t, "train", sparse, "--mnist", mnist, "--pixel-scale", "256", "-o", tuned, "--steps", "20", "--rate", "1e-4")
	require.EqualValues(t, 266200-4952, m["masked"])
	v := doJSON(t, "inspect", tuned)
	require.GreaterOrEqual(t, v["sparsity"], float64(266200-4952)/266610) // biases of neurons without inputs are zero too

	small := filepath.Join(dir, "small.onnx")
	m = doJSON(t, "prune", dense, "-o", small, "--structured", "0.4", "--round-to", "8", "--score", "taylor", "--finetune", "0.2", "--distill", "--mnist", mnist)
	need(t, m, "method", "sparsity", "cpu_seconds", "before", "after", "layers", "structure", "latency", "file_bytes")
	require.Equal(t, "structured taylor", m["method"])
	require.Greater(t, m["value"], m["value_before_finetuning"])
	require.InDelta(t, m["value"], accuracy(small), 3e-4)
	require.Less(t, m["file_bytes"], 0.7*m["source_file_bytes"].(float64))
	l := m["latency"].([]any)
	require.Len(t, l, 2, "batches of 1 and 16, measured")
	require.Positive(t, l[0].(map[string]any)["pruned_ms"])

	coded := filepath.Join(dir, "coded.srcb")
	m = doJSON(t, "prune", dense, "-o", coded, "--sparsity", "0.9", "--schedule", "cubic", "--finetune", "0.4", "--share", "0.1", "--codebook", "5", "--mnist", mnist)
	need(t, m, "method", "sparsity", "before", "after", "ratio", "codebook", "file_bytes")
	require.InDelta(t, 0.9, m["sparsity"], 1e-3)
	require.Greater(t, m["ratio"], 30.0)
	require.InDelta(t, m["test"].(map[string]any)["value"], accuracy(coded), 3e-4)
	doJSON(t, "verify", coded)
	v = doJSON(t, "inspect", coded)
	require.Equal(t, "codebook", v["format"])
	require.Len(t, v["codebook"], 3)
	require.LessOrEqual(t, v["codebook"].(map[string]any)["fc1.weight"].(map[string]any)["codebook_entries"], 32.0)

	for _, bad := range [][]string{
		{"train", "-o", small, "--mnist", mnist}, {"train", dense, "--net", "lenet-5", "-o", small, "--mnist", mnist}, {"train", "--net", "lenet-5", "-o", small, "--text", "x"},
		{"train", dense, "-o", small}, {"prune", dense, "-o", small, "--structured", "0.3", "--sparsity", "0.5"}, {"prune", dense, "-o", small, "--structured", "0.3", "--finetune", "1"},
		{"prune", dense, "-o", small, "--codebook", "9"}, {"prune", dense, "-o", small, "--codebook", "5", "--structured", "0.3"}, {"prune", dense, "-o", small, "--structured", "0.3", "--score", "taylor"},
		{"prune", dense, "-o", small, "--structured", "0.3", "--quant", "int8"},
	} {
		code, _, errs := do(bad...)
		require.Equal(t, exitUsage, code, "%v: %s", bad, errs)
	}
	code, _, errs := do("prune", dense, "-o", small, "--structured", "1.5")
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "ratio 1.5")
}

// TestPruneBlocks: whole blocks of a residual network.
func TestPruneBlocks(t *testing.T) {
	out := filepath.Join(t.TempDir(), "o.onnx")
	m := doJSON(t, "prune", testenv.Data(t, "resnet/resnet20.onnx"), "-o", out, "--blocks", "2", "--structured", "0.1", "--leave", "*.add")
	s := m["structure"].(map[string]any)
	require.Len(t, s["blocks"], 2)
	macs := s["multiply_adds"].([]any)
	require.EqualValues(t, 40551040, macs[0])
	require.Less(t, macs[1], 0.75*40551040)
	doJSON(t, "eval", out, "--cifar", testenv.Data(t, "resnet/cifar10_test_jpeg_0000-1999.bin.gz"), "--count", "20")
}
