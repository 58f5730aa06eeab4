package cpu

import (
	"fmt"
	"sync"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// Linear is one weight in the form that this backend would run it in, apart from
// any plan: what benchmarks and the planner measure. It is not safe for
// concurrent use, nor while a program of the same backend runs.
type Linear struct {
	b          *Backend
	rows, cols int
	step       linearStep
	mem        *region
	out        []float32
	once       sync.Once
}

// Linear packs m for kernel k and reserves room for up to batch rows of
// activations. group is runtime.Plan.Group.
func (b *Backend) Linear(m sparse.Matrix, k runtime.Kernel, group, batch int) (*Linear, error) {
	w, err := pack(m, k, group, &scratch{})
	if err != nil {
		return nil, err
	}
	l := &Linear{b: b}
	l.rows, l.cols = m.Dims()
	f := w.form()
	n := (formBytes(f, batch, l.cols) + 63) &^ 63
	if l.mem, err = alloc(n + 4*batch*l.rows); err != nil {
		w.free()
		return nil, fmt.Errorf("cpu: %w", err)
	}
	l.step.x = &acts{cols: l.cols}
	l.step.x.mem[f] = l.mem.bytes()[:n]
	l.out = f32s(l.mem.bytes()[n:])
	l.step.parts = []linear{{w: w, rows: l.rows, residual: -1}}
	l.step.cut(b.pool.threads)
	b.pool.retain()
	return l, nil
}

// Bytes is the packed size of the weight.
func (l *Linear) Bytes() sparse.Bytes { return l.step.parts[0].w.bytes() }

// Run multiplies x, row-major with as many columns as the weight, and returns
// the product, which the next Run overwrites. Making the form of x that the
// kernel reads is part of it.
func (l *Linear) Run(x []float32) []float32 {
	s := &l.step
	s.x.rows, s.x.f32 = len(x)/l.cols, x
	f := s.parts[0].w.form()
	s.x.begin(f)
	n := s.x.rows
	if s.x.step(f) < n && l.b.pool.threads > 1 {
		per := (n/l.b.pool.threads/s.x.step(f) + 1) * s.x.step(f)
		s.making = formJob{s.x, f, per}
		l.b.pool.run(&s.making, (n+per-1)/per)
	} else {
		s.x.prepare(f, 0, n)
	}
	s.cuts = s.few
	if n > manyRows {
		s.cuts = s.many
	}
	l.b.pool.run(l, len(s.cuts))
	return l.out[:n*l.rows]
}

func (l *Linear) part(_, i int) {
	c := l.step.cuts[i]
	l.step.parts[0].w.mul(l.out, l.rows, l.step.x, epilogue{}, c.r0, c.r1)
}

// Close frees the weight.
func (l *Linear) Close() {
	l.once.Do(func() {
		l.b.pool.release()
		l.step.parts[0].w.free()
		l.mem.free()
	})
}

// Limits are what the machine can do at most with the backend's threads.
type Limits struct {
	Read float64 `json:"read_bytes_per_s"` // of memory, far larger than caches
	FMA  float64 `json:"fma_flop_per_s"`   // float32, 2 a multiply-add
	Dot  float64 `json:"int8_op_per_s"`    // vpdpbusd, 2 a multiply-add; 0 without VNNI
}

// Measure reads size bytes of fresh memory and runs arithmetic that needs none,
// and keeps the best of several rounds.
func (b *Backend) Measure(size int) (Limits, error) {
	size = max(size, 1<<20) &^ 4095
	r, err := alloc(size)
	if err != nil {
		return Limits{}, fmt.Errorf("cpu: %w", err)
	}
	defer r.free()
	for i := 0; i < size; i += 4096 {
		r.bytes()[i] = 1
	}
	b.pool.retain()
	defer b.pool.release()
	const parts = 64
	rate := func(work float64, f func(i int)) float64 {
		best := time.Duration(1 << 62)
		for range 7 {
			start := time.Now()
			b.pool.run(partFunc(f), parts)
			best = min(best, time.Since(start))
		}
		return work / best.Seconds()
	}
	per := size / parts &^ 511
	const n = 20000
	l := Limits{Read: rate(float64(per*parts), func(i int) { readBytes(r.bytes()[i*per : (i+1)*per]) })}
	l.FMA = rate(parts*n*fmaPeak(0), func(int) { fmaPeak(n) })
	l.Dot = rate(parts*n*dotPeak(0), func(int) { dotPeak(n) })
	return l, nil
}

type partFunc func(i int)

func (f partFunc) part(_, i int) { f(i) }
