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

// TokenLatencies is Latencies for networks whose one input is token ids: 0 and 1 by turns, which every vocabulary has.
func TokenLatencies(ctx context.Context, dense, pruned string, batches []int, threads int) ([]Latency, error) {
	var out []Latency
	for _, b := range batches {
		var s [2]*runtime.Session
		var in map[string]*model.Tensor
		for i, file := range []string{dense, pruned} {
			g, err := loader.Open(file)
			if err != nil {
				return nil, err
			}
			defer g.Close()
			if s[i], err = runtime.New(g, cpu.New(cpu.Threads(threads)), runtime.WithOptions(runtime.Options{DType: sparse.F32, Chunk: b})); err != nil {
				return nil, err
			}
			defer s[i].Close()
			v := g.Values[g.Inputs[0]]
			shape := slices.Clone(v.Shape)
			shape[0] = b
			n, err := model.Elements(v.Elem, shape)
			if err != nil {
				return nil, err
			}
			ids := &model.Tensor{Elem: v.Elem, Shape: shape}
			if v.Elem == model.ElemI32 {
				ids.Data = alternating[int32](n)
			} else {
				ids.Data = alternating[int64](n)
			}
			in = map[string]*model.Tensor{v.Name: ids}
		}
		var times [2][]float64
		for round := range 60 {
			for k := range 2 {
				which := (round + k) % 2 // either goes first by turns
				at := time.Now()
				if _, err := s[which].RunTensors(ctx, in); err != nil {
					return nil, err
				}
				if round >= 5 {
					times[which] = append(times[which], time.Since(at).Seconds()*1e3)
				}
			}
		}
		for i := range times {
			slices.Sort(times[i])
		}
		out = append(out, Latency{b, threads, times[0][len(times[0])/2], times[1][len(times[1])/2]})
	}
	return out, nil
}

func alternating[T int32 | int64](n int) []T {
	ids := make([]T, n)
	for i := 1; i < n; i += 2 {
		ids[i] = 1
	}
	return ids
}
