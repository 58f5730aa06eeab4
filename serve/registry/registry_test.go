package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	goruntime "runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/servetest"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

func registry(t testing.TB, o Options) *Registry {
	t.Helper()
	before := goruntime.NumGoroutine()
	r := New(func() (runtime.Backend, error) { return cpu.New(cpu.Threads(2)), nil }, o)
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		held, _ := r.Memory()
		require.Zero(t, held)
		for end := time.Now().Add(2 * time.Second); goruntime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			require.True(t, time.Now().Before(end), "goroutines are left")
		}
	})
	return r
}

func stories(t testing.TB) string { return filepath.Dir(testenv.Data(t, "stories260K/config.json")) }

// spec is a small one of a language model.
func spec(name, path string) Spec {
	return Spec{Name: name, Path: path, Options: runtime.Options{DType: sparse.F32, Context: 256, Sparse: runtime.SparseOff}}
}

var ctx = context.Background()

func text(m *Model, n int) ([]int32, error) {
	st, err := m.LM.Submit(ctx, engine.Request{Prompt: []int32{1, 403}, MaxTokens: n, IgnoreEOS: true})
	if err != nil {
		return nil, err
	}
	var ids []int32
	for {
		ev, err := st.Next(ctx)
		if errors.Is(err, io.EOF) {
			return ids, nil
		}
		if err != nil {
			return ids, err
		}
		for _, tok := range ev.Tokens {
			ids = append(ids, tok.ID)
		}
	}
}

func TestLoad(t *testing.T) {
	r := registry(t, Options{})
	r.Add(spec("later", stories(t)))
	require.NoError(t, r.Load(ctx, spec("lm", stories(t))))
	require.NoError(t, r.Load(ctx, Spec{Name: "net", Path: servetest.Affine(t)}))
	require.NoError(t, r.Load(ctx, Spec{Name: "chat", Path: servetest.Alphabet(t), Options: runtime.Options{Context: 64, Sparse: runtime.SparseOff}}))
	require.Equal(t, []Status{{"later", "", Unavailable, "not loaded yet"}, {"lm", "1", Ready, ""}, {"net", "1", Ready, ""}, {"chat", "1", Ready, ""}}, r.Index())
	m, release, err := r.Acquire("lm")
	require.NoError(t, err)
	require.Nil(t, m.Net)
	require.Nil(t, m.Template)
	require.True(t, m.Session.Hidden(), "embeddings work")
	require.EqualValues(t, m.Session.Graph().Parameters(), m.Info.Parameters)
	require.InEpsilon(t, m.Info.DenseWeightBytes, m.Info.WeightBytes.Total(), 0.1, "dense as it is: but for padding")
	require.Positive(t, m.Info.Estimate)
	require.Positive(t, m.LoadTime)
	ids, err := text(m, 5)
	require.NoError(t, err)
	require.Len(t, ids, 5)
	release()
	release() // once counts
	m, release, err = r.Acquire("net")
	require.NoError(t, err)
	out, err := m.Net.Infer(ctx, map[string]*model.Tensor{"x": model.F32Tensor([]float32{1, 0, 0}, 1, 3)})
	require.NoError(t, err)
	require.Equal(t, []float32{1, 2}, out["y"].Data)
	require.Nil(t, m.LM)
	release()
	m, release, err = r.Acquire("chat")
	require.NoError(t, err)
	require.NotNil(t, m.Template)
	require.NoError(t, m.TemplateErr)
	release()
	models, release := r.Models()
	require.Len(t, models, 3)
	release()
	_, _, err = r.Acquire("nothing")
	require.ErrorIs(t, err, ErrNotFound)
	_, _, err = r.Acquire("later")
	require.ErrorIs(t, err, ErrNotReady)
	require.ErrorIs(t, r.Reload(ctx, "nothing"), ErrNotFound)
	require.ErrorIs(t, r.Unload(ctx, "nothing"), ErrNotFound)
	require.ErrorIs(t, r.Unload(ctx, "later"), ErrNotReady)
	require.NoError(t, r.Reload(ctx, "later"))
	require.NoError(t, r.Unload(ctx, "later"))
	require.Equal(t, Status{"later", "1", Unavailable, "unloaded"}, r.Index()[0])
	require.NoError(t, r.Drain(ctx))
	require.NoError(t, r.Close())
	require.ErrorIs(t, r.Load(ctx, spec("lm", stories(t))), ErrClosed)
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "org/model-1.5 (int8)", "é", ".hidden", "ready/a", "statistics", "a/versions/1/b", strings.Repeat("n", 200)} {
		require.NoError(t, CheckName(name), name)
	}
	r := registry(t, Options{})
	for _, name := range []string{"", "a\xff", "a\n", "\x00", "/a", "a/", "a//b", ".", "..", "a/../b", "stats", "x/ready", "a/x/infer", "x/load", "x/versions", "x/versions/1", strings.Repeat("n", 201)} {
		require.ErrorIs(t, CheckName(name), ErrName, "%q", name)
		require.ErrorIs(t, r.Load(t.Context(), Spec{Name: name, Path: "x"}), ErrName)
	}
	require.Empty(t, r.Index(), "none of them is kept")
}

