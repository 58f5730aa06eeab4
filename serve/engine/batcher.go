package engine

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
)

// BatchOptions say how a Batcher collects. The zero value is the default.
type BatchOptions struct {
	MaxBatch int // rows of the first dimension in one run; default 32, 1: no batches
	// Delay is how long the first of a batch waits for more, where requests lately came
	// as close together as that; default 2 ms, < 0: not at all.
	Delay  time.Duration
	Queue  int     // requests that may wait; default 512
	Shadow float64 // 0..1: share of requests that are run again on Dense, when idle
	Dense  *runtime.Session
	Yield  func() bool // see Options.Yield
}

func (o *BatchOptions) check() error {
	if o.MaxBatch == 0 {
		o.MaxBatch = 32
	}
	if o.Delay == 0 {
		o.Delay = 2 * time.Millisecond
	}
	if o.Queue == 0 {
		o.Queue = 512
	}
	if o.MaxBatch < 1 || o.MaxBatch > 1<<16 || o.Delay > time.Minute || o.Queue < 1 || o.Queue > 1<<20 || !(o.Shadow >= 0 && o.Shadow <= 1) {
		return fmt.Errorf("engine: batches of %d, delay %v, queue %d, shadow %g: %w", o.MaxBatch, o.Delay, o.Queue, o.Shadow, runtime.ErrOption)
	}
	return nil
}

// BatchStats is what a Batcher did so far.
type BatchStats struct {
	Running, Waiting int
	Accepted, Served uint64
	Items            uint64 // rows of the first dimension
	Batches          uint64 // runs of the network
	Failed           uint64 // requests the network could not compute
	Failures         uint64 // panics among them
	Cancelled        map[string]uint64
	Rejected         map[string]uint64
	Batching         string        // "on", "not tried yet", or why requests run one by one
	Total            Histogram     // s from Infer's call to its result
	Queue            Histogram     // s until the run began
	Run              Histogram     // s of a run
	Size             Histogram     // items of a run
	Service          time.Duration // mean time of a run, lately
	Shadow           ShadowStats   // its tokens are items, all of them prefill
}

// Port is an input or output of a network. Shape has -1 where a dimension is free,
// and is nil where the network takes any.
type Port struct {
	Name  string
	Elem  model.Elem
	Shape []int
}

// Batcher runs one network for many callers: requests of equal shapes are joined
// along the first dimension where the network allows that.
//
// Whether it does is tried: the first batch is also run one by one, and where the
// results differ by more than rounding, there are no batches. A result may depend on
// its batch by the rounding of float32 sums, as the kernels for many rows add up in
// another order than those for few.
type Batcher struct {
	s       *runtime.Session
	o       BatchOptions
	in, out []Port
	wake    chan struct{}
	stopped chan struct{}
	live    atomic.Int64

	mu        sync.Mutex
	waiting   []*call
	st        BatchStats
	fixed     string // why there are no batches
	proven    bool   // a batch gave what its requests give alone
	came      time.Time
	gap       time.Duration // between the last two requests
	draining  bool
	closed    bool
	interrupt func() // ends a dense twin's run at once; nil: there is none

	shadowed map[string]*model.Tensor // a request to run again; of the batcher's goroutine
	sabotage func()                   // of tests: called before every run
}

// call is a request.
type call struct {
	ctx  context.Context
	in   map[string]*model.Tensor
	key  string // requests of equal keys can be joined; "": with none
	rows int
	at   time.Time
	out  map[string]*model.Tensor
	err  error
	done chan struct{}
}

