package onnxtest

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/tensorop"
	"github.com/sparserun/sparserun/testenv"
)

var list = flag.Bool("onnx-list", false, "print the tests that do not pass with their reasons, as docs/onnx.md lists them")

// one is a test of ONNX's suite: a model, inputs, outputs.
type one struct {
	model []byte
	in    map[int][]byte // by number
	out   map[int][]byte
}

// archive reads a .tar.gz of tests.
func archive(t *testing.T, file string) map[string]*one {
	t.Helper()
	f, err := os.Open(testenv.Data(t, file))
	require.NoError(t, err)
	defer f.Close()
	z, err := gzip.NewReader(f)
	require.NoError(t, err)
	r := tar.NewReader(z)
	tests := map[string]*one{}
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return tests
		}
		require.NoError(t, err)
		if h.Typeflag != tar.TypeReg {
			continue
		}
		b, err := io.ReadAll(r)
		require.NoError(t, err)
		name, base := path.Split(path.Clean(h.Name))
		name = strings.TrimPrefix(path.Clean(name), "onnx/backend/test/data/")
		set := ""
		if d := path.Base(name); strings.HasPrefix(d, "test_data_set_") {
			name, set = path.Dir(name), d
		}
		if set != "" && set != "test_data_set_0" {
			t.Fatalf("%s has more than one data set", name)
		}
		if tests[name] == nil {
			tests[name] = &one{in: map[int][]byte{}, out: map[int][]byte{}}
		}
		var k int
		switch {
		case base == "model.onnx":
			tests[name].model = b
		case scan(base, "input_%d.pb", &k):
			tests[name].in[k] = b
		case scan(base, "output_%d.pb", &k):
			tests[name].out[k] = b
		}
	}
}

func scan(s, format string, k *int) bool {
	n, err := fmt.Sscanf(s, format, k)
	return n == 1 && err == nil
}

// value reads a .pb file: a tensor, else a sequence, else an optional.
func value(b []byte) (*model.Tensor, error) {
	t, err := loader.ReadTensorProto(b)
	if err == nil {
		return t, nil
	}
	if s, e := loader.ReadSequenceProto(b); e == nil && len(s.Items) > 0 {
		return s, nil
	}
	if o, e := loader.ReadOptionalProto(b); e == nil {
		return o, nil
	}
	return nil, err
}

func (o *one) run(dir string, b runtime.Backend) error {
	file := filepath.Join(dir, "model.onnx")
	if err := os.WriteFile(file, o.model, 0o600); err != nil {
		return err
	}
	g, err := loader.Open(file, loader.AllowNonFinite())
	if err != nil {
		return err
	}
	defer g.Close()
	s, err := runtime.New(g, b, runtime.WithTableDir("off"), runtime.WithDense())
	if err != nil {
		return err
	}
	defer s.Close()
	in := map[string]*model.Tensor{}
	for i, id := range g.Inputs {
		if in[g.Values[id].Name], err = value(o.in[i]); err != nil {
			return fmt.Errorf("input %d: %w", i, err)
		}
	}
	if len(o.in) != len(g.Inputs) {
		return fmt.Errorf("%d input files of %d inputs", len(o.in), len(g.Inputs))
	}
	out, err := s.RunTensors(context.Background(), in)
	if err != nil {
		return err
	}
	if len(o.out) != len(g.Outputs) {
		return fmt.Errorf("%d output files of %d outputs", len(o.out), len(g.Outputs))
	}
	for i, id := range g.Outputs {
		// What the loader said of a value before running must be so.
		if v, y := g.Values[id], out[g.Values[id].Name]; y != nil && !y.Seq {
			ok := v.Elem == model.ElemNone || v.Elem == y.Elem
			if v.Shape != nil {
				ok = ok && len(v.Shape) == len(y.Shape)
				for d := 0; ok && d < len(v.Shape); d++ {
					ok = v.Shape[d] < 0 || v.Shape[d] == y.Shape[d]
				}
			}
			if !ok {
				return fmt.Errorf("output %d: inferred %v %v, is %v %v", i, v.Elem, v.Shape, y.Elem, y.Shape)
			}
		}
		want, err := value(o.out[i])
		if err != nil {
			return fmt.Errorf("output %d: %w", i, err)
		}
		if err := same(out[g.Values[id].Name], want); err != nil {
			return fmt.Errorf("output %d (%s): %w", i, g.Values[id].Name, err)
		}
	}
	return nil
}