// TestFailedLoadLeavesTheOld: a corrupt file, a missing one, a model of nonsense, too
// little memory, an end of the caller: the old one serves on, and nothing is left.
func TestFailedLoadLeavesTheOld(t *testing.T) {
	r := registry(t, Options{})
	dir := t.TempDir()
	good, err := os.ReadFile(filepath.Join(stories(t), "model.safetensors"))
	require.NoError(t, err)
	config, err := os.ReadFile(filepath.Join(stories(t), "config.json"))
	require.NoError(t, err)
	path := filepath.Join(dir, "model.safetensors")
	put := func(b []byte) {
		require.NoError(t, os.WriteFile(path+".new", b, 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	put(good)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600))
	s := spec("lm", path)
	require.NoError(t, r.Load(ctx, s))
	want := func() []int32 {
		m, release, err := r.Acquire("lm")
		require.NoError(t, err)
		defer release()
		require.Equal(t, "1", m.Version)
		ids, err := text(m, 20)
		require.NoError(t, err)
		return ids
	}
	first := want()
	memory, _ := r.Memory()
	nan := slices.Clone(good)
	for i := 100000; i < 100400; i += 4 { // past the header: weights that are no numbers
		copy(nan[i:], []byte{0, 0, 0xc0, 0x7f})
	}
	huge := slices.Clone(good)
	for i := 200000; i+4 < len(huge); i += 4 { // finite weights whose sums are not
		copy(huge[i:], []byte{0, 0, 0x7f, 0x7f})
	}
	for name, b := range map[string][]byte{"cut": good[:len(good)/2], "empty": {}, "noise": bytes.Repeat([]byte("noise "), 999), "nan": nan, "huge": huge} {
		put(b)
		require.Error(t, r.Reload(ctx, "lm"), name)
		require.Equal(t, first, want(), name)
		require.NotEmpty(t, r.Index()[0].Reason, name)
		require.Equal(t, Ready, r.Index()[0].State, name)
	}
	require.NoError(t, os.Remove(path))
	require.ErrorIs(t, r.Reload(ctx, "lm"), os.ErrNotExist)
	put(good)
	over := s
	over.Context = 1 << 27
	require.ErrorIs(t, r.Load(ctx, over), ErrMemory)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	require.ErrorIs(t, r.Load(gone, s), context.Canceled)
	bad := s
	bad.DType = 77
	require.ErrorIs(t, r.Load(ctx, bad), runtime.ErrOption)
	require.Equal(t, first, want())
	after, _ := r.Memory()
	require.Equal(t, memory, after)
	require.ErrorIs(t, r.Load(ctx, Spec{Name: "other", Path: dir + "/none"}), os.ErrNotExist)
	require.Len(t, r.Index(), 1, "a name that never loaded is forgotten")
	require.NoError(t, r.Reload(ctx, "lm"))
	require.Equal(t, "2", r.Index()[0].Version)
}

// TestForget: a name whose first load fails is as one never heard of, also for those who
// loaded it at the same time; one that was added or has loaded before stays.
func TestForget(t *testing.T) {
	r := registry(t, Options{})
	none := filepath.Join(t.TempDir(), "none")
	require.ErrorIs(t, r.Load(ctx, spec("new", none)), os.ErrNotExist)
	require.Empty(t, r.Index())
	_, _, err := r.Acquire("new")
	require.ErrorIs(t, err, ErrNotFound)
	require.ErrorIs(t, r.Reload(ctx, "new"), ErrNotFound)
	require.ErrorIs(t, r.Unload(ctx, "new"), ErrNotFound)

	net := servetest.Affine(t)
	// Some of one name fail, some do not: whoever succeeds serves.
	for i := range 20 {
		name := fmt.Sprint("both", i)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := r.Load(ctx, spec(name, none)); !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			})
		}
		wg.Go(func() {
			if err := r.Load(ctx, Spec{Name: name, Path: net}); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
		require.Equal(t, Ready, r.Index()[i].State)
		require.NoError(t, r.Unload(ctx, name))
	}

	r.Add(spec("later", none))
	require.ErrorIs(t, r.Reload(ctx, "later"), os.ErrNotExist)
	require.ErrorIs(t, r.Load(ctx, spec("both0", none)), os.ErrNotExist)
	list := r.Index()
	require.Len(t, list, 21)
	require.Equal(t, Status{"both0", "1", Unavailable, list[0].Reason}, list[0])
	require.Contains(t, list[0].Reason, "none")
	require.Equal(t, Unavailable, list[20].State)
	require.Contains(t, list[20].Reason, "none")
}

