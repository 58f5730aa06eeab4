package engine

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/sparserun/sparserun/runtime"
)

// scheduler is what the scheduler's goroutine works with; nobody else touches it.
type scheduler struct {
	running  []*job // by arrival, the oldest first
	step     *runtime.Lockstep
	cache    *prefixCache
	batch    []*job // of the step at hand
	prompts  []*job // that a step's prompt pieces are dealt to
	shadows  []shadow
	deadline time.Time  // the first of all requests; zero: none
	counted  time.Time  // when pages were last counted
	rowTime  float64    // s that a row of a prompt takes, lately
	size     int        // tokens of a page
	pages    int        // in all
	sabotage func(*job) // of tests: called for every job of a step before it runs
}

func newScheduler(e *Engine) scheduler {
	kv := e.s.Plan().KV
	return scheduler{step: e.s.NewLockstep(), cache: newPrefixCache(e.s), size: kv.PageTokens, pages: kv.Pages}
}

// loop takes turns until Close.
func (e *Engine) loop() {
	defer close(e.stopped)
	for {
		e.reap()
		e.mu.Lock()
		closed, idle := e.closed, len(e.running) == 0 && e.queue.len() == 0
		if (closed || idle && e.draining) && !e.emptied {
			e.emptied = true
			close(e.drained)
		}
		e.mu.Unlock()
		switch {
		case closed:
			e.reap()
			e.cache.clear()
			e.count(true)
			return
		case !idle:
			e.turn()
		case len(e.shadows) > 0 && e.o.Yield != nil && e.o.Yield():
			select {
			case <-e.wake:
			case <-time.After(50 * time.Millisecond):
			}
		case len(e.shadows) > 0:
			e.shadow()
		default:
			e.count(true)
			<-e.wake
		}
	}
}

// turn is one step.
func (e *Engine) turn() {
	e.admit()
	e.plan()
	if len(e.batch) == 0 {
		// Everybody lost their pages to somebody outside the engine: wait a little.
		time.Sleep(time.Millisecond)
		return
	}
	if err := e.exec(e.batch); err != nil {
		e.isolate(err)
	}
	e.count(false)
}

// reap ends the requests that were cancelled, whose time is over, or that a drain or
// Close ends.
func (e *Engine) reap() {
	e.mu.Lock()
	abort, closed := e.abort, e.closed
	e.mu.Unlock()
	now := time.Now()
	late := !e.deadline.IsZero() && !now.Before(e.deadline)
	if !e.sweep.Swap(false) && !late && !abort && !closed {
		return
	}
	e.deadline = time.Time{}
	gone := func(j *job) bool {
		switch {
		case closed:
			e.end(j, fmt.Errorf("engine: %w", ErrClosed), "closed")
		case abort:
			e.end(j, fmt.Errorf("engine: %w", ErrDraining), "drain")
		case j.stream != nil && j.stream.closed():
			e.end(j, context.Canceled, "client")
		case j.ctx.Err() != nil:
			e.end(j, context.Cause(j.ctx), "client")
		case !j.Deadline.IsZero() && !now.Before(j.Deadline):
			e.end(j, fmt.Errorf("engine: %w", ErrDeadline), "deadline")
		default:
			e.watch(j)
			return false
		}
		return true
	}
	e.running = slices.DeleteFunc(e.running, gone)
	// end takes the lock: the queue is swept outside of it.
	e.mu.Lock()
	var out []*job
	e.queue.sweep(func(j *job) bool {
		hit := closed || abort || j.stream != nil && j.stream.closed() || j.ctx.Err() != nil || !j.Deadline.IsZero() && !now.Before(j.Deadline)
		if hit {
			out = append(out, j)
		} else {
			e.watch(j)
		}
		return hit
	})
	e.mu.Unlock()
	for _, j := range out {
		gone(j)
	}
}

// watch has the scheduler look at j's deadline in time.
func (e *Engine) watch(j *job) {
	if d := j.Deadline; !d.IsZero() && (e.deadline.IsZero() || d.Before(e.deadline)) {
		e.deadline = d
	}
}

// end gives a job's pages back and tells its caller why it ended; err is nil for a
// success, of which the stream knows already.
func (e *Engine) end(j *job, err error, reason string) {
	if j.seq != nil {
		j.seq.Close()
		j.seq = nil
	}
	j.release()
	e.live.Add(-1)
	if err != nil {
		if j.stream != nil {
			j.stream.end(err)
		} else {
			j.embed.done(err)
		}
	}
	e.mu.Lock()
	if err != nil {
		e.st.Cancelled[reason]++
	}
	e.mu.Unlock()
}

// admit starts the jobs whose turn it is and for which there are pages.
func (e *Engine) admit() {
	for len(e.running) < e.o.MaxRunning {
		e.mu.Lock()
		j := e.queue.peek()
		e.mu.Unlock()
		if j == nil {
			return
		}
		j.seq, j.page, j.pages = e.s.NewSequence(), nil, 0
		found := e.adopt(j)
		need := e.wants(j)
		for _, o := range e.running {
			need += e.wants(o)
		}
		// A page for every two that run keeps admissions from costing preemptions.
		if len(e.running) > 0 && e.s.FreePages()+e.cache.idle() < need+(len(e.running)+1)/2 {
			j.seq.Close()
			j.seq = nil
			return
		}
		e.mu.Lock()
		e.queue.pop()
		if j.started.IsZero() {
			j.started = time.Now()
			e.st.Queue.add(j.started.Sub(j.submitted).Seconds())
			e.st.PromptTokens += uint64(j.usage.Prompt)
		}
		e.mu.Unlock()
		e.cached(j, found)
		at, _ := slices.BinarySearchFunc(e.running, j, func(a, b *job) int { return int(int64(a.order) - int64(b.order)) })
		e.running = slices.Insert(e.running, at, j)
		e.watch(j)
	}
}

// wants is how many pages j does not hold yet that its tokens and one more need.
func (e *Engine) wants(j *job) int {
	return max(0, (len(j.tokens)+e.size)/e.size-len(j.seq.Pages()))
}

// adopt takes the pages that the cache has of what j's sequence comes to next. The
// last token is always computed: its logits are wanted. The result is the number of
// tokens.
func (e *Engine) adopt(j *job) int {
	if e.o.NoPrefixCache || j.embed != nil || j.seq.Len() != j.pages*e.size {
		return 0
	}
	from := j.pages
	for (j.pages+1)*e.size < len(j.tokens) {
		p := e.cache.find(j.page, j.tokens[j.pages*e.size:(j.pages+1)*e.size])
		if p == nil || j.seq.Adopt(p.page) != nil {
			break
		}
		j.page = p
		j.pages++
	}
	if j.pages > from {
		e.cache.touch(j.page)
	}
	return (j.pages - from) * e.size
}

// cached counts prompt tokens that were found, of a job that begins for the first time.
func (e *Engine) cached(j *job, n int) {
	if n == 0 || j.preempted > 0 {
		return
	}
	j.usage.Cached += n
	e.mu.Lock()
	e.st.CachedTokens += uint64(n)
	e.mu.Unlock()
}

// keep puts the pages that j's sequence has filled into the cache.
func (e *Engine) keep(j *job) {
	if e.o.NoPrefixCache || j.embed != nil {
		return
	}
	from := j.pages
	for (j.pages+1)*e.size <= j.seq.Len() {
		j.page = e.cache.add(j.page, j.tokens[j.pages*e.size:(j.pages+1)*e.size], j.seq.Pages()[j.pages])
		j.pages++
	}
	if j.pages > from {
		e.cache.touch(j.page)
	}
}
