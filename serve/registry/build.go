package registry

import (
	"context"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/tokenizer/chat"
)

// twinContext is the KV cache of a dense twin, in tokens: what the engine compares.
const twinContext = 640

// planBatch is the number of texts at once for which the planner, too, takes no form
// that is slower than dense.
const planBatch = 8

// build makes a model that works, or leaves nothing behind.
func (r *Registry) build(ctx context.Context, s Spec, version string) (m *Model, err error) {
	start := time.Now()
	m = &Model{Name: s.Name, Path: s.Path, Version: version, Spec: s, dead: make(chan struct{})}
	ours := int64(0) // reserved
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("registry: %.80q: panic while loading %s: %v: %w", s.Name, s.Path, p, ErrLoad)
		}
		r.mu.Lock()
		r.reserved -= ours
		if err == nil {
			r.held += m.memory
			r.live[m] = true
		}
		r.mu.Unlock()
		if err != nil {
			_ = m.close()
			m = nil
		}
	}()
	reserve := func(n int64) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if used := r.base + r.held + r.reserved - ours; r.limit > 0 && used+n > r.limit {
			return fmt.Errorf("registry: %.80q needs %d bytes, %d of %d are in use: %w: %w", s.Name, n, used, r.limit, ErrMemory, runtime.ErrMemory)
		}
		r.reserved += n - ours
		ours = n
		return nil
	}

	// What is not read by rows comes into memory as it is, before it can be asked.
	whole, err := wholeFile(s.Path)
	if err != nil {
		return m, fmt.Errorf("registry: %.80q: %w", s.Name, err)
	}
	if err := reserve(2 * whole); err != nil {
		return m, err
	}
	g, err := loader.Open(s.Path, s.Loader...)
	if err != nil {
		return m, fmt.Errorf("registry: %.80q: %w", s.Name, err)
	}
	defer g.Close()
	lm := g.Config != nil
	o := s.Options
	if lm {
		o.Hidden = true
		if o.Select == 0 {
			o.Select = max(16, s.Engine.MaxRunning)
		}
		if o.Batch == 0 {
			o.Batch = planBatch
		}
	}
	need, err := runtime.Estimate(g, o)
	if err != nil {
		return m, fmt.Errorf("registry: %.80q: %w", s.Name, err)
	}
	m.Info = Info{Format: g.Source.Format, Arch: g.Arch, Parameters: g.Parameters(), Estimate: need.Total() + whole}
	if m.Info.DenseWeightBytes, err = runtime.DenseWeightBytes(g, o); err != nil {
		return m, fmt.Errorf("registry: %.80q: %w", s.Name, err)
	}
	dense := o
	dense.Sparse, dense.Hidden = runtime.SparseOff, false
	if lm {
		dense.Context, dense.Select = min(twinContext, g.Config.Context), 1
	}
	twin := s.Shadow > 0 && o.Sparse != runtime.SparseOff
	if twin {
		more, err := runtime.Estimate(g, dense)
		if err != nil {
			return m, err
		}
		m.Info.Estimate += more.Total()
	}
	if err := reserve(m.Info.Estimate); err != nil {
		return m, err
	}
	if err := ctx.Err(); err != nil {
		return m, err
	}
	b, err := r.shared()
	if err != nil {
		return m, err
	}
	if m.Session, err = runtime.New(g, b, runtime.WithOptions(o)); err != nil {
		return m, fmt.Errorf("registry: %.80q: %w", s.Name, err)
	}
	held := m.Session.Counters().Memory
	m.Info.WeightBytes, m.Info.Sparsity = held.Weights, sparsity(m.Session)
	m.memory = held.Total() + whole
	if twin && formsOf(m.Session) {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		if m.Dense, err = runtime.New(g, b, runtime.WithOptions(dense)); err != nil {
			return m, fmt.Errorf("registry: %.80q: dense twin: %w", s.Name, err)
		}
		m.memory += m.Dense.Counters().Memory.Total()
	}
	if err := r.start(ctx, m, g); err != nil {
		return m, fmt.Errorf("registry: %.80q: %w", s.Name, err)
	}
	m.Loaded, m.LoadTime = time.Now(), time.Since(start)
	return m, nil
}

