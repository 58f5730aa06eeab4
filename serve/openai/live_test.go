package openai

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
)

// long is a request that goes on for as long as the context lets it.
const long = `{"model":"abc","prompt":"a","max_tokens":100000,"ignore_eos":true,"temperature":0,"stream":true}`

func lm(t *testing.T, reg *registry.Registry) *engine.Engine {
	t.Helper()
	m, release, err := reg.Acquire("abc")
	require.NoError(t, err)
	release()
	return m.LM
}

func open(t *testing.T, ctx context.Context, url, path, body string) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	return res
}

func idle(t *testing.T, e *engine.Engine) {
	t.Helper()
	require.Eventually(t, func() bool { s := e.Stats(); return s.Running == 0 && s.Waiting == 0 }, time.Minute, time.Millisecond)
}

// TestDisconnect: a reader that leaves frees its slot, and no goroutine stays.
func TestDisconnect(t *testing.T) {
	h, reg := newTest(t, Options{}, engine.Options{})
	srv := httptest.NewServer(h)
	defer srv.Close()
	e := lm(t, reg)
	before := goruntime.NumGoroutine()
	for range 20 {
		ctx, cancel := context.WithCancel(t.Context())
		res := open(t, ctx, srv.URL, textPath, long)
		_, err := bufio.NewReader(res.Body).ReadString('\n')
		require.NoError(t, err)
		cancel()
		res.Body.Close()
	}
	idle(t, e)
	require.EqualValues(t, 20, e.Stats().Cancelled["client"])
	http.DefaultClient.CloseIdleConnections()
	require.Eventually(t, func() bool { return goruntime.NumGoroutine() <= before+2 }, time.Minute, 10*time.Millisecond)

	// Whole answers are given up as well.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+textPath, strings.NewReader(strings.Replace(long, `"stream":true`, `"n":4`, 1)))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	_, err = http.DefaultClient.Do(req)
	require.Error(t, err)
	idle(t, e)
}

// TestStalledReader: who does not read is cut off at the deadline of a write.
func TestStalledReader(t *testing.T) {
	h, reg := newTest(t, Options{Stall: 100 * time.Millisecond}, engine.Options{})
	srv := httptest.NewUnstartedServer(h)
	ended := make(chan struct{})
	srv.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateClosed {
			close(ended)
		}
	}
	srv.Listener = smallBuffers{srv.Listener}
	srv.Start()
	defer srv.Close()
	conn, err := net.Dial("tcp", srv.Listener.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	body := strings.Replace(long, `"temperature":0`, `"temperature":0,"logprobs":5,"n":8`, 1)
	_, err = io.WriteString(conn, "POST "+textPath+" HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "+
		strconv.Itoa(len(body))+"\r\n\r\n"+body)
	require.NoError(t, err)
	select {
	case <-ended:
	case <-time.After(2 * time.Minute):
		t.Fatal("the stalled reader is still connected")
	}
	idle(t, lm(t, reg))
}

// smallBuffers are connections that take little before a write blocks.
type smallBuffers struct{ net.Listener }

func (l smallBuffers) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		err = c.(*net.TCPConn).SetWriteBuffer(4096)
	}
	return c, err
}

// TestBusy: beyond the queue requests are refused at once, with the time to come again.
func TestBusy(t *testing.T) {
	h, reg := newTest(t, Options{}, engine.Options{MaxRunning: 1, Queue: 1})
	e := lm(t, reg)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	fill := func() { // until the engine itself says that it is full
		for range 100 {
			if _, err := e.Submit(ctx, engine.Request{Prompt: []int32{'a'}, MaxTokens: 2000, IgnoreEOS: true}); err != nil {
				require.ErrorIs(t, err, engine.ErrFull)
				return
			}
		}
		t.Fatal("the queue is never full")
	}
	var w *httptest.ResponseRecorder
	for try := 0; try < 100 && (w == nil || w.Code != http.StatusTooManyRequests); try++ { // a slow machine may let one end in between
		fill()
		w = post(h, textPath, `{"model":"abc","prompt":"a","max_tokens":1}`)
	}
	require.Equal(t, http.StatusTooManyRequests, w.Code, w.Body)
	require.Contains(t, w.Body.String(), `"type":"rate_limit_error","param":null,"code":"queue_full"`)
	after, err := strconv.Atoi(w.Header().Get("Retry-After"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, after, 1)
	cancel()
	idle(t, e)

	// All choices or none: three do not fit, and none of them stays behind.
	w = post(h, textPath, strings.Replace(long, `"stream":true`, `"n":3`, 1))
	require.Equal(t, http.StatusTooManyRequests, w.Code)
	idle(t, e)
}

// TestBrokenStream: a failure after the first token is an event, then the end.
func TestBrokenStream(t *testing.T) {
	h, reg := newTest(t, Options{}, engine.Options{})
	srv := httptest.NewServer(h)
	defer srv.Close()
	res := open(t, t.Context(), srv.URL, textPath, strings.Replace(long, `"stream":true`, `"stream":true,"n":100`, 1))
	defer res.Body.Close()
	require.Equal(t, http.StatusOK, res.StatusCode)
	r := bufio.NewReader(res.Body)
	_, err := r.ReadString('\n')
	require.NoError(t, err)
	// The server is told to stop, and there is no time left to finish.
	over, cancel := context.WithCancel(t.Context())
	cancel()
	_ = lm(t, reg).Drain(over) // its error is that not all could finish
	b, err := io.ReadAll(r)
	require.NoError(t, err)
	events := strings.Split(strings.TrimSpace(string(b)), "\n\n")
	require.Equal(t, "data: [DONE]", events[len(events)-1])
	require.Equal(t, `data: {"error":{"message":"the model is being taken out of service","type":"server_error","param":null,"code":"shutting_down"}}`, events[len(events)-2])
	idle(t, lm(t, reg))
	w := post(h, textPath, long)
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
}

// TestEndBehindPiece: a request that ends with an error while a piece of it is waiting gives
// one token in ready for both, and its handler sees both.
func TestEndBehindPiece(t *testing.T) {
	_, reg := newTest(t, Options{}, engine.Options{})
	e := lm(t, reg)
	x := &texts{ready: make(chan struct{}, 1), ended: make([]bool, 1), used: make([]engine.Usage, 1), left: 1}
	s, err := e.Submit(t.Context(), engine.Request{Prompt: []int32{1}, MaxTokens: 100000, IgnoreEOS: true, Ready: x.ready})
	require.NoError(t, err)
	defer s.Close()
	x.streams = []*engine.Stream{s}
	require.Eventually(t, func() bool { return len(x.ready) == 1 }, time.Minute, time.Millisecond)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, e.Drain(over))
	<-x.ready
	require.Empty(t, x.ready)
	pieces := 0
	require.Error(t, x.each(func(int, engine.Event) error { pieces++; return nil }))
	require.Equal(t, 1, pieces)
}

