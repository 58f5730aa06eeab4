// Command serve is a load generator for servers with OpenAI's completions API: streams
// at a fixed concurrency, with the times that matter (to the first token, between tokens,
// whole). It talks to any such server, so that servers can stand side by side.
//
//	go run ./bench/serve --url http://127.0.0.1:8080 --model m --streams 8 --requests 64 --tokens 64
//
// It prints one JSON object. Exit code 1: an answer was wrong, or too few came.
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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type options struct {
	url, model, key, prompt string
	streams, requests       int
	tokens                  int
	duration                time.Duration
	vary, mixed             bool
	bias                    string
}

// result is one request.
type result struct {
	status  int // 0: the connection failed
	tokens  int
	first   time.Duration
	last    time.Duration // from the first token to the last
	between []time.Duration
	total   time.Duration
	finish  string
	err     error
}

// report is what is printed. Times are in seconds.
type report struct {
	URL      string         `json:"url"`
	Model    string         `json:"model"`
	Streams  int            `json:"streams"`
	Seconds  float64        `json:"seconds"`
	Requests int            `json:"requests"`
	Good     int            `json:"good"`
	Codes    map[string]int `json:"codes"`
	Tokens   int            `json:"tokens"`
	Rate     float64        `json:"tokens_per_s"`
	Goodput  float64        `json:"requests_per_s"`
	Decode   float64        `json:"decode_tokens_per_s"` // of one stream after its first token, median
	First    quantiles      `json:"time_to_first_token"`
	Between  quantiles      `json:"inter_token"`
	Total    quantiles      `json:"request"`
	Errors   []string       `json:"errors,omitempty"`
}

type quantiles struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
}

