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
	"time"
	"unsafe"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

// stream runs its work at once; while it captures, work goes into a graph.
type stream struct {
	capture  *graph
	flags    C.uint
	priority C.int
}

// event remembers when it was recorded.
type event struct {
	at       time.Time
	recorded bool
	timing   bool
}

// graph is a list of work in the order of capture.
type graph struct{ work []func(*ptxsim.Device) error }

// graphExec is an instantiated copy of a graph.
type graphExec struct{ work []func(*ptxsim.Device) error }

// streamOf finds a stream; 0, 1 and 2 are the driver's own default streams.
func streamOf(h C.uintptr_t) (*stream, error) {
	if h <= 2 {
		return &stream{}, nil
	}
	return get[*stream](drv, uintptr(h))
}

// onStream does f now, or later if the stream captures.
func onStream(call string, h C.uintptr_t, f func(*ptxsim.Device) error) C.int {
	return with(call, func(d *ptxsim.Device) error {
		s, err := streamOf(h)
		if err != nil {
			return err
		}
		drv.mu.Lock()
		g := s.capture
		if g != nil {
			g.work = append(g.work, f)
		}
		drv.mu.Unlock()
		if g != nil {
			return nil
		}
		return f(d)
	})
}

// isCapturing says whether the stream records a graph.
func isCapturing(s *stream) bool {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	return s.capture != nil
}

func newStream(call string, out *C.uintptr_t, flags C.uint, priority C.int) C.int {
	return with(call, func(d *ptxsim.Device) error {
		if err := d.Check("cuStreamCreate"); err != nil {
			return err
		}
		drv.mu.Lock()
		defer drv.mu.Unlock()
		*out = C.uintptr_t(drv.put(&stream{flags: flags, priority: priority}))
		return nil
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

//export cuStreamDestroy_v2
func cuStreamDestroy_v2(h C.uintptr_t) C.int { return destroy[*stream]("cuStreamDestroy_v2", h) }

func streamState(call string, h C.uintptr_t) C.int {
	return with(call, func(d *ptxsim.Device) error {
		s, err := streamOf(h)
		if err != nil {
			return err
		}
		if isCapturing(s) {
			return ptxsim.ErrStreamCaptureUnsupported
		}
		return d.Check(call)
	})
}

//export cuStreamSynchronize
func cuStreamSynchronize(h C.uintptr_t) C.int { return streamState("cuStreamSynchronize", h) }

//export cuStreamQuery
func cuStreamQuery(h C.uintptr_t) C.int { return streamState("cuStreamQuery", h) }

//export cuStreamGetFlags
func cuStreamGetFlags(h C.uintptr_t, out *C.uint) C.int {
	s, err := streamOf(h)
	if err == nil {
		*out = s.flags
	}
	return drv.code("cuStreamGetFlags", err)
}

//export cuStreamGetPriority
func cuStreamGetPriority(h C.uintptr_t, out *C.int) C.int {
	s, err := streamOf(h)
	if err == nil {
		*out = s.priority
	}
	return drv.code("cuStreamGetPriority", err)
}

//export cuStreamWaitEvent
func cuStreamWaitEvent(h, e C.uintptr_t, flags C.uint) C.int {
	return with("cuStreamWaitEvent", func(d *ptxsim.Device) error {
		if _, err := get[*event](drv, uintptr(e)); err != nil {
			return err
		}
		_, err := streamOf(h)
		return err
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
		if err := d.Check("cuEventCreate"); err != nil {
			return err
		}
		drv.mu.Lock()
		defer drv.mu.Unlock()
		*out = C.uintptr_t(drv.put(&event{timing: flags&2 == 0})) // CU_EVENT_DISABLE_TIMING
		return nil
	})
}

//export cuEventDestroy_v2
func cuEventDestroy_v2(h C.uintptr_t) C.int { return destroy[*event]("cuEventDestroy_v2", h) }

//export cuEventRecord
func cuEventRecord(h, s C.uintptr_t) C.int {
	e, err := get[*event](drv, uintptr(h))
	if err != nil {
		return drv.code("cuEventRecord", err)
	}
	return onStream("cuEventRecord", s, func(d *ptxsim.Device) error {
		drv.mu.Lock()
		defer drv.mu.Unlock()
		e.at, e.recorded = time.Now(), true
		return nil
	})
}

//export cuEventSynchronize
func cuEventSynchronize(h C.uintptr_t) C.int {
	return with("cuEventSynchronize", func(d *ptxsim.Device) error {
		if _, err := get[*event](drv, uintptr(h)); err != nil {
			return err
		}
		return d.Check("cuEventSynchronize")
	})
}

//export cuEventQuery
func cuEventQuery(h C.uintptr_t) C.int {
	return with("cuEventQuery", func(d *ptxsim.Device) error {
		if _, err := get[*event](drv, uintptr(h)); err != nil {
			return err
		}
		return d.Check("cuEventQuery")
	})
}

// elapsed is the host's time between two records: how long the simulation took,
// which says nothing about a GPU.
func elapsed(out *C.float, from, to C.uintptr_t) C.int {
	return with("cuEventElapsedTime", func(d *ptxsim.Device) error {
		a, err := get[*event](drv, uintptr(from))
		if err != nil {
			return err
		}
		b, err := get[*event](drv, uintptr(to))
		if err != nil {
			return err
		}
		drv.mu.Lock()
		defer drv.mu.Unlock()
		if !a.recorded || !b.recorded || !a.timing || !b.timing {
			return ptxsim.ErrInvalidHandle
		}
		*out = C.float(b.at.Sub(a.at).Seconds() * 1e3)
		return nil
	})
}

//export cuEventElapsedTime
func cuEventElapsedTime(out *C.float, from, to C.uintptr_t) C.int { return elapsed(out, from, to) }

//export cuEventElapsedTime_v2
func cuEventElapsedTime_v2(out *C.float, from, to C.uintptr_t) C.int { return elapsed(out, from, to) }
