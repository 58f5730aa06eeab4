package cpu

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sparserun/sparserun/runtime"
)

// mapMemory maps at least n bytes; the usable part starts at off, on a huge page's
// boundary where it is large enough to fill one.
func mapMemory(n int) (base []byte, off int, err error) {
	size := n
	if n >= hugePage {
		size += hugePage
	}
	base, err = unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, 0, fmt.Errorf("cpu: %d bytes: %w: %w", n, runtime.ErrMemory, err)
	}
	if n >= hugePage {
		addr := uintptr(unsafe.Pointer(unsafe.SliceData(base)))
		off = int(-addr & (hugePage - 1))
		// Refused advice only costs speed.
		_ = unix.Madvise(base[off:off+n&^(hugePage-1)], unix.MADV_HUGEPAGE)
	}
	return base, off, nil
}

func unmapMemory(base []byte) { _ = unix.Munmap(base) }
