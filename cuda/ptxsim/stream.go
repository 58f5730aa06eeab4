package ptxsim

import (
	"sync"
	"time"
)

// work is one operation of a stream or a graph.
type work func(*Device) error

// Stream is an ordered queue of work. The simulator does the work at once, so
// every stream is always idle; while a stream captures, its work goes into a
// graph instead.
type Stream struct {
	dev     *Device
	mu      sync.Mutex
	capture *Graph
}

// Graph is work recorded by a capture. Host memory named in it is read and
// written when the graph runs, not when it was captured.
type Graph struct {
	dev  *Device
	work []work
}

// GraphExec is a graph made ready to run; later changes of the graph do not reach it.
type GraphExec struct {
	dev  *Device
	work []work
}

// Event marks a place in a stream and the host's time at which it was passed.
type Event struct {
	dev    *Device
	timing bool
	mu     sync.Mutex
	at     time.Time
}

// NewStream makes a stream.
func (d *Device) NewStream() (*Stream, error) {
	if err := d.enter("cuStreamCreate"); err != nil {
		return nil, err
	}
	return &Stream{dev: d}, nil
}

// Do runs f now or, while the stream captures, adds it to the graph.
func (s *Stream) Do(f func(*Device) error) error {
	s.mu.Lock()
	if s.capture != nil {
		s.capture.work = append(s.capture.work, f)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	return f(s.dev)
}

// Launch is Device.Launch in the stream; arguments are copied at once.
func (s *Stream) Launch(k *Kernel, grid, block Dim3, shared int, args ...any) error {
	params, err := k.Pack(args...)
	if err != nil {
		return err
	}
	return s.Do(func(d *Device) error { return d.LaunchPacked(k, grid, block, shared, params) })
}

// HtoD, DtoH, DtoD, Memset8 and Memset32 are the device's, in the stream.
func (s *Stream) HtoD(dst Ptr, src []byte) error {
	return s.Do(func(d *Device) error { return d.HtoD(dst, src) })
}

// DtoH copies to host memory.
func (s *Stream) DtoH(dst []byte, src Ptr) error {
	return s.Do(func(d *Device) error { return d.DtoH(dst, src) })
}

// DtoD copies on the device.
func (s *Stream) DtoD(dst, src Ptr, n int) error {
	return s.Do(func(d *Device) error { return d.DtoD(dst, src, n) })
}

// Memset8 fills bytes.
func (s *Stream) Memset8(dst Ptr, v byte, n int) error {
	return s.Do(func(d *Device) error { return d.Memset8(dst, v, n) })
}

// Memset32 fills words.
func (s *Stream) Memset32(dst Ptr, v uint32, n int) error {
	return s.Do(func(d *Device) error { return d.Memset32(dst, v, n) })
}

// Capturing says whether the stream records a graph.
func (s *Stream) Capturing() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capture != nil
}

// Synchronize reports a sticky error; it is illegal while the stream captures.
func (s *Stream) Synchronize() error {
	if s.Capturing() {
		return ErrStreamCaptureUnsupported
	}
	return s.dev.enter("cuStreamSynchronize")
}

// Record marks the place of e.
func (s *Stream) Record(e *Event) error {
	return s.Do(func(d *Device) error {
		if err := d.enter("cuEventRecord"); err != nil {
			return err
		}
		e.mu.Lock()
		defer e.mu.Unlock()
		e.at = time.Now()
		return nil
	})
}

// Wait makes the stream wait for e: nothing to do here.
func (s *Stream) Wait(e *Event) error { return s.dev.enter("cuStreamWaitEvent") }

// BeginCapture starts recording a graph.
func (s *Stream) BeginCapture() error {
	if err := s.dev.enter("cuStreamBeginCapture"); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.capture != nil {
		return ErrIllegalState
	}
	s.capture = &Graph{dev: s.dev}
	return nil
}

// EndCapture gives the graph recorded since BeginCapture.
func (s *Stream) EndCapture() (*Graph, error) {
	if err := s.dev.enter("cuStreamEndCapture"); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.capture == nil {
		return nil, ErrIllegalState
	}
	g := s.capture
	s.capture = nil
	return g, nil
}

// NewGraph makes an empty graph.
func (d *Device) NewGraph() *Graph { return &Graph{dev: d} }

// Nodes is the number of operations.
func (g *Graph) Nodes() int { return len(g.work) }

// Instantiate makes the graph ready to run.
func (g *Graph) Instantiate() (*GraphExec, error) {
	if err := g.dev.enter("cuGraphInstantiate"); err != nil {
		return nil, err
	}
	return &GraphExec{dev: g.dev, work: append([]work(nil), g.work...)}, nil
}

// Launch runs the graph in s, which may itself capture.
func (g *GraphExec) Launch(s *Stream) error {
	return s.Do(func(d *Device) error {
		if err := d.enter("cuGraphLaunch"); err != nil {
			return err
		}
		for _, f := range g.work {
			if err := f(d); err != nil {
				return err
			}
		}
		return nil
	})
}

// NewEvent makes an event; without timing it can only order.
func (d *Device) NewEvent(timing bool) (*Event, error) {
	if err := d.enter("cuEventCreate"); err != nil {
		return nil, err
	}
	return &Event{dev: d, timing: timing}, nil
}

// Synchronize reports a sticky error: what was recorded has happened.
func (e *Event) Synchronize() error { return e.dev.enter("cuEventSynchronize") }

// Since is the host's time from the record of from to that of e: how long the
// simulation took, which says nothing about a GPU.
func (e *Event) Since(from *Event) (time.Duration, error) {
	if err := e.dev.enter("cuEventElapsedTime"); err != nil {
		return 0, err
	}
	at := func(e *Event) (time.Time, bool) {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.at, e.timing && !e.at.IsZero()
	}
	a, ok := at(from)
	b, ok2 := at(e)
	if !ok || !ok2 {
		return 0, ErrInvalidHandle
	}
	return b.Sub(a), nil
}
