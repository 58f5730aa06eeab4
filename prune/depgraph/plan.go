package depgraph

import (
	"encoding/binary"
	"fmt"
	"path"
	"slices"

	"github.com/sparserun/sparserun/model"
)

// Scope says which units compete.
type Scope string

// The scopes.
const (
	Local  Scope = "local"  // those of one group; every group loses the same share
	Global Scope = "global" // all of the network, their scores in units of their group's mean
)

// Options say what goes. The zero value of a field takes the default named.
type Options struct {
	// Ratio is the share of units to remove, 0 to below 1; with FLOPs the share of multiply-adds.
	Ratio float64
	FLOPs bool
	Score Score  // default L2
	Scope Scope  // default Local
	Seed  uint64 // of Random
	// RoundTo makes what is left of a group a multiple, if the group is larger than that; default 1.
	RoundTo int
	// Ignore are globs of node names: what these nodes make keeps all its channels.
	Ignore []string
	// Norms lets layer norms lose columns; their statistics change (see Equal outputs).
	Norms bool
	// Gradients are those of the loss by weight name (train.Net's parameters), for Taylor.
	Gradients map[string][]float32
}

// unit is elements that go together.
type unit struct {
	root    int
	members []member
	score   float64
	gone    bool
}

// member is a unit's part of one place.
type member struct {
	span int
	at   []int
}

// group is units with members in the same places.
type group struct {
	units  []*unit
	spans  []int
	keepAt int // the least that stays
}

// Plan is what Prune found and decided. The graph is not changed.
type Plan struct {
	g      *model.Graph
	o      Options
	t      *tracer
	groups []*group
	keep   map[place][]int // what stays, of places that lose something
	report Report
}

// New traces the dependencies of g, scores its units and chooses those that go.
func New(g *model.Graph, o Options) (*Plan, error) {
	if !g.Tensors() {
		return nil, fmt.Errorf("depgraph: %q: want a tensor graph (an ONNX file, or train.Tensors of a plain network): %w", g.Name, ErrGraph)
	}
	if o.Score == "" {
		o.Score = L2
	}
	if o.Scope == "" {
		o.Scope = Local
	}
	if o.RoundTo == 0 {
		o.RoundTo = 1
	}
	if !(o.Ratio >= 0 && o.Ratio < 1) || o.RoundTo < 1 || o.Scope != Local && o.Scope != Global || !slices.Contains(Scores, o.Score) {
		return nil, fmt.Errorf("depgraph: ratio %g, round to %d, scope %q, score %q: %w", o.Ratio, o.RoundTo, o.Scope, o.Score, ErrOption)
	}
	p := &Plan{g: g, o: o, t: trace(g, o.Norms)}
	if p.t.full {
		return nil, fmt.Errorf("depgraph: %q: want at most %d places along all dimensions, got more: %w", g.Name, maxElements, ErrGraph)
	}
	if err := p.ignore(); err != nil {
		return nil, err
	}
	p.collect()
	if len(p.groups) == 0 {
		return nil, fmt.Errorf("depgraph: %q: nothing can go: %s: %w", g.Name, p.why(), ErrGraph)
	}
	if err := p.score(); err != nil {
		return nil, err
	}
	if err := p.choose(); err != nil {
		return nil, err
	}
	p.describe()
	return p, nil
}

// ignore pins what the named nodes make.
func (p *Plan) ignore() error {
	for _, glob := range p.o.Ignore {
		found := false
		for _, n := range p.g.Nodes {
			ok, err := path.Match(glob, n.Name)
			if err != nil {
				return fmt.Errorf("depgraph: ignored %q: %v: %w", glob, err, ErrOption)
			}
			if ok {
				found = true
				for _, v := range n.Outs {
					p.t.pinValue(v, fmt.Sprintf("node %q is to be left alone", n.Name))
				}
			}
		}
		if !found {
			return fmt.Errorf("depgraph: ignored %q: no node of that name: %w", glob, ErrOption)
		}
	}
	return nil
}

// collect makes units of the closures that are free and hold a weight, and groups of the units.
func (p *Plan) collect() {
	units := map[int]*unit{}
	var order []*unit
	for i, s := range p.t.spans {
		for j := range s.n {
			r := p.t.find(s.base + j)
			if p.t.pinned[r] != "" {
				continue
			}
			u := units[r]
			if u == nil {
				u = &unit{root: r}
				units[r] = u
				order = append(order, u)
			}
			if k := len(u.members) - 1; k < 0 || u.members[k].span != i {
				u.members = append(u.members, member{span: i})
			}
			m := &u.members[len(u.members)-1]
			m.at = append(m.at, j)
		}
	}
	groups := map[string]*group{}
	for _, u := range order {
		weights := false
		var sig []byte
		for _, m := range u.members {
			s := p.t.spans[m.span]
			weights = weights || s.w != nil && !s.w.Rank1()
			sig = binary.AppendUvarint(binary.AppendUvarint(sig, uint64(m.span)), uint64(len(m.at)))
		}
		if !weights {
			continue
		}
		g := groups[string(sig)]
		if g == nil {
			g = &group{}
			for _, m := range u.members {
				g.spans = append(g.spans, m.span)
			}
			groups[string(sig)] = g
			p.groups = append(p.groups, g)
		}
		g.units = append(g.units, u)
	}
	// One unit alone has nothing to compete with.
	p.groups = slices.DeleteFunc(p.groups, func(g *group) bool { return len(g.units) < 2 })
	for _, g := range p.groups {
		g.keepAt = min(p.o.RoundTo, len(g.units))
	}
}

