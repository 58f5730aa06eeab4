package engine

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
)

// loop collects batches and runs them until Close.
func (b *Batcher) loop() {
	defer close(b.stopped)
	for {
		b.mu.Lock()
		n, closed := len(b.waiting), b.closed
		b.mu.Unlock()
		switch {
		case closed:
			return
		case n > 0:
			if calls := b.take(); len(calls) > 0 {
				b.serve(calls)
			}
		case b.shadowed != nil && b.o.Yield != nil && b.o.Yield():
			select {
			case <-b.wake:
			case <-time.After(50 * time.Millisecond):
			}
		case b.shadowed != nil:
			b.shadow()
		default:
			<-b.wake
		}
	}
}

// take removes the next batch from the queue: the oldest request and those that can
// be joined with it, once they are many or the oldest has waited for Delay.
func (b *Batcher) take() []*call {
	var timer *time.Timer
	for {
		b.mu.Lock()
		if len(b.waiting) == 0 {
			b.mu.Unlock()
			return nil // cancelled meanwhile
		}
		first := b.waiting[0]
		rows, n := first.rows, 1
		var batch []*call
		joins := func(c *call) bool {
			return b.fixed == "" && first.key != "" && c.key == first.key && rows+c.rows <= b.o.MaxBatch
		}
		for _, c := range b.waiting[1:] {
			if joins(c) {
				rows += c.rows
				n++
			}
		}
		left := b.o.Delay - time.Since(first.at)
		if b.fixed != "" || first.key == "" || rows >= b.o.MaxBatch || left <= 0 || b.closed || b.draining || n == 1 && b.gap > b.o.Delay {
			rows = first.rows
			batch = append(batch, first)
			rest := b.waiting[:0]
			for _, c := range b.waiting[1:] {
				if joins(c) {
					rows += c.rows
					batch = append(batch, c)
				} else {
					rest = append(rest, c)
				}
			}
			clear(b.waiting[len(rest):])
			b.waiting = rest
			b.st.Running = len(batch)
			b.mu.Unlock()
			return batch
		}
		b.mu.Unlock()
		if timer == nil {
			timer = time.NewTimer(left)
			defer timer.Stop()
		} else {
			timer.Reset(left)
		}
		select {
		case <-timer.C:
		case <-b.wake:
		}
	}
}

// serve runs a batch and answers its calls.
func (b *Batcher) serve(calls []*call) {
	start := time.Now()
	b.mu.Lock()
	proven := b.proven
	for _, c := range calls {
		b.st.Queue.add(start.Sub(c.at).Seconds())
	}
	b.mu.Unlock()
	if len(calls) > 1 {
		outs, err := b.joined(calls)
		if err == nil && proven {
			for i, c := range calls {
				c.out = outs[i]
			}
		} else {
			// One by one: to see that the batch was right, or whose fault it was.
			b.alone(calls)
			if err == nil {
				b.judge(calls, outs)
			}
		}
	} else {
		b.alone(calls)
	}
	now := time.Now()
	if b.o.Dense != nil && b.shadowed == nil && calls[0].err == nil && rand.Float64() < b.o.Shadow {
		b.shadowed = maps.Clone(calls[0].in)
	}
	b.mu.Lock()
	b.st.Running = 0
	for _, c := range calls {
		b.st.Total.add(now.Sub(c.at).Seconds())
		if c.err != nil {
			b.st.Failed++
		} else {
			b.st.Served++
		}
	}
	b.mu.Unlock()
	for _, c := range calls {
		b.live.Add(-1)
		close(c.done)
	}
}

// alone runs each call by itself.
func (b *Batcher) alone(calls []*call) {
	for _, c := range calls {
		if c.err = c.ctx.Err(); c.err != nil {
			continue
		}
		c.out, c.err = b.run(c.ctx, b.s, c.in, c.rows)
	}
}

// joined runs calls as one and cuts the results apart.
func (b *Batcher) joined(calls []*call) ([]map[string]*model.Tensor, error) {
	in := make(map[string]*model.Tensor, len(b.in))
	rows := 0
	for _, c := range calls {
		rows += c.rows
	}
	for _, p := range b.in {
		parts := make([]*model.Tensor, len(calls))
		for i, c := range calls {
			parts[i] = c.in[p.Name]
		}
		in[p.Name] = join(parts, rows)
	}
	out, err := b.run(context.Background(), b.s, in, rows)
	if err != nil {
		return nil, err
	}
	outs := make([]map[string]*model.Tensor, len(calls))
	for i := range outs {
		outs[i] = make(map[string]*model.Tensor, len(out))
	}
	for name, t := range out {
		if t.Seq || len(t.Shape) == 0 || t.Shape[0] != rows {
			b.off(fmt.Sprintf("output %.80q of %d items has the shape %v", name, rows, t.Shape))
			return nil, fmt.Errorf("engine: no batch: %w", runtime.ErrShape)
		}
		at := 0
		for i, c := range calls {
			outs[i][name] = cut(t, at, c.rows)
			at += c.rows
		}
	}
	return outs, nil
}

