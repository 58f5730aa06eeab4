package cpu

import (
	"fmt"
	goruntime "runtime"
	"sync"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// Backend runs plans on this machine's cores. It may serve many sessions; their
// steps take turns on its workers.
type Backend struct {
	pool   *pool
	timer  timer
	limits struct {
		once sync.Once
		l    Limits
		err  error
	}
}

// Option changes how New sets a Backend up.
type Option func(*Backend)

// Threads sets the number of workers; n < 1 is every core the process may use.
func Threads(n int) Option {
	return func(b *Backend) {
		if n >= 1 {
			b.pool.threads = min(n, maxThreads)
		}
	}
}

// maxThreads bounds Threads: more than any machine has.
const maxThreads = 1024

// New returns the CPU backend. It starts no goroutines before a plan is compiled
// and ends them with the last program's Close.
func New(opts ...Option) *Backend {
	b := &Backend{pool: newPool(min(goruntime.GOMAXPROCS(0), maxThreads))}
	for _, o := range opts {
		o(b)
	}
	b.pool.wake = make(chan struct{}, b.pool.threads)
	return b
}

// Name implements runtime.Backend.
func (b *Backend) Name() string { return "cpu" }

// Close releases what measurements left behind; programs stay usable.
func (b *Backend) Close() error {
	b.timer.clear()
	return nil
}

// Has implements runtime.Backend: every op, and Linear in every layout and type,
// with int8 activations for int8 and int4 weights.
func (b *Backend) Has(k runtime.Kernel) bool {
	switch k.Op {
	case model.OpLinear, model.OpEmbedding, model.OpConv:
		switch k.Layout {
		case sparse.LayoutDense, sparse.LayoutNM24, sparse.LayoutBitmask, sparse.LayoutCSR:
		default:
			return false
		}
		switch k.Weight {
		case sparse.F32, sparse.F16, sparse.BF16:
			return k.Act == sparse.F32
		case sparse.Int8, sparse.Int4:
			return k.Act == sparse.F32 || k.Act == sparse.Int8
		}
		return false
	case model.OpRMSNorm, model.OpRoPE, model.OpAttention, model.OpSiLUGate, model.OpAdd, model.OpMul, model.OpReLU, model.OpSoftmax, model.OpSelect:
		return true
	}
	return false
}

// Compile implements runtime.Backend.
func (b *Backend) Compile(plan *runtime.Plan) (runtime.Program, error) {
	if err := linalg.CheckISA(); err != nil {
		return nil, fmt.Errorf("cpu: compile: %w", err)
	}
	b.timer.clear() // measuring is over: its memory is for weights now
	p := &program{pool: b.pool, plan: plan}
	b.pool.retain()
	c := compiler{p: p, plan: plan}
	if err := c.compile(); err != nil {
		p.release()
		b.pool.release()
		return nil, fmt.Errorf("cpu: compile: %w", err)
	}
	return p, nil
}
