package chat

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Errors. Every error of this package wraps one of them.
var (
	// ErrSyntax: not a template, or one beyond the supported language.
	ErrSyntax = errors.New("malformed chat template")
	// ErrRender: the template failed on these messages, a wrong type say.
	ErrRender = errors.New("chat template failed")
	// ErrRaised: the template refused the messages (raise_exception).
	ErrRaised = errors.New("chat template refused the conversation")
	// ErrLimit: the template did too much, or the context ended.
	ErrLimit = errors.New("chat template exceeded its limits")
)

// Message is one turn of a conversation.
type Message struct {
	Role    string
	Content string
	// Extra holds further fields that templates read, such as tool_calls. Its
	// values are as in Options.Vars. A "content" here replaces Content, for
	// content in parts.
	Extra map[string]any
}

// Options are the variables of a template besides the messages.
type Options struct {
	// AddGenerationPrompt ends the text with the start of the model's turn.
	AddGenerationPrompt bool
	// BOS and EOS are the texts of these tokens.
	BOS, EOS string
	// Vars are more variables (tools, enable_thinking). Values are nil, bool,
	// int, float64, string, []any, map[string]any (in the order of its keys)
	// or json.RawMessage, which keeps the order of the file.
	Vars map[string]any
	// Limits bound the work; zero fields take DefaultLimits.
	Limits Limits
	// Context ends the rendering early; nil means none.
	Context context.Context
}

// Limits bound what rendering may cost.
type Limits struct {
	Steps int           // evaluated expressions and statements
	Bytes int           // bytes of all strings, list and dict entries made, the text included
	Time  time.Duration // wall clock
}

// DefaultLimits are ample for a real template and a long conversation. Bytes is
// on top of what the messages hold.
var DefaultLimits = Limits{Steps: 2_000_000, Bytes: 64 << 20, Time: 2 * time.Second}

// Template is a parsed chat template, safe for concurrent use.
type Template struct {
	body []stmt
}

// maxSource bounds a template's source; real ones are a few kilobytes.
const maxSource = 1 << 20

// Parse reads a template.
func Parse(src string) (*Template, error) {
	if len(src) > maxSource {
		return nil, fmt.Errorf("chat: want a template of at most %d bytes, got %d: %w", maxSource, len(src), ErrSyntax)
	}
	segs, err := lex(src)
	if err != nil {
		return nil, fmt.Errorf("chat: %w", err)
	}
	p := &parser{segs: segs}
	body, err := p.template()
	if err != nil {
		return nil, fmt.Errorf("chat: %w", err)
	}
	return &Template{body}, nil
}

// Render applies the template to a conversation.
func (t *Template) Render(messages []Message, opts Options) (string, error) {
	ev := newEvaluator(opts)
	text, err := ev.render(t.body, messages, opts)
	if err != nil {
		return "", fmt.Errorf("chat: %w", err)
	}
	return text, nil
}

func (ev *evaluator) render(body []stmt, messages []Message, opts Options) (string, error) {
	globals := map[string]any{
		"add_generation_prompt": opts.AddGenerationPrompt,
		"raise_exception":       function(raiseException),
		"range":                 function(rangeOf),
		"namespace":             function(newNamespace),
		"dict":                  function(newDict),
	}
	// An absent token is undefined, so that templates can ask for it.
	if opts.BOS != "" {
		globals["bos_token"] = opts.BOS
	}
	if opts.EOS != "" {
		globals["eos_token"] = opts.EOS
	}
	for name, v := range opts.Vars {
		w, err := convert(v, 0)
		if err != nil {
			return "", fmt.Errorf("variable %.40q: %w", name, err)
		}
		globals[name] = w
	}
	list := make(list, 0, len(messages))
	for i, m := range messages {
		d := &dict{}
		d.set("role", m.Role)
		d.set("content", m.Content)
		for _, key := range sortedKeys(m.Extra) {
			w, err := convert(m.Extra[key], 0)
			if err != nil {
				return "", fmt.Errorf("message %d: %.40q: %w", i, key, err)
			}
			d.set(key, w)
		}
		list = append(list, d)
	}
	globals["messages"] = list
	ev.scopes = []map[string]any{globals, {}}
	if err := ev.run(body); err != nil {
		return "", err
	}
	return ev.out.String(), nil
}
