package openai

import (
	"fmt"
	"math"

	"github.com/sparserun/sparserun/tokenizer/chat"
)

// chatRequest is the body of /v1/chat/completions.
type chatRequest struct {
	sampling
	messages    []chat.Message
	maxComplete int64
	logprobs    bool
	topLogprobs int
	// format of the text: "", "json_object" or "json_schema", the latter with schema.
	format string
	schema []byte
}

var chatFields = shared(func(c *chatRequest) *sampling { return &c.sampling }, fields[chatRequest]{
	"messages": func(c *chatRequest, d document) error {
		return array(d, maxMessages, func(i int) error { return c.message(d, fmt.Sprintf("messages[%d]", i)) })
	},
	"max_completion_tokens": func(c *chatRequest, d document) (err error) {
		c.maxComplete, err = integer(d, 1, math.MaxInt32)
		return
	},
	"logprobs": func(c *chatRequest, d document) (err error) { c.logprobs, err = boolean(d); return },
	"top_logprobs": func(c *chatRequest, d document) error {
		n, err := integer(d, 0, maxTop)
		c.topLogprobs = int(n)
		return err
	},
	"response_format": func(c *chatRequest, d document) error {
		return object(d, "response_format", c, formatFields, c.lenient)
	},
	"modalities": func(c *chatRequest, d document) error {
		return array(d, 1, func(int) error { _, err := oneOf(d, "text"); return err })
	},
	"tools": no[chatRequest], "tool_choice": no[chatRequest], "functions": no[chatRequest], "function_call": no[chatRequest],
	"audio": no[chatRequest], "prediction": no[chatRequest], "web_search_options": no[chatRequest],
	"reasoning_effort": no[chatRequest], "verbosity": no[chatRequest],
})

var formatFields = fields[chatRequest]{
	"type": func(c *chatRequest, d document) (err error) {
		if c.format, err = oneOf(d, "text", "json_object", "json_schema"); c.format == "text" {
			c.format = ""
		}
		return
	},
	"json_schema": func(c *chatRequest, d document) error {
		return object(d, "response_format.json_schema", c, fields[chatRequest]{
			"name":        func(_ *chatRequest, d document) error { _, err := text(d); return err },
			"description": func(_ *chatRequest, d document) error { _, err := text(d); return err },
			"strict":      func(_ *chatRequest, d document) error { _, err := boolean(d); return err }, // it always is
			"schema": func(c *chatRequest, d document) (err error) {
				if d.Peek() != '{' {
					return wrongf("want an object")
				}
				c.schema, err = raw(d)
				return
			},
		}, c.lenient)
	},
}

// message is one of a conversation; its content is a string or an array of texts.
func (c *chatRequest) message(d document, path string) error {
	type msg struct {
		chat.Message
		has bool
	}
	var m msg
	err := object(d, path, &m, fields[msg]{
		"role": func(m *msg, d document) (err error) {
			if m.Role, err = oneOf(d, "system", "developer", "user", "assistant"); m.Role == "developer" {
				m.Role = "system" // OpenAI's newer name; templates know the older one
			}
			return
		},
		"content": func(m *msg, d document) (err error) {
			m.has = true
			if d.Peek() == '"' {
				m.Content, err = text(d)
				return
			}
			if d.Peek() != '[' {
				return wrongf("want a string or an array of text parts")
			}
			m.Content, err = parts(d, path+".content", c.lenient)
			return
		},
		"name": func(m *msg, d document) error {
			name, err := text(d)
			m.Extra = map[string]any{"name": name}
			return err
		},
		"refusal": no[msg], "tool_calls": no[msg], "tool_call_id": no[msg], "function_call": no[msg], "audio": no[msg],
	}, c.lenient)
	switch {
	case err != nil:
		return err
	case m.Role == "":
		return bad(path+".role", "is required")
	case !m.has:
		return bad(path+".content", "is required")
	}
	c.messages = append(c.messages, m.Message)
	return nil
}

// parts joins the texts of a message's content.
func parts(d document, path string, lenient bool) (string, error) {
	type part struct {
		kind, text string
		has        bool
	}
	out := ""
	err := array(d, maxParts, func(i int) error {
		var p part
		at := fmt.Sprintf("%s[%d]", path, i)
		err := object(d, at, &p, fields[part]{
			"type": func(p *part, d document) (err error) { p.kind, err = oneOf(d, "text"); return },
			"text": func(p *part, d document) (err error) { p.has = true; p.text, err = text(d); return },
			// Named so that the error is about what the caller wants, not about a typing mistake.
			"image_url": no[part], "input_audio": no[part], "file": no[part], "refusal": no[part],
		}, lenient)
		if err == nil && p.kind == "" {
			err = bad(at+".type", "is required")
		}
		if err == nil && !p.has {
			err = bad(at+".text", "is required")
		}
		out += p.text
		return err
	})
	return out, err
}

// raw is any value as it stands in the document.
func raw(d document) ([]byte, error) {
	d.Peek()
	from := d.Pos()
	if err := d.Skip(false); err != nil {
		return nil, err
	}
	return []byte(d.text[from:d.Pos()]), nil
}

func (h *handler) parseChat(d document) (*chatRequest, error) {
	c := &chatRequest{sampling: defaults(h.o.Lenient)}
	if err := object(d, "", c, chatFields, h.o.Lenient); err != nil {
		return nil, err
	}
	if err := c.check(); err != nil {
		return nil, err
	}
	switch {
	case len(c.messages) == 0:
		return nil, bad("messages", "want at least one message")
	case c.maxTokens > 0 && c.maxComplete > 0:
		return nil, bad("max_tokens", "is the older name of max_completion_tokens: give one of them")
	case c.topLogprobs > 0 && !c.logprobs:
		return nil, bad("top_logprobs", "is only for logprobs: true")
	case c.format == "json_schema" && c.schema == nil:
		return nil, bad("response_format.json_schema.schema", "is required")
	case c.format != "json_schema" && c.schema != nil:
		return nil, bad("response_format.json_schema", "is only for type json_schema")
	}
	c.maxTokens = max(c.maxTokens, c.maxComplete)
	return c, nil
}
