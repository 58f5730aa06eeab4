package loader

import (
	"fmt"
	"math"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
)

// A hostile case is a file, or a folder's files, that must be refused; the
// number is that of the reference list (hostile.md C2).
type hostile struct {
	no    int
	name  string
	want  error
	file  []byte            // one file
	files map[string][]byte // or a folder
	opts  []Option
	read  bool // refused when its weights are read, not when opened
}

// safeCases are 1 to 15.
func safeCases() []hostile {
	one := func(no int, name string, want error, header string, data []byte) hostile {
		return hostile{no: no, name: name, want: want, file: safe(header, data)}
	}
	entry := func(dtype, shape, offs string) string {
		return fmt.Sprintf(`{"a":{"dtype":%q,"shape":%s,"data_offsets":%s}}`, dtype, shape, offs)
	}
	good := `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}`
	four := make([]byte, 4)
	return []hostile{
		{no: 1, name: "empty file", want: ErrTruncated, file: []byte{}},
		{no: 1, name: "seven bytes", want: ErrTruncated, file: []byte("{\x00\x00\x00\x00\x00\x00")},
		{no: 2, name: "header of 100 MB and a byte", want: ErrLimit, file: append(le(uint64(maxHeader+1)), "{}"...)},
		{no: 3, name: "header longer than the file", want: ErrTruncated, file: append(le(uint64(64)), "{}"...)},
		{no: 4, name: "header length near 2^64", want: ErrLimit, file: append(le(uint64(math.MaxUint64-7)), "{}"...)},
		{no: 4, name: "header length 2^63", want: ErrLimit, file: append(le(uint64(1<<63)), "{}"...)},
		one(5, "header begins with a space", ErrFormat, ` {}`, nil),
		one(5, "header is an array", ErrFormat, `[{}]`, nil),
		one(5, "header of nothing", ErrFormat, ``, []byte("{")),
		one(6, "invalid UTF-8", ErrFormat, "{\"a\xff\":1}", nil),
		one(6, "overlong UTF-8", ErrFormat, "{\"a\xc0\xaf\":1}", nil),
		one(7, "truncated JSON", ErrFormat, good, four),
		one(7, "trailing garbage", ErrFormat, good+`}x`, four),
		one(7, "second object", ErrFormat, good+`}{}`, four),
		one(7, "lone surrogate", ErrFormat, `{"\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, four),
		one(7, "control character", ErrFormat, "{\"a\n\":1}", nil),
		one(8, "nesting bomb in the header", ErrFormat, `{"a":`+strings.Repeat("[", 1<<16), nil),
		one(9, "duplicate tensor", ErrFormat, good+`,"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, four),
		one(9, "duplicate by escape", ErrFormat, good+`,"\u0061":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, four),
		one(9, "duplicate key in a tensor", ErrFormat, `{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}`, four),
		one(10, "metadata number", ErrFormat, `{"__metadata__":{"a":1}}`, nil),
		one(10, "metadata is a string", ErrFormat, `{"__metadata__":"a"}`, nil),
		one(11, "unknown dtype", ErrUnsupported, entry("F31", "[1]", "[0,4]"), four),
		one(11, "dtype is a number", ErrFormat, `{"a":{"dtype":4,"shape":[1],"data_offsets":[0,4]}}`, four),
		one(12, "negative dimension", ErrFormat, entry("F32", "[-1]", "[0,4]"), four),
		one(12, "fractional dimension", ErrFormat, entry("F32", "[1.0]", "[0,4]"), four),
		one(12, "huge dimension", ErrFormat, entry("F32", "[99999999999999999999]", "[0,4]"), four),
		one(12, "leading zero", ErrFormat, entry("F32", "[01]", "[0,4]"), four),
		one(13, "shape product overflows", ErrShape, entry("F32", "[4294967296,4294967296]", "[0,4]"), four),
		one(13, "overflow behind a zero", ErrShape, entry("F32", "[0,4611686018427387904,4611686018427387904]", "[0,0]"), nil),
		one(13, "sub-byte dtype", ErrUnsupported, entry("F4", "[3]", "[0,2]"), four),
		one(13, "too many dimensions", ErrLimit, entry("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), four),
		one(14, "begin after end", ErrShape, entry("F32", "[1]", "[4,0]"), four),
		one(14, "overlap", ErrShape, good+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}}`, make([]byte, 6)),
		one(14, "hole", ErrShape, good+`,"b":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}}`, make([]byte, 12)),
		one(14, "end beyond the buffer", ErrTruncated, entry("F32", "[2]", "[0,8]"), four),
		one(14, "offset near 2^63", ErrTruncated, entry("F32", "[1]", "[9223372036854775803,9223372036854775807]"), four),
		one(14, "three offsets", ErrFormat, entry("F32", "[1]", "[0,4,4]"), four),
		one(15, "bytes are not shape times dtype", ErrShape, entry("F32", "[2]", "[0,4]"), four),
		one(15, "bytes after the last tensor", ErrShape, good+`}`, make([]byte, 5)),
		one(15, "missing shape", ErrFormat, `{"a":{"dtype":"F32","data_offsets":[0,4]}}`, four),
		one(15, "unknown key", ErrFormat, `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}`, four),
	}
}

// ggufCases are 16 to 25.
func ggufCases() []hostile {
	t := func(no int, name string, want error, s ggufSpec) hostile {
		return hostile{no: no, name: name, want: want, file: s.bytes()}
	}
	tiny := tinyGGUF("llama")
	with := func(f func(s *ggufSpec)) ggufSpec {
		s := tiny
		f(&s)
		return s
	}
	raw := func(kind uint32, val any) ggufSpec { return tiny.set("x", kind, val) }
	fixed := func(i int, f func(*gt)) ggufSpec {
		b := tiny
		b.bytes() // settles the offsets
		b = b.tensor(i, f)
		b.auto = false
		return b
	}
	return []hostile{
		t(16, "bad magic", ErrFormat, with(func(s *ggufSpec) { s.magic = "GGUX" })),
		t(16, "reversed magic", ErrFormat, with(func(s *ggufSpec) { s.magic = "FUGG" })),
		t(16, "big-endian", ErrUnsupported, with(func(s *ggufSpec) { s.version = 3 << 24 })),
		{no: 16, name: "version 0", want: ErrUnsupported, file: append([]byte("GGUF\x00\x00\x00\x00"), make([]byte, 64)...)},
		t(16, "version 1", ErrUnsupported, with(func(s *ggufSpec) { s.version = 1 })),
		t(16, "version 4", ErrUnsupported, with(func(s *ggufSpec) { s.version = 4 })),
		t(17, "tensor count beyond the file", ErrTruncated, with(func(s *ggufSpec) { s.nt = 1 << 40 })),
		t(17, "tensor count 2^64-1", ErrTruncated, with(func(s *ggufSpec) { s.nt = math.MaxUint64 })),
		t(17, "key count beyond the file", ErrTruncated, with(func(s *ggufSpec) { s.nk = 1 << 40 })),
		t(17, "more keys than there are", ErrTruncated, with(func(s *ggufSpec) { s.nk = uint64(len(s.kvs)) + 3 })),
		t(18, "string longer than the file", ErrTruncated, raw(ggufString, append(le(uint64(1<<30)), 'a'))),
		t(18, "string length 2^64-1", ErrTruncated, raw(ggufString, append(le(uint64(math.MaxUint64)), 'a'))),
		t(18, "key of 100 kB", ErrLimit, tiny.set(strings.Repeat("k", 100_000), ggufU32, uint32(1))),
		t(18, "string of 17 MB", ErrLimit, raw(ggufString, strings.Repeat("s", 17<<20))),
		t(19, "array of arrays", ErrUnsupported, raw(ggufArray, append(append(le(uint32(ggufArray)), le(uint64(1))...), garr(ggufU8, uint8(1))...))),
		t(19, "array longer than the file", ErrTruncated, raw(ggufArray, append(le(uint32(ggufF32)), le(uint64(1<<40))...))),
		t(19, "array of strings longer than the file", ErrTruncated, raw(ggufArray, append(le(uint32(ggufString)), le(uint64(1<<60))...))),
		t(20, "unknown value type", ErrFormat, raw(13, uint32(0))),
		t(20, "negative value type", ErrFormat, raw(math.MaxUint32, uint32(0))),
		t(20, "unknown element type", ErrFormat, raw(ggufArray, append(le(uint32(77)), le(uint64(1))...))),
		t(20, "unknown tensor type", ErrUnsupported, tiny.tensor(2, func(t *gt) { t.typ = 99 })),
		t(20, "negative tensor type", ErrUnsupported, tiny.tensor(2, func(t *gt) { t.typ = math.MaxUint32 })),
		t(20, "boolean of 2", ErrFormat, raw(ggufBool, []byte{2})),
		t(21, "no dimensions", ErrShape, tiny.tensor(2, func(t *gt) { t.dims = nil })),
		t(21, "five dimensions", ErrShape, tiny.tensor(2, func(t *gt) { t.dims = []uint64{1, 1, 1, 1, 1} })),
		t(22, "dimension 0", ErrShape, tiny.tensor(2, func(t *gt) { t.dims = []uint64{16, 0} })),
		t(22, "dimension 2^63", ErrShape, tiny.tensor(2, func(t *gt) { t.dims = []uint64{1 << 63, 2} })),
		t(22, "product overflows", ErrShape, tiny.tensor(2, func(t *gt) { t.dims = []uint64{1 << 31, 1 << 31, 4} })),
		t(22, "row no multiple of the block", ErrShape, tiny.tensor(2, func(t *gt) { t.typ = 2 })),
		t(23, "alignment 0", ErrFormat, tiny.set("general.alignment", ggufU32, uint32(0))),
		t(23, "alignment 48", ErrFormat, tiny.set("general.alignment", ggufU32, uint32(48))),
		t(23, "alignment 2^31", ErrFormat, tiny.set("general.alignment", ggufU32, uint32(1<<31))),
		t(23, "alignment is a string", ErrFormat, tiny.set("general.alignment", ggufString, "32")),
		t(24, "offset misaligned", ErrFormat, fixed(3, func(t *gt) { t.off += 4 })),
		t(24, "offset beyond the file", ErrTruncated, fixed(3, func(t *gt) { t.off = 1 << 40 })),
		t(24, "offset 2^64-32", ErrTruncated, fixed(3, func(t *gt) { t.off = math.MaxUint64 - 31 })),
		t(24, "size beyond the file", ErrTruncated, fixed(10, func(t *gt) { t.dims = []uint64{1 << 40} })),
		t(24, "overlap", ErrShape, fixed(3, func(t *gt) { t.off -= 32 })),
		t(24, "truncated data", ErrTruncated, with(func(s *ggufSpec) { s.cut = 64 })),
		t(25, "duplicate key", ErrFormat, with(func(s *ggufSpec) { s.kvs = append(s.kvs[:len(s.kvs):len(s.kvs)], s.kvs[3]) })),
		t(25, "duplicate tensor", ErrFormat, tiny.tensor(2, func(t *gt) { t.name = "blk.0.attn_k.weight" })),
		t(25, "no architecture", ErrConfig, tiny.without("general.architecture")),
		t(25, "architecture of a wrong type", ErrConfig, tiny.set("general.architecture", ggufU32, uint32(1))),
		t(25, "layers of a wrong type", ErrConfig, tiny.set("llama.block_count", ggufF32, float32(1))),
		t(25, "unknown architecture", ErrUnsupported, tiny.set("general.architecture", ggufString, "mamba")),
	}
}

// pickleCases are 33 and the zip of 50.
func pickleCases() []hostile {
	return []hostile{
		{no: 33, name: "pickle renamed .safetensors", want: ErrUnsupported, file: append([]byte("\x80\x02}q\x00X"), make([]byte, 64)...)},
		{no: 33, name: "pickle protocol 4", want: ErrUnsupported, file: append([]byte("\x80\x04\x95\x10\x00"), make([]byte, 64)...)},
		{no: 33, name: "pickle that would run a command", want: ErrUnsupported, file: []byte("\x80\x02cos\nsystem\nX\x04\x00\x00\x00echo\x85R.")},
		{no: 33, name: "ELF", want: ErrFormat, file: append([]byte("\x7fELF\x02\x01\x01\x00"), make([]byte, 64)...)},
	}
}

func allCases() []hostile {
	out := append(safeCases(), ggufCases()...)
	out = append(append(append(out, modelCases()...), pickleCases()...), torchCases()...)
	return append(out, sparseCases()...)
}

// TestHostile: every case is refused with its typed error, in one line that names
// the file, within the memory bound.
func TestHostile(t *testing.T) {
	seen := map[int]bool{}
	for _, h := range allCases() {
		seen[h.no] = true
		t.Run(fmt.Sprint(h.no, " ", h.name), func(t *testing.T) {
			path, size := h.put(t)
			var before, after goruntime.MemStats
			goruntime.ReadMemStats(&before)
			g, err := Open(path, h.opts...)
			if h.read && err == nil {
				defer g.Close()
				for _, w := range g.Weights {
					if err = sparse.EachRow(w.Data, func(int, []float32) error { return nil }); err != nil {
						break
					}
				}
			}
			goruntime.ReadMemStats(&after)
			require.Error(t, err)
			require.ErrorIs(t, err, h.want)
			line := err.Error()
			require.NotContains(t, line, "\n")
			require.True(t, strings.HasPrefix(line, "loader: "), line)
			require.Equal(t, 1, strings.Count(line, "loader: "), line)
			require.Less(t, len(line), 600, line)
			names := []string{filepath.Base(path) + ": ", filepath.Base(path) + "/"}
			for n := range h.files {
				names = append(names, n)
			}
			named := false
			for _, n := range names {
				named = named || strings.Contains(line, n)
			}
			require.True(t, named || strings.Contains(line, "model-00001"), "no file named: %s", line)
			// TotalAlloc counts what was freed again too: a bound above any peak.
			require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(2*size+64<<20), line)
		})
	}
	for no := 1; no <= 50; no++ {
		if (no >= 26 && no <= 31) || no == 41 { // ONNX, whose tests count these
			continue
		}
		require.True(t, seen[no], "case %d has no test", no)
	}
}

func (h *hostile) put(t testing.TB) (path string, size int64) {
	if h.files != nil {
		for _, b := range h.files {
			size += int64(len(b))
		}
		return folder(t, h.files), size
	}
	return write(t, "model.bin", h.file), int64(len(h.file))
}

// TestWellFormed: what the cases are made of opens, so that each is refused for
// its own fault.
func TestWellFormed(t *testing.T) {
	for _, path := range []string{
		write(t, "m", tinyGGUF("llama").bytes()), write(t, "m", tinyGGUF("mistral").bytes()), write(t, "m", tinyGGUF("qwen2").bytes()),
		folder(t, map[string][]byte{fileConfig: []byte(tinyConfig), fileWeights: safeFile(tinySafe()...)}),
		// Offsets that are not sorted but cover everything are fine (case 14).
		write(t, "m", func() []byte {
			h := `{"__metadata__":{"sparserun.config":` + fmt.Sprintf("%q", tinyConfig) + `}`
			ts := tinySafe()
			end := 0
			for _, s := range ts {
				end += len(s.data)
			}
			var data []byte
			for i, s := range ts { // the last tensor's data first
				shape := strings.ReplaceAll(fmt.Sprint(s.shape), " ", ",")
				at := end - len(s.data)
				h += fmt.Sprintf(`,%q:{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}`, s.name, shape, at, end)
				end = at
				data = append(append([]byte(nil), ts[i].data...), data...)
			}
			return safe(h+"}   ", data)
		}()),
	} {
		for _, opts := range [][]Option{nil, {WithMmap()}} {
			g, err := Open(path, opts...)
			require.NoError(t, err)
			for _, w := range g.Weights {
				read(t, w.Data)
			}
			require.NoError(t, g.Close())
		}
	}
}

func TestAllowNonFinite(t *testing.T) {
	dir := folder(t, map[string][]byte{fileConfig: []byte(tinyConfig), fileWeights: safeFile(change(3, func(t *st) { copy(t.data[40:], le(float32(math.NaN()))) })...)})
	g, err := Open(dir, AllowNonFinite())
	require.NoError(t, err)
	defer g.Close()
	w, err := g.Weight("model.layers.0.self_attn.k_proj.weight")
	require.NoError(t, err)
	x := read(t, w.Data)
	require.True(t, math.IsNaN(float64(x[10])))
}

// TestTokenizerNamesItsFolder: two models' tokenizer.json are told apart, as their other files are.
func TestTokenizerNamesItsFolder(t *testing.T) {
	dir := folder(t, map[string][]byte{fileConfig: []byte(tinyConfig), fileWeights: safeFile(tinySafe()...), fileTokenizer: []byte("{")})
	_, err := Open(dir)
	require.ErrorContains(t, err, "loader: "+filepath.Base(dir)+"/"+fileTokenizer+": ")
}
