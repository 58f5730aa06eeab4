package openai

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/serve/servetest"
)

// newTest serves the models "abc" (says the alphabet), "net" (no language model) and
// "gone" (known, not loaded).
func newTest(t *testing.T, o Options, eo engine.Options) (*handler, *registry.Registry) {
	t.Helper()
	reg := registry.New(func() (runtime.Backend, error) { return cpu.New(), nil }, registry.Options{MemoryLimit: -1})
	t.Cleanup(func() { require.NoError(t, reg.Close()) })
	dense := runtime.Options{Sparse: runtime.SparseOff}
	require.NoError(t, reg.Load(t.Context(), registry.Spec{Name: "abc", Path: servetest.Alphabet(t), Options: dense, Engine: eo}))
	require.NoError(t, reg.Load(t.Context(), registry.Spec{Name: "net", Path: servetest.Affine(t), Options: dense}))
	reg.Add(registry.Spec{Name: "gone", Path: "nowhere"})
	if o.Now == nil {
		o.Now = func() time.Time { return time.Unix(1700000000, 0) }
	}
	h := newHandler(reg, o)
	h.newID = func(prefix string) string { return prefix + "1" }
	return h, reg
}

func post(h http.Handler, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

const (
	chatPath = "/v1/chat/completions"
	textPath = "/v1/completions"
	vecPath  = "/v1/embeddings"
)

func TestAnswers(t *testing.T) {
	h, _ := newTest(t, Options{}, engine.Options{})
	const alphabet = "abcdefghijklm\u00e9nopqrstuvwxyz"
	for name, c := range map[string]struct{ path, body, want string }{
		"chat": {chatPath, `{"model":"abc","messages":[{"role":"user","content":"hi"}],"temperature":0}`,
			`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"abc","choices":[{"index":0,"message":{"role":"assistant","content":"` + alphabet + `","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":OUT,"total_tokens":TOTAL,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"chat, length": {chatPath, `{"model":"abc","messages":[{"role":"system","content":[{"type":"text","text":"be"},{"type":"text","text":" brief"}]},{"role":"user","content":"hi","name":"bob"}],"max_completion_tokens":3,"user":"me","seed":7,"top_p":0.9,"logit_bias":{"7":-100},"presence_penalty":0,"frequency_penalty":0,"response_format":{"type":"text"},"stop":null}`,
			`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"abc","choices":[{"index":0,"message":{"role":"assistant","content":"abc","refusal":null},"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":39,"completion_tokens":3,"total_tokens":42,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"chat, stop": {chatPath, `{"model":"abc","messages":[{"role":"user","content":"hi"}],"temperature":0,"stop":["fg","zz"]}`,
			`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"abc","choices":[{"index":0,"message":{"role":"assistant","content":"abcde","refusal":null},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":21,"completion_tokens":7,"total_tokens":28,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"chat, n": {chatPath, `{"model":"abc","messages":[{"role":"user","content":"hi"}],"temperature":0,"n":2,"max_tokens":1}`,
			`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"abc","choices":[{"index":0,"message":{"role":"assistant","content":"a","refusal":null},"logprobs":null,"finish_reason":"length"},{"index":1,"message":{"role":"assistant","content":"a","refusal":null},"logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":21,"completion_tokens":2,"total_tokens":23,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"chat, logprobs": {chatPath, `{"model":"abc","messages":[{"role":"user","content":"l"}],"temperature":0,"max_tokens":1,"logprobs":true,"top_logprobs":2}`,
			`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"abc","choices":[{"index":0,"message":{"role":"assistant","content":"a","refusal":null},"logprobs":{"content":[{"token":"a","logprob":X,"bytes":[97],"top_logprobs":[{"token":"a","logprob":X,"bytes":[97]},{"token":"!","logprob":X,"bytes":[33]}]}],"refusal":null},"finish_reason":"length"}],"usage":{"prompt_tokens":20,"completion_tokens":1,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"completion": {textPath, `{"model":"abc","prompt":"x","temperature":0}`,
			`{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"abc","choices":[{"index":0,"text":"yz","logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":1,"completion_tokens":OUT,"total_tokens":TOTAL,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"completion, default length": {textPath, `{"model":"abc","prompt":" ","temperature":0}`,
			`{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"abc","choices":[{"index":0,"text":"abcdefghijklm` + "\u00e9" + `n","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":16,"total_tokens":17,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"completion, many": {textPath, `{"model":"abc","prompt":["a","m"],"n":2,"max_tokens":2,"temperature":0,"echo":true}`,
			`{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"abc","choices":[{"index":0,"text":"abc","logprobs":null,"finish_reason":"length"},{"index":1,"text":"abc","logprobs":null,"finish_reason":"length"},{"index":2,"text":"m` + "\u00e9" + `","logprobs":null,"finish_reason":"length"},{"index":3,"text":"m` + "\u00e9" + `","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":2,"completion_tokens":8,"total_tokens":10,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"completion, ids": {textPath, `{"model":"abc","prompt":[97, 98.0],"max_tokens":2,"temperature":0}`,
			`{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"abc","choices":[{"index":0,"text":"cd","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":2,"completion_tokens":2,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"completion, lists of ids": {textPath, `{"model":"abc","prompt":[[97],[98,99]],"max_tokens":1,"top_p":0}`,
			`{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"abc","choices":[{"index":0,"text":"b","logprobs":null,"finish_reason":"length"},{"index":1,"text":"d","logprobs":null,"finish_reason":"length"}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":0}}}`},
		"completion, logprobs": {textPath, `{"model":"abc","prompt":"m","max_tokens":3,"temperature":0,"logprobs":0}`,
			`{"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"abc","choices":[{"index":0,"text":"` + "\u00e9" + `n","logprobs":{"tokens":["` + "\uFFFD\",\"\uFFFD" + `","n"],"token_logprobs":[X,X,X],"top_logprobs":[{"�":X},{"�":X},{"n":X}],"text_offset":[0,1,2]},"finish_reason":"length"}],"usage":{"prompt_tokens":1,"completion_tokens":3,"total_tokens":4,"prompt_tokens_details":{"cached_tokens":0}}}`},
	} {
		t.Run(name, func(t *testing.T) {
			w := post(h, c.path, c.body)
			require.Equal(t, http.StatusOK, w.Code, w.Body)
			require.Equal(t, "application/json", w.Header().Get("Content-Type"))
			got := strings.TrimSpace(w.Body.String())
			require.Equal(t, plain(t, c.want, got), plain(t, got, got))
		})
	}
}

// plain puts X for log-probabilities, which differ in their last digits between
// machines, and leaves out counts of cached tokens; OUT and TOTAL in want are got's,
// where the number depends on whether an end token counts.
func plain(t *testing.T, s, got string) string {
	t.Helper()
	var u struct{ Usage usage }
	require.NoError(t, json.Unmarshal([]byte(got), &u))
	require.Equal(t, u.Usage.Total, u.Usage.Prompt+u.Usage.Completion)
	out, _ := json.Marshal(u.Usage.Completion)
	total, _ := json.Marshal(u.Usage.Total)
	s = strings.NewReplacer("OUT", string(out), "TOTAL", string(total)).Replace(s)
	s = regexp.MustCompile(`"logprob":-?[0-9][^,}]*`).ReplaceAllString(s, `"logprob":X`)
	s = regexp.MustCompile(`\{("[^"]*"):-?[0-9][^,}]*\}`).ReplaceAllString(s, `{$1:X}`)
	s = regexp.MustCompile(`"cached_tokens":\d+`).ReplaceAllString(s, `"cached_tokens":0`)
	return regexp.MustCompile(`"token_logprobs":\[[^\]]*\]`).ReplaceAllStringFunc(s, func(l string) string {
		return `"token_logprobs":[` + strings.Repeat("X,", strings.Count(l, ",")) + "X]"
	})
}

func TestLogprobValues(t *testing.T) {
	h, _ := newTest(t, Options{}, engine.Options{})
	w := post(h, chatPath, `{"model":"abc","messages":[{"role":"user","content":"l"}],"temperature":0,"max_tokens":1,"logprobs":true,"top_logprobs":20}`)
	var a struct{ Choices []chatChoice }
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
	c := a.Choices[0].Logprobs.Content[0]
	// The one-hot embedding after its norm is 1/sqrt(1/320 + eps): the logit of "a", half
	// of it for "!", 0 for 257 others. To the precision of half floats.
	a1 := 1 / math.Sqrt(1.0/320+1e-5)
	sum := math.Exp(a1) + math.Exp(a1/2) + 257
	require.InDelta(t, a1-math.Log(sum), c.Logprob, 1e-6)
	require.Len(t, c.Top, 20)
	require.InDelta(t, a1/2-math.Log(sum), c.Top[1].Logprob, 0.005)
	require.InDelta(t, -math.Log(sum), c.Top[2].Logprob, 0.01)
}

// TestChosenLogprob: the map of the likeliest has the token that was drawn too, also
// where it is none of them.
func TestChosenLogprob(t *testing.T) {
	h, _ := newTest(t, Options{}, engine.Options{})
	for n := range 3 {
		w := post(h, textPath, fmt.Sprintf(`{"model":"abc","prompt":"l","temperature":0,"max_tokens":1,"logit_bias":{"120":100},"logprobs":%d}`, n))
		require.Equal(t, 200, w.Code, w.Body)
		var a struct{ Choices []textChoice }
		require.NoError(t, json.Unmarshal(w.Body.Bytes(), &a))
		l := a.Choices[0].Logprobs
		require.Equal(t, []string{"x"}, l.Tokens)
		require.Len(t, l.Top[0], n+1)
		require.Equal(t, l.Logprobs[0], l.Top[0]["x"])
	}
}

func TestModels(t *testing.T) {
	var seen []string
	h, reg := newTest(t, Options{Seen: func(_ context.Context, m string) { seen = append(seen, m) }}, engine.Options{})
	m, release, err := reg.Acquire("abc")
	require.NoError(t, err)
	defer release()
	created, _ := json.Marshal(m.Loaded.Unix())
	one := `{"id":"abc","object":"model","created":` + string(created) + `,"owned_by":"sparserun","max_model_len":2048}`
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	code, body := get("/v1/models")
	require.Equal(t, 200, code)
	require.Equal(t, `{"object":"list","data":[`+one+`]}`, body)
	code, body = get("/v1/models/abc")
	require.Equal(t, 200, code)
	require.Equal(t, one, body)
	code, body = get("/v1/models/org%2Fother")
	require.Equal(t, 404, code)
	require.Contains(t, body, `"code":"model_not_found"`)
	require.Equal(t, []string{"abc"}, seen)
}

// transcript runs a request over a connection and gives the event stream.
func transcript(t *testing.T, url, path, body string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer res.Body.Close()
	require.Equal(t, 200, res.StatusCode)
	require.Equal(t, "text/event-stream; charset=utf-8", res.Header.Get("Content-Type"))
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return string(b)
}

// joined makes a transcript independent of how many events arrived at once: deltas of
// one choice that follow one another become one.
func joined(t *testing.T, s string) []string {
	t.Helper()
	var out []string
	last := ""
	delta := regexp.MustCompile(`^(data: .*"choices":\[\{"index":\d+,(?:"delta":\{"content"|"text"):")(.*)("\}?,"logprobs":null,"finish_reason":null.*)$`)
	sc := bufio.NewScanner(strings.NewReader(s))
	for sc.Scan() {
		if sc.Text() == "" {
			continue
		}
		if m := delta.FindStringSubmatch(sc.Text()); m != nil && m[2] != "" {
			if last == m[1] {
				out[len(out)-1] = strings.Replace(out[len(out)-1], m[3], m[2]+m[3], 1)
				continue
			}
			last = m[1]
		} else {
			last = ""
		}
		out = append(out, sc.Text())
	}
	return out
}

func TestStreams(t *testing.T) {
	h, _ := newTest(t, Options{}, engine.Options{})
	srv := httptest.NewServer(h)
	defer srv.Close()
	const chunk = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"abc","choices":[`
	const piece = `data: {"id":"cmpl-1","object":"text_completion","created":1700000000,"model":"abc","choices":[`
	for name, c := range map[string]struct {
		path, body string
		want       []string
	}{
		"chat": {chatPath, `{"model":"abc","messages":[{"role":"user","content":"hi"}],"temperature":0,"max_tokens":4,"stream":true}`, []string{
			chunk + `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}`,
			chunk + `{"index":0,"delta":{"content":"abcd"},"logprobs":null,"finish_reason":null}]}`,
			chunk + `{"index":0,"delta":{},"logprobs":null,"finish_reason":"length"}]}`,
			`data: [DONE]`}},
		"chat with usage": {chatPath, `{"model":"abc","messages":[{"role":"user","content":"hi"}],"temperature":0,"stop":"d","stream":true,"stream_options":{"include_usage":true}}`, []string{
			chunk + `{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}`,
			chunk + `{"index":0,"delta":{"content":"abc"},"logprobs":null,"finish_reason":null}],"usage":null}`,
			chunk + `{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}`,
			chunk + `],"usage":{"prompt_tokens":21,"completion_tokens":4,"total_tokens":25,"prompt_tokens_details":{"cached_tokens":0}}}`,
			`data: [DONE]`}},
		"completion": {textPath, `{"model":"abc","prompt":"u","temperature":0,"max_tokens":2,"stream":true,"echo":true}`, []string{
			piece + `{"index":0,"text":"uvw","logprobs":null,"finish_reason":"length"}]}`,
			`data: [DONE]`}},
	} {
		t.Run(name, func(t *testing.T) {
			got := transcript(t, srv.URL, c.path, c.body)
			require.True(t, strings.HasSuffix(got, "data: [DONE]\n\n"))
			lines := joined(t, got)
			if name == "completion" { // the last text comes with the reason or before it
				all := strings.Join(lines, "")
				texts := regexp.MustCompile(`"text":"([^"]*)"`).FindAllStringSubmatch(all, -1)
				text := ""
				for _, m := range texts {
					text += m[1]
				}
				require.Equal(t, "uvw", text)
				require.Contains(t, all, `"finish_reason":"length"`)
				return
			}
			for i := range lines {
				lines[i] = regexp.MustCompile(`"cached_tokens":\d+`).ReplaceAllString(lines[i], `"cached_tokens":0`)
			}
			require.Equal(t, c.want, lines)
		})
	}
}
