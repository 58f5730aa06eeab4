package loader

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
	"github.com/sparserun/sparserun/tokenizer"
)

// prune24 zeroes two of four weights of every linear of g and packs it.
func prune24(t testing.TB, g *model.Graph, layout sparse.Layout, typ sparse.DType, group int) {
	t.Helper()
	for _, n := range g.Linears() {
		r, c := n.Weight.Data.Dims()
		x, err := sparse.Read(n.Weight.Data)
		require.NoError(t, err)
		for i := range x {
			if (i%c+i/c)%4 < 2 {
				x[i] = 0
			}
		}
		m, err := sparse.Pack(sparse.NewDense(r, c, x), layout, typ, group)
		require.NoError(t, err)
		n.Weight.Data = m
	}
}

func read(t testing.TB, m sparse.Matrix) []float32 {
	t.Helper()
	x, err := sparse.Read(m)
	require.NoError(t, err)
	return x
}

// TestSaveRoundTrip: what is saved comes back, as one file and as a folder, in
// every form that pruning makes.
func TestSaveRoundTrip(t *testing.T) {
	for _, c := range []struct {
		name   string
		layout sparse.Layout
		typ    sparse.DType
		group  int
		opts   SaveOptions
		back   sparse.Layout
	}{
		{"dense f16", 0, 0, 0, SaveOptions{}, sparse.LayoutDense},
		{"dense f32", 0, 0, 0, SaveOptions{DType: sparse.F32}, sparse.LayoutDense},
		{"dense bf16", 0, 0, 0, SaveOptions{DType: sparse.BF16}, sparse.LayoutDense},
		{"2:4 f16", sparse.LayoutNM24, sparse.F16, 0, SaveOptions{}, sparse.LayoutNM24},
		{"2:4 f32 as f16", sparse.LayoutNM24, sparse.F32, 0, SaveOptions{}, sparse.LayoutNM24},
		{"2:4 as dense", sparse.LayoutNM24, sparse.F16, 0, SaveOptions{Format: FormatDense}, sparse.LayoutDense},
		{"2:4 int8", sparse.LayoutNM24, sparse.Int8, 0, SaveOptions{}, sparse.LayoutNM24},
		{"2:4 int4", sparse.LayoutNM24, sparse.Int4, 32, SaveOptions{}, sparse.LayoutNM24},
		{"bitmask bf16", sparse.LayoutBitmask, sparse.BF16, 0, SaveOptions{DType: sparse.BF16}, sparse.LayoutBitmask},
		{"bitmask int8", sparse.LayoutBitmask, sparse.Int8, 0, SaveOptions{}, sparse.LayoutBitmask},
		{"bitmask int4", sparse.LayoutBitmask, sparse.Int4, 0, SaveOptions{}, sparse.LayoutBitmask},
		{"csr f32", sparse.LayoutCSR, sparse.F32, 0, SaveOptions{DType: sparse.F32}, sparse.LayoutBitmask},
		{"dense int8", sparse.LayoutDense, sparse.Int8, 0, SaveOptions{}, sparse.LayoutDense},
		{"dense int8 groups", sparse.LayoutDense, sparse.Int8, 32, SaveOptions{}, sparse.LayoutDense},
		{"dense int4 groups", sparse.LayoutDense, sparse.Int4, 32, SaveOptions{}, sparse.LayoutDense},
		{"dense int4 asym", sparse.LayoutDense, sparse.Int4, 32, SaveOptions{}, sparse.LayoutDense},
		{"dense int8 asym", sparse.LayoutDense, sparse.Int8, 0, SaveOptions{}, sparse.LayoutDense},
		{"bitmask int4 asym", sparse.LayoutBitmask, sparse.Int4, 32, SaveOptions{}, sparse.LayoutBitmask},
	} {
		for _, out := range []string{"one.safetensors", "folder/"} {
			t.Run(c.name+" "+out, func(t *testing.T) {
				g, err := Open(testenv.Data(t, "stories260K"))
				require.NoError(t, err)
				defer g.Close()
				if c.layout != 0 {
					prune24(t, g, c.layout, c.typ, c.group)
				}
				if strings.HasSuffix(c.name, "asym") {
					for _, n := range g.Linears() {
						asymmetric(n.Weight.Data)
					}
				}
				path := filepath.Join(t.TempDir(), out)
				if out == "folder/" {
					path += "/"
				}
				opts := c.opts
				opts.Meta = map[string]string{"sparserun.method": "magnitude"}
				require.NoError(t, Save(g, path, opts))
				b, err := Open(path)
				require.NoError(t, err)
				defer b.Close()
				require.Equal(t, "magnitude", b.Source.Meta["sparserun.method"])
				require.Equal(t, *g.Config, *b.Config)
				require.Equal(t, g.Tokenizer.Encode("Once upon a time", tokenizer.EncodeOptions{}), b.Tokenizer.Encode("Once upon a time", tokenizer.EncodeOptions{}))
				require.Len(t, b.Weights, len(g.Weights))
				for i, w := range g.Weights {
					require.Equal(t, w.Name, b.Weights[i].Name)
					typ := opts.DType
					if typ == 0 {
						typ = sparse.F16
					}
					same(t, w, b.Weights[i].Data, typ, c.typ.Quantised() && opts.Format == FormatCompressed)
					m, err := sparse.Load(b.Weights[i].Data)
					require.NoError(t, err)
					same(t, w, m, typ, c.typ.Quantised() && opts.Format == FormatCompressed)
				}
				for _, n := range b.Linears() {
					require.Equal(t, c.back, n.Weight.Data.Layout())
				}
			})
		}
	}
}

