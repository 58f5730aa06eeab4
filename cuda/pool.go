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
	where map[Ptr]*slab
	stats poolStats
}

type slab struct {
	base       Ptr
	size, used int64
	live       int
}

// poolStats are the pool's counters in bytes.
type poolStats struct{ Reserved, Peak int64 }

const (
	slabBytes = 32 << 20
	poolAlign = 256
)

func (p *pool) get(n int64) (Ptr, error) {
	if n < 0 {
		return 0, fmt.Errorf("cuda: allocation of %d bytes: %w", n, ErrDriver)
	}
	if p.where == nil {
		p.where = map[Ptr]*slab{}
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
	p.stats.Reserved += size
	p.stats.Peak = max(p.stats.Peak, p.stats.Reserved)
	return p.take(s, n), nil
}

func (p *pool) take(s *slab, n int64) Ptr {
	a := s.base + Ptr(s.used)
	s.used += n
	s.live++
	p.where[a] = s
	return a
}

func (p *pool) put(a Ptr) error {
	s := p.where[a]
	if s == nil {
		return fmt.Errorf("cuda: free of %#x, which was not allocated: %w", uint64(a), ErrDriver)
	}
	delete(p.where, a)
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
