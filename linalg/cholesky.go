package linalg

import (
	"fmt"
	"math"
)

// cholBlock is the width of the diagonal blocks that are factored without blocking.
const cholBlock = 64

// Cholesky factors a symmetric positive definite matrix, A = L L^T, in place: a [n, n] row-
// major, of which the lower triangle is read; it then holds L, and zeros above. The
// order of all sums is fixed. An A that is not positive definite is ErrNotPositive with the
// pivot; a is then spoilt.
func Cholesky(p *Pool, a []float64, n int) error {
	var inv [cholBlock * cholBlock]float64
	panel := make([]float64, n*cholBlock)
	for j0 := 0; j0 < n; j0 += cholBlock {
		w := min(cholBlock, n-j0)
		if at, pivot := cholUnblocked(a[j0*n+j0:], w, n); at >= 0 {
			return fmt.Errorf("linalg: Cholesky of %d x %d: pivot %d: want > 0, got %g: %w", n, n, j0+at, pivot, ErrNotPositive)
		}
		for i := j0; i < j0+w; i++ {
			clear(a[i*n+i+1 : (i+1)*n])
		}
		j1 := j0 + w
		if j1 == n {
			break
		}
		// L21 = A21 * L11^-T, then A22 -= L21 * L21^T below the diagonal.
		invertLower(inv[:], w, a[j0*n+j0:], w, n)
		rest := n - j1
		for i := range rest {
			copy(panel[i*w:(i+1)*w], a[(j1+i)*n+j0:(j1+i)*n+j1])
		}
		Gemm64(p, false, true, rest, w, w, 1, panel, w, inv[:], w, 0, a[j1*n+j0:], n)
		const strip = 4 * cholBlock
		for c := j1; c < n; c += strip {
			Gemm64(p, false, true, n-c, min(strip, n-c), w, -1, a[c*n+j0:], n, a[c*n+j0:], n, 1, a[c*n+c:], n)
		}
	}
	return nil
}

// cholUnblocked factors a [n, n] with row stride ld; it returns the index and value of
// the first pivot that is not positive, or -1.
func cholUnblocked(a []float64, n, ld int) (int, float64) {
	for j := range n {
		rj := a[j*ld : j*ld+j+1]
		d := rj[j]
		for _, v := range rj[:j] {
			d -= v * v
		}
		if !(d > 0) || math.IsInf(d, 1) {
			return j, d
		}
		d = math.Sqrt(d)
		rj[j] = d
		for i := j + 1; i < n; i++ {
			ri := a[i*ld : i*ld+j+1]
			s := ri[j]
			for q, v := range rj[:j] {
				s -= v * ri[q]
			}
			ri[j] = s / d
		}
	}
	return -1, 0
}

// invertLower: dst [n, n] (stride ldd) = L^-1 for a lower triangle l (stride ldl), zeros above.
func invertLower(dst []float64, ldd int, l []float64, n, ldl int) {
	for i := range n {
		row := dst[i*ldd : i*ldd+n]
		clear(row)
		d := 1 / l[i*ldl+i]
		for q := range i {
			f := -l[i*ldl+q] * d
			for j, v := range dst[q*ldd : q*ldd+q+1] {
				row[j] += f * v
			}
		}
		row[i] = d
	}
}

// InvertLower returns L^-1 of a lower triangle l [n, n] with a non-zero diagonal; what is above
// the diagonal of l is taken to be zero.
func InvertLower(p *Pool, l []float64, n int) []float64 {
	out := make([]float64, n*n)
	var inv [cholBlock * cholBlock]float64
	t := make([]float64, cholBlock*n)
	for i0 := 0; i0 < n; i0 += cholBlock {
		h := min(cholBlock, n-i0)
		invertLower(inv[:], h, l[i0*n+i0:], h, n)
		for i := range h {
			copy(out[(i0+i)*n+i0:], inv[i*h:i*h+i+1])
		}
		if i0 == 0 {
			continue
		}
		// The rows left of the diagonal: -L11^-1 * L10 * (the inverse so far). Columns go
		// in strips, as the inverse so far is zero above each strip.
		const strip = 4 * cholBlock
		for c := 0; c < i0; c += strip {
			w := min(strip, i0-c)
			Gemm64(p, false, false, h, w, i0-c, 1, l[i0*n+c:], n, out[c*n+c:], n, 0, t[c:], n)
		}
		Gemm64(p, false, false, h, i0, h, -1, inv[:], h, t, n, 0, out[i0*n:], n)
	}
	return out
}

// CholeskySolve solves X A = B, that is A x = b for every row b of B [m, n], in place, with
// the factor L of A that Cholesky left.
func CholeskySolve(p *Pool, l []float64, n int, b []float64, m int) {
	var inv [cholBlock * cholBlock]float64
	t := make([]float64, m*cholBlock)
	block := func(j0 int, transposed bool) {
		w := min(cholBlock, n-j0)
		invertLower(inv[:], w, l[j0*n+j0:], w, n)
		for i := range m {
			copy(t[i*w:(i+1)*w], b[i*n+j0:i*n+j0+w])
		}
		Gemm64(p, false, transposed, m, w, w, 1, t, w, inv[:], w, 0, b[j0:], n)
	}
	for j0 := 0; j0 < n; j0 += cholBlock {
		if j0 > 0 {
			Gemm64(p, false, true, m, min(cholBlock, n-j0), j0, -1, b, n, l[j0*n:], n, 1, b[j0:], n)
		}
		block(j0, true)
	}
	for j0 := (n - 1) / cholBlock * cholBlock; j0 >= 0; j0 -= cholBlock {
		if j1 := j0 + cholBlock; j1 < n {
			Gemm64(p, false, false, m, cholBlock, n-j1, -1, b[j1:], n, l[j1*n+j0:], n, 1, b[j0:], n)
		}
		block(j0, false)
	}
}

// InverseFactor returns the upper triangle U with U^T U = H^-1, the factor that SparseGPT
// walks (Frantar & Alistarh 2023). h [n, n] is symmetric; its lower triangle is read, it is
// not changed. No inverse of H is formed: with the order of rows and columns reversed,
// H = R R^T for an upper R, and U = R^-1.
func InverseFactor(p *Pool, h []float64, n int) ([]float64, error) {
	r := make([]float64, n*n)
	for i := range n {
		// Row i of the reversed lower triangle: H[n-1-i, n-1-j] = H[n-1-j, n-1-i].
		for j := range i + 1 {
			r[i*n+j] = h[(n-1-j)*n+n-1-i]
		}
	}
	if err := Cholesky(p, r, n); err != nil {
		return nil, err
	}
	u := InvertLower(p, r, n)
	// Reversing both orders is reversing the whole slice.
	for i, j := 0, n*n-1; i < j; i, j = i+1, j-1 {
		u[i], u[j] = u[j], u[i]
	}
	return u, nil
}