// same compares a saved weight with its source rounded to the type it was saved
// in; quantised ones and vectors are saved exactly.
func same(t *testing.T, w *model.Weight, m sparse.Matrix, typ sparse.DType, quantised bool) {
	t.Helper()
	want, got := read(t, w.Data), read(t, m)
	exact := w.Rank1() || (quantised && w.Data.DType().Quantised())
	for i, x := range want {
		switch {
		case exact:
		case typ == sparse.F16:
			x = sparse.F16ToF32(sparse.F32ToF16(x))
		case typ == sparse.BF16:
			x = sparse.BF16ToF32(sparse.F32ToBF16(x))
		}
		if x != got[i] || math.IsNaN(float64(got[i])) {
			t.Fatalf("%s: weight %d: want %g, got %g", w.Name, i, x, got[i])
		}
	}
}

// TestSaveSmolLM2: the 2:4 file of the real model: size, alignment, round trip.
func TestSaveSmolLM2(t *testing.T) {
	g, err := Open(testenv.Model(t))
	require.NoError(t, err)
	defer g.Close()
	prune24(t, g, sparse.LayoutNM24, sparse.F16, 0)
	path := filepath.Join(t.TempDir(), "m.safetensors")
	require.NoError(t, Save(g, path, SaveOptions{}))
	b, err := Open(path)
	require.NoError(t, err)
	defer b.Close()
	var disk, dense int64
	for _, n := range b.Linears() {
		r, c := n.Weight.Data.Dims()
		dense += 2 * int64(r) * int64(c)
	}
	src, err := openFile(path)
	require.NoError(t, err)
	defer src.Close()
	tensors, _, err := readSafetensors(src)
	require.NoError(t, err)
	for _, s := range tensors {
		require.Zero(t, s.off%int64(formats[s.t].bytes), "%s is not aligned", s.name)
		if _, suffix, _ := cutLast(s.name, "."); suffix == "compressed" || suffix == "bitmask" {
			disk += s.size
		}
	}
	t.Logf("2:4 block linears on disk: %d bytes, %.6f of fp16's %d", disk, float64(disk)/float64(dense), dense)
	require.LessOrEqual(t, float64(disk), 0.5625*float64(dense))
	for i, w := range g.Weights {
		if i%40 == 0 {
			same(t, w, b.Weights[i].Data, sparse.F16, false)
		}
	}
	require.Equal(t, g.Tokenizer.Encode("Hello, world 123", tokenizer.EncodeOptions{}), b.Tokenizer.Encode("Hello, world 123", tokenizer.EncodeOptions{}))
	require.Equal(t, *g.Config, *b.Config)
	st, err := os.Stat(path)
	require.NoError(t, err)
	t.Log("file", st.Size())
}

// asymmetric gives a quantised form zero points.
func asymmetric(m sparse.Matrix) {
	var q *sparse.Quant
	switch m := m.(type) {
	case *sparse.Dense:
		q = m.Quant
	case *sparse.Bitmask:
		q = m.Quant
	}
	q.Zeros = make([]int8, len(q.Scales))
	for i := range q.Zeros {
		q.Zeros[i] = int8(i*5%16 - 8)
	}
}

func TestSaveRefusesAsymmetricSparse(t *testing.T) {
	g, err := Open(testenv.Data(t, "stories260K"))
	require.NoError(t, err)
	defer g.Close()
	prune24(t, g, sparse.LayoutBitmask, sparse.Int8, 0)
	asymmetric(g.Linears()[0].Weight.Data)
	require.ErrorIs(t, Save(g, filepath.Join(t.TempDir(), "m"), SaveOptions{}), ErrUnsupported)
}

// TestTokenizerForOthers: the tokenizer.json that a folder gets from a GGUF
// tokenizer gives the same ids. testdata/check_ct.py compares it with transformers.
func TestTokenizerForOthers(t *testing.T) {
	texts := []string{"Once upon a time", "Hello, world 123!  It's 2024\n\n\tÄpfel & naïve café — 日本語 🙂", " leading", "a<|im_start|>b", "ab ba", ""}
	for name, path := range map[string]string{"smollm": testenv.Model(t), "tiny": write(t, "m", tinyGGUF("llama").bytes())} {
		g, err := Open(path)
		require.NoError(t, err)
		defer g.Close()
		files, err := g.Source.Tokenizer()
		require.NoError(t, err)
		spec, err := parseSpec(files[fileTokenizerSpec])
		require.NoError(t, err)
		hf := hfTokenizer(&spec)
		require.NotNil(t, hf, name)
		tok, err := tokenizer.FromJSON(hf[fileTokenizer], hf[fileTokenizerConfig])
		require.NoError(t, err, name)
		for _, s := range texts {
			for _, o := range []tokenizer.EncodeOptions{{}, {ParseSpecial: true}} {
				require.Equal(t, g.Tokenizer.Encode(s, o), tok.Encode(s, o), "%s %q", name, s)
			}
		}
		require.Equal(t, g.Tokenizer.EOG(), tok.EOG(), name)
		require.Equal(t, g.Tokenizer.ChatTemplate(), tok.ChatTemplate())
	}
}
