//go:build cgo

package main

/*
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
*/
import "C"

import (
	"unsafe"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

//export cuMemAlloc_v2
func cuMemAlloc_v2(out *C.uint64_t, n C.size_t) C.int {
	return with("cuMemAlloc_v2", func(d *ptxsim.Device) error {
		p, err := d.Alloc(int64(n))
		if err == nil {
			*out = C.uint64_t(p)
		}
		return err
	})
}

//export cuMemFree_v2
func cuMemFree_v2(p C.uint64_t) C.int {
	return with("cuMemFree_v2", func(d *ptxsim.Device) error { return d.Free(ptxsim.Ptr(p)) })
}

//export cuMemAllocAsync
func cuMemAllocAsync(out *C.uint64_t, n C.size_t, s C.uintptr_t) C.int { return cuMemAlloc_v2(out, n) }

//export cuMemFreeAsync
func cuMemFreeAsync(p C.uint64_t, s C.uintptr_t) C.int { return cuMemFree_v2(p) }

//export cuMemGetInfo_v2
func cuMemGetInfo_v2(free, total *C.size_t) C.int {
	return with("cuMemGetInfo_v2", func(d *ptxsim.Device) error {
		if err := d.Check("cuMemGetInfo"); err != nil {
			return err
		}
		f, t, _, _ := d.MemInfo()
		*free, *total = C.size_t(f), C.size_t(t)
		return nil
	})
}

// hostAlloc gives pinned memory: to the simulator any host memory is.
func hostAlloc(call string, out *unsafe.Pointer, n C.size_t) C.int {
	return with(call, func(d *ptxsim.Device) error {
		if err := d.Check(call); err != nil {
			return err
		}
		if n == 0 {
			return ptxsim.ErrInvalidValue
		}
		if *out = C.malloc(n); *out == nil {
			return ptxsim.ErrOutOfMemory
		}
		return nil
	})
}

//export cuMemHostAlloc
func cuMemHostAlloc(out *unsafe.Pointer, n C.size_t, flags C.uint) C.int {
	return hostAlloc("cuMemHostAlloc", out, n)
}

//export cuMemAllocHost_v2
func cuMemAllocHost_v2(out *unsafe.Pointer, n C.size_t) C.int {
	return hostAlloc("cuMemAllocHost", out, n)
}

//export cuMemFreeHost
func cuMemFreeHost(p unsafe.Pointer) C.int {
	C.free(p)
	return 0
}

//export cuMemcpyHtoD_v2
func cuMemcpyHtoD_v2(dst C.uint64_t, src unsafe.Pointer, n C.size_t) C.int {
	return with("cuMemcpyHtoD_v2", func(d *ptxsim.Device) error { return d.HtoD(ptxsim.Ptr(dst), hostBytes(src, n)) })
}

//export cuMemcpyDtoH_v2
func cuMemcpyDtoH_v2(dst unsafe.Pointer, src C.uint64_t, n C.size_t) C.int {
	return with("cuMemcpyDtoH_v2", func(d *ptxsim.Device) error { return d.DtoH(hostBytes(dst, n), ptxsim.Ptr(src)) })
}

//export cuMemcpyDtoD_v2
func cuMemcpyDtoD_v2(dst, src C.uint64_t, n C.size_t) C.int {
	return with("cuMemcpyDtoD_v2", func(d *ptxsim.Device) error { return d.DtoD(ptxsim.Ptr(dst), ptxsim.Ptr(src), int(n)) })
}

//export cuMemcpyHtoDAsync_v2
func cuMemcpyHtoDAsync_v2(dst C.uint64_t, src unsafe.Pointer, n C.size_t, s C.uintptr_t) C.int {
	return onStream("cuMemcpyHtoDAsync_v2", s, func(d *ptxsim.Device) error { return d.HtoD(ptxsim.Ptr(dst), hostBytes(src, n)) })
}

//export cuMemcpyDtoHAsync_v2
func cuMemcpyDtoHAsync_v2(dst unsafe.Pointer, src C.uint64_t, n C.size_t, s C.uintptr_t) C.int {
	return onStream("cuMemcpyDtoHAsync_v2", s, func(d *ptxsim.Device) error { return d.DtoH(hostBytes(dst, n), ptxsim.Ptr(src)) })
}

//export cuMemcpyDtoDAsync_v2
func cuMemcpyDtoDAsync_v2(dst, src C.uint64_t, n C.size_t, s C.uintptr_t) C.int {
	return onStream("cuMemcpyDtoDAsync_v2", s, func(d *ptxsim.Device) error { return d.DtoD(ptxsim.Ptr(dst), ptxsim.Ptr(src), int(n)) })
}

func memset16(d *ptxsim.Device, dst C.uint64_t, v C.ushort, n C.size_t) error {
	b := make([]byte, 2*int(n))
	for i := 0; i < len(b); i += 2 {
		b[i], b[i+1] = byte(v), byte(v>>8)
	}
	return d.HtoD(ptxsim.Ptr(dst), b)
}

//export cuMemsetD8_v2
func cuMemsetD8_v2(dst C.uint64_t, v C.uchar, n C.size_t) C.int {
	return with("cuMemsetD8_v2", func(d *ptxsim.Device) error { return d.Memset8(ptxsim.Ptr(dst), byte(v), int(n)) })
}

//export cuMemsetD16_v2
func cuMemsetD16_v2(dst C.uint64_t, v C.ushort, n C.size_t) C.int {
	return with("cuMemsetD16_v2", func(d *ptxsim.Device) error { return memset16(d, dst, v, n) })
}

//export cuMemsetD32_v2
func cuMemsetD32_v2(dst C.uint64_t, v C.uint, n C.size_t) C.int {
	return with("cuMemsetD32_v2", func(d *ptxsim.Device) error { return d.Memset32(ptxsim.Ptr(dst), uint32(v), int(n)) })
}

//export cuMemsetD8Async
func cuMemsetD8Async(dst C.uint64_t, v C.uchar, n C.size_t, s C.uintptr_t) C.int {
	return onStream("cuMemsetD8Async", s, func(d *ptxsim.Device) error { return d.Memset8(ptxsim.Ptr(dst), byte(v), int(n)) })
}

//export cuMemsetD16Async
func cuMemsetD16Async(dst C.uint64_t, v C.ushort, n C.size_t, s C.uintptr_t) C.int {
	return onStream("cuMemsetD16Async", s, func(d *ptxsim.Device) error { return memset16(d, dst, v, n) })
}

//export cuMemsetD32Async
func cuMemsetD32Async(dst C.uint64_t, v C.uint, n C.size_t, s C.uintptr_t) C.int {
	return onStream("cuMemsetD32Async", s, func(d *ptxsim.Device) error { return d.Memset32(ptxsim.Ptr(dst), uint32(v), int(n)) })
}
