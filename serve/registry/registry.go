// Package registry keeps models by name: it loads, swaps and unloads them while they
// serve, within a limit of memory.
//
// A load goes beside what serves: estimate, admission, open, pack, warm up; only then
// are the two swapped, in one moment, and the old one is closed when its last holder
// has released it. Whatever fails before leaves the old one as it was.
package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
)

// Errors of this package; every error wraps one of them, or one of the packages
// loader, runtime and engine.
var (
	ErrNotFound = errors.New("no such model")
	ErrNotReady = errors.New("model is not loaded")
	ErrMemory   = errors.New("not enough memory for the model") // also runtime.ErrMemory
	ErrClosed   = errors.New("registry is closed")
	ErrLoad     = errors.New("model does not work") // a panic while loading, or nonsense from the warm-up
	ErrName     = errors.New("not a model's name")
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
	Name, Version string // the version that serves, else the last that did
	State         State
	Reason        string // of the last failure, or of being unavailable
}

// Options are the registry's. The zero value is the default.
type Options struct {
	MemoryLimit int64         // bytes of this process; 0: what the machine or cgroup allows; < 0: no limit
	DrainTime   time.Duration // how long holders may go on with a model that was swapped out; default 30 s
}

// Registry keeps models by name. It is safe for concurrent use.
type Registry struct {
	open  func() (runtime.Backend, error)
	o     Options
	limit int64 // 0: none
	base  int64 // memory of the process without models

	mu       sync.Mutex
	backend  runtime.Backend // opened by the first load
	entries  map[string]*entry
	order    []string
	reserved int64 // by loads in progress
	held     int64 // by models, those that drain included
	closed   bool
	live     map[*Model]bool // not closed yet
	retiring sync.WaitGroup
}

// New makes an empty registry. The first load calls backend; all models share what it
// returns, and Close closes it.
func New(backend func() (runtime.Backend, error), o Options) *Registry {
	if o.DrainTime == 0 {
		o.DrainTime = 30 * time.Second
	}
	r := &Registry{open: backend, o: o, limit: o.MemoryLimit, entries: map[string]*entry{}, live: map[*Model]bool{}}
	if r.limit == 0 {
		r.limit, _ = runtime.TotalMemory()
	}
	r.base, _ = runtime.RSS()
	return r
}

// Add names a model without loading it.
func (r *Registry) Add(s Spec) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entry(s.Name)
	e.added = true
	if e.model == nil {
		e.spec = s
	}
}

// Load loads a model beside one of the same name, swaps them in one moment and has
// the old one closed once nobody uses it. A failure leaves the old one serving, and
// its Spec in place; a name that neither loaded before nor was added is not kept then.
// Errors wrap ErrName, ErrMemory (nothing was allocated), ErrLoad, or are
// those of packages loader and runtime.
func (r *Registry) Load(ctx context.Context, s Spec) error {
	if err := CheckName(s.Name); err != nil {
		return err
	}
	e, err := r.begin(ctx, s.Name)
	if err != nil {
		return err
	}
	defer func() { <-e.lock }()
	r.mu.Lock()
	e.loading = true
	if e.model == nil {
		e.spec = s
	}
	version := strconv.Itoa(e.version + 1)
	r.mu.Unlock()

	m, err := r.build(ctx, s, version)

	r.mu.Lock()
	e.loading = false
	if err == nil && r.closed {
		err = fmt.Errorf("registry: %w", ErrClosed)
	}
	if err != nil {
		e.reason = err.Error()
		r.forget(s.Name, e)
		r.mu.Unlock()
		if m != nil {
			m.close()
			r.gone(m)
		}
		return err
	}
	old := e.model
	e.model, e.spec, e.reason = m, s, ""
	e.version++
	if old != nil {
		r.retire(old)
	}
	r.mu.Unlock()
	return nil
}

// Reload loads a known model again by its Spec.
func (r *Registry) Reload(ctx context.Context, name string) error {
	r.mu.Lock()
	e := r.entries[name]
	var s Spec
	if e != nil {
		s = e.spec
	}
	r.mu.Unlock()
	if e == nil {
		return fmt.Errorf("registry: %.80q: %w", name, ErrNotFound)
	}
	return r.Load(ctx, s)
}

