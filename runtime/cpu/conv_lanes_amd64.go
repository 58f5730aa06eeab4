package cpu

//go:generate go run -C asm ./conv -out ../conv_lanes_amd64.s -stubs ../conv_lanes_stubs_amd64.go -pkg cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/linalg"
)

// laneShape is the rows of a block of dense weights and the positions that the
// dense and the sparse kernel compute at once; 0 where there are none.
func laneShape() (rows, dense, sparse int) {
	switch linalg.ISA() {
	case linalg.AVX512:
		return 8, 48, 128
	case linalg.AVX2:
		return 4, 24, 64
	}
	return 0, 0, 0
}

// dense computes the given number of vectors of positions, at most 3.
func (a *convArgs) dense(vecs int) {
	p := (*byte)(unsafe.Pointer(a))
	if linalg.ISA() == linalg.AVX512 {
		switch vecs {
		case 1:
			convDense1AVX512(p)
		case 2:
			convDense2AVX512(p)
		default:
			convDense3AVX512(p)
		}
		return
	}
	switch vecs {
	case 1:
		convDense1AVX2(p)
	case 2:
		convDense2AVX2(p)
	default:
		convDense3AVX2(p)
	}
}

// sparseKernels are those for 1 to 8 vectors of positions, wide and narrow.
var sparseKernels = [2][9]func(*byte){
	{nil, convSparse1AVX512, convSparse2AVX512, convSparse3AVX512, convSparse4AVX512, convSparse5AVX512, convSparse6AVX512, convSparse7AVX512, convSparse8AVX512},
	{nil, convSparse1AVX2, convSparse2AVX2, convSparse3AVX2, convSparse4AVX2, convSparse5AVX2, convSparse6AVX2, convSparse7AVX2, convSparse8AVX2},
}

// sparse computes the given number of vectors of positions, at most 8.
func (a *convArgs) sparse(vecs int) {
	k := &sparseKernels[0]
	if linalg.ISA() != linalg.AVX512 {
		k = &sparseKernels[1]
	}
	k[vecs]((*byte)(unsafe.Pointer(a)))
}
