package loader

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/sparse"
)

func i64s(v ...int64) []byte {
	var b []byte
	for _, x := range v {
		b = binary.LittleEndian.AppendUint64(b, uint64(x))
	}
	return b
}

func quantConfig(body string) string {
	return strings.Replace(tinyConfig, `"vocab_size"`, `"quantization_config":{"quant_method":"compressed-tensors",`+body+`},"vocab_size"`, 1)
}

const groupsFmt = `"config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":BITS,"type":"int","symmetric":SYM,"strategy":"group","group_size":GROUP}}}`

func groups(bits, sym, group string) string {
	return strings.NewReplacer("BITS", bits, "SYM", sym, "GROUP", group).Replace(groupsFmt)
}

// replaceK is the tiny model with other tensors in place of k_proj's weight [8, 16].
func replaceK(tensors ...st) []st {
	t := tinySafe()
	out := append([]st(nil), t[:3]...)
	const k = "model.layers.0.self_attn.k_proj"
	for _, x := range tensors {
		x.name = k + x.name
		out = append(out, x)
	}
	return append(out, t[4:]...)
}

func ones(n int) []byte { return bytes.Repeat([]byte{0, 0x3c}, n) } // f16

// sparseCases are 34 to 45: each takes a well-formed compressed k_proj and breaks
// one thing.
func sparseCases() []hostile {
	mk := func(no int, name string, want error, config string, tensors ...st) hostile {
		return hostile{no: no, name: name, want: want, files: map[string][]byte{fileConfig: []byte(config), fileWeights: safeFile(replaceK(tensors...)...)}}
	}
	plain := quantConfig(`"sparsity_config":{"format":"sparse-bitmask","sparsity_structure":"unstructured","global_sparsity":0.1}`)
	declared24 := quantConfig(`"sparsity_config":{"format":"sparse-bitmask","sparsity_structure":"2:4"}`)
	mask24 := bytes.Repeat([]byte{0x33}, 16)
	nm := func(mask []byte, vals []byte, vshape []int, shape []byte) []st {
		return []st{{".compressed", "F16", vshape, vals}, {".bitmask", "U8", []int{8, 2}, mask}, {".shape", "I64", []int{2, 1}, shape}}
	}
	bm := func(mask []byte, n int, offs []int64, shape []byte) []st {
		return []st{{".compressed", "F16", []int{n}, ones(n)}, {".bitmask", "U8", []int{8, 2}, mask}, {".shape", "I64", []int{2}, shape},
			{".row_offsets", "I64", []int{len(offs)}, i64s(offs...)}}
	}
	even := []int64{0, 8, 16, 24, 32, 40, 48, 56}
	setByte := func(b []byte, i int, v byte) []byte {
		c := bytes.Clone(b)
		c[i] = v
		return c
	}
	// A marlin-24 weight of [64, 32] has its own shapes; the error comes before
	// they are held against the model.
	marlin := func(meta []byte, metaShape []int, scale []byte) []st {
		return []st{{".weight_packed", "I32", []int{1, 128}, make([]byte, 512)}, {".scale_packed", "F16", []int{1, 64}, scale}, {".meta", "I16", metaShape, meta}}
	}
	goodMeta := bytes.Repeat([]byte{0x44}, 256)
	m24 := quantConfig(groups("4", "true", "null"))
	int8cfg := quantConfig(groups("8", "true", "null"))
	q8 := func(scale []byte, shape ...int) []st {
		return []st{{".weight", "I8", []int{8, 16}, make([]byte, 128)}, {".weight_scale", "F32", shape, scale}}
	}
	scale := func(v float32) []byte { return f32s(8, func(int) float32 { return v }) }
	int4cfg := quantConfig(groups("4", "true", "8"))
	asym := quantConfig(groups("4", "false", "8"))
	pack := func(words int, dims ...int64) []st {
		return []st{{".weight_packed", "I32", []int{8, words}, make([]byte, 32*words)}, {".weight_shape", "I64", []int{len(dims)}, i64s(dims...)},
			{".weight_scale", "F16", []int{8, 2}, ones(16)}}
	}
	blocked := func(rows, cols string) string {
		return quantConfig(`"config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":8,"type":"int","symmetric":true,"strategy":"block","block_structure":[` + rows + `,` + cols + `]}}}`)
	}
	// Three pairs of a gap and a value that end on the last of eight places, in a shape of four.
	past, _, err := codebook.Coded("w", []int{8}, []float32{0, 1, 0, 0.5, 0, 0, 0, 1}, 4)
	if err != nil {
		panic(err)
	}
	past.Shape = []int{2, 2}
	return []hostile{
		mk(34, "index pair equal", ErrSparse, m24, marlin(setByte(goodMeta, 17, 0x40), []int{1, 128}, ones(64))...),
		mk(34, "index pair descending", ErrSparse, m24, marlin(setByte(goodMeta, 17, 0x41), []int{1, 128}, ones(64))...),
		mk(35, "illegal nibble 15", ErrSparse, m24, marlin(setByte(goodMeta, 40, 0xF4), []int{1, 128}, ones(64))...),
		mk(36, "metadata too short", ErrSparse, m24, marlin(goodMeta[:128], []int{1, 64}, ones(64))...),
		mk(36, "metadata of another width", ErrSparse, m24, marlin(goodMeta, []int{2, 64}, ones(64))...),
		mk(37, "2:4 columns no multiple of 4", ErrSparse, plain, st{".compressed", "F16", []int{8, 5}, ones(40)}, st{".bitmask", "U8", []int{8, 2}, mask24}, st{".shape", "I64", []int{2, 1}, i64s(8, 10)}),
		mk(38, "three bits in a 2:4 mask", ErrSparse, plain, nm(setByte(mask24, 5, 0x37), ones(64), []int{8, 8}, i64s(8, 16))...),
		mk(38, "three bits in one group, one in another", ErrSparse, plain, nm(setByte(setByte(mask24, 5, 0x37), 9, 0x31), ones(64), []int{8, 8}, i64s(8, 16))...),
		mk(38, "the same in high nibbles", ErrSparse, plain, nm(setByte(setByte(mask24, 5, 0x73), 9, 0x13), ones(64), []int{8, 8}, i64s(8, 16))...),
		mk(38, "one bit in a 2:4 mask", ErrSparse, plain, nm(setByte(mask24, 5, 0x31), ones(64), []int{8, 8}, i64s(8, 16))...),
		mk(38, "three of four where 2:4 is declared", ErrSparse, declared24, bm(setByte(mask24, 0, 0x17), 64, even, i64s(8, 16))...),
		mk(39, "fewer values than bits", ErrSparse, plain, bm(mask24, 63, even, i64s(8, 16))...),
		mk(39, "more values than bits", ErrSparse, plain, bm(mask24, 65, even, i64s(8, 16))...),
		mk(39, "values of another 2:4 shape", ErrSparse, plain, nm(mask24, ones(32), []int{8, 4}, i64s(8, 16))...),
		mk(40, "row offsets not from 0", ErrSparse, plain, bm(mask24, 64, []int64{1, 8, 16, 24, 32, 40, 48, 56}, i64s(8, 16))...),
		mk(40, "row offsets decrease", ErrSparse, plain, bm(mask24, 64, []int64{0, 8, 4, 24, 32, 40, 48, 56}, i64s(8, 16))...),
		mk(40, "row offset negative", ErrSparse, plain, bm(mask24, 64, []int64{0, -8, 16, 24, 32, 40, 48, 56}, i64s(8, 16))...),
		mk(40, "no row offsets", ErrSparse, plain, bm(mask24, 64, even, i64s(8, 16))[:3]...),
		mk(40, "row offsets: too few", ErrSparse, plain, bm(mask24, 64, even[:7], i64s(8, 16))...),
		mk(42, "popcount is not the number of values", ErrSparse, plain, bm(setByte(mask24, 15, 0x3f), 64, even, i64s(8, 16))...),
		mk(42, "bit beyond the columns", ErrSparse, plain, bm(mask24, 64, even, i64s(8, 13))...),
		mk(42, "shape larger than the mask", ErrSparse, plain, bm(mask24, 64, even, i64s(8, 1<<40))...),
		mk(42, "negative shape", ErrSparse, plain, bm(mask24, 64, even, i64s(8, -16))...),
		mk(42, "mask without values", ErrSparse, plain, st{".bitmask", "U8", []int{8, 2}, mask24}, st{".shape", "I64", []int{2}, i64s(8, 16)}),
		mk(42, "values without a mask", ErrSparse, plain, st{".compressed", "F16", []int{64}, ones(64)}, st{".shape", "I64", []int{2}, i64s(8, 16)}),
		mk(42, "mask of a wrong type", ErrSparse, plain, st{".compressed", "F16", []int{64}, ones(64)}, st{".bitmask", "I8", []int{8, 2}, mask24}, st{".shape", "I64", []int{2}, i64s(8, 16)}),
		mk(43, "more blocks than rows hold", ErrSparse, blocked("4", "8"), q8(f32s(6, func(int) float32 { return 1 }), 3, 2)...),
		mk(43, "more blocks than columns hold", ErrSparse, blocked("4", "8"), q8(f32s(6, func(int) float32 { return 1 }), 2, 3)...),
		mk(43, "blocks that end before the rows do", ErrSparse, blocked("4", "8"), q8(f32s(2, func(int) float32 { return 1 }), 1, 2)...),
		mk(43, "blocks of no rows", ErrSparse, blocked("0", "8"), q8(f32s(4, func(int) float32 { return 1 }), 2, 2)...),
		mk(43, "blocks of -8 columns", ErrSparse, blocked("4", "-8"), q8(f32s(4, func(int) float32 { return 1 }), 2, 2)...),
		mk(43, "row offset past the values", ErrSparse, plain, bm(mask24, 64, []int64{0, 8, 16, 24, 32, 40, 48, 64}, i64s(8, 16))...),
		{no: 43, name: "gaps past the end", want: ErrFormat, file: (&codebook.File{Network: matmul(), Tensors: []codebook.Tensor{past}}).Append(nil)},
		mk(44, "declared sparsity", ErrSparse, quantConfig(`"sparsity_config":{"format":"sparse-bitmask","sparsity_structure":"unstructured","global_sparsity":0.01}`),
			bm(bytes.Repeat([]byte{0, 1}, 8), 8, []int64{0, 1, 2, 3, 4, 5, 6, 7}, i64s(8, 16))...),
		mk(44, "declared sparsity beyond 1", ErrConfig, quantConfig(`"sparsity_config":{"global_sparsity":1.5}`), bm(mask24, 64, even, i64s(8, 16))...),
		mk(45, "scale 0", ErrSparse, int8cfg, q8(scale(0), 8, 1)...),
		mk(45, "negative scale", ErrSparse, int8cfg, q8(scale(-1), 8, 1)...),
		mk(45, "NaN scale", ErrNonFinite, int8cfg, q8(scale(float32(math.NaN())), 8, 1)...),
		mk(45, "infinite scale", ErrNonFinite, int8cfg, q8(scale(float32(math.Inf(1))), 8, 1)...),
		mk(45, "wrong number of scales", ErrSparse, int8cfg, q8(scale(1)[:28], 7, 1)...),
		mk(45, "wrong number of groups", ErrSparse, int4cfg, st{".weight_packed", "I32", []int{8, 2}, make([]byte, 64)}, st{".weight_shape", "I64", []int{2}, i64s(8, 16)}, st{".weight_scale", "F16", []int{8, 3}, ones(24)}),
		mk(45, "no scales", ErrSparse, int8cfg, st{".weight", "I8", []int{8, 16}, make([]byte, 128)}),
		mk(45, "scales are whole numbers", ErrSparse, int8cfg, st{".weight", "I8", []int{8, 16}, make([]byte, 128)}, st{".weight_scale", "I64", []int{1}, i64s(1)}),
		mk(45, "2^40 rows of nothing", ErrSparse, int8cfg, st{".weight", "I8", []int{1 << 40, 0}, nil}, st{".weight_scale", "F32", []int{1}, le(float32(1))}),
		mk(45, "2^40 rows of nothing, 2:4", ErrSparse, plain, st{".compressed", "F16", []int{1 << 40, 0}, nil}, st{".bitmask", "U8", []int{1 << 40, 0}, nil}),
		mk(45, "too many patterns", ErrLimit, quantConfig(strings.Replace(groups("8", "true", "null"), `"Linear"`, strings.TrimSuffix(strings.Repeat(`"re:a",`, 65), ","), 1)), q8(scale(1), 8, 1)...),
		mk(45, "pattern that is none", ErrConfig, quantConfig(strings.Replace(groups("8", "true", "null"), `"Linear"`, `"re:("`, 1)), q8(scale(1), 8, 1)...),
		mk(45, "packed width", ErrSparse, int4cfg, pack(3, 8, 16)...),
		mk(45, "packed shape overflows", ErrSparse, int4cfg, pack(2, 8, math.MaxInt64)...),
		mk(45, "packed shape of one", ErrSparse, int4cfg, pack(2, 8)...),
		mk(45, "packed without bits", ErrConfig, tinyConfig, pack(2, 8, 16)...),
		mk(45, "bits 0", ErrUnsupported, quantConfig(groups("0", "true", "8")), pack(2, 8, 16)...),
		mk(45, "bits 33", ErrUnsupported, quantConfig(groups("33", "true", "8")), pack(2, 8, 16)...),
		mk(45, "asymmetric without zero points", ErrSparse, asym, pack(2, 8, 16)...),
		mk(45, "zero points of another shape", ErrSparse, asym, append(pack(2, 8, 16), st{".weight_zero_point", "I32", []int{2, 2}, make([]byte, 16)})...),
		mk(45, "group index out of range", ErrSparse, int4cfg, append(pack(2, 8, 16), st{".weight_g_idx", "I32", []int{16}, bytes.Repeat([]byte{2, 0, 0, 0}, 16)})...),
		mk(45, "another quantisation", ErrUnsupported, strings.Replace(int4cfg, "compressed-tensors", "gptq", 1), pack(2, 8, 16)...),
	}
}