func main() {
	var o options
	flag.StringVar(&o.url, "url", "http://127.0.0.1:8080", "server")
	flag.StringVar(&o.model, "model", "", "model")
	flag.StringVar(&o.key, "key", "", "API key")
	flag.StringVar(&o.prompt, "prompt", "Once upon a time there was a", "prompt")
	flag.IntVar(&o.streams, "streams", 8, "requests at a time")
	flag.IntVar(&o.requests, "requests", 64, "requests in all; 0: as many as --duration allows")
	flag.IntVar(&o.tokens, "tokens", 64, "tokens of an answer")
	flag.DurationVar(&o.duration, "duration", 0, "no new request after this")
	flag.BoolVar(&o.vary, "vary", true, "begin each prompt with a number of its own, so that no prefix is cached")
	flag.BoolVar(&o.mixed, "mixed", false, "mix in short, long, unstreamed, cancelled and wrong requests")
	flag.StringVar(&o.bias, "bias", "", `logit_bias as JSON, {"2":-100} keeps a model from ending`)
	flag.Parse()
	if o.streams < 1 || o.tokens < 1 || (o.requests < 1 && o.duration <= 0) {
		fmt.Fprintln(os.Stderr, "load: --streams, --tokens and --requests or --duration must be above 0")
		os.Exit(2)
	}
	r := run(context.Background(), o)
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	e.Encode(r)
	if r.Good == 0 || len(r.Errors) > 0 {
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) report {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: o.streams, MaxConnsPerHost: 0}}
	defer client.CloseIdleConnections()
	var n atomic.Int64
	var mu sync.Mutex
	var all []result
	var wg sync.WaitGroup
	start := time.Now()
	for range o.streams {
		wg.Go(func() {
			for {
				i := int(n.Add(1))
				if (o.requests > 0 && i > o.requests) || (o.duration > 0 && time.Since(start) > o.duration) {
					return
				}
				r := one(ctx, client, o, i)
				if r.status == 0 || r.status == http.StatusTooManyRequests {
					time.Sleep(10 * time.Millisecond)
				}
				mu.Lock()
				all = append(all, r)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return summary(o, all, time.Since(start))
}

func summary(o options, all []result, took time.Duration) report {
	rep := report{URL: o.url, Model: o.model, Streams: o.streams, Seconds: took.Seconds(), Requests: len(all), Codes: map[string]int{}}
	var first, between, total []time.Duration
	var decode []float64
	for _, r := range all {
		code := fmt.Sprint(r.status)
		switch {
		case r.status == 0:
			code = "no answer"
		case errors.Is(r.err, errCancelled):
			code = "cancelled"
		}
		rep.Codes[code]++
		rep.Tokens += r.tokens
		if r.err != nil {
			if !errors.Is(r.err, errCancelled) && len(rep.Errors) < 10 {
				rep.Errors = append(rep.Errors, r.err.Error())
			}
			continue
		}
		if r.status != http.StatusOK {
			continue
		}
		rep.Good++
		if r.first > 0 {
			first = append(first, r.first)
			between = append(between, r.between...)
			if r.tokens > 1 && r.last > 0 {
				decode = append(decode, float64(r.tokens-1)/r.last.Seconds())
			}
		}
		total = append(total, r.total)
	}
	rep.Rate, rep.Goodput = float64(rep.Tokens)/took.Seconds(), float64(rep.Good)/took.Seconds()
	if slices.Sort(decode); len(decode) > 0 {
		rep.Decode = decode[len(decode)/2]
	}
	rep.First, rep.Between, rep.Total = quantilesOf(first), quantilesOf(between), quantilesOf(total)
	return rep
}

func quantilesOf(d []time.Duration) quantiles {
	if len(d) == 0 {
		return quantiles{}
	}
	slices.Sort(d)
	at := func(q float64) float64 { return d[min(len(d)-1, int(q*float64(len(d))))].Seconds() }
	return quantiles{at(.5), at(.95), at(.99)}
}

var errCancelled = errors.New("cancelled by us")

// one sends request i and reads its answer to the end.
func one(ctx context.Context, c *http.Client, o options, i int) (res result) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kind := 0
	if o.mixed {
		kind = i % 8
	}
	body := map[string]any{"model": o.model, "prompt": o.prompt, "max_tokens": o.tokens, "temperature": 0, "stream": true, "stream_options": map[string]bool{"include_usage": true}}
	if o.vary {
		body["prompt"] = fmt.Sprintf("%d. %s", i, o.prompt)
	}
	if o.bias != "" {
		body["logit_bias"] = json.RawMessage(o.bias)
	}
	switch kind {
	case 1:
		body["stream"] = false
		delete(body, "stream_options")
	case 2:
		body["max_tokens"] = 1
	case 3:
		body["prompt"] = strings.Repeat(o.prompt+" ", 4)
	case 4:
		body["max_tokens"] = -1 // 400
	case 5:
		body["temperature"], body["seed"], body["top_p"] = 0.9, i, 0.9
	}
	text, _ := json.Marshal(body)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, o.url+"/v1/completions", bytes.NewReader(text))
	if err != nil {
		return result{err: err}
	}
	req.Header.Set("Content-Type", "application/json")
	if o.key != "" {
		req.Header.Set("Authorization", "Bearer "+o.key)
	}
	start := time.Now()
	resp, err := c.Do(req)
	if err != nil {
		return result{err: err}
	}
	defer resp.Body.Close()
	res.status = resp.StatusCode
	switch {
	case kind == 4:
		if io.Copy(io.Discard, resp.Body); resp.StatusCode != http.StatusBadRequest {
			res.err = fmt.Errorf("max_tokens -1: want 400, got %d", resp.StatusCode)
		}
		return res
	case resp.StatusCode == http.StatusTooManyRequests:
		io.Copy(io.Discard, resp.Body)
		return res
	case resp.StatusCode != http.StatusOK:
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		res.err = fmt.Errorf("status %d: %s", resp.StatusCode, b)
		return res
	case body["stream"] == false:
		res.err = res.whole(resp.Body)
	default:
		stopAt := 0
		if kind == 6 {
			stopAt = 3
		}
		res.err = res.stream(resp.Body, start, stopAt)
	}
	res.total = time.Since(start)
	return res
}

type answer struct {
	Choices []struct {
		Text   string  `json:"text"`
		Finish *string `json:"finish_reason"`
	} `json:"choices"`
	Usage *struct {
		Output int `json:"completion_tokens"`
	} `json:"usage"`
	Error json.RawMessage `json:"error"`
}

func (r *result) whole(body io.Reader) error {
	var a answer
	if err := json.NewDecoder(body).Decode(&a); err != nil {
		return err
	}
	if len(a.Choices) != 1 || a.Choices[0].Finish == nil || a.Usage == nil {
		return errors.New("want a choice with finish_reason, and usage")
	}
	r.tokens, r.finish = a.Usage.Output, *a.Choices[0].Finish
	return nil
}

// stream reads server-sent events. The times are those of chunks, which may join tokens
// where the model is faster than the connection; their number is the server's where it
// sends usage, else that of the chunks.
func (r *result) stream(body io.Reader, start time.Time, stopAt int) error {
	sc := bufio.NewScanner(body)
	sc.Buffer(make([]byte, 64<<10), 1<<20)
	last, done, usage := start, false, 0
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			done = true
			break
		}
		var a answer
		if err := json.Unmarshal([]byte(data), &a); err != nil {
			return fmt.Errorf("chunk %.80q: %w", data, err)
		}
		if a.Error != nil {
			return fmt.Errorf("error in the stream: %s", a.Error)
		}
		if a.Usage != nil {
			usage = a.Usage.Output
		}
		if len(a.Choices) == 0 {
			continue
		}
		if f := a.Choices[0].Finish; f != nil {
			r.finish = *f
		}
		if a.Choices[0].Text == "" {
			continue
		}
		now := time.Now()
		if r.tokens == 0 {
			r.first = now.Sub(start)
		} else {
			r.between = append(r.between, now.Sub(last))
		}
		last = now
		if r.tokens++; r.tokens == stopAt {
			return errCancelled
		}
	}
	if usage > 0 {
		r.tokens = usage
	}
	r.last = last.Sub(start) - r.first
	switch {
	case sc.Err() != nil:
		return sc.Err()
	case !done:
		return errors.New("the stream ended without [DONE]")
	case r.finish == "":
		return errors.New("the stream ended without finish_reason")
	}
	return nil
}
