package main

import (
	"regexp"
	"strings"

	"github.com/sparserun/sparserun/cuda/tile"
	"github.com/sparserun/sparserun/sparse"
)

// arch is a multiprocessor's limits (CUDA C++ Programming Guide, technical
// specifications per compute capability) and the tensor pipe's rate.
type arch struct {
	device string
	warps  int // resident at most
	blocks int
	shared int // bytes; a block takes 1 KiB more than it asks for
	// mmaCycles is how long one m16n8k16 f16 product with f32 sums (sparse: m16n8k32)
	// holds a sub-core's tensor pipe: 2048 multiply-adds over the peak that the maker
	// states for the named device. 0: no figure for this instruction there.
	mmaCycles float64
	// issueLimit is the issue cycles per weight byte at which decode stops being bound
	// by memory: 4 sub-cores over the bytes per cycle that the device's memory gives an
	// SM (reference/cuda.md 6.2). 0: not computed.
	issueLimit float64
}

var arches = map[string]arch{
	"80":   {"A100", 64, 32, 164 << 10, 8, .30},
	"86":   {"RTX 3090", 48, 16, 100 << 10, 32, 0},
	"89":   {"L4", 48, 24, 100 << 10, 16, 0},
	"90a":  {"H100", 64, 32, 228 << 10, 4, .29},
	"100a": {"B200", 64, 32, 228 << 10, 0, 0},
	"120a": {"RTX 5090", 48, 24, 100 << 10, 32, 0},
}

// resident is how many blocks and warps fit a multiprocessor: registers come in units
// of 256 a warp, out of 65536.
func (a arch) resident(threads, regs, shared int) (blocks, warps int) {
	if a.warps == 0 || threads == 0 {
		return 0, 0
	}
	per := (threads + 31) / 32
	perWarp := (regs*32 + 255) / 256 * 256
	blocks = min(a.blocks, a.warps/per)
	if perWarp > 0 {
		blocks = min(blocks, 65536/perWarp/per)
	}
	if shared > 0 {
		blocks = min(blocks, a.shared/(shared+1024))
	}
	return blocks, blocks * per
}

// blockThreads is the block size a kernel is launched with.
func blockThreads(kernel string) int {
	for _, p := range []string{"add_rmsnorm", "add", "mul", "bias_act", "silu_gate", "embedding", "rmsnorm_f", "softmax", "argmax", "topk",
		"quantise", "round", "im2col"} {
		if strings.HasPrefix(kernel, p) {
			return 256
		}
	}
	switch {
	case strings.HasPrefix(kernel, "wgmma"):
		return 256
	case strings.HasPrefix(kernel, "rope"):
		return 32
	case strings.HasPrefix(kernel, "rmsnorm_heads"):
		return 64
	}
	return 128
}

var tileName = regexp.MustCompile(`^(spmm_nm24|gemm|spmm_bitmask)_(f16|bf16|int8|int4|e4m3)_n(\d+)$`)

// stages of the tile kernels (tile_gemm.cuh), by rows of x.
var stages = map[string]int{"128": 3, "64": 4, "32": 5, "16": 6}

// dynamicShared is the dynamic shared memory a kernel is launched with (notes in the
// kernels' heads); bitmap tiles are taken at 50 % density.
func dynamicShared(kernel string) int {
	switch kernel {
	case "cutlass_sparse_gemm_128x128x64":
		return 76800
	case "wgmma_nm24_f16":
		return 1024 + 4*25600
	case "attention_prefill_f16_hd64":
		return 40960
	case "attention_prefill_f16_hd128":
		return 81920
	}
	m := tileName.FindStringSubmatch(kernel)
	if m == nil {
		return 0
	}
	rows := map[string]int{"128": 128, "64": 64, "32": 32, "16": 16}[m[3]]
	turned := rows * 132 * 4
	if m[1] == "spmm_bitmask" {
		return max(16384+2*(rows*128+2*4672), turned)
	}
	f := tileForm(m)
	n := stages[m[3]]
	if !f.NM24 && f.Type != sparse.Int4 && rows <= 32 {
		n--
	}
	return max(n*(rows*128+2*f.Bytes()), turned)
}

func tileForm(m []string) tile.Form {
	t := map[string]sparse.DType{"f16": sparse.F16, "bf16": sparse.BF16, "int8": sparse.Int8, "int4": sparse.Int4, "e4m3": sparse.FP8}[m[2]]
	return tile.Form{NM24: m[1] == "spmm_nm24", Type: t}
}

// bytesRow compares what a packed weight occupies, padding included, with the ideal.
type bytesRow struct {
	Form   string  `json:"form"`
	Out    int     `json:"out"`
	In     int     `json:"in"`
	Moved  int     `json:"bytes_moved"` // whole 32-byte sectors of all tiles
	Ideal  float64 `json:"bytes_ideal"` // values, metadata, scales of the matrix alone
	Ratio  float64 `json:"ratio"`
	Weight float64 `json:"bytes_per_weight"`
}

// measureBytes covers every form at the shapes of two models.
func measureBytes() []bytesRow {
	var rows []bytesRow
	for _, f := range []tile.Form{{NM24: true, Type: sparse.F16}, {NM24: true, Type: sparse.Int8}, {NM24: true, Type: sparse.Int4},
		{Type: sparse.F16}, {Type: sparse.Int8}, {Type: sparse.Int4}} {
		for _, s := range [][2]int{{4096, 4096}, {14336, 4096}, {576, 576}, {192, 576}, {1536, 576}, {576, 1536}} {
			n := float64(s[0] * s[1])
			perWeight := f.Type.Bits() / 8
			if f.NM24 {
				perWeight = perWeight/2 + .125
			}
			if f.Type == sparse.Int4 {
				perWeight += 2. / 64 // f16 scales of groups of 64
			}
			r := bytesRow{Out: s[0], In: s[1], Moved: (f.Size(s[0], s[1]) + 31) / 32 * 32, Ideal: n * perWeight}
			r.Form = f.Type.String()
			if f.NM24 {
				r.Form = "nm24 " + r.Form
			} else {
				r.Form = "dense " + r.Form
			}
			r.Ratio, r.Weight = float64(r.Moved)/r.Ideal, float64(r.Moved)/n
			rows = append(rows, r)
		}
	}
	return rows
}
