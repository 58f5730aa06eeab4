package cpu

import (
	"fmt"
	"sync"

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
	copies     []packed // of the weight, which Runs take in turn
	next       int
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
	l.copies = []packed{w}
	l.step.parts = []linear{{w: w, rows: l.rows, residual: -1}}
	l.step.cut(b.pool.threads)
	b.pool.retain()
	return l, nil
}

// Cold copies the weight until its copies hold size bytes or are most (0: any
// number), so that Runs, which take them in turn, read memory and not caches. The
// portable form, which is slower than memory, stays alone.
func (l *Linear) Cold(size int64, most int) error {
	one := l.Bytes().Total()
	for n := len(l.copies); one > 0 && int64(n)*one < size && (most == 0 || n < most); n++ {
		w, err := l.copies[0].clone()
		if err != nil {
			return fmt.Errorf("cpu: %w", err)
		}
		if w == l.copies[0] {
			return nil
		}
		l.copies = append(l.copies, w)
	}
	return nil
}

// Copies is the number of copies of the weight.
func (l *Linear) Copies() int { return len(l.copies) }

// Bytes is the packed size of the weight.
func (l *Linear) Bytes() sparse.Bytes { return l.copies[0].bytes() }

// Reads is the bytes of the weight that a product with n rows of activations reads:
// CSR has a second form for batches.
func (l *Linear) Reads(n int) int64 {
	total := l.Bytes().Total()
	if c, ok := l.copies[0].(*csrTiled); ok && c.lists != nil {
		if lists := c.lists.bytes().Total(); n > csrFew {
			total = lists
		} else {
			total -= lists
		}
	}
	return total
}

// Run multiplies x, row-major with as many columns as the weight, and returns
// the product, which the next Run overwrites. Making the form of x that the
// kernel reads is part of it.
func (l *Linear) Run(x []float32) []float32 {
	s := &l.step
	s.parts[0].w = l.copies[l.next]
	l.next = (l.next + 1) % len(l.copies)
	s.x.rows, s.x.f32 = len(x)/l.cols, x
	f := s.parts[0].w.form()
	s.x.begin(f)
	s.making.run(l.b.pool, s.x, f)
	l.b.pool.run(l, s.deal())
	return l.out[:s.x.rows*l.rows]
}

func (l *Linear) part(worker, i int) {
	c, x, t0 := l.step.share(worker, i)
	l.step.parts[0].w.mul(l.out[t0*l.rows:], l.rows, x, epilogue{}, c.r0, c.r1)
}

// Close frees the weight.
func (l *Linear) Close() {
	l.once.Do(func() {
		l.b.pool.release()
		for _, w := range l.copies {
			w.free()
		}
		l.mem.free()
	})
}
