package loader

import (
	"encoding/binary"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

// TestGGUFTypes: every type unpacks to the bits that gguf-py 0.19.0 gives
// (testdata/make_gguf.py), whole, by odd runs of rows, mapped, and loaded.
func TestGGUFTypes(t *testing.T) {
	raw, err := os.ReadFile("testdata/gguf_types.f32")
	require.NoError(t, err)
	for _, mmap := range []bool{false, true} {
		src, err := openFile("testdata/gguf_types.gguf")
		require.NoError(t, err)
		defer src.Close()
		if mmap {
			require.NoError(t, src.mmap())
		}
		f, err := readGGUF(src)
		require.NoError(t, err)
		require.Len(t, f.tensors, 11)
		want := raw
		for _, x := range f.tensors {
			m := &stored{src: src, name: x.name, off: x.off, r: x.shape[0], c: x.shape[1], f: formats[x.t]}
			require.Equal(t, x.size, m.Bytes().Total(), x.name)
			n := m.r * m.c
			loaded, err := sparse.Load(m)
			require.NoError(t, err)
			odd := make([]float32, n)
			require.NoError(t, m.ReadRows(odd[:3*m.c], 0))
			require.NoError(t, m.ReadRows(odd[3*m.c:], 3))
			for _, got := range [][]float32{read(t, m), read(t, loaded), odd} {
				for i, g := range got {
					if w := binary.LittleEndian.Uint32(want[4*i:]); math.Float32bits(g) != w {
						t.Fatalf("%s: number %d: want %g, got %g", x.name, i, math.Float32frombits(w), g)
					}
				}
			}
			want = want[4*n:]
		}
		require.Empty(t, want)
	}
}

// TestGGUFLoadForms: Q8_0 and Q4_0 load as quantised forms, not as f32.
func TestGGUFLoadForms(t *testing.T) {
	src, err := openFile("testdata/gguf_types.gguf")
	require.NoError(t, err)
	defer src.Close()
	f, err := readGGUF(src)
	require.NoError(t, err)
	for _, x := range f.tensors {
		m, err := (&stored{src: src, name: x.name, off: x.off, r: x.shape[0], c: x.shape[1], f: formats[x.t]}).Load()
		require.NoError(t, err)
		want := map[sparse.DType]sparse.DType{sparse.Q8_0: sparse.Int8, sparse.Q4_0: sparse.Int4, sparse.F16: sparse.F16, sparse.BF16: sparse.BF16}[x.t]
		if want == 0 {
			want = sparse.F32
		}
		require.Equal(t, want, m.DType(), x.name)
	}
}

// TestGGUFRows: llama's q and k come out in half-split order, weights and biases,
// whole and row by row; nothing else is touched, and qwen2 is not.
func TestGGUFRows(t *testing.T) {
	for _, arch := range []string{"llama", "qwen2"} {
		s := tinyGGUF(arch)
		bias := func(name string, n int) {
			s.tensors = append(s.tensors, gt{name: name, dims: []uint64{uint64(n)}, data: f32s(n, func(i int) float32 { return float32(i) })})
		}
		bias("blk.0.attn_q.bias", 16)
		bias("blk.0.attn_k.bias", 8)
		bias("blk.0.attn_v.bias", 8)
		for i := range s.tensors {
			if len(s.tensors[i].dims) == 2 { // every row holds its own number
				c, r := int(s.tensors[i].dims[0]), int(s.tensors[i].dims[1])
				s.tensors[i].data = f32s(c*r, func(j int) float32 { return float32(j / c) })
			}
		}
		g, err := Open(write(t, "m", s.bytes()))
		require.NoError(t, err)
		defer g.Close()
		for _, w := range g.Weights {
			r, c := w.Data.Dims()
			x := read(t, w.Data)
			rows := make([]float32, r*c)
			for i := range r {
				require.NoError(t, w.Data.ReadRows(rows[i*c:(i+1)*c], i))
			}
			require.Equal(t, x, rows, w.Name)
			loaded, err := sparse.Load(w.Data)
			require.NoError(t, err)
			require.Equal(t, x, read(t, loaded), w.Name)
			n := r
			if w.Rank1() {
				if n = c; w.Name[len(w.Name)-4:] != "bias" {
					continue
				}
			}
			for i := range n {
				want := i
				if arch == "llama" && (w.Name[:len(w.Name)-len("weight")] == "model.layers.0.self_attn.q_proj." || w.Name == "model.layers.0.self_attn.q_proj.bias" ||
					w.Name == "model.layers.0.self_attn.k_proj.weight" || w.Name == "model.layers.0.self_attn.k_proj.bias") {
					// half-split row s*4+j of a head of 8 is interleaved row 2j+s
					want = i/8*8 + i%8%4*2 + i%8/4
				}
				got := x[i]
				if !w.Rank1() {
					got = x[i*c]
				}
				require.EqualValues(t, want, got, "%s %s row %d", arch, w.Name, i)
			}
		}
	}
}

func TestGGUFKeys(t *testing.T) {
	s := tinyGGUF("llama").set("llama.rope.scaling.type", ggufString, "yarn").set("llama.rope.scaling.factor", ggufF32, float32(4)).
		set("llama.rope.scaling.original_context_length", ggufU32, uint32(8)).set("llama.attention.sliding_window", ggufU32, uint32(16))
	s.version = 2
	g, err := Open(write(t, "m", s.bytes()))
	require.NoError(t, err)
	defer g.Close()
	require.Equal(t, "yarn", g.Config.RopeScaling.Type)
	require.Equal(t, 4.0, g.Config.RopeScaling.Factor)
	require.Equal(t, 8, g.Config.RopeScaling.OriginalContext)
	require.Equal(t, 16, g.Config.Window)
	require.Equal(t, 1e-5, g.Config.RMSEps)
	require.True(t, g.Config.Tied)
	require.Equal(t, 6, g.Config.Vocab)

	s = tinyGGUF("llama")
	s.tensors = append(s.tensors, gt{name: "rope_freqs.weight", dims: []uint64{4}, data: f32s(4, func(i int) float32 { return float32(1 + i) })},
		gt{name: "output.weight", dims: []uint64{16, 6}, data: f32s(96, func(i int) float32 { return 1 })})
	g, err = Open(write(t, "m", s.bytes()))
	require.NoError(t, err)
	defer g.Close()
	require.Equal(t, []float64{1, 2, 3, 4}, g.Config.RopeScaling.FreqFactors)
	require.False(t, g.Config.Tied)

	// And through a file of ours, factors included.
	path := write(t, "out", nil)
	require.NoError(t, Save(g, path, SaveOptions{DType: sparse.F32}))
	b, err := Open(path)
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, *g.Config, *b.Config)
	for i, w := range g.Weights {
		require.Equal(t, read(t, w.Data), read(t, b.Weights[i].Data), w.Name)
	}
}

func TestOpenSmolLM2(t *testing.T) {
	for _, opts := range [][]Option{nil, {WithMmap()}} {
		g, err := Open(testenv.Model(t), opts...)
		require.NoError(t, err)
		defer g.Close()
		c := g.Config
		require.Equal(t, []int{49152, 576, 30, 9, 3, 64, 1536}, []int{c.Vocab, c.Hidden, c.Layers, c.Heads, c.KVHeads, c.HeadDim, c.FFN})
		require.Equal(t, 100000.0, c.RopeTheta)
		require.True(t, c.Tied)
		require.EqualValues(t, 134515008, g.Parameters())
		for _, w := range g.Weights {
			require.NoError(t, sparse.EachRow(w.Data, func(int, []float32) error { return nil }), w.Name)
		}
	}
}
