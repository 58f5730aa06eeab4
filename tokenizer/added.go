package tokenizer

import (
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// addedToken is a token that is found in the text as a whole, before any
// splitting: control tokens and user-defined ones.
type addedToken struct {
	text           string
	id             int32
	special        bool
	lstrip, rstrip bool // spaces on that side belong to the match
	singleWord     bool // no match inside a word
	normalized     bool // looked for after normalisation
}

// matcher finds added tokens, the longest at the leftmost place. The list is
// sorted by text, so one prefix after another narrows a range of it; first
// holds the range for each first byte.
type matcher struct {
	list  []addedToken
	first [256]struct{ lo, hi int32 }
}

func newMatcher(list []addedToken) *matcher {
	if len(list) == 0 {
		return nil
	}
	sort.SliceStable(list, func(i, j int) bool { return list[i].text < list[j].text })
	// Normalisation can make two texts the same: the first one counts.
	list = slices.CompactFunc(list, func(a, b addedToken) bool { return a.text == b.text })
	m := &matcher{list: list}
	for i, a := range m.list {
		f := &m.first[a.text[0]]
		if f.hi == 0 {
			f.lo = int32(i)
		}
		f.hi = int32(i) + 1
	}
	return m
}

// at returns the index of the longest token that s[i:] begins with, or -1.
func (m *matcher) at(s string, i int) int {
	f := m.first[s[i]]
	lo, hi := int(f.lo), int(f.hi)
	best := -1
	for depth := 1; lo < hi; depth++ {
		// All of list[lo:hi] begin with s[i:i+depth]; a token of just that
		// text sorts first.
		if len(m.list[lo].text) == depth {
			best = lo
			lo++
		}
		if i+depth >= len(s) {
			break
		}
		c := s[i+depth]
		n := hi - lo
		l := sort.Search(n, func(k int) bool { return m.list[lo+k].text[depth] >= c })
		h := l + sort.Search(n-l, func(k int) bool { return m.list[lo+l+k].text[depth] > c })
		lo, hi = lo+l, lo+h
	}
	return best
}

// cut calls gap for every stretch of s without an added token and token for
// every one found, in order.
func (m *matcher) cut(s string, gap func(start int, s string), token func(id int32)) {
	if m == nil {
		gap(0, s)
		return
	}
	done := 0 // s[:done] has been handed out
	for i := 0; i < len(s); {
		if m.first[s[i]].hi == 0 {
			i++
			continue
		}
		k := m.at(s, i)
		if k < 0 {
			i++
			continue
		}
		a := &m.list[k]
		start, end := i, i+len(a.text)
		i = end
		if a.singleWord && (wordBefore(s[:start]) || wordAfter(s[end:])) {
			continue
		}
		if a.lstrip {
			start = done + len(strings.TrimRightFunc(s[done:start], unicode.IsSpace))
		}
		if a.rstrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
			i = end
		}
		if start > done {
			gap(done, s[done:start])
		}
		token(a.id)
		done = end
	}
	if done < len(s) {
		gap(done, s[done:])
	}
}

func wordBefore(s string) bool {
	r, n := utf8.DecodeLastRuneInString(s)
	return n > 0 && isWord(r)
}

func wordAfter(s string) bool {
	r, n := utf8.DecodeRuneInString(s)
	return n > 0 && isWord(r)
}
