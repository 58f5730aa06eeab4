package runtime

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
)

func layoutsOf(s *Session) map[string]string {
	m := map[string]string{}
	for _, c := range s.Explain() {
		m[c.Name] = c.Layout
	}
	return m
}

const (
	someLinear = "model.layers.1.mlp.down_proj.weight"
	embedding  = "model.embed_tokens.weight"
)

// TestPlannerNeverSlower: with measured times the planner takes a sparse form only
// where it costs no more than dense.
func TestPlannerNeverSlower(t *testing.T) {
	us := time.Microsecond
	for _, c := range []struct {
		name  string
		times map[string]time.Duration
		want  string
	}{
		{"2:4 wins", map[string]time.Duration{"dense 1": 10 * us, "dense 64": 64 * us, "nm24 1": 6 * us, "nm24 64": 66 * us, "bitmask 1": 20 * us, "bitmask 64": 99 * us, "csr 1": 20 * us, "csr 64": 99 * us}, "nm24"},
		{"csr wins", map[string]time.Duration{"dense 1": 10 * us, "dense 64": 64 * us, "nm24 1": 6 * us, "nm24 64": 66 * us, "bitmask 1": 20 * us, "bitmask 64": 99 * us, "csr 1": 2 * us, "csr 64": 32 * us}, "csr"},
		{"dense wins", map[string]time.Duration{"dense 1": 10 * us, "dense 64": 64 * us, "nm24 1": 11 * us, "nm24 64": 66 * us, "bitmask 1": 20 * us, "bitmask 64": 99 * us, "csr 1": 20 * us, "csr 64": 99 * us}, "dense"},
		{"prefill gain paid by decode", map[string]time.Duration{"dense 1": 10 * us, "dense 64": 640 * us, "nm24 1": 11 * us, "nm24 64": 66 * us, "bitmask 1": 20 * us, "bitmask 64": 99 * us, "csr 1": 11 * us, "csr 64": 9 * us}, "dense"},
		{"decode gain eaten by prefill", map[string]time.Duration{"dense 1": 10 * us, "dense 64": 64 * us, "nm24 1": 9 * us, "nm24 64": 640 * us, "bitmask 1": 20 * us, "bitmask 64": 99 * us, "csr 1": 20 * us, "csr 64": 99 * us}, "dense"},
	} {
		b := &fakeBackend{times: c.times}
		s, err := New(tinyLlama(true), b, WithTableDir("off"))
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, layoutsOf(s)[someLinear], c.name)
		require.Equal(t, "dense", layoutsOf(s)[embedding], "nothing pruned there")
		for _, ch := range s.Explain() {
			require.NotEmpty(t, ch.Reason)
			if len(ch.Candidates) > 0 {
				best := ch.Candidates[Pick(ch.Candidates)]
				require.LessOrEqual(t, best.cost(), ch.Candidates[0].cost(), "never slower than dense")
				require.Equal(t, best.Layout.String(), ch.Layout)
			}
		}
	}
}

// unreadable is a matrix whose file has gone bad.
type unreadable struct {
	sparse.Matrix
	err error
}

func (m unreadable) ReadRows([]float32, int) error { return m.err }

// TestPlannerOneError: however many weights cannot be read, the error is the first one's.
func TestPlannerOneError(t *testing.T) {
	for range 5 { // weights are looked at side by side
		g := tinyLlama(true)
		var errs []error
		for _, n := range g.Linears()[2:] {
			errs = append(errs, errors.New(n.Weight.Name+": bad"))
			n.Weight.Data = unreadable{n.Weight.Data, errs[len(errs)-1]}
		}
		_, err := New(g, &fakeBackend{}, WithTableDir("off"))
		require.ErrorIs(t, err, errs[0])
		require.NotErrorIs(t, err, errs[1])
		require.NotContains(t, err.Error(), "\n")
	}
}

