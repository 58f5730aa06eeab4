package cpu

import "github.com/sparserun/sparserun/linalg"

// checkPage touches the last number of every operand, so that the kernels stay
// inside their slices.
func checkPage[T uint16 | float32](c []float32, ldc int, a []float32, lda, m, k int, b []T, n int) {
	_, _, _ = c[(m-1)*ldc+n-1], a[(m-1)*lda+k-1], b[k*n-1]
}

func addFlag(add bool) int {
	if add {
		return 1
	}
	return 0
}

// mulPageF16 is mulPagePortable with the kernels of this machine; next is the
// block that will be wanted after b, nil if unknown.
func mulPageF16(c []float32, ldc int, a []float32, lda, m, k int, b []uint16, n int, add bool, next []uint16) {
	isa := linalg.ISA()
	if isa == linalg.Portable || m == 0 || k == 0 || n == 0 {
		mulPagePortable(c, ldc, a, lda, m, k, b, n, add)
		return
	}
	checkPage(c, ldc, a, lda, m, k, b, n)
	if len(next) < k*n {
		next = b
	}
	flag := addFlag(add)
	if isa == linalg.AVX512 {
		for j := 0; j < n; j += 32 {
			cols := min(32, n-j)
			for i := 0; i < m; {
				pa, pb, pc, pn := &a[i*lda], &b[j], &c[i*ldc+j], &next[j]
				switch r := m - i; {
				case r >= 12:
					pageF16AVX512x12(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 12
				case r >= 8:
					pageF16AVX512x8(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 8
				case r >= 6:
					pageF16AVX512x6(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 6
				case r >= 4:
					pageF16AVX512x4(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 4
				case r >= 3:
					pageF16AVX512x3(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 3
				case r >= 2:
					pageF16AVX512x2(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 2
				default:
					pageF16AVX512x1(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 1
				}
			}
		}
		return
	}
	j := 0
	for ; j+16 <= n; j += 16 {
		for i := 0; i < m; {
			pa, pb, pc, pn := &a[i*lda], &b[j], &c[i*ldc+j], &next[j]
			switch r := m - i; {
			case r >= 6:
				pageF16AVX2x6x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 6
			case r >= 4:
				pageF16AVX2x4x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 4
			case r >= 3:
				pageF16AVX2x3x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 3
			case r >= 2:
				pageF16AVX2x2x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 2
			default:
				pageF16AVX2x1x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 1
			}
		}
	}
	if j+8 <= n {
		for i := 0; i < m; {
			pa, pb, pc, pn := &a[i*lda], &b[j], &c[i*ldc+j], &next[j]
			switch r := m - i; {
			case r >= 6:
				pageF16AVX2x6x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 6
			case r >= 4:
				pageF16AVX2x4x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 4
			case r >= 3:
				pageF16AVX2x3x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 3
			case r >= 2:
				pageF16AVX2x2x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 2
			default:
				pageF16AVX2x1x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 1
			}
		}
		j += 8
	}
	if j < n {
		mulColumns(c, ldc, a, lda, m, k, b, n, j, n, add)
	}
}

// mulPageF32 is mulPagePortable with the kernels of this machine; next is the
// block that will be wanted after b, nil if unknown.
func mulPageF32(c []float32, ldc int, a []float32, lda, m, k int, b []float32, n int, add bool, next []float32) {
	isa := linalg.ISA()
	if isa == linalg.Portable || m == 0 || k == 0 || n == 0 {
		mulPagePortable(c, ldc, a, lda, m, k, b, n, add)
		return
	}
	checkPage(c, ldc, a, lda, m, k, b, n)
	if len(next) < k*n {
		next = b
	}
	flag := addFlag(add)
	if isa == linalg.AVX512 {
		for j := 0; j < n; j += 32 {
			cols := min(32, n-j)
			for i := 0; i < m; {
				pa, pb, pc, pn := &a[i*lda], &b[j], &c[i*ldc+j], &next[j]
				switch r := m - i; {
				case r >= 12:
					pageF32AVX512x12(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 12
				case r >= 8:
					pageF32AVX512x8(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 8
				case r >= 6:
					pageF32AVX512x6(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 6
				case r >= 4:
					pageF32AVX512x4(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 4
				case r >= 3:
					pageF32AVX512x3(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 3
				case r >= 2:
					pageF32AVX512x2(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 2
				default:
					pageF32AVX512x1(k, pa, lda, pb, n, pc, ldc, cols, flag, pn)
					i += 1
				}
			}
		}
		return
	}
	j := 0
	for ; j+16 <= n; j += 16 {
		for i := 0; i < m; {
			pa, pb, pc, pn := &a[i*lda], &b[j], &c[i*ldc+j], &next[j]
			switch r := m - i; {
			case r >= 6:
				pageF32AVX2x6x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 6
			case r >= 4:
				pageF32AVX2x4x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 4
			case r >= 3:
				pageF32AVX2x3x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 3
			case r >= 2:
				pageF32AVX2x2x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 2
			default:
				pageF32AVX2x1x16(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 1
			}
		}
	}
	if j+8 <= n {
		for i := 0; i < m; {
			pa, pb, pc, pn := &a[i*lda], &b[j], &c[i*ldc+j], &next[j]
			switch r := m - i; {
			case r >= 6:
				pageF32AVX2x6x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 6
			case r >= 4:
				pageF32AVX2x4x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 4
			case r >= 3:
				pageF32AVX2x3x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 3
			case r >= 2:
				pageF32AVX2x2x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 2
			default:
				pageF32AVX2x1x8(k, pa, lda, pb, n, pc, ldc, flag, pn)
				i += 1
			}
		}
		j += 8
	}
	if j < n {
		mulColumns(c, ldc, a, lda, m, k, b, n, j, n, add)
	}
}

// rope is ropePortable with the kernels of this machine.
func rope(dst, x, cs []float32) {
	half, done := len(x)/2, 0
	_, _ = dst[2*half-1], cs[2*half-1]
	switch isa := linalg.ISA(); {
	case isa == linalg.AVX512 && half >= 16:
		done = half &^ 15
		ropeAVX512(done/16, &dst[0], &x[0], half, &cs[0])
	case isa != linalg.Portable && half >= 8:
		done = half &^ 7
		ropeAVX2(done/8, &dst[0], &x[0], half, &cs[0])
	}
	ropePairs(dst, x, cs, done)
}
