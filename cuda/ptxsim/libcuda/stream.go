//go:build cgo

package main

/*
#include <stdint.h>
#include <stdlib.h>

typedef void (*ptxsim_host_fn)(void *);
static void ptxsim_call(void *f, void *data) { ((ptxsim_host_fn)f)(data); }
*/
import "C"

import (
	"unsafe"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

// stream is a CUstream with what the driver remembers about it.
type stream struct {
	*ptxsim.Stream
	flags    C.uint
	priority C.int
}

// onStream does f in the stream; handles 0, 1 and 2 are the driver's own
// default streams, which never capture.
func onStream(call string, h C.uintptr_t, f func(*ptxsim.Device) error) C.int {
	return with(call, func(d *ptxsim.Device) error {
		if h <= 2 {
			return f(d)
		}
		s, err := get[*stream](drv, uintptr(h))
		if err != nil {
			return err
		}
		return s.Do(f)
	})
}

// give stores a new object under a handle.
func give[T any](out *C.uintptr_t, v T, err error) error {
	if err != nil {
		return err
	}
	drv.mu.Lock()
	defer drv.mu.Unlock()
	*out = C.uintptr_t(drv.put(v))
	return nil
}

// destroy forgets a handle of type T.
func destroy[T any](call string, h C.uintptr_t) C.int {
	_, err := get[T](drv, uintptr(h))
	if err == nil {
		drv.mu.Lock()
		delete(drv.handles, uintptr(h))
		drv.mu.Unlock()
	}
	return drv.code(call, err)
}

func newStream(call string, out *C.uintptr_t, flags C.uint, priority C.int) C.int {
	return with(call, func(d *ptxsim.Device) error {
		s, err := d.NewStream()
		return give(out, &stream{s, flags, priority}, err)
	})
}

//export cuStreamCreate
func cuStreamCreate(out *C.uintptr_t, flags C.uint) C.int {
	return newStream("cuStreamCreate", out, flags, 0)
}

//export cuStreamCreateWithPriority
func cuStreamCreateWithPriority(out *C.uintptr_t, flags C.uint, priority C.int) C.int {
	return newStream("cuStreamCreateWithPriority", out, flags, priority)
}

//export cuStreamDestroy_v2
func cuStreamDestroy_v2(h C.uintptr_t) C.int { return destroy[*stream]("cuStreamDestroy_v2", h) }

func streamState(call string, h C.uintptr_t) C.int {
	return with(call, func(d *ptxsim.Device) error {
		if h <= 2 {
			return d.Check(call)
		}
		s, err := get[*stream](drv, uintptr(h))
		if err != nil {
			return err
		}
		return s.Synchronize()
	})
}

//export cuStreamSynchronize
func cuStreamSynchronize(h C.uintptr_t) C.int { return streamState("cuStreamSynchronize", h) }

//export cuStreamQuery
func cuStreamQuery(h C.uintptr_t) C.int { return streamState("cuStreamQuery", h) }

//export cuStreamGetFlags
func cuStreamGetFlags(h C.uintptr_t, out *C.uint) C.int {
	s, err := get[*stream](drv, uintptr(h))
	if err == nil {
		*out = s.flags
	}
	return drv.code("cuStreamGetFlags", err)
}

//export cuStreamGetPriority
func cuStreamGetPriority(h C.uintptr_t, out *C.int) C.int {
	s, err := get[*stream](drv, uintptr(h))
	if err == nil {
		*out = s.priority
	}
	return drv.code("cuStreamGetPriority", err)
}

//export cuStreamWaitEvent
func cuStreamWaitEvent(h, e C.uintptr_t, flags C.uint) C.int {
	return with("cuStreamWaitEvent", func(d *ptxsim.Device) error {
		if _, err := get[*ptxsim.Event](drv, uintptr(e)); err != nil {
			return err
		}
		return d.Check("cuStreamWaitEvent")
	})
}

//export cuLaunchHostFunc
func cuLaunchHostFunc(h C.uintptr_t, f, data unsafe.Pointer) C.int {
	return onStream("cuLaunchHostFunc", h, func(*ptxsim.Device) error {
		C.ptxsim_call(f, data)
		return nil
	})
}

//export cuEventCreate
func cuEventCreate(out *C.uintptr_t, flags C.uint) C.int {
	return with("cuEventCreate", func(d *ptxsim.Device) error {
		e, err := d.NewEvent(flags&2 == 0) // CU_EVENT_DISABLE_TIMING
		return give(out, e, err)
	})
}

//export cuEventDestroy_v2
func cuEventDestroy_v2(h C.uintptr_t) C.int { return destroy[*ptxsim.Event]("cuEventDestroy_v2", h) }

//export cuEventRecord
func cuEventRecord(h, sh C.uintptr_t) C.int {
	return with("cuEventRecord", func(d *ptxsim.Device) error {
		e, err := get[*ptxsim.Event](drv, uintptr(h))
		if err != nil {
			return err
		}
		if sh <= 2 {
			s, err := d.NewStream()
			if err != nil {
				return err
			}
			return s.Record(e)
		}
		s, err := get[*stream](drv, uintptr(sh))
		if err != nil {
			return err
		}
		return s.Record(e)
	})
}

func eventState(call string, h C.uintptr_t) C.int {
	return with(call, func(d *ptxsim.Device) error {
		e, err := get[*ptxsim.Event](drv, uintptr(h))
		if err != nil {
			return err
		}
		return e.Synchronize()
	})
}

//export cuEventSynchronize
func cuEventSynchronize(h C.uintptr_t) C.int { return eventState("cuEventSynchronize", h) }

//export cuEventQuery
func cuEventQuery(h C.uintptr_t) C.int { return eventState("cuEventQuery", h) }

func elapsed(call string, out *C.float, from, to C.uintptr_t) C.int {
	return with(call, func(d *ptxsim.Device) error {
		a, err := get[*ptxsim.Event](drv, uintptr(from))
		if err != nil {
			return err
		}
		b, err := get[*ptxsim.Event](drv, uintptr(to))
		if err != nil {
			return err
		}
		took, err := b.Since(a)
		if err == nil {
			*out = C.float(took.Seconds() * 1e3)
		}
		return err
	})
}

//export cuEventElapsedTime
func cuEventElapsedTime(out *C.float, from, to C.uintptr_t) C.int {
	return elapsed("cuEventElapsedTime", out, from, to)
}

//export cuEventElapsedTime_v2
func cuEventElapsedTime_v2(out *C.float, from, to C.uintptr_t) C.int {
	return elapsed("cuEventElapsedTime_v2", out, from, to)
}
