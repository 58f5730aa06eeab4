package serve

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/serve/engine"
)

// TestOverload offers ten times what the model can do: what is done stays within 90 % of
// the peak, and the rest is refused fast. The peak is measured in the same run, by turns of
// short windows, so that what else the machine does slows both alike; where that was not so
// the measurement is repeated, six times at most. Tokens are counted, as every request
// that is accepted is held to finishing.
func TestOverload(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 5 s")
	}
	spec := story(t)
	spec.Engine = engine.Options{MaxRunning: 4, Queue: 8, NoPrefixCache: true}
	h := startThreads(t, 1, Options{}, spec) // the other core is the clients', who are here too
	m, release, err := h.reg.Acquire("story")
	require.NoError(t, err)
	defer release()
	var mu sync.Mutex
	var waits []time.Duration
	const body = `{"model":"story","prompt":"Once upon a time","max_tokens":100,"n":4,"ignore_eos":true,"temperature":0}`
	ask := func() {
		begin := time.Now()
		resp, err := h.client.Post(h.url+"/v1/completions", "application/json", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		switch {
		case resp.StatusCode == http.StatusTooManyRequests && resp.Header.Get("Retry-After") != "":
			mu.Lock()
			waits = append(waits, time.Since(begin))
			mu.Unlock()
		case resp.StatusCode != http.StatusOK:
			t.Errorf("status %d", resp.StatusCode)
		}
	}
	const window = 250 * time.Millisecond
	// rate is what was done in a window in which load sends requests, in tokens/s.
	rate := func(load func(stop <-chan struct{})) float64 {
		stop, done := make(chan struct{}), make(chan struct{})
		go func() { defer close(done); load(stop) }()
		time.Sleep(50 * time.Millisecond) // slots and queue fill
		before, begin := m.LM.Stats().OutputTokens, time.Now()
		time.Sleep(window)
		n, took := m.LM.Stats().OutputTokens-before, time.Since(begin)
		close(stop)
		<-done
		return float64(n) / took.Seconds()
	}
	closed := func(stop <-chan struct{}) { // three requests of four texts fill slots and queue
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
						ask()
					}
				}
			})
		}
		wg.Wait()
	}
	open := func(every time.Duration) func(<-chan struct{}) { // whatever becomes of them
		return func(stop <-chan struct{}) {
			var wg sync.WaitGroup
			defer wg.Wait()
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				wg.Go(ask)
				select {
				case <-stop:
					return
				case <-tick.C:
				}
			}
		}
	}
	ratio := 0.0
	for attempt := 0; attempt < 6 && ratio < 0.9; attempt++ {
		var peak, good float64
		for range 4 {
			p := max(rate(closed), 1) // none in a window: the machine is somebody else's
			peak += p
			good += rate(open(time.Duration(400 / (10 * p) * float64(time.Second)))) // 400 tokens a request
		}
		ratio = good / peak
		t.Logf("peak %.0f tokens/s, at ten times that %.0f: %.2f", peak/4, good/4, ratio)
	}
	require.GreaterOrEqual(t, ratio, 0.9)
	require.NotEmpty(t, waits)
	slices.Sort(waits)
	t.Logf("%d refused, in %v at the median, %v at most", len(waits), waits[len(waits)/2], waits[len(waits)-1])
	require.Less(t, waits[len(waits)/2], 10*time.Millisecond)
	h.idle()
}

// TestCorruptModel loads broken files over a model that serves: it serves on.
func TestCorruptModel(t *testing.T) {
	h := start(t, Options{AdminAddr: "127.0.0.1:0"}, story(t))
	dir := t.TempDir()
	cut := filepath.Join(dir, "cut.safetensors")
	whole, err := os.ReadFile(filepath.Join(story(t).Path, "model.safetensors"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(cut, whole[:len(whole)/2], 0o600))
	junk := filepath.Join(dir, "junk.gguf")
	require.NoError(t, os.WriteFile(junk, []byte("GGUF junk"), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var n atomic.Int64
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				r := h.stream(context.Background(), 50, nil)
				if r.err != nil || r.status != 200 || !r.done {
					t.Errorf("%+v", r)
					return
				}
				n.Add(1)
			}
		})
	}
	admin := *h
	admin.url = "http://" + h.AdminAddr()
	for range 5 {
		for _, p := range []string{cut, junk, filepath.Join(dir, "missing")} {
			status, body, _ := admin.do("POST", "/admin/load", fmt.Sprintf(`{"name":"story","path":%q}`, p))
			require.Equal(t, http.StatusBadRequest, status, body)
			require.Contains(t, body, filepath.Base(p))
		}
		// A sound file in the same place swaps the model while requests go on.
		status, body, _ := admin.do("POST", "/admin/load", fmt.Sprintf(`{"name":"story","path":%q}`, story(t).Path))
		require.Equal(t, http.StatusOK, status, body)
	}
	cancel()
	wg.Wait()
	require.NotZero(t, n.Load())
	h.idle()
}

// TestLoadUnload loads and unloads: memory and goroutines stay.
func TestLoadUnload(t *testing.T) {
	cycles := 200
	if testing.Short() {
		cycles = 20
	}
	h := start(t, Options{}, story(t))
	heap := func() uint64 {
		goruntime.GC()
		goruntime.GC() // finalizers of the first
		var m goruntime.MemStats
		goruntime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	var before uint64
	for i := range cycles {
		if i == cycles/10 {
			before = heap()
		}
		require.NoError(t, h.reg.Unload(t.Context(), "story"))
		status, _, _ := h.do("POST", "/v1/completions", completion(1, false))
		require.Equal(t, http.StatusServiceUnavailable, status)
		require.NoError(t, h.reg.Reload(t.Context(), "story"))
		status, body, _ := h.do("POST", "/v1/completions", completion(1, false))
		require.Equal(t, http.StatusOK, status, body)
	}
	after := heap()
	t.Logf("heap %d KiB after %d cycles, %d KiB after %d", before>>10, cycles/10, after>>10, cycles)
	require.Less(t, after, before+before/10+(1<<20))
}
