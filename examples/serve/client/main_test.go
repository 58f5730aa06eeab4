package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestClient(t *testing.T) {
	calls := 0
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		switch {
		case r.Header.Get("Authorization") != "Bearer k":
			http.Error(w, "who?", http.StatusUnauthorized)
		case calls == 1:
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(http.StatusTooManyRequests)
		case r.URL.Path == "/v1/chat/completions":
			fmt.Fprint(w, ": ping\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"b\"}}]}\n\ndata: [DONE]\n\n")
		default:
			fmt.Fprint(w, "data: {\"choices\":[{\"text\":\"c\"}]}\n\ndata: {\"error\":{\"message\":\"shutting down\"}}\n\ndata: [DONE]\n\n")
		}
	}))
	defer s.Close()
	var out bytes.Buffer
	require.NoError(t, client{s.URL, "k"}.write(context.Background(), &out, "m", "p", 2, true))
	require.Equal(t, "ab\n", out.String())
	require.Equal(t, 2, calls, "once again after 429")
	require.ErrorContains(t, client{s.URL, "k"}.write(context.Background(), &out, "m", "p", 2, false), "shutting down")
	require.ErrorContains(t, client{s.URL, ""}.write(context.Background(), &out, "m", "p", 2, true), "401")
}
