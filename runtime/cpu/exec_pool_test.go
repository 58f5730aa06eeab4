package cpu

import (
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// countJob checks that every part runs once and that no worker runs two at a time.
type countJob struct {
	ran  []atomic.Int32
	busy []atomic.Int32
	bad  atomic.Int32
}

func (j *countJob) part(worker, i int) {
	if j.busy[worker].Add(1) != 1 {
		j.bad.Add(1)
	}
	j.ran[i].Add(1)
	j.busy[worker].Add(-1)
}

// TestPool runs jobs of all sizes with more workers than processors, with one
// processor only, and after pauses in which the workers have parked.
func TestPool(t *testing.T) {
	for _, procs := range []int{1, 2, goruntime.NumCPU()} {
		for _, threads := range []int{1, 2, 5} {
			before := goruntime.GOMAXPROCS(procs)
			p := newPool(threads)
			p.retain()
			for round := range 3000 {
				n := round % 23
				j := &countJob{ran: make([]atomic.Int32, n), busy: make([]atomic.Int32, threads)}
				p.run(j, n)
				for i := range j.ran {
					require.EqualValues(t, 1, j.ran[i].Load(), "part %d of %d", i, n)
				}
				require.Zero(t, j.bad.Load())
				if round%500 == 499 {
					time.Sleep(3 * spinTime)
				}
			}
			p.release()
			goruntime.GOMAXPROCS(before)
		}
	}
}

// TestPoolParks holds that idle workers block and that the last release ends them.
func TestPoolParks(t *testing.T) {
	before := goruntime.NumGoroutine()
	p := newPool(4)
	p.retain()
	p.retain()
	j := &countJob{ran: make([]atomic.Int32, 64), busy: make([]atomic.Int32, 4)}
	p.run(j, 64)
	require.Eventually(t, func() bool { return p.parked.Load() == 3 }, 5*time.Second, time.Millisecond)
	p.run(j, 64) // wakes them
	require.EqualValues(t, 2, j.ran[63].Load())
	p.release()
	p.run(j, 64)
	p.release()
	for end := time.Now().Add(5 * time.Second); goruntime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		require.True(t, time.Now().Before(end), "workers live on")
	}
}

// TestPoolAllocates nothing while it runs.
func TestPoolAllocates(t *testing.T) {
	p := newPool(3)
	p.retain()
	defer p.release()
	j := &countJob{ran: make([]atomic.Int32, 32), busy: make([]atomic.Int32, 3)}
	require.Zero(t, testing.AllocsPerRun(100, func() { p.run(j, 32) }))
}

func BenchmarkFork(b *testing.B) {
	p := newPool(2)
	p.retain()
	defer p.release()
	j := &countJob{ran: make([]atomic.Int32, 2), busy: make([]atomic.Int32, 2)}
	for b.Loop() {
		p.run(j, 2)
	}
}

func TestAlloc(t *testing.T) {
	for _, n := range []int{0, 1, 63, 4096, hugePage - 1, hugePage, 3*hugePage + 5} {
		r, err := alloc(n)
		require.NoError(t, err)
		require.Len(t, r.bytes(), n)
		for _, x := range r.bytes() {
			if x != 0 {
				t.Fatal("fresh memory is not zero")
			}
		}
		if n > 0 {
			r.bytes()[n-1] = 1
		}
		require.Len(t, f32s(r.bytes()), n/4)
		r.free()
		r.free()
		require.Nil(t, r.bytes())
	}
	_, err := alloc(1 << 60)
	require.Error(t, err)
}
