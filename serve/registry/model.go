package registry

import (
	"context"
	"sync"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tokenizer/chat"
)

// Info describes a model.
type Info struct {
	Format           string
	Arch             string
	Parameters       int64
	Sparsity         float64      // share of zeros of the weights that the planner looked at
	WeightBytes      sparse.Bytes // as they run
	DenseWeightBytes int64        // the same weights dense in the same type
	Estimate         int64        // bytes that were asked for before loading, the twin's included
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
	Dense               *runtime.Session // the twin; nil without Spec.Shadow, or where the planner chose no sparse form
	Template            *chat.Template   // nil where the model has none, or one that does not parse
	TemplateErr         error            // why not

	memory int64 // bytes

	mu    sync.Mutex
	refs  int
	free  chan struct{} // closed when refs is 0 and finish waits for it
	once  sync.Once
	dead  chan struct{} // closed by close
	error error         // of close
}

func (m *Model) hold() {
	m.mu.Lock()
	m.refs++
	m.mu.Unlock()
}

func (m *Model) release() {
	m.mu.Lock()
	if m.refs--; m.refs == 0 && m.free != nil {
		close(m.free)
		m.free = nil
	}
	m.mu.Unlock()
}

// finish waits for the holders, who may begin new requests meanwhile, then for what
// runs without one, and closes the model. What is left at the end of ctx is ended.
func (m *Model) finish(ctx context.Context) {
	m.mu.Lock()
	var free chan struct{}
	if m.refs > 0 {
		if m.free == nil {
			m.free = make(chan struct{})
		}
		free = m.free
	}
	m.mu.Unlock()
	if free != nil {
		select {
		case <-free:
		case <-m.dead:
		case <-ctx.Done():
		}
	}
	_ = m.drain(ctx)
	_ = m.close()
}

// drain lets the engine finish.
func (m *Model) drain(ctx context.Context) error {
	switch {
	case m.LM != nil:
		return m.LM.Drain(ctx)
	case m.Net != nil:
		return m.Net.Drain(ctx)
	}
	return nil
}

// close ends whatever is left and releases memory. Those who still hold the model get
// engine.ErrClosed.
func (m *Model) close() error {
	m.once.Do(func() {
		close(m.dead)
		if m.LM != nil {
			m.error = m.LM.Close()
		}
		if m.Net != nil {
			m.error = m.Net.Close()
		}
		for _, s := range []*runtime.Session{m.Session, m.Dense} {
			if s != nil {
				if err := s.Close(); m.error == nil {
					m.error = err
				}
			}
		}
	})
	return m.error
}

// Busy reports whether any request of the model is waiting or running.
func (m *Model) Busy() bool {
	return m.LM != nil && m.LM.Busy() || m.Net != nil && m.Net.Busy()
}

// Stats are the engine's figures; one of the two is nil.
func (m *Model) Stats() (*engine.Stats, *engine.BatchStats) {
	if m.LM != nil {
		s := m.LM.Stats()
		return &s, nil
	}
	s := m.Net.Stats()
	return nil, &s
}
