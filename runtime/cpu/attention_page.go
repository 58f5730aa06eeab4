package cpu

import "github.com/sparserun/sparserun/sparse"

//go:generate go run -C asm ./attention -out ../attention_amd64.s -stubs ../attention_stubs_amd64.go -pkg cpu

// mulPagePortable: c[i, j] (+)= sum_p a[i, p] * b[p, j], i < m, p < k, j < n: b is a
// block of the KV cache, [k, n] in f16 or f32.
func mulPagePortable[T uint16 | float32](c []float32, ldc int, a []float32, lda, m, k int, b []T, n int, add bool) {
	mulColumns(c, ldc, a, lda, m, k, b, n, 0, n, add)
}

// mulColumns is mulPagePortable of columns j0..j1-1.
func mulColumns[T uint16 | float32](c []float32, ldc int, a []float32, lda, m, k int, b []T, n, j0, j1 int, add bool) {
	for i := range m {
		row := c[i*ldc+j0 : i*ldc+j1]
		if !add {
			clear(row)
		}
		for p, x := range a[i*lda : i*lda+k] {
			for j, y := range b[p*n+j0 : p*n+j1] {
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
