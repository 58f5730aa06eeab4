package serve

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"
)

// bodies reads request bodies before handlers see them, so that size, speed, memory and
// compression are bounded in one place: one body by max bytes (after decompression too)
// and by a deadline, all bodies together by memory.
type bodies struct {
	max     int64
	timeout time.Duration
	memory  int64
	used    atomic.Int64
}

// bodyError is a body that is refused, with the status that says so.
type bodyError struct {
	status int
	reason string
}

func (e *bodyError) Error() string { return e.reason }

func (b *bodies) tooLarge() error {
	return &bodyError{http.StatusRequestEntityTooLarge, fmt.Sprintf("request body is larger than %d bytes", b.max)}
}

// take asks for memory of all bodies together.
func (b *bodies) take(n int64) bool {
	if b.used.Add(n) > b.memory {
		b.used.Add(-n)
		return false
	}
	return true
}

// read replaces r.Body by one that is in memory. free gives its memory back.
func (b *bodies) read(w http.ResponseWriter, r *http.Request) (free func(), err error) {
	if r.Body == nil || r.Body == http.NoBody {
		return func() {}, nil
	}
	rc := http.NewResponseController(w)
	defer func() {
		if err != nil {
			// The server reads what is left of a body before it answers: not for long.
			w.Header().Set("Connection", "close")
			rc.SetReadDeadline(time.Now().Add(time.Second))
			return
		}
		// A deadline that stays would cancel the request's context when it passes: the
		// server reads on to notice that a client is gone.
		rc.SetReadDeadline(time.Time{})
	}()
	if r.ContentLength > b.max {
		return func() {}, b.tooLarge()
	}
	rc.SetReadDeadline(time.Now().Add(b.timeout))
	var held int64
	free = func() { b.used.Add(-held); held = 0 }
	take := func(n int64) bool {
		if !b.take(n) {
			return false
		}
		held += n
		return true
	}
	var src io.Reader = http.MaxBytesReader(w, r.Body, b.max)
	switch enc := strings.ToLower(r.Header.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip", "x-gzip":
		if src, err = gzip.NewReader(src); err != nil {
			return free, b.failed(err)
		}
	case "deflate":
		if src, err = zlib.NewReader(src); err != nil {
			return free, b.failed(err)
		}
	default:
		return free, &bodyError{http.StatusUnsupportedMediaType, fmt.Sprintf("Content-Encoding: want gzip, deflate or identity, got %.40q", enc)}
	}
	// A length that is claimed costs nothing before its bytes come: at most 64 KiB are
	// taken in advance, then the buffer doubles.
	size := int64(4 << 10)
	if r.ContentLength > 0 {
		size = min(r.ContentLength+1, 64<<10)
	}
	full := &bodyError{http.StatusServiceUnavailable, "too many request bodies in memory, try again"}
	if !take(size) {
		return free, full
	}
	buf := make([]byte, 0, size)
	for {
		n, err := src.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		if int64(len(buf)) > b.max {
			return free, b.tooLarge()
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return free, b.failed(err)
		}
		if len(buf) == cap(buf) {
			if size = min(2*int64(cap(buf)), b.max+1); !take(size) { // old and new at once
				return free, full
			}
			next := make([]byte, len(buf), size)
			copy(next, buf)
			old := int64(cap(buf))
			buf = next
			held -= old
			b.used.Add(-old)
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(buf))
	r.ContentLength = int64(len(buf))
	r.Header.Del("Content-Encoding")
	r.TransferEncoding = nil
	return free, nil
}

func (b *bodies) failed(err error) error {
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return b.tooLarge()
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &bodyError{http.StatusRequestTimeout, fmt.Sprintf("request body did not arrive within %v", b.timeout)}
	}
	return &bodyError{http.StatusBadRequest, "request body: " + err.Error()}
}