// same compares with the tolerance of the reference results: rtol 1e-3, atol 1e-7,
// NaN equal; types and shapes exactly.
func same(got, want *model.Tensor) error {
	if got == nil || got.Seq != want.Seq || len(got.Items) != len(want.Items) {
		return fmt.Errorf("want %v, got %v", want, got)
	}
	for i := range want.Items {
		if err := same(got.Items[i], want.Items[i]); err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	if want.Seq {
		return nil
	}
	if got.Elem != want.Elem || fmt.Sprint(got.Shape) != fmt.Sprint(want.Shape) {
		return fmt.Errorf("want %v %v, got %v %v", want.Elem, want.Shape, got.Elem, got.Shape)
	}
	if w, ok := want.Data.([]string); ok {
		if g := got.Data.([]string); strings.Join(g, "\x00") != strings.Join(w, "\x00") {
			return fmt.Errorf("want %q, got %q", w, g)
		}
		return nil
	}
	g, err := tensorop.Cast(got, model.ElemF64, true)
	if err != nil {
		return err
	}
	w, err := tensorop.Cast(want, model.ElemF64, true)
	if err != nil {
		return err
	}
	gs, ws := g.Data.([]float64), w.Data.([]float64)
	for i := range ws {
		if ws[i] == gs[i] || ws[i] != ws[i] && gs[i] != gs[i] {
			continue
		}
		if d := math.Abs(gs[i] - ws[i]); !(d <= 1e-7+1e-3*math.Abs(ws[i])) {
			return fmt.Errorf("element %d: want %v, got %v", i, ws[i], gs[i])
		}
	}
	return nil
}

// unsupported reads docs/onnx.md: lines "| `name` | reason |".
func unsupported(t *testing.T) map[string]bool {
	b, err := os.ReadFile(filepath.Join(testenv.Root(), "docs", "onnx.md"))
	require.NoError(t, err)
	out := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-zA-Z0-9_/-]*test_[a-zA-Z0-9_]+)` \\|").FindAllStringSubmatch(string(b), -1) {
		out[m[1]] = true
	}
	return out
}

// TestConformance runs ONNX's own tests, every one; those that do not pass are the
// ones that docs/onnx.md lists, no more and no fewer.
func TestConformance(t *testing.T) {
	listed := unsupported(t)
	seen := map[string]bool{}
	for _, suite := range []struct {
		file       string
		all, least int
	}{{"onnx-conformance/onnx-node-tests-subset.tar.gz", 601, 560}, {"onnx-conformance/onnx-pytorch-tests.tar.gz", 140, 120}} {
		t.Run(path.Base(suite.file), func(t *testing.T) {
			tests := archive(t, suite.file)
			require.Len(t, tests, suite.all)
			names := make([]string, 0, len(tests))
			for n := range tests {
				names = append(names, n)
			}
			sort.Strings(names)
			b := cpu.New(cpu.Threads(2))
			defer b.Close()
			dir := t.TempDir()
			passed := 0
			for _, n := range names {
				err := tests[n].run(dir, b)
				if err == nil {
					passed++
				}
				seen[n] = true
				if *list && err != nil {
					fmt.Printf("| `%s` | %v |\n", n, err)
				}
				switch {
				case err != nil && !listed[n]:
					t.Errorf("%s: %v", n, err)
				case err == nil && listed[n]:
					t.Errorf("%s passes; docs/onnx.md lists it as unsupported", n)
				}
			}
			t.Logf("%s: %d of %d pass", path.Base(suite.file), passed, len(tests))
			require.GreaterOrEqual(t, passed, suite.least)
		})
	}
	for n := range listed {
		if !seen[n] && !t.Failed() {
			t.Errorf("docs/onnx.md lists %s, which is no test", n)
		}
	}
}
