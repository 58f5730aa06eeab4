package engine

import (
	"context"
	"io"
	"sync"
)

// Stream gives the events of one request. It is used by one goroutine; Close may be
// called from any.
type Stream struct {
	mu      sync.Mutex
	event   Event // what came since the last Next
	pending bool
	err     error         // how it ended, io.EOF for a success
	ended   bool          // err is set
	gone    bool          // Close was called
	ready   chan struct{} // holds a token while Next or Poll has something to look at
	wake    func()        // tells the engine of gone
}

// newStream makes one that tells ready, which holds one token, or a channel of its own.
func newStream(ready chan struct{}, wake func()) *Stream {
	if ready == nil {
		ready = make(chan struct{}, 1)
	}
	return &Stream{ready: ready, wake: wake}
}

// Ready gives a token when Poll has something to tell: Request.Ready, or the stream's own.
func (s *Stream) Ready() <-chan struct{} { return s.ready }

// Poll is Next without the wait: ok is false where nothing came since.
func (s *Stream) Poll() (ev Event, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.pending:
		ev = s.event
		s.event, s.pending = Event{}, false
		return ev, true, nil
	case s.ended:
		return Event{}, false, s.err
	}
	return Event{}, false, nil
}

// Next waits for what comes next. After the event with Finish it returns io.EOF.
// What a slow caller has not fetched is joined to one event, so that nobody waits
// for it. The end of ctx ends the wait, not the request.
func (s *Stream) Next(ctx context.Context) (Event, error) {
	for {
		if ev, ok, err := s.Poll(); ok || err != nil {
			return ev, err
		}
		select {
		case <-s.ready:
		case <-ctx.Done():
			return Event{}, context.Cause(ctx)
		}
	}
}

// Close gives up: the request's slot and pages are free within one step. It does
// nothing to a request that has ended.
func (s *Stream) Close() {
	s.mu.Lock()
	done := s.ended || s.gone
	s.gone = true
	s.mu.Unlock()
	if !done {
		s.wake()
	}
}

func (s *Stream) closed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gone
}

// push adds to the pending event.
func (s *Stream) push(text string, t *Token, finish Finish, u Usage) {
	s.mu.Lock()
	s.event.Text += text
	if t != nil {
		s.event.Tokens = append(s.event.Tokens, *t)
	}
	s.event.Finish, s.event.Usage = finish, u
	s.pending = true
	if finish != "" {
		s.ended, s.err = true, io.EOF
	}
	s.mu.Unlock()
	s.signal()
}

// end ends the stream with an error, after what is pending.
func (s *Stream) end(err error) {
	s.mu.Lock()
	if !s.ended {
		s.ended, s.err = true, err
	}
	s.mu.Unlock()
	s.signal()
}

func (s *Stream) signal() {
	select {
	case s.ready <- struct{}{}:
	default:
	}
}
