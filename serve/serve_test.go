package serve

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

func TestMain(m *testing.M) {
	if kind, url, ok := strings.Cut(os.Getenv(clientEnv), " "); ok {
		if err := overheadClient(kind, url); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	dir, err := os.MkdirTemp("", "sparserun-serve-test")
	if err != nil {
		panic(err)
	}
	os.Setenv("XDG_CACHE_HOME", dir) // kernel times of tests stay out of the user's cache
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// harness is a server on ports of its own with the models it was started with.
type harness struct {
	*Server
	t      testing.TB
	reg    *registry.Registry
	client *http.Client
	url    string
	log    *lockedBuffer
	stop   context.CancelFunc
	done   chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// story is the specification of the model that most tests serve.
func story(t testing.TB) registry.Spec {
	return registry.Spec{Name: "story", Path: filepath.Dir(testenv.Data(t, "stories260K/config.json")), Options: runtime.Options{DType: sparse.Int8}}
}

// start serves specs until the test ends, and holds it to leaving no goroutine behind.
func start(t testing.TB, o Options, specs ...registry.Spec) *harness {
	t.Helper()
	return startThreads(t, goruntime.NumCPU(), o, specs...)
}

func startThreads(t testing.TB, threads int, o Options, specs ...registry.Spec) *harness {
	t.Helper()
	before := goruntime.NumGoroutine()
	h := &harness{t: t, log: &lockedBuffer{}, done: make(chan error, 1)}
	h.reg = registry.New(func() (runtime.Backend, error) { return cpu.New(cpu.Threads(threads)), nil }, registry.Options{DrainTime: 5 * time.Second})
	for _, s := range specs {
		require.NoError(t, h.reg.Load(t.Context(), s))
	}
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	o.Log = slog.New(slog.NewJSONHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	o.Version = "test"
	var err error
	h.Server, err = New(h.reg, o)
	require.NoError(t, err)
	h.url = "http://" + h.Addr()
	h.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}, Timeout: time.Minute}
	ctx, cancel := context.WithCancel(context.Background())
	h.stop = cancel
	go func() { h.done <- h.Run(ctx) }()
	h.SetReady()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-h.done:
			require.NoError(t, err)
		case <-time.After(20 * time.Second):
			t.Error("the server did not stop")
			h.Close()
		}
		require.NoError(t, h.reg.Close())
		h.client.CloseIdleConnections()
		noLeak(t, before)
	})
	return h
}

// noLeak waits for goroutines to end; what is left is printed.
func noLeak(t testing.TB, before int) {
	t.Helper()
	var now int
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if now = goruntime.NumGoroutine(); now <= before {
			return
		}
	}
	buf := make([]byte, 1<<20)
	t.Errorf("%d goroutines, %d before:\n%s", now, before, buf[:goruntime.Stack(buf, true)])
}

func (h *harness) get(path string, header ...string) (int, string, http.Header) {
	h.t.Helper()
	return h.do(http.MethodGet, path, "", header...)
}

// do sends a request; header is names and values by turns.
func (h *harness) do(method, path, body string, header ...string) (int, string, http.Header) {
	h.t.Helper()
	req, err := http.NewRequest(method, h.url+path, strings.NewReader(body))
	require.NoError(h.t, err)
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
		if header[i] == "Host" {
			req.Host = header[i+1]
		}
	}
	resp, err := h.client.Do(req)
	require.NoError(h.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(h.t, err)
	return resp.StatusCode, string(b), resp.Header
}

func completion(tokens int, stream bool) string {
	return fmt.Sprintf(`{"model":"story","prompt":"Once upon a time","max_tokens":%d,"stream":%v,"ignore_eos":true,"temperature":0}`, tokens, stream)
}

// streamed is what a client saw of a stream.
type streamed struct {
	status int
	text   string
	finish string
	fault  string // an error event
	done   bool   // [DONE]
	err    error
}

// stream reads a completion to its end. seen, if not nil, is called after each chunk and
// ends the reading by false.
func (h *harness) stream(ctx context.Context, tokens int, seen func(n int) bool) (r streamed) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.url+"/v1/completions", strings.NewReader(completion(tokens, true)))
	if err != nil {
		return streamed{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		return streamed{err: err}
	}
	defer resp.Body.Close()
	r.status = resp.StatusCode
	sc := bufio.NewScanner(resp.Body)
	for n := 0; sc.Scan(); {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			r.done = true
			continue
		}
		var c struct {
			Choices []struct {
				Text   string
				Finish string `json:"finish_reason"`
			}
			Error json.RawMessage
		}
		if r.err = json.Unmarshal([]byte(data), &c); r.err != nil {
			return r
		}
		if c.Error != nil {
			r.fault = string(c.Error)
		}
		for _, x := range c.Choices {
			r.text += x.Text
			r.finish += x.Finish
		}
		if n++; seen != nil && !seen(n) {
			return r
		}
	}
	r.err = sc.Err()
	return r
}

// idle waits until the model has nothing left to do: no slot, no place in the queue, no
// page held.
func (h *harness) idle() {
	h.t.Helper()
	var last string
	require.Eventually(h.t, func() bool {
		m, release, err := h.reg.Acquire("story")
		if err != nil {
			last = err.Error()
			return false
		}
		defer release()
		st := m.LM.Stats()
		last = fmt.Sprintf("running %d, waiting %d, pages %d, in flight %d", st.Running, st.Waiting, st.PagesUsed, h.inFlight.Load())
		return st.Running == 0 && st.Waiting == 0 && st.PagesUsed == 0 && h.inFlight.Load() == 0
	}, 10*time.Second, 10*time.Millisecond, "%s", lazy(func() string { return last }))
}

