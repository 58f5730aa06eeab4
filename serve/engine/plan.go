package engine

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sparserun/sparserun/runtime"
)

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
		rows = min(rows, max(e.mixed(), decoding+e.size/2))
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

// stepTime is how long others may wait for their next token because of a prompt.
const stepTime = 100 * time.Millisecond

// mixed is the number of rows of a step that has both.
func (e *Engine) mixed() int {
	switch {
	case e.o.StepTokens > 0:
		return e.o.StepTokens
	case e.rowTime == 0:
		return 2 * e.size // nothing is known yet
	}
	return int(stepTime.Seconds() / e.rowTime)
}

// learn takes in how long a step took.
func (e *Engine) learn(rows int, took time.Duration) {
	if rows < e.size/2 {
		return // mostly weights being read
	}
	t := took.Seconds() / float64(rows)
	if e.rowTime == 0 {
		e.rowTime = t
	}
	e.rowTime += (t - e.rowTime) / 4
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
