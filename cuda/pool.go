package cuda

import (
	"errors"
	"fmt"
)

// pool hands out device memory from slabs: cuMemAlloc takes tens of microseconds
// and 2 MiB at least, a model has hundreds of small tensors. A slab goes back to
// the driver when its last piece does.
type pool struct {
	alloc func(n int64) (Ptr, error)
	free  func(Ptr) error

	slabs []*slab
	where map[Ptr]piece
	stats PoolStats
}

type slab struct {
	base       Ptr
	size, used int64
	live       int
}

// piece is a live allocation.
type piece struct {
	slab *slab
	size int64
}

// PoolStats are the counters of a device's memory pool.
type PoolStats struct {
	Reserved int64 `json:"reserved"` // bytes taken from the driver
	Peak     int64 `json:"peak"`     // the most of those so far
	Used     int64 `json:"used"`     // bytes of live pieces, rounded to the pool's alignment
	Pieces   int   `json:"pieces"`   // live
	Slabs    int   `json:"slabs"`    // of the driver's allocations, live
	Gets     int64 `json:"gets"`     // pieces handed out so far
	Allocs   int64 `json:"allocs"`   // calls of cuMemAlloc so far
}

const (
	slabBytes = 32 << 20
	poolAlign = 256
)

func (p *pool) get(n int64) (Ptr, error) {
	if n < 0 {
		return 0, fmt.Errorf("cuda: allocation of %d bytes: %w", n, ErrDriver)
	}
	if p.where == nil {
		p.where = map[Ptr]piece{}
	}
	n = max(n, 1)
	n = (n + poolAlign - 1) / poolAlign * poolAlign
	for _, s := range p.slabs {
		if s.size-s.used >= n {
			return p.take(s, n), nil
		}
	}
	size := max(n, slabBytes)
	base, err := p.alloc(size)
	if err != nil && size > n { // what is left may still hold the piece itself
		size = n
		base, err = p.alloc(size)
	}
	if err != nil {
		return 0, err
	}
	s := &slab{base: base, size: size}
	p.slabs = append(p.slabs, s)
	p.stats.Slabs++
	p.stats.Allocs++
	p.stats.Reserved += size
	p.stats.Peak = max(p.stats.Peak, p.stats.Reserved)
	return p.take(s, n), nil
}

func (p *pool) take(s *slab, n int64) Ptr {
	a := s.base + Ptr(s.used)
	s.used += n
	s.live++
	p.where[a] = piece{s, n}
	p.stats.Used += n
	p.stats.Pieces++
	p.stats.Gets++
	return a
}

func (p *pool) put(a Ptr) error {
	w, ok := p.where[a]
	s := w.slab
	if !ok {
		return fmt.Errorf("cuda: free of %#x, which was not allocated: %w", uint64(a), ErrDriver)
	}
	delete(p.where, a)
	p.stats.Used -= w.size
	p.stats.Pieces--
	if s.live--; s.live > 0 {
		return nil
	}
	for i, x := range p.slabs {
		if x == s {
			p.slabs = append(p.slabs[:i], p.slabs[i+1:]...)
			break
		}
	}
	p.stats.Reserved -= s.size
	p.stats.Slabs--
	return p.free(s.base)
}

func (p *pool) close() error {
	var errs []error
	for _, s := range p.slabs {
		errs = append(errs, p.free(s.base))
	}
	p.slabs, p.where = nil, nil
	return errors.Join(errs...)
}
