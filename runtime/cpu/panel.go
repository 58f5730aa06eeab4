package cpu

import (
	"unsafe"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/sparse"
)

// Panels are the form of activations that tiled kernels read. Tokens are cut into
// panels of a power of two of tokens, the widest first, and a panel into units of
// 16 bytes (4 float32 columns, 16 int8 columns; columns are padded with zeros to
// whole groups of 64): unit u of token i of a panel that starts at token t0 and
// is w tokens wide is unit t0*units + u*w + i. Scales and sums of int8 lie in the
// same order, per group of columns. One token alone is just its row.

// panelTop is the widest panel of a form on this machine.
func panelTop(f form) int {
	switch {
	case f == formTokens:
		wide, _ := csrShape()
		return csrTokens(wide)
	case f == formInt8Panels && hasVNNI():
		return 4
	case f == formInt8Panels:
		return 2
	case linalg.ISA() == linalg.AVX512:
		return 8
	}
	return 4
}

// panelBytes is the memory of a panel form of rows x cols activations.
func panelBytes(f form, rows, cols int) int {
	n := rows * padded(cols)
	if f == formTokens {
		if rows <= csrFew {
			return 0
		}
		return 4 * ((rows + 15) &^ 15) * cols
	}
	if f == formInt8Panels {
		return n + (4+8)*n/actGroup
	}
	return 4 * n
}

// alone reports whether the panel form is the row of float32 itself.
func (x *acts) alone() bool { return x.rows == 1 && x.cols%actGroup == 0 }

// beginPanels sets x up for preparePanels of x.rows rows.
func (x *acts) beginPanels(f form) {
	n := x.rows * padded(x.cols)
	m := x.mem[f]
	switch {
	case f == formTokens:
		x.pt = nil
		if x.rows > csrFew {
			x.pt = f32s(m[:panelBytes(f, x.rows, x.cols)])
		}
	case f == formInt8Panels:
		x.pq = i8s(m[:n])
		x.ps = f32s(m[n : n+4*n/actGroup])
		x.pu = i32s(m[n+4*n/actGroup : n+12*n/actGroup])
	case x.alone():
		x.pf = x.f32
	default:
		x.pf = f32s(m[:4*n])
	}
}

// panelStep is the width of a panel, of tokens in lanes those whose numbers of a
// column fill a cache line.
func (x *acts) panelStep(f form) int {
	if f == formTokens {
		return 16
	}
	return panelTop(f)
}

// tile is the activations of rows t0..t1-1, whole tiles of formTokens.
func (x *acts) tile(t0, t1 int) acts {
	y := *x
	y.rows, y.f32 = t1-t0, x.f32[t0*x.cols:t1*x.cols]
	y.pt = x.pt[t0*x.cols:]
	return y
}

// preparePanels fills the panels of rows t0..t1-1.
func (x *acts) preparePanels(f form, t0, t1 int) {
	switch {
	case f == formTokens:
		if x.rows > csrFew {
			x.tokenTiles(t0, t1)
		}
	case f == formInt8Panels:
		x.int8Panels(t0, t1)
	case !x.alone():
		x.floatPanels(t0, t1)
	}
}

// panelOf is the panel that has token t of rows: its first token and its width.
func panelOf(t, rows, top int) (t0, w int) {
	t0, w = t/top*top, top
	for w > rows-t0 {
		w /= 2
	}
	for t >= t0+w {
		t0 += w
		for w > rows-t0 {
			w /= 2
		}
	}
	return t0, w
}

// panel points t at the panel that starts at token t0 and returns its width.
func (x *acts) panel(t *tile, f form, t0 int) int {
	w := panelTop(f)
	for w > x.rows-t0 {
		w /= 2
	}
	n := padded(x.cols)
	if f == formInt8Panels {
		t.x = unsafe.Pointer(&x.pq[t0*n])
		t.sx = unsafe.Pointer(&x.ps[t0*n/actGroup])
		t.ux = unsafe.Pointer(&x.pu[t0*n/actGroup*2])
		return w
	}
	t.x = unsafe.Pointer(&x.pf[t0*n])
	return w
}

