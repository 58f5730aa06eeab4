package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve"
	"github.com/sparserun/sparserun/serve/otlp"
	"github.com/sparserun/sparserun/serve/registry"
)

type serveCmd struct {
	Models []string `arg:"" optional:"" name:"model" help:"Model files or folders: PATH or NAME=PATH."`
	Name   string   `help:"Name of the only model (default: its file's)."`
	engine

	Addr      string `default:"127.0.0.1:8080" help:"Where HTTP listens."`
	GRPCAddr  string `name:"grpc-addr" default:"127.0.0.1:8081" help:"Where gRPC listens; off for nowhere."`
	AdminAddr string `default:"off" help:"Where load, unload, pprof and key reload listen, 127.0.0.1:8082 say."`

	MaxRunning  int           `default:"16" help:"Sequences in one step, at most 256."`
	Queue       int           `default:"512" help:"Requests of a model that may wait; one more gets 429."`
	StepTokens  int           `default:"0" help:"Rows of a step while others are generating (default: what takes 0.1 s here)."`
	NoPrefix    bool          `name:"no-prefix-cache" help:"Keep no keys and values of finished requests."`
	BatchSize   int           `default:"32" help:"Networks: rows of one run."`
	BatchDelay  time.Duration `default:"2ms" help:"Networks: how long the first of a batch waits for more."`
	ShadowDense float64       `default:"0" help:"Share of requests that are run again, dense and sparse by turns, when idle: the measured ratio."`
	MemoryLimit byteSize      `default:"0" help:"Memory for all models, 4GiB say (default: the cgroup's limit or the machine's memory)."`

	APIKeys      string   `name:"api-keys" help:"File of API keys, NAME KEY a line." placeholder:"FILE"`
	TLSCert      string   `name:"tls-cert" help:"Certificate chain (PEM)." placeholder:"FILE"`
	TLSKey       string   `name:"tls-key" help:"Its key (PEM)." placeholder:"FILE"`
	ClientCA     string   `name:"client-ca" help:"Clients must have a certificate of this CA (PEM)." placeholder:"FILE"`
	AllowOrigins []string `name:"allow-origin" help:"Web pages of this origin may call (repeatable)."`
	AllowHosts   []string `name:"allow-host" help:"Host names that a loopback listener without keys answers to, besides localhost."`

	Timeout       time.Duration `default:"10m" help:"Of one request."`
	Grace         time.Duration `default:"1s" help:"From SIGTERM to closed listeners: still serving, /readyz says 503."`
	Drain         time.Duration `default:"30s" help:"From closed listeners until what is in flight is ended with an error."`
	HeaderTimeout time.Duration `default:"10s" help:"For a request's header."`
	BodyTimeout   time.Duration `default:"60s" help:"For a request's body."`
	WriteTimeout  time.Duration `default:"20s" help:"For one write: readers that stall are cut off."`
	IdleTimeout   time.Duration `default:"2m" help:"Between requests of a connection."`
	MaxBody       byteSize      `default:"64MiB" help:"Of one request's body, decompressed."`
	MaxConns      int           `default:"4096" help:"Connections of a listener."`

	OTLPEndpoint  string `name:"otlp-endpoint" help:"Collector of OTLP over HTTP that spans go to, http://127.0.0.1:4318 say (default: none)." placeholder:"URL"`
	MetricsCompat string `enum:"none,vllm" default:"none" help:"vllm: also vLLM's metric names."`
	Lenient       bool   `help:"Ignore harmless fields that are not supported, instead of 400."`
	LogFormat     string `enum:"json,text" default:"json" help:"Of the log on stderr: json, text."`
	LogLevel      string `enum:"debug,info,warn,error" default:"info" help:"debug also logs probes and scrapes."`
	Config        string `help:"JSON file of flags by name, and of models." placeholder:"FILE"`
	PrintConfig   bool   `help:"Print the configuration as --config takes it, and exit."`

	conf *configuration
}

