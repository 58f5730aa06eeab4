//go:build !amd64

package linalg

func tileSize[T Float](InstructionSet, int) (mr, nr int) { return portableRows, portableCols }

func tile[T Float](_ InstructionSet, mr, _, k int, a []T, ars, acs int, b []T, bs int, c []T, ldc int, alpha T, accumulate bool) {
	tilePortable(mr, k, a, ars, acs, b, bs, c, ldc, alpha, accumulate)
}

func transpose8(dst []float32, ldd int, src []float32, lds, n int) {
	transpose8Portable(dst, ldd, src, lds, n)
}
