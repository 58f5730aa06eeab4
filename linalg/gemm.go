package linalg

import "sync"

// Blocking. A block of op(B), blockK x about blockN floats, stays in the L2 cache (480 KiB)
// while the rows of op(A) pass over it; a micro-panel of op(A), 8 x blockK (8 KiB), stays
// in L1. blockK fixes the order of the sums: it depends on nothing but k.
const (
	blockK     = 256
	blockBytes = 480 * blockK * 4
	// Below this many multiply-adds a product is not worth a second goroutine.
	serialWork = 1 << 16
)

// depth cuts k into equal parts of at most blockK, a multiple of 8 long.
func depth(k int) int {
	parts := (k + blockK - 1) / blockK
	return ((k+parts-1)/parts + 7) &^ 7
}

// Epilogue finishes part of a row of C while it is in the cache: c is C[row, col:col+len(c)].
// It is called once for every element, from several goroutines.
type Epilogue func(row, col int, c []float32)

// Gemm: C = alpha * op(A) * op(B) + beta * C, row-major float32; op(A) is [m, k], op(B) [k, n],
// C [m, n]. transA says that a holds A as [k, m], transB that b holds B as [n, k]. With
// beta 0, C is not read. Strides are in elements.
func Gemm(p *Pool, transA, transB bool, m, n, k int, alpha float32, a []float32, lda int, b []float32, ldb int, beta float32, c []float32, ldc int) {
	product(p, &gemm[float32]{transA: transA, transB: transB, m: m, n: n, k: k, alpha: alpha, beta: beta, a: a, lda: lda, b: b, ldb: ldb, c: c, ldc: ldc})
}

// Gemm64 is Gemm in float64.
func Gemm64(p *Pool, transA, transB bool, m, n, k int, alpha float64, a []float64, lda int, b []float64, ldb int, beta float64, c []float64, ldc int) {
	product(p, &gemm[float64]{transA: transA, transB: transB, m: m, n: n, k: k, alpha: alpha, beta: beta, a: a, lda: lda, b: b, ldb: ldb, c: c, ldc: ldc})
}

// GemmPacked: C = alpha * op(A) * B + beta * C with B packed before; finish may be nil.
func GemmPacked(p *Pool, transA bool, m int, alpha float32, a []float32, lda int, b *Packed, beta float32, c []float32, ldc int, finish Epilogue) {
	product(p, &gemm[float32]{transA: transA, m: m, n: b.N, k: b.K, alpha: alpha, beta: beta, a: a, lda: lda, packed: b, c: c, ldc: ldc, finish: finish})
}

// GemmRows: C = A * W^T with W [n, k] decoded by read as it is packed; finish may be nil.
func GemmRows(p *Pool, m, n, k int, a []float32, lda int, read RowReader, c []float32, ldc int, finish Epilogue) {
	product(p, &gemm[float32]{m: m, n: n, k: k, alpha: 1, a: a, lda: lda, read: read, c: c, ldc: ldc, finish: finish})
}

// gemm is one product; of b, packed and read one is set.
type gemm[T Float] struct {
	transA, transB bool
	m, n, k        int
	alpha, beta    T
	a              []T
	lda            int
	b              []T
	ldb            int
	packed         *Packed
	read           RowReader
	c              []T
	ldc            int
	finish         Epilogue
	isa            InstructionSet
}

// scratch is what one goroutine needs: a block of B, a micro-panel of A, a micro-tile of C.
type scratch[T Float] struct{ b, a, c, rows []T }

var (
	scratch32 = sync.Pool{New: func() any { return new(scratch[float32]) }}
	scratch64 = sync.Pool{New: func() any { return new(scratch[float64]) }}
)

func scratchPool[T Float]() *sync.Pool {
	var z T
	if _, ok := any(z).(float64); ok {
		return &scratch64
	}
	return &scratch32
}

func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// product splits C into a grid of blocks and computes each whole.
func product[T Float](p *Pool, g *gemm[T]) {
	if g.m == 0 || g.n == 0 {
		return
	}
	if g.k == 0 || g.alpha == 0 {
		for i := range g.m {
			row := g.c[i*g.ldc : i*g.ldc+g.n]
			scaleRow(row, g.beta)
			g.finishRow(i, 0, row)
		}
		return
	}
	g.isa = ISA()
	if g.packed != nil {
		g.isa = g.packed.isa
	}
	mr, nr := tileSize[T](g.isa, g.n)
	if g.packed != nil {
		nr = g.packed.nr
	}
	threads := p.Threads()
	if g.m*g.n*g.k < serialWork {
		threads = 1
	}
	panels, bars := (g.n+nr-1)/nr, (g.m+mr-1)/mr
	var z T
	size := 4
	if _, ok := any(z).(float64); ok {
		size = 8
	}
	per := max(1, blockBytes/(blockK*size*nr)) // panels of a block
	cols := (panels + per - 1) / per
	rows := 1
	switch {
	case threads == 1:
	case cols >= 4*threads:
	case panels >= 4*threads || panels%threads == 0:
		cols = (cols + threads - 1) / threads * threads
	default:
		// Too few panels to share out evenly: rows are shared instead.
		rows = min(threads, bars)
	}
	per = (panels + cols - 1) / cols
	cols = (panels + per - 1) / per
	perRow := (bars + rows - 1) / rows
	rows = (bars + perRow - 1) / perRow
	one := func(i int) {
		i0, j0 := i%rows*perRow*mr, i/rows*per*nr
		pool := scratchPool[T]()
		s := pool.Get().(*scratch[T])
		g.block(s, mr, nr, i0, min(g.m, i0+perRow*mr), j0, min(g.n, j0+per*nr))
		pool.Put(s)
	}
	if threads == 1 {
		p = nil
	}
	p.Run(rows*cols, one)
}

