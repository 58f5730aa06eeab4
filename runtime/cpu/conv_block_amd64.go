package cpu

//go:generate go run -C asm ./convblock -out ../conv_block_amd64.s -stubs ../conv_block_stubs_amd64.go -pkg cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/linalg"
)

// hasBlocks reports whether there are kernels for images in blocks.
func hasBlocks() bool { return linalg.ISA() == linalg.AVX512 }

// blockKernels are the kernels by halves of vectors of output channels and pixels.
var blockKernels = [9][]func(*byte){
	1: {nil, convBlock1x1AVX512, convBlock1x2AVX512, convBlock1x3AVX512, convBlock1x4AVX512, convBlock1x5AVX512, convBlock1x6AVX512,
		convBlock1x7AVX512, convBlock1x8AVX512, convBlock1x9AVX512, convBlock1x10AVX512, convBlock1x11AVX512, convBlock1x12AVX512,
		convBlock1x13AVX512, convBlock1x14AVX512, convBlock1x15AVX512, convBlock1x16AVX512},
	2: {nil, convBlock2x1AVX512, convBlock2x2AVX512, convBlock2x3AVX512, convBlock2x4AVX512, convBlock2x5AVX512, convBlock2x6AVX512,
		convBlock2x7AVX512, convBlock2x8AVX512, convBlock2x9AVX512, convBlock2x10AVX512, convBlock2x11AVX512, convBlock2x12AVX512,
		convBlock2x13AVX512, convBlock2x14AVX512, convBlock2x15AVX512, convBlock2x16AVX512},
	3: {nil, convBlock3x1AVX512, convBlock3x2AVX512, convBlock3x3AVX512, convBlock3x4AVX512, convBlock3x5AVX512, convBlock3x6AVX512,
		convBlock3x7AVX512, convBlock3x8AVX512, convBlock3x9AVX512, convBlock3x10AVX512, convBlock3x11AVX512, convBlock3x12AVX512},
	4: {nil, convBlock4x1AVX512, convBlock4x2AVX512, convBlock4x3AVX512, convBlock4x4AVX512, convBlock4x5AVX512, convBlock4x6AVX512,
		convBlock4x7AVX512, convBlock4x8AVX512, convBlock4x9AVX512, convBlock4x10AVX512, convBlock4x11AVX512, convBlock4x12AVX512},
	5: {nil, convBlock5x1AVX512, convBlock5x2AVX512, convBlock5x3AVX512, convBlock5x4AVX512, convBlock5x5AVX512, convBlock5x6AVX512,
		convBlock5x7AVX512, convBlock5x8AVX512},
	6: {nil, convBlock6x1AVX512, convBlock6x2AVX512, convBlock6x3AVX512, convBlock6x4AVX512, convBlock6x5AVX512, convBlock6x6AVX512,
		convBlock6x7AVX512, convBlock6x8AVX512},
	7: {nil, convBlock7x1AVX512, convBlock7x2AVX512, convBlock7x3AVX512, convBlock7x4AVX512, convBlock7x5AVX512, convBlock7x6AVX512},
	8: {nil, convBlock8x1AVX512, convBlock8x2AVX512, convBlock8x3AVX512, convBlock8x4AVX512, convBlock8x5AVX512, convBlock8x6AVX512},
}

func blockPixels(halves int) int { return len(blockKernels[halves]) - 1 }

func (a *blockArgs) block(halves, pixels int) {
	blockKernels[halves][pixels]((*byte)(unsafe.Pointer(a)))
}

func (a *blockArgs) winogradInFull()   { winogradInAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) winogradInHalf()   { winogradInHalfAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) winogradEdgeFull() { winogradEdgeAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) winogradEdgeHalf() { winogradEdgeHalfAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) winogradOutFull()  { winogradOutAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) winogradOutHalf()  { winogradOutHalfAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) max()              { blockMaxAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) mean()             { blockMeanAVX512((*byte)(unsafe.Pointer(a))) }
func (a *blockArgs) transpose()        { transpose16AVX512((*byte)(unsafe.Pointer(a))) }
