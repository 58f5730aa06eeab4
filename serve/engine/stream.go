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
	ready   chan struct{} // holds a token while Next has something to look at
	wake    func()        // tells the engine of gone
}

func newStream(wake func()) *Stream {
	return &Stream{ready: make(chan struct{}, 1), wake: wake}
}

// Next waits for what comes next. After the event with Finish it returns io.EOF.
// What a slow caller has not fetched is joined to one event, so that nobody waits
// for it. The end of ctx ends the wait, not the request.
func (s *Stream) Next(ctx context.Context) (Event, error) {
	for {
		s.mu.Lock()
		if s.pending {
			e := s.event
			s.event, s.pending = Event{}, false
			s.mu.Unlock()
			return e, nil
		}
		if s.ended {
			s.mu.Unlock()
			return Event{}, s.err
		}
		s.mu.Unlock()
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
