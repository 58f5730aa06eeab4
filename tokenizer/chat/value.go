package chat

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// Values are nil (None), bool, int64, float64, string, list, *dict, *space,
// function and undefined. Lists and dicts never change once made, so they hold
// no cycles; a space can, and only its own attributes are ever looked at.
type (
	list []any

	// dict keeps its keys in the order of entry.
	dict struct {
		keys   []string
		values map[string]any
	}

	// space is what namespace() makes: set may assign to its attributes.
	space struct{ values map[string]any }

	function func(ev *evaluator, args []any, kw map[string]any) (any, error)

	// undefined is the value of a name or key that is not there.
	undefined struct{ name string }
)

// maxValueDepth bounds the nesting of lists and dicts where they are written
// out or compared.
const maxValueDepth = 100

func (d *dict) set(key string, v any) {
	if d.values == nil {
		d.values = map[string]any{}
	}
	if _, ok := d.values[key]; !ok {
		d.keys = append(d.keys, key)
	}
	d.values[key] = v
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// convert makes a value of a caller's Go value.
func convert(v any, depth int) (any, error) {
	if depth > maxValueDepth {
		return nil, fmt.Errorf("nesting deeper than %d: %w", maxValueDepth, ErrLimit)
	}
	switch v := v.(type) {
	case nil, bool, int64, float64, string:
		return v, nil
	case int:
		return int64(v), nil
	case []string:
		l := make(list, len(v))
		for i, s := range v {
			l[i] = s
		}
		return l, nil
	case []any:
		l := make(list, len(v))
		for i, e := range v {
			w, err := convert(e, depth+1)
			if err != nil {
				return nil, err
			}
			l[i] = w
		}
		return l, nil
	case map[string]any:
		d := &dict{}
		for _, key := range sortedKeys(v) {
			w, err := convert(v[key], depth+1)
			if err != nil {
				return nil, err
			}
			d.set(key, w)
		}
		return d, nil
	case json.RawMessage:
		dec := json.NewDecoder(bytes.NewReader(v))
		dec.UseNumber()
		w, err := fromJSON(dec, depth)
		if err == nil && dec.InputOffset() < int64(len(v)) && len(bytes.TrimSpace(v[dec.InputOffset():])) > 0 {
			err = fmt.Errorf("data after the JSON value: %w", ErrRender)
		}
		return w, err
	}
	return nil, fmt.Errorf("a value of type %T: %w", v, ErrRender)
}

// fromJSON reads one value with its keys in the order of the file.
func fromJSON(dec *json.Decoder, depth int) (any, error) {
	if depth > maxValueDepth {
		return nil, fmt.Errorf("JSON nested deeper than %d: %w", maxValueDepth, ErrLimit)
	}
	t, err := dec.Token()
	if err != nil {
		return nil, fmt.Errorf("JSON: %v: %w", err, ErrRender)
	}
	switch t := t.(type) {
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n, nil
		}
		f, err := t.Float64()
		if err != nil {
			return nil, fmt.Errorf("JSON: number %.40q: %w", t, ErrRender)
		}
		return f, nil
	case json.Delim:
		if t == '[' {
			l := list{}
			for dec.More() {
				v, err := fromJSON(dec, depth+1)
				if err != nil {
					return nil, err
				}
				l = append(l, v)
			}
			return l, end(dec)
		}
		d := &dict{}
		for dec.More() {
			key, err := dec.Token()
			if err != nil {
				return nil, fmt.Errorf("JSON: %v: %w", err, ErrRender)
			}
			v, err := fromJSON(dec, depth+1)
			if err != nil {
				return nil, err
			}
			d.set(key.(string), v)
		}
		return d, end(dec)
	}
	return t, nil
}

func end(dec *json.Decoder) error {
	if _, err := dec.Token(); err != nil {
		return fmt.Errorf("JSON: %v: %w", err, ErrRender)
	}
	return nil
}

