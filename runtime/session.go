package runtime

import (
	"context"
	"fmt"
	goruntime "runtime"
	"sync"
	"time"

	"gorgonia.org/tensor"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// Option changes how New plans.
type Option func(*config)

type config struct {
	Options
	cacheDir string
}

// WithOptions sets everything at once.
func WithOptions(o Options) Option { return func(c *config) { c.Options = o } }

// WithDType sets the type that Linear weights run in.
func WithDType(t sparse.DType) Option { return func(c *config) { c.DType = t } }

// WithContext sets the tokens of KV cache that all sequences share.
func WithContext(tokens int) Option { return func(c *config) { c.Context = tokens } }

// WithDense forbids sparse forms.
func WithDense() Option { return func(c *config) { c.Sparse = SparseOff } }

// WithLayout runs every weight that has the pattern in one sparse form.
func WithLayout(l sparse.Layout) Option {
	return func(c *config) { c.Sparse, c.Layout = SparseForce, l }
}

// WithTableDir keeps measured kernel times in a folder; "off" keeps them in memory.
func WithTableDir(dir string) Option { return func(c *config) { c.cacheDir = dir } }

// Session runs one graph on one backend. It is safe for concurrent use: calls
// share the weights and the KV cache, steps run one after another.
type Session struct {
	graph   *model.Graph
	plan    *Plan
	tensors *TensorPlan // of a tensor graph; nil elsewhere
	choices []*Choice
	norm    *finalNorm // with Options.Hidden; nil elsewhere

	run    sync.Mutex // one step at a time; guards prog, batch, closed
	prog   Program
	own    Lockstep // of sequences that go alone
	closed bool

	mu       sync.Mutex // guards what follows
	counters Counters
	free     []int32 // KV pages that nobody holds
	holders  []int32 // by KV page
}

// New plans g, compiles it on b and returns a Session. The graph may be closed
// afterwards: a session holds its own packed weights.
func New(g *model.Graph, b Backend, opts ...Option) (*Session, error) {
	if g == nil || b == nil {
		return nil, fmt.Errorf("runtime: no graph or no backend: %w", ErrUnsupported)
	}
	c := config{}
	for _, o := range opts {
		o(&c)
	}
	if err := c.defaults(g); err != nil {
		return nil, err
	}
	if err := g.Check(); err != nil {
		return nil, err
	}
	if t, ok := b.(TensorsElsewhere); ok && g.Tensors() {
		b = t.Tensors()
	}
	pl := &planner{ctx: context.Background(), b: b, o: &c.Options, choices: map[*model.Weight]*Choice{}}
	if t, ok := b.(Timer); ok && c.Sparse == SparseAuto && t.Machine() != "" {
		pl.table = OpenTable(t, c.cacheDir)
	}
	if err := pl.scan(g, goruntime.GOMAXPROCS(0)); err != nil {
		return nil, err
	}
	if g.Tensors() {
		return newTensors(g, b, c.Options, pl)
	}
	var norm *finalNorm
	if c.Hidden {
		var err error
		if g, norm, err = withHidden(g); err != nil {
			return nil, err
		}
	}
	plan, err := newPlan(g, c.Options, pl.choose)
	if err != nil {
		return nil, err
	}
	if pl.table != nil {
		_ = pl.table.Save() // a cache that cannot be written only costs time
	}
	prog, err := b.Compile(plan)
	if err != nil {
		return nil, err
	}
	s := &Session{graph: g, plan: plan, prog: prog, choices: pl.order, norm: norm, holders: make([]int32, plan.KV.Pages)}
	s.own.s = s
	for i, st := range plan.Steps {
		if st.Choice != nil && st.Choice.Bytes == 0 {
			st.Choice.Packed = prog.Bytes(i)
			st.Choice.Bytes = st.Choice.Packed.Total()
		}
	}
	for p := plan.KV.Pages - 1; p >= 0; p-- {
		s.free = append(s.free, int32(p))
	}
	return s, nil
}

// Graph is what the session runs.
func (s *Session) Graph() *model.Graph { return s.graph }

// Plan is what was decided.
func (s *Session) Plan() *Plan { return s.plan }

// Explain lists every weight with the form it runs in and why.
func (s *Session) Explain() []*Choice { return s.choices }

// Context is the number of tokens that all sequences together can hold.
func (s *Session) Context() int { return s.plan.KV.Pages * s.plan.KV.PageTokens }

// Counters returns what the session did so far.
func (s *Session) Counters() *Counters {
	s.run.Lock()
	mem := Memory{}
	if !s.closed {
		mem = s.prog.Memory()
	}
	s.run.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	var c Counters
	c.Merge(&s.counters)
	c.Memory = mem
	return &c
}

// ResetCounters starts counting anew.
func (s *Session) ResetCounters() {
	s.mu.Lock()
	s.counters = Counters{}
	s.mu.Unlock()
}

// Close releases weights and state.
func (s *Session) Close() error {
	s.run.Lock()
	defer s.run.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.prog.Close()
}

// Run computes the graph's output. For plain networks x is float32 [rows, width]
// (one row may be a vector); for tensor graphs it is what the input's shape says
// (see RunTensors for several inputs or outputs); for language models x is int32 [tokens] and the
// result is the logits [tokens, vocab] of a sequence of its own. More rows than
// the plan's chunk are computed in several steps.
func (s *Session) Run(ctx context.Context, x *tensor.Dense) (*tensor.Dense, error) {
	x, err := rowMajor(x)
	if err != nil {
		return nil, err
	}
	if s.graph.Config != nil {
		ids, ok := x.Data().([]int32)
		if !ok {
			return nil, fmt.Errorf("runtime: want int32 token ids, got %v: %w", x.Dtype(), ErrShape)
		}
		q := s.NewSequence()
		defer q.Close()
		vocab := s.graph.Config.Vocab
		y := make([]float32, 0, len(ids)*vocab)
		err := q.ExtendAll(ctx, ids, func(_ int, logits []float32) error {
			y = append(y, logits...)
			return nil
		})
		if err != nil {
			return nil, err
		}
		return tensor.New(tensor.WithShape(len(ids), vocab), tensor.WithBacking(y)), nil
	}
	if s.tensors != nil {
		return s.runDense(ctx, x)
	}
	f, ok := x.Data().([]float32)
	if !ok {
		return nil, fmt.Errorf("runtime: want float32 input, got %v: %w", x.Dtype(), ErrShape)
	}
	if len(s.graph.Inputs) != 1 || len(s.graph.Outputs) != 1 {
		return nil, fmt.Errorf("runtime: Run serves graphs of one input and one output, this has %d and %d: %w", len(s.graph.Inputs), len(s.graph.Outputs), ErrUnsupported)
	}
	in, out := s.graph.Values[s.graph.Inputs[0]].Width, s.graph.Values[s.graph.Outputs[0]].Width
	shape := x.Shape()
	if last := shape[len(shape)-1]; last != in || len(f)%in != 0 {
		return nil, fmt.Errorf("runtime: want [rows %d], got %v: %w", in, shape, ErrShape)
	}
	rows := len(f) / in
	y := make([]float32, rows*out)
	s.run.Lock()
	defer s.run.Unlock()
	if s.closed {
		return nil, fmt.Errorf("runtime: session: %w", ErrClosed)
	}
	var c Counters
	for r := 0; r < rows; r += s.plan.MaxRows {
		n := min(s.plan.MaxRows, rows-r)
		start := time.Now()
		err := s.prog.Run(ctx, []View{{Rows: n, Cols: in, F32: f[r*in : (r+n)*in]}}, []View{{Rows: n, Cols: out, F32: y[r*out : (r+n)*out]}}, &c)
		if err != nil {
			return nil, err
		}
		c.Tokens[Prefill] += int64(n)
		c.Time[Prefill] += time.Since(start)
	}
	s.mu.Lock()
	s.counters.Merge(&c)
	s.mu.Unlock()
	return tensor.New(tensor.WithShape(rows, out), tensor.WithBacking(y)), nil
}
