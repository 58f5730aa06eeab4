package main

import (
	"context"
	"fmt"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

// benchTimer takes the times of rows of one shape and batch, in turns.
type benchTimer interface {
	time(ctx context.Context, rows []*benchRow, rounds int) error
}

// timerClock asks the backend for times.
type timerClock struct {
	timer runtime.Timer
	sized sized // nil: sizes are unknown
}

// sized is a backend that knows how large a Linear is in a form.
type sized interface {
	LinearBytes(k runtime.Kernel, rows, cols int, density float64) int64
}

func (t *timerClock) time(ctx context.Context, rows []*benchRow, rounds int) error {
	for range rounds {
		for _, x := range rows {
			d, err := t.timer.Time(ctx, x.kernel, x.Rows, x.Cols, 1-x.Sparsity, x.Batch)
			if err != nil {
				return err
			}
			x.times = append(x.times, d)
		}
	}
	for _, x := range rows {
		if t.sized != nil {
			x.Bytes = t.sized.LinearBytes(x.kernel, x.Rows, x.Cols, 1-x.Sparsity)
		}
	}
	return nil
}

// cpuClock has every kernel's weight in as many copies as outgrow the caches, and
// goes round robin over kernels, so that what disturbs the machine disturbs all.
type cpuClock struct {
	b     *cpu.Backend
	cold  int64
	group int
}

// Least time of a sample, and least runs.
const (
	sampleTime = 10 * time.Millisecond
	sampleRuns = 2
)

func (t *cpuClock) time(ctx context.Context, rows []*benchRow, rounds int) error {
	linears := make([]*cpu.Linear, 0, len(rows))
	defer func() {
		for _, l := range linears {
			l.Close()
		}
	}()
	x, err := sparse.Read(cpu.Noise(rows[0].Batch, rows[0].Cols, 1, false))
	if err != nil {
		return err
	}
	for _, r := range rows {
		group := 0
		if r.kernel.Weight == sparse.Int4 {
			group = t.group
		}
		l, err := t.b.Linear(cpu.Noise(r.Rows, r.Cols, 1-r.Sparsity, r.kernel.Layout == sparse.LayoutNM24), r.kernel, group, r.Batch)
		if err != nil {
			return fmt.Errorf("%v: %w", r.kernel, err)
		}
		linears = append(linears, l)
		if err := l.Cold(t.cold, 0); err != nil {
			return err
		}
		l.Run(x) // touches the memory of its results
		r.Bytes = l.Reads(r.Batch)
	}
	for range rounds {
		for i, r := range rows {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, start := 0, time.Now()
			for n < sampleRuns || time.Since(start) < sampleTime {
				linears[i].Run(x)
				n++
			}
			r.times = append(r.times, time.Since(start)/time.Duration(n))
		}
	}
	return nil
}
