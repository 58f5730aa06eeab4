package openai

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"sync"
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

type arrival struct {
	choice int
	event  engine.Event
	err    error
}

// run submits all choices, or none, and answers. The end of r's context, which is
// that of the connection, cancels what is left of them within one step.
func (h *handler) run(w http.ResponseWriter, r *http.Request, j *job) error {
	ctx, cancel := context.WithCancel(r.Context())
	streams := make([]*engine.Stream, 0, len(j.requests))
	var wg sync.WaitGroup
	defer func() {
		cancel()
		for _, s := range streams {
			s.Close()
		}
		wg.Wait()
	}()
	for _, q := range j.requests {
		s, err := j.m.LM.Submit(ctx, q)
		if err != nil {
			return err
		}
		streams = append(streams, s)
	}
	arrivals := make(chan arrival, len(streams))
	for i, s := range streams {
		wg.Go(func() { listen(ctx, i, s, arrivals) })
	}
	if j.s.stream {
		return h.stream(w, r, j, arrivals)
	}
	return h.collect(w, r, j, arrivals)
}

// listen hands on the events of one choice until it ends or ctx does.
func listen(ctx context.Context, i int, s *engine.Stream, to chan<- arrival) {
	for {
		ev, err := s.Next(ctx)
		select {
		case to <- arrival{i, ev, err}:
		case <-ctx.Done():
			return
		}
		if err != nil || ev.Finish != "" {
			return
		}
	}
}

// collect answers with one document.
func (h *handler) collect(w http.ResponseWriter, r *http.Request, j *job, arrivals <-chan arrival) error {
	all := make([]engine.Event, len(j.requests))
	used := make([]engine.Usage, len(all))
	for left := len(all); left > 0; {
		var a arrival
		select {
		case a = <-arrivals:
		case <-r.Context().Done():
			return context.Cause(r.Context())
		}
		if a.err != nil {
			return ended(a.err)
		}
		e := &all[a.choice]
		e.Text += a.event.Text
		e.Tokens = append(e.Tokens, a.event.Tokens...)
		e.Finish, used[a.choice] = a.event.Finish, a.event.Usage
		if e.Finish != "" {
			left--
		}
	}
	choices := make([]any, len(all))
	for i, e := range all {
		choices[i] = j.dress.whole(i, e)
	}
	wire.Reply(w, http.StatusOK, h.o.Stall, answer{j.head, choices, countUsage(used, j.s.n)})
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
// nothing is sent, and a failure is a status of its own.
func (h *handler) stream(w http.ResponseWriter, r *http.Request, j *job, arrivals <-chan arrival) error {
	ev := wire.NewEvents(w, h.o.Stall)
	j.head.Object = j.dress.chunk()
	var null any
	if j.s.includeUsage {
		null = json.RawMessage("null")
	}
	send := func(choice any) error { return ev.Data(answer{j.head, []any{choice}, null}) }
	used := make([]engine.Usage, len(j.requests))
	begun := false
	ping := time.NewTimer(h.ping)
	defer ping.Stop()
	for left := len(j.requests); left > 0; {
		var a arrival
		select {
		case a = <-arrivals:
		case <-ping.C:
			ev.Comment("still working")
			if err := ev.Flush(); err != nil {
				return nil // the reader is gone
			}
			ping.Reset(h.ping)
			continue
		case <-r.Context().Done():
			a.err = context.Cause(r.Context())
		}
		if a.err != nil {
			return h.breakOff(r, ev, ended(a.err))
		}
		for i := 0; !begun && i < len(j.requests); i++ {
			if b := j.dress.begin(i); b != nil {
				if err := send(b); err != nil {
					return h.breakOff(r, ev, err)
				}
			}
		}
		begun = true
		for _, p := range j.dress.piece(a.choice, a.event) {
			if err := send(p); err != nil {
				return h.breakOff(r, ev, err)
			}
		}
		used[a.choice] = a.event.Usage
		if a.event.Finish != "" {
			left--
		}
		if len(arrivals) > 0 && left > 0 {
			continue // one write for what is there already
		}
		if left == 0 {
			if j.s.includeUsage {
				if err := ev.Data(answer{j.head, []any{}, countUsage(used, j.s.n)}); err != nil {
					return h.breakOff(r, ev, err)
				}
			}
			ev.Text("[DONE]")
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
