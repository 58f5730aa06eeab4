package openai

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/serve/wire"
)

// job is a request with all its choices.
type job struct {
	s        *sampling
	m        *registry.Model
	head     head
	requests []engine.Request
	dress    dress
}

// dress writes events as one of the two APIs has them.
type dress interface {
	// begin is what a stream says of choice i before its first token, nil: nothing.
	begin(i int) any
	// piece is what a stream says of an event of choice i, one value per chunk.
	piece(i int, ev engine.Event) []any
	// whole is choice i at its end: all events joined to one.
	whole(i int, ev engine.Event) any
	// chunk names a piece of a stream ("chat.completion.chunk").
	chunk() string
}

// texts are the choices of a request, in work.
type texts struct {
	streams []*engine.Stream
	ready   chan struct{} // of all streams
	ended   []bool
	used    []engine.Usage
	left    int
}

// run submits all choices, or none, and answers. The end of r's context, which is
// that of the connection, cancels what is left of them within one step.
func (h *handler) run(w http.ResponseWriter, r *http.Request, j *job) error {
	n := len(j.requests)
	t := &texts{ready: make(chan struct{}, 1), ended: make([]bool, n), used: make([]engine.Usage, n), left: n}
	defer func() {
		for _, s := range t.streams {
			s.Close()
		}
	}()
	for _, q := range j.requests {
		q.Ready = t.ready
		s, err := j.m.LM.Submit(r.Context(), q)
		if err != nil {
			return err
		}
		t.streams = append(t.streams, s)
	}
	if j.s.stream {
		return h.stream(w, r, j, t)
	}
	return h.collect(w, r, j, t)
}

// each hands on what came of all choices; an error is the first one's. It asks a stream until
// it has nothing more: one token in ready can stand for a piece and for the end behind it.
func (t *texts) each(f func(i int, ev engine.Event) error) error {
	for i, s := range t.streams {
		for !t.ended[i] {
			ev, ok, err := s.Poll()
			if err != nil {
				return ended(err)
			}
			if !ok {
				break
			}
			t.used[i] = ev.Usage
			if ev.Finish != "" {
				t.ended[i] = true
				t.left--
			}
			if err := f(i, ev); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect answers with one document.
func (h *handler) collect(w http.ResponseWriter, r *http.Request, j *job, t *texts) error {
	all := make([]engine.Event, len(j.requests))
	for t.left > 0 {
		select {
		case <-t.ready:
		case <-r.Context().Done():
			return context.Cause(r.Context())
		}
		if err := t.each(func(i int, ev engine.Event) error {
			e := &all[i]
			e.Text += ev.Text
			e.Tokens = append(e.Tokens, ev.Tokens...)
			e.Finish = ev.Finish
			return nil
		}); err != nil {
			return err
		}
	}
	choices := make([]any, len(all))
	for i, e := range all {
		choices[i] = j.dress.whole(i, e)
	}
	wire.Reply(w, http.StatusOK, h.o.Stall, answer{j.head, choices, countUsage(t.used, j.s.n)})
	return nil
}

// ended is the error of a stream that gave no last event.
func ended(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// stream answers with server-sent events. Until the first token, or the first ping,
// nothing is sent, and a failure is a status of its own. What came of all choices in
// the meantime is one write.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, j *job, t *texts) error {
	ev := wire.NewEvents(w, h.o.Stall)
	j.head.Object = j.dress.chunk()
	chunks, err := newChunks(ev, j.head, j.s.includeUsage)
	if err != nil {
		return err
	}
	begun := false
	piece := func(i int, e engine.Event) error {
		for i := 0; !begun && i < len(j.requests); i++ {
			if b := j.dress.begin(i); b != nil {
				if err := chunks.add(b); err != nil {
					return err
				}
			}
		}
		begun = true
		for _, p := range j.dress.piece(i, e) {
			if err := chunks.add(p); err != nil {
				return err
			}
		}
		return nil
	}
	ping := time.NewTimer(h.ping)
	defer ping.Stop()
	for t.left > 0 {
		select {
		case <-t.ready:
			err = t.each(piece)
		case <-ping.C:
			ev.Comment("still working")
		case <-r.Context().Done():
			err = context.Cause(r.Context())
		}
		if err == nil && t.left == 0 {
			if j.s.includeUsage {
				err = ev.Data(answer{j.head, []any{}, countUsage(t.used, j.s.n)})
			}
			ev.Text("[DONE]")
		}
		if err != nil {
			return h.breakOff(r, ev, err)
		}
		if err := ev.Flush(); err != nil {
			return nil // the reader is gone, or stalled for too long
		}
		ping.Reset(h.ping)
	}
	return nil
}

// breakOff ends a stream with an error: as a status if nothing was sent, else as an
// event, after which readers find the end that they wait for.
func (h *handler) breakOff(r *http.Request, ev *wire.Events, err error) error {
	if !ev.Started() {
		return err
	}
	p := explain(err)
	h.note(r.Context(), p)
	if r.Context().Err() != nil {
		return nil // nobody reads on
	}
	_ = ev.Data(p.body()) // strings only: always JSON
	ev.Text("[DONE]")
	_ = ev.Flush() // the last words
	return nil
}
