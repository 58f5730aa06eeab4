package ptxsim

import (
	"fmt"
	"strings"
)

// tokenKind sorts PTX tokens as coarsely as the parser needs.
type tokenKind uint8

const (
	tokEOF    tokenKind = iota
	tokIdent            // add, %r1, $L__BB0_2, _ZZ2k1E3red
	tokDot              // .global, .sp::ordered_metadata (text keeps the dot)
	tokNumber           // 12, 0x3f80U, 0f3F800000, 1.5
	tokString           // "nounroll"
	tokPunct            // one of , ; : { } ( ) [ ] < > | ! + - @ = * / & ^ ~
)

// token is one lexeme; pos and end are byte offsets into the source.
type token struct {
	kind     tokenKind
	text     string
	pos, end int
	line     int
}

// lexer cuts PTX text into tokens; comments vanish.
type lexer struct {
	src  string
	pos  int
	line int
}

func isIdentStart(c byte) bool {
	return c == '_' || c == '$' || c == '%' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isIdentPart(c byte) bool { return isIdentStart(c) && c != '%' || isDigit(c) }

// skip passes blanks and comments; an unclosed block comment is an error.
func (l *lexer) skip() error {
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		switch {
		case c == '\n':
			l.line++
			l.pos++
		case c == ' ' || c == '\t' || c == '\r':
			l.pos++
		case strings.HasPrefix(l.src[l.pos:], "//"):
			i := strings.IndexByte(l.src[l.pos:], '\n')
			if i < 0 {
				l.pos = len(l.src)
			} else {
				l.pos += i
			}
		case strings.HasPrefix(l.src[l.pos:], "/*"):
			i := strings.Index(l.src[l.pos+2:], "*/")
			if i < 0 {
				return fmt.Errorf("line %d: unclosed comment: %w", l.line, ErrSyntax)
			}
			l.line += strings.Count(l.src[l.pos:l.pos+2+i], "\n")
			l.pos += i + 4
		default:
			return nil
		}
	}
	return nil
}

// next returns the next token; at the end of the text, tokEOF for ever.
func (l *lexer) next() (token, error) {
	if err := l.skip(); err != nil {
		return token{}, err
	}
	if l.pos >= len(l.src) {
		return token{kind: tokEOF, pos: l.pos, end: l.pos, line: l.line}, nil
	}
	start, c := l.pos, l.src[l.pos]
	mk := func(k tokenKind) (token, error) {
		return token{kind: k, text: l.src[start:l.pos], pos: start, end: l.pos, line: l.line}, nil
	}
	switch {
	case isIdentStart(c):
		l.pos++
		for l.pos < len(l.src) && isIdentPart(l.src[l.pos]) {
			l.pos++
		}
		return mk(tokIdent)
	case isDigit(c):
		l.number()
		return mk(tokNumber)
	case c == '.':
		l.pos++
		for l.pos < len(l.src) {
			if isIdentPart(l.src[l.pos]) {
				l.pos++
			} else if strings.HasPrefix(l.src[l.pos:], "::") {
				l.pos += 2
			} else {
				break
			}
		}
		return mk(tokDot)
	case c == '"':
		i := strings.IndexAny(l.src[l.pos+1:], "\"\n")
		if i < 0 || l.src[l.pos+1+i] == '\n' {
			return token{}, fmt.Errorf("line %d: unclosed string: %w", l.line, ErrSyntax)
		}
		l.pos += i + 2
		return mk(tokString)
	case strings.IndexByte(",;:{}()[]<>|!+-@=*/&^~#?", c) >= 0:
		l.pos++
		return mk(tokPunct)
	}
	return token{}, fmt.Errorf("line %d: unexpected character %q: %w", l.line, c, ErrSyntax)
}

// number takes every form of PTX literal; its value is checked by parseNumber.
func (l *lexer) number() {
	for l.pos < len(l.src) {
		c := l.src[l.pos]
		if isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c == 'x' || c == 'X' || c == 'U' {
			l.pos++
		} else if c == '.' && l.pos+1 < len(l.src) && isDigit(l.src[l.pos+1]) {
			l.pos++
		} else {
			return
		}
	}
}
