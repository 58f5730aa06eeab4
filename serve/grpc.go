package serve

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	"github.com/sparserun/sparserun/serve/otlp"
)

// grpcStreams is how many calls a connection may have at work: each may be a message that
// is arriving, of MaxBody at most, for BodyTimeout at most.
const grpcStreams = 32

// arrival is the context of a call: late ends it as a deadline does, before its handler
// has begun.
type arrival struct {
	context.Context
	late atomic.Bool
}

// Err says why a call that is late has ended.
func (a *arrival) Err() error {
	err := a.Context.Err()
	if err != nil && a.late.Load() {
		return context.DeadlineExceeded
	}
	return err
}

type arrivalKey struct{}

// arriving gives the message of a call BodyTimeout to come. Interceptors, which are called
// when it is here, or for a stream before its first, call arrived.
func (s *Server) arriving(ctx context.Context, _ *tap.Info) (context.Context, error) {
	ctx, cancel := context.WithCancel(ctx)
	a := &arrival{}
	timer := time.AfterFunc(s.o.BodyTimeout, func() {
		a.late.Store(true)
		cancel()
	})
	context.AfterFunc(ctx, func() { timer.Stop() })
	a.Context = context.WithValue(ctx, arrivalKey{}, timer)
	return a, nil
}

func arrived(ctx context.Context) {
	if t, ok := ctx.Value(arrivalKey{}).(*time.Timer); ok {
		t.Stop()
	}
}

// grpcOptions give gRPC what the middleware gives HTTP.
func (s *Server) grpcOptions(t *tls.Config) []grpc.ServerOption {
	o := []grpc.ServerOption{
		grpc.MaxRecvMsgSize(int(min(s.o.MaxBody, 1<<31-1))), grpc.MaxSendMsgSize(1<<31 - 1),
		grpc.MaxHeaderListSize(uint32(s.o.MaxHeader)), grpc.MaxConcurrentStreams(grpcStreams), grpc.ConnectionTimeout(s.o.HeaderTimeout),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: 10 * time.Minute, Time: time.Minute, Timeout: s.o.WriteTimeout}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}),
		grpc.InTapHandle(s.arriving), grpc.UnaryInterceptor(s.unary), grpc.StreamInterceptor(s.stream),
	}
	if t != nil {
		t = t.Clone()
		t.NextProtos = []string{"h2"}
		o = append(o, grpc.Creds(credentials.NewTLS(t)))
	}
	return o
}

func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (out any, err error) {
	arrived(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, s.o.Timeout+5*time.Second, context.DeadlineExceeded)
	defer cancel()
	err = s.call(ctx, info.FullMethod, func(ctx context.Context) (err error) {
		if m, ok := req.(proto.Message); ok { // in the same account as the bodies of HTTP
			n := int64(proto.Size(m))
			if !s.bodies.take(n) {
				return status.Error(codes.ResourceExhausted, "too many request bodies in memory, try again")
			}
			defer s.bodies.used.Add(-n)
		}
		out, err = next(ctx, req)
		return err
	})
	return out, err
}

func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	arrived(ss.Context())
	return s.call(ss.Context(), info.FullMethod, func(ctx context.Context) error {
		return next(srv, &serverStream{ss, ctx})
	})
}

type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context carries the request.
func (s *serverStream) Context() context.Context { return s.ctx }

// call runs one RPC: id, trace, key, panic, count, log.
func (s *Server) call(ctx context.Context, method string, f func(context.Context) error) (err error) {
	start := time.Now()
	md, _ := metadata.FromIncomingContext(ctx)
	get := func(k string) string {
		if v := md.Get(k); len(v) > 0 {
			return v[0]
		}
		return ""
	}
	q := &request{id: requestID(get("x-request-id")), trace: startTrace(get("traceparent"), s.spans != nil)}
	grpc.SetHeader(ctx, metadata.Pairs("x-request-id", q.id, "traceparent", q.trace.header()))
	end := "grpc" + method[strings.LastIndexByte(method, '/'):]
	s.inFlight.Add(1)
	defer s.inFlight.Add(-1)
	defer func() {
		if p := recover(); p != nil {
			s.metrics.panics.Inc()
			s.log.Error("panic in a handler", "request", q.id, "method", method, "panic", p, "stack", string(debug.Stack()))
			err = status.Error(codes.Internal, "internal error")
		}
		code, took := status.Code(err), time.Since(start)
		s.metrics.request(q.modelName(), end, httpCode(code), took)
		level := slog.LevelInfo
		if !strings.Contains(method, "Infer") {
			level = slog.LevelDebug
		} else {
			service, rpc, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/")
			s.export(q, service+"/"+rpc, start, took, httpCode(code) >= 500, otlp.Attribute{Key: "rpc.system", Value: "grpc"},
				otlp.Attribute{Key: "rpc.service", Value: service}, otlp.Attribute{Key: "rpc.method", Value: rpc}, otlp.Attribute{Key: "rpc.grpc.status_code", Value: int64(code)})
		}
		s.log.Log(context.Background(), level, "request", "request", q.id, "trace", q.trace.id, "span", q.trace.span, "parent", q.trace.parent,
			"method", method, "status", code.String(), "seconds", took.Seconds(), "client", q.client, "model", q.modelName())
	}()
	if s.o.Keys != nil && !strings.HasPrefix(method, "/grpc.health.") && !strings.HasSuffix(method, "/ServerLive") && !strings.HasSuffix(method, "/ServerReady") {
		name, ok := s.o.Keys.Name(bearer(http.Header{"Authorization": md.Get("authorization"), "X-Api-Key": md.Get("x-api-key")}))
		if !ok {
			return status.Error(codes.Unauthenticated, "missing or unknown API key")
		}
		q.client = name
	}
	return f(context.WithValue(ctx, requestKey{}, q))
}

// httpCode is the HTTP status that says what a gRPC code says, so that one label serves
// both.
func httpCode(c codes.Code) int {
	switch c {
	case codes.OK:
		return http.StatusOK
	case codes.Canceled:
		return statusClosed
	case codes.InvalidArgument, codes.OutOfRange, codes.FailedPrecondition:
		return http.StatusBadRequest
	case codes.Unauthenticated:
		return http.StatusUnauthorized
	case codes.PermissionDenied:
		return http.StatusForbidden
	case codes.NotFound:
		return http.StatusNotFound
	case codes.ResourceExhausted:
		return http.StatusTooManyRequests
	case codes.Unimplemented:
		return http.StatusNotImplemented
	case codes.Unavailable:
		return http.StatusServiceUnavailable
	case codes.DeadlineExceeded:
		return http.StatusGatewayTimeout
	}
	return http.StatusInternalServerError
}
