package ptxsim

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

// kernelsPTX is what `make cuda-ptx` built, if it did.
func kernelsPTX(tb testing.TB) string {
	tb.Helper()
	b, err := os.ReadFile("../build/kernels_80.ptx")
	if err != nil {
		tb.Skip("no cuda/build/kernels_80.ptx: make cuda-ptx builds it")
	}
	return string(b)
}

func BenchmarkLoadAllKernels(b *testing.B) {
	src := kernelsPTX(b)
	b.SetBytes(int64(len(src)))
	for i := 0; b.Loop(); i++ { // a new text each time: known ones are recalled
		_, err := NewDevice(Config{}).Load(src + fmt.Sprintf("// %d\n", i))
		require.NoError(b, err)
	}
}

// benchKernel launches name with every buffer filled with 0x44: a small float
// and the legal metadata of columns 0 and 1.
func benchKernel(b *testing.B, name string, grid, block Dim3, shared int, sizes []int64, rest ...any) {
	src, err := Extract(kernelsPTX(b), name)
	if err != nil {
		b.Skip(err)
	}
	d := NewDevice(Config{})
	m, err := d.Load(src)
	require.NoError(b, err)
	k, err := m.Kernel(name)
	require.NoError(b, err)
	require.NoError(b, k.SetMaxDynamicShared(shared))
	var args []any
	for _, n := range sizes {
		if n == 0 {
			args = append(args, Ptr(0))
			continue
		}
		p, err := d.Alloc(n)
		require.NoError(b, err)
		require.NoError(b, d.Memset8(p, 0x44, int(n)))
		args = append(args, p)
	}
	args = append(args, rest...)
	for b.Loop() {
		require.NoError(b, d.Launch(k, grid, block, shared, args...))
	}
}

// 128x128x256: y, x, w, ws, tokscale, scale, bias, res, rows, out, in, ldy, ldx, ldr, act.
func BenchmarkSpmmNM24(b *testing.B) {
	benchKernel(b, "spmm_nm24_f16_n128", Dim3{X: 1}, Dim3{X: 128}, 76800,
		[]int64{128 * 128 * 2, 128 * 256 * 2, 2 * 4 * 4608, 0, 0, 0, 0, 0}, 128, 128, 256, 128, 256, 0, 0)
}

func BenchmarkGemmF16(b *testing.B) {
	benchKernel(b, "gemm_f16_n128", Dim3{X: 1}, Dim3{X: 128}, 98304,
		[]int64{128 * 128 * 2, 128 * 256 * 2, 2 * 4 * 8192, 0, 0, 0, 0, 0}, 128, 128, 256, 128, 256, 0, 0)
}

// One decode step's matrix of stories260K's size and of SmolLM2's: y, x, w, meta, gscale, scale, bias, res,
// rows, out, in, ldy, ldx, ldv, ldm, lds, gshift, ldr, act.
func BenchmarkGemvNM24Small(b *testing.B) {
	benchKernel(b, "gemv_nm24_f16_f16_b1", Dim3{X: 172/8 + 1}, Dim3{X: 128}, 0,
		[]int64{172 * 2, 64 * 2, 172 * 32 * 2, 172 * 4 * 2, 0, 0, 0, 0}, 1, 172, 64, 172, 64, 32, 4, 0, 0, 0, 0)
}

func BenchmarkGemvNM24(b *testing.B) {
	benchKernel(b, "gemv_nm24_f16_f16_b1", Dim3{X: 72}, Dim3{X: 128}, 0,
		[]int64{576 * 2, 576 * 2, 576 * 288 * 2, 576 * 36 * 2, 0, 0, 0, 0}, 1, 576, 576, 576, 576, 288, 36, 0, 0, 0, 0)
}
