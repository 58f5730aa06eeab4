package cuda

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// Machine implements runtime.Timer. The simulator has no speed: it names no
// machine, and the planner then measures nothing.
func (b *Backend) Machine() string {
	if b.info.Simulated {
		return ""
	}
	return fmt.Sprintf("%s, compute capability %d.%d, driver %d, kernels %d", b.info.Name, b.info.Major, b.info.Minor, b.info.Driver, kernelVersion)
}

// kernelVersion changes when kernels do, so that cached times are measured anew.
const kernelVersion = 2

// timedRuns is how often a kernel is timed; coldBytes is how much weight memory
// the runs rotate over, more than the largest L2 cache (50 MB on H100), so that
// weights come from device memory.
const (
	timedRuns = 20
	coldBytes = 128 << 20
)

// Time implements runtime.Timer: the median of event times over copies of one
// random weight, in the form that a session of large batches keeps it in.
func (b *Backend) Time(ctx context.Context, k runtime.Kernel, rows, cols int, density float64, batch int) (time.Duration, error) {
	return b.time(ctx, k, rows, cols, density, batch, false)
}

func (b *Backend) time(ctx context.Context, k runtime.Kernel, rows, cols int, density float64, batch int, rowMajor bool) (time.Duration, error) {
	if !b.Has(k) {
		return 0, fmt.Errorf("cuda: %s: %w", k, runtime.ErrUnsupported)
	}
	m := randomMatrix(rows, cols, density, k.Layout == sparse.LayoutNM24)
	copies := 1
	if !b.info.Simulated {
		copies = max(1, min(64, coldBytes/max(1, rows*cols*elementBits(k.Weight)/8)))
	}
	g := &model.Graph{Values: []model.Value{{Name: "x", Width: cols}}, Inputs: []model.ValueID{0}}
	plan := &runtime.Plan{Graph: g, MaxRows: max(batch, runtime.PrefillRows), MaxSelect: 1, Group: cmp.Or(k.Group, 64), Buffers: []runtime.Buffer{{Width: cols, Input: 0}}, Inputs: []int{0}}
	for i := range copies {
		w := &model.Weight{Name: fmt.Sprint("w", i), Shape: []int{rows, cols}, Data: m}
		g.Values = append(g.Values, model.Value{Name: w.Name, Width: rows})
		n := &model.Node{Op: model.OpLinear, Name: w.Name, In: []model.ValueID{0}, Out: model.ValueID(len(g.Values) - 1), Weight: w}
		g.Nodes = append(g.Nodes, n)
		plan.Buffers = append(plan.Buffers, runtime.Buffer{Width: rows, Input: -1})
		plan.Steps = append(plan.Steps, runtime.Step{Node: n, Kernel: k, In: []int{0}, Out: len(plan.Buffers) - 1, Residual: -1, Choice: &runtime.Choice{}})
	}
	p := &program{b: b, d: b.d, plan: plan, rowMajor: rowMajor, alone: true}
	var ns []int64
	err := b.do(func() error {
		defer p.release()
		if err := p.compile(); err != nil {
			return err
		}
		p.rows = batch
		runs := timedRuns
		if b.info.Simulated {
			runs = 1
		}
		for i := range runs + 1 { // the first one warms up
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := p.d.Mark(0); err != nil {
				return err
			}
			if err := p.steps[i%copies].run(); err != nil {
				return err
			}
			if err := p.d.Mark(1); err != nil {
				return err
			}
			if err := p.d.Sync(); err != nil {
				return err
			}
			t, err := p.d.Elapsed(0, 1)
			if err != nil {
				return err
			}
			if i > 0 {
				ns = append(ns, t)
			}
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	slices.Sort(ns)
	return time.Duration(ns[len(ns)/2]), nil
}

// LinearBytes is what a Linear's weight occupies in the layout and type of k.
func (b *Backend) LinearBytes(k runtime.Kernel, rows, cols int, density float64) int64 {
	bits := k.Weight.Bits()
	n := float64(rows) * float64(cols)
	switch k.Layout {
	case sparse.LayoutNM24:
		return int64(n * (bits/2 + 1) / 8)
	case sparse.LayoutBitmask:
		return int64(n * (density*bits + 1) / 8)
	case sparse.LayoutCSR:
		return int64(n*density*(bits+16)/8) + int64(4*rows)
	}
	return int64(n * bits / 8)
}

// randomMatrix has normal weights at random places, at most 2 of 4 with nm24.
func randomMatrix(rows, cols int, density float64, nm24 bool) sparse.Matrix {
	rng := rand.New(rand.NewPCG(uint64(rows), uint64(cols)))
	f := make([]float32, rows*cols)
	for r := range rows {
		row := f[r*cols : (r+1)*cols]
		for c := 0; c < cols; c += 4 {
			group := row[c:min(c+4, cols)]
			if nm24 {
				for _, i := range rng.Perm(len(group))[:min(2, len(group))] {
					group[i] = float32(rng.NormFloat64())
				}
				continue
			}
			for i := range group {
				if rng.Float64() < density {
					group[i] = float32(rng.NormFloat64())
				}
			}
		}
	}
	return sparse.NewDense(rows, cols, f)
}
