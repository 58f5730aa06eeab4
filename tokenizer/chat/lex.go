package chat

import (
	"fmt"
	"strings"
	"unicode"
)

// segment is a stretch of a template: plain text, or the tokens of {{ }} or
// {% %}. Comments and whitespace control are gone.
type segment struct {
	kind segmentKind
	text string
	toks []token
	line int
}

type segmentKind uint8

const (
	textSegment segmentKind = iota
	outputSegment
	blockSegment
)

type token struct {
	kind tokenKind
	text string // the name, operator, number as written, or string's value
}

type tokenKind uint8

const (
	endToken tokenKind = iota
	nameToken
	intToken
	floatToken
	stringToken
	opToken
)

type lexer struct {
	s         string
	i         int
	lineStart bool // the last tag swallowed a newline, or nothing was before
	segs      []segment
}

func (l *lexer) fail(format string, args ...any) error {
	return fmt.Errorf("line %d: %s: %w", 1+strings.Count(l.s[:min(l.i, len(l.s))], "\n"), fmt.Sprintf(format, args...), ErrSyntax)
}

// lex cuts a template into segments, with trim_blocks and lstrip_blocks: the
// newline after a block and the blanks before it on its line are dropped.
func lex(src string) ([]segment, error) {
	src = strings.ReplaceAll(strings.ReplaceAll(src, "\r\n", "\n"), "\r", "\n")
	l := &lexer{s: strings.TrimSuffix(src, "\n"), lineStart: true}
	for l.i < len(l.s) {
		open := nextTag(l.s, l.i)
		text := l.s[l.i:open]
		if open == len(l.s) {
			l.text(text)
			break
		}
		tag := l.s[open : open+2]
		l.i = open + 2
		switch control := l.at(l.i); {
		case control == '-':
			l.i++
			text = strings.TrimRightFunc(text, unicode.IsSpace)
		case control == '+' && tag != "{{":
			l.i++
		case tag != "{{":
			n := strings.LastIndexByte(text, '\n') + 1
			if (n > 0 || l.lineStart) && strings.TrimSpace(text[n:]) == "" {
				text = text[:n]
			}
		}
		l.text(text)
		if err := l.tag(tag); err != nil {
			return nil, err
		}
	}
	return l.segs, nil
}

// nextTag returns where {{, {% or {# next begins, len(s) if nowhere.
func nextTag(s string, i int) int {
	for ; i+1 < len(s); i++ {
		if s[i] == '{' && (s[i+1] == '{' || s[i+1] == '%' || s[i+1] == '#') {
			return i
		}
	}
	return len(s)
}

func (l *lexer) at(i int) byte {
	if i < len(l.s) {
		return l.s[i]
	}
	return 0
}

func (l *lexer) text(s string) {
	if s != "" {
		l.segs = append(l.segs, segment{kind: textSegment, text: s})
	}
}

// tag reads the rest of a tag whose opening has been read.
func (l *lexer) tag(open string) error {
	line := 1 + strings.Count(l.s[:l.i], "\n")
	if open == "{#" {
		n := strings.Index(l.s[l.i:], "#}")
		if n < 0 {
			return l.fail("a comment without #}")
		}
		l.i += n
		if n > 0 && strings.IndexByte("-+", l.s[l.i-1]) >= 0 {
			l.i--
		}
		l.close("#}")
		return nil
	}
	end, kind := "}}", outputSegment
	if open == "{%" {
		end, kind = "%}", blockSegment
	}
	toks, err := l.tokens(end)
	if err != nil {
		return err
	}
	if kind == blockSegment && len(toks) == 1 && toks[0] == (token{nameToken, "raw"}) {
		if strings.HasSuffix(l.s[:l.i], "%}\n") && !strings.HasSuffix(l.s[:l.i], "-%}\n") {
			l.i-- // the newline after {% raw %} stays
		}
		return l.raw()
	}
	l.segs = append(l.segs, segment{kind, "", toks, line})
	return nil
}

// close reads the end of a tag with what its whitespace control drops. It
// reports false where there is none.
func (l *lexer) close(end string) bool {
	start := l.i
	control := byte(0)
	if c := l.at(l.i); (c == '-' || c == '+' && end != "}}") && strings.HasPrefix(l.s[l.i+1:], end) {
		control = c
		l.i++
	}
	if !strings.HasPrefix(l.s[l.i:], end) {
		l.i = start
		return false
	}
	l.i += len(end)
	switch {
	case control == '-':
		l.i = len(l.s) - len(strings.TrimLeftFunc(l.s[l.i:], unicode.IsSpace))
	case control == 0 && end != "}}" && l.at(l.i) == '\n':
		l.i++
	}
	l.lineStart = l.s[l.i-1] == '\n'
	return true
}