// TestPlannerBatch: with Options.Batch a form must not be slower than dense for so many
// rows either.
func TestPlannerBatch(t *testing.T) {
	times := map[string]time.Duration{"dense 1": 100, "dense 64": 640, "dense 8": 110, "nm24 1": 60, "nm24 64": 640, "nm24 8": 120, "csr 1": 80, "csr 64": 640, "csr 8": 100, "bitmask 1": 200, "bitmask 64": 999, "bitmask 8": 999}
	for batch, want := range map[int]string{0: "nm24", 1: "nm24", 8: "csr"} {
		s, err := New(tinyLlama(true), &fakeBackend{times: times}, WithOptions(Options{Batch: batch}), WithTableDir("off"))
		require.NoError(t, err)
		require.Equal(t, want, layoutsOf(s)[someLinear], batch)
		for _, c := range s.Explain() {
			if c.Name == someLinear && batch == 8 {
				require.Contains(t, c.Reason, "1.10x in a batch of 8")
			}
		}
	}
	_, err := New(tinyLlama(true), &fakeBackend{times: times}, WithOptions(Options{Batch: -1}))
	require.ErrorIs(t, err, ErrOption)
}

func TestPlannerModes(t *testing.T) {
	b := &fakeBackend{times: map[string]time.Duration{"dense 1": 10, "dense 64": 64, "nm24 1": 1, "nm24 64": 1, "csr 1": 99, "csr 64": 9999, "bitmask 1": 99, "bitmask 64": 9999}}
	s, err := New(tinyLlama(true), b, WithDense())
	require.NoError(t, err)
	require.Equal(t, "dense", layoutsOf(s)[someLinear])
	require.Zero(t, b.calls.Load(), "nothing to measure")

	s, err = New(tinyLlama(true), b, WithLayout(sparse.LayoutCSR))
	require.NoError(t, err)
	require.Equal(t, "csr", layoutsOf(s)[someLinear])

	s, err = New(tinyLlama(false), b, WithLayout(sparse.LayoutNM24))
	require.NoError(t, err)
	require.Equal(t, "dense", layoutsOf(s)[someLinear], "a weight without the pattern stays dense")

	s, err = New(tinyLlama(false), b, WithTableDir("off"))
	require.NoError(t, err)
	require.Equal(t, "dense", layoutsOf(s)[someLinear])
	require.Zero(t, b.calls.Load(), "a dense model needs no measurement")

	b.has = func(k Kernel) bool { return k.Layout == sparse.LayoutDense }
	s, err = New(tinyLlama(true), b, WithTableDir("off"))
	require.NoError(t, err)
	require.Equal(t, "dense", layoutsOf(s)[someLinear], "the backend lacks the sparse kernel")
	b.has = func(Kernel) bool { return false }
	_, err = New(tinyLlama(true), b)
	require.ErrorIs(t, err, ErrUnsupported)
}

func TestTableCaches(t *testing.T) {
	dir := t.TempDir()
	b := &fakeBackend{times: map[string]time.Duration{"dense 1": 10, "dense 64": 64, "nm24 1": 6, "nm24 64": 60, "csr 1": 20, "csr 64": 90, "bitmask 1": 20, "bitmask 64": 90}}
	_, err := New(tinyLlama(true), b, WithTableDir(dir))
	require.NoError(t, err)
	first := b.calls.Load()
	require.Positive(t, first)
	_, err = New(tinyLlama(true), b, WithTableDir(dir))
	require.NoError(t, err)
	require.Equal(t, first, b.calls.Load(), "all times come from the file")

	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	var f tableFile
	raw, err := os.ReadFile(files[0])
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(raw, &f))
	require.Equal(t, "fake machine", f.Machine)
	for _, broken := range []string{"", "{", `{"machine":"another","ns":{}}`, `[]`} {
		require.NoError(t, os.WriteFile(files[0], []byte(broken), 0o600))
		before := b.calls.Load()
		_, err = New(tinyLlama(true), b, WithTableDir(dir))
		require.NoError(t, err)
		require.Equal(t, before+first, b.calls.Load(), "a file that says nothing is measured anew: %q", broken)
	}
}
