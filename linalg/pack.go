package linalg

// pack lays out columns of op(B) for the micro-kernel: panels of nr columns, each
// [k, nr] with zeros beyond the last column.

// transpose8Portable: dst[p*ldd+i] = src[i*lds+p], i < 8, p < n.
func transpose8Portable[T Float](dst []T, ldd int, src []T, lds, n int) {
	for i := range 8 {
		row := src[i*lds : i*lds+n]
		for p, x := range row {
			dst[p*ldd+i] = x
		}
	}
}

// packTrans fills one panel from B^T [n, k] row-major: dst[p*nr+j] = b[j*ldb+p], p < k,
// j < cols <= nr.
func packTrans[T Float](dst []T, nr int, b []T, ldb, cols, k int) {
	j := 0
	for ; j+8 <= cols; j += 8 {
		if f, ok := any(dst[j:]).([]float32); ok {
			transpose8(f, nr, any(b[j*ldb:]).([]float32), ldb, k)
		} else {
			transpose8Portable(dst[j:], nr, b[j*ldb:], ldb, k)
		}
	}
	for ; j < cols; j++ {
		for p, x := range b[j*ldb : j*ldb+k] {
			dst[p*nr+j] = x
		}
	}
	zeroColumns(dst, nr, cols, k)
}

// packPlain fills one panel from B [k, n] row-major: dst[p*nr+j] = b[p*ldb+j].
func packPlain[T Float](dst []T, nr int, b []T, ldb, cols, k int) {
	if cols == 8 {
		// Heads of 8: not worth a call to copy.
		for p := range k {
			*(*[8]T)(dst[p*nr:]) = *(*[8]T)(b[p*ldb:])
		}
	} else {
		for p := range k {
			copy(dst[p*nr:p*nr+cols], b[p*ldb:p*ldb+cols])
		}
	}
	zeroColumns(dst, nr, cols, k)
}

func zeroColumns[T Float](dst []T, nr, cols, k int) {
	if cols == nr {
		return
	}
	for p := range k {
		clear(dst[p*nr+cols : (p+1)*nr])
	}
}

// packRows fills one panel from a function that decodes rows of B^T.
func packRows(dst []float32, nr int, read RowReader, row, k0, cols, k int, tmp []float32) {
	j := 0
	for ; j+8 <= cols; j += 8 {
		for i := range 8 {
			read(tmp[i*k:(i+1)*k], row+j+i, k0)
		}
		transpose8(dst[j:], nr, tmp, k, k)
	}
	for ; j < cols; j++ {
		read(tmp[:k], row+j, k0)
		for p, x := range tmp[:k] {
			dst[p*nr+j] = x
		}
	}
	zeroColumns(dst, nr, cols, k)
}

// RowReader decodes part of a row of a weight matrix [n, k]: dst[i] = W[row, k0+i].
// It is called from several goroutines.
type RowReader func(dst []float32, row, k0 int)

// Packed is a matrix op(B) [K, N] laid out once for the kernels in use when it was made;
// products read it without packing again. It is read-only and may be shared.
type Packed struct {
	K, N int
	isa  InstructionSet // whose panels these are; products use its kernels
	nr   int
	f32  []float32 // [ceil(N/nr), K, nr]
	f16  []uint16  // the same in half precision; one of the two is set
}

// PackB packs op(B) [k, n]; with transB, b is [n, k] (a weight [out, in] of a Linear).
func PackB(p *Pool, transB bool, n, k int, b []float32, ldb int) *Packed {
	isa := ISA()
	_, nr := tileSize[float32](isa, n)
	out := &Packed{isa: isa, K: k, N: n, nr: nr, f32: make([]float32, (n+nr-1)/nr*nr*k)}
	if k == 0 {
		return out
	}
	p.Run((n+nr-1)/nr, func(i int) {
		dst, cols := out.f32[i*nr*k:(i+1)*nr*k], min(nr, n-i*nr)
		if transB {
			packTrans(dst, nr, b[i*nr*ldb:], ldb, cols, k)
		} else {
			packPlain(dst, nr, b[i*nr:], ldb, cols, k)
		}
	})
	return out
}

// PackRows packs the transpose of a weight [n, k] that read decodes.
func PackRows(p *Pool, n, k int, read RowReader) *Packed {
	isa := ISA()
	_, nr := tileSize[float32](isa, n)
	out := &Packed{isa: isa, K: k, N: n, nr: nr, f32: make([]float32, (n+nr-1)/nr*nr*k)}
	if k == 0 {
		return out
	}
	p.Run((n+nr-1)/nr, func(i int) {
		packRows(out.f32[i*nr*k:(i+1)*nr*k], nr, read, i*nr, 0, min(nr, n-i*nr), k, make([]float32, 8*k))
	})
	return out
}

// PackF16 packs the transpose of a half precision weight [n, k]; it stays in half precision and
// is expanded as products read it.
func PackF16(p *Pool, n, k int, w []uint16, ldw int) *Packed {
	isa := ISA()
	_, nr := tileSize[float32](isa, n)
	out := &Packed{isa: isa, K: k, N: n, nr: nr, f16: make([]uint16, (n+nr-1)/nr*nr*k)}
	p.Run((n+nr-1)/nr, func(i int) {
		dst := out.f16[i*nr*k : (i+1)*nr*k]
		for j := range min(nr, n-i*nr) {
			for q, x := range w[(i*nr+j)*ldw : (i*nr+j)*ldw+k] {
				dst[q*nr+j] = x
			}
		}
	})
	return out
}