// check is what a flag's type does not say. A number that would mean something else than
// it says (0 is a default further in) is refused.
func (c *serveCmd) check() error {
	for _, n := range []struct {
		flag        string
		got, lo, hi int
	}{
		{"max-running", c.MaxRunning, 1, 256}, {"queue", c.Queue, 1, 1 << 20}, {"step-tokens", c.StepTokens, 0, 1 << 16},
		{"batch-size", c.BatchSize, 1, 1 << 16}, {"max-conns", c.MaxConns, 1, 1 << 20},
	} {
		if n.got < n.lo || n.got > n.hi {
			return usagef("--%s: want %d to %d, got %d", n.flag, n.lo, n.hi, n.got)
		}
	}
	for _, d := range []struct {
		flag        string
		got, lo, hi time.Duration
	}{
		{"timeout", c.Timeout, 1, math.MaxInt64 / 2}, {"header-timeout", c.HeaderTimeout, 1, math.MaxInt64}, {"body-timeout", c.BodyTimeout, 1, math.MaxInt64},
		{"write-timeout", c.WriteTimeout, 1, math.MaxInt64}, {"idle-timeout", c.IdleTimeout, 1, math.MaxInt64},
		{"grace", c.Grace, 0, math.MaxInt64}, {"drain", c.Drain, 0, math.MaxInt64}, {"batch-delay", c.BatchDelay, 0, time.Minute},
	} {
		switch {
		case d.got > d.hi:
			return usagef("--%s: want at most %v, got %v", d.flag, d.hi, d.got)
		case d.got < d.lo && d.lo > 0:
			return usagef("--%s: want more than 0, got %v", d.flag, d.got)
		case d.got < d.lo:
			return usagef("--%s: want at least 0, got %v", d.flag, d.got)
		}
	}
	if c.MaxBody == 0 {
		return usagef("--max-body: want more than 0")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return usagef("--tls-cert, --tls-key: want both or none")
	}
	if c.ClientCA != "" && c.TLSCert == "" {
		return usagef("--client-ca: want --tls-cert and --tls-key too")
	}
	if c.OTLPEndpoint != "" && !otlp.Valid(c.OTLPEndpoint) {
		return usagef("--otlp-endpoint: want http://HOST:PORT, got %.200q", c.OTLPEndpoint)
	}
	for _, o := range c.AllowOrigins {
		if u, err := url.Parse(o); o != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o) {
			return usagef("--allow-origin: want https://HOST[:PORT] as browsers send it, or *, got %q", o)
		}
	}
	return nil
}

// Help is shown by --help below the flags' head.
func (*serveCmd) Help() string {
	return `Every flag is also SPARSERUN_NAME in the environment (SPARSERUN_GRPC_ADDR), or a key of
the --config file; flags go before the environment, and that before the file.

Examples:
  sparserun serve pruned.safetensors --dtype int8 --shadow-dense 0.01
  sparserun serve chat=pruned.gguf digits=lenet.onnx --addr 127.0.0.1:8000 --admin-addr 127.0.0.1:8082
  sparserun serve model.gguf --addr :8443 --tls-cert cert.pem --tls-key key.pem --api-keys keys.txt
  sparserun serve --config serve.json --print-config

  curl localhost:8080/v1/chat/completions --json '{"model":"pruned","messages":[{"role":"user","content":"Hi"}]}'

The page is at http://127.0.0.1:8080/, metrics at /metrics. SIGTERM drains, a later one
stops at once, SIGHUP reads the API keys again.`
}

// readyJSON is the one line of --json, printed when requests can come.
type readyJSON struct {
	Addr      string           `json:"addr"`
	GRPCAddr  string           `json:"grpc_addr,omitempty"`
	AdminAddr string           `json:"admin_addr,omitempty"`
	URL       string           `json:"url"`
	PID       int              `json:"pid"`
	Models    []readyModelJSON `json:"models"`
}

type readyModelJSON struct {
	Name        string  `json:"name"`
	Sparsity    float64 `json:"sparsity"`
	WeightBytes int64   `json:"weight_bytes"`
	DenseBytes  int64   `json:"dense_weight_bytes"`
	LoadSeconds float64 `json:"load_seconds"`
}

func (c *serveCmd) Run(g *globals) error {
	if err := c.check(); err != nil {
		return err
	}
	specs, models, err := c.specs()
	if err != nil {
		return err
	}
	if c.PrintConfig {
		return c.conf.print(g, models)
	}
	if len(specs) == 0 {
		return usagef("want at least one MODEL, or models in --config")
	}
	log := c.logger(g)
	limit := int64(c.MemoryLimit)
	if limit == 0 {
		limit, _ = runtime.TotalMemory()
	} else if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(limit)
	}
	reg := registry.New(func() (runtime.Backend, error) { return c.backend(g) }, registry.Options{MemoryLimit: limit, DrainTime: c.drain()})
	defer reg.Close()
	o, err := c.options(g, log, limit)
	if err != nil {
		return err
	}
	srv, err := serve.New(reg, o)
	if err != nil {
		return err
	}
	return c.serve(g, srv, reg, specs, log, o.Keys)
}

// sameSignal is how soon after the first a second SIGTERM or SIGINT is still the same
// wish: timeout(1) and shells signal a child and then its whole group.
const sameSignal = 200 * time.Millisecond

