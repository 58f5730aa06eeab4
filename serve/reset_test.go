package serve

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	goruntime "runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/sparserun/sparserun/serve/oip/inference"
)

// Frames of HTTP/2 (RFC 9113), written by hand: no client library resets like this.
const (
	frameData, frameHeaders, frameReset, frameSettings = 0, 1, 3, 4
	flagEndStream, flagEndHeaders                      = 1, 4
)

func appendFrame(b []byte, kind, flags byte, stream uint32, payload []byte) []byte {
	b = append(b, byte(len(payload)>>16), byte(len(payload)>>8), byte(len(payload)), kind, flags)
	return append(binary.BigEndian.AppendUint32(b, stream), payload...)
}

// appendField is a header field of HPACK, not indexed, with a name of the static table.
func appendField(b []byte, name byte, value string) []byte {
	if name < 15 {
		b = append(b, name)
	} else {
		b = append(b, 15, name-15)
	}
	return append(append(b, byte(len(value))), value...)
}

// rapidReset opens streams with head and body and resets them at once, in waves of as many
// as may be open, n in all or until the server drops the connection. It returns how many it sent, and whether it was dropped.
func rapidReset(t *testing.T, c net.Conn, n int, head, body []byte) (sent int, dropped bool) {
	t.Helper()
	var gone atomic.Bool
	done := make(chan struct{})
	go func() { // what the server says is read, so that it is not the one that waits
		defer close(done)
		io.Copy(io.Discard, c)
		gone.Store(true)
	}()
	hello := appendFrame([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frameSettings, 0, 0, nil)
	_, err := c.Write(appendFrame(hello, frameSettings, 1, 0, nil)) // and the acknowledgement of the server's
	require.NoError(t, err)
	w := bufio.NewWriterSize(c, 32<<10)
	c.SetWriteDeadline(time.Now().Add(20 * time.Second))
	const wave = 100 // fewer than a connection may have open
	for ; sent+wave <= n && err == nil && !gone.Load(); sent += wave {
		var b []byte
		for i := range wave {
			id := uint32(2*(sent+i) + 1)
			b = appendFrame(b, frameHeaders, flagEndHeaders, id, head)
			b = appendFrame(b, frameData, flagEndStream, id, body)
		}
		for i := range wave {
			b = appendFrame(b, frameReset, 0, uint32(2*(sent+i)+1), []byte{0, 0, 0, 8}) // CANCEL
		}
		_, err = w.Write(b)
	}
	if err == nil {
		err = w.Flush()
	}
	select {
	case <-done:
	case <-time.After(500 * time.Millisecond):
	}
	dropped = err != nil || gone.Load()
	c.Close()
	<-done
	return sent, dropped
}

var errBusy = errors.New("come again")

// TestRapidReset (CVE-2023-44487): streams that are opened and reset at once, thousands on
// a connection, on both listeners that speak HTTP/2. The work they start is bounded by the
// streams that a connection may have, others are answered meanwhile, and nothing is left.
func TestRapidReset(t *testing.T) {
	cert, key, _ := pair(t, "server", nil)
	const streams, conns = 5000, 3 // whose 384 streams leave room in the queue
	limit := 128 * conns           // at work; MaxConcurrentStreams of each connection
	attack := func(t *testing.T, h *harness, dial func() net.Conn, head, body []byte, other func() error) {
		before := goruntime.NumGoroutine()
		var busiest, most atomic.Int64
		stop, watched := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(watched)
			for {
				busiest.Store(max(busiest.Load(), h.inFlight.Load()))
				most.Store(max(most.Load(), int64(goruntime.NumGoroutine()-before)))
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
				}
			}
		}()
		type result struct {
			sent    int
			dropped bool
		}
		results := make(chan result, conns)
		for range conns {
			c := dial()
			go func() {
				sent, dropped := rapidReset(t, c, streams, head, body)
				results <- result{sent, dropped}
			}()
		}
		// What was reset stands in the queue until the next step: a starved engine may say for
		// a moment that others shall come again.
		answered := func(who string) {
			begin := time.Now()
			err := other()
			for ; errors.Is(err, errBusy) && time.Since(begin) < 5*time.Second; err = other() {
				time.Sleep(20 * time.Millisecond)
			}
			require.NoError(t, err, who)
			require.Less(t, time.Since(begin), 5*time.Second, "%s waits for it", who)
		}
		for range 5 {
			answered("another client")
		}
		sent, dropped := 0, 0
		for range conns {
			r := <-results
			sent += r.sent
			dropped += one(r.dropped)
		}
		close(stop)
		<-watched
		t.Logf("%d streams, %d of %d connections dropped, %d requests at work and %d goroutines at most", sent, dropped, conns, busiest.Load(), most.Load())
		require.LessOrEqual(t, busiest.Load(), int64(limit+1))
		require.Less(t, most.Load(), int64(2*limit+200))
		answered("a new connection")
		h.idle()
		m, release, err := h.reg.Acquire("story")
		require.NoError(t, err)
		defer release()
		st := m.LM.Stats()
		require.LessOrEqual(t, st.Accepted, uint64(sent+6))
	}

	t.Run("https", func(t *testing.T) {
		h := start(t, Options{TLSCert: cert, TLSKey: key}, story(t))
		h.url = "https://" + h.Addr()
		pool := x509.NewCertPool()
		own, err := tls.LoadX509KeyPair(cert, key)
		require.NoError(t, err)
		pool.AddCert(own.Leaf)
		h.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true, DisableKeepAlives: true}
		dial := func() net.Conn {
			c, err := tls.Dial("tcp", h.Addr(), &tls.Config{RootCAs: pool, NextProtos: []string{"h2"}})
			require.NoError(t, err)
			require.Equal(t, "h2", c.ConnectionState().NegotiatedProtocol)
			return c
		}
		head := []byte{0x83, 0x87} // :method POST, :scheme https
		head = appendField(head, 4, "/v1/completions")
		head = appendField(head, 1, "localhost")
		head = appendField(head, 31, "application/json")
		attack(t, h, dial, head, []byte(completion(400, true)), func() error {
			r := h.stream(t.Context(), 1, nil)
			if r.status == http.StatusTooManyRequests {
				return errBusy
			}
			if r.err == nil && !r.done {
				return fmt.Errorf("status %d", r.status)
			}
			return r.err
		})
	})
	t.Run("grpc", func(t *testing.T) {
		h := start(t, Options{GRPCAddr: "127.0.0.1:0"}, story(t))
		r := &inference.ModelInferRequest{ModelName: "story",
			Inputs:     []*inference.ModelInferRequest_InferInputTensor{{Name: "text_input", Datatype: "BYTES", Shape: []int64{1}, Contents: &inference.InferTensorContents{BytesContents: [][]byte{[]byte("Once")}}}},
			Parameters: map[string]*inference.InferParameter{"max_tokens": {ParameterChoice: &inference.InferParameter_Int64Param{Int64Param: 400}}}}
		message, err := proto.Marshal(r)
		require.NoError(t, err)
		body := append([]byte{0, 0, 0, 0, byte(len(message))}, message...)
		head := []byte{0x83, 0x86} // :method POST, :scheme http
		head = appendField(head, 4, "/inference.GRPCInferenceService/ModelInfer")
		head = appendField(head, 1, "localhost")
		head = appendField(head, 31, "application/grpc")
		head = append(append(head, 0, 2), "te\x08trailers"...)
		dial := func() net.Conn {
			c, err := net.Dial("tcp", h.GRPCAddr())
			require.NoError(t, err)
			return c
		}
		attack(t, h, dial, head, body, func() error {
			conn, err := grpc.NewClient(h.GRPCAddr(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return err
			}
			defer conn.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			r := proto.CloneOf(r)
			r.Parameters["max_tokens"] = &inference.InferParameter{ParameterChoice: &inference.InferParameter_Int64Param{Int64Param: 1}}
			_, err = inference.NewGRPCInferenceServiceClient(conn).ModelInfer(ctx, r)
			if status.Code(err) == codes.ResourceExhausted {
				return errBusy
			}
			return err
		})
	})
}
