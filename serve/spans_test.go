package serve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sparserun/sparserun/serve/oip/inference"
	"github.com/sparserun/sparserun/serve/otlp"
)

// TestSpans: requests' spans reach a collector, those of traces that nobody wants kept,
// and of probes, do not.
func TestSpans(t *testing.T) {
	type attribute struct {
		Key   string
		Value map[string]any
	}
	type span struct {
		TraceID, SpanID, ParentSpanID, Name string
		Attributes                          []attribute
		Status                              struct{ Code int }
	}
	var mu sync.Mutex
	got := map[string]span{} // by trace
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			ResourceSpans []struct{ ScopeSpans []struct{ Spans []span } }
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, s := range body.ResourceSpans[0].ScopeSpans[0].Spans {
			got[s.TraceID] = s
		}
	}))
	defer collector.Close()
	h := start(t, Options{GRPCAddr: "127.0.0.1:0", OTLPEndpoint: collector.URL}, story(t))
	trace := func(n, flags int) string { return fmt.Sprintf("00-%032x-b7ad6b7169203331-%02x", n, flags) }
	_, _, head := h.do("POST", "/v1/completions", completion(2, false), "Traceparent", trace(1, 1), "X-Request-Id", "mine")
	require.Equal(t, http.StatusOK, first(h.do("POST", "/v1/completions", completion(2, false), "Traceparent", trace(2, 0))))
	require.Equal(t, http.StatusOK, first(h.do("GET", "/livez", "", "Traceparent", trace(3, 1))))
	_, _, own := h.do("POST", "/v1/completions", completion(2, false))
	require.Regexp(t, `-01$`, own.Get("Traceparent"), "a trace that begins here is recorded")
	conn, err := grpc.NewClient(h.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer conn.Close()
	_, err = inference.NewGRPCInferenceServiceClient(conn).ModelInfer(t.Context(), &inference.ModelInferRequest{ModelName: "story"})
	require.Error(t, err)
	require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return len(got) == 3 }, 10*time.Second, 10*time.Millisecond)
	_, body, _ := h.get("/metrics")
	require.Regexp(t, `(?m)^sparserun_spans_exported_total 3$`, body)
	require.Contains(t, body, `sparserun_spans_dropped_total{reason="full"} 0`)
	mu.Lock()
	defer mu.Unlock()
	s := got[fmt.Sprintf("%032x", 1)]
	require.Equal(t, "POST /v1/completions", s.Name)
	require.Equal(t, "b7ad6b7169203331", s.ParentSpanID)
	require.Equal(t, strings.Split(head.Get("Traceparent"), "-")[2], s.SpanID)
	require.Contains(t, s.Attributes, attribute{"sparserun.model", map[string]any{"stringValue": "story"}})
	require.Contains(t, s.Attributes, attribute{"sparserun.request", map[string]any{"stringValue": "mine"}})
	require.Contains(t, s.Attributes, attribute{"http.response.status_code", map[string]any{"intValue": "200"}})
	require.Contains(t, got, strings.Split(own.Get("Traceparent"), "-")[1])
	delete(got, s.TraceID)
	delete(got, strings.Split(own.Get("Traceparent"), "-")[1])
	for _, s := range got {
		require.Equal(t, "inference.GRPCInferenceService/ModelInfer", s.Name)
		require.Contains(t, s.Attributes, attribute{"rpc.grpc.status_code", map[string]any{"intValue": "3"}})
	}
}

func first(status int, _ string, _ http.Header) int { return status }

// TestStalledCollector: requests and the drain do not wait for one.
func TestStalledCollector(t *testing.T) {
	hold := make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	defer collector.Close()
	defer close(hold)
	h := start(t, Options{OTLPEndpoint: collector.URL}, story(t))
	require.Less(t, h.latency(20), time.Second)
	for range 3000 { // more than the queue holds: refused by the router, spans all the same
		h.get("/v1/nothing")
	}
	_, body, _ := h.get("/metrics")
	require.Regexp(t, `sparserun_spans_dropped_total\{reason="full"\} [1-9]`, body)
	require.Less(t, h.latency(5), time.Second)
	begin := time.Now()
	h.stop()
	err := <-h.done
	h.done <- err // for the end of the test
	require.NoError(t, err)
	require.Less(t, time.Since(begin), 10*time.Second)
	_, err = New(h.reg, Options{Addr: "127.0.0.1:0", OTLPEndpoint: "4318"})
	require.ErrorIs(t, err, otlp.ErrOption)
}
