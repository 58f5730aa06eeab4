package depgraph

import (
	"fmt"
	"slices"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Masked is the network at its old size with everything that Small lacks at zero: rows and columns
// of weights, biases, batch norms' gains and offsets, and constants that are added or multiplied.
func (p *Plan) Masked() (*model.Graph, error) {
	g := clone(p.g)
	g.Values = slices.Clone(p.g.Values)
	zeroed := p.additive()
	for v, t := range p.g.Constants {
		g.Constants[v] = t
		x, ok := t.Data.([]float32)
		if !ok || !zeroed[v] {
			continue
		}
		y := slices.Clone(x)
		for a := range t.Shape {
			if keep, ok := p.keep[place{v: v, axis: a}]; ok {
				clearOthers(y, t.Shape, a, keep)
			}
		}
		g.Constants[v] = model.F32Tensor(y, t.Shape...)
	}
	made := map[*model.Weight]*model.Weight{}
	for _, w := range p.g.Weights {
		x, err := sparse.Read(w.Data)
		if err != nil {
			return nil, fmt.Errorf("depgraph: %q: %w", w.Name, err)
		}
		x = slices.Clone(x)
		for a := range w.Shape {
			if keep, ok := p.keep[place{v: model.NoValue, w: w, axis: a}]; ok {
				clearOthers(x, w.Shape, a, keep)
			}
		}
		rows, cols := w.Data.Dims()
		c := &model.Weight{Name: w.Name, Shape: w.Shape, Data: sparse.NewDense(rows, cols, x)}
		made[w] = c
		g.Weights = append(g.Weights, c)
	}
	for _, n := range p.g.Nodes {
		c := *n
		if n.Weight != nil {
			c.Weight = made[n.Weight]
		}
		if n.Bias != nil {
			c.Bias = made[n.Bias]
		}
		g.Nodes = append(g.Nodes, &c)
	}
	return g, nil
}

// additive are the constants that may be zero: whatever divides, or is a variance, may not.
func (p *Plan) additive() map[model.ValueID]bool {
	out, no := map[model.ValueID]bool{}, map[model.ValueID]bool{}
	for _, n := range p.g.Nodes {
		for i, v := range n.In {
			if p.g.Constants[v] == nil {
				continue
			}
			switch n.Op {
			case "Add", "Sub", "Mul", "Concat", "Gather", "LayerNormalization", "RMSNormalization", "InstanceNormalization":
				out[v] = true
			case "BatchNormalization":
				if i < 3 {
					out[v] = true
				} else {
					no[v] = true
				}
			default:
				no[v] = true
			}
		}
	}
	for v := range no {
		delete(out, v)
	}
	return out
}

// clearOthers zeroes all indices of an axis but those kept.
func clearOthers(x []float32, shape []int, axis int, keep []int) {
	outer, inner := around(shape, axis)
	stays := make([]bool, shape[axis])
	for _, k := range keep {
		stays[k] = true
	}
	for o := range outer {
		for k := range stays {
			if !stays[k] {
				at := (o*shape[axis] + k) * inner
				clear(x[at : at+inner])
			}
		}
	}
}
