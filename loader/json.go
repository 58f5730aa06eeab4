package loader

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
	"unsafe"
)

// jsonReader reads JSON (RFC 8259) token by token. encoding/json would keep the
// last of two equal keys silently; here that is an error, and nesting is
// bounded. The input must be UTF-8, which newJSON checks.
type jsonReader struct {
	b     string
	i     int
	depth int
	base  int64 // offset of b in the file
	dry   bool  // strings are read for their syntax only
}

const maxDepth = 32

// maxKeysOf bounds the keys of an object by its depth: the outermost may list
// tensors, the one inside it an index's.
var maxKeysOf = [...]int{0, maxTensors + 1, maxTensors, 1 << 14}

func newJSON(b []byte, base int64) (*jsonReader, error) {
	r := &jsonReader{b: unsafe.String(unsafe.SliceData(b), len(b)), base: base} // nobody writes to b again; a copy would double the header
	if !utf8.Valid(b) {
		i := 0
		for i < len(b) {
			c, n := utf8.DecodeRune(b[i:])
			if c == utf8.RuneError && n <= 1 {
				break
			}
			i += n
		}
		r.i = i
		return nil, r.fail("UTF-8")
	}
	return r, nil
}

func (r *jsonReader) fail(want string) error {
	if r.i >= len(r.b) {
		return fault(ErrFormat, "", r.base+int64(r.i), "json: want "+want+", got the end", nil, nil)
	}
	return fault(ErrFormat, "", r.base+int64(r.i), "json: want "+want, nil, r.b[r.i:min(len(r.b), r.i+16)])
}

// peek skips white space; 0 is the end.
func (r *jsonReader) peek() byte {
	for r.i < len(r.b) {
		switch c := r.b[r.i]; c {
		case ' ', '\t', '\n', '\r':
			r.i++
		default:
			return c
		}
	}
	return 0
}

func (r *jsonReader) take(c byte) error {
	if r.peek() != c {
		return r.fail(strconv.QuoteRune(rune(c)))
	}
	r.i++
	return nil
}

// end fails unless only white space is left.
func (r *jsonReader) end() error {
	if r.peek() != 0 || r.i < len(r.b) {
		return r.fail("the end")
	}
	return nil
}

func (r *jsonReader) nest() error {
	if r.depth++; r.depth > maxDepth {
		return fault(ErrLimit, "", r.base+int64(r.i), "json: nesting", "at most "+strconv.Itoa(maxDepth), nil)
	}
	return nil
}

// object calls f at every value; keys are unique.
func (r *jsonReader) object(f func(key string) error) error {
	if err := r.take('{'); err != nil {
		return err
	}
	if err := r.nest(); err != nil {
		return err
	}
	seen := map[string]struct{}{}
	limit := maxKeysOf[min(r.depth, len(maxKeysOf)-1)]
	for first := true; ; first = false {
		if first && r.peek() == '}' {
			break
		}
		at := r.i
		key, err := r.str()
		if err != nil {
			return err
		}
		if _, dup := seen[key]; dup {
			return fault(ErrFormat, key, r.base+int64(at), "json: key occurs twice", nil, nil)
		}
		if len(seen) == limit {
			return fault(ErrLimit, "", r.base+int64(at), "json: keys in an object", fmt.Sprint("at most ", limit), nil)
		}
		seen[key] = struct{}{}
		if err := r.take(':'); err != nil {
			return err
		}
		if err := f(key); err != nil {
			return err
		}
		if r.peek() != ',' {
			break
		}
		r.i++
	}
	r.depth--
	return r.take('}')
}

// array calls f at every element.
func (r *jsonReader) array(f func(i int) error) error {
	if err := r.take('['); err != nil {
		return err
	}
	if err := r.nest(); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if i == 0 && r.peek() == ']' {
			break
		}
		if err := f(i); err != nil {
			return err
		}
		if r.peek() != ',' {
			break
		}
		r.i++
	}
	r.depth--
	return r.take(']')
}

func (r *jsonReader) str() (string, error) {
	if err := r.take('"'); err != nil {
		return "", err
	}
	start := r.i
	for r.i < len(r.b) {
		switch c := r.b[r.i]; {
		case c == '"':
			r.i++
			if r.dry {
				return "", nil
			}
			return strings.Clone(r.b[start : r.i-1]), nil
		case c == '\\':
			return r.escaped(start)
		case c < 0x20:
			return "", r.fail("no control character in a string")
		}
		r.i++
	}
	return "", r.fail("the end of a string")
}

