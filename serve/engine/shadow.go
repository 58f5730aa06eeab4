package engine

import (
	"context"
	"math"
	"math/rand/v2"
	"time"

	"github.com/sparserun/sparserun/runtime"
)

// A share of the requests is run again when there is nothing else to do, on the
// session and on its dense twin by turns, chunk by chunk and token by token: the two
// see the same tokens, the same machine and the same moment, so that the ratio of
// their times is measured, not derived. A request that arrives ends the step at hand
// between two kernels.

// shadow is a request that is to be run again.
type shadow struct {
	tokens []int32
	prompt int
}

const (
	shadowsKept  = 4   // requests that may wait for an idle moment
	shadowTokens = 64  // generated tokens that are compared
	shadowPrompt = 512 // prompt tokens that are
	shadowChunk  = 64  // prompt tokens of a step
)

// remember may choose a request that has finished.
func (e *Engine) remember(j *job) {
	if e.o.Dense == nil || e.o.Shadow <= 0 || rand.Float64() >= e.o.Shadow {
		return
	}
	if len(e.shadows) == shadowsKept {
		e.mu.Lock()
		e.st.Shadow.Skipped++
		e.mu.Unlock()
		return
	}
	// The end of a long prompt, the beginning of a long text.
	from := max(0, j.usage.Prompt-shadowPrompt)
	prompt := j.usage.Prompt - from
	to := min(len(j.tokens), j.usage.Prompt+shadowTokens)
	e.shadows = append(e.shadows, shadow{append([]int32(nil), j.tokens[from:to]...), prompt})
}

// busy reports whether the engine has something better to do.
func (e *Engine) busy() bool {
	return e.Busy() || e.stopping() || e.o.Yield != nil && e.o.Yield()
}

func (e *Engine) stopping() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed || e.draining
}

// shadow runs the first of the chosen requests again.
func (e *Engine) shadow() {
	sh := e.shadows[0]
	e.shadows = append(e.shadows[:0], e.shadows[1:]...)
	if e.stopping() {
		e.shadows = nil
		return
	}
	t := &twin{e: e}
	defer t.close()
	var cancel func()
	t.ctx, cancel = context.WithCancel(context.Background())
	defer cancel()
	e.mu.Lock()
	e.shadowed = cancel
	e.mu.Unlock()
	done := t.compare(sh)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.shadowed = nil
	s := &e.st.Shadow
	switch {
	case done:
		s.Runs++
	case t.failed:
		s.Skipped++
	default:
		s.Aborted++
	}
	s.PrefillTokens += t.sum.PrefillTokens
	s.DecodeTokens += t.sum.DecodeTokens
	s.DensePrefill += t.sum.DensePrefill
	s.SparsePrefill += t.sum.SparsePrefill
	s.DenseDecode += t.sum.DenseDecode
	s.SparseDecode += t.sum.SparseDecode
	s.Flips += t.sum.Flips
	s.MaxAbsError = max(s.MaxAbsError, t.sum.MaxAbsError)
}

// twin is one such run. Legs are the dense one and the sparse one.
type twin struct {
	e      *Engine
	ctx    context.Context // ends when a request arrives
	legs   [2]*runtime.Lockstep
	seqs   [2]*runtime.Sequence
	sum    ShadowStats
	failed bool // a step could not run: no pages, or a fault
	turn   int  // which leg goes first
}

func (t *twin) close() {
	for _, q := range t.seqs {
		if q != nil {
			q.Close()
		}
	}
}

// compare runs all tokens; false: not to the end.
func (t *twin) compare(sh shadow) bool {
	sessions := [2]*runtime.Session{t.e.o.Dense, t.e.s}
	for i, s := range sessions {
		t.legs[i], t.seqs[i] = s.NewLockstep(), s.NewSequence()
	}
	chunk := min(shadowChunk, sessions[0].Plan().MaxRows, sessions[1].Plan().MaxRows)
	for at := 0; at < sh.prompt; {
		n := min(chunk, sh.prompt-at)
		dense, sparse, ok := t.pair(sh.tokens[at : at+n])
		if !ok {
			return false
		}
		t.sum.PrefillTokens += uint64(n)
		t.sum.DensePrefill += dense
		t.sum.SparsePrefill += sparse
		at += n
	}
	for i := sh.prompt; i < len(sh.tokens)-1; i++ { // the last has no step of its own
		dense, sparse, ok := t.pair(sh.tokens[i : i+1])
		if !ok {
			return false
		}
		t.sum.DecodeTokens++
		t.sum.DenseDecode += dense
		t.sum.SparseDecode += sparse
	}
	return true
}

// pair runs the next tokens on both legs, whichever went second first.
func (t *twin) pair(tokens []int32) (dense, sparse time.Duration, ok bool) {
	var took [2]time.Duration
	for k := range 2 {
		leg := (k + t.turn) % 2
		if t.e.busy() {
			return 0, 0, false
		}
		if took[leg], ok = t.run(leg, tokens); !ok {
			t.failed = t.ctx.Err() == nil
			return 0, 0, false
		}
	}
	t.turn++
	a, b := t.legs[0].Logits(0, 0), t.legs[1].Logits(0, 0)
	for i, v := range a {
		t.sum.MaxAbsError = max(t.sum.MaxAbsError, math.Abs(float64(v)-float64(b[i])))
	}
	if runtime.Argmax(a) != runtime.Argmax(b) {
		t.sum.Flips++
	}
	return took[0], took[1], true
}

// run is one leg's step; a fault of it is nobody's request.
func (t *twin) run(leg int, tokens []int32) (took time.Duration, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	l, q := t.legs[leg], t.seqs[leg]
	for q.Reserve(len(tokens)) != nil {
		if leg == 0 || !t.e.cache.evict() {
			return 0, false
		}
	}
	l.Reset()
	if l.Add(q, tokens, 1) != nil {
		return 0, false
	}
	start := time.Now()
	err := l.Run(t.ctx)
	return time.Since(start), err == nil
}