// TestBlocksPlain: what case 43 breaks opens as long as it is whole, and a block may reach past the end.
func TestBlocksPlain(t *testing.T) {
	for _, c := range []struct {
		block  string
		scales []int
	}{{"4,8", []int{2, 2}}, {"3,5", []int{3, 4}}, {"100,100", []int{1, 1}}} {
		config := quantConfig(`"config_groups":{"group_0":{"targets":["Linear"],"weights":{"num_bits":8,"type":"int","symmetric":true,"strategy":"block","block_structure":[` + c.block + `]}}}`)
		scale := f32s(c.scales[0]*c.scales[1], func(i int) float32 { return float32(i + 1) })
		tensors := replaceK(st{".weight", "I8", []int{8, 16}, bytes.Repeat([]byte{1}, 128)}, st{".weight_scale", "F32", c.scales, scale})
		g, err := Open(folder(t, map[string][]byte{fileConfig: []byte(config), fileWeights: safeFile(tensors...)}))
		require.NoError(t, err, c.block)
		k, err := g.Weight("model.layers.0.self_attn.k_proj.weight")
		require.NoError(t, err)
		w, err := sparse.Read(k.Data)
		require.NoError(t, err)
		require.Equal(t, float32(c.scales[0]*c.scales[1]), w[127], "the last block's scale")
		require.NoError(t, g.Close())
	}
}
