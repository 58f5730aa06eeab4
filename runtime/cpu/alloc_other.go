//go:build !linux

package cpu

import "unsafe"

// mapMemory has no portable way outside the heap; the heap it is, aligned to a
// cache line.
func mapMemory(n int) (base []byte, off int, err error) {
	base = make([]byte, n+slack)
	return base, int(-uintptr(unsafe.Pointer(unsafe.SliceData(base))) & (slack - 1)), nil
}

func unmapMemory([]byte) {}
