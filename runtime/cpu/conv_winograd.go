package cpu

import (
	"math"
	"unsafe"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
)

// Winograd's minimal filtering F(4x4, 3x3) (Lavin & Gray 2016): a tile of 4x4 outputs
// takes 36 products a pair of channels, not 144.
//
//	Y = A' [ sum_c (G g G') * (B' d B) ] A
//
// At the points 0, +-1/sqrt 2, +-sqrt 2 and infinity the errors are about twice those
// of summing 9C products in float32 (0, +-1, +-2: four times and more). A number that
// is not finite reaches all of its tile.
const (
	winogradTile   = 4
	winogradWindow = winogradTile + 2
	winogradPoints = winogradWindow * winogradWindow
)

// winogradLeast is how many channels there must be on both sides: below, the
// transforms cost what they save.
const winogradLeast = 8

// winograd reports whether a convolution runs in tiles.
func winograd(st *runtime.TensorStep) bool {
	if st.Shape[2] != 3 || st.Shape[3] != 3 || min(st.Shape[0], st.Shape[1]) < winogradLeast {
		return false
	}
	attrs := st.Node.Attr.(*model.TensorOp).Attrs
	for _, name := range []string{"strides", "dilations"} {
		for _, v := range attrs[name].Ints {
			if v != 1 {
				return false
			}
		}
	}
	return true
}

// winogradMap is the geometry of a convolution in tiles: all tiles of all images one
// after the other.
type winogradMap struct {
	high, wide int       // tiles of an image
	halves     int       // of vectors of input channels
	width      int       // output channels of the widest group
	per        int       // tiles of a part at most
	off        []int32   // bytes of the channels of a tile
	none       []float32 // no bias

	edge  []int32                  // of each tile: which of the masks, -1 where all of it lies in the image
	masks [][winogradPoints]uint16 // a pixel's: 0 outside of the image
}

// tileBuffer is a worker's.
type tileBuffer struct {
	v, m    []float32 // [36][tiles][channels in halves of vectors], transformed input and products
	out     []float32 // a tile's output
	between []float32 // AVX2: a tile between its columns and its rows
}

// winogradWeights: G g G' for every pair of channels, in float64.
func (s *blockConv) winogradWeights(w []float32) {
	a, b := math.Sqrt(0.5), math.Sqrt(2)
	// Row p: (1, p, p^2) / prod (p - q) over the other points q.
	g := [winogradWindow][3]float64{{1, 0, 0}, {}, {}, {}, {}, {0, 0, 1}}
	for i, p := range []float64{a, -a, b, -b} {
		n := -1.5
		if i > 1 {
			n = 6
		}
		g[1+i] = [3]float64{1 / n, p / n, p * p / n}
	}
	oc, channels := s.st.Shape[0], s.st.Shape[1]
	for gi := range s.groups {
		grp := &s.groups[gi]
		width := grp.width()
		grp.w = make([]float32, winogradPoints*channels*width)
		for r := range min(width, oc-grp.at*blockLanes) {
			for c := range channels {
				k := w[((grp.at*blockLanes+r)*channels+c)*9:][:9]
				var t [winogradWindow][3]float64
				for i := range t {
					for j := range 3 {
						t[i][j] = g[i][0]*float64(k[j]) + g[i][1]*float64(k[3+j]) + g[i][2]*float64(k[6+j])
					}
				}
				for i := range winogradWindow {
					for j := range winogradWindow {
						u := t[i][0]*g[j][0] + t[i][1]*g[j][1] + t[i][2]*g[j][2]
						grp.w[((i*winogradWindow+j)*channels+c)*width+r] = float32(u)
					}
				}
			}
		}
	}
}

// winogradPart is how many bytes a part's transformed input and products take at most.
const winogradPart = 448 << 10

func (t *winogradMap) size(s *blockConv, threads int) {
	w := s.win
	t.high, t.wide = parts(w.Out[0], winogradTile), parts(w.Out[1], winogradTile)
	t.halves = channelHalves(s.st.Shape[1])
	for i := range s.groups {
		t.width = max(t.width, s.groups[i].width())
	}
	t.per = max(1, winogradPart/(4*winogradPoints*(t.halves*halfLanes+t.width)))
	t.off = make([]int32, s.st.Shape[1])
	for c := range t.off {
		t.off[c] = int32(4 * c)
	}
	t.none = make([]float32, 4*blockLanes)
	t.edge, t.masks = make([]int32, t.high*t.wide), nil
	kinds := map[[4]int]int32{}
	for i := range t.edge {
		y0, y1 := tileInside(i/t.wide*winogradTile-w.Before[0], w.In[0])
		x0, x1 := tileInside(i%t.wide*winogradTile-w.Before[1], w.In[1])
		kind, ok := kinds[[4]int{y0, y1, x0, x1}]
		switch {
		case ok:
		case y0 == 0 && x0 == 0 && y1 == winogradWindow && x1 == winogradWindow:
			kind = -1
		default:
			kind = int32(len(t.masks))
			var m [winogradPoints]uint16
			for y := y0; y < y1; y++ {
				for x := x0; x < x1; x++ {
					m[y*winogradWindow+x] = 1<<blockLanes - 1
				}
			}
			t.masks = append(t.masks, m)
		}
		kinds[[4]int{y0, y1, x0, x1}] = kind
		t.edge[i] = kind
	}
}

// tileInside is which pixels of a tile that starts at at are among n; 0 and 0: none.
func tileInside(at, n int) (from, to int) {
	from, to = max(0, -at), min(winogradWindow, n-at)
	if from >= to {
		return 0, 0
	}
	return from, to
}

