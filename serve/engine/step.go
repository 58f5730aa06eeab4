package engine

import (
	"context"
	"fmt"
	goruntime "runtime"
	"slices"
	"sync"
	"time"
)

// exec runs the chunks of jobs as one step and draws the next tokens.
func (e *Engine) exec(jobs []*job) error {
	start := time.Now()
	rows, err := e.run(jobs)
	if err != nil {
		return err
	}
	e.learn(rows, time.Since(start))
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