// NewBatcher serves the network of s, which stays the caller's to close, after the
// batcher.
func NewBatcher(s *runtime.Session, o BatchOptions) (*Batcher, error) {
	g := s.Graph()
	if g.Config != nil {
		return nil, fmt.Errorf("engine: batches of a language model: %w", ErrKind)
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	if !g.Tensors() && (len(g.Inputs) != 1 || len(g.Outputs) != 1) {
		return nil, fmt.Errorf("engine: a network of rows with %d inputs and %d outputs: %w", len(g.Inputs), len(g.Outputs), ErrKind)
	}
	b := &Batcher{s: s, o: o, wake: make(chan struct{}, 1), stopped: make(chan struct{})}
	b.in, b.out = ports(g, g.Inputs, "input"), ports(g, g.Outputs, "output")
	b.st = BatchStats{Cancelled: map[string]uint64{}, Rejected: map[string]uint64{},
		Total: newHistogram(totalBounds), Queue: newHistogram(totalBounds), Run: newHistogram(tokenBounds), Size: newHistogram(rowsBounds)}
	if o.MaxBatch == 1 {
		b.fixed = "batches are off"
	}
	for _, p := range append(append([]Port(nil), b.in...), b.out...) {
		if b.fixed == "" && p.Shape != nil && (len(p.Shape) == 0 || p.Shape[0] >= 0) {
			b.fixed = fmt.Sprintf("%.80q has the fixed shape %v", p.Name, p.Shape)
		}
	}
	go b.loop()
	return b, nil
}

func ports(g *model.Graph, ids []model.ValueID, name string) []Port {
	out := make([]Port, len(ids))
	for i, id := range ids {
		v := g.Values[id]
		out[i] = Port{v.Name, v.Elem, v.Shape}
		if !g.Tensors() {
			out[i].Elem, out[i].Shape = model.ElemF32, []int{-1, v.Width}
		}
		if out[i].Name == "" {
			out[i].Name = name
		}
	}
	return out
}

// Session is what the batcher runs.
func (b *Batcher) Session() *runtime.Session { return b.s }

// Inputs are the network's inputs.
func (b *Batcher) Inputs() []Port { return b.in }

// Outputs are its outputs.
func (b *Batcher) Outputs() []Port { return b.out }

// Busy reports whether any request is waiting or running.
func (b *Batcher) Busy() bool { return b.live.Load() > 0 }

// Infer computes the network's outputs, by name. Inputs are not to be changed before
// it returns, and not at all where ctx ended it. The error wraps ErrFull (a *Busy),
// ErrDraining, ErrClosed, ErrInternal, or what runtime.Session.RunTensors says of the
// inputs; or it is ctx's.
func (b *Batcher) Infer(ctx context.Context, in map[string]*model.Tensor) (map[string]*model.Tensor, error) {
	c := &call{ctx: ctx, in: in, done: make(chan struct{}), at: time.Now()}
	if err := b.shape(c); err != nil {
		b.mu.Lock()
		b.st.Rejected["invalid"]++
		b.mu.Unlock()
		return nil, err
	}
	if err := b.enqueue(c); err != nil {
		return nil, err
	}
	select {
	case <-c.done:
		return c.out, c.err
	case <-ctx.Done():
	}
	// Still waiting: out at once. Else the run is for others too, and goes on.
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, w := range b.waiting {
		if w == c {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			b.live.Add(-1)
			break
		}
	}
	b.st.Cancelled["client"]++
	return nil, context.Cause(ctx)
}

// shape finds out with what c can be joined.
func (b *Batcher) shape(c *call) error {
	for name, t := range c.in {
		known := false
		for _, p := range b.in {
			known = known || p.Name == name
		}
		if !known {
			return fmt.Errorf("engine: the network has no input %.80q: %w", name, runtime.ErrInput)
		}
		if t == nil {
			return fmt.Errorf("engine: input %.80q is missing: %w", name, runtime.ErrInput)
		}
		if err := t.Check(); err != nil {
			return fmt.Errorf("engine: input %.80q: %v: %w", name, err, runtime.ErrShape)
		}
	}
	c.rows = 1
	key := "k"
	for i, p := range b.in {
		t := c.in[p.Name]
		switch {
		case t == nil:
			return fmt.Errorf("engine: input %.80q is missing: %w", p.Name, runtime.ErrInput)
		case t.Seq || len(t.Shape) == 0 || t.Shape[0] < 1 || i > 0 && t.Shape[0] != c.rows:
			return nil // alone
		case i == 0:
			c.rows = t.Shape[0]
		}
		key += fmt.Sprint(t.Elem, t.Shape[1:])
	}
	c.key = key
	return nil
}

func (b *Batcher) enqueue(c *call) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		b.st.Rejected["closed"]++
		return fmt.Errorf("engine: %w", ErrClosed)
	case b.draining:
		b.st.Rejected["draining"]++
		return fmt.Errorf("engine: %w", ErrDraining)
	case len(b.waiting) >= b.o.Queue:
		b.st.Rejected["full"]++
		size := max(float64(b.st.Items)/float64(max(b.st.Batches, 1)), 1)
		d := time.Duration(float64(b.st.Service) * float64(len(b.waiting)+1) / size)
		return &Busy{min(max(d, 50*time.Millisecond), time.Minute)}
	}
	b.gap, b.came = c.at.Sub(b.came), c.at
	b.waiting = append(b.waiting, c)
	b.st.Accepted++
	b.live.Add(1)
	if b.interrupt != nil {
		b.interrupt()
	}
	b.signal()
	return nil
}

func (b *Batcher) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Stats is a copy of what was counted.
func (b *Batcher) Stats() BatchStats {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.st
	s.Waiting = len(b.waiting)
	s.Cancelled, s.Rejected = maps.Clone(s.Cancelled), maps.Clone(s.Rejected)
	for _, h := range []*Histogram{&s.Total, &s.Queue, &s.Run, &s.Size} {
		*h = h.clone()
	}
	switch {
	case b.fixed != "":
		s.Batching = b.fixed
	case b.proven:
		s.Batching = "on"
	default:
		s.Batching = "not tried yet"
	}
	return s
}

// Drain refuses new requests and waits for those that were accepted; what still waits
// at the end of ctx ends with ErrDraining, and Drain returns ctx's error then.
func (b *Batcher) Drain(ctx context.Context) error {
	b.mu.Lock()
	b.draining = true
	b.mu.Unlock()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for b.live.Load() > 0 {
		select {
		case <-tick.C:
		case <-b.stopped:
			return nil
		case <-ctx.Done():
			b.refuse(fmt.Errorf("engine: %w", ErrDraining), "drain")
			return context.Cause(ctx)
		}
	}
	return nil
}

// Close ends what still waits with ErrClosed and waits for the run at hand.
func (b *Batcher) Close() error {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.refuse(fmt.Errorf("engine: %w", ErrClosed), "closed")
	b.signal()
	<-b.stopped
	return nil
}

// refuse ends all that waits.
func (b *Batcher) refuse(err error, reason string) {
	b.mu.Lock()
	out := b.waiting
	b.waiting = nil
	b.st.Cancelled[reason] += uint64(len(out))
	b.mu.Unlock()
	for _, c := range out {
		c.err = err
		b.live.Add(-1)
		close(c.done)
	}
}
