package cpu

import (
	"unsafe"

	"golang.org/x/sys/cpu"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/sparse"
)

// hasVNNI reports whether int8 kernels run with AVX-512; without VNNI the AVX2
// ones are used.
func hasVNNI() bool {
	return linalg.ISA() == linalg.AVX512 && cpu.X86.HasAVX512VNNI
}

// hasVBMI2 reports whether bytes and words can be expanded; a variable for tests.
var hasVBMI2 = func() bool { return cpu.X86.HasAVX512VBMI2 }

// hasVBMI reports whether bytes can be permuted across a vector and through matrices
// of bits; a variable for tests.
var hasVBMI = func() bool { return cpu.X86.HasAVX512VBMI && cpu.X86.HasAVX512GFNI }

// wide reports whether kernels of weight type t run with AVX-512.
func wide(t sparse.DType) bool {
	if t.Quantised() {
		return hasVNNI()
	}
	return linalg.ISA() == linalg.AVX512
}

// tileKernels are the kernels of each key: AVX2, AVX-512.
var tileKernels = map[tileKey][2]tileKernel{
	{sparse.LayoutDense, sparse.F32, 0}:   {gemvF32AVX2, gemvF32AVX512},
	{sparse.LayoutDense, sparse.F16, 0}:   {gemvF16AVX2, gemvF16AVX512},
	{sparse.LayoutDense, sparse.BF16, 0}:  {gemvBF16AVX2, gemvBF16AVX512},
	{sparse.LayoutDense, sparse.Int8, 0}:  {gemvInt8AVX2, gemvInt8AVX512},
	{sparse.LayoutDense, sparse.Int8, 64}: {gemvInt8GroupAVX2, gemvInt8GroupAVX512},
	{sparse.LayoutDense, sparse.Int8, 32}: {gemvInt8Group32AVX2, gemvInt8Group32AVX512},
	{sparse.LayoutDense, sparse.Int4, 64}: {gemvInt4AVX2, gemvInt4AVX512},
	{sparse.LayoutDense, sparse.Int4, 32}: {gemvInt4Group32AVX2, gemvInt4Group32AVX512},
	{sparse.LayoutNM24, sparse.F32, 0}:    {spmmNM24F32AVX2, spmmNM24F32AVX512},
	{sparse.LayoutNM24, sparse.F16, 0}:    {spmmNM24F16AVX2, spmmNM24F16AVX512},
	{sparse.LayoutNM24, sparse.BF16, 0}:   {spmmNM24BF16AVX2, spmmNM24BF16AVX512},
	{sparse.LayoutNM24, sparse.Int8, 0}:   {spmmNM24Int8AVX2, spmmNM24Int8AVX512},
	{sparse.LayoutNM24, sparse.Int8, 64}:  {spmmNM24Int8GroupAVX2, spmmNM24Int8GroupAVX512},
	{sparse.LayoutNM24, sparse.Int8, 32}:  {spmmNM24Int8Group32AVX2, spmmNM24Int8Group32AVX512},
	{sparse.LayoutNM24, sparse.Int4, 64}:  {spmmNM24Int4AVX2, spmmNM24Int4AVX512},
	{sparse.LayoutNM24, sparse.Int4, 32}:  {spmmNM24Int4Group32AVX2, spmmNM24Int4Group32AVX512},

	{sparse.LayoutBitmask, sparse.F32, 0}:   {0, bitmaskF32AVX512},
	{sparse.LayoutBitmask, sparse.F16, 0}:   {0, bitmaskF16AVX512},
	{sparse.LayoutBitmask, sparse.BF16, 0}:  {0, bitmaskBF16VBMI2},
	{sparse.LayoutBitmask, sparse.Int8, 0}:  {0, bitmaskInt8AVX512},
	{sparse.LayoutBitmask, sparse.Int8, 64}: {0, bitmaskInt8GroupAVX512},
	{sparse.LayoutBitmask, sparse.Int8, 32}: {0, bitmaskInt8Group32AVX512},
	// Codes of int4 take a byte each: what is kept is less than half.
	{sparse.LayoutBitmask, sparse.Int4, 64}: {0, bitmaskInt8GroupAVX512},
	{sparse.LayoutBitmask, sparse.Int4, 32}: {0, bitmaskInt8Group32AVX512},
}

// tileFor is the kernel of a key on this machine, 0 if it has none, and its rows
// per block.
func tileFor(k tileKey) (tileKernel, int) {
	if wide(k.weight) {
		switch {
		case k.layout == sparse.LayoutNM24 && k.weight == sparse.Int4 && hasVBMI():
			return map[int]tileKernel{64: spmmNM24Int4VBMI, 32: spmmNM24Int4Group32VBMI}[k.group], 32
		case k.layout != sparse.LayoutBitmask:
		case k.weight == sparse.F16 && hasVBMI2():
			return bitmaskF16VBMI2, 32
		case k.weight != sparse.F32 && k.weight != sparse.F16 && !hasVBMI2():
			return 0, 0
		}
		return tileKernels[k][1], 32
	}
	return tileKernels[k][0], 16
}

// zeroKernel is the kernel of dense int4 with zero points, a scale for every group
// columns.
func zeroKernel(group int) tileKernel {
	k := [2]tileKernel{gemvInt4ZeroAVX2, gemvInt4ZeroAVX512}
	if group == 32 {
		k = [2]tileKernel{gemvInt4Group32ZeroAVX2, gemvInt4Group32ZeroAVX512}
	}
	if wide(sparse.Int4) {
		return k[1]
	}
	return k[0]
}

// wideKernel is the float32 kernel for batches of the dense weight that k is for, 0
// if there is none.
func wideKernel(k tileKernel) tileKernel {
	switch k {
	case gemvF32AVX2, gemvF16AVX2, gemvBF16AVX2:
		return gemvF32AVX2
	case gemvF32AVX512, gemvF16AVX512, gemvBF16AVX512:
		return gemvF32AVX512
	}
	return 0
}

// unpackTile writes chunks of kernel k's form as float32.
func unpackTile(k tileKernel, dst *float32, src unsafe.Pointer, chunks int) {
	w := (*byte)(src)
	switch k {
	case gemvF16AVX2:
		unpackF16AVX2(dst, w, chunks)
	case gemvBF16AVX2:
		unpackBF16AVX2(dst, w, chunks)
	case gemvF16AVX512:
		unpackF16AVX512(dst, w, chunks)
	case gemvBF16AVX512:
		unpackBF16AVX512(dst, w, chunks)
	}
}

func (q *quantArgs) run() { quantUnits((*byte)(unsafe.Pointer(q))) }

// halfRow rounds x to half precision; len(x) is a multiple of 8.
func halfRow(dst []uint16, x []float32) {
	if len(x) > 0 {
		halfRowAVX2(&dst[:len(x)][0], &x[0], len(x))
	}
}

// absMax is the largest magnitude; len(x) is a multiple of 8.
func absMax(x []float32) float32 {
	if len(x) == 0 {
		return 0
	}
	return absMaxAVX2(&x[0], len(x))
}

// quantCodes rounds x*inv to nearest even; len(x) is a multiple of 16.
func quantCodes(dst []int8, x []float32, inv float32) {
	if len(x) > 0 {
		quantCodesAVX2(&dst[:len(x)][0], &x[0], len(x), inv)
	}
}
