// Package serve puts models behind HTTP and gRPC: the OpenAI and Open Inference Protocol
// handlers of packages openai and oip, and around them what a server needs: limits, keys,
// TLS, logs, metrics, a page that shows what sparsity saves, an admin listener, and an end
// that loses no accepted request.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/sparserun/sparserun/serve/oip"
	"github.com/sparserun/sparserun/serve/openai"
	"github.com/sparserun/sparserun/serve/openapi"
	"github.com/sparserun/sparserun/serve/otlp"
	"github.com/sparserun/sparserun/serve/registry"
)

// Server serves the models of a registry.
type Server struct {
	o   Options
	reg *registry.Registry
	log *slog.Logger

	public, admin *http.Server
	grpc          *grpc.Server
	gates         map[string]*gate // by listener: http, grpc, admin
	bodies        bodies
	metrics       *metrics
	spans         *otlp.Exporter // nil: spans are only in the log
	samples       history
	started       time.Time

	ready    atomic.Bool
	draining atomic.Bool
	inFlight atomic.Int64
	forced   chan struct{}
	force    sync.Once
}

// New binds the listeners; Run serves them. The registry stays the caller's to close.
func New(r *registry.Registry, o Options) (*Server, error) {
	if err := o.withDefaults(); err != nil {
		return nil, err
	}
	s := &Server{o: o, reg: r, log: o.Log, started: time.Now(), gates: map[string]*gate{}, forced: make(chan struct{}),
		bodies: bodies{max: o.MaxBody, timeout: o.BodyTimeout, memory: o.BodyMemory}}
	if o.OTLPEndpoint != "" {
		var err error
		if s.spans, err = otlp.New(otlp.Options{Endpoint: o.OTLPEndpoint, Service: "sparserun", Version: o.Version, Log: o.Log}); err != nil {
			return nil, fmt.Errorf("serve: %w", err)
		}
	}
	s.metrics = newMetrics(s)
	tls, err := tlsConfig(&o)
	if err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		s.closeListeners()
		return nil, err
	}
	s.public = s.httpServer(s.publicHandler())
	s.public.TLSConfig = tls
	if o.AdminAddr != "" {
		s.admin = s.httpServer(s.adminHandler())
	}
	if o.GRPCAddr != "" {
		s.grpc = oip.NewGRPC(r, s.oipOptions(false), s.grpcOptions(tls)...)
	}
	return s, nil
}

// listen binds every listener that is asked for.
func (s *Server) listen() error {
	for _, l := range []struct {
		name, addr string
		evict      bool
	}{{"http", s.o.Addr, true}, {"grpc", s.o.GRPCAddr, false}, {"admin", s.o.AdminAddr, true}} {
		if l.addr == "" {
			continue
		}
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			return fmt.Errorf("serve: %s: %w", l.name, err)
		}
		s.gates[l.name] = newGate(ln, s.o.MaxConns, l.evict)
		if l.name == "admin" && !loopback(ln.Addr()) && s.o.Keys == nil {
			return fmt.Errorf("serve: admin listener %s: reachable from other machines without API keys: %w", ln.Addr(), ErrOption)
		}
	}
	return nil
}

func (s *Server) closeListeners() {
	for _, g := range s.gates {
		g.Close()
	}
}

func (s *Server) httpServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler: h, ReadHeaderTimeout: s.o.HeaderTimeout, IdleTimeout: s.o.IdleTimeout, MaxHeaderBytes: s.o.MaxHeader,
		ConnContext: connContext, ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{MaxConcurrentStreams: 128},
	}
}

func (s *Server) addr(name string) string {
	if g := s.gates[name]; g != nil {
		return g.Addr().String()
	}
	return ""
}

// Addr is where the public HTTP listener is.
func (s *Server) Addr() string { return s.addr("http") }

// GRPCAddr is where the gRPC listener is, "" if there is none.
func (s *Server) GRPCAddr() string { return s.addr("grpc") }

// AdminAddr is where the admin listener is, "" if there is none.
func (s *Server) AdminAddr() string { return s.addr("admin") }

// SetReady says that the models which the server was started with are loaded: from then
// on, and until the drain begins, /readyz answers 200.
func (s *Server) SetReady() { s.ready.Store(true) }

// Ready reports whether requests should come here.
func (s *Server) Ready() bool { return s.ready.Load() && !s.draining.Load() }

func (s *Server) oipOptions(control bool) oip.Options {
	return oip.Options{MaxBody: s.o.MaxBody, Timeout: s.o.Timeout, Client: clientOf, Seen: seen, Ready: s.Ready, Control: control,
		Stall: s.o.WriteTimeout, Version: s.o.Version, Log: s.log}
}

