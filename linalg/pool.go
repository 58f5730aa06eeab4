package linalg

import (
	"sync"
	"sync/atomic"
)

// Pool bounds how many goroutines a call may use. It holds no goroutines of its
// own and may be shared. A nil Pool is serial.
type Pool struct{ threads int }

// NewPool allows n threads; n < 1 counts as 1.
func NewPool(n int) *Pool { return &Pool{threads: max(n, 1)} }

// Threads is the bound.
func (p *Pool) Threads() int {
	if p == nil {
		return 1
	}
	return p.threads
}

// Run calls f(0) ... f(n-1), each once, in no order and at most Threads at a time,
// and returns when all are done. The caller's goroutine takes part.
func (p *Pool) Run(n int, f func(i int)) {
	workers := min(p.Threads(), n)
	if workers <= 1 {
		for i := range n {
			f(i)
		}
		return
	}
	var next atomic.Int64
	work := func() {
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			f(i)
		}
	}
	var wg sync.WaitGroup
	for range workers - 1 {
		wg.Go(work)
	}
	work()
	wg.Wait()
}

// Split cuts 0..n into at most Threads ranges of near equal length, each a multiple
// of grain but the last, and calls f with each.
func (p *Pool) Split(n, grain int, f func(lo, hi int)) {
	if n <= 0 {
		return
	}
	grain = max(grain, 1)
	units := (n + grain - 1) / grain
	per := (units + p.Threads() - 1) / p.Threads() * grain
	p.Run((n+per-1)/per, func(i int) { f(i*per, min(n, (i+1)*per)) })
}
