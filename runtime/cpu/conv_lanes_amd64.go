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

func (a *convArgs) dense() {
	if linalg.ISA() == linalg.AVX512 {
		convDenseAVX512((*byte)(unsafe.Pointer(a)))
		return
	}
	convDenseAVX2((*byte)(unsafe.Pointer(a)))
}

func (a *convArgs) sparse() {
	if linalg.ISA() == linalg.AVX512 {
		convSparseAVX512((*byte)(unsafe.Pointer(a)))
		return
	}
	convSparseAVX2((*byte)(unsafe.Pointer(a)))
}
