package cpu

import "github.com/sparserun/sparserun/linalg"

// readBytes reads b; len(b) is a multiple of 512.
func readBytes(b []byte) {
	switch {
	case len(b) == 0:
	case linalg.ISA() == linalg.Portable:
		readBytesPortable(b)
	case linalg.ISA() == linalg.AVX512:
		readBytesAVX512(&b[0], len(b))
	default:
		readBytesAVX2(&b[0], len(b))
	}
}

// fmaPeak runs n rounds of FMAs and returns the flops of one.
func fmaPeak(n int) float64 {
	switch linalg.ISA() {
	case linalg.AVX512:
		fmaPeakAVX512(max(n, 1))
		return 2 * 12 * 16
	case linalg.AVX2:
		fmaPeakAVX2(max(n, 1))
		return 2 * 12 * 8
	}
	fmaPeakPortable(n)
	return 2 * 8
}

// dotPeak runs n rounds of what multiplies int8 and returns the operations of one.
func dotPeak(n int) float64 {
	switch {
	case hasVNNI():
		dotPeakVNNI(max(n, 1))
		return 2 * 12 * 64
	case linalg.ISA() != linalg.Portable:
		dotPeakAVX2(max(n, 1))
		return 2 * 6 * 32
	}
	return 0
}
