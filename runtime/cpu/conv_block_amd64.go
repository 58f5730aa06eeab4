package cpu

//go:generate go run -C asm ./convblock -out ../conv_block_amd64.s -stubs ../conv_block_stubs_amd64.go -pkg cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/linalg"
)

// blockKernels are the kernels of an instruction set for images in blocks.
type blockKernels struct {
	wide bool             // AVX-512
	conv [9][]func(*byte) // by halves of vectors of output channels, and pixels
	// Winograd's transforms: AVX-512 of count blocks and of half a block, AVX2 of half a
	// block alone.
	in, inHalf, edge, edgeHalf, out, outHalf func(*byte)
	most, average                            func(*byte)
}

var blocksAVX512 = &blockKernels{
	wide: true,
	conv: [9][]func(*byte){
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
	},
	in: winogradInAVX512, inHalf: winogradInHalfAVX512, edge: winogradEdgeAVX512, edgeHalf: winogradEdgeHalfAVX512,
	out: winogradOutAVX512, outHalf: winogradOutHalfAVX512, most: blockMaxAVX512, average: blockMeanAVX512,
}

var blocksAVX2 = &blockKernels{
	conv: [9][]func(*byte){
		1: {nil, convBlock1x1AVX2, convBlock1x2AVX2, convBlock1x3AVX2, convBlock1x4AVX2, convBlock1x5AVX2, convBlock1x6AVX2,
			convBlock1x7AVX2, convBlock1x8AVX2, convBlock1x9AVX2, convBlock1x10AVX2, convBlock1x11AVX2, convBlock1x12AVX2},
		2: {nil, convBlock2x1AVX2, convBlock2x2AVX2, convBlock2x3AVX2, convBlock2x4AVX2, convBlock2x5AVX2, convBlock2x6AVX2},
	},
	inHalf: winogradInAVX2, edgeHalf: winogradEdgeAVX2, outHalf: winogradOutAVX2, most: blockMaxAVX2, average: blockMeanAVX2,
}

// blocks are the kernels in use, nil if there are none.
func blocks() *blockKernels {
	switch linalg.ISA() {
	case linalg.AVX512:
		return blocksAVX512
	case linalg.AVX2:
		return blocksAVX2
	}
	return nil
}

// groupBlocks is how many blocks of output channels a kernel takes at most.
func (k *blockKernels) groupBlocks() int {
	if k.wide {
		return 4
	}
	return 1
}

// pixels is how many pixels it takes at most.
func (k *blockKernels) pixels(halves int) int { return len(k.conv[halves]) - 1 }

func (k *blockKernels) block(a *blockArgs, halves, pixels int) {
	k.conv[halves][pixels]((*byte)(unsafe.Pointer(a)))
}

func (k *blockKernels) max(a *blockArgs)  { k.most((*byte)(unsafe.Pointer(a))) }
func (k *blockKernels) mean(a *blockArgs) { k.average((*byte)(unsafe.Pointer(a))) }

// winogradIn transforms one tile's input of so many halves of vectors of channels, at
// the image's edge if there are masks.
func (k *blockKernels) winogradIn(a *blockArgs, halves int) {
	full, half := k.in, k.inHalf
	if a.w != nil {
		full, half = k.edge, k.edgeHalf
	}
	p, h := (*byte)(unsafe.Pointer(a)), 0
	if n := halves / 2; k.wide && n > 0 {
		a.count = n
		full(p)
		h = 2 * n
	}
	src, dst := a.src, a.dst
	for a.count = 1; h < halves; h++ {
		a.src, a.dst = unsafe.Add(src, h/2*a.vec+h%2*4*halfLanes), unsafe.Add(dst, h*4*halfLanes)
		half(p)
	}
}

// winogradOut transforms one tile's products.
func (k *blockKernels) winogradOut(a *blockArgs, halves int) {
	p, h := (*byte)(unsafe.Pointer(a)), 0
	if n := halves / 2; k.wide && n > 0 {
		a.count = n
		k.out(p)
		h = 2 * n
	}
	src, dst, bias, res := a.src, a.dst, a.bias, a.res
	for a.count = 1; h < halves; h++ {
		a.src, a.bias, a.dst = unsafe.Add(src, h*4*halfLanes), unsafe.Add(bias, h*4*halfLanes), unsafe.Add(dst, h/2*a.vec+h%2*4*halfLanes)
		if res != nil {
			a.res = unsafe.Add(res, h/2*a.vec+h%2*4*halfLanes)
		}
		k.outHalf(p)
	}
}

// transpose turns squares*16 pixels of a block, [pixels][16], to rows ld apart, or back.
func (k *blockKernels) transpose(a *blockArgs, rows []float32, ld int, block []float32, squares int, in bool) {
	n := squares * blockLanes
	switch {
	case k.wide:
	case in:
		for h := 0; h < blockLanes; h += halfLanes {
			transposeRows(block[h:], blockLanes, rows[h*ld:], ld, n)
		}
		return
	default:
		for i := 0; i < n; i += 8 {
			transposeRows(rows[i:], ld, block[i*blockLanes:], blockLanes, blockLanes)
		}
		return
	}
	const line, square = 4 * blockLanes, 4 * blockLanes * blockLanes
	if in {
		*a = blockArgs{src: unsafe.Pointer(&rows[0]), step: 4 * ld, srcStride: line, dst: unsafe.Pointer(&block[0]), pix: line, vec: square, count: squares}
	} else {
		*a = blockArgs{src: unsafe.Pointer(&block[0]), step: line, srcStride: square, dst: unsafe.Pointer(&rows[0]), pix: 4 * ld, vec: line, count: squares}
	}
	transpose16AVX512((*byte)(unsafe.Pointer(a)))
	*a = blockArgs{}
}
