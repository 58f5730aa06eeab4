package ptxsim

import (
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// Module is a loaded PTX text: its kernels decoded, its variables in memory.
type Module struct {
	dev     *Device
	prog    *program
	kernels map[string]*Kernel
	vars    map[string]*allocation
	names   []string
}

// Kernel is a .entry function of a loaded module.
type Kernel struct {
	mod        *Module
	code       *kernelCode
	maxDynamic atomic.Int64 // allowed by SetMaxDynamicShared
}

// Load parses and decodes PTX text. Everything unknown in it is an error that
// names the line: ErrSyntax for text, ErrUnsupported for instructions.
func (d *Device) Load(ptx string) (*Module, error) {
	if err := d.enter("cuModuleLoadData"); err != nil {
		return nil, err
	}
	if c := recall(ptx); c != nil {
		if err := d.checkTarget(c.prog.target); err != nil {
			return nil, err
		}
		return c.module(d), nil
	}
	prog, err := parse(ptx)
	if err != nil {
		return nil, fmt.Errorf("ptx: %w", err)
	}
	if err := d.checkTarget(prog.target); err != nil {
		return nil, err
	}
	m := &Module{dev: d, prog: prog, kernels: map[string]*Kernel{}, vars: map[string]*allocation{}}
	if err := m.placeVariables(); err != nil {
		m.free()
		return nil, fmt.Errorf("ptx: %w", err)
	}
	for _, fn := range prog.funcs {
		if !fn.entry {
			m.free()
			return nil, fmt.Errorf("ptx: line %d: .func %s: calls are not modelled: %w", fn.line, fn.name, ErrUnsupported)
		}
		code, err := decode(fn, func(v *variable) uint64 {
			if a := m.vars[v.name]; a != nil {
				return a.base
			}
			return 0
		})
		if err != nil {
			m.free()
			return nil, fmt.Errorf("ptx: %w", err)
		}
		m.add(code)
	}
	remember(ptx, m)
	return m, nil
}

// checkTarget refuses text for a newer architecture, as the driver's compiler
// does; sm_90a and the like run on that architecture only.
func (d *Device) checkTarget(target string) error {
	have := 10*d.cfg.Major + d.cfg.Minor
	digits := strings.TrimPrefix(target, "sm_")
	exact := strings.HasSuffix(digits, "a")
	want, err := strconv.Atoi(strings.TrimRight(digits, "af"))
	if err != nil || want > have || exact && want != have {
		return fmt.Errorf("ptx: .target %s on a device of sm_%d: %w", target, have, ErrInvalidPTX)
	}
	return nil
}

func (m *Module) add(code *kernelCode) {
	k := &Kernel{mod: m, code: code}
	k.maxDynamic.Store(int64(48<<10 - code.fn.sharedFixed))
	m.kernels[code.name] = k
	m.names = append(m.names, code.name)
}

// placeVariables puts .global and .const variables into device memory.
func (m *Module) placeVariables() error {
	for _, v := range m.prog.vars {
		if v.space == spShared {
			continue
		}
		if v.extern && v.size == 0 {
			return fmt.Errorf("line %d: extern %s: %w", v.line, v.name, ErrUnsupported)
		}
		a, err := m.dev.mem.alloc(int64(max(v.size, 1)), v.name)
		if err != nil {
			return err
		}
		clear(a.data) // PTX: variables without initialiser are zero
		copy(a.data, v.init)
		m.vars[v.name] = a
	}
	for _, v := range m.prog.vars {
		for _, r := range v.relocs {
			to := m.vars[r.name]
			if to == nil {
				return fmt.Errorf("line %d: %s refers to unknown %s: %w", v.line, v.name, r.name, ErrSyntax)
			}
			p := m.vars[v.name].data[r.off:]
			binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)+to.base)
		}
	}
	return nil
}

