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
	per        int       // tiles of a part at most
	off        []int32   // bytes of the channels of a tile
	none       []float32 // no bias
}

// tileBuffer is a worker's.
type tileBuffer struct {
	v, m      []float32 // [36][tiles][channels], transformed input and products
	edge, out []float32 // a tile's input with its padding, and its output
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
		width := grp.vecs * blockLanes
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
	most := 0
	for _, g := range s.groups {
		most = max(most, g.vecs)
	}
	t.per = max(1, winogradPart/(4*winogradPoints*blockLanes*(s.cb+most)))
	t.off = make([]int32, s.st.Shape[1])
	for c := range t.off {
		t.off[c] = int32(4 * c)
	}
	t.none = make([]float32, 4*blockLanes)
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
	a, c16 := &b.args, s.cb*blockLanes
	for _, g := range s.groups {
		width := g.vecs * blockLanes
		ldv, ldm := n*c16+blockLanes, n*width+blockLanes // not a multiple of 4 KiB, where all points would meet in one set of the cache
		channels := s.st.Shape[1]
		for x := range winogradPoints {
			*a = blockArgs{dst: unsafe.Pointer(&b.tile.m[x*ldm]), src: unsafe.Pointer(&v[x*ldv]), off: unsafe.Pointer(&s.tiles.off[0]),
				w: unsafe.Pointer(&g.w[x*channels*width]), bias: unsafe.Pointer(&s.tiles.none[0]),
				n: channels, step: 4 * c16, pix: 4 * width, vec: 4 * blockLanes, floor: float32(math.Inf(-1))}
			a.pixels(g.vecs, n)
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
	most := 0
	for _, g := range s.groups {
		most = max(most, g.vecs)
	}
	b.v = make([]float32, winogradPoints*(s.tiles.per*s.cb+1)*blockLanes)
	b.m = make([]float32, winogradPoints*(s.tiles.per*most+1)*blockLanes)
	b.edge = make([]float32, s.cb*winogradPoints*blockLanes)
	b.out = make([]float32, 4*winogradTile*winogradTile*blockLanes)
}

// input transforms n tiles from t0 on: [36][n][channels], points one block further
// apart than they are long.
func (b *tileBuffer) input(s *blockConv, a *blockArgs, t0, n int) []float32 {
	t, w := s.tiles, s.win
	h, wide := w.In[0], w.In[1]
	plane := h * wide * blockLanes
	ld := n*s.cb*blockLanes + blockLanes
	for i := range n {
		image := (t0 + i) / (t.high * t.wide)
		y := (t0+i)/t.wide%t.high*winogradTile - w.Before[0]
		x := (t0+i)%t.wide*winogradTile - w.Before[1]
		src := s.src[image*s.cb*plane:][:s.cb*plane]
		*a = blockArgs{dst: unsafe.Pointer(&b.v[i*s.cb*blockLanes]), pix: 4 * ld, count: s.cb}
		if y >= 0 && x >= 0 && y+winogradWindow <= h && x+winogradWindow <= wide {
			a.src, a.srcStride, a.vec = unsafe.Pointer(&src[(y*wide+x)*blockLanes]), 4*wide*blockLanes, 4*plane
		} else {
			x0, x1 := min(max(0, -x), winogradWindow), max(0, min(winogradWindow, wide-x))
			for c := range s.cb {
				for r := range winogradWindow {
					row := b.edge[(c*winogradWindow+r)*winogradWindow*blockLanes:][:winogradWindow*blockLanes]
					if y+r < 0 || y+r >= h || x0 >= x1 {
						clear(row)
						continue
					}
					clear(row[:x0*blockLanes])
					copy(row[x0*blockLanes:x1*blockLanes], src[c*plane+((y+r)*wide+x+x0)*blockLanes:])
					clear(row[x1*blockLanes:])
				}
			}
			a.src, a.srcStride, a.vec = unsafe.Pointer(&b.edge[0]), 4*winogradWindow*blockLanes, 4*winogradPoints*blockLanes
		}
		a.winogradIn()
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
		*a = blockArgs{src: unsafe.Pointer(&b.m[i*g.vecs*blockLanes]), pix: 4 * ldm, bias: unsafe.Pointer(&s.bias[g.at*blockLanes]), count: g.vecs, floor: s.floor}
		h, wide := min(winogradTile, oh-y), min(winogradTile, ow-x)
		if h == winogradTile && wide == winogradTile {
			a.dst, a.srcStride, a.vec = unsafe.Pointer(&s.dst[at]), 4*ow*blockLanes, 4*plane
			if s.res != nil {
				a.res = unsafe.Pointer(&s.res[at])
			}
			a.winogradOut()
			continue
		}
		const row, tile = winogradTile * blockLanes, winogradTile * winogradTile * blockLanes
		a.dst, a.srcStride, a.vec = unsafe.Pointer(&b.out[0]), 4*row, 4*tile
		if s.res != nil {
			a.res = unsafe.Pointer(&b.out[0])
			for v := range g.vecs {
				for r := range h {
					copy(b.out[v*tile+r*row:][:wide*blockLanes], s.res[at+v*plane+r*ow*blockLanes:])
				}
			}
		}
		a.winogradOut()
		for v := range g.vecs {
			for r := range h {
				copy(s.dst[at+v*plane+r*ow*blockLanes:][:wide*blockLanes], b.out[v*tile+r*row:])
			}
		}
	}
}
