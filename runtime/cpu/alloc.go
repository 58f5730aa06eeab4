package cpu

import (
	goruntime "runtime"
	"unsafe"
)

// region is memory outside the Go heap for packed weights, the KV cache and the
// arena: page-aligned, zero at first, on huge pages where the system offers them,
// and given back at once by free. The garbage collector neither scans nor moves
// it, and does not see slices into it: whoever holds a slice keeps the region.
type region struct {
	b    []byte
	base []byte // what was mapped
}

const (
	hugePage = 2 << 20
	// slack follows every region, so that a kernel may read a whole register past
	// the last number.
	slack = 64
)

// alloc returns n bytes. A region that is dropped without free is freed by the
// garbage collector.
func alloc(n int) (*region, error) {
	r := &region{}
	base, off, err := mapMemory(n + slack)
	if err != nil {
		return nil, err
	}
	r.base, r.b = base, base[off:off+n:off+n]
	goruntime.SetFinalizer(r, (*region).free)
	return r, nil
}

func (r *region) bytes() []byte { return r.b }

// free gives the memory back; slices into it must not be used any more.
func (r *region) free() {
	if r == nil || r.base == nil {
		return
	}
	goruntime.SetFinalizer(r, nil)
	unmapMemory(r.base)
	r.base, r.b = nil, nil
}

// reinterpret views bytes as numbers; b is aligned for T and holds whole ones.
func reinterpret[T any](b []byte) []T {
	if len(b) == 0 {
		return nil
	}
	var t T
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(t)))
}

func f32s(b []byte) []float32 { return reinterpret[float32](b) }
func u16s(b []byte) []uint16  { return reinterpret[uint16](b) }
func u32s(b []byte) []uint32  { return reinterpret[uint32](b) }
func i8s(b []byte) []int8     { return reinterpret[int8](b) }
func i32s(b []byte) []int32   { return reinterpret[int32](b) }
