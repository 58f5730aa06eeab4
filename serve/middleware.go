package serve

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/serve/otlp"
)

// request is what the middleware knows of a request; handlers reach it through the
// context.
type request struct {
	id     string
	trace  trace
	client string
	model  atomic.Pointer[string]
}

type requestKey struct{}

func requestOf(ctx context.Context) *request {
	r, _ := ctx.Value(requestKey{}).(*request)
	return r
}

// clientOf is the name of a request's API key, for the fair queue.
func clientOf(r *http.Request) string {
	if q := requestOf(r.Context()); q != nil {
		return q.client
	}
	return ""
}

// seen notes which model a request is for. Handlers call it with names that are known to
// exist, so that labels stay few.
func seen(ctx context.Context, model string) {
	if q := requestOf(ctx); q != nil {
		q.model.Store(&model)
	}
}

func (q *request) modelName() string {
	if p := q.model.Load(); p != nil {
		return *p
	}
	return ""
}

// statusClosed is logged and counted where the client was gone before an answer; nothing
// is sent. The number is nginx's.
const statusClosed = 499

// writer records what was answered and gives each write a deadline of its own, so that a
// stream may last while a reader that stalls does not.
type writer struct {
	http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration
	set     time.Time // when the deadline was
	status  int
	bytes   int64
}

