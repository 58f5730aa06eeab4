package cpu

import (
	"sync"
	"unsafe"
)

// Weights of a small model are matrices of less than a huge page. They are cut
// from slabs that are whole ones: on pages of 4 KiB a stream of weights loses up
// to half of its speed to address translation and to prefetchers that stop at
// every page.
const (
	slabBytes = 32 << 20
	slabLimit = slabBytes / 4 // larger weights have a region of their own
)

// slab is a region that several weights share; the last one to go frees it.
type slab struct {
	r          *region
	used, live int
}

var slabs struct {
	sync.Mutex
	open *slab
}

// weightMemory is the memory of one weight.
type weightMemory struct {
	b    []byte
	own  *region
	slab *slab
}

// allocWeight returns n bytes, 64-byte aligned and zero at first.
func allocWeight(n int) (*weightMemory, error) {
	if n > slabLimit {
		// Rounded up, so that the end lies on a huge page too.
		r, err := alloc((n+slack+hugePage-1)&^(hugePage-1) - slack)
		if err != nil {
			return nil, err
		}
		return &weightMemory{b: r.bytes()[:n], own: r}, nil
	}
	slabs.Lock()
	defer slabs.Unlock()
	s := slabs.open
	size := (n + slack + 63) &^ 63
	if s == nil || s.used+size > len(s.r.bytes()) {
		r, err := alloc(slabBytes - slack)
		if err != nil {
			return nil, err
		}
		if s != nil && s.live == 0 {
			s.r.free()
		}
		s = &slab{r: r}
		slabs.open = s
	}
	m := &weightMemory{b: s.r.bytes()[s.used : s.used+n : s.used+n], slab: s}
	s.used += size
	s.live++
	return m, nil
}

func (m *weightMemory) bytes() []byte { return m.b }

// clone is a copy in memory of its own.
func (m *weightMemory) clone() (*weightMemory, error) {
	c, err := allocWeight(len(m.b))
	if err != nil {
		return nil, err
	}
	copy(c.b, m.b)
	return c, nil
}

// again is s, which lies in m, at its place in the clone c.
func again[T any](s []T, m, c *weightMemory) []T {
	if len(s) == 0 {
		return nil
	}
	from := uintptr(unsafe.Pointer(&s[0])) - uintptr(unsafe.Pointer(&m.b[0]))
	return reinterpret[T](c.b[from : from+uintptr(len(s))*unsafe.Sizeof(s[0])])
}

// free gives the memory back; slices into it must not be used any more.
func (m *weightMemory) free() {
	if m == nil || m.b == nil {
		return
	}
	m.b = nil
	if m.own != nil {
		m.own.free()
		return
	}
	slabs.Lock()
	defer slabs.Unlock()
	s := m.slab
	if s.live--; s.live > 0 {
		return
	}
	if s == slabs.open {
		slabs.open = nil
	}
	s.r.free()
}