type lazy func() string

func (l lazy) String() string { return l() }

// dial opens a plain connection to the public listener.
func (h *harness) dial() net.Conn {
	h.t.Helper()
	c, err := net.Dial("tcp", h.Addr())
	require.NoError(h.t, err)
	h.t.Cleanup(func() { c.Close() })
	return c
}

// answerOf reads one response from a connection.
func answerOf(c net.Conn, within time.Duration) (*http.Response, error) {
	c.SetReadDeadline(time.Now().Add(within))
	return http.ReadResponse(bufio.NewReader(c), nil)
}

func TestServes(t *testing.T) {
	h := start(t, Options{AdminAddr: "127.0.0.1:0", GRPCAddr: "127.0.0.1:0"}, story(t))
	for path, want := range map[string]string{
		"/healthz": `{"live":true}`, "/livez": `{"live":true}`, "/readyz": `"ready":true`, "/version": `"version":"test"`,
		"/v1/models": `"story"`, "/v2/health/live": `true`, "/v2/health/ready": `true`, "/metrics": "sparserun_build_info",
		"/": "<title>sparserun</title>", "/openapi.json": `"openapi"`,
	} {
		status, body, _ := h.get(path)
		require.Equal(t, http.StatusOK, status, "%s: %s", path, body)
		require.Contains(t, body, want, path)
	}
	status, body, head := h.get("/nowhere")
	require.Equal(t, http.StatusNotFound, status)
	require.JSONEq(t, `{"error":"no such path"}`, body)
	require.Equal(t, "nosniff", head.Get("X-Content-Type-Options"))
	for _, path := range []string{"/debug/pprof/", "/admin/load", "/admin/keys/reload"} {
		status, _, _ = h.get(path)
		require.Equal(t, http.StatusNotFound, status, "%s is for the admin listener", path)
	}
	r := h.stream(t.Context(), 20, nil)
	require.NoError(t, r.err)
	require.Equal(t, http.StatusOK, r.status)
	require.True(t, r.done)
	require.Equal(t, "length", r.finish)
	require.True(t, strings.HasPrefix(r.text, ", there was a little girl"), r.text)
	h.idle()
}

func TestRequestIDsAndTraces(t *testing.T) {
	h := start(t, Options{}, story(t))
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	_, _, head := h.do("POST", "/v1/completions", completion(2, false), "X-Request-Id", "mine-1", "Traceparent", parent)
	require.Equal(t, "mine-1", head.Get("X-Request-Id"))
	require.Regexp(t, `^00-0af7651916cd43dd8448eb211c80319c-[0-9a-f]{16}-01$`, head.Get("Traceparent"))
	require.NotContains(t, head.Get("Traceparent"), "b7ad6b7169203331", "our own span")
	_, _, head = h.get("/healthz", "X-Request-Id", "bad id \"", "Traceparent", "nonsense")
	require.Regexp(t, `^req-[0-9a-f]{24}$`, head.Get("X-Request-Id"))
	require.Regexp(t, `^00-[0-9a-f]{32}-[0-9a-f]{16}-00$`, head.Get("Traceparent"))
	var line map[string]any
	require.Eventually(t, func() bool { // it is written after the answer
		for _, l := range strings.Split(h.log.String(), "\n") {
			if strings.Contains(l, `"mine-1"`) {
				require.NoError(t, json.Unmarshal([]byte(l), &line))
				return true
			}
		}
		return false
	}, 5*time.Second, 5*time.Millisecond)
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", line["trace"])
	require.Equal(t, "b7ad6b7169203331", line["parent"])
	require.Equal(t, "story", line["model"])
	require.Equal(t, "/v1/completions", line["path"])
	require.EqualValues(t, 200, line["status"])
	require.NotZero(t, line["bytes_out"])
}

func TestStartTrace(t *testing.T) {
	const id, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	for _, c := range []struct {
		header string
		kept   bool
	}{
		{"00-" + id + "-" + span + "-01", true},
		{"cc-" + id + "-" + span + "-01-what-comes", true}, // a later version
		{"00-" + id + "-" + span + "-01-extra", false},
		{"ff-" + id + "-" + span + "-01", false},
		{"00-00000000000000000000000000000000-" + span + "-01", false},
		{"00-" + id + "-0000000000000000-01", false},
		{"00-" + strings.ToUpper(id) + "-" + span + "-01", false},
		{"00-" + id + "-" + span, false},
		{"", false},
	} {
		tr := startTrace(c.header, false)
		require.Equal(t, c.kept, tr.id == id, c.header)
		require.Equal(t, c.kept, tr.parent == span, c.header)
		require.NotEqual(t, span, tr.span)
	}
}

func FuzzTrace(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "req-1")
	f.Add("----", "\x00")
	f.Fuzz(func(t *testing.T, header, id string) {
		h := startTrace(header, false).header()
		if again := startTrace(h, true); "00-"+again.id+"-"+again.parent+"-"+again.flags != h {
			t.Fatalf("%q made %q, which we do not read", header, h)
		}
		if got := requestID(id); requestID(got) != got {
			t.Fatalf("%q made %q", id, got)
		}
	})
}
