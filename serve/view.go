package serve

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/sparse"
)

// view is a copy of all there is to tell of a model at one moment, so that nothing of the
// model is held while it is written out.
type view struct {
	status   registry.Status
	loaded   bool // the fields below are set
	m        about
	lm       *engine.Stats
	net      *engine.BatchStats
	counters *runtime.Counters
	twin     *runtime.Counters
	choices  []*runtime.Choice
}

// about is what a model is.
type about struct {
	Name, Path string
	Spec       registry.Spec
	Loaded     time.Time
	LoadTime   time.Duration
	Info       registry.Info
}

// views copies all models, in the order of the index.
func (s *Server) views() []view {
	var out []view
	for _, st := range s.reg.Index() {
		v := view{status: st}
		if m, release, err := s.reg.Acquire(st.Name); err == nil {
			v.fill(m)
			release()
		}
		out = append(out, v)
	}
	s.metrics.totals.update(out, s.o.Backend)
	return out
}

func (v *view) fill(m *registry.Model) {
	v.loaded = true
	v.m = about{Name: m.Name, Path: m.Path, Spec: m.Spec, Loaded: m.Loaded, LoadTime: m.LoadTime, Info: m.Info}
	v.choices = m.Session.Explain() // never changed
	v.counters = m.Session.Counters()
	if m.Dense != nil {
		v.twin = m.Dense.Counters()
	}
	if m.LM != nil {
		st := m.LM.Stats()
		v.lm = &st
	}
	if m.Net != nil {
		st := m.Net.Stats()
		v.net = &st
	}
}

func (v *view) shadow() engine.ShadowStats {
	switch {
	case v.lm != nil:
		return v.lm.Shadow
	case v.net != nil:
		return v.net.Shadow
	}
	return engine.ShadowStats{}
}

func (v *view) waiting() (running, waiting int) {
	switch {
	case v.lm != nil:
		return v.lm.Running, v.lm.Waiting
	case v.net != nil:
		return v.net.Running, v.net.Waiting
	}
	return 0, 0
}

// weightType is the type that Linear weights run in.
func (v *view) weightType() sparse.DType {
	if t := v.m.Spec.DType; t != 0 {
		return t
	}
	return sparse.F16
}

// execName is the label exec: how a weight is multiplied.
func execName(l sparse.Layout, t sparse.DType) string {
	switch {
	case l == sparse.LayoutNM24 && t == sparse.Int4:
		return "int4_nm24"
	case l == sparse.LayoutBitmask:
		return "bitmap"
	}
	return l.String()
}

// Reasons of a choice, as the label reason has them: few, unlike Choice.Reason.
const (
	reasonMeasured   = "measured"   // sparse, and faster
	reasonAsked      = "asked"      // sparse, because --sparse names the form
	reasonUnmeasured = "unmeasured" // sparse, on a backend without times
	reasonFewZeros   = "few_zeros"  // dense: there is nothing to skip
	reasonLookup     = "lookup"     // rows are looked up
	reasonDisabled   = "disabled"   // dense, because --sparse says so
	reasonSlower     = "slower"     // dense: the sparse forms are slower here
	reason24         = "not_24"     // dense: 2:4 was asked for and does not hold
	reasonShape      = "shape"      // dense: the form that was asked for cannot hold it
	reasonArch       = "arch"       // dense: the backend has no kernel
)

// manyZeros is where a weight counts as pruned: below, dense is no fallback.
const manyZeros = 0.3

// choiceReason sorts a choice; fallback says that a weight runs dense that was pruned, or
// was asked to run sparse.
func choiceReason(c *runtime.Choice, o *runtime.Options) (reason string, fallback bool) {
	isDense := c.Kernel.Layout == sparse.LayoutDense
	pruned := c.Sparsity >= manyZeros
	switch {
	case c.Kernel.Op == model.OpEmbedding:
		return reasonLookup, false
	case !isDense && len(c.Candidates) > 0:
		return reasonMeasured, false
	case !isDense && o.Sparse == runtime.SparseForce:
		return reasonAsked, false
	case !isDense:
		return reasonUnmeasured, false
	case len(c.Candidates) > 1:
		return reasonSlower, true
	case o.Sparse == runtime.SparseOff:
		return reasonDisabled, pruned
	case o.Sparse == runtime.SparseForce && o.Layout == sparse.LayoutNM24:
		return reason24, true
	case o.Sparse == runtime.SparseForce && o.Layout != sparse.LayoutDense:
		return reasonShape, true
	case pruned:
		return reasonArch, true
	}
	return reasonFewZeros, false
}

