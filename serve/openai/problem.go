package openai

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/serve/wire"
)

// The types of errors, as OpenAI names them.
const (
	typeRequest = "invalid_request_error"
	typeLimit   = "rate_limit_error"
	typeServer  = "server_error"
)

// statusGone is nginx's status for a caller that went away: it is only for the log.
const statusGone = 499

// problem is an error as the API writes it.
type problem struct {
	Status        int
	Message, Type string
	Param, Code   string // "" is null
	RetryAfter    time.Duration
	internal      error // for the log
}

// Error is one line.
func (p *problem) Error() string { return p.Message }

type problemBody struct {
	Error struct {
		Message string  `json:"message"`
		Type    string  `json:"type"`
		Param   *string `json:"param"`
		Code    *string `json:"code"`
	} `json:"error"`
}

func (p *problem) body() (b problemBody) {
	b.Error.Message, b.Error.Type = p.Message, p.Type
	if p.Param != "" {
		b.Error.Param = &p.Param
	}
	if p.Code != "" {
		b.Error.Code = &p.Code
	}
	return b
}

// bad is the error of a field.
func bad(param, format string, args ...any) *problem {
	return &problem{Status: http.StatusBadRequest, Type: typeRequest, Param: param, Code: "invalid_value", Message: param + ": " + fmt.Sprintf(format, args...)}
}

// unsupported is the error of a field that OpenAI has and this server does not.
func unsupported(param string) *problem {
	return &problem{Status: http.StatusBadRequest, Type: typeRequest, Param: param, Code: "unsupported_parameter", Message: param + ": not supported by this server"}
}

// tooLong is the error of a prompt beyond the context.
func tooLong(param string, context, tokens int) *problem {
	return &problem{Status: http.StatusBadRequest, Type: typeRequest, Param: param, Code: "context_length_exceeded",
		Message: fmt.Sprintf("%s: this model's context is %d tokens, prompt and output together; the prompt has %d", param, context, tokens)}
}

// retryLater is how long a caller should wait for a model that is being loaded or a
// server that is being replaced.
const retryLater = 2 * time.Second

// explain turns any error into a problem.
func explain(err error) *problem {
	var p *problem
	var busy *engine.Busy
	switch {
	case errors.As(err, &p):
		return p
	case errors.Is(err, wire.ErrTooLarge):
		return &problem{Status: http.StatusRequestEntityTooLarge, Type: typeRequest, Code: "request_too_large", Message: err.Error()}
	case errors.Is(err, wire.ErrEncoding), errors.Is(err, wire.ErrType):
		return &problem{Status: http.StatusUnsupportedMediaType, Type: typeRequest, Code: "unsupported_media_type", Message: err.Error()}
	case errors.Is(err, wire.ErrBody):
		return &problem{Status: http.StatusBadRequest, Type: typeRequest, Code: "unreadable_body", Message: err.Error()}
	case errors.Is(err, registry.ErrNotFound):
		return &problem{Status: http.StatusNotFound, Type: typeRequest, Param: "model", Code: "model_not_found", Message: err.Error()}
	case errors.Is(err, registry.ErrNotReady), errors.Is(err, registry.ErrClosed):
		return &problem{Status: http.StatusServiceUnavailable, Type: typeServer, Param: "model", Code: "model_not_ready", Message: err.Error(), RetryAfter: retryLater}
	case errors.As(err, &busy):
		return &problem{Status: http.StatusTooManyRequests, Type: typeLimit, Code: "queue_full", Message: "too many requests are waiting: try again later", RetryAfter: max(busy.RetryAfter, time.Millisecond)}
	case errors.Is(err, engine.ErrFull):
		return &problem{Status: http.StatusTooManyRequests, Type: typeLimit, Code: "queue_full", Message: "too many requests are waiting: try again later", RetryAfter: retryLater}
	case errors.Is(err, engine.ErrDraining), errors.Is(err, engine.ErrClosed), errors.Is(err, runtime.ErrClosed):
		return &problem{Status: http.StatusServiceUnavailable, Type: typeServer, Code: "shutting_down", Message: "the model is being taken out of service", RetryAfter: retryLater}
	case errors.Is(err, engine.ErrDeadline), errors.Is(err, context.DeadlineExceeded):
		return &problem{Status: http.StatusServiceUnavailable, Type: typeServer, Code: "timeout", Message: "the request took too long", RetryAfter: retryLater}
	case errors.Is(err, context.Canceled):
		return &problem{Status: statusGone, Type: typeRequest, Code: "cancelled", Message: "the caller went away"}
	case errors.Is(err, runtime.ErrContext):
		return &problem{Status: http.StatusBadRequest, Type: typeRequest, Code: "context_length_exceeded", Message: err.Error()}
	case errors.Is(err, runtime.ErrOption), errors.Is(err, runtime.ErrInput), errors.Is(err, engine.ErrKind):
		return &problem{Status: http.StatusBadRequest, Type: typeRequest, Code: "invalid_value", Message: err.Error()}
	}
	// What went wrong inside is for the log, not for strangers.
	return &problem{Status: http.StatusInternalServerError, Type: typeServer, Message: "internal failure", internal: err}
}

// fail answers with an error.
func (h *handler) fail(w http.ResponseWriter, r *http.Request, err error) {
	p := explain(err)
	h.note(r.Context(), p)
	p.retry(w.Header())
	wire.Reply(w, p.Status, h.o.Stall, p.body())
}

// note logs a failure of ours.
func (h *handler) note(ctx context.Context, p *problem) {
	if p.internal != nil {
		h.o.Log.ErrorContext(ctx, "openai: request failed", "error", p.internal.Error())
	}
}

// retry says when to come again: in whole seconds for everybody, and to the
// millisecond as OpenAI's own clients read it.
func (p *problem) retry(h http.Header) {
	if p.RetryAfter > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(p.RetryAfter.Seconds()))))
		h.Set("Retry-After-Ms", strconv.FormatInt(max(p.RetryAfter.Milliseconds(), 1), 10))
	}
}

// clip keeps a stranger's text short in an error.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "..."
	}
	return s
}
