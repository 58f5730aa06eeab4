// Command models writes the tiny models of package servetest for clients in other
// languages: abc (a language model that says the alphabet), affine.onnx and echo.onnx.
//
//	go run ./bench/serve/models FOLDER
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sparserun/sparserun/serve/servetest"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: models FOLDER")
		os.Exit(2)
	}
	dir := os.Args[1]
	abc := filepath.Join(dir, "abc")
	err := os.MkdirAll(abc, 0o755)
	if err == nil {
		err = errors.Join(servetest.WriteAlphabet(abc),
			os.WriteFile(filepath.Join(dir, "affine.onnx"), servetest.AffineONNX(), 0o644),
			os.WriteFile(filepath.Join(dir, "echo.onnx"), servetest.EchoONNX(), 0o644))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "models:", err)
		os.Exit(1)
	}
}