type opLabel struct{ op, exec, backend, phase string }
type dispatchLabel struct{ op, exec, backend, reason string }

type opTotal struct {
	calls uint64
	time  time.Duration
}

// totals are the counters that have no label model. What an unloaded model did stays in
// them, as a counter must not fall.
type totals struct {
	mu       sync.Mutex
	loads    uint64
	loadTime time.Duration
	fallback map[string]uint64
	ops      map[opLabel]opTotal         // of models that are gone
	dispatch map[dispatchLabel]float64   // likewise
	now      map[generation]*modelTotals // of models that are here, as last seen
}

// generation is one load of a model.
type generation struct {
	name   string
	loaded time.Time
}

type modelTotals struct {
	ops      map[opLabel]opTotal
	dispatch map[dispatchLabel]float64
}

func newTotals() *totals {
	t := &totals{fallback: map[string]uint64{}, ops: map[opLabel]opTotal{}, dispatch: map[dispatchLabel]float64{}, now: map[generation]*modelTotals{}}
	for _, r := range []string{reasonShape, reasonArch, reasonSlower, reason24, reasonDisabled} {
		t.fallback[r] = 0
	}
	return t
}

// update takes in what models did since the last time.
func (t *totals) update(vs []view, backend string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	here := map[generation]bool{}
	for i := range vs {
		v := &vs[i]
		if !v.loaded {
			continue
		}
		g := generation{v.m.Name, v.m.Loaded}
		here[g] = true
		if t.now[g] == nil {
			t.loads++
			t.loadTime += v.m.LoadTime
			for _, c := range v.choices {
				if reason, fell := choiceReason(c, &v.m.Spec.Options); fell {
					t.fallback[reason]++
				}
			}
		}
		t.now[g] = modelWork(v, backend)
	}
	for g, m := range t.now {
		if here[g] {
			continue
		}
		add(t.ops, t.dispatch, m)
		delete(t.now, g)
	}
}

// sum is everything, of models here and gone.
func (t *totals) sum() *modelTotals {
	s := &modelTotals{maps.Clone(t.ops), maps.Clone(t.dispatch)}
	for _, m := range t.now {
		add(s.ops, s.dispatch, m)
	}
	return s
}

func add(ops map[opLabel]opTotal, dispatch map[dispatchLabel]float64, m *modelTotals) {
	for k, x := range m.ops {
		o := ops[k]
		o.calls += x.calls
		o.time += x.time
		ops[k] = o
	}
	for k, n := range m.dispatch {
		dispatch[k] += n
	}
}

// modelWork is the work of one model, and of its dense twin.
func modelWork(v *view, backend string) *modelTotals {
	m := &modelTotals{map[opLabel]opTotal{}, map[dispatchLabel]float64{}}
	// Every step of a plan runs once in a run of it, so the calls of a layout divide among
	// the reasons as the weights in it do.
	weights := map[[2]string]float64{}            // op, exec
	reasons := map[[2]string]map[string]float64{} // op, exec: reason
	for _, c := range v.choices {
		k := [2]string{string(c.Kernel.Op), execName(c.Kernel.Layout, v.weightType())}
		r, _ := choiceReason(c, &v.m.Spec.Options)
		weights[k]++
		if reasons[k] == nil {
			reasons[k] = map[string]float64{}
		}
		reasons[k][r]++
	}
	for k, o := range v.counters.Ops {
		op, exec := string(k.Op), execName(k.Layout, v.weightType())
		m.op(op, exec, backend, k.Phase, o)
		for r, n := range reasons[[2]string{op, exec}] {
			m.dispatch[dispatchLabel{op, exec, backend, r}] += float64(o.Calls) * n / weights[[2]string{op, exec}]
		}
	}
	if v.twin != nil {
		for k, o := range v.twin.Ops {
			m.op(string(k.Op), execName(k.Layout, v.weightType()), backend, k.Phase, o)
		}
	}
	return m
}