// judge compares a batch's results with those of its calls alone.
func (b *Batcher) judge(calls []*call, outs []map[string]*model.Tensor) {
	for i, c := range calls {
		if c.err != nil {
			return // says nothing
		}
		for name, t := range c.out {
			d, scale := distance(t, outs[i][name])
			if !(d <= 1e-3*scale) {
				b.off(fmt.Sprintf("output %.80q of an item depends on the other items of its batch (by %g)", name, d))
				return
			}
		}
	}
	b.mu.Lock()
	b.proven = true
	b.mu.Unlock()
}

func (b *Batcher) off(why string) {
	b.mu.Lock()
	b.fixed = why
	b.mu.Unlock()
}

// run computes the network; a panic is an error.
func (b *Batcher) run(ctx context.Context, s *runtime.Session, in map[string]*model.Tensor, rows int) (out map[string]*model.Tensor, err error) {
	defer func() {
		if p := recover(); p != nil {
			b.mu.Lock()
			b.st.Failures++
			b.mu.Unlock()
			out, err = nil, fmt.Errorf("engine: run: panic: %v: %w", p, ErrInternal)
		}
	}()
	if b.sabotage != nil {
		b.sabotage()
	}
	start := time.Now()
	if s.Graph().Tensors() {
		out, err = s.RunTensors(ctx, in)
	} else {
		out, err = b.runRows(ctx, s, in)
	}
	if s != b.s || err != nil {
		return out, err
	}
	took := time.Since(start)
	b.mu.Lock()
	b.st.Batches++
	b.st.Items += uint64(rows)
	b.st.Run.add(took.Seconds())
	b.st.Size.add(float64(rows))
	if b.st.Service == 0 {
		b.st.Service = took
	}
	b.st.Service += (took - b.st.Service) / 8
	b.mu.Unlock()
	return out, nil
}

// runRows is run for a plain network: rows of numbers in, rows of numbers out.
func (b *Batcher) runRows(ctx context.Context, s *runtime.Session, in map[string]*model.Tensor) (map[string]*model.Tensor, error) {
	p := b.in[0]
	t := in[p.Name]
	x, ok := t.Data.([]float32)
	if !ok || t.Seq || len(t.Shape) == 0 || t.Shape[len(t.Shape)-1] != p.Shape[1] {
		return nil, fmt.Errorf("engine: input %.80q: want f32 [rows %d], got %v %v: %w", p.Name, p.Shape[1], t.Elem, t.Shape, runtime.ErrShape)
	}
	y, err := s.RunFloats(ctx, x, t.Shape...)
	if err != nil {
		return nil, err
	}
	shape := append(append([]int(nil), t.Shape[:len(t.Shape)-1]...), b.out[0].Shape[1])
	return map[string]*model.Tensor{b.out[0].Name: model.F32Tensor(y, shape...)}, nil
}

// shadow runs the chosen request again, dense and sparse, several times by turns.
func (b *Batcher) shadow() {
	in := b.shadowed
	b.shadowed = nil
	rows := 1
	if t := in[b.in[0].Name]; !t.Seq && len(t.Shape) > 0 {
		rows = t.Shape[0]
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	b.mu.Lock()
	b.interrupt = cancel
	b.mu.Unlock()
	defer func() {
		b.mu.Lock()
		b.interrupt = nil
		b.mu.Unlock()
	}()
	const rounds = 4
	legs := [2]*runtime.Session{b.o.Dense, b.s}
	for round := range rounds {
		var took [2]time.Duration
		var outs [2]map[string]*model.Tensor
		for k := range 2 {
			if b.Busy() || b.o.Yield != nil && b.o.Yield() {
				b.mu.Lock()
				b.st.Shadow.Aborted++
				b.mu.Unlock()
				return
			}
			leg := (round + k) % 2
			start := time.Now()
			var err error
			if outs[leg], err = b.again(ctx, legs[leg], in); err != nil {
				b.mu.Lock()
				if ctx.Err() != nil {
					b.st.Shadow.Aborted++
				} else {
					b.st.Shadow.Skipped++
				}
				b.mu.Unlock()
				return
			}
			took[leg] = time.Since(start)
		}
		b.mu.Lock()
		s := &b.st.Shadow
		s.PrefillTokens += uint64(rows)
		s.DensePrefill += took[0]
		s.SparsePrefill += took[1]
		for name, t := range outs[0] {
			d, _ := distance(t, outs[1][name])
			s.MaxAbsError = max(s.MaxAbsError, d)
		}
		if round == rounds-1 {
			s.Runs++
		}
		b.mu.Unlock()
	}
}

// again is run without counting.
func (b *Batcher) again(ctx context.Context, s *runtime.Session, in map[string]*model.Tensor) (out map[string]*model.Tensor, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("engine: run: panic: %v: %w", p, ErrInternal)
		}
	}()
	if s.Graph().Tensors() {
		return s.RunTensors(ctx, in)
	}
	return b.runRows(ctx, s, in)
}
