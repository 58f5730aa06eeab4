package serve

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// latency is the median time of n requests that others must not slow down. The bounds it
// is held to are far above what an idle machine needs: they tell a server that is locked
// out from one that works.
func (h *harness) latency(n int) time.Duration {
	h.t.Helper()
	var all []time.Duration
	for range n {
		start := time.Now()
		status, body, _ := h.do("POST", "/v1/completions", completion(1, false))
		require.Equal(h.t, http.StatusOK, status, body)
		all = append(all, time.Since(start))
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func TestSlowHeaders(t *testing.T) {
	h := start(t, Options{HeaderTimeout: 400 * time.Millisecond}, story(t))
	var conns []net.Conn
	for range 200 {
		c := h.dial()
		_, err := io.WriteString(c, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
		require.NoError(t, err)
		conns = append(conns, c)
	}
	go func() { // one byte every now and then keeps none of them alive
		for range 20 {
			for _, c := range conns {
				c.Write([]byte("a"))
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	require.Less(t, h.latency(5), time.Second)
	h.client.CloseIdleConnections()
	require.Eventually(t, func() bool { return h.gates["http"].open() == 0 }, 10*time.Second, 10*time.Millisecond)
}

func TestSlowBody(t *testing.T) {
	h := start(t, Options{BodyTimeout: 300 * time.Millisecond}, story(t))
	c := h.dial()
	_, err := io.WriteString(c, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
	require.NoError(t, err)
	go func() {
		for range 40 {
			if _, err := c.Write([]byte(" ")); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	begin := time.Now()
	resp, err := answerOf(c, 10*time.Second)
	require.NoError(t, err)
	defer resp.Body.Close()
	require.Equal(t, http.StatusRequestTimeout, resp.StatusCode)
	require.Less(t, time.Since(begin), 5*time.Second)
	require.True(t, resp.Close, "the rest of the body must not be read as a request")
	// A body that came in time leaves no deadline behind: the stream outlasts it.
	r := h.stream(t.Context(), 400, func(n int) bool {
		if n == 1 {
			time.Sleep(600 * time.Millisecond)
		}
		return true
	})
	require.NoError(t, r.err)
	require.True(t, r.done)
}

// TestOneByteChunks sends each byte as a chunk of its own: many times the bytes and
// pieces of what they say.
func TestOneByteChunks(t *testing.T) {
	h := start(t, Options{MaxBody: 256 << 10}, story(t))
	chunked := func(body []byte) []byte {
		var b bytes.Buffer
		b.WriteString("POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
		for _, x := range body {
			fmt.Fprintf(&b, "1\r\n%c\r\n", x)
		}
		b.WriteString("0\r\n\r\n")
		return b.Bytes()
	}
	send := func(request []byte) *http.Response {
		c := h.dial()
		go c.Write(request)
		resp, err := answerOf(c, 10*time.Second)
		require.NoError(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		return resp
	}
	require.Equal(t, http.StatusOK, send(chunked([]byte(completion(1, false)))).StatusCode)
	long := chunked(bytes.Repeat([]byte(" "), 300<<10))
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	require.Equal(t, http.StatusRequestEntityTooLarge, send(long).StatusCode)
	goruntime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20), "the body and doubling buffers")
}

func TestHugeBody(t *testing.T) {
	h := start(t, Options{MaxBody: 1 << 20}, story(t))
	t.Run("announced", func(t *testing.T) {
		c := h.dial()
		_, err := io.WriteString(c, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 10737418240\r\n\r\n")
		require.NoError(t, err)
		resp, err := answerOf(c, 5*time.Second)
		require.NoError(t, err)
		defer resp.Body.Close()
		require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		b, _ := io.ReadAll(resp.Body)
		require.Contains(t, string(b), "1048576 bytes")
	})
	t.Run("streamed", func(t *testing.T) {
		c := h.dial()
		_, err := io.WriteString(c, "POST /v2/models/story/infer HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
		require.NoError(t, err)
		chunk := []byte(fmt.Sprintf("%x\r\n%s\r\n", 64<<10, make([]byte, 64<<10)))
		sent := 0
		c.SetWriteDeadline(time.Now().Add(20 * time.Second))
		for sent < 10<<30 {
			if _, err = c.Write(chunk); err != nil {
				break
			}
			sent += 64 << 10
		}
		require.Error(t, err, "10 GiB were taken")
		require.Less(t, sent, 64<<20, "cut at 1 MiB, and what the sockets hold")
	})
	require.Zero(t, h.bodies.used.Load())
}

func zipped(t *testing.T, b []byte) string {
	t.Helper()
	var z bytes.Buffer
	w, err := gzip.NewWriterLevel(&z, gzip.BestSpeed)
	require.NoError(t, err)
	_, err = w.Write(b)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return z.String()
}

func TestCompressedBodies(t *testing.T) {
	h := start(t, Options{MaxBody: 1 << 20}, story(t))
	status, body, _ := h.do("POST", "/v1/completions", zipped(t, []byte(completion(1, false))), "Content-Encoding", "gzip")
	require.Equal(t, http.StatusOK, status, body)
	bomb := zipped(t, make([]byte, 128<<20))
	require.Less(t, len(bomb), 1<<20)
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	status, body, _ = h.do("POST", "/v1/completions", bomb, "Content-Encoding", "gzip")
	goruntime.ReadMemStats(&after)
	require.Equal(t, http.StatusRequestEntityTooLarge, status, body)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(16<<20), "128 MiB were not unpacked")
	for enc, want := range map[string]int{"br": http.StatusUnsupportedMediaType, "gzip, gzip": http.StatusUnsupportedMediaType, "deflate": http.StatusBadRequest, "gzip": http.StatusBadRequest} {
		status, body, _ = h.do("POST", "/v1/completions", completion(1, false), "Content-Encoding", enc)
		require.Equal(t, want, status, "%s: %s", enc, body)
	}
}

// TestBodyMemory holds bodies of many requests, each within its limit, to a limit together.
func TestBodyMemory(t *testing.T) {
	h := start(t, Options{MaxBody: 1 << 20, BodyMemory: 3 << 20}, story(t))
	var conns []net.Conn
	for range 8 {
		c := h.dial()
		_, err := io.WriteString(c, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1048576\r\n\r\n")
		require.NoError(t, err)
		go c.Write(make([]byte, 1<<20-1)) // all but one byte
		conns = append(conns, c)
	}
	full := 0
	for _, c := range conns {
		if resp, err := answerOf(c, time.Second); err == nil {
			require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			require.Equal(t, "1", resp.Header.Get("Retry-After"))
			resp.Body.Close()
			full++
		}
	}
	require.NotZero(t, full)
	require.LessOrEqual(t, h.bodies.used.Load(), int64(3<<20))
	for _, c := range conns {
		c.Close()
	}
	require.Eventually(t, func() bool { return h.bodies.used.Load() == 0 }, 5*time.Second, 10*time.Millisecond)
	require.Less(t, h.latency(3), 2*time.Second)
}

func TestHeaderFlood(t *testing.T) {
	h := start(t, Options{MaxHeader: 16 << 10}, story(t))
	for name, head := range map[string]string{
		"long":  "X-Long: " + strings.Repeat("a", 1<<20) + "\r\n",
		"many":  strings.Repeat("X-Many: a\r\n", 1<<16),
		"path":  "",
		"token": "Authorization: Bearer " + strings.Repeat("a", 64<<10) + "\r\n",
	} {
		c := h.dial()
		path := "/healthz"
		if name == "path" {
			path = "/" + strings.Repeat("a", 1<<17)
		}
		go io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: localhost\r\n"+head+"\r\n")
		resp, err := answerOf(c, 10*time.Second)
		require.NoError(t, err, name)
		resp.Body.Close()
		require.Equal(t, http.StatusRequestHeaderFieldsTooLarge, resp.StatusCode, name)
	}
}

// TestIdleConnections opens many times as many connections as the server holds: a new
// request gets through, as idle connections make room.
func TestIdleConnections(t *testing.T) {
	h := start(t, Options{MaxConns: 64}, story(t))
	for range 400 {
		h.dial()
	}
	require.Less(t, h.latency(5), time.Second)
	require.LessOrEqual(t, h.gates["http"].open(), 64)
	require.NotZero(t, h.gates["http"].evicted.Load())
	_, body, _ := h.get("/metrics")
	require.Regexp(t, `sparserun_connections_dropped_total\{listener="http",reason="evicted"\} [1-9]`, body)
}

// TestDisconnects drops streams after their first chunk. Slots, pages and goroutines are
// back to what they were.
func TestDisconnects(t *testing.T) {
	n := 1000
	if testing.Short() {
		n = 100
	}
	h := start(t, Options{}, story(t))
	var left atomic.Int64
	left.Store(int64(n))
	var wg sync.WaitGroup
	for range 40 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				ctx, cancel := context.WithCancel(t.Context())
				r := h.stream(ctx, 400, func(int) bool { return false })
				cancel()
				if r.err != nil || r.status != http.StatusOK {
					t.Errorf("%+v", r)
					return
				}
			}
		})
	}
	wg.Wait()
	h.idle()
	m, release, err := h.reg.Acquire("story")
	require.NoError(t, err)
	defer release()
	require.NotZero(t, m.LM.Stats().Cancelled["client"])
	require.Less(t, h.latency(3), time.Second)
}

// TestStalledReader: a reader that stops reading is cut off after the write timeout, not
// held for ever.
func TestStalledReader(t *testing.T) {
	h := start(t, Options{WriteTimeout: 300 * time.Millisecond}, story(t))
	ended := make(chan time.Duration, 1)
	h.public.Handler = h.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begin := time.Now()
		for piece := make([]byte, 64<<10); ; {
			if _, err := w.Write(piece); err != nil {
				break
			}
		}
		ended <- time.Since(begin)
	}), true)
	c := h.dial()
	_, err := io.WriteString(c, "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
	require.NoError(t, err)
	select {
	case took := <-ended:
		require.GreaterOrEqual(t, took, 300*time.Millisecond)
	case <-time.After(10 * time.Second):
		t.Fatal("the writer still waits")
	}
	require.Eventually(t, func() bool { return h.inFlight.Load() == 0 }, 5*time.Second, 5*time.Millisecond)
}

// TestPanics: a panic of a handler costs its request, not the process.
func TestPanics(t *testing.T) {
	h := start(t, Options{}, story(t))
	good := h.public.Handler
	bad := h.wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Has("late") {
			io.WriteString(w, "data: {}\n\n")
			w.(http.Flusher).Flush()
		}
		panic("a bug of a handler")
	}), true)
	h.public.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v1/panic" {
			bad.ServeHTTP(w, r)
			return
		}
		good.ServeHTTP(w, r)
	})
	status, body, _ := h.get("/v1/panic")
	require.Equal(t, http.StatusInternalServerError, status)
	require.JSONEq(t, `{"error":{"message":"internal error","type":"server_error","param":null,"code":"500"}}`, body)
	resp, err := h.client.Get(h.url + "/v1/panic?late")
	require.NoError(t, err)
	_, err = io.ReadAll(resp.Body)
	resp.Body.Close()
	require.Error(t, err, "an answer that broke off must not look whole")
	require.Contains(t, h.log.String(), "a bug of a handler")
	_, body, _ = h.get("/metrics")
	require.Contains(t, body, "sparserun_panics_total 2")
	require.Less(t, h.latency(3), time.Second)
}
