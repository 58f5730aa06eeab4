package openai

import (
	"fmt"
	"net/http"
	"unicode/utf8"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/tokenizer"
)

func (h *handler) completions(w http.ResponseWriter, r *http.Request) error {
	d, err := h.read(w, r)
	if err != nil {
		return err
	}
	c, err := h.parseCompletion(d)
	if err != nil {
		return err
	}
	m, release, err := h.acquire(r.Context(), c.model)
	if err != nil {
		return err
	}
	defer release()
	if err := c.checkBias(m.LM.Tokenizer()); err != nil {
		return err
	}
	v := h.vocabulary(m)
	j := &job{s: &c.sampling, m: m, head: head{h.newID("cmpl-"), "text_completion", h.o.Now().Unix(), m.Name}}
	texts := &textDress{t: v.t, c: c}
	for i, p := range c.prompts {
		param := "prompt"
		if len(c.prompts) > 1 {
			param = fmt.Sprintf("prompt[%d]", i)
		}
		ids, text, err := v.encode(m, param, p, c.parseSpecial)
		if err != nil {
			return err
		}
		for k := range c.n {
			q := c.request(h, r, j.head.ID, ids, m.LM.Context(), k)
			q.Logprobs, q.TopLogprobs = c.logprobs, c.topLogprobs
			j.requests = append(j.requests, q)
			texts.prompts = append(texts.prompts, text)
		}
	}
	texts.offsets = make([]int, len(j.requests))
	j.dress = texts
	return h.run(w, r, j)
}

// textDress writes choices of completions.
type textDress struct {
	t       *tokenizer.Tokenizer
	c       *completionRequest
	prompts []string // by choice
	offsets []int    // runes written so far, for logprobs
}

func (d *textDress) chunk() string { return "text_completion" }

func (d *textDress) begin(i int) any {
	if !d.c.echo {
		return nil
	}
	return textChoice{Index: i, Text: d.prompts[i]}
}

func (d *textDress) piece(i int, ev engine.Event) []any {
	c := textChoice{Index: i, Text: ev.Text}
	if ev.Finish != "" {
		c.Finish = &ev.Finish
	}
	if d.c.logprobs && len(ev.Tokens) > 0 {
		c.Logprobs, d.offsets[i] = newTextLogprobs(d.t, ev.Tokens, d.offsets[i])
	}
	if c.Text == "" && c.Logprobs == nil && c.Finish == nil {
		return nil
	}
	return []any{c}
}

func (d *textDress) whole(i int, ev engine.Event) any {
	c := textChoice{Index: i, Text: ev.Text, Finish: &ev.Finish}
	if d.c.echo {
		c.Text = d.prompts[i] + c.Text
		d.offsets[i] = utf8.RuneCountInString(d.prompts[i])
	}
	if d.c.logprobs {
		c.Logprobs, _ = newTextLogprobs(d.t, ev.Tokens, d.offsets[i])
	}
	return c
}
