package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// class is what the split patterns ask of a rune. A rune has at most one of
// letter, number, space; newline and mark come on top of the others.
type class uint8

const (
	letter  class = 1 << iota // \p{L}
	number                    // \p{N}
	space                     // \s, Unicode's White_Space
	newline                   // \r or \n
	mark                      // \p{M}
	upper                     // \p{Lu} or \p{Lt}
	lower                     // \p{Ll}
)

var asciiClass = func() (t [utf8.RuneSelf]class) {
	for i := range t {
		t[i] = slowClass(rune(i))
	}
	return t
}()

func slowClass(r rune) class {
	var c class
	switch {
	case unicode.IsLetter(r):
		c = letter
		if unicode.IsUpper(r) || unicode.IsTitle(r) {
			c |= upper
		} else if unicode.IsLower(r) && unicode.Is(unicode.Ll, r) {
			c |= lower
		}
	case unicode.IsNumber(r):
		c = number
	case unicode.IsSpace(r):
		c = space
		if r == '\r' || r == '\n' {
			c |= newline
		}
	case unicode.IsMark(r):
		c = mark
	}
	return c
}

// classAt returns the class and width of the rune at s[i:]. At the end of s
// the width is 0; a byte that is not UTF-8 has no class and width 1.
func classAt(s string, i int) (class, int) {
	if i >= len(s) {
		return 0, 0
	}
	if b := s[i]; b < utf8.RuneSelf {
		return asciiClass[b], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return slowClass(r), n
}

// run returns the end of the longest run from i of runes that have any of want
// and none of not; want 0 asks for nothing.
func run(s string, i int, want, not class) int {
	for {
		c, n := classAt(s, i)
		if n == 0 || c&not != 0 || want != 0 && c&want == 0 {
			return i
		}
		i += n
	}
}
