package openai

import (
	"crypto/rand"
	"encoding/binary"
	"math"
	"net/http"
	"strconv"
	"unicode/utf8"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
)

// Bounds of numbers that cost memory or time. Those without a source are ours.
const (
	maxChoices  = 128  // prompts times n; OpenAI's bound of n
	maxStops    = 4    // OpenAI
	maxStopLen  = 256  // characters of a stop string
	maxBias     = 1024 // entries of logit_bias
	maxTop      = 20   // top_logprobs, OpenAI
	maxLogprobs = 5    // logprobs of completions, OpenAI
	maxMessages = 4096
	maxParts    = 256  // of one message
	maxInputs   = 2048 // of embeddings, OpenAI
)

// sampling are the fields that chat and completions share.
type sampling struct {
	model        string
	temperature  float64
	topP         float64
	topK         int64
	minP         float64
	repetition   float64
	frequency    float64
	presence     float64
	bias         map[int32]float32
	seed         int64
	seeded       bool
	n            int
	maxTokens    int64 // 0: what the context leaves
	stop         []string
	stream       bool
	includeUsage bool
	optioned     bool // stream_options was given
	ignoreEOS    bool
	lenient      bool
}

func defaults(lenient bool) sampling {
	return sampling{temperature: 1, topP: 1, n: 1, lenient: lenient}
}

// shared is the table of sampling for a T that has one.
func shared[T any](of func(*T) *sampling, more fields[T]) fields[T] {
	for name, f := range samplingFields {
		more[name] = func(v *T, d document) error { return f(of(v), d) }
	}
	return more
}

var samplingFields = fields[sampling]{
	"model":              func(s *sampling, d document) (err error) { s.model, err = text(d); return },
	"temperature":        func(s *sampling, d document) (err error) { s.temperature, err = number(d, 0, 2); return },
	"top_p":              func(s *sampling, d document) (err error) { s.topP, err = number(d, 0, 1); return },
	"top_k":              func(s *sampling, d document) (err error) { s.topK, err = integer(d, -1, math.MaxInt32); return },
	"min_p":              func(s *sampling, d document) (err error) { s.minP, err = number(d, 0, 1); return },
	"repetition_penalty": func(s *sampling, d document) (err error) { s.repetition, err = number(d, 0.01, 10); return },
	"frequency_penalty":  func(s *sampling, d document) (err error) { s.frequency, err = number(d, -2, 2); return },
	"presence_penalty":   func(s *sampling, d document) (err error) { s.presence, err = number(d, -2, 2); return },
	"logit_bias":         readBias,
	"seed": func(s *sampling, d document) (err error) {
		s.seeded = true
		s.seed, err = integer(d, math.MinInt64, math.MaxInt64)
		return
	},
	"n": func(s *sampling, d document) error {
		n, err := integer(d, 1, maxChoices)
		s.n = int(n)
		return err
	},
	"max_tokens": func(s *sampling, d document) (err error) { s.maxTokens, err = integer(d, 1, math.MaxInt32); return },
	"stop":       readStop,
	"stream":     func(s *sampling, d document) (err error) { s.stream, err = boolean(d); return },
	"stream_options": func(s *sampling, d document) error {
		s.optioned = true
		return object(d, "stream_options", s, fields[sampling]{
			"include_usage":       func(s *sampling, d document) (err error) { s.includeUsage, err = boolean(d); return },
			"include_obfuscation": harmless,
		}, s.lenient)
	},
	"user":       func(_ *sampling, d document) error { _, err := text(d); return err },
	"ignore_eos": func(s *sampling, d document) (err error) { s.ignoreEOS, err = boolean(d); return },
	// Fields that leave the text as it is.
	"store": harmless, "metadata": harmless, "service_tier": harmless, "safety_identifier": harmless,
	"prompt_cache_key": harmless, "prompt_cache_retention": harmless, "parallel_tool_calls": harmless,
}

// harmless is an unsupported field that changes nothing of the text.
func harmless(s *sampling, d document) error {
	if s.lenient {
		return d.Skip(false)
	}
	return errUnsupported
}

func readBias(s *sampling, d document) error {
	if d.Peek() != '{' {
		return wrongf("want an object of token ids")
	}
	s.bias = map[int32]float32{}
	return d.Object(func(key string) error {
		id, err := strconv.ParseUint(key, 10, 31) // takes no sign
		if err != nil {
			return wrongf("want token ids as keys, got %q", clip(key))
		}
		if len(s.bias) == maxBias {
			return wrongf("want at most %d tokens", maxBias)
		}
		b, err := number(d, -100, 100)
		s.bias[int32(id)] = float32(b)
		return err
	})
}

func readStop(s *sampling, d document) error {
	one := func() error {
		t, err := text(d)
		if err == nil && (t == "" || utf8.RuneCountInString(t) > maxStopLen) {
			return wrongf("want strings of 1 to %d characters", maxStopLen)
		}
		s.stop = append(s.stop, t)
		return err
	}
	if d.Peek() == '"' {
		return one()
	}
	return array(d, maxStops, func(int) error { return one() })
}

// check is what only all fields together can say.
func (s *sampling) check() error {
	if s.model == "" {
		return bad("model", "is required")
	}
	if s.optioned && !s.stream {
		return bad("stream_options", "is only for stream: true")
	}
	return nil
}

// request is the engine's part of choice i out of prompt.
func (s *sampling) request(h *handler, r *http.Request, id string, prompt []int32, context, i int) engine.Request {
	q := engine.Request{ID: id, Client: h.o.Client(r), Prompt: prompt, Stop: s.stop, IgnoreEOS: s.ignoreEOS,
		Sampling: runtime.Sampling{
			Temperature: s.temperature, TopK: int(max(s.topK, 0)), TopP: s.topP, MinP: s.minP, RepeatPenalty: s.repetition,
			FrequencyPenalty: s.frequency, PresencePenalty: s.presence, RepeatLast: -1, Bias: s.bias, Seed: uint64(s.seed) + uint64(i),
		}}
	if s.topP == 0 {
		// OpenAI: the smallest nucleus is the likeliest token. The sampler: 0 is off.
		q.TopP = math.SmallestNonzeroFloat64
	}
	if !s.seeded {
		var b [8]byte
		_, _ = rand.Read(b[:]) // never fails
		q.Seed = binary.LittleEndian.Uint64(b[:])
	}
	// The context is a bound as good as max_tokens: the text ends with "length" there.
	q.MaxTokens = max(context-len(prompt), 1)
	if s.maxTokens > 0 {
		q.MaxTokens = min(q.MaxTokens, int(s.maxTokens))
	}
	if h.o.Timeout > 0 {
		q.Deadline = h.o.Now().Add(h.o.Timeout)
	}
	return q
}
