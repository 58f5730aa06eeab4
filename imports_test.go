package sparserun

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gorgonia.org/tensor"
)

const module = "github.com/sparserun/sparserun/"

// allowed says which of our packages each package may import. A package that is
// not listed fails the test: a new room needs a place in the house.
var allowed = map[string][]string{
	"sparse":                  {},
	"linalg":                  {},
	"testenv":                 {},
	"strictjson":              {},
	"tokenizer":               {"strictjson"},
	"tokenizer/chat":          {},
	"model":                   {"sparse", "tokenizer"},
	"tensorop":                {"linalg", "model", "sparse"},
	"codebook":                {"sparse"},
	"dataset":                 {"runtime", "strictjson", "train"},
	"loader":                  {"codebook", "model", "sparse", "strictjson", "tensorop", "tokenizer"},
	"train":                   {"linalg", "model", "sparse", "tensorop"},
	"prune":                   {"linalg", "model", "sparse", "train"},
	"prune/depgraph":          {"linalg", "model", "sparse"},
	"runtime":                 {"model", "sparse", "tensorop", "tokenizer"},
	"runtime/cpu":             {"linalg", "model", "runtime", "sparse", "tensorop"},
	"runtime/onnxtest":        {},
	"runtime/backendtest":     {"model", "runtime", "sparse"},
	"cuda":                    {"cuda/ptxsim", "cuda/tile", "model", "runtime", "sparse"},
	"cuda/tile":               {"sparse"},
	"cuda/ptxsim":             {},
	"cuda/ptxsim/libcuda":     {"cuda/ptxsim"},
	"cuda/gates":              {"cuda/tile", "sparse"},
	"cuda/simdriver":          {"cuda", "cuda/ptxsim", "loader", "model", "prune", "runtime", "runtime/backendtest", "runtime/cpu", "sparse", "testenv"},
	"cuda/gpucheck":           {"cuda", "model", "runtime", "runtime/backendtest", "sparse"},
	"cuda/kerneltest":         {"cuda/ptxsim", "cuda/tile", "sparse"},
	"serve/engine":            {"model", "runtime", "sparse", "tokenizer"},
	"serve/registry":          {"loader", "model", "runtime", "serve/engine", "sparse", "tokenizer", "tokenizer/chat"},
	"serve/openapi":           {},
	"bench/serve/models":      {"serve/servetest"},
	"serve/servetest":         {},
	"serve/otlp":              {},
	"serve/wire":              {},
	"serve/openai":            {"runtime", "serve/engine", "serve/registry", "serve/wire", "strictjson", "tokenizer", "tokenizer/chat"},
	"serve/oip":               {"model", "runtime", "serve/engine", "serve/oip/inference", "serve/registry", "serve/wire", "sparse", "strictjson", "tokenizer"},
	"serve/oip/inference":     {},
	"serve":                   {"model", "runtime", "serve/engine", "serve/oip", "serve/openai", "serve/openapi", "serve/otlp", "serve/registry", "sparse"},
	"experiment":              {"codebook", "linalg", "loader", "model", "prune", "prune/depgraph", "runtime", "runtime/cpu", "sparse", "train"},
	"examples/serve/client":   {},
	"examples/embed":          {"loader", "prune", "runtime", "runtime/cpu"},
	"bench/onnx":              {"loader", "model", "runtime", "runtime/cpu", "sparse"},
	"bench/serve":             {},
	"bench/peers/kernelbench": {"linalg", "model", "runtime", "runtime/cpu", "sparse"},
}

// foreign says who may import a module of somebody else's.
var foreign = map[string][]string{
	"gorgonia.org/cu":                     {"cuda"},
	"github.com/prometheus/client_golang": {"serve"},
	"gorgonia.org/tensor":                 {"runtime", "serve"},
	"google.golang.org/grpc":              {"serve", "serve/oip", "serve/oip/inference"},
}

type goPackage struct {
	ImportPath string
	Imports    []string
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports", "./...").Output()
	require.NoError(t, err)
	d := json.NewDecoder(bytes.NewReader(out))
	for {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else {
			require.NoError(t, err)
		}
		name := strings.TrimPrefix(p.ImportPath, module)
		if name == p.ImportPath { // the root
			continue
		}
		rule, known := allowed[name]
		if !known && !strings.HasPrefix(name, "cmd/") {
			t.Errorf("package %s is in no rule of this test: say who it may import", name)
		}
		for _, imp := range p.Imports {
			if own, ok := strings.CutPrefix(imp, module); ok {
				if strings.HasPrefix(own, "cmd/") {
					t.Errorf("%s imports %s: nobody imports cmd", name, own)
				}
				if known && !contains(rule, own) {
					t.Errorf("%s imports %s: the rule allows %v", name, own, rule)
				}
			}
			for mod, who := range foreign {
				if (imp == mod || strings.HasPrefix(imp, mod+"/")) && !contains(who, name) {
					t.Errorf("%s imports %s: only %v may", name, imp, who)
				}
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// TestTensorStarts holds go.mod to the line without which gorgonia.org/tensor
// panics at start on this Go version.
func TestTensorStarts(t *testing.T) {
	x := tensor.New(tensor.WithShape(2, 2), tensor.WithBacking([]float32{1, 2, 3, 4}))
	y, err := x.MatMul(tensor.New(tensor.WithShape(2, 1), tensor.WithBacking([]float32{1, 1})))
	require.NoError(t, err)
	require.Equal(t, []float32{3, 7}, y.Data())
}
