package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
)

// TestReproduceTables: from journals without runs come tables without rows; wrong names, and
// experiments without their data, are usage.
func TestReproduceTables(t *testing.T) {
	mnist := filepath.Dir(testenv.Data(t, "mnist/t10k-images-idx3-ubyte.gz"))
	dir := t.TempDir()
	m := doJSON(t, "reproduce", "--tables", "--mnist", mnist, "--out", dir)
	require.Empty(t, m["claims"])
	for _, f := range []string{"han.md", "levels.csv", "lottery.json", "deep.csv", "resnet20.md", "reproduce-han.png", "reproduce-lottery.png", "reproduce.md", "reproduce.json"} {
		_, err := os.Stat(filepath.Join(dir, f))
		require.NoError(t, err)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "reproduce.json"))
	require.NoError(t, err)
	require.True(t, json.Valid(raw))
	page, err := os.ReadFile(filepath.Join(dir, "reproduce.md"))
	require.NoError(t, err)
	require.Contains(t, string(page), "(reproduce-lottery.png)")
	require.Equal(t, 6, strings.Count(string(page), "\n## "), "five tables and the claims")
	for _, args := range [][]string{{"alexnet", "--mnist", mnist}, {"resnet20"}, {"deep"}, {"--tables"}, {"han", "resnet20", "--mnist", mnist}} {
		code, _, _ := do(append([]string{"reproduce", "--out", dir}, args...)...)
		require.Equal(t, exitUsage, code, "%v", args)
	}
}

// TestReproduceJournals: runs that the journals hold are shown, and claims that fail are; with --tables
// they do not make the verb fail, and nothing is trained.
func TestReproduceJournals(t *testing.T) {
	mnist := filepath.Dir(testenv.Data(t, "mnist/t10k-images-idx3-ubyte.gz"))
	dir := t.TempDir()
	write := func(name, text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	// The keys are those of journals that were written before deep and resnet20 were words of this verb.
	write("deep-lenet-300-100.jsonl", `
{"key":"deep compression lenet-300-100 seed 2 keep [0.07 0.09 0.26] bits [5 5 5] epochs 15+30+4","value":{"net":"lenet-300-100","seed":2,"parameters":266610,"kept":19834,"dense_accuracy":0.9824,"pruned_accuracy":0.9822,"coded_accuracy":0.9822,"dense_bytes":1066440,"without_huffman":31903,"file_bytes":23966,"ratio":44.5,"parameters_ratio":13.4}}
`)
	fold := func(k, tuned string) string {
		return `{"key":"resnet20 seed 1 fold ` + k + ` of 2, 2000 images, 24 epochs, median global 0.3 by 8","value":{"Images":1000,"Dense":813,"Cut":536,"Tuned":` + tuned + `,"Report":{"multiply_adds":[1000,690],"parameters":[100,80]}}}` + "\n"
	}
	write("resnet20.jsonl", fold("0", "817")+fold("1", "828"))
	m := doJSON(t, "reproduce", "deep", "resnet20", "--tables", "--mnist", mnist, "--out", dir)
	require.Len(t, m["deep"], 1)
	require.Len(t, m["resnet20"], 1)
	var holds []bool
	for _, c := range m["claims"].([]any) {
		holds = append(holds, c.(map[string]any)["holds"].(bool))
	}
	require.Equal(t, []bool{true, false, true, true}, holds)
	page, err := os.ReadFile(filepath.Join(dir, "reproduce.md"))
	require.NoError(t, err)
	require.Contains(t, string(page), "| lenet-300-100 | 2 | 1.76 | 1.78 | 1.78 | 13.4 | 33.4 | 44.5 | 23966 |")
	require.Contains(t, string(page), "| resnet20 | 1 | 81.30 | 53.60 | 82.25 | +0.95 | 31.0 | 20.0 | - | - | - | - | - | - |")
	require.NotContains(t, string(page), "lottery.png")
}
