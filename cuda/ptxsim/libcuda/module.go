//go:build cgo

package main

/*
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
*/
import "C"

import (
	"bytes"
	"fmt"
	"os"
	"unsafe"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

// loadImage loads PTX text; ELF files and fat binaries hold SASS, which nothing
// here can run.
func loadImage(call string, out *C.uintptr_t, image []byte) (C.int, error) {
	var failed error
	r := with(call, func(d *ptxsim.Device) error {
		if bytes.HasPrefix(image, []byte("\x7fELF")) || bytes.HasPrefix(image, []byte{0x50, 0xed, 0x55, 0xba}) {
			if err := d.Check("cuModuleLoadData"); err != nil {
				return err
			}
			return fmt.Errorf("the simulator runs PTX only: %w", ptxsim.ErrNoBinaryForGPU)
		}
		m, err := d.Load(string(image))
		if failed = err; err != nil {
			return err
		}
		drv.mu.Lock()
		defer drv.mu.Unlock()
		*out = C.uintptr_t(drv.put(m))
		return nil
	})
	return r, failed
}

// cImage is a text that ends with a NUL, or the head of a binary image.
func cImage(p unsafe.Pointer) []byte {
	head := unsafe.Slice((*byte)(p), 4)
	if bytes.Equal(head, []byte("\x7fELF")) || bytes.Equal(head, []byte{0x50, 0xed, 0x55, 0xba}) {
		return head
	}
	return C.GoBytes(p, C.int(C.strlen((*C.char)(p))))
}

//export cuModuleLoadData
func cuModuleLoadData(out *C.uintptr_t, image unsafe.Pointer) C.int {
	r, _ := loadImage("cuModuleLoadData", out, cImage(image))
	return r
}

//export cuModuleLoadDataEx
func cuModuleLoadDataEx(out *C.uintptr_t, image unsafe.Pointer, n C.uint, opts *C.int, vals *unsafe.Pointer) C.int {
	r, err := loadImage("cuModuleLoadDataEx", out, cImage(image))
	if err != nil && n > 0 {
		keys, values := unsafe.Slice(opts, int(n)), unsafe.Slice(vals, int(n))
		var buf unsafe.Pointer
		size := 0
		for i, k := range keys {
			switch k {
			case 5: // CU_JIT_ERROR_LOG_BUFFER
				buf = values[i]
			case 6: // CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
				size = int(uintptr(values[i]))
			}
		}
		if buf != nil && size > 0 {
			b := unsafe.Slice((*byte)(buf), size)
			b[copy(b[:size-1], err.Error())] = 0
		}
	}
	return r
}

//export cuModuleLoadFatBinary
func cuModuleLoadFatBinary(out *C.uintptr_t, image unsafe.Pointer) C.int {
	r, _ := loadImage("cuModuleLoadFatBinary", out, cImage(image))
	return r
}

//export cuModuleLoad
func cuModuleLoad(out *C.uintptr_t, name *C.char) C.int {
	image, err := os.ReadFile(C.GoString(name))
	if err != nil {
		return drv.code("cuModuleLoad", ptxsim.ErrFileNotFound)
	}
	r, _ := loadImage("cuModuleLoad", out, image)
	return r
}

//export cuModuleUnload
func cuModuleUnload(h C.uintptr_t) C.int {
	m, err := get[*ptxsim.Module](drv, uintptr(h))
	if err == nil {
		err = m.Unload()
	}
	if err == nil {
		drv.mu.Lock()
		delete(drv.handles, uintptr(h))
		drv.mu.Unlock()
	}
	return drv.code("cuModuleUnload", err)
}

//export cuModuleGetFunction
func cuModuleGetFunction(out *C.uintptr_t, h C.uintptr_t, name *C.char) C.int {
	m, err := get[*ptxsim.Module](drv, uintptr(h))
	if err != nil {
		return drv.code("cuModuleGetFunction", err)
	}
	k, err := m.Kernel(C.GoString(name))
	if err == nil {
		drv.mu.Lock()
		*out = C.uintptr_t(drv.put(k))
		drv.mu.Unlock()
	}
	return drv.code("cuModuleGetFunction", err)
}

//export cuModuleGetGlobal_v2
func cuModuleGetGlobal_v2(out *C.uint64_t, n *C.size_t, h C.uintptr_t, name *C.char) C.int {
	m, err := get[*ptxsim.Module](drv, uintptr(h))
	if err != nil {
		return drv.code("cuModuleGetGlobal_v2", err)
	}
	p, size, err := m.Global(C.GoString(name))
	if err == nil {
		if out != nil {
			*out = C.uint64_t(p)
		}
		if n != nil {
			*n = C.size_t(size)
		}
	}
	return drv.code("cuModuleGetGlobal_v2", err)
}

//export cuFuncGetAttribute
func cuFuncGetAttribute(out *C.int, a C.int, h C.uintptr_t) C.int {
	k, err := get[*ptxsim.Kernel](drv, uintptr(h))
	if err != nil {
		return drv.code("cuFuncGetAttribute", err)
	}
	v := 0
	switch a { // CUfunction_attribute
	case 0:
		v = k.MaxThreads()
	case 1:
		v = k.StaticShared()
	case 3:
		v = k.LocalBytes()
	case 4: // registers: PTX does not know
		v = 32
	case 5, 6:
		v = 80
	case 8:
		v = k.MaxDynamicShared()
	}
	*out = C.int(v)
	return 0
}

//export cuFuncSetAttribute
func cuFuncSetAttribute(h C.uintptr_t, a C.int, v C.int) C.int {
	k, err := get[*ptxsim.Kernel](drv, uintptr(h))
	if err == nil && a == 8 {
		err = k.SetMaxDynamicShared(int(v))
	}
	return drv.code("cuFuncSetAttribute", err)
}

//export cuFuncSetCacheConfig
func cuFuncSetCacheConfig(h C.uintptr_t, c C.int) C.int {
	_, err := get[*ptxsim.Kernel](drv, uintptr(h))
	return drv.code("cuFuncSetCacheConfig", err)
}

//export cuLaunchKernel
func cuLaunchKernel(h C.uintptr_t, gx, gy, gz, bx, by, bz, shared C.uint, s C.uintptr_t, params, extra *unsafe.Pointer) C.int {
	k, err := get[*ptxsim.Kernel](drv, uintptr(h))
	if err != nil {
		return drv.code("cuLaunchKernel", err)
	}
	if gx == 0 || gy == 0 || gz == 0 || bx == 0 || by == 0 || bz == 0 {
		return drv.code("cuLaunchKernel", fmt.Errorf("%s: an extent is zero: %w", k.Name(), ptxsim.ErrInvalidValue))
	}
	packed, err := packParams(k, params, extra)
	if err != nil {
		return drv.code("cuLaunchKernel", err)
	}
	grid, block := ptxsim.Dim3{X: int(gx), Y: int(gy), Z: int(gz)}, ptxsim.Dim3{X: int(bx), Y: int(by), Z: int(bz)}
	return onStream("cuLaunchKernel", s, func(d *ptxsim.Device) error {
		return d.LaunchPacked(k, grid, block, int(shared), packed)
	})
}

// packParams copies the arguments: one pointer each, or a buffer in extra.
func packParams(k *ptxsim.Kernel, params, extra *unsafe.Pointer) ([]byte, error) {
	out := make([]byte, k.ParamBytes())
	offs, sizes := k.ParamLayout()
	if len(offs) == 0 {
		return out, nil
	}
	if params != nil {
		for i, p := range unsafe.Slice(params, len(offs)) {
			copy(out[offs[i]:], unsafe.Slice((*byte)(p), sizes[i]))
		}
		return out, nil
	}
	if extra == nil {
		return nil, fmt.Errorf("%s: no parameters: %w", k.Name(), ptxsim.ErrInvalidValue)
	}
	var buf unsafe.Pointer
	var n uintptr
	for i := 0; i < 16; i += 2 {
		at := unsafe.Slice(extra, i+2)
		switch uintptr(at[i]) {
		case 0: // CU_LAUNCH_PARAM_END
			if buf == nil || n > uintptr(len(out)) {
				return nil, fmt.Errorf("%s: %d bytes of parameters, want %d: %w", k.Name(), n, len(out), ptxsim.ErrInvalidValue)
			}
			copy(out, unsafe.Slice((*byte)(buf), n))
			return out, nil
		case 1: // CU_LAUNCH_PARAM_BUFFER_POINTER
			buf = at[i+1]
		case 2: // CU_LAUNCH_PARAM_BUFFER_SIZE
			n = *(*uintptr)(at[i+1])
		}
	}
	return nil, ptxsim.ErrInvalidValue
}

// occupancy counts blocks by threads and shared memory; registers are unknown.
func occupancy(d *ptxsim.Device, k *ptxsim.Kernel, threads, shared int) int {
	per := min(attribute(d, 39)/max(threads, 1), attribute(d, 106))
	if s := k.StaticShared() + shared; s > 0 {
		per = min(per, attribute(d, 81)/(s+1024))
	}
	return per
}

//export cuOccupancyMaxActiveBlocksPerMultiprocessor
func cuOccupancyMaxActiveBlocksPerMultiprocessor(out *C.int, h C.uintptr_t, threads C.int, shared C.size_t) C.int {
	return with("cuOccupancyMaxActiveBlocksPerMultiprocessor", func(d *ptxsim.Device) error {
		k, err := get[*ptxsim.Kernel](drv, uintptr(h))
		if err == nil {
			*out = C.int(occupancy(d, k, int(threads), int(shared)))
		}
		return err
	})
}

//export cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags
func cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(out *C.int, h C.uintptr_t, threads C.int, shared C.size_t, flags C.uint) C.int {
	return cuOccupancyMaxActiveBlocksPerMultiprocessor(out, h, threads, shared)
}
