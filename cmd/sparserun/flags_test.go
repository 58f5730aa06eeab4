package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/testenv"
)

// TestIdleElsewhere: what bench, verify, sensitivity and eval would not look at is wrong usage, and so is a
// level outside 0..1 and the name of another format.
func TestIdleElsewhere(t *testing.T) {
	story, text := stories(t), storyText(t)
	lenet := testenv.Data(t, "lenet/lenet300100_sparse.onnx")
	for _, c := range []struct {
		want string
		args []string
	}{
		{"--shapes does nothing here", []string{"bench", story, "--shapes", "3x3"}},
		{"--group does nothing here", []string{"bench", "--group", "32"}},
		{"--sparsity does nothing here", []string{"bench", "--layouts", "dense,nm24", "--sparsity", "0.4"}},
		{"--context does nothing here", []string{"verify", story, "--context", "8"}},
		{"--dtype does nothing here", []string{"verify", story, "--fast", "--dtype", "f32"}},
		{"--group does nothing here", []string{"verify", story, "--group", "8"}},
		{"--group does nothing here", []string{"eval", story, "--text", text, "--group", "8"}},
		{"--crop does nothing here", []string{"eval", story, "--text", text, "--crop", "8"}},
		{"--group does nothing here", []string{"run", story, "--group", "8"}},
		{"--mean does nothing here", []string{"sensitivity", story, "--text", text, "--mean", "1"}},
		{"--levels and --sparsity", []string{"sensitivity", story, "--text", text, "--levels", "2"}},
		{"--levels and --sparsity", []string{"sensitivity", story, "--text", text, "--sparsity", "1.5"}},
		{"--count", []string{"sensitivity", story, "--text", text, "--count=-1"}},
		{"ONNX", []string{"prune", lenet, "-o", filepath.Join(t.TempDir(), "x.safetensors"), "--sparsity", "0.5"}},
		{"ONNX", []string{"prune", lenet, "-o", filepath.Join(t.TempDir(), "x.gguf"), "--structured", "0.5"}},
	} {
		code, _, errs := do(c.args...)
		require.Equal(t, exitUsage, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.want, "%v", c.args)
	}
}

// TestNothingSparse: where no layer runs sparse a comparison says that, not who loses by noise; perplexity
// names the windows that it is of.
func TestNothingSparse(t *testing.T) {
	story := stories(t)
	code, out, errs := do("run", story, "--compare", "-n", "2", "--prefill", "8", "--rounds", "1", "--text", storyText(t), "--window", "64", "--windows", "0")
	require.Zero(t, code, errs)
	require.Contains(t, out, "no layer runs sparse here")
	require.NotContains(t, out, "LOSES")
	require.NotContains(t, out, "perplexity (0 x")
	require.Contains(t, out, " x 64)")
	code, out, errs = do("run", testenv.Data(t, "lenet/lenet300100_original.onnx"), "--compare", "--rounds", "1")
	require.Zero(t, code, errs)
	require.Contains(t, out, "no layer runs sparse here")
	require.NotContains(t, out, "LOSES")
}

// TestVerifyNetwork: networks, too, are run dense and sparse.
func TestVerifyNetwork(t *testing.T) {
	for _, x := range []string{"lenet/lenet300100_sparse.onnx", "lenet/lenet5_sparse.onnx"} {
		code, out, errs := do("verify", testenv.Data(t, x), "--dtype", "f32")
		require.Zero(t, code, errs)
		require.Contains(t, out, "ok   dense and sparse outputs in f32: bitmask against dense", x)
	}
	var checks []string
	add := func(name string, ok bool, format string, _ ...any) {
		if !ok {
			checks = append(checks, name)
		}
	}
	e := engine{DType: "f32"}
	e.addOutputs([]float32{1, -2}, []float32{1, -2.003}, "nm24", "outputs", add)
	require.Empty(t, checks, "within 0.002 of 2")
	e.addOutputs([]float32{1, -2}, []float32{1, -2.005}, "nm24", "outputs", add)
	require.Len(t, checks, 1)
	nan := float32(0) / func() float32 { return 0 }()
	e.addOutputs([]float32{1, -2}, []float32{nan, -2}, "nm24", "outputs", add)
	require.Len(t, checks, 2, "NaN beside a number is a difference")
}

// TestEvalPhotos: 40 photographs through SqueezeNet, with onnxruntime's counts.
func TestEvalPhotos(t *testing.T) {
	photos, net := testenv.Data(t, "squeezenet/photos"), testenv.Data(t, "squeezenet/squeezenet_deepcompression.onnx")
	args := []string{"eval", net, "--images", photos, "--crop", "227", "--bgr", "--pixel-scale", "1", "--mean", "104,117,123", "--dtype", "f32", "--batch", "4"}
	m := doJSON(t, append(args, "--count", "12")...)
	require.EqualValues(t, 12, m["n"])
	if testing.Short() {
		return
	}
	m = doJSON(t, args...)
	require.EqualValues(t, 25, m["correct"])
	require.InDelta(t, 35./40, m["top5"], 1e-9)
	code, _, errs := do("eval", net, "--images", t.TempDir())
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, "no images")
}

// TestSensitivityText: a language model is scanned on as many sequences as asked for, of held-back text.
func TestSensitivityText(t *testing.T) {
	held := filepath.Join(t.TempDir(), "held.txt")
	require.NoError(t, os.WriteFile(held, []byte("One day a dog ran.\n\nThe cat was sad.\n\nTom had a ball.\n"), 0o600))
	args := []string{"sensitivity", stories(t), "--text", storyText(t), "--levels", "0.5"}
	require.EqualValues(t, 2, doJSON(t, append(args, "--count", "2")...)["n"])
	require.EqualValues(t, 3, doJSON(t, append(args, "--eval-text", held)...)["n"])
}

// TestNamesStayInTheirLine: what a file calls its parts makes no lines of its own, in no verb.
func TestNamesStayInTheirLine(t *testing.T) {
	gr, err := loader.Open(stories(t))
	require.NoError(t, err)
	defer gr.Close()
	path := filepath.Join(t.TempDir(), "m.safetensors")
	meta := map[string]string{"prune.pattern": "2:4", "prune.method": "x\nok   all is well\x1b[2J", "prune.mask.a\nok   zebra": "0"}
	require.NoError(t, loader.Save(gr, path, loader.SaveOptions{Meta: meta}))
	for _, verb := range []string{"inspect", "verify"} {
		_, out, errs := do(verb, path)
		require.Contains(t, out+errs, `\nok   `, verb)
		require.NotContains(t, out+errs, "\nok   all is well", verb)
		require.NotContains(t, out+errs, "\nok   zebra", verb)
		require.NotContains(t, out+errs, "\x1b", verb)
	}
	require.Equal(t, `größer, a\nb\x1b`, visible("größer, a\nb\x1b"))
}
