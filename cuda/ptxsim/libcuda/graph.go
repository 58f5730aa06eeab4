//go:build cgo

package main

// #include <stdint.h>
// #include <stdlib.h>
import "C"

import (
	"unsafe"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

//export cuStreamBeginCapture_v2
func cuStreamBeginCapture_v2(h C.uintptr_t, mode C.int) C.int {
	return with("cuStreamBeginCapture_v2", func(d *ptxsim.Device) error {
		if err := d.Check("cuStreamBeginCapture"); err != nil {
			return err
		}
		if h <= 1 { // the legacy stream cannot capture
			return ptxsim.ErrStreamCaptureUnsupported
		}
		s, err := streamOf(h)
		if err != nil {
			return err
		}
		drv.mu.Lock()
		defer drv.mu.Unlock()
		if s.capture != nil {
			return ptxsim.ErrIllegalState
		}
		s.capture = &graph{}
		return nil
	})
}

//export cuStreamEndCapture
func cuStreamEndCapture(h C.uintptr_t, out *C.uintptr_t) C.int {
	return with("cuStreamEndCapture", func(d *ptxsim.Device) error {
		if err := d.Check("cuStreamEndCapture"); err != nil {
			return err
		}
		s, err := streamOf(h)
		if err != nil {
			return err
		}
		drv.mu.Lock()
		defer drv.mu.Unlock()
		if s.capture == nil {
			return ptxsim.ErrIllegalState
		}
		*out = C.uintptr_t(drv.put(s.capture))
		s.capture = nil
		return nil
	})
}

//export cuStreamIsCapturing
func cuStreamIsCapturing(h C.uintptr_t, out *C.int) C.int {
	s, err := streamOf(h)
	if err == nil {
		*out = 0
		if isCapturing(s) {
			*out = 1
		}
	}
	return drv.code("cuStreamIsCapturing", err)
}

func instantiate(call string, out *C.uintptr_t, h C.uintptr_t) C.int {
	return with(call, func(d *ptxsim.Device) error {
		if err := d.Check("cuGraphInstantiate"); err != nil {
			return err
		}
		g, err := get[*graph](drv, uintptr(h))
		if err != nil {
			return err
		}
		drv.mu.Lock()
		defer drv.mu.Unlock()
		*out = C.uintptr_t(drv.put(&graphExec{append([]func(*ptxsim.Device) error(nil), g.work...)}))
		return nil
	})
}

//export cuGraphInstantiateWithFlags
func cuGraphInstantiateWithFlags(out *C.uintptr_t, g C.uintptr_t, flags C.ulonglong) C.int {
	return instantiate("cuGraphInstantiateWithFlags", out, g)
}

//export cuGraphInstantiate_v2
func cuGraphInstantiate_v2(out *C.uintptr_t, g C.uintptr_t, node *C.uintptr_t, log *C.char, n C.size_t) C.int {
	return instantiate("cuGraphInstantiate_v2", out, g)
}

//export cuGraphLaunch
func cuGraphLaunch(h, s C.uintptr_t) C.int {
	return with("cuGraphLaunch", func(d *ptxsim.Device) error {
		if err := d.Check("cuGraphLaunch"); err != nil {
			return err
		}
		g, err := get[*graphExec](drv, uintptr(h))
		if err != nil {
			return err
		}
		if _, err := streamOf(s); err != nil {
			return err
		}
		for _, f := range g.work {
			if err := f(d); err != nil {
				return err
			}
		}
		return nil
	})
}

//export cuGraphUpload
func cuGraphUpload(h, s C.uintptr_t) C.int {
	_, err := get[*graphExec](drv, uintptr(h))
	return drv.code("cuGraphUpload", err)
}

//export cuGraphCreate
func cuGraphCreate(out *C.uintptr_t, flags C.uint) C.int {
	drv.mu.Lock()
	defer drv.mu.Unlock()
	*out = C.uintptr_t(drv.put(&graph{}))
	return 0
}

//export cuGraphDestroy
func cuGraphDestroy(h C.uintptr_t) C.int { return destroy[*graph]("cuGraphDestroy", h) }

//export cuGraphExecDestroy
func cuGraphExecDestroy(h C.uintptr_t) C.int { return destroy[*graphExec]("cuGraphExecDestroy", h) }

// cuGraphGetNodes gives only the number of nodes: nodes have no handles here.
//
//export cuGraphGetNodes
func cuGraphGetNodes(h C.uintptr_t, nodes unsafe.Pointer, n *C.size_t) C.int {
	g, err := get[*graph](drv, uintptr(h))
	if err == nil && nodes != nil {
		err = ptxsim.ErrNotSupported
	}
	if err == nil {
		*n = C.size_t(len(g.work))
	}
	return drv.code("cuGraphGetNodes", err)
}
