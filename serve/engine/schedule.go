package engine

import (
	"context"
	"errors"
	"fmt"
	goruntime "runtime"
	"slices"
	"sync"
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

// plan deals out the rows of the next step and sees to their pages.
func (e *Engine) plan() {
	e.batch, e.prompts = e.batch[:0], e.prompts[:0]
	decoding := 0
	for _, j := range e.running {
		j.chunk = 0
		if j.embed == nil {
			e.cached(j, e.adopt(j))
			if j.left() == 1 {
				j.chunk = 1
				decoding++
				continue
			}
		}
		if !e.follows(j) {
			e.prompts = append(e.prompts, j)
		}
	}
	rows := e.s.Plan().MaxRows
	if decoding > 0 {
		// Those who read along wait for no more than a piece of somebody's prompt.
		rows = min(rows, max(e.o.StepTokens, decoding+e.size/2))
	}
	e.deal(rows - decoding)
	for i := 0; i < len(e.running); i++ {
		j := e.running[i]
		if j.chunk == 0 {
			continue
		}
		if e.reserve(j) {
			e.batch = append(e.batch, j)
		}
		if i >= len(e.running) || e.running[i] != j {
			i--
		}
	}
}

// follows reports whether an older job is about to compute the page that j needs
// next: n answers to one prompt compute it once.
func (e *Engine) follows(j *job) bool {
	if e.o.NoPrefixCache || j.embed != nil || j.seq.Len() != j.pages*e.size {
		return false
	}
	need := (j.pages + 1) * e.size
	if need >= len(j.tokens) {
		return false
	}
	for _, o := range e.prompts {
		if o.embed == nil && len(o.tokens) >= need && slices.Equal(o.tokens[:need], j.tokens[:need]) {
			return true
		}
	}
	return false
}

// deal hands rows to prompts: half to the oldest, so that it ends, the rest to those
// that need least, so that they begin to answer.
func (e *Engine) deal(rows int) {
	if len(e.prompts) == 0 || rows <= 0 {
		return
	}
	oldest := e.prompts[0]
	give := func(j *job, n int) {
		n = min(n, j.left()-j.chunk, rows)
		j.chunk += n
		rows -= n
	}
	give(oldest, (rows+1)/2)
	if len(e.prompts) > 1 {
		slices.SortStableFunc(e.prompts[1:], func(a, b *job) int { return a.left() - b.left() })
		for _, j := range e.prompts[1:] {
			give(j, rows)
		}
	}
	give(oldest, rows)
}

// reserve sees to the pages of j's chunk: free ones, the prefix cache's, those of the
// youngest job. False: j itself had to go.
func (e *Engine) reserve(j *job) bool {
	for {
		err := j.seq.Reserve(j.chunk)
		if err == nil {
			return true
		}
		if !errors.Is(err, runtime.ErrContext) {
			e.drop(j)
			e.end(j, fmt.Errorf("engine: %w: %w", err, ErrInternal), "internal")
			return false
		}
		if e.cache.evict() {
			continue
		}
		// The youngest of those whose chunk is not dealt with yet, j at the last.
		youngest := e.running[len(e.running)-1]
		e.drop(youngest)
		e.preempt(youngest)
		if youngest == j {
			return false
		}
	}
}

// drop takes j from those that run.
func (e *Engine) drop(j *job) {
	e.running = slices.DeleteFunc(e.running, func(o *job) bool { return o == j })
}

// preempt takes a job's pages; it begins again when there are some.
func (e *Engine) preempt(j *job) {
	done := j.seq.Len()
	if j.embed != nil {
		clear(j.embed.sum)
	}
	j.seq.Close()
	j.seq, j.chunk = nil, 0
	j.preempted++
	e.mu.Lock()
	e.st.Preemptions++
	e.st.Recomputed += uint64(done)
	e.queue.resume(j)
	e.mu.Unlock()
}

// exec runs the chunks of jobs as one step and draws the next tokens.
func (e *Engine) exec(jobs []*job) error {
	start := time.Now()
	rows, err := e.run(jobs)
	if err != nil {
		return err
	}
	e.draw(jobs)
	now := time.Now()
	e.mu.Lock()
	e.st.Steps++
	e.st.Step.add(now.Sub(start).Seconds())
	e.st.Rows.add(float64(rows))
	e.st.Running = len(e.running)
	e.mu.Unlock()
	for _, j := range jobs {
		e.keep(j)
		switch {
		case j.embed != nil:
			e.embedded(j)
		case j.left() == 0:
			e.advance(j, now)
		}
	}
	return nil
}

// run has the session compute the step; a panic of the backend is an error.
func (e *Engine) run(jobs []*job) (rows int, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("engine: step: panic: %v", p)
		}
	}()
	l := e.step
	l.Reset()
	for i, j := range jobs {
		n := j.seq.Len()
		logits := 0
		if j.embed != nil {
			if err := l.WantHidden(); err != nil {
				return 0, err
			}
		} else if n+j.chunk == len(j.tokens) {
			logits = 1
		}
		if err := l.Add(j.seq, j.tokens[n:n+j.chunk], logits); err != nil {
			return 0, err
		}
		j.part = i
		if e.sabotage != nil {
			e.sabotage(j)
		}
	}
	// Not a request's context: others' rows are in the step.
	return l.Rows(), l.Run(context.Background())
}

