package ptxsim

import (
	"fmt"
	"sync"
)

// Device memory lies in a private range of addresses that are no host pointers.
// Every allocation starts at a page of its own and leaves at least guardBytes
// unmapped behind it, so that overruns hit nothing.
const (
	memBase    = uint64(0x1000000000)
	pageBits   = 20
	pageSize   = 1 << pageBits
	guardBytes = 4096
	poisonByte = 0xff // f16, bf16 and f32 NaN
	quarantine = 1024 // freed allocations whose addresses are not reused yet
)

type allocation struct {
	base  uint64
	data  []byte
	pages int
	name  string // of a module variable, "" for Alloc
}

// memory is the device's global memory. Launches hold mu for reading.
type memory struct {
	mu    sync.RWMutex
	table []*allocation // by page
	used  int64
	limit int64
	peak  int64
	count int
	freed []*allocation // quarantine, oldest first
	holes [][2]int      // [page, pages] free for reuse
}

// alloc makes n bytes, poisoned. n == 0 is the driver's ErrInvalidValue.
func (m *memory) alloc(n int64, name string) (*allocation, error) {
	if n <= 0 {
		return nil, fmt.Errorf("allocation of %d bytes: %w", n, ErrInvalidValue)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if n > m.limit-m.used {
		return nil, fmt.Errorf("allocation of %d bytes, %d of %d in use: %w", n, m.used, m.limit, ErrOutOfMemory)
	}
	pages := int((n + guardBytes + pageSize - 1) >> pageBits)
	at := m.place(pages)
	a := &allocation{base: memBase + uint64(at)<<pageBits, data: make([]byte, (n+15)&^15)[:n:n], pages: pages, name: name}
	for i := range a.data {
		a.data[i] = poisonByte
	}
	for i := at; i < at+pages; i++ {
		m.table[i] = a
	}
	m.used += n
	m.peak = max(m.peak, m.used)
	m.count++
	return a, nil
}

func (m *memory) place(pages int) int {
	for i, h := range m.holes {
		if h[1] >= pages {
			if h[1] == pages {
				m.holes = append(m.holes[:i], m.holes[i+1:]...)
			} else {
				m.holes[i] = [2]int{h[0] + pages, h[1] - pages}
			}
			return h[0]
		}
	}
	at := len(m.table)
	m.table = append(m.table, make([]*allocation, pages)...)
	return at
}

// release frees the allocation that starts at addr.
func (m *memory) release(addr uint64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := m.at(addr)
	if a == nil || a.base != addr || a.name != "" {
		return fmt.Errorf("free of %#x, which is no allocation: %w", addr, ErrInvalidValue)
	}
	m.drop(a)
	return nil
}

func (m *memory) drop(a *allocation) {
	at := int((a.base - memBase) >> pageBits)
	for i := at; i < at+a.pages; i++ {
		m.table[i] = nil
	}
	m.used -= int64(len(a.data))
	m.count--
	a.data = nil
	if m.freed = append(m.freed, a); len(m.freed) > quarantine {
		old := m.freed[0]
		m.freed = m.freed[1:]
		m.holes = append(m.holes, [2]int{int((old.base - memBase) >> pageBits), old.pages})
	}
}

// at is the allocation that holds addr, or nil. The caller holds mu.
func (m *memory) at(addr uint64) *allocation {
	p := (addr - memBase) >> pageBits
	if addr < memBase || p >= uint64(len(m.table)) {
		return nil
	}
	return m.table[p]
}

// bytes gives n bytes at addr, or an error that says why not. The caller holds mu.
func (m *memory) bytes(addr uint64, n int) ([]byte, error) {
	a := m.at(addr)
	if a == nil {
		return nil, fmt.Errorf("address %#x, %d bytes: no allocation there: %w", addr, n, ErrInvalidValue)
	}
	off := addr - a.base
	if off > uint64(len(a.data)) || uint64(n) > uint64(len(a.data))-off {
		return nil, fmt.Errorf("address %#x, %d bytes: offset %d of an allocation of %d bytes: %w", addr, n, off, len(a.data), ErrInvalidValue)
	}
	return a.data[off : off+uint64(n) : off+uint64(n)], nil
}

// global gives the n bytes that a kernel's lane accesses, n a power of two.
func (w *warp) global(addr uint64, n uint64, lane int) []byte {
	if addr&(n-1) != 0 {
		w.fail(KindAlignment, lane, "global address %#x for %d bytes", addr, n)
	}
	m := &w.blk.run.dev.mem
	if p := (addr - memBase) >> pageBits; addr >= memBase && p < uint64(len(m.table)) {
		if a := m.table[p]; a != nil {
			if off := addr - a.base; off+n <= uint64(len(a.data)) {
				return a.data[off : off+n : off+n]
			}
			w.fail(KindBounds, lane, "global address %#x, %d bytes: offset %d of an allocation of %d bytes", addr, n, addr-a.base, len(a.data))
		}
	}
	w.fail(KindBounds, lane, "global address %#x, %d bytes: no allocation there", addr, n)
	return nil
}
