package prune

import (
	"context"
	"crypto/sha256"
	"fmt"
	goruntime "runtime"
	"sync"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Options are the parts of a run that do not belong to method or pattern.
// Threads, Progress and Log never change the result.
type Options struct {
	Include, Exclude []string // see Targets
	Store            Store
	// KeepZeros keeps weights that are zero already at zero and counts them
	// towards the target: prune, fine-tune, prune more.
	KeepZeros bool
	Threads   int // 0: all cores
	// Progress is called after every matrix, from one goroutine at a time.
	Progress func(done, total int, layer LayerReport)
	// Log receives what a user should know: a damping that was raised, say.
	Log func(line string)
	// Allocate gives blocks their own sparsities; nil: all have the pattern's.
	// Calibrated methods only.
	Allocate Allocation
	// Permute reorders the channels of the MLP and of the value heads ahead of
	// pruning to an N:M pattern; the model computes the same. Calibrated methods
	// only.
	Permute bool
	// Journal is a folder in which calibrated methods keep finished blocks, so
	// that an interrupted run can go on; "": none. See ClearJournal.
	Journal string
	// MaxMemory refuses a calibrated run that needs more bytes than this besides
	// the model and the result; 0: no limit. The need is Report.PeakBytes.
	MaxMemory int64
	// SourceSHA256 of the model's file goes into the recipe.
	SourceSHA256 string
}

// Apply prunes g in place with default Options.
func Apply(g *model.Graph, m Method, p Pattern) (*Report, error) {
	return Run(context.Background(), g, m, p, Options{})
}

// Run prunes g in place: the weights that Targets chooses are replaced, one
// after another, by their pruned and packed form. The float32 form of only one
// matrix a thread exists at any time. After an error g is partly pruned.
func Run(ctx context.Context, g *model.Graph, m Method, p Pattern, o Options) (*Report, error) {
	start := time.Now()
	if g == nil || m == nil || p == nil {
		return nil, fmt.Errorf("prune: no graph, no method or no pattern: %w", ErrMethod)
	}
	if err := p.check(); err != nil {
		return nil, err
	}
	if err := m.check(p); err != nil {
		return nil, err
	}
	if err := o.Store.check(); err != nil {
		return nil, err
	}
	targets, err := Targets(g, o.Include, o.Exclude)
	if err != nil {
		return nil, err
	}
	rep := &Report{Method: m.Name(), Before: size(g, targets), Layers: make([]LayerReport, len(targets)), Recipe: map[string]string{}}
	r := &run{ctx: ctx, g: g, p: p, o: o, targets: targets, rep: rep, sums: make([][sha256.Size]byte, len(targets)), patterns: make([]Pattern, len(targets))}
	switch m := m.(type) {
	case scorer:
		if o.Allocate != nil || o.Permute {
			return nil, fmt.Errorf("prune: %s takes no allocation and no permutation: %w", m.Name(), ErrMethod)
		}
		r.p = resolveScope(p, m.own())
		err = r.scored(m)
	case calibrated:
		r.p = resolveScope(p, m.scope())
		if r.id, err = r.fingerprint(m); err != nil {
			return nil, err
		}
		if r.g.Config == nil {
			return nil, fmt.Errorf("prune: calibration needs a language model: %w", ErrCalib)
		}
		if rep.Calibration, err = m.calib().describe(r.g.Config.Vocab); err != nil {
			return nil, err
		}
		if err := r.admit(m); err != nil {
			return nil, err
		}
		if o.Permute {
			nm, ok := p.(NM)
			if !ok {
				return nil, fmt.Errorf("prune: permutation with pattern %v: want N:M: %w", p, ErrMethod)
			}
			if err := r.permute(m.calib(), nm); err != nil {
				return nil, err
			}
		}
		if o.Allocate != nil {
			if err := r.allocate(o.Allocate, m.calib()); err != nil {
				return nil, err
			}
		}
		if best, ok := bestOf(m); ok {
			err = r.toward(best, m)
		} else {
			err = r.blockwise(m)
		}
	default:
		err = fmt.Errorf("prune: method %s: %w", m.Name(), ErrMethod)
	}
	if err != nil {
		return nil, err
	}
	rep.Pattern = r.p.String()
	rep.After = size(g, targets)
	var zeros, all float64
	for _, l := range rep.Layers {
		n := float64(l.Rows) * float64(l.Cols)
		zeros += l.Sparsity * n
		all += n
	}
	rep.Sparsity = zeros / max(1, all)
	rep.BitsPerWeight = 8 * float64(rep.After.Pruned) / max(1, all)
	r.recipe(m)
	rep.Seconds = time.Since(start).Seconds()
	return rep, nil
}

// run is the state of one Run.
type run struct {
	ctx     context.Context
	g       *model.Graph
	p       Pattern
	o       Options
	targets []*model.Weight
	rep     *Report
	sums    [][sha256.Size]byte // mask digest of each target
	id      string              // the journal's fingerprint
	// patterns of the targets, where an Allocation made them differ; nil: p
	patterns []Pattern

	mu   sync.Mutex
	done int
}

// pattern is target i's.
func (r *run) pattern(i int) Pattern {
	if p := r.patterns[i]; p != nil {
		return p
	}
	return r.p
}

func (r *run) threads() int {
	if r.o.Threads > 0 {
		return r.o.Threads
	}
	return goruntime.GOMAXPROCS(0)
}

// each runs f for every target on at most threads goroutines; the first error in
// the order of the targets wins.
func (r *run) each(f func(i int) error) error {
	errs := make([]error, len(r.targets))
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(r.threads(), len(r.targets)) {
		wg.Go(func() {
			for i := range next {
				errs[i] = f(i)
			}
		})
	}
	for i := range r.targets {
		if r.ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return r.ctx.Err()
}

// finished records the report of target i.
func (r *run) finished(i int, l LayerReport, sum [sha256.Size]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rep.Layers[i], r.sums[i] = l, sum
	r.done++
	if r.o.Progress != nil {
		r.o.Progress(r.done, len(r.targets), l)
	}
}

// read unpacks target i and checks that every weight is a number.
func (r *run) read(i int) ([]float32, error) {
	w := r.targets[i]
	f, err := unpacked(w)
	if err != nil {
		return nil, err
	}
	_, cols := w.Data.Dims()
	return f, finite(f, w.Name, cols)
}

// keys are the scores of target i, zero where a zero is to stay.
func (r *run) keys(s scorer, w []float32, i int) []uint32 {
	keys := make([]uint32, len(w))
	s.score(keys, w, r.targets[i].Name)
	if r.o.KeepZeros {
		for j, x := range w {
			if x == 0 {
				keys[j] = 0
			}
		}
	}
	return keys
}

// scored prunes by scores that need no data.
func (r *run) scored(s scorer) error {
	var cut globalCut
	if u, ok := r.p.(Unstructured); ok && u.Scope == ScopeGlobal {
		c, err := r.cutGlobal(s, u.Sparsity)
		if err != nil {
			return err
		}
		cut = c
	}
	return r.each(func(i int) error {
		w, err := r.read(i)
		if err != nil {
			return err
		}
		rows, cols := r.targets[i].Data.Dims()
		keys := r.keys(s, w, i)
		var mask *sparse.Mask
		if cut.ties != nil {
			mask = cut.mask(keys, rows, cols, i)
		} else if mask, err = maskOf(keys, rows, cols, r.p); err != nil {
			return err
		}
		before, err := squares(w), mask.Apply(w)
		if err != nil {
			return err
		}
		after := squares(w)
		l, sum, err := r.o.Store.finish(r.targets[i], w, nil, r.p)
		if err != nil {
			return err
		}
		l.Error = ratio(before-after, before)
		r.finished(i, l, sum)
		return nil
	})
}

// globalCut is a threshold that all targets share, and how many of the weights
// that equal it each of them prunes.
type globalCut struct {
	key  uint32
	ties []int64
}

// cutGlobal finds the threshold over all targets in three passes, in the order
// of the graph, so that equal scores go by position.
func (r *run) cutGlobal(s scorer, sparsity float64) (globalCut, error) {
	var h histogram
	pass := func(f func(i int, keys []uint32)) error {
		for i := range r.targets {
			if err := r.ctx.Err(); err != nil {
				return err
			}
			w, err := r.read(i)
			if err != nil {
				return err
			}
			f(i, r.keys(s, w, i))
		}
		return nil
	}
	n := 0
	if err := pass(func(_ int, keys []uint32) {
		n += len(keys)
		for _, x := range keys {
			h.addHigh(x)
		}
	}); err != nil {
		return globalCut{}, err
	}
	cut := globalCut{ties: make([]int64, len(r.targets))}
	k := budget(n, sparsity)
	if k == 0 {
		return cut, nil
	}
	h.splitHigh(int64(k))
	if err := pass(func(_ int, keys []uint32) {
		for _, x := range keys {
			h.addLow(x)
		}
	}); err != nil {
		return globalCut{}, err
	}
	var ties int64
	cut.key, ties = h.splitLow()
	return cut, pass(func(i int, keys []uint32) {
		for _, x := range keys {
			if x == cut.key && ties > 0 {
				ties--
				cut.ties[i]++
			}
		}
	})
}

func (c globalCut) mask(keys []uint32, rows, cols, target int) *sparse.Mask {
	m, ties := fullMask(rows, cols), c.ties[target]
	for i, x := range keys {
		if x < c.key || (x == c.key && ties > 0) {
			if x == c.key {
				ties--
			}
			m.Drop(i/cols, i%cols)
		}
	}
	return m
}

// squares is the sum of squares, in order. The conversion keeps the compiler
// from fusing multiply and add, which some machines would and others not.
func squares(w []float32) float64 {
	var s float64
	for _, x := range w {
		s += float64(float64(x) * float64(x))
	}
	return s
}
