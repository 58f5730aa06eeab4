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
		if h <= 1 { // the legacy stream cannot capture
			return ptxsim.ErrStreamCaptureUnsupported
		}
		s, err := get[*stream](drv, uintptr(h))
		if err != nil {
			return err
		}
		return s.BeginCapture()
	})
}

//export cuStreamEndCapture
func cuStreamEndCapture(h C.uintptr_t, out *C.uintptr_t) C.int {
	return with("cuStreamEndCapture", func(d *ptxsim.Device) error {
		s, err := get[*stream](drv, uintptr(h))
		if err != nil {
			return err
		}
		g, err := s.EndCapture()
		return give(out, g, err)
	})
}

//export cuStreamIsCapturing
func cuStreamIsCapturing(h C.uintptr_t, out *C.int) C.int {
	*out = 0
	if h <= 2 {
		return 0
	}
	s, err := get[*stream](drv, uintptr(h))
	if err == nil && s.Capturing() {
		*out = 1
	}
	return drv.code("cuStreamIsCapturing", err)
}

func instantiate(call string, out *C.uintptr_t, h C.uintptr_t) C.int {
	return with(call, func(d *ptxsim.Device) error {
		g, err := get[*ptxsim.Graph](drv, uintptr(h))
		if err != nil {
			return err
		}
		e, err := g.Instantiate()
		return give(out, e, err)
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
func cuGraphLaunch(h, sh C.uintptr_t) C.int {
	return with("cuGraphLaunch", func(d *ptxsim.Device) error {
		g, err := get[*ptxsim.GraphExec](drv, uintptr(h))
		if err != nil {
			return err
		}
		if sh <= 2 {
			s, err := d.NewStream()
			if err != nil {
				return err
			}
			return g.Launch(s)
		}
		s, err := get[*stream](drv, uintptr(sh))
		if err != nil {
			return err
		}
		return g.Launch(s.Stream)
	})
}

//export cuGraphUpload
func cuGraphUpload(h, s C.uintptr_t) C.int {
	_, err := get[*ptxsim.GraphExec](drv, uintptr(h))
	return drv.code("cuGraphUpload", err)
}

//export cuGraphCreate
func cuGraphCreate(out *C.uintptr_t, flags C.uint) C.int {
	return with("cuGraphCreate", func(d *ptxsim.Device) error { return give(out, d.NewGraph(), nil) })
}

//export cuGraphDestroy
func cuGraphDestroy(h C.uintptr_t) C.int { return destroy[*ptxsim.Graph]("cuGraphDestroy", h) }

//export cuGraphExecDestroy
func cuGraphExecDestroy(h C.uintptr_t) C.int {
	return destroy[*ptxsim.GraphExec]("cuGraphExecDestroy", h)
}

// cuGraphGetNodes gives only the number of nodes: nodes have no handles here.
//
//export cuGraphGetNodes
func cuGraphGetNodes(h C.uintptr_t, nodes unsafe.Pointer, n *C.size_t) C.int {
	g, err := get[*ptxsim.Graph](drv, uintptr(h))
	if err == nil && nodes != nil {
		err = ptxsim.ErrNotSupported
	}
	if err == nil {
		*n = C.size_t(g.Nodes())
	}
	return drv.code("cuGraphGetNodes", err)
}
