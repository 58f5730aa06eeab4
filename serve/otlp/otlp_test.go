package otlp

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// collector answers the nth request, from 0, as answer says, and keeps what it was sent.
type collector struct {
	*httptest.Server
	mu     sync.Mutex
	bodies []string
	times  []time.Time
}

func collect(t *testing.T, answer func(n int, w http.ResponseWriter)) *collector {
	t.Helper()
	c := &collector{}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %s %s", r.Method, r.URL, r.Header)
		}
		c.mu.Lock()
		n := len(c.bodies)
		c.bodies, c.times = append(c.bodies, string(b)), append(c.times, time.Now())
		c.mu.Unlock()
		answer(n, w)
	}))
	t.Cleanup(c.Close)
	return c
}

// start runs an exporter until stop is called, which waits for its end.
func start(t *testing.T, o Options) (e *Exporter, stop func()) {
	t.Helper()
	e, err := New(o)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); e.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return e, stop
}

func stats(e *Exporter) [3]uint64 {
	a, b, c := e.Stats()
	return [3]uint64{a, b, c}
}

const id = "0af7651916cd43dd8448eb211c80319c"

func TestRequest(t *testing.T) {
	c := collect(t, func(int, http.ResponseWriter) {})
	e, stop := start(t, Options{Endpoint: c.URL, Service: "sparserun", Version: "v1", Delay: time.Hour})
	at := time.Unix(1700000000, 42)
	e.Add(Span{Trace: id, ID: "b7ad6b7169203331", Parent: "00f067aa0ba902b7", Name: "POST /v1/completions", Start: at, End: at.Add(time.Second),
		Attributes: []Attribute{{"a", "text"}, {"b", int64(1) << 62}, {"c", 0.5}, {"d", true}, {"e", struct{}{}}}})
	e.Add(Span{Trace: id, ID: "b7ad6b7169203332", Name: "x", Start: at, End: at, Failed: true})
	stop() // sends what is queued
	require.Equal(t, [3]uint64{2, 0, 0}, stats(e))
	require.Len(t, c.bodies, 1)
	require.JSONEq(t, `{"resourceSpans":[{"resource":{"attributes":[{"key":"service.name","value":{"stringValue":"sparserun"}},{"key":"service.version","value":{"stringValue":"v1"}}]},
		"scopeSpans":[{"scope":{"name":"sparserun","version":"v1"},"spans":[
		{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203331","parentSpanId":"00f067aa0ba902b7","name":"POST /v1/completions","kind":2,
		 "startTimeUnixNano":"1700000000000000042","endTimeUnixNano":"1700000001000000042","attributes":[{"key":"a","value":{"stringValue":"text"}},
		 {"key":"b","value":{"intValue":"4611686018427387904"}},{"key":"c","value":{"doubleValue":0.5}},{"key":"d","value":{"boolValue":true}}],"status":{}},
		{"traceId":"0af7651916cd43dd8448eb211c80319c","spanId":"b7ad6b7169203332","name":"x","kind":2,"startTimeUnixNano":"1700000000000000042",
		 "endTimeUnixNano":"1700000000000000042","attributes":[],"status":{"code":2}}]}]}]}`, c.bodies[0])
}