// TestMemoryLimit: what does not fit is refused before it is allocated.
func TestMemoryLimit(t *testing.T) {
	base, ok := runtime.RSS()
	if !ok {
		t.Skip("this system does not tell a process's memory")
	}
	r := registry(t, Options{MemoryLimit: base + 8<<20})
	require.NoError(t, r.Load(ctx, spec("a", stories(t))))
	big := spec("b", stories(t))
	big.Context = 1 << 16 // some 80 MB of keys and values
	start, _ := runtime.RSS()
	err := r.Load(ctx, big)
	require.ErrorIs(t, err, ErrMemory)
	require.ErrorIs(t, err, runtime.ErrMemory)
	now, _ := runtime.RSS()
	require.Less(t, now-start, int64(16<<20))
	// A swap needs room for both.
	held, limit := r.Memory()
	require.Positive(t, held)
	require.Equal(t, base+8<<20, limit)
	zero := filepath.Join(t.TempDir(), "zeros.onnx")
	f, err := os.Create(zero)
	require.NoError(t, err)
	require.NoError(t, f.Truncate(1<<30)) // sparse on disk
	require.NoError(t, f.Close())
	require.ErrorIs(t, r.Load(ctx, Spec{Name: "zeros", Path: zero}), ErrMemory)
}

// TestHotSwap: requests go on without an error while their model is loaded anew, again
// and again, and each is answered by one version.
func TestHotSwap(t *testing.T) {
	r := registry(t, Options{})
	require.NoError(t, r.Load(ctx, spec("lm", stories(t))))
	m, release, err := r.Acquire("lm")
	require.NoError(t, err)
	want, err := text(m, 30)
	require.NoError(t, err)
	release()
	stop := make(chan struct{})
	var served atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				m, release, err := r.Acquire("lm")
				if err != nil {
					t.Error(err)
					return
				}
				ids, err := text(m, 30)
				release()
				if err != nil || !slices.Equal(ids, want) {
					t.Errorf("version %s: %v %v", m.Version, ids, err)
					return
				}
				served.Add(1)
			}
		})
	}
	for range 8 {
		before := served.Load()
		require.NoError(t, r.Reload(ctx, "lm"))
		for end := time.Now().Add(5 * time.Second); served.Load() == before && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	close(stop)
	wg.Wait()
	require.Equal(t, "9", r.Index()[0].Version)
	t.Logf("%d requests", served.Load())
	require.Greater(t, served.Load(), int64(8))
}

// TestUnloadWaits: holders finish; at the end of the caller's patience they are ended.
func TestUnloadWaits(t *testing.T) {
	r := registry(t, Options{DrainTime: time.Second})
	require.NoError(t, r.Load(ctx, spec("lm", stories(t))))
	m, release, err := r.Acquire("lm")
	require.NoError(t, err)
	done := make(chan error)
	go func() { done <- r.Unload(ctx, "lm") }()
	require.Eventually(t, func() bool { return r.Index()[0].State == Unavailable }, time.Second, time.Millisecond)
	_, _, err = r.Acquire("lm")
	require.ErrorIs(t, err, ErrNotReady)
	ids, err := text(m, 10) // acquired before: it may still begin
	require.NoError(t, err)
	require.Len(t, ids, 10)
	select {
	case <-done:
		t.Fatal("closed under its holder")
	case <-time.After(10 * time.Millisecond):
	}
	release()
	require.NoError(t, <-done)
	_, err = text(m, 1)
	require.ErrorIs(t, err, engine.ErrClosed)

	require.NoError(t, r.Reload(ctx, "lm"))
	m, release, err = r.Acquire("lm")
	require.NoError(t, err)
	defer release()
	st, err := m.LM.Submit(ctx, engine.Request{Prompt: []int32{1}, MaxTokens: 250, IgnoreEOS: true})
	require.NoError(t, err)
	short, cancel := context.WithCancel(ctx)
	cancel()
	require.NoError(t, r.Unload(short, "lm"))
	for err == nil {
		_, err = st.Next(ctx)
	}
	if !errors.Is(err, io.EOF) { // it may have been quicker
		require.ErrorIs(t, err, engine.ErrDraining)
	}
}

