//go:build cgo

// Command libcuda is the simulator in the shape of NVIDIA's driver: built with
//
//	go build -buildmode=c-shared -o libcuda.so.1 ./cuda/ptxsim/libcuda
//
// it is a libcuda.so.1 under which a program that was linked against the real
// one runs without a GPU. Device pointers are numbers of a private range, never
// memory of this process; handles are numbers too.
//
// Environment, read at cuInit:
//
//	PTXSIM_DEVICES  number of devices (1; 0 makes cuInit say CUDA_ERROR_NO_DEVICE)
//	PTXSIM_CC       compute capability (8.9)
//	PTXSIM_MEM      bytes of memory a device has (2147483648)
//	PTXSIM_SEED     order of warps (0)
//	PTXSIM_WORKERS  blocks at a time (all cores)
//	PTXSIM_FAIL     planned failures: "cuMemAlloc_v2:3:2" is "the third call gives 2"; several by comma
//	PTXSIM_LOG      1: every failing call on stderr (faults of kernels are always there)
//	PTXSIM_STATS    file to which a line of JSON per launch is appended
//
// A module that is no PTX text (a cubin, a fatbin) is refused with
// CUDA_ERROR_NO_BINARY_FOR_GPU.
package main

/*
#include <stdint.h>
#include <stdlib.h>
*/
import "C"

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/sparserun/sparserun/cuda/ptxsim"
)

func main() {}

// driver is the whole state behind the C functions.
type driver struct {
	mu      sync.Mutex
	inited  bool
	log     bool
	devices []*ptxsim.Device
	plan    *ptxsim.Device // counts calls before there is a device
	stacks  map[int][]*context
	handles map[uintptr]any
	next    uintptr
	primary map[int]*context
	names   map[ptxsim.Result]unsafe.Pointer // C strings of cuGetErrorName, kept for ever
	texts   map[ptxsim.Result]unsafe.Pointer
	stats   *os.File
}

// context is a CUcontext: a device and how often it is retained.
type context struct {
	handle  uintptr
	dev     int
	refs    int
	primary bool
	flags   uint32
}

var drv = &driver{
	stacks: map[int][]*context{}, handles: map[uintptr]any{}, next: 0x10000, primary: map[int]*context{},
	names: map[ptxsim.Result]unsafe.Pointer{}, texts: map[ptxsim.Result]unsafe.Pointer{},
}

// getenv asks libc: the Go runtime of a c-shared library sees only the
// environment of the moment it was loaded.
func getenv(name string) string {
	c := C.CString(name)
	defer C.free(unsafe.Pointer(c))
	return C.GoString(C.getenv(c))
}

func envInt(name string, def int64) int64 {
	if v, err := strconv.ParseInt(getenv(name), 0, 64); err == nil {
		return v
	}
	return def
}

// start reads the environment and makes the devices.
func (d *driver) start() error {
	if d.inited {
		return nil
	}
	d.log = getenv("PTXSIM_LOG") == "1"
	cfg := ptxsim.Config{Seed: envInt("PTXSIM_SEED", 0), MemoryBytes: envInt("PTXSIM_MEM", 0), Workers: int(envInt("PTXSIM_WORKERS", 0))}
	if cc := getenv("PTXSIM_CC"); cc != "" {
		if _, err := fmt.Sscanf(strings.TrimSpace(cc), "%d.%d", &cfg.Major, &cfg.Minor); err != nil {
			fmt.Fprintf(os.Stderr, "ptxsim: PTXSIM_CC %q: want major.minor\n", cc)
			return ptxsim.ErrInvalidValue
		}
	}
	if path := getenv("PTXSIM_STATS"); path != "" {
		f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			fmt.Fprintf(os.Stderr, "ptxsim: PTXSIM_STATS: %v\n", err)
			return ptxsim.ErrOperatingSystem
		}
		d.stats = f
		cfg.Stats = true
		var mu sync.Mutex
		cfg.OnLaunch = func(s *ptxsim.Stats) {
			line, err := json.Marshal(s)
			if err != nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			f.Write(append(line, '\n'))
		}
	}
	n := envInt("PTXSIM_DEVICES", 1)
	d.plan = ptxsim.NewDevice(cfg)
	if err := d.plan.ParseFaults(getenv("PTXSIM_FAIL")); err != nil {
		fmt.Fprintf(os.Stderr, "ptxsim: PTXSIM_FAIL: %v\n", err)
		return ptxsim.ErrInvalidValue
	}
	if err := d.plan.Check("cuInit"); err != nil {
		return err
	}
	if n <= 0 {
		return ptxsim.ErrNoDevice
	}
	d.devices = append(d.devices, d.plan)
	for i := int64(1); i < n; i++ {
		d.devices = append(d.devices, ptxsim.NewDevice(cfg))
	}
	d.inited = true
	return nil
}

// code turns an error into the C result and says it on stderr if it should.
func (d *driver) code(call string, err error) C.int {
	if err == nil {
		return 0
	}
	r := ptxsim.ResultOf(err)
	var f *ptxsim.Fault
	if d.log || errors.As(err, &f) && !strings.Contains(err.Error(), "context is lost") || r == ptxsim.ErrInvalidPTX {
		fmt.Fprintf(os.Stderr, "ptxsim: %s: %v\n", call, err)
	}
	return C.int(r)
}

// put stores an object and gives its handle.
func (d *driver) put(v any) uintptr {
	d.next += 16
	d.handles[d.next] = v
	return d.next
}

// current is the context of the calling thread, nil if it has none.
func (d *driver) current() *context {
	s := d.stacks[syscall.Gettid()]
	if len(s) == 0 {
		return nil
	}
	return s[len(s)-1]
}

// device is the simulator behind the calling thread's context.
func (d *driver) device() (*ptxsim.Device, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.inited {
		return nil, ptxsim.ErrNotInitialized
	}
	c := d.current()
	if c == nil || c.refs == 0 {
		return nil, ptxsim.ErrInvalidContext
	}
	return d.devices[c.dev], nil
}

// get finds the object of a handle.
func get[T any](d *driver, h uintptr) (T, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.handles[h].(T)
	if !ok {
		return v, ptxsim.ErrInvalidHandle
	}
	return v, nil
}

// with runs f on the current device.
func with(call string, f func(*ptxsim.Device) error) C.int {
	dev, err := drv.device()
	if err == nil {
		err = f(dev)
	}
	return drv.code(call, err)
}

// hostBytes is n bytes of the caller's memory.
func hostBytes(p unsafe.Pointer, n C.size_t) []byte {
	return unsafe.Slice((*byte)(p), int(n))
}
