package linalg

// tileSize is the micro-tile of a family: rows and columns.
func tileSize[T Float](s InstructionSet) (mr, nr int) {
	var z T
	_, double := any(z).(float64)
	switch {
	case s == AVX512 && double:
		return 8, 24
	case s == AVX512:
		return 8, 48
	case s == AVX2 && double:
		return 4, 12
	case s == AVX2:
		return 4, 24
	}
	return portableRows, portableCols
}

// tile runs the micro-kernel of a family on full columns and mr rows, at most those of tileSize.
func tile[T Float](s InstructionSet, mr, k int, a []T, ars, acs int, b []T, bs int, c []T, ldc int, alpha T, accumulate bool) {
	if s == Portable {
		tilePortable(mr, k, a, ars, acs, b, bs, c, ldc, alpha, accumulate)
		return
	}
	add := 0
	if accumulate {
		add = 1
	}
	switch a := any(a).(type) {
	case []float32:
		b, c, alpha := any(b).([]float32), any(c).([]float32), any(alpha).(float32)
		if s == AVX512 {
			gemmF32AVX512(mr, k, &a[0], ars, acs, &b[0], bs, &c[0], ldc, alpha, add)
		} else {
			gemmF32AVX2(mr, k, &a[0], ars, acs, &b[0], bs, &c[0], ldc, alpha, add)
		}
	case []float64:
		b, c, alpha := any(b).([]float64), any(c).([]float64), any(alpha).(float64)
		if s == AVX512 {
			gemmF64AVX512(mr, k, &a[0], ars, acs, &b[0], bs, &c[0], ldc, alpha, add)
		} else {
			gemmF64AVX2(mr, k, &a[0], ars, acs, &b[0], bs, &c[0], ldc, alpha, add)
		}
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
