// Package strictjson reads JSON (RFC 8259) that nobody vouches for, value by value
// and without a tree, so that a header of a hundred thousand entries is as cheap as
// what its caller keeps of it. Where encoding/json is lenient it is strict: the text
// must be UTF-8 and surrogates paired, a key met twice is an error (encoding/json
// keeps the last silently), nothing may follow the value, and nesting, keys of an
// object and values of a tree are bounded.
package strictjson

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Kind says what was wrong.
type Kind uint8

// The kinds of errors.
const (
	Syntax    Kind = iota // not JSON, or not the value that the caller asked for
	Duplicate             // a key that the object has already
	Limit                 // more than Options allow
)

// Error is what was wrong with a text, in one line.
type Error struct {
	Kind   Kind
	Offset int    // bytes from the start
	Want   string // in words
	Got    string // the text there, cut short; "" is the end
	Key    string // the key met twice
}

// Error is one line.
func (e *Error) Error() string {
	switch {
	case e.Kind == Duplicate:
		return fmt.Sprintf("json: offset %d: key %.40q occurs twice", e.Offset, e.Key)
	case e.Got == "":
		return fmt.Sprintf("json: offset %d: want %s, got the end", e.Offset, e.Want)
	}
	return fmt.Sprintf("json: offset %d: want %s, got %q", e.Offset, e.Want, e.Got)
}

// Options bound a Reader.
type Options struct {
	Depth int                 // levels of nesting; 0: 32
	Keys  func(depth int) int // keys of one Object, by its depth from 1; nil: 65536
	Nodes int                 // values of all trees together; 0: 65536
	// Clone copies strings, for callers that keep few of a large text; else they are
	// parts of it and keep it in memory.
	Clone bool
	// Wrap makes an error the caller's own; nil returns *Error.
	Wrap func(*Error) error
}

// Reader stands at a place in a text. It is not safe for concurrent use; a copy is a
// second reader at the same place.
type Reader struct {
	text  string
	pos   int
	depth int
	nodes int
	dry   bool // strings are read for their syntax only
	o     Options
}

// New starts at the beginning of a text, which must be UTF-8.
func New(text string, o Options) (*Reader, error) {
	if o.Depth == 0 {
		o.Depth = 32
	}
	if o.Nodes == 0 {
		o.Nodes = 1 << 16
	}
	r := &Reader{text: text, nodes: o.Nodes, o: o}
	for r.pos < len(text) {
		c, n := utf8.DecodeRuneInString(text[r.pos:])
		if c == utf8.RuneError && n <= 1 {
			return nil, r.Fail("UTF-8")
		}
		r.pos += n
	}
	r.pos = 0
	return r, nil
}

// Pos is the offset of the next byte.
func (r *Reader) Pos() int { return r.pos }

// At is a new reader of the same text that stands at a value's offset, outside of
// all nesting and with the budget of a fresh one.
func (r *Reader) At(pos int) *Reader {
	return &Reader{text: r.text, pos: pos, nodes: r.o.Nodes, o: r.o}
}

// Allow sets how many more values trees may have.
func (r *Reader) Allow(nodes int) { r.nodes = nodes }

func (r *Reader) err(k Kind, pos int, want, key string) error {
	// Bytes, not runes: quoting writes what is cut in the middle as an escape.
	e := &Error{Kind: k, Offset: pos, Want: want, Key: key, Got: r.text[pos:min(len(r.text), pos+16)]}
	if r.o.Wrap != nil {
		return r.o.Wrap(e)
	}
	return e
}

// Fail is the error of a value that is not what the caller wants.
func (r *Reader) Fail(want string) error { return r.err(Syntax, min(r.pos, len(r.text)), want, "") }

// Peek skips white space and returns the next byte, 0 at the end.
func (r *Reader) Peek() byte {
	for r.pos < len(r.text) {
		switch c := r.text[r.pos]; c {
		case ' ', '\t', '\n', '\r':
			r.pos++
		default:
			return c
		}
	}
	return 0
}

func (r *Reader) take(c byte) error {
	if r.Peek() != c {
		return r.Fail(strconv.QuoteRune(rune(c)))
	}
	r.pos++
	return nil
}

// End fails unless only white space is left.
func (r *Reader) End() error {
	if r.Peek() != 0 || r.pos < len(r.text) {
		return r.Fail("the end")
	}
	return nil
}

