package ptxsim

import (
	"errors"
	"fmt"
	goruntime "runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// Config describes the simulated device. Its zero value is a useful one.
type Config struct {
	Seed            int64 // order of warps; the same seed gives the same run
	Workers         int   // blocks at a time; 0: GOMAXPROCS
	Quantum         int   // at most so many instructions of a warp in a row; 0: 48
	MemoryBytes     int64 // total global memory; 0: 2 GiB
	MaxInstructions int64 // warp instructions a block may take; 0: 1e9
	Major, Minor    int   // compute capability; 0: that of 8.9
	Multiprocessors int   // 0: 4
	Stats           bool  // count opcodes, sectors and bank conflicts
	NoRaces         bool  // do not report shared memory races
	NoUninit        bool  // do not report reads of uninitialised shared memory
	OnLaunch        func(*Stats)
}

func (c Config) withDefaults() Config {
	if c.Workers <= 0 {
		c.Workers = goruntime.GOMAXPROCS(0)
	}
	if c.Quantum <= 0 {
		c.Quantum = 48
	}
	if c.MemoryBytes <= 0 {
		c.MemoryBytes = 2 << 30
	}
	if c.MaxInstructions <= 0 {
		c.MaxInstructions = 1e9
	}
	if c.Major == 0 {
		c.Major, c.Minor = 8, 9
	}
	if c.Multiprocessors <= 0 {
		c.Multiprocessors = 4
	}
	return c
}

// Ptr is a device address. It is never a host pointer.
type Ptr uint64

// Device is a simulated GPU: memory, modules, launches. Its methods may be
// called from several goroutines; launches run at once and in order.
type Device struct {
	cfg    Config
	mem    memory
	seq    atomic.Uint64
	mu     sync.Mutex // of what follows
	sticky error
	stats  *Stats
	plan   faultPlan
}

// NewDevice makes a device with nothing in its memory.
func NewDevice(cfg Config) *Device {
	cfg = cfg.withDefaults()
	d := &Device{cfg: cfg}
	d.mem.limit = cfg.MemoryBytes
	return d
}

// Name is what a driver reports for the device.
func (d *Device) Name() string { return "PTX simulator (no GPU)" }

// Config gives the configuration in force, defaults filled in.
func (d *Device) Config() Config { return d.cfg }

// SharedLimit is the most shared memory a block may have on the simulated
// architecture, in bytes (CUDA C++ Programming Guide, technical specifications).
func (d *Device) SharedLimit() int {
	switch v := 10*d.cfg.Major + d.cfg.Minor; {
	case v >= 120, v == 86, v == 89:
		return 99 << 10
	case v >= 90:
		return 227 << 10
	case v == 80, v == 87:
		return 163 << 10
	}
	return 64 << 10
}

// Reset frees all memory and forgets a sticky error, as a new context would.
func (d *Device) Reset() {
	d.mem.mu.Lock()
	d.mem.table, d.mem.holes, d.mem.freed, d.mem.used, d.mem.count = nil, nil, nil, 0, 0
	d.mem.mu.Unlock()
	d.mu.Lock()
	d.sticky, d.stats = nil, nil
	d.mu.Unlock()
}

// enter is the first step of every call: planned failures and sticky errors.
func (d *Device) enter(call string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.plan.check(call); r != Success {
		err := fmt.Errorf("%s: failure on demand: %w", call, r)
		if r.Sticky() {
			d.sticky = err
		}
		return err
	}
	if d.sticky != nil {
		return fmt.Errorf("%s: context is lost: %w", call, d.sticky)
	}
	return nil
}

// Synchronize reports a sticky error; there is never anything to wait for.
func (d *Device) Synchronize() error { return d.enter("cuCtxSynchronize") }

// Alloc gives n bytes of memory filled with 0xff, which is NaN to every float.
func (d *Device) Alloc(n int64) (Ptr, error) {
	if err := d.enter("cuMemAlloc"); err != nil {
		return 0, err
	}
	a, err := d.mem.alloc(n, "")
	if err != nil {
		return 0, fmt.Errorf("cuMemAlloc: %w", err)
	}
	return Ptr(a.base), nil
}

// Free releases what Alloc gave; the null pointer is allowed.
func (d *Device) Free(p Ptr) error {
	if err := d.enter("cuMemFree"); err != nil {
		return err
	}
	if p == 0 {
		return nil
	}
	if err := d.mem.release(uint64(p)); err != nil {
		return fmt.Errorf("cuMemFree: %w", err)
	}
	return nil
}

// MemInfo gives free and total bytes, the most ever in use and the number of
// allocations alive.
func (d *Device) MemInfo() (free, total, peak int64, allocations int) {
	d.mem.mu.RLock()
	defer d.mem.mu.RUnlock()
	return d.mem.limit - d.mem.used, d.mem.limit, d.mem.peak, d.mem.count
}

// HtoD copies src to the device.
func (d *Device) HtoD(dst Ptr, src []byte) error {
	return d.copy("cuMemcpyHtoD", dst, len(src), func(p []byte) { copy(p, src) })
}

// DtoH copies len(dst) bytes from the device.
func (d *Device) DtoH(dst []byte, src Ptr) error {
	return d.copy("cuMemcpyDtoH", src, len(dst), func(p []byte) { copy(dst, p) })
}

func (d *Device) copy(call string, at Ptr, n int, f func([]byte)) error {
	if err := d.enter(call); err != nil {
		return err
	}
	if n == 0 {
		return nil
	}
	d.mem.mu.Lock()
	defer d.mem.mu.Unlock()
	p, err := d.mem.bytes(uint64(at), n)
	if err != nil {
		return fmt.Errorf("%s: %w", call, err)
	}
	f(p)
	return nil
}

// DtoD copies n bytes between places on the device.
func (d *Device) DtoD(dst, src Ptr, n int) error {
	if err := d.enter("cuMemcpyDtoD"); err != nil || n == 0 {
		return err
	}
	d.mem.mu.Lock()
	defer d.mem.mu.Unlock()
	from, err := d.mem.bytes(uint64(src), n)
	if err != nil {
		return fmt.Errorf("cuMemcpyDtoD: %w", err)
	}
	to, err := d.mem.bytes(uint64(dst), n)
	if err != nil {
		return fmt.Errorf("cuMemcpyDtoD: %w", err)
	}
	copy(to, from)
	return nil
}

// Memset8 fills n bytes.
func (d *Device) Memset8(dst Ptr, v byte, n int) error {
	return d.copy("cuMemsetD8", dst, n, func(p []byte) {
		for i := range p {
			p[i] = v
		}
	})
}

// Memset32 fills n words of 4 bytes; dst must be aligned to 4.
func (d *Device) Memset32(dst Ptr, v uint32, n int) error {
	if dst&3 != 0 {
		return fmt.Errorf("cuMemsetD32: address %#x: %w", uint64(dst), ErrInvalidValue)
	}
	return d.copy("cuMemsetD32", dst, 4*n, func(p []byte) {
		for i := range p {
			p[i] = byte(v >> (8 * (i & 3)))
		}
	})
}

// faultPlan is the calls that are to fail.
type faultPlan struct{ items []plannedFault }

type plannedFault struct {
	call string
	left int
	r    Result
}

// FailOn makes the n-th call from now on (1: the next) of the driver function
// call ("cuMemAlloc", with or without _v2) return r, once. A sticky r, such as
// ErrLaunchFailed, also loses the context until Reset.
func (d *Device) FailOn(call string, n int, r Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.plan.items = append(d.plan.items, plannedFault{baseCall(call), n, r})
}

// baseCall drops the suffixes by which the driver versions its functions.
func baseCall(s string) string {
	for _, suffix := range []string{"_ptsz", "_v2", "_v3", "Async"} {
		s = strings.TrimSuffix(s, suffix)
	}
	return s
}

func (p *faultPlan) check(call string) Result {
	call = baseCall(call)
	for i := range p.items {
		it := &p.items[i]
		if it.call != call {
			continue
		}
		if it.left--; it.left == 0 {
			r := it.r
			p.items = append(p.items[:i], p.items[i+1:]...)
			return r
		}
	}
	return Success
}

// Check counts a call of a driver function that this package has no method for,
// and gives the failure planned for it, if any.
func (d *Device) Check(call string) error { return d.enter(call) }

// ParseFaults reads "cuMemAlloc_v2:3:2,cuLaunchKernel:1:719": call, n, result.
func (d *Device) ParseFaults(spec string) error {
	for _, part := range strings.FieldsFunc(spec, func(r rune) bool { return r == ',' || r == ';' }) {
		f := strings.Split(strings.TrimSpace(part), ":")
		var n, r int
		if len(f) != 3 {
			return fmt.Errorf("fault %q: want call:n:result", part)
		}
		if _, err := fmt.Sscan(f[1], &n); err != nil || n < 1 {
			return fmt.Errorf("fault %q: %w", part, errors.Join(err, errors.New("n must be at least 1")))
		}
		if _, err := fmt.Sscan(f[2], &r); err != nil {
			return fmt.Errorf("fault %q: %w", part, err)
		}
		d.FailOn(f[0], n, Result(r))
	}
	return nil
}
