package oip

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/serve/wire"
	"github.com/sparserun/sparserun/strictjson"
)

// failure is an error as the protocol writes it.
type failure struct {
	http     int
	grpc     codes.Code
	message  string
	retry    time.Duration
	internal error // for the log
}

// Error is one line.
func (f *failure) Error() string { return f.message }

func bad(format string, args ...any) *failure {
	return &failure{http: http.StatusBadRequest, grpc: codes.InvalidArgument, message: fmt.Sprintf(format, args...)}
}

func notFound(format string, args ...any) *failure {
	return &failure{http: http.StatusNotFound, grpc: codes.NotFound, message: fmt.Sprintf(format, args...)}
}

// retryLater is how long a caller should wait for a model that is being loaded or a
// server that is being replaced.
const retryLater = 2 * time.Second

// statusGone is nginx's status for a caller that went away: it is only for the log.
const statusGone = 499

// explain turns any error into a failure.
func explain(err error) *failure {
	var f *failure
	var busy *engine.Busy
	var j *strictjson.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.As(err, &j):
		return bad("%v", j)
	case errors.Is(err, wire.ErrTooLarge):
		return &failure{http: http.StatusRequestEntityTooLarge, grpc: codes.ResourceExhausted, message: err.Error()}
	case errors.Is(err, wire.ErrEncoding), errors.Is(err, wire.ErrType):
		return &failure{http: http.StatusUnsupportedMediaType, grpc: codes.InvalidArgument, message: err.Error()}
	case errors.Is(err, wire.ErrBody):
		return bad("%v", err)
	case errors.Is(err, registry.ErrNotFound):
		return notFound("%v", err)
	case errors.Is(err, registry.ErrNotReady), errors.Is(err, registry.ErrClosed):
		return &failure{http: http.StatusServiceUnavailable, grpc: codes.Unavailable, message: err.Error(), retry: retryLater}
	case errors.Is(err, registry.ErrMemory), errors.Is(err, runtime.ErrMemory):
		return &failure{http: http.StatusServiceUnavailable, grpc: codes.ResourceExhausted, message: err.Error()}
	case errors.As(err, &busy):
		return &failure{http: http.StatusTooManyRequests, grpc: codes.ResourceExhausted, message: "too many requests are waiting: try again later", retry: max(busy.RetryAfter, time.Millisecond)}
	case errors.Is(err, engine.ErrFull):
		return &failure{http: http.StatusTooManyRequests, grpc: codes.ResourceExhausted, message: "too many requests are waiting: try again later", retry: retryLater}
	case errors.Is(err, engine.ErrDraining), errors.Is(err, engine.ErrClosed), errors.Is(err, runtime.ErrClosed):
		return &failure{http: http.StatusServiceUnavailable, grpc: codes.Unavailable, message: "the model is being taken out of service", retry: retryLater}
	case errors.Is(err, engine.ErrDeadline), errors.Is(err, context.DeadlineExceeded):
		return &failure{http: http.StatusServiceUnavailable, grpc: codes.DeadlineExceeded, message: "the request took too long", retry: retryLater}
	case errors.Is(err, context.Canceled):
		return &failure{http: statusGone, grpc: codes.Canceled, message: "the caller went away"}
	case errors.Is(err, runtime.ErrContext), errors.Is(err, runtime.ErrOption), errors.Is(err, runtime.ErrInput), errors.Is(err, runtime.ErrShape), errors.Is(err, engine.ErrKind), errors.Is(err, runtime.ErrUnsupported):
		return bad("%v", err)
	}
	// What went wrong inside is for the log, not for strangers.
	return &failure{http: http.StatusInternalServerError, grpc: codes.Internal, message: "internal failure", internal: err}
}

// loadFailure is explain for the repository, whose callers may know what is wrong with
// a model's files.
func loadFailure(err error) *failure {
	f := explain(err)
	if f.internal != nil {
		f = bad("the model cannot be loaded: %v", err)
		f.internal = err
	}
	return f
}

// unloadFailure is explain for the repository: what is not loaded is no server that will
// be ready soon, but a state in which there is nothing to unload.
func unloadFailure(err error) *failure {
	if errors.Is(err, registry.ErrNotReady) {
		return &failure{http: http.StatusConflict, grpc: codes.FailedPrecondition, message: err.Error()}
	}
	return explain(err)
}

// note logs a failure of ours.
func (s *server) note(ctx context.Context, f *failure) {
	if f.internal != nil {
		s.o.Log.ErrorContext(ctx, "oip: request failed", "error", f.internal.Error())
	}
}

// fail answers an HTTP request with an error.
func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	f := explain(err)
	s.note(r.Context(), f)
	if f.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(f.retry.Seconds()))))
	}
	wire.Reply(w, f.http, s.o.Stall, map[string]string{"error": f.message})
}

// status is the error of a gRPC call.
func (s *server) status(ctx context.Context, err error) error {
	f := explain(err)
	s.note(ctx, f)
	return status.Error(f.grpc, f.message)
}
