//go:build !amd64

package cpu

func mulPageF16(c []float32, ldc int, a []float32, lda, m, k int, b []uint16, n int, add bool, _ []uint16) {
	mulPagePortable(c, ldc, a, lda, m, k, b, n, add)
}

func mulPageF32(c []float32, ldc int, a []float32, lda, m, k int, b []float32, n int, add bool, _ []float32) {
	mulPagePortable(c, ldc, a, lda, m, k, b, n, add)
}

func rope(dst, x, cs []float32) { ropePairs(dst, x, cs, 0) }
