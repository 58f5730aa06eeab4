package openai

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/tokenizer"
)

// prompt is a text or, where ids is not nil, tokens.
type prompt struct {
	text string
	ids  []int32
}

// completionRequest is the body of /v1/completions.
type completionRequest struct {
	sampling
	prompts      []prompt
	echo         bool
	logprobs     bool
	topLogprobs  int
	parseSpecial bool
}

var completionFields = shared(func(c *completionRequest) *sampling { return &c.sampling }, fields[completionRequest]{
	"prompt": func(c *completionRequest, d document) (err error) { c.prompts, err = prompts(d, maxChoices); return },
	"echo":   func(c *completionRequest, d document) (err error) { c.echo, err = boolean(d); return },
	"logprobs": func(c *completionRequest, d document) error {
		n, err := integer(d, 0, maxLogprobs)
		c.logprobs, c.topLogprobs = true, int(n)
		return err
	},
	"parse_special": func(c *completionRequest, d document) (err error) { c.parseSpecial, err = boolean(d); return },
	"suffix":        no[completionRequest], "best_of": no[completionRequest],
})

// prompts reads a string, an array of strings, an array of tokens or an array of
// arrays of tokens.
func prompts(d document, limit int) ([]prompt, error) {
	const want = "a string, an array of strings, of tokens, or of arrays of tokens"
	switch d.Peek() {
	case '"':
		t, err := text(d)
		return []prompt{{text: t}}, err
	case '[':
	default:
		return nil, wrongf("want %s", want)
	}
	var list []prompt
	var flat []int32
	first := byte(0)
	err := d.Array(func(i int) error {
		c := d.Peek()
		if c == '-' || c >= '0' && c <= '9' {
			c = '0'
		}
		if first == 0 {
			first = c
		}
		if c != first || c != '"' && c != '[' && c != '0' {
			return wrongf("want %s", want)
		}
		if c != '0' && i == limit {
			return wrongf("want at most %d of them", limit)
		}
		switch c {
		case '"':
			t, err := text(d)
			list = append(list, prompt{text: t})
			return err
		case '[':
			ids := []int32{}
			list = append(list, prompt{})
			err := d.Array(func(int) error { return token(d, &ids) })
			list[i].ids = ids
			return err
		}
		return token(d, &flat)
	})
	if err != nil {
		return nil, err
	}
	if first == '0' {
		list = []prompt{{ids: flat}}
	}
	if len(list) == 0 {
		return nil, wrongf("want at least one")
	}
	return list, nil
}

func token(d document, ids *[]int32) error {
	n, err := integer(d, 0, math.MaxInt32)
	*ids = append(*ids, int32(n))
	return err
}

func (h *handler) parseCompletion(d document) (*completionRequest, error) {
	c := &completionRequest{sampling: defaults(h.o.Lenient)}
	c.maxTokens = 16 // OpenAI's default here
	if err := object(d, "", c, completionFields, h.o.Lenient); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	switch {
	case c.prompts == nil:
		return nil, bad("prompt", "is required")
	case len(c.prompts)*c.n > maxChoices:
		return nil, bad("n", "want at most %d choices in all, got %d prompts of %d", maxChoices, len(c.prompts), c.n)
	case c.echo && c.logprobs:
		return nil, bad("echo", "log-probabilities of a prompt are not supported by this server")
	}
	return c, nil
}

// encode gives a prompt's tokens, and its text. Special tokens in a text stay text
// unless asked for, as with OpenAI: who pastes a stranger's words into a prompt should
// not have to know the model's control tokens.
func (v *vocabulary) encode(m *registry.Model, param string, p prompt, parseSpecial bool) ([]int32, string, error) {
	if p.ids == nil {
		if err := v.fits(param, m, len(p.text)); err != nil {
			return nil, "", err
		}
		ids := v.t.Encode(p.text, tokenizer.EncodeOptions{ParseSpecial: parseSpecial})
		return ids, p.text, fits(param, m, ids)
	}
	for i, id := range p.ids {
		if int(id) >= v.t.VocabSize() {
			return nil, "", bad(fmt.Sprintf("%s[%d]", param, i), "want tokens below %d, got %d", v.t.VocabSize(), id)
		}
	}
	if err := fits(param, m, p.ids); err != nil {
		return nil, "", err
	}
	return p.ids, v.t.Decode(p.ids), nil
}