func scaleRow[T Float](row []T, beta T) {
	if beta == 0 {
		clear(row)
		return
	}
	for j := range row {
		row[j] *= beta
	}
}

func (g *gemm[T]) finishRow(i, j int, row []T) {
	if g.finish != nil {
		g.finish(i, j, any(row).([]float32))
	}
}

// block computes C[i0:i1, j0:j1].
func (g *gemm[T]) block(s *scratch[T], mr, nr, i0, i1, j0, j1 int) {
	if g.beta != 0 && g.beta != 1 {
		for i := i0; i < i1; i++ {
			scaleRow(g.c[i*g.ldc+j0:i*g.ldc+j1], g.beta)
		}
	}
	kc := depth(g.k)
	s.c = grow(s.c, mr*nr)
	for k0 := 0; k0 < g.k; k0 += kc {
		k := min(kc, g.k-k0)
		b, stride := g.blockB(s, nr, j0, j1, k0, k)
		add := g.beta != 0 || k0 > 0
		for i := i0; i < i1; i += mr {
			rows := min(mr, i1-i)
			a, ars, acs := g.panelA(s, i, rows, mr, k0, k)
			for j := j0; j < j1; j += nr {
				bp := b[(j-j0)/nr*stride:]
				c := g.c[i*g.ldc+j:]
				if j+nr <= g.n {
					tile(g.isa, rows, nr, k, a, ars, acs, bp, nr, c, g.ldc, g.alpha, add)
					continue
				}
				// The last columns go through a whole tile beside C.
				w := g.n - j
				for r := range rows {
					copy(s.c[r*nr:r*nr+w], c[r*g.ldc:r*g.ldc+w])
				}
				tile(g.isa, rows, nr, k, a, ars, acs, bp, nr, s.c, nr, g.alpha, add)
				for r := range rows {
					copy(c[r*g.ldc:r*g.ldc+w], s.c[r*nr:r*nr+w])
				}
			}
			if k0+k == g.k && g.finish != nil {
				for r := i; r < i+rows; r++ {
					g.finishRow(r, j0, g.c[r*g.ldc+j0:r*g.ldc+j1])
				}
			}
		}
	}
}

// blockB returns panels of op(B)[k0:k0+k, j0:j1] and how far they are apart.
func (g *gemm[T]) blockB(s *scratch[T], nr, j0, j1, k0, k int) ([]T, int) {
	if g.packed != nil && g.packed.f32 != nil {
		return any(g.packed.f32).([]T)[(j0*g.k + k0*nr):], g.k * nr
	}
	panels := (j1 - j0 + nr - 1) / nr
	s.b = grow(s.b, panels*nr*k)
	for q := range panels {
		j := j0 + q*nr
		dst, w := s.b[q*nr*k:(q+1)*nr*k], min(nr, g.n-j)
		switch {
		case g.packed != nil:
			F16ToF32(any(dst).([]float32), g.packed.f16[(j*g.k+k0*nr):])
		case g.read != nil:
			s.rows = grow(s.rows, 8*k)
			packRows(any(dst).([]float32), nr, g.read, j, k0, w, k, any(s.rows).([]float32))
		case g.transB:
			packTrans(dst, nr, g.b[j*g.ldb+k0:], g.ldb, w, k)
		default:
			packPlain(dst, nr, g.b[k0*g.ldb+j:], g.ldb, w, k)
		}
	}
	return s.b, nr * k
}

// panelA returns rows i.. of op(A)[:, k0:k0+k] with the strides of a row and of a column.
func (g *gemm[T]) panelA(s *scratch[T], i, rows, mr, k0, k int) (a []T, ars, acs int) {
	if g.transA {
		s.a = grow(s.a, mr*k)
		if rows == 8 {
			// The usual case, without a call for every 32 bytes.
			for p := range k {
				*(*[8]T)(s.a[p*8:]) = *(*[8]T)(g.a[(k0+p)*g.lda+i:])
			}
			return s.a, 1, 8
		}
		for p := range k {
			copy(s.a[p*mr:p*mr+rows], g.a[(k0+p)*g.lda+i:(k0+p)*g.lda+i+rows])
		}
		return s.a, 1, mr
	}
	src := g.a[i*g.lda+k0:]
	if g.lda%512 != 0 {
		return src, g.lda, 1
	}
	// Rows whole pages apart would fall into the same sets of the L1 cache.
	ld := (k + 31) &^ 15
	s.a = grow(s.a, mr*ld)
	for r := range rows {
		copy(s.a[r*ld:r*ld+k], src[r*g.lda:r*g.lda+k])
	}
	return s.a, ld, 1
}
