package tokenizer

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// A normalizer rewrites text before it is split. golang.org/x/text is used for
// the Unicode normal forms: their tables are not in the standard library.
type normalizer func(string) string

func normalForm(f norm.Form) normalizer {
	return func(s string) string {
		if f.IsNormalString(s) {
			return s
		}
		return f.String(s)
	}
}

func prepend(mark string) normalizer {
	return func(s string) string {
		if s == "" {
			return s
		}
		return mark + s
	}
}

func stripSpaces(left, right bool) normalizer {
	return func(s string) string {
		if left {
			s = strings.TrimLeftFunc(s, unicode.IsSpace)
		}
		if right {
			s = strings.TrimRightFunc(s, unicode.IsSpace)
		}
		return s
	}
}

func replaceAll(old, with string) normalizer {
	return func(s string) string { return strings.ReplaceAll(s, old, with) }
}

// lowercase maps rune by rune. U+0130 is the only one whose lower case is two
// runes (Unicode's SpecialCasing.txt), which strings.ToLower does not do.
func lowercase(s string) string {
	return strings.ToLower(strings.ReplaceAll(s, "\u0130", "i\u0307"))
}
