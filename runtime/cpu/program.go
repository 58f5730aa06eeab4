package cpu

import (
	"context"
	"fmt"
	goruntime "runtime"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// step is one kernel call, or several that run as one (q, k and v).
type step interface {
	// run does the work for the batch that p holds.
	run(p *program)
}

// program is a compiled plan: steps over one arena, packed weights, KV cache.
type program struct {
	pool *pool
	plan *runtime.Plan

	steps   []step
	meters  []meter // beside steps
	packs   []packed
	regions []*region
	bytes   []sparse.Bytes // by plan step
	weights sparse.Bytes   // all packed weights once, vectors included
	work    int64          // bytes of arena and scratch

	bufs  [][]float32 // by plan buffer; nil for int32 inputs
	ints  [][]int32   // by plan buffer: the batch's int32 inputs
	roles []role      // by plan input
	outs  []output    // by plan output
	cache *kvCache    // nil without attention
	ropes []*ropeTable

	rows, selected int // of the batch
	decode         bool

	closed  atomic.Bool
	totals  []runtime.OpCounter // by meter slot, of one Run
	keys    []runtime.OpKey     // by meter slot, without the phase
	wantSum bool
}

// output is where a result of the plan comes from.
type output struct {
	buf, width int
	selected   bool
	direct     bool // the last step may write to the caller's memory
}

// Run implements runtime.Program.
func (p *program) Run(ctx context.Context, in, out []runtime.View, c *runtime.Counters) error {
	select {
	case p.pool.lease <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-p.pool.lease }()
	if p.closed.Load() {
		return fmt.Errorf("cpu: program: %w", runtime.ErrClosed)
	}
	if err := p.bind(in, out); err != nil {
		return err
	}
	p.pool.rouse(p.pool.threads)
	err := p.loop(ctx, c)
	if err == nil {
		p.deliver(out)
	}
	p.unbind()
	goruntime.KeepAlive(p)
	return err
}

// loop runs the steps. A step is short, so that a cancelled batch ends soon; its
// results are worthless then, but the KV cache stays sound.
func (p *program) loop(ctx context.Context, c *runtime.Counters) error {
	done := ctx.Done()
	p.wantSum = c != nil
	last := time.Now()
	for i, s := range p.steps {
		m := &p.meters[i]
		if m.selected && p.selected == 0 {
			continue
		}
		select {
		case <-done:
			return ctx.Err()
		default:
		}
		s.run(p)
		if p.wantSum {
			now := time.Now()
			m.add(p, now.Sub(last))
			last = now
		}
	}
	if p.wantSum {
		p.flush(c)
	}
	return nil
}

// deliver copies results that were not written in place.
func (p *program) deliver(out []runtime.View) {
	for i, o := range p.outs {
		if !o.direct {
			copy(out[i].F32, p.bufs[o.buf][:p.rowsOf(o.selected)*o.width])
		}
	}
}

func (p *program) rowsOf(selected bool) int {
	if selected {
		return p.selected
	}
	return p.rows
}

// Memory implements runtime.Program.
func (p *program) Memory() runtime.Memory {
	m := runtime.Memory{Weights: p.weights, Workspace: p.work}
	if p.cache != nil {
		m.KVCache, m.KVUsed = p.cache.size(), p.cache.used()
	}
	return m
}

// Bytes implements runtime.Program.
func (p *program) Bytes(step int) sparse.Bytes {
	if step < 0 || step >= len(p.bytes) {
		return sparse.Bytes{}
	}
	return p.bytes[step]
}

// Close implements runtime.Program: it waits for a Run in progress.
func (p *program) Close() error {
	if p.closed.Swap(true) {
		return nil
	}
	p.pool.lease <- struct{}{}
	p.release()
	<-p.pool.lease
	p.pool.release()
	return nil
}

func (p *program) release() {
	for _, w := range p.packs {
		w.free()
	}
	for _, r := range p.regions {
		r.free()
	}
	p.packs, p.regions, p.steps, p.bufs = nil, nil, nil, nil
}

// memory allocates n floats that live as long as the program.
func (p *program) memory(n int) ([]float32, error) {
	r, err := alloc(4 * n)
	if err != nil {
		return nil, err
	}
	p.regions = append(p.regions, r)
	return f32s(r.bytes()), nil
}

// grain is the work, in numbers touched, that is worth a part of its own: some ten
// microseconds. Less runs on the caller.
const grain = 1 << 14

// split cuts n items of cost numbers each into parts of whole items and returns
// how many items a part has.
func (p *program) split(n, cost int) int {
	per := max(1, (grain+cost-1)/max(cost, 1))
	if p.pool.threads == 1 || n <= per {
		return n
	}
	// Some four parts a worker even out what else the machine does.
	return max(per, (n+4*p.pool.threads-1)/(4*p.pool.threads))
}

func parts(n, per int) int { return (n + per - 1) / max(per, 1) }