// list reads what stands between open and close.
func (r *Reader) list(open, close byte, item func(i int) error) error {
	if err := r.take(open); err != nil {
		return err
	}
	if r.depth++; r.depth > r.o.Depth {
		return r.err(Limit, r.pos-1, fmt.Sprintf("at most %d levels of nesting", r.o.Depth), "")
	}
	for i := 0; i > 0 || r.Peek() != close; i++ {
		if err := item(i); err != nil {
			return err
		}
		if r.Peek() != ',' {
			break
		}
		r.pos++
	}
	r.depth--
	return r.take(close)
}

// Array calls f at every element, which f reads.
func (r *Reader) Array(f func(i int) error) error { return r.list('[', ']', f) }

// Pairs calls f with every key of an object; f reads the value. Keys are not
// compared: for objects whose caller does that (a vocabulary).
func (r *Reader) Pairs(f func(key string) error) error {
	return r.pairs(func(_ int, key string) error { return f(key) })
}

func (r *Reader) pairs(f func(at int, key string) error) error {
	return r.list('{', '}', func(int) error {
		r.Peek()
		at := r.pos
		key, err := r.Str()
		if err != nil {
			return err
		}
		if err := r.take(':'); err != nil {
			return err
		}
		return f(at, key)
	})
}

// Object is Pairs with unique keys, and not too many.
func (r *Reader) Object(f func(key string) error) error {
	limit := 1 << 16
	if r.o.Keys != nil {
		limit = r.o.Keys(r.depth + 1)
	}
	dry := r.dry
	r.dry = false // keys are compared even where values are skipped
	seen := map[string]struct{}{}
	err := r.pairs(func(at int, key string) error {
		if _, dup := seen[key]; dup {
			return r.err(Duplicate, at, "each key once", key)
		}
		if len(seen) == limit {
			return r.err(Limit, at, fmt.Sprintf("at most %d keys in an object", limit), "")
		}
		seen[key] = struct{}{}
		r.dry = dry
		err := f(key)
		r.dry = false
		return err
	})
	r.dry = dry
	return err
}

// Str reads a string.
func (r *Reader) Str() (string, error) {
	if err := r.take('"'); err != nil {
		return "", err
	}
	start := r.pos
	for r.pos < len(r.text) {
		switch c := r.text[r.pos]; {
		case c == '"':
			r.pos++
			if s := r.text[start : r.pos-1]; r.dry {
				return "", nil
			} else if r.o.Clone {
				return strings.Clone(s), nil
			} else {
				return s, nil
			}
		case c == '\\':
			return r.escaped(start)
		case c < ' ':
			return "", r.Fail("no control character in a string")
		}
		r.pos++
	}
	return "", r.Fail("the end of a string")
}

// escaped goes on with a string that began at start and has met a backslash.
func (r *Reader) escaped(start int) (string, error) {
	end, escapes := r.pos, 0
	for end < len(r.text) && r.text[end] != '"' {
		if r.text[end] == '\\' {
			end, escapes = end+1, escapes+1
		}
		end++
	}
	var b strings.Builder
	if !r.dry {
		b.Grow(min(end, len(r.text)) - start - escapes) // each escape shrinks by at least one
		b.WriteString(r.text[start:r.pos])
	}
	for r.pos < len(r.text) {
		c := r.text[r.pos]
		switch {
		case c == '"':
			r.pos++
			return b.String(), nil
		case c < ' ':
			return "", r.Fail("no control character in a string")
		case c == '\\':
			char, err := r.escape()
			if err != nil {
				return "", err
			}
			if !r.dry {
				b.WriteRune(char)
			}
			continue
		}
		if !r.dry {
			b.WriteByte(c)
		}
		r.pos++
	}
	return "", r.Fail("the end of a string")
}

// escape reads a backslash and what follows.
func (r *Reader) escape() (rune, error) {
	if r.pos+1 == len(r.text) {
		r.pos++
		return 0, r.Fail("an escape")
	}
	e := r.text[r.pos+1]
	if k := strings.IndexByte(`"\/bfnrt`, e); k >= 0 {
		r.pos += 2
		return rune("\"\\/\b\f\n\r\t"[k]), nil
	}
	if e != 'u' {
		return 0, r.Fail("an escape")
	}
	c, n := r.hex4(r.pos), 6
	if utf16.IsSurrogate(c) {
		c, n = utf16.DecodeRune(c, r.hex4(r.pos+6)), 12
		if c == utf8.RuneError {
			return 0, r.Fail("a surrogate pair")
		}
	}
	if c < 0 {
		return 0, r.Fail("four hexadecimal digits")
	}
	r.pos += n
	return c, nil
}

