// Command client chats with sparserun (or any server with OpenAI's API) through the
// standard library alone: streaming, retry when the server is full, cancel on Ctrl-C.
//
//	go run ./examples/serve/client --model pruned "Name three rivers."
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"time"
)

func main() {
	url := flag.String("url", "http://127.0.0.1:8080", "server")
	model := flag.String("model", "", "model")
	tokens := flag.Int("tokens", 128, "tokens to write at most")
	chat := flag.Bool("chat", true, "chat; false continues the text")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c := client{url: *url, key: os.Getenv("SPARSERUN_API_KEY")}
	if err := c.write(ctx, os.Stdout, *model, strings.Join(flag.Args(), " "), *tokens, *chat); err != nil {
		fmt.Fprintln(os.Stderr, "client:", err)
		os.Exit(1)
	}
}

type client struct{ url, key string }

// chunk is a piece of either API's stream.
type chunk struct {
	Choices []struct {
		Text  string
		Delta struct{ Content string }
	}
	Error *struct{ Message string }
}

// write streams the answer to a prompt into w.
func (c client) write(ctx context.Context, w io.Writer, model, prompt string, tokens int, chat bool) error {
	path, body := "/v1/completions", map[string]any{"model": model, "max_tokens": tokens, "stream": true, "prompt": prompt}
	if chat {
		path = "/v1/chat/completions"
		delete(body, "prompt")
		body["messages"] = []map[string]string{{"role": "user", "content": prompt}}
	}
	resp, err := c.post(ctx, path, body)
	if err != nil {
		return err
	}
	defer resp.Body.Close() // ends the request on the server too, wherever it is
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			_, err := fmt.Fprintln(w)
			return err
		}
		var p chunk
		if err := json.Unmarshal([]byte(data), &p); err != nil {
			return err
		}
		if p.Error != nil { // the server stops, say
			return errors.New(p.Error.Message)
		}
		for _, x := range p.Choices {
			if _, err := io.WriteString(w, x.Text+x.Delta.Content); err != nil {
				return err
			}
		}
	}
	if sc.Err() != nil {
		return sc.Err()
	}
	return io.ErrUnexpectedEOF
}

// post sends a request, and again, up to five times, when the server is full or draining:
// after the time that it asks for.
func (c client) post(ctx context.Context, path string, body any) (*http.Response, error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url+path, bytes.NewReader(text))
		if err != nil {
			return nil, err
		}
		req.Header.Set("Content-Type", "application/json")
		if c.key != "" {
			req.Header.Set("Authorization", "Bearer "+c.key)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp, nil
		}
		message, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<12))
		resp.Body.Close()
		busy := resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable
		if !busy || try == 5 {
			return nil, fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(message))
		}
		wait := time.Second
		if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil {
			wait = time.Duration(s) * time.Second
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