// TestFailures: what may pass is tried again, the rest is counted at once.
func TestFailures(t *testing.T) {
	for name, x := range map[string]struct {
		answer func(n int, w http.ResponseWriter)
		want   [3]uint64 // of 3 spans
		posts  int
	}{
		"busy once": {func(n int, w http.ResponseWriter) {
			if n == 0 {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}, [3]uint64{3, 0, 0}, 2},
		"busy for ever": {func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusTooManyRequests) }, [3]uint64{0, 0, 3}, tries},
		"refused":       {func(_ int, w http.ResponseWriter) { w.WriteHeader(http.StatusBadRequest) }, [3]uint64{0, 0, 3}, 1},
		"elsewhere": {func(_ int, w http.ResponseWriter) {
			w.Header().Set("Location", "/other")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}, [3]uint64{0, 0, 3}, 1},
		"in part":  {func(_ int, w http.ResponseWriter) { io.WriteString(w, `{"partialSuccess":{"rejectedSpans":"2"}}`) }, [3]uint64{1, 0, 2}, 1},
		"nonsense": {func(_ int, w http.ResponseWriter) { io.WriteString(w, "OK") }, [3]uint64{3, 0, 0}, 1},
		"endless": {func(_ int, w http.ResponseWriter) {
			for piece := make([]byte, 64<<10); ; {
				if _, err := w.Write(piece); err != nil {
					return
				}
			}
		}, [3]uint64{3, 0, 0}, 1},
		"breaks off": {func(n int, w http.ResponseWriter) {
			if n == 0 {
				panic(http.ErrAbortHandler)
			}
		}, [3]uint64{3, 0, 0}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := collect(t, x.answer)
			e, _ := start(t, Options{Endpoint: c.URL, Batch: 3, Retry: time.Millisecond})
			for range 3 {
				e.Add(Span{Trace: id})
			}
			require.Eventually(t, func() bool { return stats(e) == x.want }, 5*time.Second, time.Millisecond, "%v", x.want)
			c.mu.Lock()
			defer c.mu.Unlock()
			require.Len(t, c.bodies, x.posts)
		})
	}
	e, _ := start(t, Options{Endpoint: "http://127.0.0.1:1", Batch: 1, Retry: time.Millisecond})
	e.Add(Span{Trace: id})
	require.Eventually(t, func() bool { return stats(e) == [3]uint64{0, 0, 1} }, 5*time.Second, time.Millisecond, "nobody listens")
}

// TestRetryAfter: the collector's wish is kept, to a bound.
func TestRetryAfter(t *testing.T) {
	c := collect(t, func(n int, w http.ResponseWriter) {
		if n == 0 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	e, _ := start(t, Options{Endpoint: c.URL, Batch: 1, Retry: time.Millisecond})
	e.Add(Span{Trace: id})
	require.Eventually(t, func() bool { return stats(e) == [3]uint64{1, 0, 0} }, 5*time.Second, time.Millisecond)
	require.GreaterOrEqual(t, c.times[1].Sub(c.times[0]), 900*time.Millisecond)
}

// TestStall: a collector that takes requests and never answers costs the spans that do
// not fit the queue, nobody's time, and two seconds at the end.
func TestStall(t *testing.T) {
	hold := make(chan struct{})
	var once sync.Once
	var arrived atomic.Int64
	c := collect(t, func(int, http.ResponseWriter) { arrived.Add(1); <-hold })
	t.Cleanup(func() { once.Do(func() { close(hold) }) }) // before the server's own end
	e, stop := start(t, Options{Endpoint: c.URL, Queue: 100, Batch: 10})
	for range 10 {
		e.Add(Span{Trace: id})
	}
	require.Eventually(t, func() bool { return arrived.Load() == 1 }, 5*time.Second, time.Millisecond)
	begin := time.Now()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 2500 {
				e.Add(Span{Trace: id})
			}
		})
	}
	wg.Wait()
	require.Less(t, time.Since(begin), time.Second)
	require.Equal(t, [3]uint64{0, 9900, 0}, stats(e), "all but the queue's 100")
	begin = time.Now()
	stop()
	require.Less(t, time.Since(begin), lastWords+2*time.Second)
	s := stats(e)
	require.Equal(t, uint64(10010), s[0]+s[1]+s[2], "every span is accounted for: %v", s)
	require.Zero(t, s[0])
	once.Do(func() { close(hold) })
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{{Endpoint: ""}, {Endpoint: "127.0.0.1:4318"}, {Endpoint: "ftp://x"}, {Endpoint: "http://"}, {Endpoint: "http://x?a=b"}, {Endpoint: "http://x:y"},
		{Endpoint: "http://x", Queue: -1}, {Endpoint: "http://x", Batch: 1 << 20}, {Endpoint: "http://x", Delay: -1}} {
		_, err := New(o)
		require.ErrorIs(t, err, ErrOption, fmt.Sprint(o))
	}
	for in, want := range map[string]string{"http://h:4318": "http://h:4318/v1/traces", "https://h/otlp/": "https://h/otlp/v1/traces"} {
		e, err := New(Options{Endpoint: in})
		require.NoError(t, err)
		require.Equal(t, want, e.url)
	}
}
