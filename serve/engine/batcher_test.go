package engine

import (
	"context"
	"math/rand/v2"
	goruntime "runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/serve/servetest"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

func batcher(t testing.TB, path string, o BatchOptions) *Batcher {
	t.Helper()
	s := open(t, path, runtime.Options{})
	before := goruntime.NumGoroutine()
	b, err := NewBatcher(s, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, b.Close())
		for end := time.Now().Add(2 * time.Second); goruntime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
			require.True(t, time.Now().Before(end), "goroutines are left")
		}
	})
	return b
}

// together sends requests at once and hands each result over.
func together(t *testing.T, b *Batcher, in []map[string]*model.Tensor, f func(i int, out map[string]*model.Tensor, err error)) {
	t.Helper()
	var wg sync.WaitGroup
	for i := range in {
		wg.Go(func() {
			out, err := b.Infer(context.Background(), in[i])
			f(i, out, err)
		})
	}
	wg.Wait()
}

func rowsInput(r *rand.Rand, n int) map[string]*model.Tensor {
	x := make([]float32, 3*n)
	for i := range x {
		x[i] = float32(r.IntN(100))
	}
	return map[string]*model.Tensor{"x": model.F32Tensor(x, n, 3)}
}

func TestBatches(t *testing.T) {
	b := batcher(t, servetest.Affine(t), BatchOptions{MaxBatch: 16, Delay: 20 * time.Millisecond})
	r := rand.New(rand.NewPCG(1, 1))
	require.Equal(t, []Port{{"x", model.ElemF32, []int{-1, 3}}}, b.Inputs())
	require.Equal(t, "not tried yet", b.Stats().Batching)
	items := uint64(0)
	for range 6 {
		var in []map[string]*model.Tensor
		for range 12 {
			n := 1 + r.IntN(4)
			items += uint64(n)
			in = append(in, rowsInput(r, n))
		}
		together(t, b, in, func(i int, out map[string]*model.Tensor, err error) {
			if err != nil {
				t.Error(err)
				return
			}
			x, y := in[i]["x"].Data.([]float32), out["y"].Data.([]float32)
			for k := 0; k < len(x)/3; k++ { // whole numbers: exact
				a, b := x[3*k]+3*x[3*k+1]+5*x[3*k+2], 2*x[3*k]+4*x[3*k+1]+6*x[3*k+2]
				if len(y) != len(x)/3*2 || y[2*k] != a || y[2*k+1] != b {
					t.Errorf("%v: got %v", x, y)
					return
				}
			}
		})
	}
	st := b.Stats()
	require.Equal(t, "on", st.Batching)
	require.EqualValues(t, 72, st.Served)
	require.GreaterOrEqual(t, st.Items, items, "the first batch runs twice")
	require.Less(t, st.Batches, uint64(60), "requests were joined")
	require.EqualValues(t, 72, st.Total.Count)
	require.Zero(t, st.Running+st.Waiting)
}

// TestBatchesThatDoNotWork: networks of a fixed batch, or whose items know of one
// another, get one request at a time.
func TestBatchesThatDoNotWork(t *testing.T) {
	w := map[string][][]float32{"w": {{1, 2}, {3, 4}, {5, 6}}}
	port := func(name string, shape ...int64) []servetest.Port {
		return []servetest.Port{{Name: name, Elem: 1, Shape: shape}}
	}
	for _, c := range []struct {
		name, path, why string
	}{
		{"fixed", servetest.Network(t, port("x", 1, 3), port("y", 1, 2), []servetest.Node{{Op: "MatMul", In: []string{"x", "w"}, Out: []string{"y"}}}, w), "fixed shape"},
		{"mixes", servetest.Network(t, port("x", -1, 3), port("y", -1, 3), []servetest.Node{{Op: "ReduceMean", In: []string{"x"}, Out: []string{"m"}}, {Op: "Add", In: []string{"x", "m"}, Out: []string{"y"}}}, w), "depends on the other"},
		{"reduces", servetest.Network(t, port("x", -1, 3), port("y", -1, 1), []servetest.Node{{Op: "ReduceMean", In: []string{"x"}, Out: []string{"y"}}}, w), "fixed shape"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := batcher(t, c.path, BatchOptions{Delay: 20 * time.Millisecond})
			r := rand.New(rand.NewPCG(2, 2))
			for range 3 {
				var in []map[string]*model.Tensor
				for range 6 {
					in = append(in, rowsInput(r, 1))
				}
				together(t, b, in, func(i int, out map[string]*model.Tensor, err error) {
					want, err2 := b.Session().RunTensors(context.Background(), in[i])
					if err != nil || err2 != nil {
						t.Error(err, err2)
						return
					}
					if d, _ := distance(want["y"], out["y"]); d != 0 {
						t.Errorf("%v: want %v, got %v", in[i]["x"].Data, want["y"].Data, out["y"].Data)
					}
				})
			}
			require.Contains(t, b.Stats().Batching, c.why)
		})
	}
}