// escaped goes on with a string that began at start and has met a backslash.
func (r *jsonReader) escaped(start int) (string, error) {
	end, escapes := r.i, 0
	for end < len(r.b) && r.b[end] != '"' {
		if r.b[end] == '\\' {
			end, escapes = end+1, escapes+1
		}
		end++
	}
	var b strings.Builder
	b.Grow(min(end, len(r.b)) - start - escapes) // each escape shrinks by at least one
	b.WriteString(r.b[start:r.i])
	for r.i < len(r.b) {
		c := r.b[r.i]
		switch {
		case c == '"':
			r.i++
			return b.String(), nil
		case c < 0x20:
			return "", r.fail("no control character in a string")
		case c != '\\':
			b.WriteByte(c)
			r.i++
			continue
		}
		r.i++
		if r.i == len(r.b) {
			break
		}
		e := r.b[r.i]
		if k := strings.IndexByte(`"\/bfnrt`, e); k >= 0 {
			b.WriteByte("\"\\/\b\f\n\r\t"[k])
			r.i++
			continue
		}
		if e != 'u' {
			return "", r.fail("an escape")
		}
		c1, err := r.hex4()
		if err != nil {
			return "", err
		}
		if utf16.IsSurrogate(c1) {
			if !strings.HasPrefix(r.b[r.i:], `\u`) {
				return "", r.fail("the second half of a surrogate pair")
			}
			r.i++
			c2, err := r.hex4()
			if err != nil {
				return "", err
			}
			if c1 = utf16.DecodeRune(c1, c2); c1 == utf8.RuneError {
				return "", r.fail("a surrogate pair before")
			}
		}
		b.WriteRune(c1)
	}
	return "", r.fail("the end of a string")
}

// hex4 reads u and four digits.
func (r *jsonReader) hex4() (rune, error) {
	if r.i+5 > len(r.b) {
		r.i = len(r.b)
		return 0, r.fail("four hexadecimal digits")
	}
	v, err := strconv.ParseUint(r.b[r.i+1:r.i+5], 16, 32)
	if err != nil {
		return 0, r.fail("four hexadecimal digits")
	}
	r.i += 5
	return rune(v), nil
}

// number returns the text of a number.
func (r *jsonReader) number() (string, error) {
	r.peek()
	start := r.i
	for r.i < len(r.b) && strings.IndexByte("+-.0123456789eE", r.b[r.i]) >= 0 {
		r.i++
	}
	s := r.b[start:r.i]
	if !json.Valid([]byte(s)) || s == "" {
		r.i = start
		return "", r.fail("a number")
	}
	return strings.Clone(s), nil
}

// uint reads a whole number from 0 to the largest int; 1.0 and 1e3 are refused.
func (r *jsonReader) uint() (int, error) {
	r.peek()
	start := r.i
	s, err := r.number()
	if err != nil {
		return 0, err
	}
	v, err := strconv.ParseUint(s, 10, 63)
	if err != nil || v > math.MaxInt {
		r.i = start
		return 0, r.fail("a whole number of at most 63 bits")
	}
	return int(v), nil
}

// word reads true, false or null.
func (r *jsonReader) word(w string) error {
	if !strings.HasPrefix(r.b[r.i:], w) {
		return r.fail("a value")
	}
	r.i += len(w)
	return nil
}

// value reads any value: object, []any, string, number, bool or nil.
func (r *jsonReader) value() (any, error) {
	switch r.peek() {
	case '{':
		m := object{}
		return m, r.object(func(key string) (err error) {
			m[key], err = r.value()
			return err
		})
	case '[':
		list := []any{}
		err := r.array(func(int) error {
			v, err := r.value()
			list = append(list, v)
			return err
		})
		return list, err
	case '"':
		return r.str()
	case 't':
		return true, r.word("true")
	case 'f':
		return false, r.word("false")
	case 'n':
		return nil, r.word("null")
	}
	s, err := r.number()
	return number(s), err
}

// count is the number of elements of the array that comes next.
func (r *jsonReader) count() (n int, err error) {
	ahead := *r
	ahead.dry = true
	err = ahead.array(func(int) error { n++; return ahead.skip() })
	return n, err
}

// skip reads any value and keeps nothing.
func (r *jsonReader) skip() error {
	switch r.peek() {
	case '{':
		return r.object(func(string) error { return r.skip() })
	case '[':
		return r.array(func(int) error { return r.skip() })
	case '"':
		_, err := r.str()
		return err
	case 't':
		return r.word("true")
	case 'f':
		return r.word("false")
	case 'n':
		return r.word("null")
	}
	_, err := r.number()
	return err
}

func (r *jsonReader) float() (float64, error) {
	s, err := r.number()
	if err != nil {
		return 0, err
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, r.fail("a number of 64 bits before")
	}
	return f, nil
}

func (r *jsonReader) boolean() (bool, error) {
	if r.peek() == 't' {
		return true, r.word("true")
	}
	return false, r.word("false")
}
