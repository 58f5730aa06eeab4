package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// jsonReader reads JSON (RFC 8259) from a string, value by value and without a
// tree: a vocabulary of a hundred thousand entries is then as cheap as its
// tables, keys met twice are seen, and nesting is bounded. Strings without
// escapes are parts of the input.
type jsonReader struct {
	s     string
	i     int
	depth int
	nodes int // values still allowed in trees
}

const (
	maxJSONDepth = 64
	maxJSONNodes = 1 << 16
)

func newJSONReader(data []byte) (*jsonReader, error) {
	r := &jsonReader{s: string(data), nodes: maxJSONNodes}
	if !utf8.ValidString(r.s) {
		return nil, fmt.Errorf("json: want UTF-8: %w", ErrFormat)
	}
	return r, nil
}

func (r *jsonReader) fail(want string) error {
	got := "the end"
	if r.i < len(r.s) {
		got = strconv.Quote(r.s[r.i:min(len(r.s), r.i+12)])
	}
	return fmt.Errorf("json: offset %d: want %s, got %s: %w", r.i, want, got, ErrFormat)
}

// peek skips white space and returns the next byte, 0 at the end.
func (r *jsonReader) peek() byte {
	for r.i < len(r.s) {
		switch r.s[r.i] {
		case ' ', '\t', '\r', '\n':
			r.i++
		default:
			return r.s[r.i]
		}
	}
	return 0
}

func (r *jsonReader) expect(c byte) error {
	if r.peek() != c {
		return r.fail(strconv.QuoteRune(rune(c)))
	}
	r.i++
	return nil
}

// end checks that nothing but white space is left.
func (r *jsonReader) end() error {
	if r.peek() != 0 || r.i < len(r.s) {
		return r.fail("the end")
	}
	return nil
}

// list reads what stands between open and close, calling item for each part.
func (r *jsonReader) list(open, close byte, item func() error) error {
	if err := r.expect(open); err != nil {
		return err
	}
	if r.depth++; r.depth > maxJSONDepth {
		return r.fail(fmt.Sprintf("at most %d levels of nesting", maxJSONDepth))
	}
	for first := true; r.peek() != close; first = false {
		if !first {
			if err := r.expect(','); err != nil {
				return err
			}
			r.peek()
		}
		if err := item(); err != nil {
			return err
		}
	}
	r.depth--
	return r.expect(close)
}

// object calls field with each key; field reads the value.
func (r *jsonReader) object(field func(key string) error) error {
	return r.list('{', '}', func() error {
		key, err := r.str()
		if err != nil {
			return err
		}
		if err := r.expect(':'); err != nil {
			return err
		}
		return field(key)
	})
}

// uniqueObject is object for few keys: a key met twice is an error.
func (r *jsonReader) uniqueObject(field func(key string) error) error {
	seen := map[string]bool{}
	return r.object(func(key string) error {
		if seen[key] {
			return r.fail(fmt.Sprintf("key %.40q once", key))
		}
		if r.nodes--; r.nodes < 0 {
			return r.fail(fmt.Sprintf("at most %d keys", maxJSONNodes))
		}
		seen[key] = true
		return field(key)
	})
}

// array calls item for each element; item reads it.
func (r *jsonReader) array(item func() error) error { return r.list('[', ']', item) }

func (r *jsonReader) str() (string, error) {
	if err := r.expect('"'); err != nil {
		return "", err
	}
	start := r.i
	for r.i < len(r.s) {
		switch c := r.s[r.i]; {
		case c == '"':
			r.i++
			return r.s[start : r.i-1], nil
		case c == '\\':
			return r.escaped(start)
		case c < ' ':
			return "", r.fail("no control character in a string")
		}
		r.i++
	}
	return "", r.fail("the end of a string")
}

// escaped reads the rest of a string that began at start and has escapes.
func (r *jsonReader) escaped(start int) (string, error) {
	var b strings.Builder
	b.WriteString(r.s[start:r.i])
	for r.i < len(r.s) {
		c := r.s[r.i]
		switch {
		case c == '"':
			r.i++
			return b.String(), nil
		case c < ' ':
			return "", r.fail("no control character in a string")
		case c != '\\':
			b.WriteByte(c)
			r.i++
			continue
		}
		if r.i+1 >= len(r.s) {
			break
		}
		if r.s[r.i+1] == 'u' {
			if err := r.unicodeEscape(&b); err != nil {
				return "", err
			}
			continue
		}
		k := strings.IndexByte(`"\/bfnrt`, r.s[r.i+1])
		if k < 0 {
			return "", r.fail("an escape")
		}
		b.WriteByte("\"\\/\b\f\n\r\t"[k])
		r.i += 2
	}
	r.i = len(r.s)
	return "", r.fail("the end of a string")
}