// TestTimeout: a request that takes longer than the server allows ends with an error.
func TestTimeout(t *testing.T) {
	h, reg := newTest(t, Options{Timeout: time.Millisecond, Now: time.Now}, engine.Options{})
	w := post(h, textPath, strings.Replace(long, `"stream":true`, `"n":100`, 1))
	require.Equal(t, http.StatusServiceUnavailable, w.Code, w.Body)
	require.Contains(t, w.Body.String(), `"code":"timeout"`)
	idle(t, lm(t, reg))
}

// TestPing: a stream that has nothing to say shows that it lives.
func TestPing(t *testing.T) {
	h, reg := newTest(t, Options{}, engine.Options{MaxRunning: 1})
	h.ping = 20 * time.Millisecond
	srv := httptest.NewServer(h)
	defer srv.Close()
	ctx, cancel := context.WithCancel(t.Context())
	first := open(t, ctx, srv.URL, textPath, long)
	defer first.Body.Close()
	res := open(t, t.Context(), srv.URL, textPath, `{"model":"abc","prompt":"a","max_tokens":1,"stream":true}`)
	defer res.Body.Close()
	line, err := bufio.NewReader(res.Body).ReadString('\n')
	require.NoError(t, err)
	if !strings.HasPrefix(line, "data:") { // else the first had ended already
		require.Equal(t, ": still working\n", line)
	}
	cancel()
	_, _ = io.Copy(io.Discard, res.Body)
	idle(t, lm(t, reg))
}

func TestSeeds(t *testing.T) {
	h, _ := newTest(t, Options{}, engine.Options{})
	text := func(body string) string {
		w := post(h, textPath, body)
		require.Equal(t, 200, w.Code, w.Body)
		var a struct{ Choices []textChoice }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		out := ""
		for _, c := range a.Choices {
			out += c.Text + "|"
		}
		return out
	}
	// A bias of -100 on the alphabet's first letter leaves a choice among all others.
	const body = `{"model":"abc","prompt":" ","max_tokens":8,"temperature":2,"n":2,"logit_bias":{"97":-100},"seed":`
	one := text(body + `1}`)
	require.Equal(t, one, text(body+`1}`))
	require.NotEqual(t, one, text(body+`2}`))
	parts := strings.Split(one, "|")
	require.NotEqual(t, parts[0], parts[1], "choices differ")
}

func TestEmbeddings(t *testing.T) {
	h, _ := newTest(t, Options{}, engine.Options{})
	get := func(body string) (raw string, data []struct {
		Object    string
		Index     int
		Embedding json.RawMessage
	}) {
		w := post(h, vecPath, body)
		require.Equal(t, 200, w.Code, w.Body)
		var a struct {
			Object, Model string
			Data          []struct {
				Object    string
				Index     int
				Embedding json.RawMessage
			}
			Usage embeddingUsage
		}
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		require.Equal(t, "list", a.Object)
		require.Equal(t, "abc", a.Model)
		return w.Body.String(), a.Data
	}
	raw, data := get(`{"model":"abc","input":["ab","b"],"user":"u"}`)
	require.Contains(t, raw, `"usage":{"prompt_tokens":3,"total_tokens":3}`)
	require.Len(t, data, 2)
	var x []float32
	require.NoError(t, json.Unmarshal(data[0].Embedding, &x))
	require.Len(t, x, 320)
	// The mean of two one-hot vectors, of length 1.
	require.InDelta(t, math.Sqrt(0.5), x['a'], 1e-3)
	require.InDelta(t, math.Sqrt(0.5), x['b'], 1e-3)
	require.Equal(t, 1, data[1].Index)

	_, data = get(`{"model":"abc","input":[97,98],"encoding_format":"base64","pooling":"last"}`)
	var s string
	require.NoError(t, json.Unmarshal(data[0].Embedding, &s))
	b, err := base64.StdEncoding.DecodeString(s)
	require.NoError(t, err)
	require.Len(t, b, 4*320)
	require.InDelta(t, 1, math.Float32frombits(binary.LittleEndian.Uint32(b[4*'b':])), 1e-3)
}