// hex4 is the character of \uXXXX at a place, -1 if there is none.
func (r *Reader) hex4(at int) rune {
	if at+6 > len(r.text) || r.text[at:at+2] != `\u` {
		return -1
	}
	n, err := strconv.ParseUint(r.text[at+2:at+6], 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// Number reads a number's text.
func (r *Reader) Number() (string, error) {
	r.Peek()
	start := r.pos
	is := func(set string) bool {
		if r.pos < len(r.text) && strings.IndexByte(set, r.text[r.pos]) >= 0 {
			r.pos++
			return true
		}
		return false
	}
	digits := func() bool {
		from := r.pos
		for is("0123456789") {
		}
		return r.pos > from
	}
	is("-")
	whole := r.pos
	ok := digits() && (r.text[whole] != '0' || r.pos == whole+1)
	if ok && is(".") {
		ok = digits()
	}
	if ok && is("eE") {
		is("+-")
		ok = digits()
	}
	s := r.text[start:r.pos]
	if !ok {
		r.pos = start
		if start == len(r.text) { // of an empty document, say: nothing says that it should be one
			return "", r.Fail("a value")
		}
		return "", r.Fail("a number")
	}
	if r.o.Clone {
		s = strings.Clone(s)
	}
	return s, nil
}

// Uint reads a whole number from 0 to the largest int; 1.0 and 1e3 are refused.
func (r *Reader) Uint() (int, error) {
	r.Peek()
	start := r.pos
	s, err := r.Number()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(s, 10, 63)
	if err != nil || v > math.MaxInt {
		r.pos = start
		return 0, r.Fail("a whole number of at most 63 bits")
	}
	return int(v), nil
}

// Float reads a number.
func (r *Reader) Float() (float64, error) {
	r.Peek()
	start := r.pos
	s, err := r.Number()
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		r.pos = start
		return 0, r.Fail("a number of 64 bits")
	}
	return f, nil
}

// Bool reads true or false.
func (r *Reader) Bool() (bool, error) {
	if r.Peek() == 't' {
		return true, r.word("true")
	}
	return false, r.word("false")
}

// Null reads null if it comes next.
func (r *Reader) Null() (bool, error) {
	if r.Peek() != 'n' {
		return false, nil
	}
	return true, r.word("null")
}

func (r *Reader) word(w string) error {
	if !strings.HasPrefix(r.text[r.pos:], w) {
		return r.Fail("a value")
	}
	r.pos += len(w)
	return nil
}

// Skip reads any value, of any size, and keeps nothing. Keys are compared where
// unique is set.
func (r *Reader) Skip(unique bool) error {
	switch r.Peek() {
	case '{':
		pairs := r.Pairs
		if unique {
			pairs = r.Object
		}
		return pairs(func(string) error { return r.Skip(unique) })
	case '[':
		return r.Array(func(int) error { return r.Skip(unique) })
	}
	dry := r.dry
	r.dry = true
	_, err := r.scalar(func(string) (any, error) { return nil, nil })
	r.dry = dry
	return err
}

// Count is the number of elements of the array that comes next.
func (r *Reader) Count() (n int, err error) {
	ahead := *r
	err = ahead.Array(func(int) error { n++; return ahead.Skip(false) })
	return n, err
}

// Tree reads any value. The caller makes objects (and how to put a member into one)
// and numbers; the rest is string, bool, nil and []any.
func Tree[O any](r *Reader, object func() (o O, put func(key string, v any)), number func(text string) (any, error)) (any, error) {
	if r.nodes--; r.nodes < 0 {
		return nil, r.err(Limit, r.pos, fmt.Sprintf("at most %d values", r.o.Nodes), "")
	}
	switch r.Peek() {
	case '{':
		o, put := object()
		err := r.Object(func(key string) error {
			v, err := Tree(r, object, number)
			if err == nil {
				put(key, v)
			}
			return err
		})
		return o, err
	case '[':
		list := []any{}
		err := r.Array(func(int) error {
			v, err := Tree(r, object, number)
			list = append(list, v)
			return err
		})
		return list, err
	}
	return r.scalar(number)
}

func (r *Reader) scalar(number func(string) (any, error)) (any, error) {
	switch r.Peek() {
	case '"':
		return r.Str()
	case 't':
		return true, r.word("true")
	case 'f':
		return false, r.word("false")
	case 'n':
		return nil, r.word("null")
	}
	s, err := r.Number()
	if err != nil {
		return nil, err
	}
	return number(s)
}
