package oip

import (
	"context"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/serve/registry"
)

// Options are the servers'. The zero value is the default.
type Options struct {
	MaxBody int64         // bytes of an HTTP request's body; default 64 MiB
	Timeout time.Duration // of a request; 0: none
	Stall   time.Duration // how long a reader may let a piece of an answer wait; default 30 s
	// Client names the caller for the fair queue; nil: all are one. For gRPC it is given
	// a request that has nothing but the call's context.
	Client func(*http.Request) string
	// Seen is told the model of a request as soon as it is known to exist; may be nil.
	Seen  func(ctx context.Context, model string)
	Ready func() bool // whether requests should come here; nil: yes
	// Control allows loading and unloading of models.
	Control bool
	Version string       // of the server
	Log     *slog.Logger // failures of ours; nil: none
}

// server is what both transports share.
type server struct {
	reg *registry.Registry
	o   Options
	// last holds the time of each model's last inference, in ms since 1970.
	last sync.Map // string -> *atomic.Int64
}

func newServer(r *registry.Registry, o Options) *server {
	if o.MaxBody == 0 {
		o.MaxBody = 64 << 20
	}
	if o.Stall == 0 {
		o.Stall = 30 * time.Second
	}
	if o.Client == nil {
		o.Client = func(*http.Request) string { return "" }
	}
	if o.Seen == nil {
		o.Seen = func(context.Context, string) {}
	}
	if o.Ready == nil {
		o.Ready = func() bool { return true }
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &server{reg: r, o: o}
}

// extensions of the protocol, as Triton names them.
var extensions = []string{"binary_tensor_data", "model_repository", "model_repository(unload_dependents)", "statistics", "generate"}

// acquire gives a model. Version "" is the one that is loaded.
func (s *server) acquire(ctx context.Context, name, version string) (*registry.Model, func(), error) {
	m, release, err := s.reg.Acquire(name)
	if err != nil {
		return nil, nil, err
	}
	s.o.Seen(ctx, m.Name)
	if version != "" && version != m.Version {
		release()
		return nil, nil, notFound("model %q has version %s, not %q", m.Name, m.Version, clip(version))
	}
	return m, release, nil
}

// used notes an inference.
func (s *server) used(name string) {
	v, _ := s.last.LoadOrStore(name, new(atomic.Int64))
	v.(*atomic.Int64).Store(time.Now().UnixMilli())
}

// deadline bounds a request by the server's timeout and its own, in microseconds.
func (s *server) deadline(ctx context.Context, own int64) (context.Context, context.CancelFunc) {
	d := s.o.Timeout
	if t := time.Duration(own) * time.Microsecond; t > 0 && (d == 0 || t < d) {
		d = t
	}
	if d == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, d)
}

// clip keeps a stranger's text short in an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
