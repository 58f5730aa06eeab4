package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
)

// storyText is a text file that stories260K knows how to read.
func storyText(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "t.txt")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("One day a big dog saw a red ball in the park. ", 60)), 0o600))
	return path
}

// small are the flags of a calibration and an evaluation that take no time.
func small(text string) []string {
	return []string{"--text", text, "--window", "64", "--windows", "2", "--calib", text, "--calib-window", "64", "--calib-windows", "4"}
}

func TestSweep(t *testing.T) {
	text, out := storyText(t), filepath.Join(t.TempDir(), "out")
	m := doJSON(t, append([]string{"sweep", stories(t), "--methods", "random,magnitude,wanda", "--levels", "0.5,2:4", "--out", out, "--speed", "--speed-rounds", "1"}, small(text)...)...)
	rows := m["rows"].([]any)
	require.Len(t, rows, 7)
	need(t, rows[1].(map[string]any), "method", "level", "sparsity", "perplexity", "weight_bytes", "prune_cpu_seconds", "decode_tokens_per_s", "speed_dtype")
	need(t, m, "calibration.sha256", "calibration.tokens")
	ppl := func(i int) float64 { return rows[i].(map[string]any)["perplexity"].(float64) }
	require.Less(t, ppl(0), ppl(3), "dense is better than magnitude at 50 %")
	require.Less(t, ppl(3), ppl(1), "magnitude is better than random")
	for _, f := range []string{"sweep.md", "sweep.csv", "sweep.json", "sweep.png"} {
		st, err := os.Stat(filepath.Join(out, f))
		require.NoError(t, err)
		require.Positive(t, st.Size())
	}
}

// TestSweepGoesOn: finished cells come from the journal, with the figures they
// had; a cell made with other data is made anew; a kept model is not pruned again.
func TestSweepGoesOn(t *testing.T) {
	text, out := storyText(t), filepath.Join(t.TempDir(), "out")
	run := func(extra ...string) (map[string]any, string) {
		args := append(append([]string{"sweep", stories(t), "--cells", "wanda@2:4,sparsegpt+int4@2:4,wanda+owl@0.7,dense+int8+embed8", "--out", out, "--json"}, small(text)...), extra...)
		code, stdout, errs := do(args...)
		require.Zero(t, code, errs)
		var m map[string]any
		require.NoError(t, json.Unmarshal([]byte(stdout), &m))
		return m, errs
	}
	first, errs := run("--keep")
	require.Len(t, first["rows"], 5)
	require.Contains(t, errs, "wanda@2:4: perplexity")
	again, errs := run()
	require.Equal(t, first["rows"], again["rows"])
	require.NotContains(t, errs, "perplexity", "nothing was done")

	// The journal says it was done with other data: done anew, with the same outcome.
	cell := filepath.Join(out, "cells", "wanda@2of4.json")
	var e journalEntry
	require.True(t, readJSON(cell, &e))
	good := e.Row.Perplexity
	e.Row.Perplexity, e.Eval["text"] = 1, "another"
	require.NoError(t, writeJSON(cell, e))
	again, errs = run()
	require.Contains(t, errs, "wanda@2:4: was done with another")
	require.NotContains(t, errs, "pruning", "the kept model serves")
	require.Equal(t, good, again["rows"].([]any)[1].(map[string]any)["perplexity"])

	// Without its model a cell is pruned again where models are to be kept.
	require.NoError(t, os.Remove(filepath.Join(out, "models", "wanda@2of4.safetensors")))
	again, errs = run("--speed", "--speed-rounds", "1")
	require.Contains(t, errs, "wanda@2:4: the model was not kept")
	rows := again["rows"].([]any)
	require.Equal(t, good, rows[1].(map[string]any)["perplexity"])
	require.Equal(t, "f16", rows[1].(map[string]any)["speed_dtype"])
	require.Equal(t, "int4", rows[2].(map[string]any)["speed_dtype"])
	require.Equal(t, "int8", rows[4].(map[string]any)["speed_dtype"])
	require.NoDirExists(t, filepath.Join(out, "journal", "wanda@2of4"), "a finished cell needs no blocks")

	// With --done nothing new is made.
	some, errs := run("--done", "--methods", "magnitude", "--levels", "0.5")
	require.Equal(t, rows, some["rows"])
	require.Contains(t, errs, "magnitude@0.5: not in the journal")

	// Speeds stay in the journal.
	later, _ := run()
	require.Equal(t, rows, later["rows"])

	// A cell counts for the types and groups it was measured in only.
	_, errs = run("--dtype", "int4", "--group", "32")
	require.Contains(t, errs, "wanda@2:4: was done with another")
	wide, errs := run("--dtype", "int4", "--group", "64")
	require.Contains(t, errs, "wanda@2:4: was done with another")
	again, errs = run("--dtype", "int4", "--group", "64")
	require.Equal(t, wide["rows"], again["rows"])
	require.NotContains(t, errs, "was done with another")
	_, errs = run("--dtype", "int4")
	require.Contains(t, errs, "wanda@2:4: was done with another")
}

// TestSweepShortContext: speeds of a model whose context is shorter than what is usually timed.
func TestSweepShortContext(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors", "tok512.bin"} {
		b, err := os.ReadFile(testenv.Data(t, "stories260K/"+name))
		require.NoError(t, err)
		b = bytes.ReplaceAll(b, []byte(`"max_position_embeddings": 512`), []byte(`"max_position_embeddings": 24`))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	m := doJSON(t, "sweep", dir, "--text", storyText(t), "--window", "16", "--windows", "2", "--cells", "magnitude@2:4", "--speed", "--speed-rounds", "1")
	for _, r := range m["rows"].([]any) {
		require.Positive(t, r.(map[string]any)["decode_tokens_per_s"])
		require.Positive(t, r.(map[string]any)["prefill_tokens_per_s"])
	}
}

// TestSweepOfNothing: a journal without a cell makes an empty table, not a picture.
func TestSweepOfNothing(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	m := doJSON(t, append([]string{"sweep", stories(t), "--done", "--out", out, "--cells", "magnitude@0.5"}, small(storyText(t))...)...)
	require.Empty(t, m["rows"])
	require.NoFileExists(t, filepath.Join(out, "sweep.png"))
}

func TestSweepUsage(t *testing.T) {
	text := storyText(t)
	for _, c := range []struct{ cells, want string }{
		{"wanda", "METHOD@LEVEL"},
		{"wanda+fast@0.5", `"fast"`},
		{"wanda@4:2", "4:2"},
		{"dense@0.5", "no level"},
		{"dense+owl", "no level"},
		{"wonder@0.5", "wonder"},
	} {
		code, _, errs := do("sweep", stories(t), "--text", text, "--cells", c.cells, "--calib", text, "--calib-window", "64", "--calib-windows", "4", "--windows", "1", "--window", "64")
		require.Equal(t, exitUsage, code, errs)
		require.Contains(t, errs, c.want)
	}
	code, _, errs := do("sweep", stories(t), "--text", text, "--keep")
	require.Equal(t, exitUsage, code)
	require.Contains(t, errs, "--out")
}
