package cpu

import "math"

// rmsNormStep: out = in / sqrt(mean(in^2) + eps) * w, over groups of columns.
type rmsNormStep struct {
	rowStep
	group int
	eps   float32
	w     []float32 // [group]
}

func (s *rmsNormStep) run(p *program) { s.start(p, s, 2*s.width) }

func (s *rmsNormStep) part(_, i int) {
	t0, t1 := s.bounds(i)
	dst, src := s.dst(t0, t1), s.src(0, t0, t1)
	for c := 0; c < len(dst); c += s.group {
		rmsNorm(dst[c:c+s.group], src[c:c+s.group], s.w, s.eps)
	}
}

// rmsNorm normalises one group: dst = x / sqrt(mean(x^2) + eps) * w.
func rmsNorm(dst, x, w []float32, eps float32) {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	scale := float32(1 / math.Sqrt(sum/float64(len(x))+float64(eps)))
	for i, v := range x {
		dst[i] = v * scale * w[i]
	}
}
