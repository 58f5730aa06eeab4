package cpu

import (
	"bufio"
	"context"
	"fmt"
	"os"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

var _ runtime.Timer = (*Backend)(nil)

// Machine implements runtime.Timer.
func (b *Backend) Machine() string {
	return fmt.Sprintf("cpu %s, %d threads, %v, kernels %s", cpuName(), b.pool.threads, linalg.ISA(), kernelVersion)
}

var cpuName = sync.OnceValue(func() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return goruntime.GOARCH
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if k, v, ok := strings.Cut(s.Text(), ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return goruntime.GOARCH
})

// timer keeps what measurements reuse: the weight measured last and the memory
// that is read to drive weights out of the caches.
type timer struct {
	mu      sync.Mutex
	key     string
	linear  *Linear // in copies enough for a sample
	batch   int     // rows that it has room for
	flusher *region
	sink    atomic.Uint32 // keeps the compiler from leaving reads out
}

func (t *timer) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.drop()
	t.flusher.free()
	t.flusher = nil
}

// drop frees the packed weight.
func (t *timer) drop() {
	if t.linear != nil {
		t.linear.Close()
	}
	t.linear, t.key = nil, ""
}

const (
	timerRows   = 64      // room for activations, so that batches share a packed weight
	timerBytes  = 4 << 20 // of weights that one sample reads
	timerCopies = 16
	timerRounds = 14
	timerBudget = 200 * time.Millisecond
	timerSample = 20 * time.Millisecond // more of a round is not needed
)

// Time implements runtime.Timer: the lower quartile over rounds, between which all
// caches are filled with other memory. Other processes only ever add time, so that
// the median of a busy machine says more about them than about the kernel.
func (b *Backend) Time(ctx context.Context, k runtime.Kernel, rows, cols int, density float64, batch int) (time.Duration, error) {
	if rows < 1 || cols < 1 || batch < 1 || !(density >= 0 && density <= 1) {
		return 0, fmt.Errorf("cpu: timing [%d %d] of density %g over %d rows: %w", rows, cols, density, batch, runtime.ErrShape)
	}
	if !b.Has(k) {
		return 0, fmt.Errorf("cpu: timing %v: %w", k, runtime.ErrUnsupported)
	}
	if k.Op == model.OpConv {
		return b.timeConv(ctx, k, rows, cols, density, batch)
	}
	select {
	case b.pool.lease <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { <-b.pool.lease }()
	t := &b.timer
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.prepare(b, k, rows, cols, density, batch); err != nil {
		return 0, err
	}
	x := make([]float32, batch*cols)
	for i := range x {
		x[i] = float32(noise(uint64(i))) - 0.5
	}
	var times []time.Duration
	for begin := time.Now(); len(times) < timerRounds; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		t.flush(b)
		n, start := 0, time.Now()
		// At least one: on a busy machine the sample may be over before it begins.
		for n == 0 || n < t.linear.Copies() && time.Since(start) <= timerSample {
			t.linear.Run(x)
			n++
		}
		times = append(times, time.Since(start)/time.Duration(n))
		// The first round also faults memory in.
		if spent := time.Since(begin); (len(times) >= 4 && spent > timerBudget) || (len(times) >= 2 && spent > 2*timerBudget) {
			break
		}
	}
	times = times[1:]
	slices.Sort(times)
	return times[len(times)/4], nil
}

// prepare packs the weight, unless the last measurement has left it.
func (t *timer) prepare(b *Backend, k runtime.Kernel, rows, cols int, density float64, batch int) error {
	if t.flusher == nil {
		f, err := alloc(2 * cacheSize())
		if err != nil {
			return err
		}
		for i := 0; i < len(f.bytes()); i += 4096 {
			f.bytes()[i] = 1
		}
		t.flusher = f
	}
	key := fmt.Sprint(k, rows, cols, density)
	if key == t.key && batch <= t.batch {
		return nil
	}
	t.drop()
	t.batch = max(batch, timerRows)
	l, err := b.Linear(Noise(rows, cols, density, k.Layout == sparse.LayoutNM24), k, timerGroup(k), t.batch)
	if err != nil {
		return err
	}
	t.linear = l
	if err := l.Cold(timerBytes, timerCopies); err != nil {
		t.drop()
		return err
	}
	t.key = key
	return nil
}

// timerGroup is the group of scales, by default that of runtime.Options.Group.
func timerGroup(k runtime.Kernel) int {
	if k.Group == 0 && k.Weight == sparse.Int4 {
		return 64
	}
	return k.Group
}

// flush reads memory twice as large as the caches, a byte of every line.
func (t *timer) flush(b *Backend) {
	const parts = 16
	per := len(t.flusher.bytes()) / parts
	b.pool.run(partFunc(func(i int) {
		var sum byte
		for j := 0; j < per; j += 64 {
			sum |= t.flusher.bytes()[i*per+j]
		}
		t.sink.Store(uint32(sum))
	}), parts)
}

// cacheSize is the size of the last cache in bytes, or a guess.
func cacheSize() int {
	const least, most = 32 << 20, 256 << 20
	size := 0
	for i := range 5 {
		s, err := os.ReadFile(fmt.Sprintf("/sys/devices/system/cpu/cpu0/cache/index%d/size", i))
		if err != nil {
			break
		}
		if k, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(string(s)), "K")); err == nil {
			size = max(size, k<<10)
		}
	}
	return min(max(size, least), most)
}
