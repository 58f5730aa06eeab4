package serve

import (
	"context"
	"net"
	"net/http"
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTenThousandIdle opens 10,000 connections, or as many as this process may have, that
// say nothing: the listener holds its limit of them, a request is answered all the same,
// and each costs little memory, which is given back.
func TestTenThousandIdle(t *testing.T) {
	var files syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files))
	n, held := 10000, 4096
	if testing.Short() {
		n, held = 1000, 400
	}
	if room := int(min(files.Cur, 1<<20)) - 500; n+held > room { // both ends are of this process
		n, held = room*7/10, room*3/10
	}
	require.Greater(t, n, held, "%d files are too few", files.Cur)
	h := start(t, Options{MaxConns: held}, story(t))
	memory := func() uint64 {
		goruntime.GC()
		goruntime.GC() // stacks of goroutines that ended
		var m goruntime.MemStats
		goruntime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before, goroutines := memory(), goruntime.NumGoroutine()
	var mu sync.Mutex
	var conns []net.Conn
	var wg sync.WaitGroup
	var left atomic.Int64
	left.Store(int64(n))
	begin := time.Now()
	for range 8 {
		wg.Go(func() {
			for left.Add(-1) >= 0 {
				c, err := net.DialTimeout("tcp", h.Addr(), 10*time.Second)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				conns = append(conns, c)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	took := time.Since(begin)
	h.client.CloseIdleConnections()
	latency := h.latency(5)
	require.Less(t, latency, 2*time.Second)
	g := h.gates["http"]
	require.LessOrEqual(t, g.open(), held)
	require.GreaterOrEqual(t, int(g.evicted.Load()), n-held)
	each := float64(memory()-before) / float64(held)
	t.Logf("%d connections in %v, %d held, a request in %v, %.1f KiB each", n, took.Round(time.Millisecond), g.open(), latency, each/1024)
	require.Less(t, each, 64.0*1024)
	for _, c := range conns {
		c.Close()
	}
	conns = nil
	h.client.CloseIdleConnections()
	noLeak(t, goroutines)
	require.Zero(t, g.open())
	require.Less(t, memory(), before+before/2+16<<20)
}

// TestUnloadAtWork unloads a model while it writes: what was accepted is finished, what
// comes is 503, the memory is given back; an unload that its caller gives up on ends the
// streams by an error that they can read.
func TestUnloadAtWork(t *testing.T) {
	h := start(t, Options{AdminAddr: "127.0.0.1:0"}, story(t))
	admin := *h
	admin.url = "http://" + h.AdminAddr()
	held, _ := h.reg.Memory()
	const streams = 12
	run := func(unload func()) (all []streamed, refused int) {
		var wg, begun sync.WaitGroup
		all = make([]streamed, streams)
		begun.Add(streams)
		for i := range all {
			wg.Go(func() {
				all[i] = h.stream(t.Context(), 400, func(n int) bool {
					if n == 1 {
						begun.Done()
					}
					return true
				})
			})
		}
		begun.Wait()
		done := make(chan struct{})
		go func() { defer close(done); unload() }()
		for unloaded := false; !unloaded; {
			status, body, head := h.do("POST", "/v1/completions", completion(1, false))
			if status != http.StatusOK {
				require.Equal(t, http.StatusServiceUnavailable, status, body)
				require.NotEmpty(t, head.Get("Retry-After"))
				refused++
			}
			select {
			case <-done:
				unloaded = true
			default:
			}
		}
		wg.Wait()
		require.Eventually(t, func() bool { now, _ := h.reg.Memory(); return now == 0 }, 5*time.Second, time.Millisecond, "memory of the model")
		status, _, _ := h.do("POST", "/v1/completions", completion(1, false))
		require.Equal(t, http.StatusServiceUnavailable, status)
		return all, refused
	}
	all, _ := run(func() {
		status, body, _ := admin.do("POST", "/admin/unload", `{"name":"story"}`)
		if status != http.StatusOK {
			t.Error(body)
		}
	})
	for _, r := range all {
		require.NoError(t, r.err)
		require.Empty(t, r.fault)
		require.True(t, r.done)
		require.Equal(t, "length", r.finish)
		require.Equal(t, all[0].text, r.text)
	}
	require.NoError(t, h.reg.Reload(t.Context(), "story"))
	again, _ := h.reg.Memory()
	require.Equal(t, held, again)

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	all, _ = run(func() {
		if err := h.reg.Unload(gone, "story"); err != nil {
			t.Error(err)
		}
	})
	broken := 0
	for _, r := range all {
		require.NoError(t, r.err)
		require.True(t, r.done, "an end that clients know")
		if r.finish == "" {
			require.NotEmpty(t, r.fault)
			broken++
		}
	}
	t.Logf("%d of %d streams ended by an error", broken, streams)
}
