package cpu

import "sync"

// mulScratch is memory that a product needs beside its result. It is reused from
// call to call, so that nothing is allocated once every thread has run.
type mulScratch struct {
	f []float32
	u []uint32
}

var mulScratches struct {
	sync.Mutex
	free []*mulScratch
}

// takeScratch returns memory of any content; give returns it.
func takeScratch(floats, words int) *mulScratch {
	p := &mulScratches
	p.Lock()
	var s *mulScratch
	if n := len(p.free); n > 0 {
		s, p.free = p.free[n-1], p.free[:n-1]
	}
	p.Unlock()
	if s == nil {
		s = &mulScratch{}
	}
	s.f, s.u = grow(s.f, floats), grow(s.u, words)
	return s
}

func (s *mulScratch) give() {
	mulScratches.Lock()
	mulScratches.free = append(mulScratches.free, s)
	mulScratches.Unlock()
}
