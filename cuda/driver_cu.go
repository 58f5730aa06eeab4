//go:build cuda

package cuda

/*
#include <cuda.h>
#include <stdlib.h>
#include <string.h>

extern const char *sparserun_cuda_error;
static const char *driver_error(void) { return sparserun_cuda_error; }

// Launch parameters live on C's side: Go memory must not be handed over twice.
static CUresult launch(CUfunction f, const unsigned *d, unsigned shared, CUstream s, const unsigned long long *args, int n) {
    void *p[32];
    for (int i = 0; i < n; i++) p[i] = (void *)&args[i];
    return cuLaunchKernel(f, d[0], d[1], d[2], d[3], d[4], d[5], shared, s, p, NULL);
}
*/
import "C"

import (
	"errors"
	"fmt"
	"math"
	"unsafe"

	"gorgonia.org/cu"
)

// cuDriver is the real driver: gorgonia.org/cu for devices, contexts, modules and
// memory, and the driver's own functions where that library has none (stream
// capture, function attributes, pinned memory).
type cuDriver struct {
	info    Info
	ctx     cu.CUContext
	stream  C.CUstream
	modules []cu.Module
	funcs   map[string]C.CUfunction
	shared  map[C.CUfunction]int // dynamic shared memory allowed so far
	events  []C.CUevent
	pinned  unsafe.Pointer
	staged  int // bytes of pinned that copies in flight read
	pool    pool
	meter   *nvml
}

// pinnedBytes is the staging buffer of copies: page-locked, so that they run at the
// bus's speed.
const pinnedBytes = 4 << 20

func openDriver(n int) (Driver, error) {
	if e := C.driver_error(); e != nil {
		return nil, fmt.Errorf("cuda: %s: %w", C.GoString(e), ErrNoDevice)
	}
	count, err := cu.NumDevices()
	if err != nil {
		return nil, call("cuDeviceGetCount", err)
	}
	if n < 0 || n >= count {
		return nil, fmt.Errorf("cuda: device %d of %d: %w", n, count, ErrNoDevice)
	}
	dev, err := cu.GetDevice(n)
	if err != nil {
		return nil, call("cuDeviceGet", err)
	}
	d := &cuDriver{funcs: map[string]C.CUfunction{}, shared: map[C.CUfunction]int{}}
	if d.info.Name, err = dev.Name(); err != nil {
		return nil, call("cuDeviceGetName", err)
	}
	if d.info.Major, err = dev.Attribute(cu.ComputeCapabilityMajor); err != nil {
		return nil, call("cuDeviceGetAttribute", err)
	}
	if d.info.Minor, err = dev.Attribute(cu.ComputeCapabilityMinor); err != nil {
		return nil, call("cuDeviceGetAttribute", err)
	}
	if d.info.SMs, err = dev.Attribute(cu.MultiprocessorCount); err != nil {
		return nil, call("cuDeviceGetAttribute", err)
	}
	if d.info.Memory, err = dev.TotalMem(); err != nil {
		return nil, call("cuDeviceTotalMem_v2", err)
	}
	d.info.Driver = cu.Version()
	var bus [32]C.char
	if C.cuDeviceGetPCIBusId(&bus[0], C.int(len(bus)), C.CUdevice(dev)) == C.CUDA_SUCCESS {
		d.meter = openNVML(C.GoString(&bus[0]))
	}
	d.info.Simulated = d.info.Name == simulatorName
	if d.ctx, err = dev.MakeContext(cu.SchedAuto); err != nil {
		return nil, call("cuCtxCreate_v2", err)
	}
	if err := d.check("cuStreamCreate", C.cuStreamCreate(&d.stream, C.CU_STREAM_NON_BLOCKING)); err != nil {
		d.Close()
		return nil, err
	}
	if err := d.check("cuMemHostAlloc", C.cuMemHostAlloc(&d.pinned, pinnedBytes, 0)); err != nil {
		d.Close()
		return nil, err
	}
	d.pool = pool{alloc: func(n int64) (Ptr, error) {
		p, err := cu.MemAlloc(n)
		return Ptr(p), call("cuMemAlloc_v2", err)
	}, free: func(p Ptr) error { return call("cuMemFree_v2", cu.MemFree(cu.DevicePtr(p))) }}
	return d, nil
}

// simulatorName is what cuda/ptxsim/libcuda calls its device.
const simulatorName = "PTX simulator (no GPU)"