func (m *modelTotals) op(op, exec, backend string, p runtime.Phase, o runtime.OpCounter) {
	k := opLabel{op, exec, backend, p.String()}
	x := m.ops[k]
	x.calls += uint64(o.Calls)
	x.time += o.Time
	m.ops[k] = x
}

// execBytes are a model's packed weights by exec; what no layer multiplies (norms, biases)
// is dense.
func (v *view) execBytes() map[string]sparse.Bytes {
	out := map[string]sparse.Bytes{}
	rest := v.counters.Memory.Weights
	for _, c := range v.choices {
		k := execName(c.Kernel.Layout, v.weightType())
		out[k] = out[k].Add(c.Packed)
		rest = sparse.Bytes{Values: rest.Values - c.Packed.Values, Metadata: rest.Metadata - c.Packed.Metadata, Scales: rest.Scales - c.Packed.Scales}
	}
	if rest.Total() > 0 {
		d := execName(sparse.LayoutDense, v.weightType())
		out[d] = out[d].Add(rest)
	}
	return out
}

// sample is one second of a model.
type sample struct {
	Time    int64   `json:"t"` // Unix, s
	Output  float64 `json:"output_tokens_per_s"`
	Prompt  float64 `json:"prompt_tokens_per_s"`
	Rate    float64 `json:"requests_per_s"`
	Running int     `json:"running"`
	Waiting int     `json:"waiting"`
	KVUsed  int64   `json:"kv_bytes"`
}

// historyLength is how many samples the page has at once: five minutes.
const historyLength = 300

// history keeps the last samples of every model.
type history struct {
	mu   sync.Mutex
	last map[generation][3]uint64 // output, prompt, requests
	at   time.Time
	ring map[string][]sample
}

func (h *history) of(model string) []sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.ring[model])
}

// add makes a sample of what the views say now.
func (h *history) add(vs []view, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	last := h.last
	h.last = map[generation][3]uint64{}
	if h.ring == nil {
		h.ring = map[string][]sample{}
	}
	seconds := now.Sub(h.at).Seconds()
	h.at = now
	known := map[string]bool{}
	for i := range vs {
		v := &vs[i]
		known[v.status.Name] = true
		if !v.loaded {
			continue
		}
		g := generation{v.m.Name, v.m.Loaded}
		var c [3]uint64
		x := sample{Time: now.Unix()}
		x.Running, x.Waiting = v.waiting()
		if v.lm != nil {
			c = [3]uint64{v.lm.OutputTokens, v.lm.PromptTokens - v.lm.CachedTokens, v.lm.Total.Count}
			x.KVUsed = int64(v.lm.PagesUsed) * v.pageBytes()
		} else if v.net != nil {
			c = [3]uint64{0, v.net.Items, v.net.Served}
		}
		if p, ok := last[g]; ok && seconds > 0 {
			x.Output, x.Prompt, x.Rate = float64(c[0]-p[0])/seconds, float64(c[1]-p[1])/seconds, float64(c[2]-p[2])/seconds
		}
		h.last[g] = c
		ring := append(h.ring[v.m.Name], x)
		if len(ring) > historyLength {
			ring = slices.Delete(ring, 0, len(ring)-historyLength)
		}
		h.ring[v.m.Name] = ring
	}
	for name := range h.ring {
		if !known[name] {
			delete(h.ring, name)
		}
	}
}

// pageBytes is the memory of one KV page.
func (v *view) pageBytes() int64 {
	if v.lm == nil || v.lm.PagesTotal == 0 {
		return 0
	}
	return v.counters.Memory.KVCache / int64(v.lm.PagesTotal)
}