func truth(v any) bool {
	switch v := v.(type) {
	case nil, undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case string:
		return v != ""
	case list:
		return len(v) > 0
	case *dict:
		return len(v.keys) > 0
	}
	return true
}

// typeName is Python's name of a value's type, for errors.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case undefined:
		return "undefined"
	case bool:
		return "bool"
	case int64:
		return "int"
	case float64:
		return "float"
	case string:
		return "str"
	case list:
		return "list"
	case *dict:
		return "dict"
	case *space:
		return "namespace"
	}
	return "function"
}

// number returns v as a float; bools count as 0 and 1, as in Python.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return float64(v), true
	case float64:
		return v, true
	}
	return 0, false
}

func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return v, true
	}
	return 0, false
}

// equal is Python's ==.
func (ev *evaluator) equal(a, b any, depth int) (bool, error) {
	if err := ev.step(depth); err != nil {
		return false, err
	}
	if i, ok := integer(a); ok {
		if j, ok := integer(b); ok {
			return i == j, nil
		}
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y, nil
	}
	switch a := a.(type) {
	case nil:
		return b == nil, nil
	case undefined:
		_, ok := b.(undefined)
		return ok, nil
	case string:
		s, ok := b.(string)
		return ok && a == s, nil
	case list:
		c, ok := b.(list)
		if !ok || len(a) != len(c) {
			return false, nil
		}
		for i := range a {
			if same, err := ev.equal(a[i], c[i], depth+1); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	case *dict:
		c, ok := b.(*dict)
		if !ok || len(a.keys) != len(c.keys) {
			return false, nil
		}
		for key, v := range a.values {
			w, ok := c.values[key]
			if !ok {
				return false, nil
			}
			if same, err := ev.equal(v, w, depth+1); !same || err != nil {
				return false, err
			}
		}
		return true, nil
	case *space:
		c, ok := b.(*space)
		return ok && a == c, nil
	}
	return false, nil
}

// str is Python's str(): what a value looks like in the text.
func (ev *evaluator) str(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return v, nil
	case undefined:
		return "", nil
	}
	var b strings.Builder
	err := ev.repr(&b, v, 0)
	return b.String(), err
}

// repr writes Python's repr().
func (ev *evaluator) repr(b *strings.Builder, v any, depth int) error {
	if err := ev.step(depth); err != nil {
		return err
	}
	start := b.Len()
	switch v := v.(type) {
	case nil:
		b.WriteString("None")
	case undefined:
		b.WriteString("Undefined")
	case bool:
		b.WriteString(map[bool]string{true: "True", false: "False"}[v])
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(formatFloat(v))
	case string:
		quote(b, v)
	case list:
		b.WriteByte('[')
		for i, e := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := ev.repr(b, e, depth+1); err != nil {
				return err
			}
		}
		b.WriteByte(']')
		return nil
	case *dict:
		b.WriteByte('{')
		for i, key := range v.keys {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := ev.charge(entryBytes + len(key)); err != nil {
				return err
			}
			quote(b, key)
			b.WriteString(": ")
			if err := ev.repr(b, v.values[key], depth+1); err != nil {
				return err
			}
		}
		b.WriteByte('}')
		return nil
	default:
		return fmt.Errorf("a %s has no text: %w", typeName(v), ErrRender)
	}
	return ev.charge(b.Len() - start)
}

// formatFloat is Python's repr of a float.
func formatFloat(f float64) string {
	switch {
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	case math.IsNaN(f):
		return "nan"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// quote writes Python's repr of a string.
func quote(b *strings.Builder, s string) {
	q := '\''
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	b.WriteRune(q)
	for _, r := range s {
		switch {
		case r == q || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == '\r':
			b.WriteString(`\r`)
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(b, `\u%04x`, r)
		default:
			fmt.Fprintf(b, `\U%08x`, r)
		}
	}
	b.WriteRune(q)
}
