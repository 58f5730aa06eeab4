package openai

import (
	"errors"
	"net/http"

	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/registry"
	"github.com/sparserun/sparserun/tokenizer"
)

func (h *handler) chat(w http.ResponseWriter, r *http.Request) error {
	d, err := h.read(w, r)
	if err != nil {
		return err
	}
	c, err := h.parseChat(d)
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
	ids, err := h.chatPrompt(r.Context(), m, c)
	if err != nil {
		return err
	}
	j := &job{s: &c.sampling, m: m, head: head{h.newID("chatcmpl-"), "chat.completion", h.o.Now().Unix(), m.Name},
		dress: &chatDress{t: m.LM.Tokenizer(), logprobs: c.logprobs}}
	for k := range c.n {
		q := c.request(h, r, j.head.ID, ids, m.LM.Context(), k)
		q.Logprobs, q.TopLogprobs = c.logprobs, c.topLogprobs
		if q.Constraint, err = c.constraint(m); err != nil {
			return err
		}
		j.requests = append(j.requests, q)
	}
	return h.run(w, r, j)
}

// constraint is the engine's part of response_format.
func (c *chatRequest) constraint(m *registry.Model) (engine.Constraint, error) {
	if c.format == "" {
		return nil, nil
	}
	k, err := m.LM.JSON(c.schema)
	switch {
	case errors.Is(err, engine.ErrSchema):
		return nil, bad("response_format.json_schema.schema", "%s", clip(err.Error()))
	case errors.Is(err, runtime.ErrUnsupported): // a vocabulary that cannot write JSON
		return nil, unsupported("response_format")
	}
	return k, err
}

// checkBias holds logit_bias to the vocabulary.
func (s *sampling) checkBias(t *tokenizer.Tokenizer) error {
	for id := range s.bias {
		if int(id) >= t.VocabSize() {
			return bad("logit_bias", "want tokens below %d, got %d", t.VocabSize(), id)
		}
	}
	return nil
}

// chatDress writes choices of chat.
type chatDress struct {
	t        *tokenizer.Tokenizer
	logprobs bool
}

func (d *chatDress) chunk() string { return "chat.completion.chunk" }

func (d *chatDress) begin(i int) any {
	c := chatDelta{Index: i}
	c.Delta.Role, c.Delta.Content = "assistant", new(string)
	return c
}

func (d *chatDress) piece(i int, ev engine.Event) []any {
	var out []any
	if d.logprobs && len(ev.Tokens) > 0 || ev.Text != "" {
		c := chatDelta{Index: i}
		c.Delta.Content = &ev.Text
		if d.logprobs {
			c.Logprobs = newChatLogprobs(d.t, ev.Tokens)
		}
		out = append(out, c)
	}
	if ev.Finish != "" {
		out = append(out, chatDelta{Index: i, Finish: &ev.Finish})
	}
	return out
}

func (d *chatDress) whole(i int, ev engine.Event) any {
	c := chatChoice{Index: i, Message: chatMessage{Role: "assistant", Content: ev.Text}, Finish: ev.Finish}
	if d.logprobs {
		c.Logprobs = newChatLogprobs(d.t, ev.Tokens)
	}
	return c
}
