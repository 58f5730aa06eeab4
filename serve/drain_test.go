package serve

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sparserun/sparserun/serve/oip/inference"
)

// TestDrain walks the end of a server: not ready at once, serving through the grace time,
// then closed, with what was in flight finished.
func TestDrain(t *testing.T) {
	h := start(t, Options{Grace: 700 * time.Millisecond}, story(t))
	slow := make(chan streamed, 1)
	begun := make(chan struct{})
	go func() {
		slow <- h.stream(context.Background(), 400, func(n int) bool {
			if n == 1 {
				close(begun)
				time.Sleep(1500 * time.Millisecond) // past the grace time
			}
			return true
		})
	}()
	<-begun
	h.stop()
	require.Eventually(t, func() bool {
		status, body, _ := h.get("/readyz")
		return status == http.StatusServiceUnavailable && body == `{"ready":false,"reason":"shutting down"}`+"\n"
	}, 500*time.Millisecond, 5*time.Millisecond)
	status, _, _ := h.get("/v2/health/ready")
	require.Equal(t, http.StatusServiceUnavailable, status)
	status, _, _ = h.get("/livez")
	require.Equal(t, http.StatusOK, status)
	resp, err := h.client.Post(h.url+"/v1/completions", "application/json", strings.NewReader(completion(3, false)))
	require.NoError(t, err)
	resp.Body.Close()
	require.Equal(t, http.StatusOK, resp.StatusCode, "within the grace time")
	require.True(t, resp.Close, "clients are sent elsewhere")
	require.Eventually(t, func() bool {
		resp, err := h.client.Get(h.url + "/livez")
		if err == nil {
			resp.Body.Close()
		}
		return err != nil
	}, 5*time.Second, 10*time.Millisecond, "the listener closes after the grace time")
	r := <-slow
	require.NoError(t, r.err)
	require.True(t, r.done)
	require.Equal(t, "length", r.finish)
	require.Empty(t, r.fault)
}

func TestNotReadyWhileLoading(t *testing.T) {
	h := start(t, Options{}, story(t))
	h.ready.Store(false)
	status, body, _ := h.get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "loading models")
	h.SetReady()
	status, _, _ = h.get("/readyz")
	require.Equal(t, http.StatusOK, status)
}

func TestClose(t *testing.T) {
	h := start(t, Options{Grace: time.Minute}, story(t))
	h.stop()
	time.Sleep(20 * time.Millisecond)
	require.NoError(t, h.Close())
	require.ErrorIs(t, <-h.done, ErrForced)
	h.done <- nil // what the harness waits for
}

// TestGRPC: keys, ids, counts and panics are as with HTTP.
func TestGRPC(t *testing.T) {
	keys, err := LoadKeys(keyFile(t, "alice "+secret))
	require.NoError(t, err)
	h := start(t, Options{GRPCAddr: "127.0.0.1:0", Keys: keys}, story(t))
	conn, err := grpc.NewClient(h.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	c := inference.NewGRPCInferenceServiceClient(conn)
	live, err := c.ServerLive(t.Context(), &inference.ServerLiveRequest{})
	require.NoError(t, err)
	require.True(t, live.Live)
	health := healthpb.NewHealthClient(conn)
	st, err := health.Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_SERVING, st.Status)
	_, err = c.ModelReady(t.Context(), &inference.ModelReadyRequest{Name: "story"})
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	ctx := metadata.AppendToOutgoingContext(t.Context(), "authorization", "Bearer "+secret, "x-request-id", "mine-2")
	var head metadata.MD
	ready, err := c.ModelReady(ctx, &inference.ModelReadyRequest{Name: "story"}, grpc.Header(&head))
	require.NoError(t, err)
	require.True(t, ready.Ready)
	require.Equal(t, []string{"mine-2"}, head.Get("x-request-id"))
	require.Len(t, head.Get("traceparent"), 1)
	_, page, _ := h.get("/metrics", "Authorization", "Bearer "+secret)
	require.Contains(t, page, `sparserun_requests_total{code="401",endpoint="grpc/ModelReady",model=""} 1`)
	require.Contains(t, page, `endpoint="grpc/ModelReady",model="story"} 1`)

	err = h.call(t.Context(), "/x/Panics", func(context.Context) error { panic("on purpose") })
	require.Equal(t, codes.Unauthenticated, status.Code(err))
	h.o.Keys = nil
	err = h.call(t.Context(), "/x/Panics", func(context.Context) error { panic("on purpose") })
	require.Equal(t, codes.Internal, status.Code(err))
	require.NotContains(t, err.Error(), "on purpose")
	require.Contains(t, h.log.String(), "on purpose")

	h.draining.Store(true)
	st, err = health.Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, healthpb.HealthCheckResponse_NOT_SERVING, st.Status)
}

// TestGRPCArrival: a message has BodyTimeout to come, a stream may wait for its next one;
// messages at work share the memory of HTTP's bodies.
func TestGRPCArrival(t *testing.T) {
	h := start(t, Options{GRPCAddr: "127.0.0.1:0", BodyTimeout: 200 * time.Millisecond}, story(t))
	conn, err := grpc.NewClient(h.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	c := inference.NewGRPCInferenceServiceClient(conn)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	idle, err := c.ModelStreamInfer(ctx)
	require.NoError(t, err)

	begin := time.Now()
	never, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, inference.GRPCInferenceService_ModelInfer_FullMethodName)
	require.NoError(t, err)
	err = never.RecvMsg(&inference.ModelInferResponse{})
	require.Equal(t, codes.DeadlineExceeded, status.Code(err), err)
	require.Less(t, time.Since(begin), 10*time.Second)

	require.NoError(t, idle.Send(&inference.ModelInferRequest{ModelName: "nobody"}))
	answer, err := idle.Recv()
	require.NoError(t, err)
	require.Contains(t, answer.ErrorMessage, "no such model")

	ask := &inference.ModelReadyRequest{Name: "story"}
	h.bodies.used.Add(h.bodies.memory)
	_, err = c.ModelReady(ctx, ask)
	require.Equal(t, codes.ResourceExhausted, status.Code(err), err)
	h.bodies.used.Add(-h.bodies.memory)
	_, err = c.ModelReady(ctx, ask)
	require.NoError(t, err)
	require.Zero(t, h.bodies.used.Load())
}
