//go:build cgo

package main

// #include <stdint.h>
import "C"

import (
	"syscall"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

//export cuCtxCreate_v2
func cuCtxCreate_v2(out *C.uintptr_t, flags C.uint, dev C.int) C.int {
	d, err := deviceAt(dev)
	if err == nil {
		err = d.Check("cuCtxCreate")
	}
	if err != nil {
		return drv.code("cuCtxCreate_v2", err)
	}
	drv.mu.Lock()
	defer drv.mu.Unlock()
	c := &context{dev: int(dev), refs: 1, flags: uint32(flags)}
	c.handle = drv.put(c)
	t := syscall.Gettid()
	drv.stacks[t] = append(drv.stacks[t], c)
	*out = C.uintptr_t(c.handle)
	return 0
}

//export cuCtxDestroy_v2
func cuCtxDestroy_v2(h C.uintptr_t) C.int {
	c, err := get[*context](drv, uintptr(h))
	if err != nil || c.primary {
		return drv.code("cuCtxDestroy_v2", ptxsim.ErrInvalidContext)
	}
	drv.mu.Lock()
	defer drv.mu.Unlock()
	c.refs = 0
	drv.leave(c)
	return 0
}

// leave forgets a context that nobody holds; the last one of a device takes the
// device's memory and its sticky error with it.
func (d *driver) leave(c *context) {
	delete(d.handles, c.handle)
	for t, s := range d.stacks {
		keep := s[:0]
		for _, e := range s {
			if e != c {
				keep = append(keep, e)
			}
		}
		d.stacks[t] = keep
	}
	for _, v := range d.handles {
		if o, ok := v.(*context); ok && o.dev == c.dev && o.refs > 0 {
			return
		}
	}
	d.devices[c.dev].Reset()
}

//export cuDevicePrimaryCtxRetain
func cuDevicePrimaryCtxRetain(out *C.uintptr_t, dev C.int) C.int {
	d, err := deviceAt(dev)
	if err == nil {
		err = d.Check("cuDevicePrimaryCtxRetain")
	}
	if err != nil {
		return drv.code("cuDevicePrimaryCtxRetain", err)
	}
	drv.mu.Lock()
	defer drv.mu.Unlock()
	c := drv.primary[int(dev)]
	if c == nil {
		c = &context{dev: int(dev), primary: true}
		c.handle = drv.put(c)
		drv.primary[int(dev)] = c
	}
	c.refs++
	*out = C.uintptr_t(c.handle)
	return 0
}

func releasePrimary(dev C.int, all bool) C.int {
	if _, err := deviceAt(dev); err != nil {
		return drv.code("cuDevicePrimaryCtxRelease", err)
	}
	drv.mu.Lock()
	defer drv.mu.Unlock()
	c := drv.primary[int(dev)]
	if c == nil {
		return C.int(ptxsim.ErrInvalidContext)
	}
	if c.refs--; c.refs <= 0 || all {
		c.refs = 0
		delete(drv.primary, int(dev))
		drv.leave(c)
	}
	return 0
}

//export cuDevicePrimaryCtxRelease_v2
func cuDevicePrimaryCtxRelease_v2(dev C.int) C.int { return releasePrimary(dev, false) }

//export cuDevicePrimaryCtxReset_v2
func cuDevicePrimaryCtxReset_v2(dev C.int) C.int { return releasePrimary(dev, true) }

//export cuDevicePrimaryCtxSetFlags_v2
func cuDevicePrimaryCtxSetFlags_v2(dev C.int, flags C.uint) C.int {
	_, err := deviceAt(dev)
	return drv.code("cuDevicePrimaryCtxSetFlags_v2", err)
}

//export cuDevicePrimaryCtxGetState
func cuDevicePrimaryCtxGetState(dev C.int, flags *C.uint, active *C.int) C.int {
	if _, err := deviceAt(dev); err != nil {
		return drv.code("cuDevicePrimaryCtxGetState", err)
	}
	drv.mu.Lock()
	defer drv.mu.Unlock()
	*flags, *active = 0, 0
	if drv.primary[int(dev)] != nil {
		*active = 1
	}
	return 0
}

//export cuCtxSetCurrent
func cuCtxSetCurrent(h C.uintptr_t) C.int {
	t := syscall.Gettid()
	var c *context
	if h != 0 {
		var err error
		if c, err = get[*context](drv, uintptr(h)); err != nil {
			return drv.code("cuCtxSetCurrent", ptxsim.ErrInvalidContext)
		}
	}
	drv.mu.Lock()
	defer drv.mu.Unlock()
	s := drv.stacks[t]
	if len(s) > 0 {
		s = s[:len(s)-1]
	}
	if c != nil {
		s = append(s, c)
	}
	drv.stacks[t] = s
	return 0
}

//export cuCtxGetCurrent
func cuCtxGetCurrent(out *C.uintptr_t) C.int {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	*out = 0
	if c := drv.current(); c != nil {
		*out = C.uintptr_t(c.handle)
	}
	return 0
}

//export cuCtxPushCurrent_v2
func cuCtxPushCurrent_v2(h C.uintptr_t) C.int {
	c, err := get[*context](drv, uintptr(h))
	if err != nil {
		return drv.code("cuCtxPushCurrent_v2", ptxsim.ErrInvalidContext)
	}
	drv.mu.Lock()
	defer drv.mu.Unlock()
	t := syscall.Gettid()
	drv.stacks[t] = append(drv.stacks[t], c)
	return 0
}

//export cuCtxPopCurrent_v2
func cuCtxPopCurrent_v2(out *C.uintptr_t) C.int {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	c := drv.current()
	if c == nil {
		return C.int(ptxsim.ErrInvalidContext)
	}
	t := syscall.Gettid()
	drv.stacks[t] = drv.stacks[t][:len(drv.stacks[t])-1]
	if out != nil {
		*out = C.uintptr_t(c.handle)
	}
	return 0
}

//export cuCtxGetDevice
func cuCtxGetDevice(out *C.int) C.int {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	c := drv.current()
	if c == nil {
		return C.int(ptxsim.ErrInvalidContext)
	}
	*out = C.int(c.dev)
	return 0
}

//export cuCtxSynchronize
func cuCtxSynchronize() C.int { return with("cuCtxSynchronize", (*ptxsim.Device).Synchronize) }

//export cuCtxGetApiVersion
func cuCtxGetApiVersion(h C.uintptr_t, v *C.uint) C.int {
	*v = 13050
	return 0
}

//export cuCtxGetFlags
func cuCtxGetFlags(v *C.uint) C.int {
	*v = 0
	return 0
}

//export cuCtxGetStreamPriorityRange
func cuCtxGetStreamPriorityRange(least, greatest *C.int) C.int {
	if least != nil {
		*least = 0
	}
	if greatest != nil {
		*greatest = 0
	}
	return 0
}
