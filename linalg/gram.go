package linalg

// gramTile is the edge of the tiles that Gram hands out; two panels of it and their
// product fit the L2 cache.
const gramTile = 192

// Gram adds X^T X to H: h [k, k] row-major, x [n, k] with row stride ldx. Both triangles
// are written. Sums run over at most 256 rows in float32; those are then added to H in
// its own type. With T float64 the error is therefore that of 256 terms, however many
// rows and calls.
func Gram[T Float](p *Pool, h []T, x []float32, n, k, ldx int) {
	edges := (k + gramTile - 1) / gramTile
	p.Run(edges*(edges+1)/2, func(t int) {
		// Tiles of the upper triangle, row by row.
		ti := 0
		for t >= edges-ti {
			t -= edges - ti
			ti++
		}
		tj := ti + t
		i0, j0 := ti*gramTile, tj*gramTile
		rows, cols := min(gramTile, k-i0), min(gramTile, k-j0)
		pool := scratchPool[float32]()
		s := pool.Get().(*scratch[float32])
		defer pool.Put(s)
		s.rows = grow(s.rows, gramTile*gramTile)
		tile := s.rows[:rows*cols]
		for r := 0; r < n; r += blockK {
			Gemm(nil, true, false, rows, cols, min(blockK, n-r), 1, x[r*ldx+i0:], ldx, x[r*ldx+j0:], ldx, 0, tile, cols)
			for i := range rows {
				dst := h[(i0+i)*k+j0 : (i0+i)*k+j0+cols]
				for j, v := range tile[i*cols : (i+1)*cols] {
					dst[j] += T(v)
				}
			}
		}
		if ti != tj {
			for i := range rows {
				for j, v := range h[(i0+i)*k+j0 : (i0+i)*k+j0+cols] {
					h[(j0+j)*k+i0+i] = v
				}
			}
		}
	})
}