// isolate runs the jobs of a step that failed one by one: those that fail alone are
// lost, the others go on.
func (e *Engine) isolate(err error) {
	e.mu.Lock()
	e.st.Failures++
	e.mu.Unlock()
	alone := len(e.batch) == 1
	for _, j := range e.batch {
		if !alone {
			err = e.exec([]*job{j})
		}
		if err != nil {
			e.drop(j)
			e.end(j, fmt.Errorf("engine: %w: %w", err, ErrInternal), "internal")
		}
	}
}

// manySamples is the work of drawing tokens, in numbers, that is worth a second core.
const manySamples = 1 << 18

// draw samples the next token of every job whose last token is in the cache now.
func (e *Engine) draw(jobs []*job) {
	n, cost := 0, 0
	for _, j := range jobs {
		if j.embed == nil && j.left() == 0 {
			n++
			cost += j.cost() * e.s.Graph().Config.Vocab
		}
	}
	sample := func(j *job) {
		if j.embed == nil && j.left() == 0 {
			j.sample(e, e.step.Logits(j.part, 0))
		}
	}
	workers := min(n, goruntime.GOMAXPROCS(0))
	if workers < 2 || cost < manySamples {
		for _, j := range jobs {
			sample(j)
		}
		return
	}
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(jobs); i += workers {
				sample(jobs[i])
			}
		})
	}
	wg.Wait()
}

// advance takes in the token that was drawn for j.
func (e *Engine) advance(j *job, now time.Time) {
	err := j.err
	var done bool
	if err == nil {
		done, err = j.accept(j.drawn.ID)
	}
	if err != nil {
		e.drop(j)
		e.mu.Lock()
		e.st.Failures++
		e.mu.Unlock()
		e.end(j, err, "internal")
		return
	}
	id := j.drawn.ID
	j.tokens = append(j.tokens, id)
	j.usage.Output++
	var finish Finish
	var text string
	stopped := false
	if !j.IgnoreEOS && slices.Contains(e.eog, id) {
		finish = FinishStop
	} else if text, stopped = j.text.Push(id); stopped || done {
		finish = FinishStop
	} else if j.usage.Output == j.max {
		finish = FinishLength
	}
	if finish != "" {
		rest, _ := j.text.Flush()
		text += rest
	}
	e.mu.Lock()
	e.st.OutputTokens++
	if j.last.IsZero() {
		e.st.First.add(now.Sub(j.submitted).Seconds())
	} else {
		e.st.Inter.add(now.Sub(j.last).Seconds())
	}
	if finish != "" {
		e.finished(j, finish, now)
	}
	e.mu.Unlock()
	j.last = now
	if finish == "" {
		j.sampler.Accept(id)
		j.stream.push(text, &j.drawn, "", j.usage)
		return
	}
	e.drop(j)
	e.remember(j)
	e.end(j, nil, "")
	j.stream.push(text, &j.drawn, finish, j.usage)
}

// finished counts a success; the lock is held.
func (e *Engine) finished(j *job, f Finish, now time.Time) {
	if f != "" {
		e.st.Finished[f]++
	}
	e.st.Total.add(now.Sub(j.submitted).Seconds())
	took := now.Sub(j.started)
	if e.st.Service == 0 {
		e.st.Service = took
	}
	e.st.Service += (took - e.st.Service) / 8
}

// count updates what Stats says of the present.
func (e *Engine) count(now bool) {
	t := time.Now()
	if !now && t.Sub(e.counted) < 20*time.Millisecond && len(e.running) > 0 {
		return
	}
	e.counted = t
	free, idle := e.s.FreePages(), e.cache.idle()
	e.mu.Lock()
	e.st.Running = len(e.running)
	e.st.PageTokens, e.st.PagesTotal = e.size, e.pages
	e.st.PagesUsed, e.st.PagesCached = e.pages-free-idle, idle
	e.st.Evictions = e.cache.gone
	e.mu.Unlock()
}
