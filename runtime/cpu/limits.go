package cpu

import (
	"fmt"
	"time"

	"github.com/sparserun/sparserun/sparse"
)

// Limits are what the machine can do at most with the backend's threads.
type Limits struct {
	Read float64 `json:"read_bytes_per_s"` // of memory, far larger than caches
	FMA  float64 `json:"fma_flop_per_s"`   // float32, 2 a multiply-add
	Dot  float64 `json:"int8_op_per_s"`    // vpdpbusd, or vpmaddubsw and what it needs without VNNI; 2 a multiply-add
}

// limitBytes is more than any cache that one package has for two threads.
const limitBytes = 512 << 20

// Workers is the number of threads.
func (b *Backend) Workers() int { return b.pool.threads }

// Limits measures once and remembers. It must not run beside a program of the
// same backend.
func (b *Backend) Limits() (Limits, error) {
	b.limits.once.Do(func() { b.limits.l, b.limits.err = b.measureLimits(limitBytes) })
	return b.limits.l, b.limits.err
}

// Ceiling is the most bytes a second that this machine reads from memory, and
// operations (2 a multiply-add) on weights of type t.
func (b *Backend) Ceiling(t sparse.DType) (bytes, ops float64, err error) {
	l, err := b.Limits()
	if t.Quantised() && l.Dot > 0 {
		return l.Read, l.Dot, err
	}
	return l.Read, l.FMA, err
}

// measureLimits reads size bytes of fresh memory and runs arithmetic that needs
// none, and keeps the best of several rounds.
func (b *Backend) measureLimits(size int) (Limits, error) {
	size = max(size, 1<<20) &^ 4095
	r, err := alloc(size)
	if err != nil {
		return Limits{}, fmt.Errorf("cpu: %w", err)
	}
	defer r.free()
	for i := 0; i < size; i += 4096 {
		r.bytes()[i] = 1
	}
	b.pool.retain()
	defer b.pool.release()
	const parts = 64
	rate := func(work float64, f func(i int)) float64 {
		best := time.Duration(1 << 62)
		for range 7 {
			start := time.Now()
			b.pool.run(partFunc(f), parts)
			best = min(best, time.Since(start))
		}
		return work / best.Seconds()
	}
	per := size / parts &^ 511
	const n = 20000
	l := Limits{Read: rate(float64(per*parts), func(i int) { readBytes(r.bytes()[i*per : (i+1)*per]) })}
	l.FMA = rate(parts*n*fmaPeak(0), func(int) { fmaPeak(n) })
	l.Dot = rate(parts*n*dotPeak(0), func(int) { dotPeak(n) })
	return l, nil
}

type partFunc func(i int)

func (f partFunc) part(_, i int) { f(i) }

// The portable twins: what plain Go reads and multiplies at most.

// portableSink keeps the compiler from leaving work out.
var portableSink [64]uint64

func readBytesPortable(b []byte) {
	var s [4]uint64
	for w := reinterpret[uint64](b); len(w) >= 8; w = w[8:] {
		s[0] |= w[0] ^ w[4]
		s[1] |= w[1] ^ w[5]
		s[2] |= w[2] ^ w[6]
		s[3] |= w[3] ^ w[7]
	}
	if s[0]|s[1]|s[2]|s[3] == 1<<63-1 { // never: bytes are 0 or 1
		portableSink[0]++
	}
}

// fmaPeakPortable runs n rounds of 8 independent multiply-adds.
func fmaPeakPortable(n int) {
	a := [8]float32{1, 2, 3, 4, 5, 6, 7, 8}
	x := float32(n&1) + 0.5
	a0, a1, a2, a3, a4, a5, a6, a7 := a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]
	for range n {
		a0 = a0*x + x
		a1 = a1*x + x
		a2 = a2*x + x
		a3 = a3*x + x
		a4 = a4*x + x
		a5 = a5*x + x
		a6 = a6*x + x
		a7 = a7*x + x
	}
	if a0+a1+a2+a3+a4+a5+a6+a7 == -1 { // never: all are positive
		portableSink[1]++
	}
}
