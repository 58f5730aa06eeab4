package linalg

// tileSize is the micro-tile of a family for a product of n columns: rows and columns of
// a panel, one to three vectors. Narrow products take the width that wastes least.
func tileSize[T Float](s InstructionSet, n int) (mr, nr int) {
	if s == Portable {
		return portableRows, portableCols
	}
	mr, vector := 4, 8
	if s == AVX512 {
		mr, vector = 8, 16
	}
	var z T
	if _, double := any(z).(float64); double {
		vector /= 2
	}
	nr = 3 * vector
	if n <= 4*nr {
		for v := 2; v >= 1; v-- {
			if w := v * vector; (n+w-1)/w*w < (n+nr-1)/nr*nr {
				nr = w
			}
		}
	}
	return mr, nr
}

type (
	kernel32 = func(mr, k int, a *float32, ars, acs int, b *float32, bs int, c *float32, ldc int, alpha float32, accumulate int)
	kernel64 = func(mr, k int, a *float64, ars, acs int, b *float64, bs int, c *float64, ldc int, alpha float64, accumulate int)
)

// Micro-kernels by vectors of a panel, less one.
var (
	kernels32 = [...][3]kernel32{AVX2: {gemmF32AVX2x1, gemmF32AVX2x2, gemmF32AVX2x3}, AVX512: {gemmF32AVX512x1, gemmF32AVX512x2, gemmF32AVX512x3}}
	kernels64 = [...][3]kernel64{AVX2: {gemmF64AVX2x1, gemmF64AVX2x2, gemmF64AVX2x3}, AVX512: {gemmF64AVX512x1, gemmF64AVX512x2, gemmF64AVX512x3}}
)

// tile runs the micro-kernel of a family on all nr columns of a panel and mr rows, at most
// those of tileSize.
func tile[T Float](s InstructionSet, mr, nr, k int, a []T, ars, acs int, b []T, bs int, c []T, ldc int, alpha T, accumulate bool) {
	if s == Portable {
		tilePortable(mr, k, a, ars, acs, b, bs, c, ldc, alpha, accumulate)
		return
	}
	add := 0
	if accumulate {
		add = 1
	}
	vector := 8
	if s == AVX512 {
		vector = 16
	}
	switch a := any(a).(type) {
	case []float32:
		b, c, alpha := any(b).([]float32), any(c).([]float32), any(alpha).(float32)
		kernels32[s][nr/vector-1](mr, k, &a[0], ars, acs, &b[0], bs, &c[0], ldc, alpha, add)
	case []float64:
		b, c, alpha := any(b).([]float64), any(c).([]float64), any(alpha).(float64)
		kernels64[s][nr/(vector/2)-1](mr, k, &a[0], ars, acs, &b[0], bs, &c[0], ldc, alpha, add)
	}
}

// transpose8: dst[p*ldd+i] = src[i*lds+p], i < 8, p < n.
func transpose8(dst []float32, ldd int, src []float32, lds, n int) {
	if ISA() == Portable {
		transpose8Portable(dst, ldd, src, lds, n)
		return
	}
	full := n &^ 7
	if full > 0 {
		transpose8AVX(&dst[0], ldd, &src[0], lds, full/8)
	}
	if full < n {
		transpose8Portable(dst[full*ldd:], ldd, src[full:], lds, n-full)
	}
}
