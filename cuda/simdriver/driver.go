// Package simdriver drives the cuda backend with the PTX simulator in process: the
// same Go code and the same PTX as on hardware, without a GPU. Times it reports
// are the simulator's own and no speeds.
package simdriver

import (
	"errors"
	"fmt"
	"time"

	"github.com/sparserun/sparserun/cuda"
	"github.com/sparserun/sparserun/cuda/ptxsim"
)

// Driver implements cuda.Driver.
type Driver struct {
	Device  *ptxsim.Device
	modules []*ptxsim.Module
	kernels map[string]*ptxsim.Kernel
	marks   []time.Time
	record  *replay // capturing
	// Launches counts kernels by name, those of replayed graphs included.
	Launches map[string]int
}

// Open makes a simulated device.
func Open(cfg ptxsim.Config) *Driver {
	return &Driver{Device: ptxsim.NewDevice(cfg), kernels: map[string]*ptxsim.Kernel{}, Launches: map[string]int{}}
}

// fail turns a simulator's result into the driver error it stands for.
func fail(call string, err error) error {
	if err == nil {
		return nil
	}
	var r ptxsim.Result
	if errors.As(err, &r) {
		return fmt.Errorf("%w (%w)", &cuda.DriverError{Call: call, Code: int(r), Name: r.Error()}, err)
	}
	var f *ptxsim.Fault
	if errors.As(err, &f) {
		return fmt.Errorf("%w (%w)", &cuda.DriverError{Call: call, Code: 719, Name: "CUDA_ERROR_LAUNCH_FAILED"}, err)
	}
	return fmt.Errorf("%s: %w: %w", call, cuda.ErrDriver, err)
}

// Info implements cuda.Driver.
func (d *Driver) Info() cuda.Info {
	c := d.Device.Config()
	_, total, _, _ := d.Device.MemInfo()
	return cuda.Info{Name: d.Device.Name(), Major: c.Major, Minor: c.Minor, Memory: total, SMs: c.Multiprocessors, Simulated: true}
}

// Load implements cuda.Driver.
func (d *Driver) Load(im cuda.Image) error {
	m, err := d.Device.Load(string(im.PTX))
	if err != nil {
		return fail("cuModuleLoadData", err)
	}
	d.modules = append(d.modules, m)
	return nil
}

// Func implements cuda.Driver.
func (d *Driver) Func(name string, shared int) (cuda.Func, error) {
	k, ok := d.kernels[name]
	if !ok {
		for _, m := range d.modules {
			var err error
			if k, err = m.Kernel(name); err == nil {
				break
			}
		}
		if k == nil {
			return nil, fmt.Errorf("%w (kernel %q)", &cuda.DriverError{Call: "cuModuleGetFunction", Code: 500, Name: "CUDA_ERROR_NOT_FOUND"}, name)
		}
		d.kernels[name] = k
	}
	if shared > k.MaxDynamicShared() {
		if err := k.SetMaxDynamicShared(shared); err != nil {
			return nil, fail("cuFuncSetAttribute", err)
		}
	}
	return k, nil
}

// Alloc implements cuda.Driver.
func (d *Driver) Alloc(n int64) (cuda.Ptr, error) {
	p, err := d.Device.Alloc(n)
	return cuda.Ptr(p), fail("cuMemAlloc_v2", err)
}

// Free implements cuda.Driver.
func (d *Driver) Free(p cuda.Ptr) error { return fail("cuMemFree_v2", d.Device.Free(ptxsim.Ptr(p))) }

// HtoD implements cuda.Driver.
func (d *Driver) HtoD(dst cuda.Ptr, src []byte) error {
	return fail("cuMemcpyHtoD_v2", d.Device.HtoD(ptxsim.Ptr(dst), src))
}

// DtoH implements cuda.Driver.
func (d *Driver) DtoH(dst []byte, src cuda.Ptr) error {
	return fail("cuMemcpyDtoH_v2", d.Device.DtoH(dst, ptxsim.Ptr(src)))
}

// DtoD implements cuda.Driver; like launches it is recorded while capturing.
func (d *Driver) DtoD(dst, src cuda.Ptr, n int64) error {
	return d.now(func() error {
		return fail("cuMemcpyDtoD_v2", d.Device.DtoD(ptxsim.Ptr(dst), ptxsim.Ptr(src), int(n)))
	})
}

// Memset8 implements cuda.Driver.
func (d *Driver) Memset8(dst cuda.Ptr, v byte, n int64) error {
	return fail("cuMemsetD8_v2", d.Device.Memset8(ptxsim.Ptr(dst), v, int(n)))
}

// Launch implements cuda.Driver.
func (d *Driver) Launch(f cuda.Func, grid, block [3]int, shared int, args ...any) error {
	own := make([]any, len(args))
	for i, a := range args {
		if p, ok := a.(cuda.Ptr); ok {
			a = ptxsim.Ptr(p)
		}
		own[i] = a
	}
	k := f.(*ptxsim.Kernel)
	return d.now(func() error {
		d.Launches[k.Name()]++
		return fail("cuLaunchKernel "+k.Name(), d.Device.Launch(k, dim(grid), dim(block), shared, own...))
	})
}

func dim(d [3]int) ptxsim.Dim3 { return ptxsim.Dim3{X: d[0], Y: d[1], Z: d[2]} }

// now does the work, or keeps it for the graph that is being captured.
func (d *Driver) now(f func() error) error {
	if d.record != nil {
		d.record.work = append(d.record.work, f)
		return nil
	}
	return f()
}

// Sync implements cuda.Driver.
func (d *Driver) Sync() error { return fail("cuStreamSynchronize", d.Device.Synchronize()) }

// MemInfo implements cuda.Driver.
func (d *Driver) MemInfo() (free, total int64, err error) {
	free, total, _, _ = d.Device.MemInfo()
	return free, total, nil
}

// Mark implements cuda.Driver.
func (d *Driver) Mark(i int) error {
	for len(d.marks) <= i {
		d.marks = append(d.marks, time.Time{})
	}
	d.marks[i] = time.Now()
	return nil
}

// Elapsed implements cuda.Driver.
func (d *Driver) Elapsed(from, to int) (int64, error) {
	return d.marks[to].Sub(d.marks[from]).Nanoseconds(), nil
}

type replay struct{ work []func() error }

// Capture implements cuda.Driver.
func (d *Driver) Capture(f func() error) (cuda.Replay, error) {
	r := &replay{}
	d.record = r
	err := f()
	d.record = nil
	return r, err
}

// Launch implements cuda.Replay.
func (r *replay) Launch() error {
	for _, w := range r.work {
		if err := w(); err != nil {
			return err
		}
	}
	return nil
}

// Close implements cuda.Replay.
func (r *replay) Close() error { return nil }

// Close implements cuda.Driver.
func (d *Driver) Close() error { return nil }
