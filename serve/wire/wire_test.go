package wire

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	goruntime "runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/require"
)

func request(body io.Reader, headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/", body)
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestBody(t *testing.T) {
	long := strings.Repeat("x", 100)
	for name, c := range map[string]struct {
		r    *http.Request
		want error
	}{
		"plain":             {request(strings.NewReader(long), "Content-Type", "application/json"), nil},
		"charset":           {request(strings.NewReader(long), "Content-Type", "application/json; charset=UTF-8"), nil},
		"identity":          {request(strings.NewReader(long), "Content-Type", "application/json", "Content-Encoding", "identity"), nil},
		"one byte a time":   {request(iotest.OneByteReader(strings.NewReader(long)), "Content-Type", "application/json"), nil},
		"no type":           {request(strings.NewReader(long)), ErrType},
		"form":              {request(strings.NewReader(long), "Content-Type", "application/x-www-form-urlencoded"), ErrType},
		"other charset":     {request(strings.NewReader(long), "Content-Type", "application/json; charset=utf-16"), ErrType},
		"nonsense":          {request(strings.NewReader(long), "Content-Type", ";;"), ErrType},
		"gzip":              {request(strings.NewReader(long), "Content-Type", "application/json", "Content-Encoding", "gzip"), ErrEncoding},
		"announced too big": {request(strings.NewReader(long+"x"), "Content-Type", "application/json"), ErrTooLarge},
		"chunked too big":   {request(struct{ io.Reader }{strings.NewReader(long + "x")}, "Content-Type", "application/json"), ErrTooLarge},
		"broken off":        {request(iotest.TimeoutReader(iotest.HalfReader(strings.NewReader(long))), "Content-Type", "application/json"), ErrBody},
	} {
		b, err := Body(httptest.NewRecorder(), c.r, 100, "application/json")
		if c.want != nil {
			require.ErrorIs(t, err, c.want, name)
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, long, string(b), name)
	}
}

// TestBodyMemory: a length that is only announced costs nothing.
func TestBodyMemory(t *testing.T) {
	r := request(strings.NewReader("x"), "Content-Type", "application/json")
	r.ContentLength = 1 << 40
	var before, after goruntime.MemStats
	goruntime.ReadMemStats(&before)
	_, err := Body(httptest.NewRecorder(), r, 1<<41, "application/json")
	goruntime.ReadMemStats(&after)
	require.NoError(t, err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

func TestEvents(t *testing.T) {
	w := httptest.NewRecorder()
	e := NewEvents(w, time.Second)
	require.NoError(t, e.Flush())
	require.False(t, e.Started(), "nothing to send is nothing sent")
	require.NoError(t, e.Data(map[string]string{"a": "<\n>"}))
	e.Comment("hello")
	e.Text("[DONE]")
	require.Zero(t, w.Body.Len(), "events wait for Flush")
	require.NoError(t, e.Flush())
	require.True(t, e.Started())
	require.True(t, w.Flushed)
	require.Equal(t, "data: {\"a\":\"<\\n>\"}\n\n: hello\n\ndata: [DONE]\n\n", w.Body.String())
	require.Equal(t, "text/event-stream; charset=utf-8", w.Header().Get("Content-Type"))
	require.Equal(t, "no-cache", w.Header().Get("Cache-Control"))
	require.Error(t, e.Data(func() {}))
	require.NoError(t, e.Flush())
	require.True(t, strings.HasSuffix(w.Body.String(), "[DONE]\n\n"), "nothing of what failed is sent")
}

type deadWriter struct{ http.ResponseWriter }

var errDead = errors.New("dead")

func (deadWriter) Write([]byte) (int, error) { return 0, errDead }

func TestReaderGone(t *testing.T) {
	e := NewEvents(deadWriter{httptest.NewRecorder()}, 0)
	e.Text("x")
	require.ErrorIs(t, e.Flush(), errDead)
	Reply(deadWriter{httptest.NewRecorder()}, 200, 0, 1) // nobody to tell, nothing to break
}

func TestReply(t *testing.T) {
	w := httptest.NewRecorder()
	Reply(w, http.StatusTeapot, time.Second, map[string]string{"a": "&"})
	require.Equal(t, http.StatusTeapot, w.Code)
	require.Equal(t, "{\"a\":\"&\"}\n", w.Body.String())
	w = httptest.NewRecorder()
	Reply(w, http.StatusOK, time.Second, func() {})
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.JSONEq(t, `{"error":{"message":"the answer cannot be written as JSON","type":"server_error","param":null,"code":null}}`, w.Body.String())
}

func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", " \"quoted\" \\", "\x00\b\t\n\f\r\x1f\x7f", "<&>", "gr\u00fc\u00dfe \u2028\u2029\ufffd \U0001f600", "half \xe2\x80", "\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var want bytes.Buffer
		require.NoError(t, Encode(&want, s))
		require.Equal(t, want.String(), string(AppendString(nil, s))+"\n")
	})
}

// countDeadlines is a writer that counts the deadlines it is given.
type countDeadlines struct {
	*httptest.ResponseRecorder
	n int
}

func (c *countDeadlines) SetWriteDeadline(time.Time) error { c.n++; return nil }

// TestPatience: many pieces in a moment share a deadline; one that comes later has its own.
func TestPatience(t *testing.T) {
	w := &countDeadlines{ResponseRecorder: httptest.NewRecorder()}
	e := NewEvents(w, 200*time.Millisecond)
	send := func() {
		e.Raw([]byte("1"))
		require.NoError(t, e.Flush())
	}
	for range 3 {
		send()
	}
	require.Less(t, w.n, 3)
	before := w.n
	time.Sleep(30 * time.Millisecond)
	send()
	require.Equal(t, before+1, w.n)
}
