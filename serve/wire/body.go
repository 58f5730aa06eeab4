package wire

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
)

// Errors of Body.
var (
	ErrTooLarge = errors.New("request body too large")         // 413
	ErrEncoding = errors.New("content encoding not supported") // 415
	ErrType     = errors.New("content type not supported")     // 415
	ErrBody     = errors.New("cannot read the request body")   // 400, if anybody is still there
)

// Body reads a whole request body of at most limit bytes. types are the media
// types that it may have, "" among them for none given.
//
// Compressed bodies are refused: a server that takes them decodes before it comes
// here, under a bound of its own, and removes the Content-Encoding.
func Body(w http.ResponseWriter, r *http.Request, limit int64, types ...string) ([]byte, error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, fmt.Errorf("want identity, got %q: %w", clip(e), ErrEncoding)
	}
	mt := ""
	if ct := r.Header.Get("Content-Type"); ct != "" {
		var params map[string]string
		var err error
		mt, params, err = mime.ParseMediaType(ct)
		if cs, ok := params["charset"]; err != nil || ok && !strings.EqualFold(cs, "utf-8") {
			return nil, fmt.Errorf("got %q: %w", clip(ct), ErrType)
		}
	}
	if !slices.Contains(types, mt) {
		return nil, fmt.Errorf("want %s, got %q: %w", types[0], clip(mt), ErrType)
	}
	if r.ContentLength > limit {
		return nil, fmt.Errorf("want at most %d bytes, got %d: %w", limit, r.ContentLength, ErrTooLarge)
	}
	// The announced size is only a claim: start with no more than a little of it.
	body := make([]byte, 0, min(max(r.ContentLength, 512), 1<<16)+1)
	src := http.MaxBytesReader(w, r.Body, limit)
	for {
		if len(body) == cap(body) {
			body = slices.Grow(body, len(body))
		}
		n, err := src.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		var big *http.MaxBytesError
		switch {
		case err == io.EOF:
			return body, nil
		case errors.As(err, &big):
			return nil, fmt.Errorf("want at most %d bytes, got more: %w", big.Limit, ErrTooLarge)
		case err != nil:
			return nil, fmt.Errorf("%v: %w", err, ErrBody)
		}
	}
}

// clip keeps a stranger's text short in an error.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