// publicHandler is everything that the public listener answers.
func (s *Server) publicHandler() http.Handler {
	mux := http.NewServeMux()
	s.probes(mux)
	route(mux, http.MethodGet, "/{$}", http.HandlerFunc(servePage))
	route(mux, http.MethodGet, "/openapi.json", openapi.Handler())
	route(mux, http.MethodGet, "/api/stats", http.HandlerFunc(s.serveStats))
	route(mux, http.MethodGet, "/metrics", s.metrics.handler())
	mux.Handle("/v1/", openai.New(s.reg, openai.Options{MaxBody: s.o.MaxBody, Timeout: s.o.Timeout, Stall: s.o.WriteTimeout, Lenient: s.o.Lenient, Client: clientOf, Seen: seen, Log: s.log}))
	v2 := oip.NewHTTP(s.reg, s.oipOptions(false))
	mux.Handle("/v2", v2)
	mux.Handle("/v2/", v2)
	mux.HandleFunc("/", notFound)
	return s.wrap(mux, true)
}

// route has a path answered for one method (GET is HEAD too), and 405 for all others.
func route(mux *http.ServeMux, method, path string, h http.Handler) {
	mux.Handle(method+" "+path, h)
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", method)
		fail(w, r, http.StatusMethodNotAllowed, "want "+method+", got "+clip(r.Method, 32))
	})
}

func notFound(w http.ResponseWriter, r *http.Request) {
	fail(w, r, http.StatusNotFound, "no such path")
}

// probes are what orchestrators ask.
func (s *Server) probes(mux *http.ServeMux) {
	get := func(path string, h http.HandlerFunc) { route(mux, http.MethodGet, path, h) }
	live := func(w http.ResponseWriter, r *http.Request) {
		writeJSON(w, http.StatusOK, map[string]bool{"live": true})
	}
	get("/healthz", live)
	get("/livez", live)
	get("/readyz", func(w http.ResponseWriter, r *http.Request) {
		status, reason := http.StatusOK, ""
		switch {
		case s.draining.Load():
			status, reason = http.StatusServiceUnavailable, "shutting down"
		case !s.ready.Load():
			status, reason = http.StatusServiceUnavailable, "loading models"
		}
		writeJSON(w, status, map[string]any{"ready": status == http.StatusOK, "reason": reason})
	})
	get("/version", func(w http.ResponseWriter, r *http.Request) { writeJSON(w, http.StatusOK, version(&s.o)) })
}

// Run serves until ctx ends, then drains: not ready at once; after Grace the listeners
// close; what is in flight has until Drain to finish; the rest ends with an error that
// its API can tell. It returns nil then, ErrForced after Close, or why it could not serve.
func (s *Server) Run(ctx context.Context) error {
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	errs := make(chan error, 3)
	serve := func(name string, f func(net.Listener) error) {
		wg.Go(func() {
			if err := f(s.gates[name]); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, grpc.ErrServerStopped) {
				errs <- fmt.Errorf("serve: %s: %w", name, err)
			}
		})
	}
	serve("http", func(l net.Listener) error {
		if s.public.TLSConfig != nil {
			return s.public.ServeTLS(l, "", "")
		}
		return s.public.Serve(l)
	})
	if s.admin != nil {
		serve("admin", s.admin.Serve)
	}
	if s.grpc != nil {
		serve("grpc", s.grpc.Serve)
	}
	wg.Go(func() { s.samples.run(work, s) })
	if s.spans != nil {
		wg.Go(func() { s.spans.Run(work) })
	}
	if s.o.Keys != nil {
		wg.Go(func() { s.o.Keys.watch(work, 2*time.Second, s.log) })
	}
	defer s.stopNow()
	select {
	case <-ctx.Done():
		return s.drain()
	case err := <-errs:
		return err
	case <-s.forced:
		return ErrForced
	}
}

// drain is the end of a server that was asked to stop.
func (s *Server) drain() error {
	start := time.Now()
	s.draining.Store(true)
	s.log.Info("draining", "grace", s.o.Grace.String(), "deadline", s.o.Drain.String(), "in_flight", s.inFlight.Load())
	select {
	case <-time.After(s.o.Grace):
	case <-s.forced:
		return ErrForced
	}
	deadline, cancel := context.WithTimeout(context.Background(), s.o.Drain)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.shutdown()
	}()
	select {
	case <-done:
		s.log.Info("drained", "seconds", time.Since(start).Seconds())
		return nil
	case <-s.forced:
		return ErrForced
	case <-deadline.Done():
	}
	// The rest learns why: engines end their requests with ErrDraining, and handlers
	// have a moment to tell their clients.
	left := s.inFlight.Load()
	s.reg.Drain(deadline)
	select {
	case <-done:
	case <-s.forced:
		return ErrForced
	case <-time.After(3 * time.Second):
	}
	s.log.Warn("drain deadline passed", "requests_ended", left, "seconds", time.Since(start).Seconds())
	return nil
}

// shutdown closes the public listeners and waits for what is in flight, or for stopNow.
func (s *Server) shutdown() {
	var wg sync.WaitGroup
	wg.Go(func() { s.public.Shutdown(context.Background()) })
	if s.grpc != nil {
		wg.Go(s.grpc.GracefulStop)
	}
	wg.Wait()
}

// stopNow closes everything.
func (s *Server) stopNow() {
	s.public.Close()
	if s.admin != nil {
		s.admin.Close()
	}
	if s.grpc != nil {
		s.grpc.Stop()
	}
	s.closeListeners()
}

// Close stops a Run at once, whatever is in flight.
func (s *Server) Close() error {
	s.force.Do(func() { close(s.forced) })
	s.stopNow()
	return nil
}
