package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestIdleFlags: a flag that would do nothing is wrong usage, whatever else is asked for; nothing is written, and a
// journal of another run stays.
func TestIdleFlags(t *testing.T) {
	text, dir := storyText(t), t.TempDir()
	out, journal := filepath.Join(dir, "o.safetensors"), filepath.Join(dir, "journal")
	require.NoError(t, os.Mkdir(journal, 0o755))
	block := filepath.Join(journal, "block-0000.prune")
	require.NoError(t, os.WriteFile(block, []byte("of another run"), 0o644))
	calib := []string{"--calib", text, "--calib-window", "64", "--calib-windows", "4"}
	for _, c := range []struct {
		flag  string
		calib bool
		args  []string
	}{
		{"--finetune", false, []string{"--pattern", "2:4", "--finetune", "3"}},
		{"--distill", false, []string{"--pattern", "2:4", "--distill"}},
		{"--schedule", false, []string{"--sparsity", "0.5", "--schedule", "cubic"}},
		{"--augment", false, []string{"--sparsity", "0.5", "--augment"}},
		{"--mean", false, []string{"--sparsity", "0.5", "--mean", "1"}},
		{"--scope", false, []string{"--pattern", "2:4", "--scope", "row"}},
		{"--group", false, []string{"--pattern", "2:4", "--quant", "int8", "--group", "16"}},
		{"--asymmetric", false, []string{"--pattern", "2:4", "--asymmetric"}},
		{"--nearest", false, []string{"--pattern", "2:4", "--nearest"}},
		{"--score", false, []string{"--pattern", "2:4", "--score", "taylor"}},
		{"--no-repair", false, []string{"--pattern", "2:4", "--no-repair"}},
		{"--round-to", false, []string{"--pattern", "2:4", "--round-to", "8"}},
		{"--eval-text", false, []string{"--pattern", "2:4", "--eval-text", text}},
		{"--calib", true, []string{"--pattern", "2:4"}},
		{"--max-memory", false, []string{"--pattern", "2:4", "--max-memory", "1GiB"}},
		{"--journal", false, []string{"--pattern", "2:4", "--journal", journal}},
		{"--journal", true, []string{"--layers", "1", "--journal", journal}},
		{"--damping", true, []string{"--pattern", "2:4", "--method", "wanda", "--damping", "0.1"}},
		{"--method", true, []string{"--layers", "1", "--method", "sparsegpt"}},
		{"--keep-zeros", true, []string{"--channels", "0.25", "--keep-zeros"}},
		{"--include", true, []string{"--channels", "0.25", "--include", "*.mlp.*"}},
		{"--permute", true, []string{"--channels", "0.25", "--permute"}},
		{"--max-loss", false, []string{"--structured", "0.25", "--max-loss", "0.01"}},
		{"--dtype", false, []string{"--structured", "0.25", "--dtype", "bf16"}},
		{"--share", false, []string{"--codebook", "5", "--share", "2"}},
		{"--schedule", false, []string{"--codebook", "5", "--schedule", "cubic", "--mnist", "x"}},
	} {
		args := append([]string{"prune", stories(t), "-o", out}, c.args...)
		if c.calib {
			args = append(args, calib...)
		}
		code, _, errs := do(args...)
		require.Equal(t, exitUsage, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.flag+" does nothing here", "%v", c.args)
	}
	// A gate that is none.
	for _, x := range []string{"0", "-1", "nan"} {
		for _, with := range [][]string{{"--eval-text", text}, {"--mnist", "x"}} {
			code, _, errs := do(append([]string{"prune", stories(t), "-o", out, "--sparsity", "0.5", "--max-loss=" + x}, with...)...)
			require.Equal(t, exitUsage, code, "%s %v", x, with)
			require.Contains(t, errs, "--max-loss: want", "%s %v", x, with)
		}
	}
	require.NoFileExists(t, out)
	require.FileExists(t, block)
	// The same flags where they do something.
	for _, args := range [][]string{
		{"--sparsity", "0.5", "--scope", "row"}, {"--pattern", "2:4", "--quant", "int4", "--group", "64", "--asymmetric", "--nearest"},
		append([]string{"--pattern", "2:4", "--method", "wanda+resolve", "--damping", "0.1", "--permute", "--max-memory", "1GiB"}, calib...),
		append([]string{"--layers", "1", "--score", "random", "--damping", "0.1", "--no-repair", "--quant", "int4", "--group", "64"}, calib...),
	} {
		code, _, errs := do(append([]string{"prune", stories(t), "-o", out}, args...)...)
		require.Zero(t, code, "%v: %s", args, errs)
	}
}

// TestRecipeOfCalibration: a file says which text was looked at and how, and of structured pruning how it is stored.
func TestRecipeOfCalibration(t *testing.T) {
	text, out := storyText(t), filepath.Join(t.TempDir(), "o.safetensors")
	for _, args := range [][]string{{"--pattern", "2:4", "-m", "wanda", "--quant", "int4"}, {"--channels", "0.25", "--quant", "int4"}} {
		code, _, errs := do(pruneArgs(t, text, out, append(args, "--calib-seed", "7")...)...)
		require.Zero(t, code, errs)
		meta := doJSON(t, "inspect", out)["metadata"].(map[string]any)
		sum, err := sourceSHA256(text)
		require.NoError(t, err)
		require.Equal(t, sum, meta["prune.calibration.text_sha256"])
		require.Equal(t, "7", meta["prune.calibration.seed"])
		require.Equal(t, "4", meta["prune.calibration.windows"])
		require.Equal(t, "64", meta["prune.calibration.window"])
		require.Contains(t, meta["prune.quant"], "int4 group 32")
	}
	code, _, errs := do(append(pruneArgs(t, text, out, "--pattern", "2:4", "-m", "wanda"), "--calib-windows", "9999999")...)
	require.Equal(t, exitFailed, code)
	require.Contains(t, errs, text+": ", "the error names the file")
	code, _, errs = do("prune", stories(t), "-o", out+".gguf", "--pattern", "2:4")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "safetensors")
	require.NoFileExists(t, out+".gguf")
}

// TestIdleRunFlags: the same of run and eval.
func TestIdleRunFlags(t *testing.T) {
	text := storyText(t)
	for _, c := range []struct {
		flag string
		args []string
	}{
		{"--text", []string{"run", "--text", text}},
		{"--prefill", []string{"run", "--prefill", "8"}},
		{"--windows", []string{"run", "--compare", "--windows", "8"}},
		{"--system", []string{"run", "--system", "be brief"}},
		{"--batch", []string{"run", "--batch", "8"}},
		{"--input", []string{"run", "--input", "x.npy"}},
		{"--mean", []string{"eval", "--text", text, "--mean", "1"}},
		{"--windows", []string{"eval", "--mnist", "x", "--windows", "8"}},
	} {
		code, _, errs := do(append(c.args, stories(t))...)
		require.Equal(t, exitUsage, code, "%v: %s", c.args, errs)
		require.Contains(t, errs, c.flag+" does nothing here", "%v", c.args)
	}
	for _, bad := range []string{"--windows=-1", "--window=1", "--context=-3"} {
		code, _, errs := do("eval", stories(t), "--text", text, bad)
		require.Equal(t, exitUsage, code, errs)
	}
}
