package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A pattern returns the end of the piece that begins at s[i:], i < len(s).
//
// Patterns are the split regular expressions of the field written as scanners:
// Go's regexp has no lookahead, and a scanner is faster. Each branch of a
// function is one alternative of the expression quoted above it, in its order.
// They cover every text, so pieces follow each other without gaps.
type pattern func(s string, i int) int

// The expressions as tokenizer.json files write them.
const (
	regexGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	regexLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	regexQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	regexTekken = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// patterns finds a scanner by the text of its expression.
var patterns = map[string]pattern{
	regexGPT2:   gpt2,
	regexLlama3: llama3,
	regexQwen2:  qwen2,
	regexTekken: tekken,
	// The same, with the case folding spelled out.
	`'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`: llama3,
}

// gpt2 is regexGPT2.
func gpt2(s string, i int) int {
	if n := contraction(s[i:], false); n > 0 {
		return i + n
	}
	j := i
	if s[i] == ' ' {
		j++
	}
	c, n := classAt(s, j)
	switch {
	case n == 0: // one space at the end
	case c&letter != 0:
		return run(s, j+n, letter, 0)
	case c&number != 0:
		return run(s, j+n, number, 0)
	case c&space == 0:
		return run(s, j+n, 0, space|letter|number)
	}
	return spaces(s, i)
}

func llama3(s string, i int) int { return cl100k(s, i, 3) }
func qwen2(s string, i int) int  { return cl100k(s, i, 1) }

// cl100k is regexLlama3 (digits 3) or regexQwen2 (digits 1).
func cl100k(s string, i, digits int) int {
	if n := contraction(s[i:], true); n > 0 {
		return i + n
	}
	c, n := classAt(s, i)
	if c&letter != 0 {
		return run(s, i+n, letter, 0)
	}
	if c&(number|newline) == 0 {
		if d, _ := classAt(s, i+n); d&letter != 0 {
			return run(s, i+n, letter, 0)
		}
	}
	if c&number != 0 {
		return someNumbers(s, i, digits)
	}
	if end, ok := others(s, i, ""); ok {
		return end
	}
	return linesOrSpaces(s, i)
}

// tekken is regexTekken. Its two first alternatives both take a prefix, then a
// word of the form Upper* lower+ or Upper+ lower*, where letters without case
// and marks count as either.
func tekken(s string, i int) int {
	c, n := classAt(s, i)
	starts := []int{i}
	if c&(letter|number|newline) == 0 {
		starts = []int{i + n, i} // the optional prefix is taken if it can be
	}
	for _, j := range starts {
		if end := lowerWord(s, j); end > j {
			return end
		}
	}
	for _, j := range starts {
		if end := upperRun(s, j); end > j {
			return lowerRun(s, end)
		}
	}
	if c&number != 0 {
		return someNumbers(s, i, 1)
	}
	if end, ok := others(s, i, "/"); ok {
		return end
	}
	return linesOrSpaces(s, i)
}

func upperRun(s string, i int) int { return run(s, i, letter|mark, lower) }
func lowerRun(s string, i int) int { return run(s, i, letter|mark, upper) }

// lowerWord matches [upper]*[lower]+ at i, or returns i. The upper run gives
// back runes until what follows it can be a lower one.
func lowerWord(s string, i int) int {
	j := upperRun(s, i)
	if end := lowerRun(s, j); end > j {
		return end
	}
	for j > i {
		_, n := utf8.DecodeLastRuneInString(s[i:j])
		j -= n
		if c, _ := classAt(s, j); c&upper == 0 {
			return lowerRun(s, j)
		}
	}
	return i
}

// others matches " ?[^\s\p{L}\p{N}]+[\r\n]*" where more is added to \r\n.
func others(s string, i int, more string) (int, bool) {
	if s[i] == ' ' {
		i++
	}
	end := run(s, i, 0, space|letter|number)
	if end == i {
		return i, false
	}
	for end < len(s) && (s[end] == '\r' || s[end] == '\n' || strings.IndexByte(more, s[end]) >= 0) {
		end++
	}
	return end, true
}

// linesOrSpaces matches "\s*[\r\n]+|\s+(?!\S)|\s+": up to the last newline of
// a run of spaces if there is one.
func linesOrSpaces(s string, i int) int {
	end := run(s, i, space, 0)
	if j := strings.LastIndexAny(s[i:end], "\r\n"); j >= 0 {
		return i + j + 1
	}
	return spaces(s, i)
}

// spaces matches "\s+(?!\S)|\s+": a run of spaces, less the last one where a
// word follows and there is another.
func spaces(s string, i int) int {
	end := run(s, i, space, 0)
	if end == i { // not a space at all: cannot happen after the other branches
		_, n := classAt(s, i)
		return i + n
	}
	if end == len(s) {
		return end
	}
	_, n := utf8.DecodeLastRuneInString(s[i:end])
	if end-n > i {
		return end - n
	}
	return end
}

// someNumbers matches \p{N}{1,most}; s[i:] begins with a number.
func someNumbers(s string, i, most int) int {
	for ; most > 0; most-- {
		c, n := classAt(s, i)
		if c&number == 0 {
			break
		}
		i += n
	}
	return i
}

// contraction returns the length of 's 't 're 've 'm 'll 'd at the start of s.
// Under Unicode folding U+017F is an s as well.
func contraction(s string, fold bool) int {
	if len(s) < 2 || s[0] != '\'' {
		return 0
	}
	a, b := s[1], byte(0)
	if len(s) > 2 {
		b = s[2]
	}
	if fold {
		if a == 0xC5 && b == 0xBF {
			return 3
		}
		a, b = toLower(a), toLower(b)
	}
	switch a {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if b == 'e' {
			return 3
		}
	case 'l':
		if b == 'l' {
			return 3
		}
	}
	return 0
}

func toLower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		b += 'a' - 'A'
	}
	return b
}