// why gives the reasons for which weights' rows stay.
func (p *Plan) why() string {
	var out []string
	for _, n := range p.g.Nodes {
		if n.Weight == nil {
			continue
		}
		if s := p.t.weight(n.Weight, 0); s != nil {
			if w := p.t.pinned[p.t.find(s.base)]; w != "" && len(out) < 3 {
				out = append(out, fmt.Sprintf("%q: %s", n.Weight.Name, w))
			}
		}
	}
	return fmt.Sprint(out)
}

// removable is how many units of n may go so that a multiple is left, when k are asked for.
func (p *Plan) removable(g *group, k int) int {
	n := len(g.units)
	left := max(n-k, g.keepAt)
	if r := p.o.RoundTo; n > r {
		left = min(n, (left+r/2)/r*r) // to the nearest multiple
		left = max(left, r)
	}
	return n - left
}

// choose marks what goes.
func (p *Plan) choose() error {
	var all []*unit
	owner := map[*unit]*group{}
	for _, g := range p.groups {
		slices.SortStableFunc(g.units, byScore)
		for _, u := range g.units {
			all = append(all, u)
			owner[u] = g
		}
	}
	slices.SortStableFunc(all, byScore)
	// cut removes the share x of units and says how many there are.
	cut := func(x float64) int {
		want := map[*group]int{}
		if p.o.Scope == Local {
			for _, g := range p.groups {
				want[g] = int(x*float64(len(g.units)) + 0.5)
			}
		} else {
			left := int(x*float64(len(all)) + 0.5)
			for _, u := range all {
				if left == 0 {
					break
				}
				if g := owner[u]; want[g] < len(g.units)-g.keepAt {
					want[g]++
					left--
				}
			}
		}
		total := 0
		for _, g := range p.groups {
			k := p.removable(g, want[g])
			total += k
			for i, u := range g.units {
				u.gone = i < k
			}
		}
		p.settle()
		return total
	}
	if !p.o.FLOPs {
		cut(p.o.Ratio)
		return nil
	}
	full := MACs(p.g)
	// The smallest share that takes at least Ratio of the multiply-adds.
	lo, hi := 0.0, 1.0
	for range 40 {
		mid := (lo + hi) / 2
		cut(mid)
		if float64(p.macs()) <= (1-p.o.Ratio)*float64(full) {
			hi = mid
		} else {
			lo = mid
		}
	}
	cut(hi)
	p.giveBack(int64((1 - p.o.Ratio) * float64(full)))
	if got := 1 - float64(p.macs())/float64(full); got < p.o.Ratio {
		return fmt.Errorf("depgraph: %q: at most %.1f %% of the multiply-adds can go, asked for %.1f %%: %w", p.g.Name, 100*got, 100*p.o.Ratio, ErrOption)
	}
	return nil
}

// giveBack restores what rounding took too much of, best units first, as long as at most limit
// multiply-adds are left.
func (p *Plan) giveBack(limit int64) {
	for p.macs() < limit {
		var best *group
		var at int
		tried := map[*group]bool{}
		for {
			best = nil
			for _, g := range p.groups {
				k := 0
				for k < len(g.units) && g.units[k].gone {
					k++
				}
				if k > 0 && !tried[g] && (best == nil || g.units[k-1].score > best.units[at].score) {
					best, at = g, k-1
				}
			}
			if best == nil {
				return
			}
			tried[best] = true
			// As many as make the next multiple; what the group had at first need not be one.
			left := len(best.units) - at - 1
			step := min(at+1, (left/p.o.RoundTo+1)*p.o.RoundTo-left)
			back := best.units[at+1-step : at+1]
			for _, u := range back {
				u.gone = false
			}
			p.settle()
			if p.macs() <= limit {
				break
			}
			for _, u := range back {
				u.gone = true
			}
			p.settle()
		}
	}
}

func byScore(a, b *unit) int {
	switch {
	case a.score < b.score:
		return -1
	case a.score > b.score:
		return 1
	}
	return a.root - b.root
}

// settle works out what stays of every place that loses something.
func (p *Plan) settle() {
	gone := map[int]map[int]bool{}
	for _, g := range p.groups {
		for _, u := range g.units {
			if !u.gone {
				continue
			}
			for _, m := range u.members {
				if gone[m.span] == nil {
					gone[m.span] = map[int]bool{}
				}
				for _, i := range m.at {
					gone[m.span][i] = true
				}
			}
		}
	}
	p.keep = map[place][]int{}
	for s, lost := range gone {
		sp := p.t.spans[s]
		kept := make([]int, 0, sp.n-len(lost))
		for i := range sp.n {
			if !lost[i] {
				kept = append(kept, i)
			}
		}
		p.keep[sp.place] = kept
	}
}

// left is the size of an axis after pruning.
func (p *Plan) left(at place, n int) int {
	if k, ok := p.keep[at]; ok {
		return len(k)
	}
	return n
}
