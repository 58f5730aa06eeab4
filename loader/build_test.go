package loader

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Builders of small files, well-formed and broken.

type kv struct {
	key  string
	kind uint32
	val  any // []byte is taken as it is
}

type gt struct {
	name string
	dims []uint64 // GGUF's order: innermost first
	typ  uint32
	off  uint64
	data []byte
}

type ggufSpec struct {
	magic   string
	version uint32
	nt, nk  uint64 // 0: as many as there are
	kvs     []kv
	tensors []gt
	align   int
	auto    bool // offsets by position
	cut     int  // bytes to drop at the end
}

func le(v any) []byte {
	b, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		panic(err)
	}
	return b
}

func gstr(s string) []byte { return append(le(uint64(len(s))), s...) }

func gval(v any) []byte {
	switch v := v.(type) {
	case []byte:
		return v
	case string:
		return gstr(v)
	case bool:
		if v {
			return []byte{1}
		}
		return []byte{0}
	}
	return le(v)
}

// garr is an array value.
func garr(kind uint32, vals ...any) []byte {
	b := append(le(kind), le(uint64(len(vals)))...)
	for _, v := range vals {
		b = append(b, gval(v)...)
	}
	return b
}

func (s ggufSpec) bytes() []byte {
	if s.magic == "" {
		s.magic = "GGUF"
	}
	if s.version == 0 {
		s.version = 3
	}
	if s.align == 0 {
		s.align = 32
	}
	if s.nt == 0 {
		s.nt = uint64(len(s.tensors))
	}
	if s.nk == 0 {
		s.nk = uint64(len(s.kvs))
	}
	b := append([]byte(s.magic), le(s.version)...)
	b = append(append(b, le(s.nt)...), le(s.nk)...)
	for _, k := range s.kvs {
		b = append(append(append(b, gstr(k.key)...), le(k.kind)...), gval(k.val)...)
	}
	at := uint64(0)
	for i := range s.tensors {
		t := &s.tensors[i]
		if s.auto {
			t.off = at
			at += uint64((len(t.data) + s.align - 1) / s.align * s.align)
		}
		b = append(append(b, gstr(t.name)...), le(uint32(len(t.dims)))...)
		for _, d := range t.dims {
			b = append(b, le(d)...)
		}
		b = append(append(b, le(t.typ)...), le(t.off)...)
	}
	for len(b)%s.align != 0 {
		b = append(b, 0)
	}
	for _, t := range s.tensors {
		b = append(b, t.data...)
		for len(b)%s.align != 0 {
			b = append(b, 0)
		}
	}
	return b[:len(b)-s.cut]
}

func f32s(n int, f func(i int) float32) []byte {
	b := make([]byte, 0, 4*n)
	for i := range n {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f(i)))
	}
	return b
}

// tinyGGUF is a well-formed model of one layer: hidden 16, 2 heads of 8, 1 KV
// head, FFN 24, vocabulary 6, with a SentencePiece tokenizer.
func tinyGGUF(arch string) ggufSpec {
	rng := rand.New(rand.NewPCG(7, 8))
	rnd := func(int) float32 { return float32(rng.NormFloat64()) }
	p := arch + "."
	s := ggufSpec{auto: true, kvs: []kv{
		{"general.architecture", ggufString, arch}, {p + "block_count", ggufU32, uint32(1)}, {p + "embedding_length", ggufU32, uint32(16)},
		{p + "context_length", ggufU32, uint32(32)}, {p + "feed_forward_length", ggufU32, uint32(24)}, {p + "attention.head_count", ggufU32, uint32(2)},
		{p + "attention.head_count_kv", ggufU32, uint32(1)}, {p + "attention.layer_norm_rms_epsilon", ggufF32, float32(1e-5)},
		{p + "rope.freq_base", ggufF32, float32(10000)},
		{"tokenizer.ggml.model", ggufString, "llama"},
		{"tokenizer.ggml.tokens", ggufArray, garr(ggufString, "<unk>", "<s>", "</s>", "a", "b", "ab")},
		{"tokenizer.ggml.scores", ggufArray, garr(ggufF32, float32(0), float32(0), float32(0), float32(-1), float32(-2), float32(-0.5))},
		{"tokenizer.ggml.token_type", ggufArray, garr(ggufI32, int32(2), int32(3), int32(3), int32(1), int32(1), int32(1))},
	}}
	add := func(name string, dims ...uint64) {
		n := 1
		for _, d := range dims {
			n *= int(d)
		}
		s.tensors = append(s.tensors, gt{name: name, dims: dims, data: f32s(n, rnd)})
	}
	add("token_embd.weight", 16, 6)
	add("blk.0.attn_norm.weight", 16)
	add("blk.0.attn_q.weight", 16, 16)
	add("blk.0.attn_k.weight", 16, 8)
	add("blk.0.attn_v.weight", 16, 8)
	add("blk.0.attn_output.weight", 16, 16)
	add("blk.0.ffn_norm.weight", 16)
	add("blk.0.ffn_gate.weight", 16, 24)
	add("blk.0.ffn_up.weight", 16, 24)
	add("blk.0.ffn_down.weight", 24, 16)
	add("output_norm.weight", 16)
	return s
}

// set replaces or adds a key.
func (s ggufSpec) set(key string, kind uint32, val any) ggufSpec {
	kvs := append([]kv(nil), s.kvs...)
	for i := range kvs {
		if kvs[i].key == key {
			kvs[i] = kv{key, kind, val}
			s.kvs = kvs
			return s
		}
	}
	s.kvs = append(kvs, kv{key, kind, val})
	return s
}

func (s ggufSpec) without(key string) ggufSpec {
	var kvs []kv
	for _, k := range s.kvs {
		if k.key != key {
			kvs = append(kvs, k)
		}
	}
	s.kvs = kvs
	return s
}

// tensor returns a copy whose tensor i is changed.
func (s ggufSpec) tensor(i int, f func(*gt)) ggufSpec {
	s.tensors = append([]gt(nil), s.tensors...)
	f(&s.tensors[i])
	return s
}

// safe is a safetensors file of a header and data.
func safe(header string, data []byte) []byte {
	return append(append(le(uint64(len(header))), header...), data...)
}

type st struct {
	name, dtype string
	shape       []int
	data        []byte
}

// safeFile is a well-formed safetensors file.
func safeFile(tensors ...st) []byte {
	h, at := "{", 0
	var data []byte
	for i, t := range tensors {
		if i > 0 {
			h += ","
		}
		shape := ""
		for j, d := range t.shape {
			if j > 0 {
				shape += ","
			}
			shape += fmt.Sprint(d)
		}
		h += fmt.Sprintf(`%q:{"dtype":%q,"shape":[%s],"data_offsets":[%d,%d]}`, t.name, t.dtype, shape, at, at+len(t.data))
		at += len(t.data)
		data = append(data, t.data...)
	}
	return safe(h+"}", data)
}

// write puts bytes into a file of the test's folder.
func write(t testing.TB, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, b, 0o644))
	return path
}

// folder writes files into a new folder.
func folder(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), b, 0o644))
	}
	return dir
}