func (w *writer) WriteHeader(status int) {
	if w.status == 0 && (status < 100 || status >= 200) {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.extend()
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

// extend gives the next write its time, or seven eighths of it at least: a deadline costs
// as much as a token's JSON.
func (w *writer) extend() {
	if now := time.Now(); now.Sub(w.set) > w.timeout/8 {
		w.set = now
		w.rc.SetWriteDeadline(now.Add(w.timeout))
	}
}

// Flush is http.Flusher.
func (w *writer) Flush() { w.FlushError() }

// FlushError is what http.ResponseController calls.
func (w *writer) FlushError() error {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	w.extend()
	return w.rc.Flush()
}

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// wrap is the middleware around all handlers of a listener: request id, trace, log,
// metrics, panics, limits; keys where auth is set.
func (s *Server) wrap(next http.Handler, auth bool) http.Handler {
	return http.HandlerFunc(func(raw http.ResponseWriter, r *http.Request) {
		start := time.Now()
		q := &request{id: requestID(r.Header.Get("X-Request-Id")), trace: startTrace(r.Header.Get("Traceparent"), s.spans != nil)}
		w := &writer{ResponseWriter: raw, rc: http.NewResponseController(raw), timeout: s.o.WriteTimeout}
		w.rc.SetWriteDeadline(time.Time{}) // of the connection's last request
		h := w.Header()
		h.Set("X-Request-Id", q.id)
		h.Set("Traceparent", q.trace.header())
		h.Set("X-Content-Type-Options", "nosniff")
		if s.draining.Load() {
			h.Set("Connection", "close")
		}
		ctx, cancel := context.WithTimeoutCause(context.WithValue(r.Context(), requestKey{}, q), s.o.Timeout+5*time.Second, context.DeadlineExceeded)
		defer cancel()
		if gc, ok := ctx.Value(connKey{}).(*gateConn); ok {
			gc.work(1)
			defer gc.work(-1)
		}
		s.inFlight.Add(1)
		defer s.inFlight.Add(-1)
		aborted := false
		defer func() {
			w.extend() // for what the server flushes after us
			s.finish(w, r, q, start, aborted)
			if aborted {
				panic(http.ErrAbortHandler)
			}
		}()
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // the sentinel itself is thrown
				aborted = true
				return
			}
			s.metrics.panics.Inc()
			s.log.Error("panic in a handler", "request", q.id, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if aborted = w.status != 0; !aborted {
				fail(w, r, http.StatusInternalServerError, "internal error")
			}
		}()
		r = r.WithContext(ctx)
		if reason := s.foreign(r, auth); reason != "" {
			fail(w, r, http.StatusForbidden, reason)
			return
		}
		if s.cors(w, r) {
			return
		}
		if auth && s.o.Keys != nil && !open(r.URL.Path) {
			name, ok := s.o.Keys.Name(bearer(r.Header))
			if !ok {
				h.Set("WWW-Authenticate", "Bearer")
				fail(w, r, http.StatusUnauthorized, "missing or unknown API key")
				return
			}
			q.client = name
		}
		free, err := s.bodies.read(raw, r)
		defer free()
		if err != nil {
			var be *bodyError
			if errors.As(err, &be) {
				if be.status == http.StatusServiceUnavailable {
					h.Set("Retry-After", "1")
				}
				fail(w, r, be.status, be.reason)
			}
			return
		}
		next.ServeHTTP(w, r)
	})
}

// finish counts and logs an answered request.
func (s *Server) finish(w *writer, r *http.Request, q *request, start time.Time, aborted bool) {
	code := w.status
	switch {
	case code == 0 && r.Context().Err() != nil, aborted:
		code = statusClosed
	case code == 0:
		code = http.StatusOK // the server sends it
	}
	took := time.Since(start)
	end := endpoint(r.URL.Path)
	s.metrics.request(q.modelName(), end, code, took)
	level := slog.LevelInfo
	if quiet(end) {
		level = slog.LevelDebug
	} else {
		s.export(q, r.Method+" "+end, start, took, code >= 500,
			otlp.Attribute{Key: "http.request.method", Value: clip(r.Method, 32)}, otlp.Attribute{Key: "http.route", Value: end},
			otlp.Attribute{Key: "http.response.status_code", Value: int64(code)},
			otlp.Attribute{Key: "http.request.body.size", Value: max(r.ContentLength, 0)}, otlp.Attribute{Key: "http.response.body.size", Value: w.bytes})
	}
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	a := []slog.Attr{
		slog.String("request", q.id), slog.String("trace", q.trace.id), slog.String("span", q.trace.span),
		slog.String("method", r.Method), slog.String("path", clip(r.URL.Path, 200)), slog.Int("status", code),
		slog.Int64("bytes_in", max(r.ContentLength, 0)), slog.Int64("bytes_out", w.bytes),
		slog.Float64("seconds", took.Seconds()), slog.String("remote", r.RemoteAddr),
	}
	if q.trace.parent != "" {
		a = append(a, slog.String("parent", q.trace.parent))
	}
	if q.client != "" {
		a = append(a, slog.String("client", q.client))
	}
	if m := q.modelName(); m != "" {
		a = append(a, slog.String("model", m))
	}
	s.log.LogAttrs(context.Background(), level, "request", a...)
}

// export hands a request's span to the exporter, if there is one and the trace is
// recorded.
func (s *Server) export(q *request, name string, start time.Time, took time.Duration, failed bool, more ...otlp.Attribute) {
	if s.spans == nil || !q.trace.sampled() {
		return
	}
	more = append(more, otlp.Attribute{Key: "sparserun.request", Value: q.id})
	if m := q.modelName(); m != "" {
		more = append(more, otlp.Attribute{Key: "sparserun.model", Value: m})
	}
	if q.client != "" {
		more = append(more, otlp.Attribute{Key: "sparserun.client", Value: q.client})
	}
	s.spans.Add(otlp.Span{Trace: q.trace.id, ID: q.trace.span, Parent: q.trace.parent, Name: clip(name, 200), Start: start, End: start.Add(took), Attributes: more, Failed: failed})
}

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}

// fail answers with an error in the shape that the path's API has.
func fail(w http.ResponseWriter, r *http.Request, status int, reason string) {
	var v any = map[string]string{"error": reason}
	if strings.HasPrefix(r.URL.Path, "/v1/") {
		kind := "invalid_request_error"
		switch {
		case status == http.StatusUnauthorized:
			kind = "authentication_error"
		case status >= 500:
			kind = "server_error"
		}
		v = map[string]any{"error": map[string]any{"message": reason, "type": kind, "param": nil, "code": strconv.Itoa(status)}}
	}
	writeJSON(w, status, v)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"internal error"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b)+1))
	w.WriteHeader(status)
	w.Write(append(b, '\n'))
}

