package prune

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sparserun/sparserun/model"
)

// Structured removes whole parts of a language model: key/value heads with the
// query heads that read them, MLP channels, layers. What is left is an ordinary,
// smaller dense model.
//
// What goes is what scores lowest, see PartScore.
//
// Unless NoRepair, all that is left is fitted again as Best does it: towards the
// dense model's outputs from the inputs it really gets, by least squares.
type Structured struct {
	Calib    Calib
	Heads    float64 // fraction of the KV heads of each layer to remove
	Channels float64 // fraction of the MLP channels of each layer to remove
	Layers   int     // how many layers to remove
	RoundTo  int     // the MLP width stays a multiple of it; 0: 8
	NoRepair bool
	Damping  float64   // ridge of the fit, times the mean diagonal; 0: 0.01
	Score    PartScore // "": ScoreActivation
	Seed     uint64    // of ScoreRandom
}

// Shrink returns a smaller graph; g itself, whose weights that are not touched it
// shares, stays as it is and must outlive it. Of Options it heeds Threads,
// Store.DType, Progress, Log, MaxMemory and SourceSHA256.
func Shrink(ctx context.Context, g *model.Graph, m Structured, o Options) (*model.Graph, *Report, error) {
	start := time.Now()
	if err := m.check(g); err != nil {
		return nil, nil, err
	}
	if err := o.Store.check(); err != nil {
		return nil, nil, err
	}
	targets, err := Targets(g, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	rep := &Report{Method: "structured", Pattern: m.String(), Before: size(g, targets), Recipe: map[string]string{}}
	s := &shrink{run: run{ctx: ctx, g: g, o: o, targets: targets, rep: rep, patterns: make([]Pattern, len(targets))}, m: m}
	if err := s.all(); err != nil {
		return nil, nil, err
	}
	out, changed, err := s.build()
	if err != nil {
		return nil, nil, err
	}
	rep.After = size(out, changed)
	rep.Sparsity = 1 - float64(rep.After.F16)/float64(rep.Before.F16)
	rep.BitsPerWeight = 16 * float64(rep.After.Pruned) / max(1, float64(rep.After.F16))
	kv := rep.Recipe
	kv["prune.method"], kv["prune.version"], kv["prune.structure"] = "structured", strconv.Itoa(Version), m.String()
	rep.Calibration.recipe(kv)
	stored := o.Store
	stored.Nearest = true // there is no Gram matrix of what is left
	stored.recipe(kv)
	if kv["prune.repair"] = "none"; !m.NoRepair {
		kv["prune.repair"] = "least squares"
		kv["prune.damping"] = strconv.FormatFloat(s.damping(), 'g', -1, 64)
	}
	kv["prune.score"] = string(m.score())
	kv["prune.geometry"] = Geometry(out.Config)
	if m.score() == ScoreRandom {
		kv["prune.seed"] = strconv.FormatUint(m.Seed, 10)
	}
	if o.SourceSHA256 != "" {
		kv["prune.source_sha256"] = o.SourceSHA256
	}
	if m.Layers > 0 {
		kv["prune.layers_kept"] = strings.Trim(fmt.Sprint(s.kept), "[]")
	}
	rep.Seconds = time.Since(start).Seconds()
	return out, rep, nil
}

// Geometry is a model's shape in one line, as recipes of structured pruning have it.
func Geometry(c *model.Config) string {
	var heads, kv, ffn []string
	for b := range c.Layers {
		h, k, f := c.Layer(b)
		heads, kv, ffn = append(heads, strconv.Itoa(h)), append(kv, strconv.Itoa(k)), append(ffn, strconv.Itoa(f))
	}
	line := func(s []string) string { // a number where all are equal
		if len(slices.Compact(slices.Clone(s))) == 1 {
			return s[0]
		}
		return strings.Join(s, ",")
	}
	return fmt.Sprintf("layers %d heads %s kv %s ffn %s", c.Layers, line(heads), line(kv), line(ffn))
}

// String names what goes.
func (m Structured) String() string {
	f := func(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }
	return "heads " + f(m.Heads) + " channels " + f(m.Channels) + " layers " + strconv.Itoa(m.Layers)
}

func (m Structured) check(g *model.Graph) error {
	if g.Config == nil {
		return fmt.Errorf("prune: structured pruning needs a language model: %w", ErrCalib)
	}
	ok := m.Heads >= 0 && m.Heads < 1 && m.Channels >= 0 && m.Channels < 1 && m.Layers >= 0 && m.Layers < g.Config.Layers && m.Damping >= 0 && m.RoundTo >= 0
	switch m.score() {
	case ScoreActivation, ScoreTaylor, ScoreRandom:
	default:
		return fmt.Errorf("prune: structured score %q: want %s, %s or %s: %w", m.Score, ScoreActivation, ScoreTaylor, ScoreRandom, ErrMethod)
	}
	if !ok || m.Heads == 0 && m.Channels == 0 && m.Layers == 0 {
		return fmt.Errorf("prune: structured %v of %d layers: want fractions of at least 0 and below 1, and something to remove: %w", m, g.Config.Layers, ErrMethod)
	}
	// A fraction that no layer has a whole unit for would return the model as it was.
	heads, channels := m.Heads == 0, m.Channels == 0
	var kv, ffn int
	for i := range g.Config.Layers {
		_, kv, ffn = g.Config.Layer(i)
		heads = heads || keepCount(kv, m.Heads, 1) < kv
		channels = channels || keepCount(ffn, m.Channels, m.roundTo()) < ffn
	}
	switch {
	case !heads:
		return fmt.Errorf("prune: structured heads %g: a layer has %d key and value heads, and no whole one goes: %w", m.Heads, kv, ErrMethod)
	case !channels:
		return fmt.Errorf("prune: structured channels %g: a layer has %d, kept in multiples of %d, and none goes: %w", m.Channels, ffn, m.roundTo(), ErrMethod)
	}
	return nil
}

// roundTo is RoundTo, or what stands for it.
func (m Structured) roundTo() int {
	if m.RoundTo == 0 {
		return 8
	}
	return m.RoundTo
}

// shrink is the state of a Shrink.
type shrink struct {
	run
	m      Structured
	taylor []partScores // per layer, for ScoreTaylor
	kept   []int        // layers
	// What stays of each layer, and its new weights by their old names.
	heads, channels [][]int
	weights         map[string]cut
}

// cut is a matrix as it will be.
type cut struct {
	rows, cols int
	w          []float32
}

// part is a layer's Linears by their role.
type part struct{ q, k, v, o, gate, up, down *model.Node }

func partsOf(nodes []*model.Node) (p part, err error) {
	for _, n := range nodes {
		for suffix, to := range map[string]**model.Node{".q_proj": &p.q, ".k_proj": &p.k, ".v_proj": &p.v, ".o_proj": &p.o,
			".gate_proj": &p.gate, ".up_proj": &p.up, ".down_proj": &p.down} {
			if n.Op == model.OpLinear && strings.HasSuffix(n.Name, suffix) {
				*to = n
			}
		}
	}
	if p.q == nil || p.k == nil || p.v == nil || p.o == nil || p.gate == nil || p.up == nil || p.down == nil {
		return p, fmt.Errorf("prune: a layer without the Linears of the Llama family: %w", ErrTarget)
	}
	return p, nil
}

// all walks the layers with the dense and the pruned stream. In the pruned one
// what goes is zero, which computes the same as if it were not there.
func (s *shrink) all() error {
	pruned, layers, err := s.openFlow(s.m.Calib)
	if err != nil {
		return err
	}
	dense, _, err := s.openFlow(s.m.Calib)
	if err != nil {
		return err
	}
	if err := s.admitShrink(); err != nil {
		return err
	}
	if s.m.score() == ScoreTaylor {
		if s.taylor, err = s.taylorScores(len(layers)); err != nil {
			return err
		}
	}
	gone, err := s.leastInfluence(layers)
	if err != nil {
		return err
	}
	s.weights = map[string]cut{}
	s.heads, s.channels = make([][]int, len(layers)), make([][]int, len(layers))
	for b, l := range layers {
		p, err := partsOf(pruned.nodes(l))
		if err != nil {
			return err
		}
		for _, f := range []*flow{dense, pruned} {
			if err := f.x.load(f.nodes(l)); err != nil {
				return err
			}
		}
		if gone[b] {
			for _, n := range []*model.Node{p.o, p.down} {
				clear(pruned.x.weights[n.Weight])
				if n.Bias != nil {
					pruned.x.vectors[n.Bias] = make([]float32, s.g.Config.Hidden)
				}
			}
		} else {
			s.kept = append(s.kept, b)
			if err := s.layer(b, p, dense, pruned); err != nil {
				return err
			}
		}
		for _, f := range []*flow{dense, pruned} {
			if err := f.advance(s.ctx, l.hi); err != nil {
				return err
			}
			f.x.drop(f.nodes(l))
		}
		if s.o.Progress != nil {
			s.o.Progress(b+1, len(layers), LayerReport{Name: "model.layers." + strconv.Itoa(b)})
		}
	}
	return nil
}

// layer chooses and fits one layer, input by input.
func (s *shrink) layer(b int, p part, dense, pruned *flow) error {
	cfg := s.g.Config
	heads, kv, ffn := cfg.Layer(b)
	at := func(n *model.Node) (*aim, error) {
		first := slices.Index(s.g.Nodes, n)
		for _, f := range []*flow{dense, pruned} {
			if err := f.advance(s.ctx, first); err != nil {
				return nil, err
			}
		}
		var targets []int
		for i, t := range s.targets {
			for _, m := range s.g.Nodes[first:] {
				if m.Weight == t && m.In[0] == n.In[0] {
					targets = append(targets, i)
				}
			}
		}
		return s.aimOf(dense, pruned, group{input: n.In[0], first: first, targets: targets})
	}
	refit := func(first *model.Node, nodes ...*model.Node) error {
		if s.m.NoRepair {
			return nil
		}
		a, err := at(first)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			if err := a.regress(pruned.x.weights[n.Weight], s.damping(), s.logf); err != nil {
				return err
			}
		}
		return nil
	}
	if err := refit(p.q, p.q, p.k, p.v); err != nil {
		return err
	}
	a, err := at(p.o)
	if err != nil {
		return err
	}
	wide := heads / kv * cfg.HeadDim // columns of o_proj per KV head
	keep := keepCount(kv, s.m.Heads, 1)
	s.heads[b] = s.choose(b, true, a, pruned.x.weights[p.o.Weight], wide, keep)
	if err := s.fit(a, p.o, pruned, expand(s.heads[b], wide)); err != nil {
		return err
	}
	if err := refit(p.gate, p.gate, p.up); err != nil {
		return err
	}
	if a, err = at(p.down); err != nil {
		return err
	}
	s.channels[b] = s.choose(b, false, a, pruned.x.weights[p.down.Weight], 1, keepCount(ffn, s.m.Channels, s.m.roundTo()))
	if err := s.fit(a, p.down, pruned, s.channels[b]); err != nil {
		return err
	}

	x := pruned.x.weights
	qRows, kvRows := expand(s.heads[b], wide), expand(s.heads[b], cfg.HeadDim)
	s.weights[p.q.Weight.Name] = rowsOf(x[p.q.Weight], cfg.Hidden, qRows)
	s.weights[p.k.Weight.Name] = rowsOf(x[p.k.Weight], cfg.Hidden, kvRows)
	s.weights[p.v.Weight.Name] = rowsOf(x[p.v.Weight], cfg.Hidden, kvRows)
	s.weights[p.o.Weight.Name] = colsOf(x[p.o.Weight], heads*cfg.HeadDim, qRows)
	s.weights[p.gate.Weight.Name] = rowsOf(x[p.gate.Weight], cfg.Hidden, s.channels[b])
	s.weights[p.up.Weight.Name] = rowsOf(x[p.up.Weight], cfg.Hidden, s.channels[b])
	s.weights[p.down.Weight.Name] = colsOf(x[p.down.Weight], ffn, s.channels[b])
	for _, n := range []*model.Node{p.q, p.k, p.v} {
		if n.Bias != nil {
			v, err := pruned.x.vector(n.Bias)
			if err != nil {
				return err
			}
			rows := kvRows
			if n == p.q {
				rows = qRows
			}
			s.weights[n.Bias.Name] = colsOf(v, len(v), rows)
		}
	}
	return nil
}

