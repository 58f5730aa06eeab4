package cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/sparse"
)

// csrHas reports whether there are kernels for weights of type t.
func csrHas(t sparse.DType) bool {
	switch t {
	case sparse.F32, sparse.F16, sparse.BF16, sparse.Int8:
		return true
	}
	return false
}

// csrShape says whether AVX-512 runs, and the rows of a block.
func csrShape() (wide bool, block int) {
	if linalg.ISA() == linalg.AVX512 {
		return true, 32
	}
	return false, 8
}

func csrOut(out *float32, ld int, tile *float32, ldt int, rs *float32) {
	csrOutAVX2(out, uintptr(4*ld), tile, uintptr(4*ldt), rs)
}

// transposeRows writes 8 rows of src as columns of dst; n is a multiple of 8.
func transposeRows(dst []float32, ldd int, src []float32, lds, n int) {
	if n > 0 {
		transposeAVX2(&dst[0], uintptr(4*ldd), &src[0], uintptr(4*lds), n/8)
	}
}

// run calls the kernel for w tokens.
func (m *csrTiled) run(args *csrArgs, w int) {
	a := (*byte)(unsafe.Pointer(args))
	switch {
	case !m.wide && m.typ == sparse.F32:
		csrF32AVX2x1(a)
	case !m.wide && m.typ == sparse.F16:
		csrF16AVX2x1(a)
	case !m.wide && m.typ == sparse.BF16:
		csrBF16AVX2x1(a)
	case !m.wide:
		csrInt8AVX2x1(a)
	case m.typ == sparse.F32 && w == 1:
		csrF32AVX512x1(a)
	case m.typ == sparse.F32 && w == 2:
		csrF32AVX512x2(a)
	case m.typ == sparse.F32:
		csrF32AVX512x4(a)
	case m.typ == sparse.F16 && w == 1:
		csrF16AVX512x1(a)
	case m.typ == sparse.F16 && w == 2:
		csrF16AVX512x2(a)
	case m.typ == sparse.F16:
		csrF16AVX512x4(a)
	case m.typ == sparse.BF16 && w == 1:
		csrBF16AVX512x1(a)
	case m.typ == sparse.BF16 && w == 2:
		csrBF16AVX512x2(a)
	case m.typ == sparse.BF16:
		csrBF16AVX512x4(a)
	case w == 1:
		csrInt8AVX512x1(a)
	case w == 2:
		csrInt8AVX512x2(a)
	default:
		csrInt8AVX512x4(a)
	}
}

// runBatch calls the kernel for a tile of vecs vectors of tokens.
func (m *csrTiled) runBatch(args *csrArgs, vecs int) {
	a := (*byte)(unsafe.Pointer(args))
	key := int(m.typ)<<4 | vecs<<1
	if m.wide {
		key |= 1
	}
	switch key {
	case int(sparse.F32)<<4 | 1<<1:
		csrBatchF32AVX2x1(a)
	case int(sparse.F32)<<4 | 1<<1 | 1:
		csrBatchF32AVX512x1(a)
	case int(sparse.F32)<<4 | 2<<1:
		csrBatchF32AVX2x2(a)
	case int(sparse.F32)<<4 | 2<<1 | 1:
		csrBatchF32AVX512x2(a)
	case int(sparse.F32)<<4 | 3<<1:
		csrBatchF32AVX2x3(a)
	case int(sparse.F32)<<4 | 4<<1:
		csrBatchF32AVX2x4(a)
	case int(sparse.F16)<<4 | 1<<1:
		csrBatchF16AVX2x1(a)
	case int(sparse.F16)<<4 | 1<<1 | 1:
		csrBatchF16AVX512x1(a)
	case int(sparse.F16)<<4 | 2<<1:
		csrBatchF16AVX2x2(a)
	case int(sparse.F16)<<4 | 2<<1 | 1:
		csrBatchF16AVX512x2(a)
	case int(sparse.F16)<<4 | 3<<1:
		csrBatchF16AVX2x3(a)
	case int(sparse.F16)<<4 | 4<<1:
		csrBatchF16AVX2x4(a)
	case int(sparse.BF16)<<4 | 1<<1:
		csrBatchBF16AVX2x1(a)
	case int(sparse.BF16)<<4 | 1<<1 | 1:
		csrBatchBF16AVX512x1(a)
	case int(sparse.BF16)<<4 | 2<<1:
		csrBatchBF16AVX2x2(a)
	case int(sparse.BF16)<<4 | 2<<1 | 1:
		csrBatchBF16AVX512x2(a)
	case int(sparse.BF16)<<4 | 3<<1:
		csrBatchBF16AVX2x3(a)
	case int(sparse.BF16)<<4 | 4<<1:
		csrBatchBF16AVX2x4(a)
	case int(sparse.Int8)<<4 | 1<<1:
		csrBatchInt8AVX2x1(a)
	case int(sparse.Int8)<<4 | 1<<1 | 1:
		csrBatchInt8AVX512x1(a)
	case int(sparse.Int8)<<4 | 2<<1:
		csrBatchInt8AVX2x2(a)
	case int(sparse.Int8)<<4 | 2<<1 | 1:
		csrBatchInt8AVX512x2(a)
	case int(sparse.Int8)<<4 | 3<<1:
		csrBatchInt8AVX2x3(a)
	case int(sparse.Int8)<<4 | 4<<1:
		csrBatchInt8AVX2x4(a)
	case int(sparse.F32)<<4 | 3<<1 | 1:
		csrBatchF32AVX512x3(a)
	case int(sparse.F32)<<4 | 4<<1 | 1:
		csrBatchF32AVX512x4(a)
	case int(sparse.F16)<<4 | 3<<1 | 1:
		csrBatchF16AVX512x3(a)
	case int(sparse.F16)<<4 | 4<<1 | 1:
		csrBatchF16AVX512x4(a)
	case int(sparse.BF16)<<4 | 3<<1 | 1:
		csrBatchBF16AVX512x3(a)
	case int(sparse.BF16)<<4 | 4<<1 | 1:
		csrBatchBF16AVX512x4(a)
	case int(sparse.Int8)<<4 | 3<<1 | 1:
		csrBatchInt8AVX512x3(a)
	case int(sparse.Int8)<<4 | 4<<1 | 1:
		csrBatchInt8AVX512x4(a)
	}
}

// runList calls the kernel of lists for a tile of vecs vectors of tokens.
func runList(args *csrArgs, vecs int) {
	a := (*byte)(unsafe.Pointer(args))
	switch vecs {
	case 1:
		csrListAVX512x1(a)
	case 2:
		csrListAVX512x2(a)
	case 3:
		csrListAVX512x3(a)
	case 4:
		csrListAVX512x4(a)
	}
}
