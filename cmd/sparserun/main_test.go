package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
)

// inChild is what the test binary does to itself before it stands in for the command.
var inChild []func()

// TestMain lets the test binary stand in for the command, so that signals and exit
// codes are tested on a real process.
func TestMain(m *testing.M) {
	if os.Getenv("SPARSERUN_TEST_MAIN") == "1" {
		for _, f := range inChild {
			f()
		}
		main()
	}
	dir, err := os.MkdirTemp("", "sparserun-test")
	if err != nil {
		panic(err)
	}
	os.Setenv("XDG_CACHE_HOME", dir) // kernel times of tests stay out of the user's cache
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func stories(t testing.TB) string { return filepath.Dir(testenv.Data(t, "stories260K/config.json")) }

// do runs the command and returns exit code, stdout, stderr.
func do(args ...string) (int, string, string) {
	var out, errs bytes.Buffer
	code := realMain(args, &out, &errs)
	return code, out.String(), errs.String()
}

// doJSON runs a verb with --json; stdout must be exactly one JSON object.
func doJSON(t *testing.T, args ...string) map[string]any {
	t.Helper()
	code, out, errs := do(append(args, "--json")...)
	require.Zero(t, code, errs)
	d := json.NewDecoder(strings.NewReader(out))
	var m map[string]any
	require.NoError(t, d.Decode(&m))
	require.False(t, d.More(), "nothing after the object: %q", out)
	return m
}

func must[T any](x T, err error) T {
	if err != nil {
		panic(err)
	}
	return x
}

func need(t *testing.T, m map[string]any, keys ...string) {
	t.Helper()
	for _, k := range keys {
		var at any = m
		for _, part := range strings.Split(k, ".") {
			mm, ok := at.(map[string]any)
			require.True(t, ok, "%s: no object above it", k)
			at, ok = mm[part]
			require.True(t, ok, "key %s is missing", k)
		}
	}
}

// TestContract walks one model through the verbs and holds every verb to the keys
// that the design promises.
func TestContract(t *testing.T) {
	model := stories(t)
	dir := t.TempDir()
	pruned := filepath.Join(dir, "p.safetensors")

	m := doJSON(t, "inspect", model)
	need(t, m, "format", "arch", "parameters", "sparsity", "weight_bytes", "dense_weight_bytes", "bits_per_weight", "tensors")
	need(t, m["tensors"].([]any)[0].(map[string]any), "name", "shape", "dtype", "layout", "sparsity")

	m = doJSON(t, "prune", model, "-o", pruned, "--pattern", "2:4")
	need(t, m, "method", "sparsity", "seconds", "before.bytes", "after.bytes", "layers")
	require.InDelta(t, 0.5, m["sparsity"], 1e-9)
	need(t, m["layers"].([]any)[0].(map[string]any), "name", "sparsity", "error")

	m = doJSON(t, "verify", pruned)
	require.Equal(t, true, m["ok"])
	need(t, m["checks"].([]any)[0].(map[string]any), "name", "ok", "detail")

	m = doJSON(t, "run", pruned, "-p", "Once upon a time", "-n", "4", "--compare", "--baseline", model, "--rounds", "1", "--prefill", "16")
	need(t, m, "text", "tokens", "dense.weight_bytes", "dense.peak_bytes", "dense.prefill_tokens_per_s", "dense.decode_tokens_per_s",
		"dense.latency_ms.p50", "dense.latency_ms.p95", "dense.latency_ms.p99", "sparse.weight_bytes", "sparse.prefill_tokens_per_s",
		"speedup.prefill", "speedup.decode", "memory_ratio", "max_abs_error", "baseline.weight_bytes")

	m = doJSON(t, "run", model, "-n", "3")
	need(t, m, "text", "tokens", "dense.decode_tokens_per_s")

	text := filepath.Join(dir, "t.txt")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("Once upon a time there was a little girl. ", 40)), 0o600))
	m = doJSON(t, "eval", model, "--text", text, "--window", "64", "--windows", "2", "--dtype", "f32")
	need(t, m, "metric", "value", "tokens", "seconds")
	require.EqualValues(t, 126, m["tokens"])

	out := filepath.Join(dir, "bench")
	m = doJSON(t, "bench", "--shapes", "64x64,32x128", "--dtypes", "f32,int8", "--sparsity", "0.5,0.9", "--batch", "1,3", "--cold", "1", "--rounds", "1", "--out", out)
	need(t, m, "machine.name", "machine.read_gb_per_s", "machine.f32_gflop_per_s", "rows")
	require.Len(t, m["rows"], 2*2*2*(1+1+2+2), "shapes x batches x types x (dense, nm24, bitmask, csr)")
	for _, r := range m["rows"].([]any) {
		row := r.(map[string]any)
		require.Positive(t, row["of_limit"], "%v", row)
		require.Positive(t, row["bytes"], "%v", row)
		require.Positive(t, row["speedup"], "%v", row)
	}
	files, err := filepath.Glob(filepath.Join(out, "*"))
	require.NoError(t, err)
	require.Len(t, files, 3+4+1, "md, csv, json, a plot for each shape and batch, roofline")
	rows, err := os.ReadFile(filepath.Join(out, "bench.csv"))
	require.NoError(t, err)
	require.Equal(t, 1+len(m["rows"].([]any)), strings.Count(string(rows), "\n"))
	need(t, m["rows"].([]any)[0].(map[string]any), "op", "rows", "cols", "batch", "layout", "weight", "act", "sparsity", "threads", "ns", "gb_per_s", "gflop_per_s", "dense_ns", "speedup", "of_limit")
}

