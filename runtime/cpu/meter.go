package cpu

import (
	"slices"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// meter turns the time of a step into counters.
type meter struct {
	selected bool // rows are the selected ones
	parts    []meterPart
}

// meterPart is one kernel of a step: what a call costs.
type meterPart struct {
	slot          int
	share         float64 // of the step's time
	Bytes         int64   // of weights, per call
	DenseBytes    int64
	RowBytes      int64 // per row
	RowFLOPs      int64
	DenseRowFLOPs int64
	ContextFLOPs  int64 // per row and token of its context
}

// meter makes the meter of a step that is one kernel.
func (c *compiler) meter(op model.Op, selected bool) meter {
	return meter{selected: selected, parts: []meterPart{{slot: c.slot(runtime.OpKey{Op: op, Layout: sparse.LayoutDense}), share: 1}}}
}

// slot numbers the counters of a program, so that counting a step needs no map.
func (c *compiler) slot(k runtime.OpKey) int {
	if i := slices.Index(c.p.keys, k); i >= 0 {
		return i
	}
	c.p.keys = append(c.p.keys, k)
	return len(c.p.keys) - 1
}

func (m *meter) add(p *program, d time.Duration) {
	rows := int64(p.rowsOf(m.selected))
	for i := range m.parts {
		q := &m.parts[i]
		t := &p.totals[q.slot]
		t.Calls++
		t.Time += time.Duration(float64(d) * q.share)
		t.Bytes += q.Bytes + q.RowBytes*rows
		t.DenseBytes += q.DenseBytes + q.RowBytes*rows
		t.FLOPs += q.RowFLOPs * rows
		if q.DenseRowFLOPs > 0 {
			t.DenseFLOPs += q.DenseRowFLOPs * rows
		} else {
			t.DenseFLOPs += q.RowFLOPs * rows
		}
		if q.ContextFLOPs > 0 {
			f := q.ContextFLOPs * p.cache.context
			t.FLOPs += f
			t.DenseFLOPs += f
		}
	}
}

// flush hands the counts of one Run over and starts anew.
func (p *program) flush(c *runtime.Counters) {
	phase := runtime.Prefill
	if p.decode {
		phase = runtime.Decode
	}
	for i, k := range p.keys {
		if p.totals[i].Calls == 0 {
			continue
		}
		k.Phase = phase
		c.Count(k, p.totals[i])
		p.totals[i] = runtime.OpCounter{}
	}
}