// open reports whether a path needs no key: probes, and the page (not its data).
func open(path string) bool {
	switch path {
	case "/", "/healthz", "/livez", "/readyz", "/version", "/v2/health/live", "/v2/health/ready", "/openapi.json":
		return true
	}
	return false
}

// foreign says why a browser on somebody else's page must not get through to a server
// that asks for no key: a listener of this machine answers only to its own names (DNS
// rebinding), and no listener to a page of another origin that is not allowed.
func (s *Server) foreign(r *http.Request, auth bool) string {
	if origin := r.Header.Get("Origin"); origin != "" && !s.allowed(origin) {
		if u, err := url.Parse(origin); err != nil || u.Host != r.Host {
			return "this origin is not allowed"
		}
	}
	if auth && s.o.Keys != nil {
		return ""
	}
	a, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok || !loopback(a) {
		return ""
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if host == "" || host == "localhost" || net.ParseIP(strings.Trim(host, "[]")) != nil || slices.Contains(s.o.AllowHosts, host) {
		return ""
	}
	return "this host name is not allowed"
}

func (s *Server) allowed(origin string) bool {
	return slices.Contains(s.o.AllowOrigins, origin) || slices.Contains(s.o.AllowOrigins, "*")
}

// cors answers preflight requests of allowed origins.
func (s *Server) cors(w http.ResponseWriter, r *http.Request) (done bool) {
	origin := r.Header.Get("Origin")
	if origin == "" || !s.allowed(origin) {
		return false
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Origin", origin)
	h.Add("Vary", "Origin")
	h.Set("Access-Control-Expose-Headers", "X-Request-Id, Traceparent, Retry-After")
	if r.Method != http.MethodOptions {
		return false
	}
	h.Set("Access-Control-Allow-Methods", "GET, POST")
	// What the page asks for: OpenAI's client for browsers sends a dozen of its own, and
	// an origin that may send a key may send those.
	allow := "Authorization, X-Api-Key, Content-Type, Inference-Header-Content-Length, X-Request-Id, Traceparent"
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
		allow = asked
		h.Add("Vary", "Access-Control-Request-Headers")
	}
	h.Set("Access-Control-Allow-Headers", allow)
	w.WriteHeader(http.StatusNoContent)
	return true
}

// endpoint is a path with its names taken out: the few values of a label.
func endpoint(path string) string {
	switch path {
	case "/", "/healthz", "/livez", "/readyz", "/version", "/metrics", "/api/stats", "/openapi.json",
		"/v1/models", "/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/v2", "/v2/health/live", "/v2/health/ready", "/v2/repository/index":
		return path
	}
	if strings.HasPrefix(path, "/v1/models/") {
		return "/v1/models"
	}
	for _, p := range []string{"/v2/repository/models/", "/v2/models/"} {
		if !strings.HasPrefix(path, p) {
			continue
		}
		switch last := path[strings.LastIndexByte(path, '/')+1:]; last {
		case "infer", "generate", "generate_stream", "ready", "stats", "config", "load", "unload":
			return strings.TrimSuffix(p, "/") + "/" + last
		}
		return strings.TrimSuffix(p, "/")
	}
	if strings.HasPrefix(path, "/debug/") {
		return "/debug"
	}
	return "other"
}

// quiet endpoints are logged at debug level: probes and what polls.
func quiet(endpoint string) bool {
	switch endpoint {
	case "/", "/healthz", "/livez", "/readyz", "/metrics", "/api/stats", "/v2/health/live", "/v2/health/ready":
		return true
	}
	return false
}