// Unload takes a model out of service; it stays in the index. It returns when the
// model is closed: when its last holder has released it, or, at the end of ctx, after
// ending what they still wait for with engine.ErrDraining.
func (r *Registry) Unload(ctx context.Context, name string) error {
	r.mu.Lock()
	e := r.entries[name]
	r.mu.Unlock()
	if e == nil {
		return fmt.Errorf("registry: %.80q: %w", name, ErrNotFound)
	}
	if err := e.begin(ctx); err != nil {
		return err
	}
	defer func() { <-e.lock }()
	r.mu.Lock()
	m := e.model
	if m == nil {
		err := ErrNotReady
		if r.entries[name] == nil { // its first load failed meanwhile
			err = ErrNotFound
		}
		r.mu.Unlock()
		return fmt.Errorf("registry: %.80q: %w", name, err)
	}
	e.model, e.reason = nil, "unloaded"
	r.mu.Unlock()
	m.finish(ctx)
	r.gone(m)
	return nil
}

// retire closes a model once its holders are done; the lock is held.
func (r *Registry) retire(m *Model) {
	r.retiring.Add(1)
	go func() {
		defer r.retiring.Done()
		ctx, cancel := context.WithTimeout(context.Background(), r.o.DrainTime)
		defer cancel()
		m.finish(ctx)
		r.gone(m)
	}()
}

// gone forgets a model that was closed.
func (r *Registry) gone(m *Model) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.live[m] {
		delete(r.live, m)
		r.held -= m.memory
	}
}

// Acquire gives a model for use until release is called; more calls of release do
// nothing. The error wraps ErrNotFound or ErrNotReady.
func (r *Registry) Acquire(name string) (m *Model, release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.entries[name]
	switch {
	case e == nil:
		return nil, nil, fmt.Errorf("registry: %.80q: %w", name, ErrNotFound)
	case e.model == nil:
		return nil, nil, fmt.Errorf("registry: %.80q: %w", name, ErrNotReady)
	}
	m = e.model
	m.hold()
	var once sync.Once
	return m, func() { once.Do(m.release) }, nil
}

// Index lists every known model in the order in which they were named.
func (r *Registry) Index() []Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Status, 0, len(r.order))
	for _, n := range r.order {
		e := r.entries[n]
		st := Status{Name: n, State: Unavailable, Reason: e.reason}
		if e.version > 0 {
			st.Version = strconv.Itoa(e.version)
		}
		switch {
		case e.model != nil:
			st.State = Ready
		case e.loading:
			st.State = Loading
		}
		out = append(out, st)
	}
	return out
}

// Memory is what models hold, loads in progress included, and the limit (0: none), in
// bytes.
func (r *Registry) Memory() (held, limit int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.held + r.reserved, max(r.limit, 0)
}

// Models are the models that serve, in the order of the index, each to be released.
func (r *Registry) Models() (models []*Model, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.order {
		if m := r.entries[n].model; m != nil {
			m.hold()
			models = append(models, m)
		}
	}
	var once sync.Once
	return models, func() {
		once.Do(func() {
			for _, m := range models {
				m.release()
			}
		})
	}
}

// Drain lets all models finish what they accepted and refuse the rest; what is left
// at the end of ctx ends with engine.ErrDraining, and Drain returns ctx's error then.
func (r *Registry) Drain(ctx context.Context) error {
	r.mu.Lock()
	var all []*Model
	for m := range r.live {
		all = append(all, m)
	}
	r.mu.Unlock()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, m := range all {
		wg.Go(func() { errs[i] = m.drain(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Close unloads everything at once: what still runs ends with engine.ErrClosed.
func (r *Registry) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	var all []*Model
	for m := range r.live {
		all = append(all, m)
	}
	for _, e := range r.entries {
		if e.model != nil {
			e.model, e.reason = nil, "shut down"
		}
	}
	entries := slices.Collect(maps.Values(r.entries)) // a load that fails takes its name out
	r.mu.Unlock()
	var errs []error
	for _, m := range all {
		errs = append(errs, m.close())
		r.gone(m)
	}
	r.retiring.Wait()
	// A load in progress sees that the registry is closed, and cleans up.
	for _, e := range entries {
		e.lock <- struct{}{}
	}
	if r.backend != nil {
		errs = append(errs, r.backend.Close())
	}
	return errors.Join(errs...)
}