func (s *shrink) damping() float64 {
	if s.m.Damping == 0 {
		return defaultDamping
	}
	return s.m.Damping
}

// keepCount is how many of n stay, a multiple of round where n has one.
func keepCount(n int, remove float64, round int) int {
	k := n - budget(n, remove)
	if k < n && round > 1 {
		k = (k + round - 1) / round * round
	}
	return max(1, min(n, k))
}

// fit zeroes the columns of n's matrix that go and fits those that stay.
func (s *shrink) fit(a *aim, n *model.Node, pruned *flow, keep []int) error {
	d := a.gram.d
	w := pruned.x.weights[n.Weight]
	small := colsOf(w, d, keep)
	if !s.m.NoRepair {
		sub := &aim{gram: newGram(len(keep), true), cross: colsOf(a.cross, d, keep).w, residual: true, pool: a.pool}
		for i, c := range keep {
			for j, k := range keep {
				sub.gram.h[i*len(keep)+j] = a.gram.h[c*d+k]
			}
			sub.gram.diag[i] = a.gram.diag[c]
		}
		if !a.residual {
			return fmt.Errorf("prune: %q feeds no residual: %w", n.Weight.Name, ErrTarget)
		}
		if err := sub.regress(small.w, s.damping(), s.logf); err != nil {
			return err
		}
	}
	clear(w)
	for r := range small.rows {
		for i, c := range keep {
			w[r*d+c] = small.w[r*len(keep)+i]
		}
	}
	return nil
}
