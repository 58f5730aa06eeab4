package runtime

import (
	"strings"

	"github.com/sparserun/sparserun/tokenizer"
)

// TextOut turns tokens into text, holding back what may still become part of a
// character or of a stop string.
type TextOut struct {
	dec  *tokenizer.Decoder // nil: no text
	stop []string
	held string
	done bool // a stop string ended it
}

// NewTextOut starts a text that goes on from a prompt and ends before the first of
// the stop strings; empty ones do not count. Without a tokenizer it is empty.
func NewTextOut(t *tokenizer.Tokenizer, stop []string) *TextOut {
	o := &TextOut{stop: stop}
	if t != nil {
		o.dec = t.NewDecoder()
	}
	return o
}

// Push returns the text that became certain with a token, and whether a stop string
// ended it.
func (t *TextOut) Push(id int32) (text string, stopped bool) {
	if t.dec == nil {
		return "", false
	}
	return t.add(t.dec.Push(id))
}

// Flush returns what is left at the end of the tokens; nothing after a stop string.
func (t *TextOut) Flush() (text string, stopped bool) {
	if t.dec == nil || t.done {
		return "", false
	}
	text, stopped = t.add(t.dec.Flush())
	if !stopped {
		text, t.held = text+t.held, ""
	}
	return text, stopped
}

func (t *TextOut) add(text string) (out string, stopped bool) {
	if text == "" {
		return "", false
	}
	t.held += text
	keep := 0 // bytes at the end that a stop string may begin with
	for _, stop := range t.stop {
		if stop == "" {
			continue
		}
		if i := strings.Index(t.held, stop); i >= 0 {
			t.held = t.held[:i]
			stopped = true
		}
		for k := min(len(stop)-1, len(t.held)); k > keep; k-- {
			if strings.HasSuffix(t.held, stop[:k]) {
				keep = k
			}
		}
	}
	if stopped {
		keep, t.done = 0, true
	}
	n := len(t.held) - keep
	out, t.held = t.held[:n], t.held[n:]
	return out, stopped
}