// call turns an error of gorgonia.org/cu, an integer that its package does not
// export by type, into ours.
func call(name string, err error) error {
	if err == nil {
		return nil
	}
	code, _ := resultCode(err)
	return &DriverError{Call: name, Code: code, Name: errorName(C.CUresult(code), err.Error())}
}

func (d *cuDriver) check(name string, r C.CUresult) error {
	if r == C.CUDA_SUCCESS {
		return nil
	}
	return &DriverError{Call: name, Code: int(r), Name: errorName(r, "")}
}

func errorName(r C.CUresult, otherwise string) string {
	var s *C.char
	if C.cuGetErrorName(r, &s) == C.CUDA_SUCCESS && s != nil {
		return C.GoString(s)
	}
	if otherwise == "" {
		return fmt.Sprintf("CUresult %d", int(r))
	}
	return otherwise
}

func (d *cuDriver) Info() Info { return d.info }

// Load takes the cubin of the device's own architecture, else the newest one of the
// same major version that is no newer, else PTX, which the driver compiles.
func (d *cuDriver) Load(im Image) error {
	data := im.pick(d.info)
	if data == nil {
		return fmt.Errorf("cuda: compute capability %d.%d: %w", d.info.Major, d.info.Minor, ErrArch)
	}
	m, err := cu.LoadData(string(data))
	if err != nil {
		return call("cuModuleLoadData", err)
	}
	d.modules = append(d.modules, m)
	return nil
}

func (d *cuDriver) Func(name string, shared int) (Func, error) {
	f, ok := d.funcs[name]
	if !ok {
		var err error
		for _, m := range d.modules {
			var x cu.Function
			if x, err = m.Function(name); err == nil {
				f, ok = *(*C.CUfunction)(unsafe.Pointer(&x)), true
				break
			}
		}
		if !ok {
			return nil, fmt.Errorf("%w (kernel %q)", call("cuModuleGetFunction", err), name)
		}
		d.funcs[name] = f
	}
	if shared > max(48<<10, d.shared[f]) {
		if err := d.check("cuFuncSetAttribute", C.cuFuncSetAttribute(f, C.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, C.int(shared))); err != nil {
			return nil, fmt.Errorf("%w (kernel %q, %d bytes of shared memory)", err, name, shared)
		}
		d.shared[f] = shared
	}
	return f, nil
}

func (d *cuDriver) Alloc(n int64) (Ptr, error) { return d.pool.get(n) }
func (d *cuDriver) Free(p Ptr) error           { return d.pool.put(p) }

// HtoD copies through the staging buffer. Small copies follow one another in it without
// waiting: a batch has half a dozen.
func (d *cuDriver) HtoD(dst Ptr, src []byte) error {
	for len(src) > 0 {
		if d.staged == pinnedBytes {
			if err := d.Sync(); err != nil {
				return err
			}
		}
		n := min(len(src), pinnedBytes-d.staged)
		at := unsafe.Add(d.pinned, d.staged)
		C.memcpy(at, unsafe.Pointer(&src[0]), C.size_t(n))
		if err := d.check("cuMemcpyHtoDAsync_v2", C.cuMemcpyHtoDAsync(C.CUdeviceptr(dst), at, C.size_t(n), d.stream)); err != nil {
			return err
		}
		d.staged += n
		src, dst = src[n:], dst+Ptr(n)
	}
	return nil
}

func (d *cuDriver) DtoH(dst []byte, src Ptr) error {
	for len(dst) > 0 {
		n := min(len(dst), pinnedBytes)
		if err := d.check("cuMemcpyDtoHAsync_v2", C.cuMemcpyDtoHAsync(d.pinned, C.CUdeviceptr(src), C.size_t(n), d.stream)); err != nil {
			return err
		}
		if err := d.Sync(); err != nil {
			return err
		}
		C.memcpy(unsafe.Pointer(&dst[0]), d.pinned, C.size_t(n))
		dst, src = dst[n:], src+Ptr(n)
	}
	return nil
}

func (d *cuDriver) DtoD(dst, src Ptr, n int64) error {
	return d.check("cuMemcpyDtoDAsync_v2", C.cuMemcpyDtoDAsync(C.CUdeviceptr(dst), C.CUdeviceptr(src), C.size_t(n), d.stream))
}

