//go:build cgo

package main

/*
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
*/
import "C"

import (
	"fmt"
	"unsafe"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

//export cuInit
func cuInit(flags C.uint) C.int {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	if flags != 0 {
		return C.int(ptxsim.ErrInvalidValue)
	}
	return drv.code("cuInit", drv.start())
}

//export cuDriverGetVersion
func cuDriverGetVersion(v *C.int) C.int {
	if v == nil {
		return C.int(ptxsim.ErrInvalidValue)
	}
	*v = 13050
	return 0
}

//export cuDeviceGetCount
func cuDeviceGetCount(n *C.int) C.int {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	if !drv.inited {
		return C.int(ptxsim.ErrNotInitialized)
	}
	if err := drv.plan.Check("cuDeviceGetCount"); err != nil {
		return drv.code("cuDeviceGetCount", err)
	}
	*n = C.int(len(drv.devices))
	return 0
}

// deviceAt is device number i.
func deviceAt(i C.int) (*ptxsim.Device, error) {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	if !drv.inited {
		return nil, ptxsim.ErrNotInitialized
	}
	if i < 0 || int(i) >= len(drv.devices) {
		return nil, ptxsim.ErrInvalidDevice
	}
	return drv.devices[i], nil
}

//export cuDeviceGet
func cuDeviceGet(out *C.int, i C.int) C.int {
	d, err := deviceAt(i)
	if err == nil {
		err = d.Check("cuDeviceGet")
	}
	if err == nil {
		*out = i
	}
	return drv.code("cuDeviceGet", err)
}

//export cuDeviceGetName
func cuDeviceGetName(out *C.char, n C.int, i C.int) C.int {
	d, err := deviceAt(i)
	if err == nil && n > 0 {
		b := unsafe.Slice((*byte)(unsafe.Pointer(out)), int(n))
		b[copy(b[:n-1], d.Name())] = 0
	}
	return drv.code("cuDeviceGetName", err)
}

// cuDeviceGetPCIBusId names a place on a bus that is not there, by which NVML finds the
// energy meter.
//
//export cuDeviceGetPCIBusId
func cuDeviceGetPCIBusId(out *C.char, n C.int, i C.int) C.int {
	_, err := deviceAt(i)
	if err == nil && n > 0 {
		b := unsafe.Slice((*byte)(unsafe.Pointer(out)), int(n))
		b[copy(b[:n-1], fmt.Sprintf("0000:%02x:00.0", int(i)))] = 0
	}
	return drv.code("cuDeviceGetPCIBusId", err)
}

func uuid(out *C.char, i C.int) C.int {
	_, err := deviceAt(i)
	if err == nil {
		b := unsafe.Slice((*byte)(unsafe.Pointer(out)), 16)
		copy(b, "ptxsim-no-gpu---")
		b[15] = byte(i)
	}
	return drv.code("cuDeviceGetUuid", err)
}

//export cuDeviceGetUuid
func cuDeviceGetUuid(out *C.char, i C.int) C.int { return uuid(out, i) }

//export cuDeviceGetUuid_v2
func cuDeviceGetUuid_v2(out *C.char, i C.int) C.int { return uuid(out, i) }

//export cuDeviceTotalMem_v2
func cuDeviceTotalMem_v2(out *C.size_t, i C.int) C.int {
	d, err := deviceAt(i)
	if err == nil {
		_, total, _, _ := d.MemInfo()
		*out = C.size_t(total)
	}
	return drv.code("cuDeviceTotalMem_v2", err)
}

//export cuDeviceComputeCapability
func cuDeviceComputeCapability(major, minor *C.int, i C.int) C.int {
	d, err := deviceAt(i)
	if err == nil {
		*major, *minor = C.int(d.Config().Major), C.int(d.Config().Minor)
	}
	return drv.code("cuDeviceComputeCapability", err)
}

// attribute gives CUdevice_attribute number a (cuda.h); those left out are 0.
func attribute(d *ptxsim.Device, a int) int {
	cfg := d.Config()
	switch a {
	case 1, 2, 3: // threads a block, block x, y
		return 1024
	case 4:
		return 64
	case 5:
		return 1<<31 - 1
	case 6, 7:
		return 65535
	case 8: // shared memory a block without opting in
		return 48 << 10
	case 9: // constant memory
		return 64 << 10
	case 10: // warp
		return 32
	case 11: // pitch
		return 1<<31 - 1
	case 12, 82: // registers a block, a multiprocessor
		return 65536
	case 13, 36: // clocks in kHz: there are none; 1 keeps divisions alive
		return 1
	case 14:
		return 512
	case 16:
		return cfg.Multiprocessors
	case 15, 31, 40, 41, 78, 95: // overlap, concurrent kernels, copy engines, UVA, priorities, cooperative
		return 1
	case 37: // memory bus in bits
		return 1
	case 38: // L2 bytes
		return 4 << 20
	case 39: // threads a multiprocessor
		if cfg.Major == 8 && cfg.Minor > 0 || cfg.Major == 12 {
			return 1536
		}
		return 2048
	case 75:
		return cfg.Major
	case 76:
		return cfg.Minor
	case 81: // shared memory a multiprocessor
		return d.SharedLimit() + 1024
	case 97: // shared memory a block, opting in
		return d.SharedLimit()
	case 106: // blocks a multiprocessor
		return 16
	case 111: // reserved shared memory a block
		return 1024
	}
	return 0
}

//export cuDeviceGetAttribute
func cuDeviceGetAttribute(out *C.int, a C.int, i C.int) C.int {
	d, err := deviceAt(i)
	if err == nil {
		err = d.Check("cuDeviceGetAttribute")
	}
	if err == nil {
		*out = C.int(attribute(d, int(a)))
	}
	return drv.code("cuDeviceGetAttribute", err)
}

//export cuGetErrorName
func cuGetErrorName(r C.int, out **C.char) C.int {
	return errorText(r, out, drv.names, ptxsim.Result.Name)
}

//export cuGetErrorString
func cuGetErrorString(r C.int, out **C.char) C.int {
	return errorText(r, out, drv.texts, ptxsim.Result.Text)
}

func errorText(r C.int, out **C.char, kept map[ptxsim.Result]unsafe.Pointer, f func(ptxsim.Result) string) C.int {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	res := ptxsim.Result(r)
	if f(res) == "" {
		*out = nil
		return C.int(ptxsim.ErrInvalidValue)
	}
	if kept[res] == nil {
		kept[res] = unsafe.Pointer(C.CString(f(res)))
	}
	*out = (*C.char)(kept[res])
	return 0
}
