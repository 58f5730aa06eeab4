package openai

import (
	"bytes"
	"strconv"

	"github.com/sparserun/sparserun/serve/engine"
	"github.com/sparserun/sparserun/serve/wire"
)

// chunks writes the pieces of one stream. What all of them have in common is encoded
// once, and pieces of plain text by hand: this is done for every token, while the next
// one is computed on the same cores.
type chunks struct {
	ev         *wire.Events
	head, tail []byte // before and after the choice
	buf        bytes.Buffer
}

// newChunks: with null, every piece says that the usage is still to come.
func newChunks(ev *wire.Events, h head, null bool) (*chunks, error) {
	c := &chunks{ev: ev}
	if err := wire.Encode(&c.buf, h); err != nil {
		return nil, err
	}
	c.head = append(bytes.TrimSuffix(bytes.Clone(c.buf.Bytes()), []byte("}\n")), `,"choices":[`...)
	c.tail = []byte("]}")
	if null {
		c.tail = []byte(`],"usage":null}`)
	}
	return c, nil
}

// add adds a piece with one choice; it is sent by Flush.
func (c *chunks) add(choice any) error {
	c.buf.Reset()
	c.buf.Write(c.head)
	b, ok := appendChoice(c.buf.AvailableBuffer(), choice)
	if c.buf.Write(b); !ok {
		if err := wire.Encode(&c.buf, choice); err != nil {
			return err
		}
		c.buf.Truncate(c.buf.Len() - 1) // its newline
	}
	c.buf.Write(c.tail)
	c.ev.Raw(c.buf.Bytes())
	return nil
}

// appendChoice appends a choice as its JSON; ok is false, and b as it was, for those
// with logprobs.
func appendChoice(b []byte, choice any) (out []byte, ok bool) {
	finish := func(f *engine.Finish) {
		if b = append(b, `,"logprobs":null,"finish_reason":`...); f == nil {
			b = append(b, "null}"...)
			return
		}
		b = append(wire.AppendString(b, string(*f)), '}')
	}
	switch c := choice.(type) {
	case textChoice:
		if c.Logprobs != nil {
			return b, false
		}
		b = strconv.AppendInt(append(b, `{"index":`...), int64(c.Index), 10)
		b = wire.AppendString(append(b, `,"text":`...), c.Text)
		finish(c.Finish)
		return b, true
	case chatDelta:
		if c.Logprobs != nil {
			return b, false
		}
		b = strconv.AppendInt(append(b, `{"index":`...), int64(c.Index), 10)
		b = append(b, `,"delta":{`...)
		if c.Delta.Role != "" {
			b = wire.AppendString(append(b, `"role":`...), c.Delta.Role)
		}
		if c.Delta.Content != nil {
			if c.Delta.Role != "" {
				b = append(b, ',')
			}
			b = wire.AppendString(append(b, `"content":`...), *c.Delta.Content)
		}
		b = append(b, '}')
		finish(c.Finish)
		return b, true
	}
	return b, false
}
