package cpu

import (
	goruntime "runtime"
	"sync"
	"sync/atomic"
	"time"
)

// job is work that is cut into parts; parts run in any order on any worker.
// worker is 0..threads-1 and unique at any time, for scratch memory.
type job interface{ part(worker, i int) }

// pool runs jobs on a fixed number of workers, the caller being worker 0.
//
// The hot path is one atomic store to publish a job, one compare-and-swap per
// part and one counter to wait on: no locks, no allocation. Workers look for
// parts, so that one which the system has descheduled holds up nothing but the
// part it took. Idle workers spin for a while, then park: an idle process burns
// no CPU.
type pool struct {
	threads int
	lease   chan struct{} // holds a token while somebody runs jobs

	_     [64]byte
	state atomic.Uint64 // parts of the job in the high half, next part in the low
	_     [56]byte
	done  atomic.Uint32 // parts that are finished
	_     [60]byte
	// job is written before state is published and read after a part was claimed;
	// as a claimed part holds the next job back, the two never meet.
	job    job
	fault  atomic.Pointer[fault] // the first panic of the job at hand
	parked atomic.Int32
	wake   chan struct{}

	mu      sync.Mutex
	users   int           // who needs the workers
	stop    chan struct{} // closed when the workers are to end
	stopped sync.WaitGroup
}

// spinTime bridges the gap between two tokens: sampling takes about that long,
// and waking a parked worker a third of it.
const spinTime = 100 * time.Microsecond

func newPool(threads int) *pool {
	return &pool{threads: threads, lease: make(chan struct{}, 1), wake: make(chan struct{}, threads)}
}

// retain starts the workers for the first user.
func (p *pool) retain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users++; p.users > 1 {
		return
	}
	reserveScratch(p.threads)
	p.stop = make(chan struct{})
	for w := 1; w < p.threads; w++ {
		p.stopped.Add(1)
		go p.work(w, p.stop)
	}
}

// release ends the workers with the last user.
func (p *pool) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users--; p.users == 0 {
		close(p.stop)
		p.stopped.Wait()
	}
}

// run executes parts 0..n-1 of j and returns when all are done. The caller holds
// the lease.
func (p *pool) run(j job, n int) {
	if n <= 1 || p.threads == 1 {
		for i := range n {
			j.part(0, i)
		}
		return
	}
	p.job = j
	p.done.Store(0)
	p.state.Store(uint64(n) << 32)
	p.rouse(n - 1)
	for p.step(0) {
	}
	for spins := 0; p.done.Load() != uint32(n); spins++ {
		rest(spins)
	}
	p.job = nil
	if p.fault.Load() != nil {
		panic(p.fault.Swap(nil).value)
	}
}

// fault is what a part panicked with. It goes on in the job's caller: a worker that
// panics would end the process.
type fault struct{ value any }

// call runs a part; a part that panics is done too, else its job would never be.
func (p *pool) call(worker, i int) {
	defer p.finish()
	p.job.part(worker, i)
}

func (p *pool) finish() {
	if v := recover(); v != nil {
		p.fault.CompareAndSwap(nil, &fault{v})
	}
	p.done.Add(1)
}

// rouse wakes up to n parked workers.
func (p *pool) rouse(n int) {
	for k := min(int(p.parked.Load()), n); k > 0; k-- {
		select {
		case p.wake <- struct{}{}:
		default:
			return
		}
	}
}

// step claims and runs one part; false: there is none.
func (p *pool) step(worker int) bool {
	for {
		s := p.state.Load()
		if uint32(s) >= uint32(s>>32) {
			return false
		}
		if p.state.CompareAndSwap(s, s+1) {
			p.call(worker, int(uint32(s)))
			return true
		}
	}
}

// rest lets time pass between looks at a shared word. Now and then it yields, so
// that more workers than processors still make progress.
func rest(spins int) {
	if spins&15 == 15 {
		goruntime.Gosched()
		return
	}
	pause()
}

func (p *pool) work(worker int, stop chan struct{}) {
	defer p.stopped.Done()
	for {
		if !p.spin(worker) {
			p.parked.Add(1)
			// A job published before the caller could see us parked is ours to find.
			s := p.state.Load()
			if uint32(s) >= uint32(s>>32) {
				select {
				case <-p.wake:
				case <-stop:
					p.parked.Add(-1)
					return
				}
			}
			p.parked.Add(-1)
		}
	}
}

// spin runs parts as they come; false: none came for spinTime.
func (p *pool) spin(worker int) bool {
	var since time.Time
	for spins := 0; ; spins++ {
		if p.step(worker) {
			spins = 0
			since = time.Time{}
			continue
		}
		rest(spins)
		if spins&63 == 63 {
			if since.IsZero() {
				since = time.Now()
			} else if time.Since(since) > spinTime {
				return false
			}
		}
	}
}
