package cpu

import (
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// packed is a weight repacked for the kernels of this machine. Implementations
// live in one file per kernel stem (gemv_dense.go, spmm_nm24.go, ...) beside their
// assembly and are chosen by pack.
type packed interface {
	// bytes is the memory of the repacked form.
	bytes() sparse.Bytes
	// rowBlock is the unit in which rows may be split over threads.
	rowBlock() int
	// mul computes out[t*ld+r] = sum_c W[r,c]*x[t,c] (+ bias[r]) (+ out[t*ld+r] if
	// add) for rows r in [r0, r1) and every row t of x. r0 is a multiple of
	// rowBlock; r1 too, or the last row. It writes nothing else, allocates
	// nothing and may run concurrently for disjoint rows.
	mul(out []float32, ld int, x *acts, e epilogue, r0, r1 int)
	// form is the form of x that mul reads.
	form() form
	// clone is the same weight in memory of its own, or itself where a copy would be
	// pointless; only measurements ask for it.
	clone() (packed, error)
	free()
}

// epilogue is what is fused after the product.
type epilogue struct {
	bias []float32 // nil: none
	add  bool      // accumulate into out (the residual stands there already)
}

// form is a way activations are laid out for a kernel.
type form uint8

const (
	formRows       form = iota // f32, row-major: as they are
	formInt8                   // q and scale, row-major
	formPanels                 // see panel.go
	formInt8Panels             // see panel.go
	formTokens                 // f32 for few tokens, otherwise transposed, see panel.go
	forms
)

// acts are the activations of a Linear: float32 [rows, cols], and the other forms
// that kernels read. A form is made once per value and shared by the Linears
// that read it (q, k and v; gate and up).
type acts struct {
	rows, cols int
	f32        []float32     // [rows, cols]
	mem        [forms][]byte // formBytes of each form in use
	// formInt8: codes in [-127, 127] with one scale per actGroup columns, rows padded
	// with zeros to a multiple of actGroup.
	q     []int8    // [rows, qld]
	qld   int       // padded columns
	scale []float32 // [rows, qld/actGroup]
	// formPanels, formTokens and formInt8Panels, see panel.go. Each form has its own
	// memory: Linears of one input may read different ones.
	pf []float32
	pt []float32
	pq []int8
	ps []float32 // scale of 64 columns
	pu []int32   // -(sum of codes) of 32 columns
}

// actGroup is the number of activation columns that share an int8 scale: one
// 512-bit register of codes.
const actGroup = 64

var _ runtime.Backend = (*Backend)(nil)