// start warms a model up and makes its engine.
func (r *Registry) start(ctx context.Context, m *Model, g *model.Graph) error {
	yield := func() bool { return r.busyBut(m) }
	var err error
	if g.Config == nil {
		o := m.Spec.Batch
		o.Shadow, o.Dense, o.Yield = m.Spec.Shadow, m.Dense, yield
		if m.Net, err = engine.NewBatcher(m.Session, o); err == nil {
			warmNet(ctx, m)
		}
		return err
	}
	for _, s := range []*runtime.Session{m.Session, m.Dense} {
		if s != nil {
			if err := warm(ctx, s); err != nil {
				return err
			}
			s.ResetCounters() // of what callers ask for
		}
	}
	if g.Tokenizer != nil && g.Tokenizer.ChatTemplate() != "" {
		m.Template, m.TemplateErr = chat.Parse(g.Tokenizer.ChatTemplate())
	}
	o := m.Spec.Engine
	o.Shadow, o.Dense, o.Yield = m.Spec.Shadow, m.Dense, yield
	m.LM, err = engine.New(m.Session, o)
	return err
}

// warm runs a short prompt and a few tokens: pages of memory are touched, and a model
// whose logits are no numbers does not get into service.
func warm(ctx context.Context, s *runtime.Session) error {
	q := s.NewSequence()
	defer q.Close()
	cfg := s.Graph().Config
	prompt := make([]int32, min(8, s.Context()-1, cfg.Context-1))
	for i := range prompt {
		prompt[i] = int32(i * 7 % cfg.Vocab)
	}
	for range 2 {
		logits, err := q.Extend(ctx, prompt, nil)
		if err != nil {
			return fmt.Errorf("warming up: %w", err)
		}
		for i, l := range logits {
			if math.IsNaN(float64(l)) || math.IsInf(float64(l), 0) {
				return fmt.Errorf("warming up: logit %d is %g: %w", i, l, ErrLoad)
			}
		}
		if q.Len()+1 >= min(s.Context(), cfg.Context) {
			break
		}
		prompt = prompt[:1]
	}
	return nil
}

// warmNet runs a network once on zeros where its file says enough of its inputs. That
// a network refuses zeros (an index, say) says nothing against it.
func warmNet(ctx context.Context, m *Model) {
	in := map[string]*model.Tensor{}
	for _, p := range m.Net.Inputs() {
		shape := append([]int(nil), p.Shape...)
		for i, d := range shape {
			if d < 0 {
				if i > 0 {
					return
				}
				shape[i] = 1
			}
		}
		t, err := model.NewTensor(p.Elem, shape...)
		if err != nil || p.Shape == nil {
			return
		}
		in[p.Name] = t
	}
	if m.Session.Graph().Tensors() {
		_, _ = m.Session.RunTensors(ctx, in)
	}
}

// shared is the backend of all models.
func (r *Registry) shared() (runtime.Backend, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.backend == nil {
		b, err := r.open()
		if err != nil {
			return nil, fmt.Errorf("registry: %w", err)
		}
		r.backend = b
	}
	return r.backend, nil
}

// busyBut reports whether any other model has work.
func (r *Registry) busyBut(m *Model) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reserved > 0 { // somebody loads
		return true
	}
	for o := range r.live {
		if o != m && o.Busy() {
			return true
		}
	}
	return false
}

// sparsity is the share of zeros of the weights that the planner counted.
func sparsity(s *runtime.Session) float64 {
	var zeros, all float64
	for _, c := range s.Explain() {
		n := float64(c.Rows) * float64(c.Cols)
		zeros += c.Sparsity * n
		all += n
	}
	if all == 0 {
		return 0
	}
	return zeros / all
}

// formsOf reports whether any weight runs in a sparse form.
func formsOf(s *runtime.Session) bool {
	for _, c := range s.Explain() {
		if c.Layout != "dense" {
			return true
		}
	}
	return false
}

// wholeFile is the size of a file that the loader reads as a whole, 0 for those whose
// weights it reads when they are asked for.
func wholeFile(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil || st.IsDir() {
		return 0, err
	}
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	var head [9]byte
	n, err := io.ReadFull(f, head[:])
	if err != nil && n == 0 {
		return 0, nil // the loader has a better word for it
	}
	switch {
	case string(head[:4]) == "GGUF", head[8] == '{', string(head[:2]) == "PK":
		return 0, nil
	}
	return st.Size(), nil
}