// TestBatchErrors: a request that the network cannot compute fails alone.
func TestBatchErrors(t *testing.T) {
	path := servetest.Network(t, []servetest.Port{{Name: "i", Elem: 7, Shape: []int64{-1}}}, []servetest.Port{{Name: "y", Elem: 1, Shape: []int64{-1, 2}}},
		[]servetest.Node{{Op: "Gather", In: []string{"w", "i"}, Out: []string{"y"}}}, map[string][][]float32{"w": {{1, 2}, {3, 4}, {5, 6}}})
	b := batcher(t, path, BatchOptions{Delay: 20 * time.Millisecond})
	for range 3 {
		var in []map[string]*model.Tensor
		for i := range 9 {
			in = append(in, map[string]*model.Tensor{"i": model.I64Tensor([]int64{int64(i % 4)}, 1)}) // 3 does not exist
		}
		together(t, b, in, func(i int, out map[string]*model.Tensor, err error) {
			if i%4 == 3 {
				if err == nil {
					t.Error("no error")
				}
				return
			}
			if err != nil || out["y"].Data.([]float32)[0] != float32(1+2*(i%4)) {
				t.Errorf("%d: %v %v", i, out, err)
			}
		})
	}
	require.EqualValues(t, 6, b.Stats().Failed)
	for _, in := range []map[string]*model.Tensor{
		nil, {"x": model.I64Tensor([]int64{1}, 1)}, {"i": nil}, {"i": model.I64Tensor([]int64{1}, 2)}, {"i": model.I64Tensor([]int64{1}, 1), "j": model.I64Tensor([]int64{1}, 1)},
		{"i": model.F32Tensor([]float32{1}, 1)},
	} {
		_, err := b.Infer(context.Background(), in)
		require.Error(t, err, "%v", in)
	}
	_, err := NewBatcher(b.Session(), BatchOptions{MaxBatch: -1})
	require.ErrorIs(t, err, runtime.ErrOption)
}

func TestBatchQueue(t *testing.T) {
	b := batcher(t, servetest.Affine(t), BatchOptions{MaxBatch: 1, Queue: 3})
	// The backend is kept busy, so that the batcher's run waits.
	r := rand.New(rand.NewPCG(3, 3))
	hold := make(chan struct{})
	b.sabotage = func() { <-hold }
	ctx, cancel := context.WithCancel(context.Background())
	errs := make(chan error, 8)
	send := func(ctx context.Context) {
		in := rowsInput(r, 1)
		go func() { _, err := b.Infer(ctx, in); errs <- err }()
	}
	send(context.Background())
	require.Eventually(t, func() bool { return b.Stats().Running == 1 }, time.Second, time.Millisecond)
	for range 2 {
		send(context.Background())
	}
	send(ctx)
	require.Eventually(t, func() bool { return b.Stats().Waiting == 3 }, time.Second, time.Millisecond)
	_, err := b.Infer(context.Background(), rowsInput(r, 1))
	require.ErrorIs(t, err, ErrFull)
	cancel()
	require.ErrorIs(t, <-errs, context.Canceled, "at once, though it waits for a run")
	require.Equal(t, 2, b.Stats().Waiting)
	short, stop := context.WithTimeout(context.Background(), 5*time.Millisecond)
	defer stop()
	require.ErrorIs(t, b.Drain(short), context.DeadlineExceeded)
	require.ErrorIs(t, <-errs, ErrDraining)
	require.ErrorIs(t, <-errs, ErrDraining)
	_, err = b.Infer(context.Background(), rowsInput(r, 1))
	require.ErrorIs(t, err, ErrDraining)
	close(hold)
	require.NoError(t, <-errs, "what ran is finished")
	require.NoError(t, b.Drain(context.Background()))
	require.NoError(t, b.Close())
	_, err = b.Infer(context.Background(), rowsInput(r, 1))
	require.ErrorIs(t, err, ErrClosed)
}

func TestBatchPanic(t *testing.T) {
	b := batcher(t, servetest.Affine(t), BatchOptions{})
	r := rand.New(rand.NewPCG(4, 4))
	b.sabotage = func() { panic("broken") }
	_, err := b.Infer(context.Background(), rowsInput(r, 1))
	require.ErrorIs(t, err, ErrInternal)
	require.EqualValues(t, 1, b.Stats().Failures)
}

