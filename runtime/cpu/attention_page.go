package cpu

import "github.com/sparserun/sparserun/sparse"

// mulPage: c[i, j] (+)= sum_p a[i, p] * b[p, j], i < m, p < k, j < n: b is a block
// of the KV cache, [k, n] in f16 or f32.
func mulPage[T uint16 | float32](c []float32, ldc int, a []float32, lda, m, k int, b []T, n int, add bool) {
	mulPagePortable(c, ldc, a, lda, m, k, b, n, add)
}

func mulPagePortable[T uint16 | float32](c []float32, ldc int, a []float32, lda, m, k int, b []T, n int, add bool) {
	for i := range m {
		row := c[i*ldc : i*ldc+n]
		if !add {
			clear(row)
		}
		for p, x := range a[i*lda : i*lda+k] {
			for j, y := range b[p*n : (p+1)*n] {
				row[j] += x * widen(y)
			}
		}
	}
}

func widen[T uint16 | float32](x T) float32 {
	switch x := any(x).(type) {
	case uint16:
		return sparse.F16ToF32(x)
	case float32:
		return x
	}
	return 0
}