type floatUnit [4]float32

func (x *acts) floatPanels(t0, t1 int) {
	n := padded(x.cols)
	top := panelTop(formPanels)
	for t := t0; t < t1; t++ {
		p, w := panelOf(t, x.rows, top)
		dst := unsafe.Slice((*floatUnit)(unsafe.Pointer(&x.pf[p*n])), w*n/4)[t-p:]
		row := x.f32[t*x.cols : (t+1)*x.cols]
		whole := x.cols / 4
		if whole > 0 {
			for u, v := range unsafe.Slice((*floatUnit)(unsafe.Pointer(&row[0])), whole) {
				dst[u*w] = v
			}
		}
		for u := whole; u < n/4; u++ {
			var v floatUnit
			copy(v[:], row[min(4*u, len(row)):])
			dst[u*w] = v
		}
	}
}

// tokenTiles transposes tokens t0..t1-1 into tiles: [columns][width], width the
// tokens of the tile rounded up to whole vectors.
func (x *acts) tokenTiles(t0, t1 int) {
	const few = 64 // columns at a time: what is written of them stays in a first-level cache
	top := panelTop(formTokens)
	wide, _ := csrShape()
	lanes := csrLanes(wide)
	for t := t0 / top * top; t < t1; t += top {
		width := (min(x.rows-t, top) + lanes - 1) / lanes * lanes
		dst := x.pt[t*x.cols : t*x.cols+width*x.cols]
		first, end := max(t0-t, 0), min(t1-t, top)
		whole := x.cols &^ 7
		last := first + (end-first)&^7
		for c := 0; c < whole; c += few {
			n := min(few, whole-c)
			for i := first; i < last; i += 8 {
				transposeRows(dst[c*width+i:], width, x.f32[(t+i)*x.cols+c:], x.cols, n)
			}
		}
		for i := first; i < end; i++ {
			c := 0
			if i < last {
				c = whole
			}
			for ; c < x.cols; c++ {
				dst[c*width+i] = x.f32[(t+i)*x.cols+c]
			}
		}
	}
}

// quantArgs is the argument of quantUnits: groups of 64 floats at x become codes,
// 4 units of dst unitStep bytes apart, a scale and 2 sums (negative) each; steps
// in bytes. The layout is known to asm/.
type quantArgs struct {
	x, dst, scale, sum                       unsafe.Pointer
	unitStep, scaleStep, sumStep, groupCount int
}

func (x *acts) int8Panels(t0, t1 int) {
	n := padded(x.cols) / actGroup
	top := panelTop(formInt8Panels)
	for t := t0; t < t1; t++ {
		p, w := panelOf(t, x.rows, top)
		i := t - p
		q := quantArgs{unitStep: 16 * w, scaleStep: 4 * w, sumStep: 4 * w, groupCount: x.cols / actGroup}
		if q.groupCount > 0 {
			q.x = unsafe.Pointer(&x.f32[t*x.cols])
			q.dst = unsafe.Pointer(&x.pq[p*n*actGroup+i*16])
			q.scale = unsafe.Pointer(&x.ps[p*n+i])
			q.sum = unsafe.Pointer(&x.pu[p*n*2+i])
			q.run()
		}
		if g := q.groupCount; g < n {
			var last [actGroup]float32
			copy(last[:], x.f32[t*x.cols+g*actGroup:(t+1)*x.cols])
			q.groupCount = 1
			q.x = unsafe.Pointer(&last)
			q.dst = unsafe.Pointer(&x.pq[p*n*actGroup+(g*4*w+i)*16])
			q.scale = unsafe.Pointer(&x.ps[p*n+g*w+i])
			q.sum = unsafe.Pointer(&x.pu[p*n*2+g*2*w+i])
			q.run()
		}
	}
}

// actForm is the form of activations that tiled kernels of weight type t read.
func actForm(t sparse.DType) form {
	if t.Quantised() {
		return formInt8Panels
	}
	return formPanels
}