// TestTrain: a pruned model is fine-tuned, its masks hold, it gets better.
func TestTrain(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "t.txt")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("One day a big dog saw a red ball in the park. The dog was happy.\n\n", 60)), 0o600))
	a, b := filepath.Join(dir, "a.safetensors"), filepath.Join(dir, "b.safetensors")
	code, _, errs := do("prune", stories(t), "-o", a, "--pattern", "2:4")
	require.Zero(t, code, errs)
	m := doJSON(t, "train", a, "-o", b, "--text", text, "--eval", text, "--steps", "8", "--batch", "4", "--window", "32", "--rate", "4e-3")
	need(t, m, "epochs", "loss", "metric", "value", "seconds", "masked")
	require.Less(t, m["value"], m["value_before"])
	require.Positive(t, m["masked"])
	code, out, errs := do("verify", b)
	require.Zero(t, code, out+errs)
	require.Contains(t, out, "35 masks equal what pruning recorded")
}

// TestEvalImages holds the reference network to its reference accuracy.
func TestEvalImages(t *testing.T) {
	dir := filepath.Dir(testenv.Data(t, "mnist/t10k-images-idx3-ubyte.gz"))
	m := doJSON(t, "eval", testenv.Data(t, "lenet/lenet300100_sparse.onnx"), "--mnist", dir, "--pixel-scale", "256", "--dtype", "f32")
	need(t, m, "metric", "value", "n", "seconds")
	require.EqualValues(t, 9801, m["correct"])
	require.EqualValues(t, 10000, m["n"])
}

// TestMaxLoss: the gate writes nothing and names the number.
func TestMaxLoss(t *testing.T) {
	dir := t.TempDir()
	text, out := filepath.Join(dir, "t.txt"), filepath.Join(dir, "o.safetensors")
	require.NoError(t, os.WriteFile(text, []byte(strings.Repeat("One day a big dog saw a red ball in the park. ", 60)), 0o600))
	gate := []string{"--eval-text", text, "--eval-window", "64", "--eval-windows", "2"}
	code, _, errs := do(append([]string{"prune", stories(t), "-o", out, "--sparsity", "0.8", "--max-loss", "0.1"}, gate...)...)
	require.Equal(t, 1, code)
	require.Contains(t, errs, "perplexity rose from")
	require.NoFileExists(t, out)
	m := doJSON(t, append([]string{"prune", stories(t), "-o", out, "--sparsity", "0.01", "--max-loss", "0.5"}, gate...)...)
	need(t, m, "gate.perplexity_before", "gate.perplexity_after", "gate.loss")
	require.FileExists(t, out)
	code, _, _ = do("prune", stories(t), "-o", out, "--sparsity", "0.1", "--max-loss", "0.5")
	require.Equal(t, exitUsage, code)
}

// TestFormatsRoundTrip: compressed and dense files of one pruning hold the same
// weights, and the compressed one is smaller.
func TestFormatsRoundTrip(t *testing.T) {
	model := stories(t)
	dir := t.TempDir()
	for _, p := range []string{"--pattern=2:4", "--sparsity=0.8"} {
		a, b := filepath.Join(dir, "a.safetensors"), filepath.Join(dir, "b.safetensors")
		for _, f := range [][]string{{a, "compressed"}, {b, "dense"}} {
			code, _, errs := do("prune", model, "-o", f[0], p, "--format", f[1])
			require.Zero(t, code, errs)
		}
		code, out, errs := do("verify", a, "--against", b)
		require.Zero(t, code, out+errs)
		sa, err := diskBytes(a)
		require.NoError(t, err)
		sb, err := diskBytes(b)
		require.NoError(t, err)
		require.Less(t, sa, sb)
	}
	// A difference is found and named.
	c := filepath.Join(dir, "c.safetensors")
	code, _, errs := do("prune", model, "-o", c, "--sparsity", "0.79")
	require.Zero(t, code, errs)
	code, _, errs = do("verify", filepath.Join(dir, "a.safetensors"), "--against", c, "--fast")
	require.Equal(t, 1, code)
	require.Contains(t, errs, "q_proj.weight")
	require.Contains(t, errs, "column")
}

