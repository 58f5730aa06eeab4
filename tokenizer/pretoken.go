package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A step cuts one piece of text into smaller ones and appends them to dst.
// first says that the piece begins the whole text. A pre-tokeniser is a list
// of steps, each applied to every piece that the one before it made.
type step func(dst []string, s string, first bool) []string

// steps applies all to s and returns the words; they live until the next call.
func (w *worker) split(all []step, s string, first bool) []string {
	cur := append(w.words[0][:0], s)
	next := w.words[1][:0]
	for _, st := range all {
		next = next[:0]
		for i, p := range cur {
			if p != "" {
				next = st(next, p, first && i == 0)
			}
		}
		cur, next = next, cur
	}
	w.words = [2][]string{cur, next}
	return cur
}

// byPattern cuts where p says.
func byPattern(p pattern) step {
	return func(dst []string, s string, _ bool) []string {
		for i := 0; i < len(s); {
			end := p(s, i)
			dst = append(dst, s[i:end])
			i = end
		}
		return dst
	}
}

// isolate makes a piece of every run of runes for which f holds, at most most
// runes long (0: any length), and of every run between them.
func isolate(f func(rune) bool, most int) step {
	return func(dst []string, s string, _ bool) []string {
		start, count, inside := 0, 0, false
		for i, r := range s {
			in := f(r)
			if i > start && (in != inside || in && most > 0 && count == most) {
				dst = append(dst, s[start:i])
				start, count = i, 0
			}
			inside = in
			count++
		}
		return append(dst, s[start:])
	}
}

// threeDigits makes a piece of every match of "[0-9][0-9][0-9]" and of what is
// between.
func threeDigits(dst []string, s string, _ bool) []string {
	start := 0
	for i := 0; i+3 <= len(s); {
		if !isDigit(s[i]) || !isDigit(s[i+1]) || !isDigit(s[i+2]) {
			i++
			continue
		}
		if i > start {
			dst = append(dst, s[start:i])
		}
		dst = append(dst, s[i:i+3])
		i += 3
		start = i
	}
	if start < len(s) {
		dst = append(dst, s[start:])
	}
	return dst
}

func isDigit(b byte) bool { return '0' <= b && b <= '9' }

// words keeps the matches of "\w+|[^\w\s]+" and drops the spaces between.
func words(dst []string, s string, _ bool) []string {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if unicode.IsSpace(r) {
			i += n
			continue
		}
		in, end := isWord(r), i+n
		for end < len(s) {
			r, n := utf8.DecodeRuneInString(s[end:])
			if unicode.IsSpace(r) || isWord(r) != in {
				break
			}
			end += n
		}
		dst = append(dst, s[i:end])
		i = end
	}
	return dst
}

// fields drops the spaces and keeps what is between.
func fields(dst []string, s string, _ bool) []string {
	return append(dst, strings.Fields(s)...)
}

// isWord is \w of Unicode regular expressions: letters, marks, decimal digits
// and connectors.
func isWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.Is(unicode.Nd, r) ||
		unicode.Is(unicode.Nl, r) || unicode.Is(unicode.Pc, r) || unicode.Is(unicode.Other_Alphabetic, r) ||
		r == 0x200C || r == 0x200D
}

func isPunct(r rune) bool { return unicode.IsPunct(r) || r < utf8.RuneSelf && unicode.IsSymbol(r) }

// prefixSpace puts a space before a piece that has none (ByteLevel's
// add_prefix_space).
func prefixSpace(dst []string, s string, _ bool) []string {
	if strings.HasPrefix(s, " ") {
		return append(dst, s)
	}
	return append(dst, " "+s)
}

// metaspace writes spaces as mark, puts one in front (prefix "always", "first"
// piece only, or "never") and cuts before each if split.
func metaspace(mark, prefix string, split bool) step {
	return func(dst []string, s string, first bool) []string {
		s = strings.ReplaceAll(s, " ", mark)
		if (prefix == "always" || prefix == "first" && first) && !strings.HasPrefix(s, mark) {
			s = mark + s
		}
		if !split {
			return append(dst, s)
		}
		return literal(mark, "MergedWithNext")(dst, s, first)
	}
}

// behaviours of literal, as tokenizer.json names them.
var behaviours = map[string]bool{
	"Removed": true, "Isolated": true, "MergedWithPrevious": true, "MergedWithNext": true, "Contiguous": true,
}

// literal cuts at each occurrence of mark, which then is dropped, a piece, the
// end of the piece before, the start of the piece after, or joined with its
// like to one piece.
func literal(mark, behaviour string) step {
	return func(dst []string, s string, _ bool) []string {
		add := func(p string) {
			if p != "" {
				dst = append(dst, p)
			}
		}
		start := 0 // of the piece not yet added
		for i := 0; i < len(s); {
			n := strings.Index(s[i:], mark)
			if n < 0 {
				break
			}
			at, end := i+n, i+n+len(mark)
			i = end
			switch behaviour {
			case "Removed":
				add(s[start:at])
				start = end
			case "Isolated":
				add(s[start:at])
				add(s[at:end])
				start = end
			case "MergedWithPrevious":
				add(s[start:end])
				start = end
			case "MergedWithNext":
				add(s[start:at])
				start = at
			case "Contiguous":
				for strings.HasPrefix(s[i:], mark) {
					i += len(mark)
				}
				add(s[start:at])
				add(s[at:i])
				start = i
			}
		}
		add(s[start:])
		return dst
	}
}

// pre is what GGUF's tokenizer.ggml.pre names.
type pre struct {
	steps        []step
	ignoreMerges bool
}

// namedPre finds the pre-tokeniser of a byte-level GGUF vocabulary by name.
func namedPre(name string) (pre, bool) {
	isNumber := isolate(unicode.IsNumber, 1)
	switch name {
	case "gpt-2", "gpt2", "phi-2", "olmo", "jais", "trillion", "granite-docling":
		return pre{steps: []step{byPattern(gpt2)}}, true
	case "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b":
		return pre{steps: []step{isNumber, byPattern(gpt2)}}, true
	case "llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral":
		return pre{steps: []step{byPattern(llama3)}, ignoreMerges: true}, true
	case "dbrx", "smaug-bpe":
		return pre{steps: []step{byPattern(llama3)}}, true
	case "qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan":
		return pre{steps: []step{byPattern(qwen2)}}, true
	case "tekken":
		return pre{steps: []step{byPattern(tekken)}, ignoreMerges: true}, true
	case "", "default":
		// What llama.cpp does with a file that names none.
		punct := func(r rune) bool { return unicode.IsPunct(r) || strings.ContainsRune("$+<=>^~|", r) }
		return pre{steps: []step{
			isolate(punct, 0), byPattern(gpt2), isolate(unicode.IsNumber, 0),
			threeDigits,
		}}, true
	}
	return pre{}, false
}
