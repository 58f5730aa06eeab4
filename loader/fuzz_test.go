package loader

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// fuzzOpen opens a file or folder; whatever the bytes, it must come back with a
// one-line error or with weights that can be read, and never panic.
func fuzzOpen(t *testing.T, path string) {
	g, err := Open(path)
	if err != nil {
		if s := err.Error(); strings.Contains(s, "\n") || !strings.HasPrefix(s, "loader: ") {
			t.Fatalf("error is not one line of ours: %q", s)
		}
		return
	}
	defer g.Close()
	readAll(t, g.Weights)
}

func readAll(t *testing.T, ws []*model.Weight) {
	for _, w := range ws {
		r, c := w.Data.Dims()
		if int64(r)*int64(c) > 1<<22 {
			continue
		}
		a, err := sparse.Read(w.Data)
		if err != nil {
			continue
		}
		m, err := sparse.Load(w.Data)
		if err != nil {
			t.Fatalf("%s: reads but does not load: %v", w.Name, err)
		}
		b, err := sparse.Read(m)
		if err != nil {
			t.Fatalf("%s: loads but does not read: %v", w.Name, err)
		}
		for i := range a {
			if a[i] != b[i] {
				t.Fatalf("%s: number %d: %g read, %g loaded", w.Name, i, a[i], b[i])
			}
		}
	}
}

// fuzzFile writes b where a fuzz target can open it.
func fuzzFile(t *testing.T, dir, name string, b []byte) string {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func FuzzGGUF(f *testing.F) {
	f.Add(tinyGGUF("llama").bytes())
	f.Add(tinyGGUF("qwen2").bytes())
	for _, h := range append(ggufCases(), modelCases()...) {
		if h.file != nil && len(h.file) < 1<<16 {
			f.Add(h.file)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) { fuzzOpen(t, fuzzFile(t, t.TempDir(), "m", b)) })
}

func FuzzSafetensors(f *testing.F) {
	f.Add(safeFile(tinySafe()...))
	for _, h := range append(safeCases(), pickleCases()...) {
		if h.file != nil && len(h.file) < 1<<17 {
			f.Add(h.file)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		path := fuzzFile(t, dir, "m", b)
		fuzzFile(t, dir, fileConfig, []byte(tinyConfig))
		fuzzOpen(t, path)
		if ws, closeFiles, err := OpenTensors(path); err == nil {
			readAll(t, ws)
			closeFiles()
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(tinyConfig), []byte(nil))
	for _, h := range modelCases() {
		if h.files != nil && len(h.files[fileConfig]) < 1<<12 {
			f.Add(h.files[fileConfig], h.files[fileIndex])
		}
	}
	weights := safeFile(tinySafe()...)
	f.Fuzz(func(t *testing.T, config, index []byte) {
		dir := t.TempDir()
		fuzzFile(t, dir, fileConfig, config)
		fuzzFile(t, dir, fileWeights, weights)
		if len(index) > 0 {
			fuzzFile(t, dir, fileIndex, index)
		}
		fuzzOpen(t, dir)
	})
}

func FuzzCompressedTensors(f *testing.F) {
	for _, h := range sparseCases() {
		f.Add(h.files[fileConfig], h.files[fileWeights])
	}
	f.Fuzz(func(t *testing.T, config, weights []byte) {
		dir := t.TempDir()
		fuzzFile(t, dir, fileConfig, config)
		fuzzFile(t, dir, fileWeights, weights)
		fuzzOpen(t, dir)
		if ws, closeFiles, err := OpenTensors(dir); err == nil {
			readAll(t, ws)
			closeFiles()
		}
	})
}

// FuzzTokenizerSpec: what a single file carries as its tokenizer.
func FuzzTokenizerSpec(f *testing.F) {
	f.Add([]byte(`{"Model":"llama","Pre":"","Tokens":["<unk>","a"],"Scores":[0,-1.5],"Types":[2,1],"Merges":null,"BOS":-1,"EOS":1,"UNK":0,"PAD":-1,"ExtraEOS":[1],"AddBOS":true,"AddEOS":false,"AddSpacePrefix":true,"ChatTemplate":"x"}`))
	f.Add([]byte(`{"Tokens":["a","a"]}`))
	f.Add([]byte(`{"Scores":[1e999]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _, _ = newTokenizer(map[string][]byte{fileTokenizerSpec: b})
	})
}
