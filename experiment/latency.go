package experiment

import (
	"context"
	"slices"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

// Latency is the time of one batch, medians of interleaved runs.
type Latency struct {
	Batch   int     `json:"batch"`
	Threads int     `json:"threads"`
	Dense   float64 `json:"dense_ms"`
	Pruned  float64 `json:"pruned_ms"`
}

// Speedup is dense over pruned.
func (l Latency) Speedup() float64 { return l.Dense / l.Pruned }

// Latencies times two networks of one and the same input by turns. Where that is token
// ids, they are 0 and 1, which every vocabulary has.
func Latencies(ctx context.Context, dense, pruned string, batches []int, threads int) ([]Latency, error) {
	var out []Latency
	for _, b := range batches {
		l, err := latency(ctx, [2]string{dense, pruned}, b, threads)
		if err != nil {
			return nil, err
		}
		out = append(out, l)
	}
	return out, nil
}

func latency(ctx context.Context, files [2]string, batch, threads int) (Latency, error) {
	l := Latency{Batch: batch, Threads: threads}
	var s [2]*runtime.Session
	var in map[string]*model.Tensor
	for i, file := range files {
		g, err := loader.Open(file)
		if err != nil {
			return l, err
		}
		defer g.Close()
		if s[i], err = runtime.New(g, cpu.New(cpu.Threads(threads)), runtime.WithOptions(runtime.Options{DType: sparse.F32, Chunk: batch})); err != nil {
			return l, err
		}
		defer s[i].Close()
		v := g.Values[g.Inputs[0]]
		shape := slices.Clone(v.Shape)
		shape[0] = batch
		n, err := model.Elements(v.Elem, shape)
		if err != nil {
			return l, err
		}
		x := &model.Tensor{Elem: v.Elem, Shape: shape}
		switch v.Elem {
		case model.ElemI32:
			x.Data = periodic(n, 2, func(k int) int32 { return int32(k) })
		case model.ElemI64:
			x.Data = periodic(n, 2, func(k int) int64 { return int64(k) })
		default:
			x.Data = periodic(n, 17, func(k int) float32 { return float32(k)/8 - 1 })
		}
		in = map[string]*model.Tensor{v.Name: x}
	}
	var times [2][]float64
	for round := range 60 {
		for k := range 2 {
			which := (round + k) % 2 // either goes first by turns
			at := time.Now()
			if _, err := s[which].RunTensors(ctx, in); err != nil {
				return l, err
			}
			if round >= 5 {
				times[which] = append(times[which], time.Since(at).Seconds()*1e3)
			}
		}
	}
	for i := range times {
		slices.Sort(times[i])
	}
	l.Dense, l.Pruned = times[0][len(times[0])/2], times[1][len(times[1])/2]
	return l, nil
}

// periodic is n numbers f(i mod period).
func periodic[T int32 | int64 | float32](n, period int, f func(k int) T) []T {
	x := make([]T, n)
	for i := range x {
		x[i] = f(i % period)
	}
	return x
}