// serve runs until a signal; models load while the listeners already answer probes.
func (c *serveCmd) serve(g *globals, srv *serve.Server, reg *registry.Registry, specs []registry.Spec, log *slog.Logger, keys *serve.Keys) error {
	ctx, cancel := context.WithCancel(g.ctx) // g.ctx ends with the first SIGTERM or SIGINT
	defer cancel()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	end := make(chan struct{})
	defer close(end)
	go func() {
		for first := (time.Time{}); ; {
			select {
			case <-end:
				return
			case sig := <-signals:
				if sig == syscall.SIGHUP {
					reloadKeys(keys, log)
					continue
				}
				cancel()
				switch {
				case first.IsZero():
					first = time.Now()
				case time.Since(first) >= sameSignal:
					log.Warn("second signal: stopping at once")
					srv.Close()
				}
			}
		}
	}()
	done := make(chan error, 1)
	go func() { done <- srv.Run(ctx) }()
	for _, s := range specs {
		reg.Add(s) // the index shows what is to come
	}
	for _, s := range specs {
		if err := reg.Load(ctx, s); err != nil {
			srv.Close()
			<-done
			return err
		}
		srv.LogModel(s.Name)
	}
	srv.SetReady()
	log.Info("ready", "http", srv.Addr(), "grpc", srv.GRPCAddr(), "admin", srv.AdminAddr())
	if err := g.print(c.ready(srv, reg), func(w io.Writer) {
		fmt.Fprintf(w, "ready: %s\n", c.url(srv))
	}); err != nil {
		log.Error("stdout", "error", err)
	}
	return <-done
}

func reloadKeys(keys *serve.Keys, log *slog.Logger) {
	if keys == nil {
		return
	}
	if err := keys.Reload(); err != nil {
		log.Error("API keys stay as they were", "error", err)
		return
	}
	log.Info("API keys reloaded", "keys", keys.Len())
}

func (c *serveCmd) url(srv *serve.Server) string {
	scheme := "http"
	if c.TLSCert != "" {
		scheme = "https"
	}
	return scheme + "://" + srv.Addr()
}

func (c *serveCmd) ready(srv *serve.Server, reg *registry.Registry) readyJSON {
	r := readyJSON{Addr: srv.Addr(), GRPCAddr: srv.GRPCAddr(), AdminAddr: srv.AdminAddr(), URL: c.url(srv), PID: os.Getpid()}
	for _, st := range reg.Index() {
		if m, release, err := reg.Acquire(st.Name); err == nil {
			r.Models = append(r.Models, readyModelJSON{m.Name, m.Info.Sparsity, m.Info.WeightBytes.Total(), m.Info.DenseWeightBytes, m.LoadTime.Seconds()})
			release()
		}
	}
	return r
}

func (c *serveCmd) logger(g *globals) *slog.Logger {
	var level slog.Level
	level.UnmarshalText([]byte(c.LogLevel)) // kong holds it to the enum
	if g.Quiet {
		level = max(level, slog.LevelWarn)
	}
	o := &slog.HandlerOptions{Level: level}
	if c.LogFormat == "text" {
		return slog.New(slog.NewTextHandler(g.stderr, o))
	}
	return slog.New(slog.NewJSONHandler(g.stderr, o))
}

// drain is --drain; what options take for their default is no time at all here.
func (c *serveCmd) drain() time.Duration { return max(c.Drain, 1) }

func off(addr string) string {
	if addr == "off" {
		return ""
	}
	return addr
}

func (c *serveCmd) options(g *globals, log *slog.Logger, limit int64) (serve.Options, error) {
	o := serve.Options{
		Addr: c.Addr, GRPCAddr: off(c.GRPCAddr), AdminAddr: off(c.AdminAddr),
		TLSCert: c.TLSCert, TLSKey: c.TLSKey, ClientCA: c.ClientCA, AllowOrigins: c.AllowOrigins, AllowHosts: c.AllowHosts,
		MaxBody: int64(c.MaxBody), MaxConns: c.MaxConns, Timeout: c.Timeout, Grace: c.Grace, Drain: c.drain(),
		HeaderTimeout: c.HeaderTimeout, BodyTimeout: c.BodyTimeout, WriteTimeout: c.WriteTimeout, IdleTimeout: c.IdleTimeout,
		OTLPEndpoint: c.OTLPEndpoint, Lenient: c.Lenient, CompatVLLM: c.MetricsCompat == "vllm", Log: log, Version: Version, MemoryLimit: limit,
	}
	b, err := c.backend(g)
	if err != nil {
		return o, err
	}
	o.Backend = b.Name()
	b.Close()
	if c.APIKeys != "" {
		if o.Keys, err = serve.LoadKeys(c.APIKeys); err != nil {
			return o, err
		}
	}
	def, err := c.spec(modelConfig{})
	o.Spec = &def
	return o, err
}

