package cpu

import "github.com/sparserun/sparserun/linalg"

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
		linalg.RMSNorm(dst[c:c+s.group], src[c:c+s.group], s.w, s.eps)
	}
}