// winograd deals out the tiles of all images.
func (s *blockConv) winograd(p *tensorProgram) {
	t := s.tiles
	tiles := s.shape[0] * t.high * t.wide
	n := parts(tiles, t.per)
	if k := p.pool.threads; k > 1 {
		n = max(n, min(2*k, tiles))
	}
	n = parts(tiles, parts(tiles, n))
	p.pool.run(&winogradJob{s, tiles, parts(tiles, n)}, n)
}

type winogradJob struct {
	s          *blockConv
	tiles, per int
}

func (j *winogradJob) part(worker, i int) {
	s, t0 := j.s, i*j.per
	b := &s.bufs[worker]
	n := min(j.per, j.tiles-t0)
	b.tile.grow(s)
	v := b.tile.input(s, &b.args, t0, n)
	a, c8 := &b.args, s.tiles.halves*halfLanes
	for _, g := range s.groups {
		width := g.width()
		ldv, ldm := n*c8+blockLanes, n*width+blockLanes // not a multiple of 4 KiB, where all points would meet in one set of the cache
		channels := s.st.Shape[1]
		for x := range winogradPoints {
			*a = blockArgs{dst: unsafe.Pointer(&b.tile.m[x*ldm]), src: unsafe.Pointer(&v[x*ldv]), off: unsafe.Pointer(&s.tiles.off[0]),
				w: unsafe.Pointer(&g.w[x*channels*width]), bias: unsafe.Pointer(&s.tiles.none[0]),
				n: channels, step: 4 * c8, pix: 4 * width, vec: 4 * blockLanes, floor: float32(math.Inf(-1))}
			a.pixels(s.k, g.halves, n)
		}
		b.tile.output(s, a, g, t0, n, ldm)
	}
	*a = blockArgs{}
}

// grow makes room for the largest part.
func (b *tileBuffer) grow(s *blockConv) {
	if b.v != nil {
		return
	}
	t := s.tiles
	b.v = make([]float32, winogradPoints*(t.per*t.halves*halfLanes+blockLanes))
	b.m = make([]float32, winogradPoints*(t.per*t.width+blockLanes))
	b.between = make([]float32, winogradPoints*halfLanes)
	b.out = make([]float32, 4*winogradTile*winogradTile*blockLanes)
}

// input transforms n tiles from t0 on: [36][n][channels], points one block further
// apart than they are long.
func (b *tileBuffer) input(s *blockConv, a *blockArgs, t0, n int) []float32 {
	t, w := s.tiles, s.win
	h, wide := w.In[0], w.In[1]
	plane := h * wide * blockLanes
	c8 := t.halves * halfLanes
	ld := n*c8 + blockLanes
	for i := range n {
		image := (t0 + i) / (t.high * t.wide)
		y := (t0+i)/t.wide%t.high*winogradTile - w.Before[0]
		x := (t0+i)%t.wide*winogradTile - w.Before[1]
		src := s.src[image*s.cb*plane:][:s.cb*plane]
		*a = blockArgs{dst: unsafe.Pointer(&b.v[i*c8]), off: unsafe.Pointer(&b.between[0]), pix: 4 * ld}
		at := (y*wide + x) * blockLanes
		if e := t.edge[(t0+i)%len(t.edge)]; e >= 0 {
			a.src, a.n, a.w = unsafe.Pointer(&src[0]), 4*at, unsafe.Pointer(&t.masks[e][0])
		} else {
			a.src = unsafe.Pointer(&src[at])
		}
		a.srcStride, a.vec = 4*wide*blockLanes, 4*plane
		s.k.winogradIn(a, t.halves)
	}
	return b.v
}

// output transforms a group's products of n tiles.
func (b *tileBuffer) output(s *blockConv, a *blockArgs, g blockGroup, t0, n, ldm int) {
	t, oh, ow := s.tiles, s.win.Out[0], s.win.Out[1]
	plane := oh * ow * blockLanes
	for i := range n {
		image := (t0 + i) / (t.high * t.wide)
		y, x := (t0+i)/t.wide%t.high*winogradTile, (t0+i)%t.wide*winogradTile
		at := (image*s.total+s.first+g.at)*plane + (y*ow+x)*blockLanes
		*a = blockArgs{src: unsafe.Pointer(&b.m[i*g.width()]), off: unsafe.Pointer(&b.between[0]), pix: 4 * ldm, bias: unsafe.Pointer(&s.bias[g.at*blockLanes]), floor: s.floor}
		h, wide := min(winogradTile, oh-y), min(winogradTile, ow-x)
		if h == winogradTile && wide == winogradTile {
			a.dst, a.srcStride, a.vec = unsafe.Pointer(&s.dst[at]), 4*ow*blockLanes, 4*plane
			if s.res != nil {
				a.res = unsafe.Pointer(&s.res[at])
			}
			s.k.winogradOut(a, g.halves)
			continue
		}
		const row, tile = winogradTile * blockLanes, winogradTile * winogradTile * blockLanes
		a.dst, a.srcStride, a.vec = unsafe.Pointer(&b.out[0]), 4*row, 4*tile
		if s.res != nil {
			a.res = unsafe.Pointer(&b.out[0])
			for v := range parts(g.halves, 2) {
				for r := range h {
					copy(b.out[v*tile+r*row:][:wide*blockLanes], s.res[at+v*plane+r*ow*blockLanes:])
				}
			}
		}
		s.k.winogradOut(a, g.halves)
		for v := range parts(g.halves, 2) {
			for r := range h {
				copy(s.dst[at+v*plane+r*ow*blockLanes:][:wide*blockLanes], b.out[v*tile+r*row:])
			}
		}
	}
}
