// Package testenv finds the files that tests need but that are not part of
// the repository: reference data and the real model.
//
// A missing file skips the test with its reason; under CI=true it fails it, so
// that a green CI never hides a test that did not run.
package testenv

import (
	"os"
	"path/filepath"
	goruntime "runtime"
	"testing"
)

// ModelFile is the name of the real language model that `make models` fetches.
const ModelFile = "SmolLM2-135M-Instruct.Q4_1.gguf"

// Root is the project's root folder.
func Root() string {
	_, file, _, _ := goruntime.Caller(0)
	return filepath.Dir(filepath.Dir(file))
}

// Data returns the path of a reference file below $SPARSERUN_DATA (default:
// ../shared/data beside the project).
func Data(t testing.TB, name string) string {
	t.Helper()
	dir := os.Getenv("SPARSERUN_DATA")
	if dir == "" {
		dir = filepath.Join(Root(), "..", "shared", "data")
	}
	return need(t, filepath.Join(dir, filepath.FromSlash(name)), "set SPARSERUN_DATA to the reference data")
}

// Model returns the path of the real language model.
func Model(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("SPARSERUN_MODELS")
	if dir == "" {
		dir = filepath.Join(Root(), "models")
	}
	return need(t, filepath.Join(dir, ModelFile), "run `make models`")
}

func need(t testing.TB, path, cure string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%v (%s)", err, cure)
		}
		t.Skipf("%v (%s)", err, cure)
	}
	return path
}