// TestDeterminism: same file, seed and version give the same bytes.
func TestDeterminism(t *testing.T) {
	dir := t.TempDir()
	var files [][]byte
	for i, threads := range []string{"1", "2"} {
		f := filepath.Join(dir, string(rune('a'+i))+".safetensors")
		code, _, errs := do("prune", stories(t), "-o", f, "--method", "random", "--seed", "7", "--sparsity", "0.6", "--threads", threads)
		require.Zero(t, code, errs)
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		files = append(files, b)
	}
	require.True(t, bytes.Equal(files[0], files[1]))
}

func TestUsageAndErrors(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.gguf")
	require.NoError(t, os.WriteFile(bad, []byte("GGUF\x03\x00\x00\x00garbage"), 0o600))
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{nil, exitUsage, "expected one of"},
		{[]string{"fly"}, exitUsage, "unexpected argument"},
		{[]string{"run"}, exitUsage, "<model>"},
		{[]string{"run", "x", "--dtype", "f64"}, exitUsage, "--dtype"},
		{[]string{"run", "x", "-n", "0"}, exitUsage, "-n"},
		{[]string{"run", "x", "--temperature", "-1"}, exitUsage, "temperature"},
		{[]string{"run", "x", "--sparse", "zebra"}, exitFailed, "x"},
		{[]string{"prune", "x", "-o", "y"}, exitUsage, "--sparsity"},
		{[]string{"prune", "x", "-o", "y", "--sparsity", "1.5"}, exitUsage, "--sparsity"},
		{[]string{"prune", "x", "-o", "y", "--pattern", "4:2"}, exitUsage, "4:2"},
		{[]string{"prune", "x", "-o", "y", "--pattern", "2:4", "--sparsity", "0.5"}, exitUsage, "exclude each other"},
		{[]string{"bench", "--shapes", "0x3"}, exitUsage, "0x3"},
		{[]string{"inspect", filepath.Join(dir, "none")}, exitFailed, "no such file"},
		{[]string{"inspect", bad}, exitFailed, "bad.gguf"},
		{[]string{"run", bad}, exitFailed, "bad.gguf"},
		{[]string{"run", dir}, exitFailed, "config.json"},
	} {
		code, out, errs := do(c.args...)
		require.Equal(t, c.code, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.want, "%v", c.args)
		require.Empty(t, out, "%v", c.args)
		if c.code == exitFailed {
			require.Equal(t, 1, strings.Count(strings.TrimRight(errs, "\n"), "\n")+1, "one line: %q", errs)
		}
	}
}

func TestHelp(t *testing.T) {
	for _, verb := range []string{"run", "prune", "train", "eval", "sweep", "inspect", "bench", "verify"} {
		code, out, errs := do(verb, "--help")
		require.Zero(t, code, errs)
		require.Contains(t, out, "Examples:", verb)
		require.Contains(t, out, "sparserun "+verb, verb)
	}
	code, out, _ := do("--version")
	require.Zero(t, code)
	require.Contains(t, out, Version)
}

// TestInterrupt: Ctrl-C ends a pruning with exit code 1, one line, and leaves
// neither output nor temporary file.
func TestInterrupt(t *testing.T) {
	model := testenv.Model(t)
	dir := t.TempDir()
	for _, after := range []time.Duration{50 * time.Millisecond, 700 * time.Millisecond} {
		exe, err := os.Executable()
		require.NoError(t, err)
		cmd := exec.Command(exe, "prune", model, "-o", filepath.Join(dir, "out.safetensors"), "--pattern", "2:4", "-q")
		cmd.Env = append(os.Environ(), "SPARSERUN_TEST_MAIN=1")
		var errs bytes.Buffer
		cmd.Stderr = &errs
		require.NoError(t, cmd.Start())
		time.Sleep(after)
		require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
		err = cmd.Wait()
		if err == nil {
			t.Skip("this machine finished before the signal")
		}
		require.Contains(t, errs.String(), "interrupted")
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Empty(t, entries, "nothing is left behind")
	}
}