// TestCloseWaitsForNobody: neither a holder of a model that was swapped out nor an
// unload in progress keeps a registry from closing.
func TestCloseWaitsForNobody(t *testing.T) {
	r := registry(t, Options{DrainTime: time.Minute})
	require.NoError(t, r.Load(ctx, spec("lm", stories(t))))
	old, _, err := r.Acquire("lm") // never released
	require.NoError(t, err)
	require.NoError(t, r.Reload(ctx, "lm"))
	_, err = text(old, 5)
	require.NoError(t, err, "its holder goes on with it")
	_, _, err = r.Acquire("lm")
	require.NoError(t, err)
	done := make(chan error)
	go func() { done <- r.Unload(ctx, "lm") }()
	require.Eventually(t, func() bool { return r.Index()[0].State == Unavailable }, time.Second, time.Millisecond)
	start := time.Now()
	require.NoError(t, r.Close())
	require.NoError(t, <-done)
	require.Less(t, time.Since(start), 10*time.Second)
	_, err = text(old, 1)
	require.ErrorIs(t, err, engine.ErrClosed)
}

// TestTwin: a model with a sparse form has a dense twin where a share of requests is to
// be compared, one without has none.
func TestTwin(t *testing.T) {
	g, err := loader.Open(stories(t))
	require.NoError(t, err)
	_, err = prune.Apply(g, prune.Magnitude{}, prune.Pattern24)
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "pruned.safetensors")
	require.NoError(t, loader.Save(g, path, loader.SaveOptions{}))
	require.NoError(t, g.Close())
	r := registry(t, Options{})
	s := spec("lm", path)
	s.Shadow, s.Sparse, s.Layout = 1, runtime.SparseForce, sparse.LayoutNM24
	require.NoError(t, r.Load(ctx, s))
	m, release, err := r.Acquire("lm")
	require.NoError(t, err)
	require.NotNil(t, m.Dense)
	require.InDelta(t, 0.5, m.Info.Sparsity, 0.1)
	require.Less(t, m.Info.WeightBytes.Total(), m.Info.DenseWeightBytes)
	_, err = text(m, 20)
	require.NoError(t, err)
	require.Eventually(t, func() bool { return m.LM.Stats().Shadow.Runs == 1 }, 5*time.Second, time.Millisecond)
	sh := m.LM.Stats().Shadow
	require.Less(t, sh.MaxAbsError, 1e-3)
	require.Positive(t, sh.Decode())
	release()
	s.Name, s.Path = "dense", stories(t)
	require.NoError(t, r.Load(ctx, s))
	m, release, err = r.Acquire("dense")
	require.NoError(t, err)
	require.Nil(t, m.Dense)
	release()
}

// TestCycles: memory and goroutines do not grow over many loads and unloads with work
// between.
func TestCycles(t *testing.T) {
	cycles := 200
	if testing.Short() {
		cycles = 20
	}
	r := registry(t, Options{})
	lm, net := spec("m", stories(t)), Spec{Name: "m", Path: servetest.Affine(t)}
	rss := func() int64 {
		debug.FreeOSMemory()
		n, _ := runtime.RSS()
		return n
	}
	var start int64
	var goroutines int
	for i := range cycles {
		s := lm
		if i%4 == 3 {
			s = net
		}
		require.NoError(t, r.Load(ctx, s))
		m, release, err := r.Acquire("m")
		require.NoError(t, err)
		if m.LM != nil {
			_, err = text(m, 3)
		} else {
			_, err = m.Net.Infer(ctx, map[string]*model.Tensor{"x": model.F32Tensor([]float32{1, 0, 0}, 1, 3)})
		}
		require.NoError(t, err)
		release()
		require.NoError(t, r.Unload(ctx, "m"))
		if i == cycles/4 {
			start, goroutines = rss(), goruntime.NumGoroutine()
		}
	}
	held, _ := r.Memory()
	require.Zero(t, held)
	end := rss()
	t.Logf("RSS %.1f MB after a quarter, %.1f MB at the end; %d and %d goroutines", float64(start)/1e6, float64(end)/1e6, goroutines, goruntime.NumGoroutine())
	// A leak of the model's weights alone would be 1 MB a cycle.
	require.Less(t, end-start, int64(8<<20))
	require.LessOrEqual(t, goruntime.NumGoroutine(), goroutines)
}