// TestBatchesOfImages: an image has the same numbers in a batch as alone, to the
// rounding of float32 sums: kernels for many rows add up in another order.
func TestBatchesOfImages(t *testing.T) {
	for _, c := range []struct {
		path  string
		shape []int
	}{
		{"lenet/lenet5_original.onnx", []int{1, 1, 28, 28}},
		{"lenet/lenet300100_original.onnx", []int{1, 784}},
	} {
		b := batcher(t, testenv.Data(t, c.path), BatchOptions{Delay: 50 * time.Millisecond})
		r := rand.New(rand.NewPCG(5, 5))
		p := b.Inputs()[0]
		worst := 0.0
		for range 3 {
			var in []map[string]*model.Tensor
			for range 7 {
				n := 1
				for _, d := range c.shape {
					n *= d
				}
				x := make([]float32, n)
				for i := range x {
					x[i] = r.Float32()
				}
				in = append(in, map[string]*model.Tensor{p.Name: model.F32Tensor(x, c.shape...)})
			}
			var mu sync.Mutex
			together(t, b, in, func(i int, out map[string]*model.Tensor, err error) {
				want, err2 := b.Session().RunTensors(context.Background(), in[i])
				if err != nil || err2 != nil {
					t.Error(c.path, p, err, err2)
					return
				}
				for name := range want {
					d, scale := distance(want[name], out[name])
					mu.Lock()
					worst = max(worst, d/scale)
					mu.Unlock()
				}
			})
		}
		t.Logf("%s %v: batching %s, %d runs for %d requests, largest difference %.2g of the largest number", c.path, p, b.Stats().Batching, b.Stats().Batches, b.Stats().Served, worst)
		require.Less(t, worst, 1e-5)
	}
}

func TestBatchShadow(t *testing.T) {
	dense := open(t, servetest.Affine(t), runtime.Options{Sparse: runtime.SparseOff})
	b := batcher(t, servetest.Affine(t), BatchOptions{Shadow: 1, Dense: dense})
	_, err := b.Infer(context.Background(), rowsInput(rand.New(rand.NewPCG(6, 6)), 2))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return b.Stats().Shadow.Runs == 1 }, time.Second, time.Millisecond)
	require.EqualValues(t, 8, b.Stats().Shadow.PrefillTokens)
	require.Zero(t, b.Stats().Shadow.MaxAbsError)
}

// TestBatchRows: a plain network of rows is served under the names of its values.
func TestBatchRows(t *testing.T) {
	w := &model.Weight{Name: "w", Shape: []int{2, 3}, Data: sparse.NewDense(2, 3, []float32{1, 3, 5, 2, 4, 6})}
	g := &model.Graph{Name: "rows", Values: []model.Value{{Name: "x", Width: 3}, {Width: 2}}, Inputs: []model.ValueID{0}, Outputs: []model.ValueID{1}, Weights: []*model.Weight{w},
		Nodes: []*model.Node{{Op: model.OpLinear, Name: "l", In: []model.ValueID{0}, Out: 1, Weight: w}}}
	s, err := runtime.New(g, cpu.New(cpu.Threads(1)), runtime.WithOptions(runtime.Options{DType: sparse.F32}), runtime.WithTableDir("off"))
	require.NoError(t, err)
	defer s.Close()
	b, err := NewBatcher(s, BatchOptions{Delay: 20 * time.Millisecond})
	require.NoError(t, err)
	defer b.Close()
	require.Equal(t, []Port{{"output", model.ElemF32, []int{-1, 2}}}, b.Outputs())
	r := rand.New(rand.NewPCG(7, 7))
	for range 3 {
		var in []map[string]*model.Tensor
		for range 6 {
			in = append(in, rowsInput(r, 2))
		}
		together(t, b, in, func(i int, out map[string]*model.Tensor, err error) {
			x := in[i]["x"].Data.([]float32)
			if err != nil || len(out["output"].Shape) != 2 || out["output"].Data.([]float32)[2] != x[3]+3*x[4]+5*x[5] {
				t.Errorf("%v: %v %v", x, out, err)
			}
		})
	}
	require.Equal(t, "on", b.Stats().Batching)
	_, err = b.Infer(context.Background(), map[string]*model.Tensor{"x": model.F32Tensor(make([]float32, 4), 1, 4)})
	require.ErrorIs(t, err, runtime.ErrShape)
	_, err = b.Infer(context.Background(), map[string]*model.Tensor{"x": model.I64Tensor(make([]int64, 3), 1, 3)})
	require.ErrorIs(t, err, runtime.ErrShape)
	_, err = New(s, Options{})
	require.ErrorIs(t, err, ErrKind, "no language model")
}
