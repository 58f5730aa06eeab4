package cpu

import (
	"bufio"
	"context"
	"fmt"
	"math"
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

// kernelVersion changes when kernels do, so that cached times are measured anew.
const kernelVersion = 1

// Machine implements runtime.Timer.
func (b *Backend) Machine() string {
	return fmt.Sprintf("cpu %s, %d threads, %v, kernels %d", cpuName(), b.pool.threads, linalg.ISA(), kernelVersion)
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
	copies  []*Linear
	batch   int // rows that copies have room for
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

// drop frees the packed copies.
func (t *timer) drop() {
	for _, l := range t.copies {
		l.Close()
	}
	t.copies, t.key = nil, ""
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
		for _, l := range t.copies {
			l.Run(x)
			if n++; time.Since(start) > timerSample {
				break
			}
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
	m := noiseMatrix{rows, cols, density, k.Layout == sparse.LayoutNM24}
	t.batch = max(batch, timerRows)
	for n := 1; len(t.copies) < n; {
		l, err := b.Linear(m, k, timerGroup(k), t.batch)
		if err != nil {
			t.drop()
			return err
		}
		t.copies = append(t.copies, l)
		n = min(timerCopies, int(timerBytes/max(l.Bytes().Total(), 1))+1)
	}
	t.key = key
	return nil
}

// timerGroup is the default group of scales (runtime.Options.Group).
func timerGroup(k runtime.Kernel) int {
	if k.Weight == sparse.Int4 {
		return 64
	}
	return 0
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

// noiseMatrix is a random weight that is made row by row when read.
type noiseMatrix struct {
	rows, cols int
	density    float64
	nm24       bool
}

func (m noiseMatrix) Dims() (int, int)      { return m.rows, m.cols }
func (m noiseMatrix) Layout() sparse.Layout { return sparse.LayoutDense }
func (m noiseMatrix) DType() sparse.DType   { return sparse.F32 }
func (m noiseMatrix) Bytes() sparse.Bytes {
	return sparse.Bytes{Values: 4 * int64(m.rows) * int64(m.cols)}
}

// ReadRows implements sparse.Matrix.
func (m noiseMatrix) ReadRows(dst []float32, r0 int) error {
	for i := range dst {
		n := uint64(r0*m.cols + i)
		x := noise(n)
		dst[i] = float32(x) - 0.5
		if m.nm24 {
			// One of six pairs of each group.
			pair := int(noise(n-uint64((i%m.cols)%4))*6) % 6
			if pairs24[pair]>>((i%m.cols)%4)&1 == 0 {
				dst[i] = 0
			}
		} else if noise(n^0x5555555555) >= m.density {
			dst[i] = 0
		}
	}
	return nil
}

// pairs24 are the masks of two of four columns.
var pairs24 = [6]byte{0b0011, 0b0101, 0b0110, 0b1001, 0b1010, 0b1100}

// noise is a number in [0, 1) that looks random (splitmix64, Steele et al. 2014).
func noise(n uint64) float64 {
	z := (n + 1) * 0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return math.Ldexp(float64((z^z>>31)>>11), -53)
}
