package wire

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"time"
)

// Ping is how long an event stream is silent before a comment shows that it lives.
const Ping = 15 * time.Second

// Events writes a stream of server-sent events. Headers go out with the first
// piece, so that until then a failure can still be a proper status.
type Events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	patient time.Time // when the reader's deadline was set
	started bool
	buf     bytes.Buffer
}

// NewEvents prepares a stream. stall is how long the reader may let one piece
// wait before it is cut off; 0 is for ever.
func NewEvents(w http.ResponseWriter, stall time.Duration) *Events {
	return &Events{w: w, control: http.NewResponseController(w), stall: stall}
}

// Started reports whether anything was sent.
func (e *Events) Started() bool { return e.started }

// Data adds an event with v as JSON. It is sent by Flush; after an error nothing was
// added.
func (e *Events) Data(v any) error {
	n := e.buf.Len()
	e.buf.WriteString("data: ")
	if err := Encode(&e.buf, v); err != nil { // ends in a newline
		e.buf.Truncate(n)
		return err
	}
	e.buf.WriteByte('\n')
	return nil
}

// Raw adds an event with JSON, on one line, that somebody wrote already.
func (e *Events) Raw(json []byte) {
	e.buf.WriteString("data: ")
	e.buf.Write(json)
	e.buf.WriteString("\n\n")
}

// Text adds an event of one line of text.
func (e *Events) Text(s string) { e.buf.WriteString("data: " + s + "\n\n") }

// Comment adds what readers skip.
func (e *Events) Comment(s string) { e.buf.WriteString(": " + s + "\n\n") }

// Flush sends what was added. An error means that the reader is gone.
func (e *Events) Flush() error {
	if e.buf.Len() == 0 {
		return nil
	}
	if !e.started {
		h := e.w.Header()
		h.Set("Content-Type", "text/event-stream; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("X-Accel-Buffering", "no") // nginx would collect the events
		e.started = true
	}
	// A deadline costs more than a piece: one in eight of stall is not asked for again.
	if now := time.Now(); now.Sub(e.patient) > e.stall/8 {
		e.patient = now
		Patience(e.control, e.stall)
	}
	defer e.buf.Reset()
	if _, err := e.w.Write(e.buf.Bytes()); err != nil {
		return err
	}
	if err := e.control.Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

// Patience gives the reader stall from now to take what is written next; 0 is for
// ever. Writers without deadlines (in tests) have none.
func Patience(c *http.ResponseController, stall time.Duration) {
	var t time.Time
	if stall > 0 {
		t = time.Now().Add(stall)
	}
	_ = c.SetWriteDeadline(t) // ErrNotSupported only: a dead connection fails at the write
}

// Encode writes v as JSON and a newline, with <, > and & as they are.
func Encode(b *bytes.Buffer, v any) error {
	enc := json.NewEncoder(b)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// Reply answers with v as JSON.
func Reply(w http.ResponseWriter, status int, stall time.Duration, v any) {
	var b bytes.Buffer
	if err := Encode(&b, v); err != nil { // NaN in a number: a bug, but the caller gets an answer
		status = http.StatusInternalServerError
		b.Reset()
		b.WriteString(`{"error":{"message":"the answer cannot be written as JSON","type":"server_error","param":null,"code":null}}` + "\n")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	Patience(http.NewResponseController(w), stall)
	_, _ = w.Write(b.Bytes()) // the reader is gone: nobody to tell
}