// spec is a model's, with what the flags say where the model itself says nothing.
func (c *serveCmd) spec(m modelConfig) (registry.Spec, error) {
	e := c.engine
	if m.DType != "" {
		e.DType = m.DType
	}
	if m.Sparse != "" {
		e.Sparse = m.Sparse
	}
	if m.Context != 0 {
		e.Context = m.Context
	}
	s := registry.Spec{Name: m.Name, Path: m.Path, Shadow: c.ShadowDense, Loader: e.loadOptions()}
	if m.ShadowDense != nil {
		s.Shadow = *m.ShadowDense
	}
	if !(s.Shadow >= 0 && s.Shadow <= 1) {
		return s, usagef("--shadow-dense: want 0 to 1, got %g", s.Shadow)
	}
	o, err := e.options(e.Sparse)
	if err != nil {
		return s, err
	}
	o.Select = c.MaxRunning
	s.Options = o
	s.Engine.MaxRunning, s.Engine.Queue, s.Engine.StepTokens, s.Engine.NoPrefixCache = c.MaxRunning, c.Queue, c.StepTokens, c.NoPrefix
	s.Batch.MaxBatch, s.Batch.Delay, s.Batch.Queue = c.BatchSize, c.BatchDelay, c.Queue
	if c.BatchDelay == 0 {
		s.Batch.Delay = -1
	}
	return s, nil
}

// specs are the models of the command line, or, where it names none, of the file, and
// how a file would say the same.
func (c *serveCmd) specs() ([]registry.Spec, []modelConfig, error) {
	var list []modelConfig
	for _, arg := range c.Models {
		list = append(list, parseModel(arg))
	}
	if len(list) == 0 && c.conf != nil {
		list = c.conf.models
	}
	if c.Name != "" {
		if len(list) != 1 {
			return nil, nil, usagef("--name: want one model, got %d; write NAME=PATH", len(list))
		}
		list[0].Name = c.Name
	}
	var out []registry.Spec
	said := []modelConfig{}
	seen := map[string]bool{}
	for _, m := range list {
		if m.Path == "" {
			return nil, nil, usagef("model %q: no path", m.Name)
		}
		if m.Name == "" {
			m.Name = modelName(m.Path)
		}
		if seen[m.Name] {
			return nil, nil, usagef("two models named %q; write NAME=PATH", m.Name)
		}
		if err := registry.CheckName(m.Name); err != nil {
			return nil, nil, usageError{err}
		}
		seen[m.Name] = true
		s, err := c.spec(m)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, s)
		// What the model does not say of --sparse the flag says.
		said = append(said, modelConfig{Name: m.Name, Path: m.Path, DType: s.DType.String(), Sparse: m.Sparse, Context: s.Context, ShadowDense: &s.Shadow})
	}
	return out, said, nil
}

// parseModel splits NAME=PATH. What stands before the sign is a name only if it could be
// none of a path: it has no separator in it, and no file is called like the whole.
func parseModel(arg string) modelConfig {
	if _, err := os.Stat(arg); err == nil {
		return modelConfig{Path: arg}
	}
	if name, path, ok := strings.Cut(arg, "="); ok && name != "" && !strings.ContainsRune(name, filepath.Separator) {
		return modelConfig{Name: name, Path: path}
	}
	return modelConfig{Path: arg}
}

func modelName(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs // . is no name
	}
	b := filepath.Base(path)
	for _, ext := range []string{".safetensors", ".gguf", ".onnx"} {
		b = strings.TrimSuffix(b, ext)
	}
	return b
}

// BeforeResolve is kong's hook: the environment and the file stand behind the flags.
func (c *serveCmd) BeforeResolve(ctx *kong.Context) error {
	conf, err := openConfiguration(ctx)
	if err != nil {
		return usageError{err}
	}
	c.conf = conf
	ctx.AddResolver(conf)
	return nil
}

var errSize = errors.New("want bytes, or a number with KiB, MiB, GiB, kB, MB or GB")

// byteSize is a number of bytes, 64MiB say.
type byteSize int64

// UnmarshalText reads it.
func (b *byteSize) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	unit := 1.0
	for _, u := range []struct {
		name string
		n    float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if t, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(t), u.n
			break
		}
	}
	var x float64
	var rest string
	if n, _ := fmt.Sscanf(s+" ", "%f%s", &x, &rest); n != 1 || !(x >= 0 && x*unit < 1<<62) {
		return fmt.Errorf("%q: %w", text, errSize)
	}
	*b = byteSize(x * unit)
	return nil
}

// MarshalText writes it as a number of bytes.
func (b byteSize) MarshalText() ([]byte, error) { return fmt.Append(nil, int64(b)), nil }
