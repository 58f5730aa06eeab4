package depgraph

import (
	"fmt"
	"strings"

	"github.com/sparserun/sparserun/model"
)

// Report says what went.
type Report struct {
	Score      Score         `json:"score"`
	Scope      Scope         `json:"scope"`
	Ratio      float64       `json:"ratio"`
	Units      int           `json:"units"`   // that could go
	Removed    int           `json:"removed"` // that did
	Parameters [2]int64      `json:"parameters"`
	MACs       [2]int64      `json:"multiply_adds"` // of one sample: convolutions and products of matrices
	Blocks     []string      `json:"blocks,omitempty"`
	Groups     []GroupReport `json:"groups"`
	Pinned     []Pinned      `json:"pinned,omitempty"`
}

// GroupReport is one group of units that compete.
type GroupReport struct {
	Weights []string `json:"weights"` // whose rows or columns go together
	Units   int      `json:"units"`
	Kept    int      `json:"kept"`
}

// Pinned is a weight whose rows stay, and why.
type Pinned struct {
	Weight string `json:"weight"`
	Why    string `json:"why"`
}

// Report says what goes.
func (p *Plan) Report() Report { return p.report }

func (p *Plan) describe() {
	r := Report{Score: p.o.Score, Scope: p.o.Scope, Ratio: p.o.Ratio, MACs: [2]int64{MACs(p.g), p.macs()}}
	for _, g := range p.groups {
		gr := GroupReport{Units: len(g.units)}
		for _, u := range g.units {
			if u.gone {
				r.Removed++
			} else {
				gr.Kept++
			}
		}
		for _, s := range g.spans {
			if sp := p.t.spans[s]; sp.w != nil && !sp.w.Rank1() {
				gr.Weights = append(gr.Weights, fmt.Sprintf("%s %s", sp.w.Name, [2]string{"rows", "columns"}[min(1, sp.axis)]))
			}
		}
		r.Units += gr.Units
		r.Groups = append(r.Groups, gr)
	}
	for _, n := range p.g.Nodes {
		if n.Weight == nil {
			continue
		}
		if s := p.t.weight(n.Weight, 0); s != nil {
			if why := p.t.pinned[p.t.find(s.base)]; why != "" {
				r.Pinned = append(r.Pinned, Pinned{n.Weight.Name, why})
			}
		}
	}
	r.Parameters[0] = parameters(p.g, nil)
	r.Parameters[1] = parameters(p.g, p)
	p.report = r
}

// parameters counts weights and float constants.
func parameters(g *model.Graph, p *Plan) int64 {
	var n int64
	count := func(at place, shape []int) {
		k := int64(1)
		for a, d := range shape {
			if p != nil {
				at.axis = a
				d = p.left(at, d)
			}
			k *= int64(d)
		}
		n += k
	}
	for _, w := range g.Weights {
		count(place{v: model.NoValue, w: w}, w.Shape)
	}
	for v, t := range g.Constants {
		if t.Elem.Float() {
			count(place{v: v}, t.Shape)
		}
	}
	return n
}

// String is a few lines for people.
func (r Report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "structured pruning by %s, %s: %d of %d units removed; parameters %d -> %d (%.1f %%), multiply-adds %.2f M -> %.2f M (%.1f %% fewer)",
		r.Score, r.Scope, r.Removed, r.Units, r.Parameters[0], r.Parameters[1], 100*float64(r.Parameters[1])/float64(max(1, r.Parameters[0])),
		float64(r.MACs[0])/1e6, float64(r.MACs[1])/1e6, 100*(1-float64(r.MACs[1])/float64(max(1, r.MACs[0]))))
	for _, g := range r.Groups {
		fmt.Fprintf(&b, "\n  %d -> %d: %s", g.Units, g.Kept, strings.Join(g.Weights, ", "))
	}
	for _, x := range r.Blocks {
		fmt.Fprintf(&b, "\n  block removed: %s", x)
	}
	return b.String()
}
