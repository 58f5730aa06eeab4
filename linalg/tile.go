package linalg

// Float is an element type of the matrix product.
type Float interface{ float32 | float64 }

// The micro-tile of the portable kernel.
const (
	portableRows = 4
	portableCols = 8
)

// tilePortable: c[i,j] = (c[i,j] if accumulate) + alpha * sum over p of a[i,p]*b[p,j],
// i < mr <= 4, j < 8; a[i,p] at i*ars + p*acs, b[p,j] at p*bs + j.
func tilePortable[T Float](mr, k int, a []T, ars, acs int, b []T, bs int, c []T, ldc int, alpha T, accumulate bool) {
	var sum [portableRows * portableCols]T
	for p := range k {
		bp := b[p*bs : p*bs+portableCols]
		for i := range mr {
			x := a[i*ars+p*acs]
			s := sum[i*portableCols : (i+1)*portableCols]
			for j, y := range bp {
				s[j] += x * y
			}
		}
	}
	for i := range mr {
		row := c[i*ldc : i*ldc+portableCols]
		for j := range row {
			v := alpha * sum[i*portableCols+j]
			if accumulate {
				v += row[j]
			}
			row[j] = v
		}
	}
}