// raw reads up to {% endraw %}.
func (l *lexer) raw() error {
	for at := l.i; ; {
		n := strings.Index(l.s[at:], "{%")
		if n < 0 {
			return l.fail("raw without endraw")
		}
		at += n
		text, control := l.s[l.i:at], l.at(at+2)
		body := strings.TrimLeft(l.s[at+2:], "-+")
		if rest := strings.TrimLeftFunc(body, unicode.IsSpace); strings.HasPrefix(rest, "endraw") {
			l.i = len(l.s) - len(rest) + len("endraw")
			l.i = len(l.s) - len(strings.TrimLeftFunc(l.s[l.i:], unicode.IsSpace))
			if l.close("%}") {
				if nl := strings.LastIndexByte(text, '\n') + 1; control == '-' {
					text = strings.TrimRightFunc(text, unicode.IsSpace)
				} else if control != '+' && nl > 0 && strings.TrimSpace(text[nl:]) == "" {
					text = text[:nl]
				}
				l.text(text)
				return nil
			}
		}
		at += 2
	}
}

// operators, longest first.
var operators = []string{
	"//", "**", "==", "!=", "<=", ">=",
	"+", "-", "*", "/", "%", "~", "<", ">", "=", "|", ".", ",", ":", "(", ")", "[", "]", "{", "}",
}

// tokens reads the tokens of a tag and its end.
func (l *lexer) tokens(end string) ([]token, error) {
	var toks []token
	depth := 0
	for {
		for l.i < len(l.s) && unicode.IsSpace(rune(l.s[l.i])) {
			l.i++
		}
		if l.i >= len(l.s) {
			return nil, l.fail("a tag without %s", end)
		}
		if depth == 0 && l.close(end) {
			return toks, nil
		}
		tok, err := l.token()
		if err != nil {
			return nil, err
		}
		if tok.kind == opToken {
			switch tok.text {
			case "(", "[", "{":
				depth++
			case ")", "]", "}":
				depth--
			}
		}
		toks = append(toks, tok)
	}
}

func isNameByte(c byte) bool {
	return c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

func (l *lexer) token() (token, error) {
	c := l.s[l.i]
	start := l.i
	switch {
	case c == '"' || c == '\'':
		return l.str(c)
	case isDigit(c):
		for isDigit(l.at(l.i)) || l.at(l.i) == '_' {
			l.i++
		}
		kind := intToken
		if l.at(l.i) == '.' && isDigit(l.at(l.i+1)) {
			kind = floatToken
			for l.i++; isDigit(l.at(l.i)); {
				l.i++
			}
		}
		if n := exponent(l.s[l.i:]); n > 0 {
			kind = floatToken
			l.i += n
		}
		return token{kind, strings.ReplaceAll(l.s[start:l.i], "_", "")}, nil
	case isNameByte(c):
		for isNameByte(l.at(l.i)) {
			l.i++
		}
		return token{nameToken, l.s[start:l.i]}, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(l.s[l.i:], op) {
			l.i += len(op)
			return token{opToken, op}, nil
		}
	}
	return token{}, l.fail("unexpected %.8q", l.s[l.i:])
}

// exponent returns the length of "e", a sign and digits at the start of s.
func exponent(s string) int {
	if s == "" || s[0] != 'e' && s[0] != 'E' {
		return 0
	}
	n := 1
	if len(s) > 1 && (s[1] == '-' || s[1] == '+') {
		n = 2
	}
	if digits := len(s[n:]) - len(strings.TrimLeft(s[n:], "0123456789")); digits > 0 {
		return n + digits
	}
	return 0
}

// str reads a string with Python's escapes.
func (l *lexer) str(quote byte) (token, error) {
	var b strings.Builder
	for l.i++; l.i < len(l.s); l.i++ {
		c := l.s[l.i]
		switch {
		case c == quote:
			l.i++
			return token{stringToken, b.String()}, nil
		case c != '\\' || l.i+1 >= len(l.s):
			b.WriteByte(c)
			continue
		}
		l.i++
		switch e := l.s[l.i]; e {
		case 'n', 't', 'r', 'b', 'f', 'v', 'a', '0', '\\', '\'', '"':
			b.WriteByte("\n\t\r\b\f\v\a\x00\\'\""[strings.IndexByte(`ntrbfva0\'"`, e)])
		case '\n':
		case 'x', 'u', 'U':
			r, ok := hexRune(l.s[l.i+1:], map[byte]int{'x': 2, 'u': 4, 'U': 8}[e])
			if !ok {
				return token{}, l.fail("a malformed \\%c escape", e)
			}
			b.WriteRune(r)
			l.i += map[byte]int{'x': 2, 'u': 4, 'U': 8}[e]
		default:
			b.WriteByte('\\')
			b.WriteByte(e)
		}
	}
	return token{}, l.fail("a string without its end")
}

func hexRune(s string, n int) (rune, bool) {
	if len(s) < n {
		return 0, false
	}
	r := rune(0)
	for _, c := range []byte(s[:n]) {
		k := -1
		if isDigit(c) {
			k = int(c - '0')
		} else if k = strings.IndexByte("abcdef", c|0x20); k >= 0 {
			k += 10
		}
		if k < 0 || r > unicode.MaxRune {
			return 0, false
		}
		r = r<<4 | rune(k)
	}
	return r, r <= unicode.MaxRune
}
