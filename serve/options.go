package serve

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/sparserun/sparserun/serve/registry"
)

// Errors of this package; every error wraps one of them, or a package's below.
var (
	ErrOption = errors.New("option out of range")
	ErrForced = errors.New("forced to stop")
)

// Options say how the server listens and what it bears. The zero value of a field is its
// default; withDefaults is the list.
type Options struct {
	Addr      string // public HTTP, default 127.0.0.1:8080
	GRPCAddr  string // Open Inference Protocol over gRPC, "" for none
	AdminAddr string // pprof, load and unload, key reload; "" for none

	TLSCert, TLSKey string // files; both or none
	ClientCA        string // file: clients must have a certificate of it
	Keys            *Keys  // nil: no key is asked for
	AllowOrigins    []string
	AllowHosts      []string // names besides localhost and addresses, for a loopback listener without keys

	MaxBody    int64 // bytes of a request body, decompressed
	BodyMemory int64 // bytes of all request bodies in work
	MaxHeader  int   // bytes of a request's header
	MaxConns   int   // connections of each listener

	HeaderTimeout time.Duration // from the first byte to the end of the header
	BodyTimeout   time.Duration // for the whole body
	WriteTimeout  time.Duration // for one write: a reader that stalls longer is cut off
	IdleTimeout   time.Duration // between requests
	Timeout       time.Duration // of one request
	Grace         time.Duration // from the end of Run's ctx to closed listeners: still serving, not ready
	Drain         time.Duration // from closed listeners to the deadline of what is in flight

	OTLPEndpoint string // collector of OTLP/HTTP that spans go to, http://127.0.0.1:4318 say; "" for none

	Lenient     bool // harmless unsupported fields are ignored, not refused
	CompatVLLM  bool // also vLLM's metric names (with colons, which promtool refuses)
	Log         *slog.Logger
	Version     string
	Backend     string         // label of metrics: cpu, cuda
	MemoryLimit int64          // of the registry, shown on the page
	Spec        *registry.Spec // what a model that the admin listener loads starts from
}

func (o *Options) withDefaults() error {
	def := func(p *time.Duration, d time.Duration) {
		if *p == 0 {
			*p = d
		}
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:8080"
	}
	def(&o.HeaderTimeout, 10*time.Second)
	def(&o.BodyTimeout, 60*time.Second)
	def(&o.WriteTimeout, 20*time.Second)
	def(&o.IdleTimeout, 2*time.Minute)
	def(&o.Timeout, 10*time.Minute)
	def(&o.Drain, 30*time.Second)
	if o.MaxBody == 0 {
		o.MaxBody = 64 << 20
	}
	if o.BodyMemory == 0 {
		o.BodyMemory = max(256<<20, 2*o.MaxBody)
	}
	if o.MaxHeader == 0 {
		o.MaxHeader = 64 << 10
	}
	if o.MaxConns == 0 {
		o.MaxConns = 4096
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Backend == "" {
		o.Backend = "cpu"
	}
	for _, c := range []struct {
		name string
		bad  bool
	}{
		{"max body", o.MaxBody < 0}, {"body memory", o.BodyMemory < o.MaxBody}, {"max header", o.MaxHeader < 1<<10},
		{"max connections", o.MaxConns < 1}, {"header timeout", o.HeaderTimeout < 0}, {"body timeout", o.BodyTimeout < 0},
		{"write timeout", o.WriteTimeout < 0}, {"idle timeout", o.IdleTimeout < 0}, {"timeout", o.Timeout < 0},
		{"grace", o.Grace < 0}, {"drain", o.Drain < 0},
	} {
		if c.bad {
			return fmt.Errorf("serve: %s: %w", c.name, ErrOption)
		}
	}
	if (o.TLSCert == "") != (o.TLSKey == "") {
		return fmt.Errorf("serve: TLS: want a certificate and a key, got one of them: %w", ErrOption)
	}
	if o.ClientCA != "" && o.TLSCert == "" {
		return fmt.Errorf("serve: TLS: a client CA without a certificate of the server's: %w", ErrOption)
	}
	return nil
}

// loopback reports whether only programs of this machine can reach addr.
func loopback(addr net.Addr) bool {
	a, ok := addr.(*net.TCPAddr)
	return ok && a.IP.IsLoopback()
}
