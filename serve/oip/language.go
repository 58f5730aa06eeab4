package oip

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"io"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/tokenizer"
)

const (
	maxPrompts = 128 // of one request
	maxStops   = 16
	maxStopLen = 256 // characters
)

// maxLogits is how many numbers of logits an answer has at most. Tests change it.
var maxLogits = 1 << 20

var (
	languageInputs  = []portInfo{{"text_input", "BYTES", []int64{-1}}, {"input_ids", "INT64", []int64{-1}}, {"stream", "BOOL", []int64{1}}, {"sampling_parameters", "BYTES", []int64{1}}, {"exclude_input_in_output", "BOOL", []int64{1}}}
	languageOutputs = []portInfo{{"text_output", "BYTES", []int64{-1}}, {"finish_reason", "BYTES", []int64{-1}}, {"output_ids", "INT64", []int64{-1}}, {"logits", "FP32", []int64{-1, -1}}}
)

// generation is what parameters and inputs ask of a language model.
type generation struct {
	engine.Request
	prompts      []string // or
	ids          [][]int32
	shape        []int // of the outputs
	parseSpecial bool
	withInput    bool
	stream       *bool // nil: not said
}

// settings are the parameters of a generation.
var settings = map[string]func(g *generation, p parameters, key string) error{
	"max_tokens": func(g *generation, p parameters, key string) error {
		n, err := p.integer(key, 1, math.MaxInt32)
		g.MaxTokens = int(n)
		return err
	},
	"temperature": func(g *generation, p parameters, key string) (err error) {
		g.Temperature, err = p.number(key, 0, 2)
		return
	},
	"top_p": func(g *generation, p parameters, key string) (err error) {
		if g.TopP, err = p.number(key, 0, 1); g.TopP == 0 {
			g.TopP = math.SmallestNonzeroFloat64 // the smallest nucleus; the sampler's 0 is off
		}
		return
	},
	"top_k": func(g *generation, p parameters, key string) error {
		n, err := p.integer(key, -1, math.MaxInt32)
		g.TopK = int(max(n, 0))
		return err
	},
	"min_p": func(g *generation, p parameters, key string) (err error) { g.MinP, err = p.number(key, 0, 1); return },
	"seed":  seed, "random_seed": seed,
	"repetition_penalty": func(g *generation, p parameters, key string) (err error) {
		g.RepeatPenalty, err = p.number(key, 0.01, 10)
		return
	},
	"frequency_penalty": func(g *generation, p parameters, key string) (err error) {
		g.FrequencyPenalty, err = p.number(key, -2, 2)
		return
	},
	"presence_penalty": func(g *generation, p parameters, key string) (err error) {
		g.PresencePenalty, err = p.number(key, -2, 2)
		return
	},
	"stop": stop, "stop_words": stop,
	"ignore_eos": func(g *generation, p parameters, key string) (err error) { g.IgnoreEOS, err = p.boolean(key); return },
	"parse_special": func(g *generation, p parameters, key string) (err error) {
		g.parseSpecial, err = p.boolean(key)
		return
	},
	"exclude_input_in_output": func(g *generation, p parameters, key string) error {
		b, err := p.boolean(key)
		g.withInput = !b
		return err
	},
	"stream": func(g *generation, p parameters, key string) error {
		b, err := p.boolean(key)
		g.stream = &b
		return err
	},
	"bad_words": func(_ *generation, p parameters, key string) error { // TensorRT-LLM's clients send it empty
		if words, err := p.strings(key); err != nil || len(words) > 0 {
			return bad("bad_words: not supported")
		}
		return nil
	},
}

func seed(g *generation, p parameters, key string) error {
	n, err := p.integer(key, math.MinInt64, math.MaxInt64)
	g.Seed = uint64(n)
	return err
}

func stop(g *generation, p parameters, key string) error {
	words, err := p.strings(key)
	if err != nil {
		return err
	}
	for _, w := range words {
		if w == "" || utf8.RuneCountInString(w) > maxStopLen {
			return bad("%s: want strings of 1 to %d characters", key, maxStopLen)
		}
	}
	if g.Stop = append(g.Stop, words...); len(g.Stop) > maxStops {
		return bad("%s: want at most %d", key, maxStops)
	}
	return nil
}

// newGeneration reads parameters.
func newGeneration(p parameters) (*generation, error) {
	g := &generation{}
	g.MaxTokens, g.RepeatLast = 16, -1
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails
	g.Seed = binary.LittleEndian.Uint64(b[:])
	return g, g.set(p)
}