func (d *cuDriver) Memset8(dst Ptr, v byte, n int64) error {
	return d.check("cuMemsetD8Async", C.cuMemsetD8Async(C.CUdeviceptr(dst), C.uchar(v), C.size_t(n), d.stream))
}

// maxArgs bounds the parameters of a kernel; launch on C's side has as many slots.
const maxArgs = 32

func (d *cuDriver) Launch(f Func, grid, block [3]int, shared int, args ...any) error {
	var raw [maxArgs]C.ulonglong
	if len(args) > maxArgs {
		return fmt.Errorf("cuda: %d kernel parameters: %w", len(args), ErrDriver)
	}
	for i, a := range args {
		switch a := a.(type) {
		case Ptr:
			raw[i] = C.ulonglong(a)
		case int32:
			raw[i] = C.ulonglong(uint32(a))
		case float32:
			raw[i] = C.ulonglong(math.Float32bits(a))
		default:
			return fmt.Errorf("cuda: kernel parameter of type %T: %w", a, ErrDriver)
		}
	}
	dims := [6]C.uint{C.uint(grid[0]), C.uint(grid[1]), C.uint(grid[2]), C.uint(block[0]), C.uint(block[1]), C.uint(block[2])}
	return d.check("cuLaunchKernel", C.launch(f.(C.CUfunction), &dims[0], C.uint(shared), d.stream, &raw[0], C.int(len(args))))
}

// Pool implements poolMeter.
func (d *cuDriver) Pool() PoolStats { return d.pool.stats }

// Joules implements energyMeter.
func (d *cuDriver) Joules() (float64, bool) { return d.meter.joules() }

func (d *cuDriver) Sync() error {
	d.staged = 0
	return d.check("cuStreamSynchronize", C.cuStreamSynchronize(d.stream))
}

func (d *cuDriver) MemInfo() (free, total int64, err error) {
	free, total, err = cu.MemInfo()
	return free, total, call("cuMemGetInfo_v2", err)
}

func (d *cuDriver) Mark(i int) error {
	for len(d.events) <= i {
		var e C.CUevent
		if err := d.check("cuEventCreate", C.cuEventCreate(&e, C.CU_EVENT_DEFAULT)); err != nil {
			return err
		}
		d.events = append(d.events, e)
	}
	return d.check("cuEventRecord", C.cuEventRecord(d.events[i], d.stream))
}

func (d *cuDriver) Elapsed(from, to int) (int64, error) {
	var ms C.float
	err := d.check("cuEventElapsedTime", C.cuEventElapsedTime(&ms, d.events[from], d.events[to]))
	return int64(float64(ms) * 1e6), err
}

type cuReplay struct {
	d *cuDriver
	e C.CUgraphExec
}

func (d *cuDriver) Capture(f func() error) (Replay, error) {
	if err := d.check("cuStreamBeginCapture_v2", C.cuStreamBeginCapture(d.stream, C.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)); err != nil {
		return nil, err
	}
	work := f()
	var g C.CUgraph
	err := d.check("cuStreamEndCapture", C.cuStreamEndCapture(d.stream, &g))
	if work != nil {
		return nil, work
	}
	if err != nil {
		return nil, err
	}
	defer C.cuGraphDestroy(g)
	r := &cuReplay{d: d}
	return r, d.check("cuGraphInstantiateWithFlags", C.cuGraphInstantiateWithFlags(&r.e, g, 0))
}

func (r *cuReplay) Launch() error {
	return r.d.check("cuGraphLaunch", C.cuGraphLaunch(r.e, r.d.stream))
}
func (r *cuReplay) Close() error { return r.d.check("cuGraphExecDestroy", C.cuGraphExecDestroy(r.e)) }

func (d *cuDriver) Close() error {
	var errs []error
	for _, e := range d.events {
		errs = append(errs, d.check("cuEventDestroy_v2", C.cuEventDestroy(e)))
	}
	errs = append(errs, d.pool.close())
	if d.pinned != nil {
		errs = append(errs, d.check("cuMemFreeHost", C.cuMemFreeHost(d.pinned)))
	}
	for _, m := range d.modules {
		errs = append(errs, call("cuModuleUnload", m.Unload()))
	}
	if d.stream != nil {
		errs = append(errs, d.check("cuStreamDestroy_v2", C.cuStreamDestroy(d.stream)))
	}
	errs = append(errs, call("cuCtxDestroy_v2", d.ctx.Destroy()))
	return errors.Join(errs...)
}
