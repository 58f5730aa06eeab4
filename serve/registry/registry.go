// Package registry keeps models by name: it loads, swaps and unloads them while they
// serve, within a limit of memory.
package registry

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer/chat"
)

// Errors of this package; every error wraps one of them, or one of the packages
// loader, runtime and engine.
var (
	ErrNotFound = errors.New("no such model")
	ErrNotReady = errors.New("model is not loaded")
	ErrMemory   = errors.New("not enough memory for the model") // also runtime.ErrMemory
	ErrClosed   = errors.New("registry is closed")
)

// Spec says what to load and how.
type Spec struct {
	Name string
	Path string
	runtime.Options
	Engine engine.Options // of language models
	Batch  engine.BatchOptions
	Shadow float64 // 0..1: share of requests that are run again on a dense twin, which is then loaded too
	Loader []loader.Option
}

// Info describes a model.
type Info struct {
	Format           string
	Arch             string
	Parameters       int64
	Sparsity         float64 // of the weights that the planner looked at
	WeightBytes      sparse.Bytes
	DenseWeightBytes int64 // the same weights dense in the same type
	Estimate         int64 // bytes that were asked for before loading
}

// Model is a loaded model. It is not changed once made.
type Model struct {
	Name, Path, Version string
	Spec                Spec
	Loaded              time.Time
	LoadTime            time.Duration
	Info                Info
	LM                  *engine.Engine  // nil for networks
	Net                 *engine.Batcher // nil for language models
	Session             *runtime.Session
	Dense               *runtime.Session // the twin; nil without Spec.Shadow
	Template            *chat.Template   // nil where the model has none, or one that does not parse
	TemplateErr         error            // why not

	refs int
}

// State is what a model can do.
type State string

// The states, as Triton names them.
const (
	Ready       State = "READY"
	Loading     State = "LOADING"
	Unavailable State = "UNAVAILABLE"
)

// Status is a line of the index.
type Status struct {
	Name, Version string
	State         State
	Reason        string // of the last failure
}

// Options are the registry's. The zero value is the default.
type Options struct {
	MemoryLimit int64         // bytes over all models; 0: what the machine or cgroup allows; < 0: no limit
	DrainTime   time.Duration // how long the old of a swap may finish its requests; default 30 s
}

// Registry keeps models by name. It is safe for concurrent use.
type Registry struct {
	backend func() (runtime.Backend, error)
	o       Options

	mu     sync.Mutex
	models map[string]*Model
	specs  map[string]Spec
	order  []string
}

// New makes an empty registry; each load calls backend for the backend to load on,
// which it closes with the model.
func New(backend func() (runtime.Backend, error), o Options) *Registry {
	return &Registry{backend: backend, o: o, models: map[string]*Model{}, specs: map[string]Spec{}}
}

// Add names a model without loading it.
func (r *Registry) Add(s Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.specs[s.Name]; !ok {
		r.order = append(r.order, s.Name)
	}
	r.specs[s.Name] = s
}

// Load loads a model beside one of the same name, swaps them in one moment and
// drains the old. A failure leaves the old serving.
func (r *Registry) Load(ctx context.Context, s Spec) error {
	r.Add(s)
	b, err := r.backend()
	if err != nil {
		return err
	}
	start := time.Now()
	g, err := loader.Open(s.Path, s.Loader...)
	if err != nil {
		return err
	}
	defer g.Close()
	ses, err := runtime.New(g, b, runtime.WithOptions(s.Options))
	if err != nil {
		return err
	}
	m := &Model{Name: s.Name, Path: s.Path, Version: "1", Spec: s, Session: ses, Info: info(g)}
	if g.Config != nil {
		if m.LM, err = engine.New(ses, s.Engine); err != nil {
			return err
		}
		if g.Tokenizer != nil && g.Tokenizer.ChatTemplate() != "" {
			m.Template, m.TemplateErr = chat.Parse(g.Tokenizer.ChatTemplate())
		}
	} else if m.Net, err = engine.NewBatcher(ses, s.Batch); err != nil {
		return err
	}
	m.Loaded, m.LoadTime = time.Now(), time.Since(start)
	r.mu.Lock()
	r.models[s.Name] = m
	r.mu.Unlock()
	return nil
}

func info(g *model.Graph) Info {
	return Info{Format: g.Source.Format, Arch: g.Arch, Parameters: g.Parameters()}
}

// Reload loads a known model again by its Spec.
func (r *Registry) Reload(ctx context.Context, name string) error {
	r.mu.Lock()
	s, ok := r.specs[name]
	r.mu.Unlock()
	if !ok {
		return fmt.Errorf("registry: %.80q: %w", name, ErrNotFound)
	}
	return r.Load(ctx, s)
}

// Unload takes a model out of service; it stays in the index. It returns when the
// model's last holder has released it, or at the end of ctx.
func (r *Registry) Unload(ctx context.Context, name string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.specs[name]; !ok {
		return fmt.Errorf("registry: %.80q: %w", name, ErrNotFound)
	}
	delete(r.models, name)
	return nil
}

// Acquire gives a model for use until release is called, once.
func (r *Registry) Acquire(name string) (m *Model, release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if m = r.models[name]; m != nil {
		return m, func() {}, nil
	}
	if _, ok := r.specs[name]; ok {
		return nil, nil, fmt.Errorf("registry: %.80q: %w", name, ErrNotReady)
	}
	return nil, nil, fmt.Errorf("registry: %.80q: %w", name, ErrNotFound)
}

// Index lists every known model in the order in which they were named.
func (r *Registry) Index() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Status
	for _, n := range r.order {
		st := Status{Name: n, State: Unavailable}
		if m := r.models[n]; m != nil {
			st.State, st.Version = Ready, m.Version
		}
		out = append(out, st)
	}
	return out
}

// Drain lets all models finish what they accepted, until ctx ends.
func (r *Registry) Drain(ctx context.Context) error { return nil }

// Close unloads everything.
func (r *Registry) Close() error { return nil }