func (g *generation) set(p parameters) error {
	for key := range p {
		f := settings[key]
		if f == nil {
			return bad("unknown parameter %q", clip(key))
		}
		if err := f(g, p, key); err != nil {
			return err
		}
	}
	return nil
}

// input reads an input tensor.
func (g *generation) input(x named) error {
	one := func() error {
		if x.Len() != 1 {
			return bad("input %q: want one element, got shape %v", x.name, x.Shape)
		}
		return nil
	}
	want := func(d string) error {
		if got := datatypeOf(x.Elem); got != d {
			return bad("input %q: want datatype %s, got %s", x.name, d, got)
		}
		return nil
	}
	switch x.name {
	case "text_input":
		if err := want("BYTES"); err != nil {
			return err
		}
		if r := len(x.Shape); r == 0 || r > 2 || r == 2 && x.Shape[1] != 1 || x.Shape[0] < 1 || x.Shape[0] > maxPrompts {
			return bad("text_input: want shape [n] or [n, 1] with n from 1 to %d, got %v", maxPrompts, x.Shape)
		}
		g.prompts, g.shape = x.Data.([]string), x.Shape
	case "input_ids":
		if err := want("INT64"); err != nil {
			return err
		}
		if r := len(x.Shape); r == 0 || r > 2 || r == 2 && x.Shape[0] != 1 || x.Len() == 0 {
			return bad("input_ids: want shape [T] or [1, T], got %v", x.Shape)
		}
		ids := make([]int32, x.Len())
		for i, id := range x.Data.([]int64) {
			if id < 0 || id > math.MaxInt32 {
				return bad("input_ids[%d]: no such token: %d", i, id)
			}
			ids[i] = int32(id)
		}
		g.ids, g.shape = [][]int32{ids}, []int{1}
	case "stream", "exclude_input_in_output":
		if err := want("BOOL"); err != nil {
			return err
		}
		if err := one(); err != nil {
			return err
		}
		return g.set(parameters{x.name: x.Data.([]bool)[0]})
	case "sampling_parameters":
		if err := want("BYTES"); err != nil {
			return err
		}
		if err := one(); err != nil {
			return err
		}
		r, err := reader(x.Data.([]string)[0])
		if err != nil {
			return err
		}
		p := parameters{}
		if err := readParameters(r, p); err != nil {
			return err
		}
		return g.set(p)
	default:
		return bad("a language model has no input %q", clip(x.name))
	}
	return nil
}

// newLanguage reads all that a request says, prompts encoded.
func (s *server) newLanguage(client string, m *registry.Model, q *inferRequest) (*generation, error) {
	t := m.LM.Tokenizer()
	if t == nil {
		return nil, bad("model %q has no tokenizer", m.Name)
	}
	g, err := newGeneration(q.params)
	if err != nil {
		return nil, err
	}
	g.ID, g.Client = q.id, client
	for _, x := range q.inputs {
		if err := g.input(x); err != nil {
			return nil, err
		}
	}
	if (g.prompts == nil) == (g.ids == nil) {
		return nil, bad("want one of the inputs text_input and input_ids")
	}
	for i, id := range slices.Concat(g.ids...) {
		if int(id) >= t.VocabSize() {
			return nil, bad("input_ids[%d]: want tokens below %d, got %d", i, t.VocabSize(), id)
		}
	}
	for i, text := range g.prompts {
		if surelyTooLong(t, text, m.LM.Context()) {
			return nil, bad("text_input[%d]: %d bytes do not fit the context of %d tokens", i, len(text), m.LM.Context())
		}
		ids := t.Encode(text, tokenizer.EncodeOptions{ParseSpecial: g.parseSpecial})
		if len(ids) == 0 {
			return nil, bad("text_input[%d]: want at least one token", i)
		}
		g.ids = append(g.ids, ids)
	}
	for _, ids := range g.ids {
		if len(ids) >= m.LM.Context() {
			return nil, bad("the context is %d tokens, prompt and output together; a prompt has %d", m.LM.Context(), len(ids))
		}
	}
	return g, nil
}

// surelyTooLong refuses a text whatever its tokens are, before time is spent on it.
func surelyTooLong(t *tokenizer.Tokenizer, text string, context int) bool {
	if len(text)/16 < context {
		return false
	}
	longest := 1
	for id := range int32(t.VocabSize()) {
		longest = max(longest, len(t.Token(id)))
	}
	return len(text)/longest >= context
}

