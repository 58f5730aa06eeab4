package cpu

import "sync/atomic"

// dealer numbers the parts of a job that runs again and again, so that each worker
// gets the same ones every time, and what it wrote or read of them is in its own
// cache still; a worker that has done its own takes what others have left. pool
// deals parts out by who comes first.
type dealer struct {
	hands []hand // by worker
	parts int
}

// hand counts the parts taken of one worker's own. It fills a cache line.
type hand struct {
	taken atomic.Uint32
	_     [60]byte
}

// start sets n parts out. No part of the run before may be at work.
func (d *dealer) start(n int) {
	d.parts = n
	for i := range d.hands {
		d.hands[i].taken.Store(0)
	}
}

// take is a part for worker; it may be called as often as there are parts.
func (d *dealer) take(worker int) int {
	n := len(d.hands)
	for k := range n {
		h := (worker + k) % n
		first, end := h*d.parts/n, (h+1)*d.parts/n
		if i := first + int(d.hands[h].taken.Add(1)) - 1; i < end {
			return i
		}
	}
	panic("cpu: more calls than parts")
}
