package cuda

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// Backend runs plans on one device. One goroutine, locked to its thread, makes
// every driver call: a CUDA context belongs to a thread.
type Backend struct {
	d      Driver
	info   Info
	mu     sync.Mutex
	closed bool
	do     func(func() error) error // runs f on the device's goroutine
	stop   func()
}

// New makes a backend of a driver, which it owns, and loads the kernels. open is
// called on the device's goroutine.
func New(open func() (Driver, error), images []Image) (*Backend, error) {
	b := &Backend{}
	b.do, b.stop = deviceThread()
	err := b.do(func() error {
		d, err := open()
		if err != nil {
			return err
		}
		b.d, b.info = d, d.Info()
		loaded := 0
		for _, im := range images {
			if !im.serves(b.info) {
				continue
			}
			if err := d.Load(im); err != nil {
				d.Close()
				return fmt.Errorf("cuda: %s, compute capability %d.%d: %w", b.info.Name, b.info.Major, b.info.Minor, err)
			}
			loaded++
		}
		if loaded == 0 {
			d.Close()
			return fmt.Errorf("cuda: %s, compute capability %d.%d: %w", b.info.Name, b.info.Major, b.info.Minor, ErrArch)
		}
		return nil
	})
	if err != nil {
		b.stop()
		return nil, err
	}
	return b, nil
}

// Name implements runtime.Backend.
func (b *Backend) Name() string { return "cuda" }

// Info describes the device.
func (b *Backend) Info() Info { return b.info }

// energyMeter is a Driver of a GPU whose energy can be read.
type energyMeter interface{ Joules() (float64, bool) }

// Joules is what the GPU has used since some fixed time, by NVML; false where it
// cannot be read.
func (b *Backend) Joules() (joules float64, ok bool) {
	m, can := b.d.(energyMeter)
	if !can {
		return 0, false
	}
	_ = b.do(func() error {
		joules, ok = m.Joules()
		return nil
	})
	return joules, ok
}

// poolMeter is a Driver that hands out memory from a pool.
type poolMeter interface{ Pool() PoolStats }

// Pool are the counters of the device's memory pool; zero where the driver has none.
func (b *Backend) Pool() (s PoolStats) {
	if m, ok := b.d.(poolMeter); ok {
		_ = b.do(func() error {
			s = m.Pool()
			return nil
		})
	}
	return s
}

// Close releases the device; programs must be closed before.
func (b *Backend) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	b.closed = true
	err := b.do(b.d.Close)
	b.stop()
	return err
}

// RowMajor is the same device, with weights kept row-major for the decode kernels at
// every batch: what the tile kernels are compared with. It is closed with b.
func (b *Backend) RowMajor() runtime.Backend { return rowMajor{b} }

type rowMajor struct{ *Backend }

// Compile implements runtime.Backend.
func (r rowMajor) Compile(plan *runtime.Plan) (runtime.Program, error) {
	return r.compile(&program{b: r.Backend, d: r.d, plan: plan, rowMajor: true})
}

// Time implements runtime.Timer.
func (r rowMajor) Time(ctx context.Context, k runtime.Kernel, rows, cols int, density float64, batch int) (time.Duration, error) {
	return r.time(ctx, k, rows, cols, density, batch, true)
}

// Close leaves the device to its owner.
func (rowMajor) Close() error { return nil }

// Has implements runtime.Backend. Linears run dense and 2:4 in every type, as bitmaps
// in f16 and bf16, and CSR in f32, f16 and int8; f32 weights take float32 activations,
// all others float16, which bf16 and int8 kernels then round to their own type.
func (b *Backend) Has(k runtime.Kernel) bool {
	switch k.Op {
	case model.OpLinear, model.OpEmbedding:
		if k.Act != runtime.ActType(k.Weight) {
			return false
		}
		switch k.Layout {
		case sparse.LayoutDense, sparse.LayoutNM24:
			switch k.Weight {
			case sparse.F32, sparse.F16, sparse.BF16, sparse.Int8, sparse.Int4:
				return true
			}
		case sparse.LayoutBitmask:
			return k.Op == model.OpLinear && (k.Weight == sparse.F16 || k.Weight == sparse.BF16)
		case sparse.LayoutCSR:
			return k.Weight == sparse.F32 || k.Weight == sparse.F16 || k.Weight == sparse.Int8
		}
		return false
	case model.OpRMSNorm, model.OpRoPE, model.OpAttention, model.OpSiLUGate, model.OpAdd, model.OpMul, model.OpReLU, model.OpSoftmax, model.OpSelect:
		return true
	}
	return false
}

// Compile implements runtime.Backend.
func (b *Backend) Compile(plan *runtime.Plan) (runtime.Program, error) {
	return b.compile(&program{b: b, d: b.d, plan: plan})
}

func (b *Backend) compile(p *program) (runtime.Program, error) {
	if err := b.do(p.compile); err != nil {
		_ = b.do(p.release) // the first error says more
		return nil, err
	}
	return p, nil
}
