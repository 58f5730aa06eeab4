package chat

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// toJSON is the filter tojson as transformers defines it: json.dumps without
// escapes for non-ASCII text or HTML.
func toJSON(ev *evaluator, args []any, kw map[string]any) (any, error) {
	indent := argument(args, 1, kw, "indent", nil)
	w := jsonWriter{ev: ev}
	if indent != nil {
		n, ok := integer(indent)
		if !ok || n < 0 || n > 16 {
			return nil, fmt.Errorf("want an indent of 0 to 16: %w", ErrRender)
		}
		w.indent, w.lines = strings.Repeat(" ", int(n)), true
	}
	if err := w.value(args[0], 0); err != nil {
		return nil, err
	}
	return w.b.String(), nil
}

type jsonWriter struct {
	b      strings.Builder
	ev     *evaluator
	indent string
	lines  bool
}

// newline begins a line at a depth, or separates elements on one line.
func (w *jsonWriter) newline(depth int, first bool) {
	switch {
	case w.lines:
		w.b.WriteByte('\n')
		for range depth {
			w.b.WriteString(w.indent)
		}
	case !first:
		w.b.WriteByte(' ')
	}
}

func (w *jsonWriter) value(v any, depth int) error {
	if err := w.ev.step(depth); err != nil {
		return err
	}
	start := w.b.Len()
	switch v := v.(type) {
	case nil:
		w.b.WriteString("null")
	case bool:
		w.b.WriteString(strconv.FormatBool(v))
	case int64:
		w.b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		switch {
		case math.IsInf(v, 0):
			w.b.WriteString(map[bool]string{true: "Infinity", false: "-Infinity"}[v > 0])
		case math.IsNaN(v):
			w.b.WriteString("NaN")
		default:
			w.b.WriteString(formatFloat(v))
		}
	case string:
		w.str(v)
	case list:
		return w.all('[', ']', len(v), depth, func(i int) error { return w.value(v[i], depth+1) })
	case *dict:
		return w.all('{', '}', len(v.keys), depth, func(i int) error {
			if err := w.ev.charge(len(v.keys[i])); err != nil {
				return err
			}
			w.str(v.keys[i])
			w.b.WriteString(": ")
			return w.value(v.values[v.keys[i]], depth+1)
		})
	default:
		return fmt.Errorf("a %s is not JSON: %w", typeName(v), ErrRender)
	}
	return w.ev.charge(w.b.Len() - start)
}

func (w *jsonWriter) all(open, close byte, n, depth int, item func(i int) error) error {
	w.b.WriteByte(open)
	for i := range n {
		if i > 0 {
			w.b.WriteByte(',')
		}
		w.newline(depth+1, i == 0)
		if err := w.ev.charge(entryBytes + len(w.indent)*(depth+1)); err != nil {
			return err
		}
		if err := item(i); err != nil {
			return err
		}
	}
	if n > 0 && w.lines {
		w.newline(depth, true)
	}
	w.b.WriteByte(close)
	return nil
}

func (w *jsonWriter) str(s string) {
	w.b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			w.b.WriteByte('\\')
			w.b.WriteRune(r)
		case '\n':
			w.b.WriteString(`\n`)
		case '\r':
			w.b.WriteString(`\r`)
		case '\t':
			w.b.WriteString(`\t`)
		case '\b':
			w.b.WriteString(`\b`)
		case '\f':
			w.b.WriteString(`\f`)
		default:
			if r < ' ' {
				fmt.Fprintf(&w.b, `\u%04x`, r)
			} else {
				w.b.WriteRune(r)
			}
		}
	}
	w.b.WriteByte('"')
}
