package cpu

//go:generate go run -C asm ./convblock -out ../conv_block_amd64.s -stubs ../conv_block_stubs_amd64.go -pkg cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/linalg"
)

// hasBlocks reports whether there are kernels for images in blocks.
func hasBlocks() bool { return linalg.ISA() == linalg.AVX512 }

// blockKernels are the kernels by vectors of output channels and pixels.
var blockKernels = [5][]func(*byte){
	1: {nil, convBlock1x1AVX512, convBlock1x2AVX512, convBlock1x3AVX512, convBlock1x4AVX512, convBlock1x5AVX512, convBlock1x6AVX512,
		convBlock1x7AVX512, convBlock1x8AVX512, convBlock1x9AVX512, convBlock1x10AVX512, convBlock1x11AVX512, convBlock1x12AVX512,
		convBlock1x13AVX512, convBlock1x14AVX512, convBlock1x15AVX512, convBlock1x16AVX512},
	2: {nil, convBlock2x1AVX512, convBlock2x2AVX512, convBlock2x3AVX512, convBlock2x4AVX512, convBlock2x5AVX512, convBlock2x6AVX512,
		convBlock2x7AVX512, convBlock2x8AVX512, convBlock2x9AVX512, convBlock2x10AVX512, convBlock2x11AVX512, convBlock2x12AVX512},
	3: {nil, convBlock3x1AVX512, convBlock3x2AVX512, convBlock3x3AVX512, convBlock3x4AVX512, convBlock3x5AVX512, convBlock3x6AVX512,
		convBlock3x7AVX512, convBlock3x8AVX512},
	4: {nil, convBlock4x1AVX512, convBlock4x2AVX512, convBlock4x3AVX512, convBlock4x4AVX512, convBlock4x5AVX512, convBlock4x6AVX512},
}

func blockPixels(vecs int) int { return len(blockKernels[vecs]) - 1 }

func (a *blockArgs) block(vecs, pixels int) { blockKernels[vecs][pixels]((*byte)(unsafe.Pointer(a))) }

func (a *blockArgs) winogradIn()  { winogradInAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) winogradOut() { winogradOutAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) max()         { blockMaxAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) mean()        { blockMeanAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) transpose()   { transpose16AVX512((*byte)(unsafe.Pointer(a))) }
