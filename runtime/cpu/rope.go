package cpu

import "math"

// ropeTable holds cos and sin of position * inverse frequency, times the scale;
// rows are computed when a position first occurs.
type ropeTable struct {
	inv   []float64
	scale float32
	half  int
	cs    []float32 // [positions, 2*half]: cosines, then sines
	n     int       // rows that are filled
}

// fill makes sure that the table covers the given positions.
func (t *ropeTable) fill(pos []int32) {
	for _, p := range pos {
		for ; t.n <= int(p); t.n++ {
			row := t.row(t.n)
			for i, f := range t.inv {
				s, c := math.Sincos(float64(t.n) * f)
				row[i], row[t.half+i] = float32(c*float64(t.scale)), float32(s*float64(t.scale))
			}
		}
	}
}

func (t *ropeTable) row(p int) []float32 { return t.cs[p*2*t.half : (p+1)*2*t.half] }

// ropeStep rotates the pairs (i, i+d/2) of every head of d columns.
type ropeStep struct {
	rowStep
	t       *ropeTable
	headDim int
}

func (s *ropeStep) run(p *program) { s.start(p, s, 2*s.width) }

func (s *ropeStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	pos := s.p.ints[s.in[1]]
	for t := t0; t < t1; t++ {
		dst, src, cs := s.dst(t, t+1), s.src(0, t, t+1), s.t.row(int(pos[t]))
		for c := 0; c < s.width; c += s.headDim {
			rope(dst[c:c+s.headDim], src[c:c+s.headDim], cs)
		}
	}
}

// ropePairs rotates the pairs of one head from the given one on; cs are the cosines,
// then the sines of its pairs.
func ropePairs(dst, x, cs []float32, from int) {
	h := len(x) / 2
	for i := from; i < h; i++ {
		a, b, c, s := x[i], x[h+i], cs[i], cs[h+i]
		dst[i], dst[h+i] = a*c-b*s, b*c+a*s
	}
}