// submit queues all prompts, or none.
func (g *generation) submit(ctx context.Context, m *registry.Model) (streams []*engine.Stream, err error) {
	for _, ids := range g.ids {
		r := g.Request
		r.Prompt = ids
		// The context bounds a text as well as max_tokens does.
		r.MaxTokens = min(g.MaxTokens, m.LM.Context()-len(ids))
		st, err := m.LM.Submit(ctx, r)
		if err != nil {
			for _, s := range streams {
				s.Close()
			}
			return nil, err
		}
		streams = append(streams, st)
	}
	return streams, nil
}

// begin is what an output text begins with.
func (g *generation) begin(i int, t *tokenizer.Tokenizer) string {
	switch {
	case !g.withInput:
		return ""
	case g.prompts != nil:
		return g.prompts[i]
	}
	return t.Decode(g.ids[i])
}

// language answers with whole texts.
func (s *server) language(ctx context.Context, client string, m *registry.Model, q *inferRequest) ([]named, error) {
	g, err := s.newLanguage(client, m, q)
	if err != nil {
		return nil, err
	}
	if g.stream != nil && *g.stream {
		return nil, bad("stream: an answer in pieces needs ModelStreamInfer or generate_stream")
	}
	pick, err := languagePick(q, g, m)
	if err != nil {
		return nil, err
	}
	streams, err := g.submit(ctx, m)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, st := range streams {
			st.Close()
		}
	}()
	texts, reasons := make([]string, len(streams)), make([]string, len(streams))
	var drawn []engine.Token
	for i, st := range streams { // events of the others wait for us, joined
		texts[i] = g.begin(i, m.LM.Tokenizer())
		for reasons[i] == "" {
			ev, err := st.Next(ctx)
			if err != nil {
				return nil, ended(err)
			}
			texts[i] += ev.Text
			reasons[i] = string(ev.Finish)
			drawn = append(drawn, ev.Tokens...)
		}
	}
	return answer(pick, g, texts, reasons, drawn), nil
}

// languagePick are the outputs that a request wants of a language model; the
// generation is told of those that cost something.
func languagePick(q *inferRequest, g *generation, m *registry.Model) ([]string, error) {
	if len(q.outputs) == 0 {
		return []string{"text_output", "finish_reason"}, nil
	}
	var pick []string
	for _, w := range q.outputs {
		switch {
		case !slices.ContainsFunc(languageOutputs, func(p portInfo) bool { return p.Name == w.name }):
			return nil, bad("a language model has no output %q", clip(w.name))
		case (w.name == "output_ids" || w.name == "logits") && len(g.ids) > 1:
			return nil, bad("%s: only for one prompt", w.name)
		case w.name == "logits":
			tokens, vocab := min(g.MaxTokens, m.LM.Context()-len(g.ids[0])), m.Session.Graph().Config.Vocab
			if tokens > maxLogits/vocab {
				return nil, bad("logits: an answer has at most %d numbers: want max_tokens of at most %d with this vocabulary of %d, got %d", maxLogits, maxLogits/vocab, vocab, tokens)
			}
			g.Logits = true
		}
		pick = append(pick, w.name)
	}
	return pick, nil
}

// answer makes the outputs; drawn are the tokens of one prompt.
func answer(pick []string, g *generation, texts, reasons []string, drawn []engine.Token) []named {
	out := make([]named, 0, len(pick))
	for _, name := range pick {
		switch name {
		case "text_output":
			out = append(out, named{name, &model.Tensor{Elem: model.ElemString, Shape: g.shape, Data: texts}})
		case "finish_reason":
			out = append(out, named{name, &model.Tensor{Elem: model.ElemString, Shape: g.shape, Data: reasons}})
		case "output_ids":
			ids := make([]int64, len(drawn))
			for i, t := range drawn {
				ids[i] = int64(t.ID)
			}
			out = append(out, named{name, model.I64Tensor(ids, len(ids))})
		case "logits":
			var all []float32
			width := 0
			for _, t := range drawn {
				all = append(all, t.Logits...)
				width = len(t.Logits)
			}
			out = append(out, named{name, model.F32Tensor(all, len(drawn), width)})
		}
	}
	return out
}

// ended is the error of a stream that gave no last event.
func ended(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
