package cpu

import "sync"

// mulScratch is memory that a product needs beside its result: unpacked weights
// (tile_wide.go), sums of a batch (csr.go).
type mulScratch struct {
	f    [scratchFloats]float32
	edge [maxBlock * maxPanel]float32 // sums of a block that reaches beyond the last row
	u    [csrSums]uint32
}

// scratchFloats holds the block that mulWide unpacks and the sums of csrTiled.
const scratchFloats = tileCache / 4

var mulScratches struct {
	sync.Mutex
	free []*mulScratch
	made int
}

// reserveScratch makes one for each of n threads, so that nothing is allocated while
// they run.
func reserveScratch(n int) {
	p := &mulScratches
	p.Lock()
	defer p.Unlock()
	for ; p.made < n; p.made++ {
		p.free = append(p.free, &mulScratch{})
	}
}

// takeScratch returns memory of any content; give returns it.
func takeScratch() *mulScratch {
	p := &mulScratches
	p.Lock()
	defer p.Unlock()
	if n := len(p.free); n > 0 {
		s := p.free[n-1]
		p.free = p.free[:n-1]
		return s
	}
	p.made++ // several backends at once
	return &mulScratch{}
}

func (s *mulScratch) give() {
	mulScratches.Lock()
	mulScratches.free = append(mulScratches.free, s)
	mulScratches.Unlock()
}
