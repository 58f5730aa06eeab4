package engine

import (
	"encoding/binary"
	"strings"
)

// lexemeEnded reports whether a number or word could end here.
func (s *jsonState) lexemeEnded() bool {
	switch s.mode {
	case inZero, inDigits, inDecimal, inExpNum:
		return true
	case inWord:
		return !s.key && s.wordEnded() >= 0
	}
	return false
}

// ended reports whether the text could end here: it is whole, or a number.
func (s *jsonState) ended() bool {
	return s.mode == atEnd || s.top == nil && s.lexemeEnded()
}

// end is how many bytes the end that closing follows has.
func (s jsonState) end() int {
	for n := 0; ; n++ {
		if s.lexemeEnded() {
			s = s.after()
		}
		if s.mode == atEnd {
			return n
		}
		var ok bool
		if s, ok = s.step(s.closing()); !ok {
			panic("no way to the end") // a state that step does not lead to
		}
	}
}

// closing is the next byte on the shortest way to the end: every step closes, or
// writes what an object must have.
func (s *jsonState) closing() byte {
	switch s.mode {
	case atValue:
		return s.node.least[0]
	case atFirst:
		return ']'
	case atKey:
		return '"'
	case atMember:
		if s.top.whole() {
			return '}'
		}
		return '"'
	case atColon:
		return ':'
	case atNext:
		switch {
		case s.top.array:
			return ']'
		case s.top.whole():
			return '}'
		}
		return ','
	case inString:
		return '"'
	case inEscape:
		return 'n'
	case inRune:
		return s.from
	case inWord:
		best, must := -1, false
		for i := s.lo; i < s.hi; i++ {
			if !s.free(i) || len(s.list.words[i]) <= int(s.pos) {
				continue
			}
			need := s.key && s.top.node.required>>i&1 == 1
			if best < 0 || need && !must || need == must && len(s.list.words[i]) < len(s.list.words[best]) {
				best, must = int(i), need
			}
		}
		return s.list.words[best][s.pos]
	}
	return '0' // a digit of a number or an escape
}

// signature appends what tells the state from others of its grammar.
func (s *jsonState) signature(b []byte) []byte {
	k := byte(0)
	if s.key {
		k = 1
	}
	id := func(n *jsonNode) uint16 {
		if n == nil {
			return 0
		}
		return n.id
	}
	b = append(b, byte(s.mode), s.n, k, s.from, s.to)
	b = binary.LittleEndian.AppendUint16(b, id(s.node))
	if s.list != nil {
		b = binary.LittleEndian.AppendUint16(b, s.list.id)
		b = binary.LittleEndian.AppendUint16(b, s.lo)
		b = binary.LittleEndian.AppendUint16(b, s.hi)
		b = binary.LittleEndian.AppendUint16(b, s.pos)
	}
	for f := s.top; f != nil; f = f.below {
		b = binary.LittleEndian.AppendUint16(b, id(f.node))
		if f.array {
			b = append(b, 1)
		} else {
			b = binary.LittleEndian.AppendUint64(append(b, 0), f.seen)
		}
	}
	return b
}

// jsonWords is a sorted list of words that a text chooses from.
type jsonWords struct {
	id    uint16
	words []string
	nodes []*jsonNode // of keys: what their values must be
}

var (
	jsonBools = &jsonWords{id: 1, words: []string{"false", "true"}}
	jsonNull  = &jsonWords{id: 2, words: []string{"null"}}
)

// shortest is the shortest word.
func (l *jsonWords) shortest() string {
	best := l.words[0]
	for _, w := range l.words {
		if len(w) < len(best) {
			best = w
		}
	}
	return strings.Clone(best)
}