func (m *Module) free() {
	m.dev.mem.mu.Lock()
	defer m.dev.mem.mu.Unlock()
	for _, a := range m.vars {
		if a.data != nil && m.dev.mem.at(a.base) == a {
			m.dev.mem.drop(a)
		}
	}
	m.vars = nil
}

// Unload frees the module's variables; its kernels must not be launched again.
func (m *Module) Unload() error {
	if err := m.dev.enter("cuModuleUnload"); err != nil {
		return err
	}
	m.free()
	return nil
}

// Names lists the kernels in the order of the text.
func (m *Module) Names() []string { return m.names }

// Kernel finds a kernel by name.
func (m *Module) Kernel(name string) (*Kernel, error) {
	if err := m.dev.enter("cuModuleGetFunction"); err != nil {
		return nil, err
	}
	k := m.kernels[name]
	if k == nil {
		return nil, fmt.Errorf("kernel %q: %w", name, ErrNotFound)
	}
	return k, nil
}

// Global finds a .global or .const variable: address and size in bytes.
func (m *Module) Global(name string) (Ptr, int, error) {
	if err := m.dev.enter("cuModuleGetGlobal"); err != nil {
		return 0, 0, err
	}
	a := m.vars[name]
	if a == nil {
		return 0, 0, fmt.Errorf("variable %q: %w", name, ErrNotFound)
	}
	return Ptr(a.base), len(a.data), nil
}

// Name of the kernel.
func (k *Kernel) Name() string { return k.code.name }

// ParamLayout gives offset and size in bytes of every parameter.
func (k *Kernel) ParamLayout() (offsets, sizes []int) {
	for _, p := range k.code.fn.params {
		offsets = append(offsets, p.off)
		sizes = append(sizes, p.size)
	}
	return
}

// ParamBytes is the size of the packed parameters.
func (k *Kernel) ParamBytes() int { return k.code.fn.paramSize }

// StaticShared and LocalBytes are the block's fixed shared memory and a thread's
// local memory; MaxThreads is .maxntid (or .reqntid), 1024 without.
func (k *Kernel) StaticShared() int { return k.code.fn.sharedFixed }

// LocalBytes is a thread's local memory.
func (k *Kernel) LocalBytes() int { return k.code.fn.localSize }

// MaxThreads is the most threads a block may have.
func (k *Kernel) MaxThreads() int {
	if n := k.code.fn.maxThreads; n > 0 {
		return min(n, 1024)
	}
	return 1024
}

// SetMaxDynamicShared allows launches with more than 48 KiB, as
// CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES does.
func (k *Kernel) SetMaxDynamicShared(n int) error {
	if err := k.mod.dev.enter("cuFuncSetAttribute"); err != nil {
		return err
	}
	if n < 0 || n+k.code.fn.sharedFixed > k.mod.dev.SharedLimit() {
		return fmt.Errorf("%s: %d bytes of dynamic shared memory, at most %d: %w",
			k.Name(), n, k.mod.dev.SharedLimit()-k.code.fn.sharedFixed, ErrInvalidValue)
	}
	k.maxDynamic.Store(int64(n))
	return nil
}

// Launch runs a kernel to its end. shared is the dynamic shared memory in bytes.
// The error of a kernel that went wrong is a *Fault, and it is sticky: every
// later call fails until Reset.
func (d *Device) Launch(k *Kernel, grid, block Dim3, shared int, args ...any) error {
	params, err := k.Pack(args...)
	if err != nil {
		return err
	}
	return d.LaunchPacked(k, grid, block, shared, params)
}