func (r *jsonReader) unicodeEscape(b *strings.Builder) error {
	hex := func(at int) rune {
		if at+6 > len(r.s) || r.s[at] != '\\' || r.s[at+1] != 'u' {
			return -1
		}
		n, err := strconv.ParseUint(r.s[at+2:at+6], 16, 16)
		if err != nil {
			return -1
		}
		return rune(n)
	}
	c, n := hex(r.i), 6
	if utf16.IsSurrogate(c) {
		c, n = utf16.DecodeRune(c, hex(r.i+6)), 12
		if c == utf8.RuneError {
			c = -1
		}
	}
	if c < 0 {
		return r.fail("four hexadecimal digits of a character")
	}
	b.WriteRune(c)
	r.i += n
	return nil
}

// number reads a number's text.
func (r *jsonReader) number() (string, error) {
	r.peek()
	start := r.i
	digits := func() bool {
		from := r.i
		for r.i < len(r.s) && '0' <= r.s[r.i] && r.s[r.i] <= '9' {
			r.i++
		}
		return r.i > from
	}
	is := func(set string) bool {
		if r.i < len(r.s) && strings.IndexByte(set, r.s[r.i]) >= 0 {
			r.i++
			return true
		}
		return false
	}
	is("-")
	whole := r.i
	ok := digits() && (r.s[whole] != '0' || r.i == whole+1)
	if ok && is(".") {
		ok = digits()
	}
	if ok && is("eE") {
		is("+-")
		ok = digits()
	}
	if !ok {
		return "", r.fail("a number")
	}
	return r.s[start:r.i], nil
}

// id reads a token id.
func (r *jsonReader) id() (int, error) {
	at := r.i
	text, err := r.number()
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n >= maxTokens {
		r.i = at
		return 0, r.fail(fmt.Sprintf("a token id below %d", maxTokens))
	}
	return n, nil
}

func (r *jsonReader) word(w string) error {
	if !strings.HasPrefix(r.s[r.i:], w) {
		return r.fail("a value")
	}
	r.i += len(w)
	return nil
}

// skip reads a value of any size and forgets it.
func (r *jsonReader) skip() error {
	switch r.peek() {
	case '{':
		return r.object(func(string) error { return r.skip() })
	case '[':
		return r.array(r.skip)
	}
	_, err := r.scalar()
	return err
}

func (r *jsonReader) scalar() (any, error) {
	switch r.peek() {
	case '"':
		return r.str()
	case 't':
		return true, r.word("true")
	case 'f':
		return false, r.word("false")
	case 'n':
		return nil, r.word("null")
	}
	text, err := r.number()
	if err != nil {
		return nil, err
	}
	n, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, r.fail("a number in range")
	}
	return n, nil
}

// tree reads a value of bounded size: nil, bool, float64, string, []any or
// node.
func (r *jsonReader) tree() (any, error) {
	if r.nodes--; r.nodes < 0 {
		return nil, r.fail(fmt.Sprintf("at most %d values outside the vocabulary", maxJSONNodes))
	}
	switch r.peek() {
	case '{':
		n := node{}
		err := r.uniqueObject(func(key string) (err error) {
			n[key], err = r.tree()
			return err
		})
		return n, err
	case '[':
		list := []any{}
		err := r.array(func() error {
			v, err := r.tree()
			list = append(list, v)
			return err
		})
		return list, err
	}
	return r.scalar()
}

// node is a JSON object. Its methods return the zero value for what is absent
// or of another type.
type node map[string]any

func (n node) str(key string) string { s, _ := n[key].(string); return s }
func (n node) list(key string) []any { l, _ := n[key].([]any); return l }
func (n node) node(key string) node  { m, _ := n[key].(node); return m }

func (n node) bool(key string, absent bool) bool {
	if b, ok := n[key].(bool); ok {
		return b
	}
	return absent
}

func (n node) int(key string) int {
	f, _ := n[key].(float64)
	if f != float64(int(f)) {
		return -1
	}
	return int(f)
}
