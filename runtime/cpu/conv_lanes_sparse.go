package cpu

import (
	"math"
	"unsafe"

	"github.com/sparserun/sparserun/tensorop"
)

// cut cuts the rows of a sparse weight into pieces of columns, so that what a piece
// reads for a block of positions stays in the first-level cache while all rows pass over
// it, if that leaves a row values enough to be worth loading its sums again.
func (s *laneConv) cut(w *tensorop.Window) {
	if s.ptr == nil {
		return
	}
	const cache, few = 24 << 10, 6
	channels := max(1, cache/(4*(s.lanes+(w.Kernel[0]-1)*w.Dilation[0]*s.ws)))
	per := channels * size(w.Kernel)
	s.pieces = max(1, min(parts(s.m.cols, per), len(s.w)/(few*max(1, s.m.rows))))
	per = parts(s.m.cols, s.pieces)
	s.cuts = make([]int32, 0, s.m.rows*s.pieces+1)
	for r := range s.m.rows {
		v := s.ptr[r]
		for piece := range s.pieces {
			for v < s.ptr[r+1] && int(s.elem[v]) < piece*per {
				v++
			}
			s.cuts = append(s.cuts, v)
		}
	}
	s.cuts = append(s.cuts, int32(len(s.w)))
}

// corner is how many rows of output a block of positions leaves in the buffer where it
// sticks out: those that stay until all parts of a sparse weight are added.
func (s *laneConv) corner() int {
	if s.ptr != nil && s.pieces > 1 {
		return s.m.rows
	}
	return s.block
}

// sparse computes a block of positions for all output channels of a sparse weight, part
// by part of its columns.
func (s *laneConv) sparse(a *convArgs, b *laneBuffer, dst []float32, off []int32, at int, tight, whole bool) {
	positions := size(s.win.Out)
	direct := tight && whole && s.pieces == 1
	vecs := min(8, (s.win.Out[0]*s.ws-at+s.lanes/8-1)/(s.lanes/8))
	for piece := range s.pieces {
		a.more, a.floor = int32(piece), float32(math.Inf(-1))
		if piece == s.pieces-1 {
			a.floor = s.floor
		}
		for r := range s.m.rows {
			v0, v1 := s.cuts[r*s.pieces+piece], s.cuts[r*s.pieces+piece+1]
			if v0 == v1 && piece > 0 && piece < s.pieces-1 {
				continue
			}
			switch {
			case direct:
				a.dst = unsafe.Pointer(&dst[r*positions+at])
			case tight:
				a.dst = unsafe.Pointer(&b.out[r%s.corner()*s.lanes])
			default:
				a.dst = unsafe.Pointer(&b.out[r*s.ld+at])
			}
			a.bias = unsafe.Pointer(&s.bias[r])
			if a.n = int(v1 - v0); a.n > 0 {
				a.off, a.w = unsafe.Pointer(&off[v0]), unsafe.Pointer(&s.w[v0])
			}
			a.sparse(vecs)
			if tight && !direct && piece == s.pieces-1 {
				copy(dst[r*positions+at:(r+1)*positions], b.out[r%s.corner()*s.lanes:][:s.lanes])
			}
		}
	}
}
