// Package otlp sends spans to a collector: OTLP/HTTP with JSON, the OpenTelemetry
// Protocol 1.x, of which it needs one message of a fixed shape.
//
// Add never waits: spans go into a queue of fixed length, and where a collector is slow,
// stalls or fails for longer than that holds, spans are dropped and counted. The schema
// is opentelemetry-proto's trace.proto as JSON: ids in hexadecimal, 64-bit integers as
// strings.
package otlp

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"
)

// ErrOption: an endpoint that is no http or https URL, or a number out of range.
var ErrOption = errors.New("option out of range")

// Options say where spans go. The zero value of a number is its default.
type Options struct {
	Endpoint string        // the collector's, http://127.0.0.1:4318 say; /v1/traces is added
	Service  string        // resource attribute service.name
	Version  string        // service.version
	Queue    int           // spans that wait, default 2048
	Batch    int           // spans of one request, default 512
	Delay    time.Duration // how long the first span of a batch waits for others, default 1 s
	Timeout  time.Duration // of one request, default 10 s
	Retry    time.Duration // the first wait after a failure, doubled with each; default 500 ms
	Log      *slog.Logger  // the first of several failures; nil: none
}

// tries is how often a batch is sent.
const tries = 4

// Exporter has the queue. It is safe for concurrent use.
type Exporter struct {
	o      Options
	url    string
	queue  chan Span
	client *http.Client

	exported, full, failed atomic.Uint64
}

// Valid reports whether spans can go to an endpoint: a collector's http or https URL.
func Valid(endpoint string) bool {
	u, err := url.Parse(endpoint)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "" && u.RawQuery == "" && u.Fragment == ""
}

// New checks the options; Run sends.
func New(o Options) (*Exporter, error) {
	if !Valid(o.Endpoint) {
		return nil, fmt.Errorf("otlp: endpoint: want http://HOST:PORT, got %.200q: %w", o.Endpoint, ErrOption)
	}
	if o.Queue == 0 {
		o.Queue = 2048
	}
	if o.Batch == 0 {
		o.Batch = 512
	}
	if o.Queue < 1 || o.Queue > 1<<20 || o.Batch < 1 || o.Batch > 1<<16 || o.Delay < 0 || o.Timeout < 0 || o.Retry < 0 {
		return nil, fmt.Errorf("otlp: queue %d, batch %d, delay %v, timeout %v, retry %v: %w", o.Queue, o.Batch, o.Delay, o.Timeout, o.Retry, ErrOption)
	}
	for _, d := range []struct {
		p   *time.Duration
		def time.Duration
	}{{&o.Delay, time.Second}, {&o.Timeout, 10 * time.Second}, {&o.Retry, 500 * time.Millisecond}} {
		if *d.p == 0 {
			*d.p = d.def
		}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	traces, err := url.JoinPath(o.Endpoint, "v1", "traces")
	if err != nil { // not of one that is valid
		return nil, fmt.Errorf("otlp: endpoint: %w: %w", err, ErrOption)
	}
	return &Exporter{o: o, url: traces, queue: make(chan Span, o.Queue),
		client: &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: 1, IdleConnTimeout: time.Minute},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}}, nil
}

// Add queues a span, or drops it: it never waits.
func (e *Exporter) Add(s Span) {
	select {
	case e.queue <- s:
	default:
		e.full.Add(1)
	}
}

// Stats count spans: taken by the collector, dropped for a full queue, dropped because
// the collector did not take them.
func (e *Exporter) Stats() (exported, full, failed uint64) {
	return e.exported.Load(), e.full.Load(), e.failed.Load()
}

// lastWords is how long Run goes on after ctx for what is queued.
const lastWords = 2 * time.Second

// Run sends until ctx ends, and then what is queued, for two seconds at most.
func (e *Exporter) Run(ctx context.Context) {
	defer e.client.CloseIdleConnections()
	batch := make([]Span, 0, min(e.o.Batch, e.o.Queue))
	for ctx.Err() == nil {
		batch = e.gather(ctx, batch[:0])
		e.send(ctx, batch)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	for {
		batch = batch[:0]
		for len(batch) < e.o.Batch && len(e.queue) > 0 {
			batch = append(batch, <-e.queue)
		}
		if len(batch) == 0 {
			return
		}
		e.send(end, batch)
	}
}

// gather waits for a span, and then for a batch of them or Delay.
func (e *Exporter) gather(ctx context.Context, batch []Span) []Span {
	var late <-chan time.Time
	for len(batch) < e.o.Batch {
		select {
		case s := <-e.queue:
			if batch = append(batch, s); late == nil {
				t := time.NewTimer(e.o.Delay)
				defer t.Stop()
				late = t.C
			}
		case <-late:
			return batch
		case <-ctx.Done():
			return batch
		}
	}
	return batch
}

// send has the collector take a batch, or counts it as failed. A batch that ctx's end
// interrupts goes back where there is room: Run sends it as its last words.
func (e *Exporter) send(ctx context.Context, batch []Span) {
	if len(batch) == 0 {
		return
	}
	body, err := json.Marshal(e.request(batch))
	wait := e.o.Retry
	for try := 1; err == nil; try++ {
		var again bool
		var after time.Duration
		var rejected uint64
		if rejected, again, after, err = e.post(ctx, body); err == nil {
			e.exported.Add(uint64(len(batch)) - rejected)
			e.failed.Add(rejected)
			return
		}
		if ctx.Err() != nil && context.Cause(ctx) != context.DeadlineExceeded {
			for _, s := range batch {
				e.Add(s)
			}
			return
		}
		if !again || try == tries {
			break
		}
		t := time.NewTimer(max(wait, after))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
		wait *= 2
		err = nil
	}
	e.failed.Add(uint64(len(batch)))
	e.o.Log.Warn("spans were not exported", "spans", len(batch), "endpoint", e.url, "error", err)
}

// longestAfter bounds what a collector's Retry-After may ask for.
const longestAfter = 10 * time.Second

// post sends one request. again says whether another may succeed, after how long.
func (e *Exporter) post(ctx context.Context, body []byte) (rejected uint64, again bool, after time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return 0, false, 0, err
	}
	r.Header.Set("Content-Type", "application/json")
	resp, err := e.client.Do(r)
	if err != nil {
		return 0, true, 0, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 64<<10))
	switch code := resp.StatusCode; {
	case err != nil:
		return 0, true, 0, err
	case code == http.StatusTooManyRequests, code == http.StatusBadGateway, code == http.StatusServiceUnavailable, code == http.StatusGatewayTimeout:
		if s, err := strconv.ParseUint(resp.Header.Get("Retry-After"), 10, 16); err == nil {
			after = min(time.Duration(s)*time.Second, longestAfter)
		}
		return 0, true, after, fmt.Errorf("status %d", code)
	case code < 200 || code > 299:
		return 0, false, 0, fmt.Errorf("status %d", code)
	}
	var a struct {
		Partial struct {
			Rejected json.Number `json:"rejectedSpans"`
		} `json:"partialSuccess"`
	}
	if json.Unmarshal(answer, &a) == nil { // an answer that is none still took them
		rejected, _ = strconv.ParseUint(a.Partial.Rejected.String(), 10, 32)
	}
	return rejected, false, 0, nil
}
