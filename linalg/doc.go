// Package linalg has the float matrix and row kernels that the CPU backend, pruning
// and training share.
//
// Matrices are row-major slices with a row stride in elements. Every function
// takes the Pool it may use (nil: the calling goroutine only), and its result is the
// same, bit for bit, with any pool: work is split over outputs, never over a sum.
// Kernels are chosen at run time: AVX-512, AVX2 or portable Go, see ISA. The
// portable kernels are the reference.
//
// Shapes are the caller's to get right: slices that are too short panic like any
// slice does; only what data can cause (a matrix that is not positive definite)
// is an error.
package linalg

import "errors"

// Errors of this package; every error wraps one of them.
var (
	ErrISA         = errors.New("instruction set not available")
	ErrNotPositive = errors.New("matrix is not positive definite")
)

//go:generate sh -c "cd asm && go run ./gemm -out ../gemm_amd64.s -stubs ../gemm_stubs_amd64.go -pkg linalg && go run ./rows -out ../rows_amd64.s -stubs ../rows_stubs_amd64.go -pkg linalg"