// LaunchPacked is Launch with the parameters already laid out (see ParamLayout).
func (d *Device) LaunchPacked(k *Kernel, grid, block Dim3, shared int, params []byte) error {
	if err := d.enter("cuLaunchKernel"); err != nil {
		return err
	}
	if err := d.checkLaunch(k, grid, block, shared, params); err != nil {
		return fmt.Errorf("cuLaunchKernel: %s: %w", k.Name(), err)
	}
	dyn := (k.code.fn.sharedFixed + k.code.dynAlign - 1) &^ (k.code.dynAlign - 1)
	if shared == 0 {
		dyn = k.code.fn.sharedFixed
	}
	l := &launch{dev: d, k: k.code, grid: grid.orOne(), block: block.orOne(), dynShared: shared,
		sharedSize: dyn + shared, params: params, seq: d.seq.Add(1)}
	total, err := l.exec()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		d.sticky = err
		return err
	}
	if total != nil {
		d.stats = k.code.stats(total)
		if d.cfg.OnLaunch != nil {
			d.cfg.OnLaunch(d.stats)
		}
	}
	return nil
}

func (d *Device) checkLaunch(k *Kernel, grid, block Dim3, shared int, params []byte) error {
	switch {
	case k.mod.dev != d:
		return fmt.Errorf("kernel of another device: %w", ErrInvalidHandle)
	case k.mod.vars == nil:
		return fmt.Errorf("module is unloaded: %w", ErrInvalidHandle)
	case min(grid.X, grid.Y, grid.Z, block.X, block.Y, block.Z, shared) < 0:
		return fmt.Errorf("grid %v block %v shared %d: %w", grid, block, shared, ErrInvalidValue)
	case grid.X > math.MaxInt32 || grid.Y > 65535 || grid.Z > 65535:
		return fmt.Errorf("grid %v: %w", grid, ErrInvalidValue)
	case block.X > 1024 || block.Y > 1024 || block.Z > 64 || block.Count() > 1024:
		return fmt.Errorf("block %v: %w", block, ErrInvalidValue)
	case block.Count() > k.MaxThreads(), k.code.fn.reqThreads && block.Count() != k.MaxThreads():
		return fmt.Errorf("block %v, the kernel is built for %d threads: %w", block, k.MaxThreads(), ErrInvalidValue)
	case shared > k.MaxDynamicShared():
		return fmt.Errorf("%d bytes of dynamic shared memory, allowed %d: %w", shared, k.MaxDynamicShared(), ErrInvalidValue)
	case len(params) != k.ParamBytes():
		return fmt.Errorf("%d bytes of parameters, want %d: %w", len(params), k.ParamBytes(), ErrInvalidValue)
	}
	return nil
}

// exec runs all blocks, several at a time, and stops at the first fault.
func (l *launch) exec() (*counters, error) {
	l.dev.mem.mu.RLock()
	defer l.dev.mem.mu.RUnlock()
	blocks := l.grid.Count()
	var next atomic.Int64
	var stop atomic.Bool
	var mu sync.Mutex
	var total *counters
	var firstErr error
	work := func() {
		b := takeBlock(l)
		for !stop.Load() {
			i := int(next.Add(1)) - 1
			if i >= blocks {
				break
			}
			b.reset(i)
			if err := b.exec(); err != nil {
				stop.Store(true)
				mu.Lock()
				if firstErr == nil {
					firstErr = err
				}
				mu.Unlock()
				return
			}
		}
		if b.count != nil {
			mu.Lock()
			if total == nil {
				total = newCounters(len(l.k.code))
			}
			total.merge(b.count)
			mu.Unlock()
		}
		b.run, b.count = nil, nil
		l.k.blocks.Put(b)
	}
	workers := min(l.dev.cfg.Workers, blocks)
	if workers <= 1 {
		work()
		return total, firstErr
	}
	var wg sync.WaitGroup
	for range workers {
		wg.Go(work)
	}
	wg.Wait()
	return total, firstErr
}

// LastStats is the statistics of the last launch that ended well, nil without
// Config.Stats.
func (d *Device) LastStats() *Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stats
}

// Target gives the text's .target and .version, for reports.
func (m *Module) Target() string { return strings.TrimSpace(m.prog.target + " ptx " + m.prog.version) }

// MaxDynamicShared is the dynamic shared memory that launches may ask for, in bytes.
func (k *Kernel) MaxDynamicShared() int { return int(k.maxDynamic.Load()) }
