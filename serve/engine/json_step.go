package engine

// jsonState is where in a JSON text one is, between two bytes. It is a value: frames
// below it are never changed, so that states can be kept and compared.
type jsonState struct {
	top  *jsonFrame // the innermost open object or array; nil: none
	node *jsonNode  // what a value must be, where one is expected or being written
	list *jsonWords // of a word: the candidates, of which lo..hi-1 fit so far
	mode jsonMode
	n    uint8 // white space, digits, or bytes of a character or an escape
	key  bool  // the string or word is a key
	from uint8 // of a character: the range of its next byte
	to   uint8
	lo   uint16
	hi   uint16
	pos  uint16 // of a word: bytes that are there
}

// jsonFrame is an open object or array.
type jsonFrame struct {
	below *jsonFrame
	node  *jsonNode
	array bool
	depth uint8
	seen  uint64 // properties that the object has
}

type jsonMode uint8

const (
	atValue   jsonMode = iota // a value begins
	atFirst                   // after [: a value, or ]
	atKey                     // after { or ,: a key
	atMember                  // after {: a key, or }
	atColon                   // after a key
	atNext                    // after a value in an object or array
	atEnd                     // the text is whole
	inString                  // after the quote
	inEscape                  // after a backslash
	inHex                     // after \u, n digits are to come
	inRune                    // n bytes of a character are to come
	inWord                    // a word of a list
	inMinus                   // a number: after -
	inZero                    // 0
	inDigits                  // more
	inPoint                   // after the point
	inDecimal                 // after a digit behind it
	inExp                     // after e
	inExpSign                 // after its sign
	inExpNum                  // after its digits
)

// Bounds, so that no text goes on for ever without saying anything.
const (
	jsonDepth    = 32 // open objects and arrays
	jsonSpace    = 40 // spaces between two tokens: a line's end and its indentation
	jsonDigits   = 17 // of an integer, and behind the point
	jsonExponent = 2  // digits
)

// run steps over several bytes.
func (s jsonState) run(b string) (jsonState, bool) {
	ok := true
	for i := 0; i < len(b) && ok; i++ {
		s, ok = s.step(b[i])
	}
	return s, ok
}

// step is the state after one more byte; false: it may not come.
func (s jsonState) step(b byte) (jsonState, bool) {
	switch s.mode {
	case inString:
		return s.inString(b)
	case inEscape:
		switch b {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			s.mode = inString
			return s, true
		case 'u':
			s.mode, s.n = inHex, 4
			return s, true
		}
		return s, false
	case inHex:
		if !(b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F') {
			return s, false
		}
		if s.n--; s.n == 0 {
			s.mode = inString
		}
		return s, true
	case inRune:
		if b < s.from || b > s.to {
			return s, false
		}
		s.from, s.to = 0x80, 0xbf
		if s.n--; s.n == 0 {
			s.mode, s.from, s.to = inString, 0, 0
		}
		return s, true
	case inWord:
		return s.inWord(b)
	case inMinus, inZero, inDigits, inPoint, inDecimal, inExp, inExpSign, inExpNum:
		return s.inNumber(b)
	case atEnd:
		return s, false
	case atColon:
		if b != ':' {
			return s, false
		}
		s.mode, s.n = atValue, 0
		return s, true
	}
	if b == ' ' || b == '\n' || b == '\t' || b == '\r' {
		s.n++
		return s, s.n <= jsonSpace
	}
	s.n = 0
	switch s.mode {
	case atValue:
		return s.value(b)
	case atFirst:
		if b == ']' {
			return s.pop(), true
		}
		return s.value(b)
	case atMember:
		if b == '}' {
			return s.pop(), s.top.whole()
		}
		return s.beginKey(b)
	case atKey:
		return s.beginKey(b)
	case atNext:
		switch {
		case b == ',' && s.top.array:
			s.mode, s.node = atValue, s.top.node.items
			return s, true
		case b == ',' && s.top.more():
			s.mode = atKey
			return s, true
		case b == ']' && s.top.array, b == '}' && !s.top.array && s.top.whole():
			return s.pop(), true
		}
	}
	return s, false
}

// whole reports whether an object has all it must have.
func (f *jsonFrame) whole() bool { return f.node.required&^f.seen == 0 }

// more reports whether an object may have another property.
func (f *jsonFrame) more() bool {
	return f.node.keys == nil || f.seen != 1<<len(f.node.keys.words)-1
}

// after is the state after a value.
func (s jsonState) after() jsonState {
	r := jsonState{top: s.top, mode: atNext}
	if s.top == nil {
		r.mode = atEnd
	}
	return r
}

func (s jsonState) pop() jsonState {
	s.top = s.top.below
	return s.after()
}

func (s jsonState) push(array bool) (jsonState, bool) {
	f := &jsonFrame{below: s.top, node: s.node, array: array, depth: 1}
	if s.top != nil {
		f.depth = s.top.depth + 1
	}
	r := jsonState{top: f, mode: atMember}
	if array {
		r.mode, r.node = atFirst, s.node.items
	}
	return r, f.depth <= jsonDepth
}

// value begins one.
func (s jsonState) value(b byte) (jsonState, bool) {
	n := s.node
	if n.enum != nil {
		return jsonState{top: s.top, list: n.enum, mode: inWord, hi: uint16(len(n.enum.words))}.inWord(b)
	}
	switch {
	case b == '{' && n.kinds&kindObject != 0:
		return s.push(false)
	case b == '[' && n.kinds&kindArray != 0:
		return s.push(true)
	case b == '"' && n.kinds&kindString != 0:
		return jsonState{top: s.top, mode: inString}, true
	case b == '-' && n.kinds&(kindNumber|kindInteger) != 0:
		return jsonState{top: s.top, node: n, mode: inMinus}, true
	case b >= '0' && b <= '9' && n.kinds&(kindNumber|kindInteger) != 0:
		return jsonState{top: s.top, node: n, mode: inMinus}.inNumber(b)
	case (b == 't' || b == 'f') && n.kinds&kindBool != 0:
		return jsonState{top: s.top, list: jsonBools, mode: inWord, hi: 2}.inWord(b)
	case b == 'n' && n.kinds&kindNull != 0:
		return jsonState{top: s.top, list: jsonNull, mode: inWord, hi: 1}.inWord(b)
	}
	return s, false
}

// beginKey begins a key.
func (s jsonState) beginKey(b byte) (jsonState, bool) {
	if b != '"' {
		return s, false
	}
	if k := s.top.node.keys; k != nil {
		return jsonState{top: s.top, list: k, mode: inWord, key: true, hi: uint16(len(k.words))}.inWord(b)
	}
	return jsonState{top: s.top, mode: inString, key: true}, true
}

func (s jsonState) inString(b byte) (jsonState, bool) {
	switch {
	case b == '"' && s.key:
		return jsonState{top: s.top, node: s.top.node.open, mode: atColon}, true
	case b == '"':
		return s.after(), true
	case b == '\\':
		s.mode = inEscape
		return s, true
	case b < ' ':
		return s, false
	case b < 0x80:
		return s, true
	}
	s.mode, s.from, s.to = inRune, 0x80, 0xbf
	switch {
	case b >= 0xc2 && b <= 0xdf:
		s.n = 1
	case b >= 0xe0 && b <= 0xef:
		s.n = 2
		if b == 0xe0 {
			s.from = 0xa0
		} else if b == 0xed {
			s.to = 0x9f
		}
	case b >= 0xf0 && b <= 0xf4:
		s.n = 3
		if b == 0xf0 {
			s.from = 0x90
		} else if b == 0xf4 {
			s.to = 0x8f
		}
	default:
		return s, false
	}
	return s, true
}

// free reports whether the list's word i may still be chosen.
func (s *jsonState) free(i uint16) bool { return !s.key || s.top.seen>>i&1 == 0 }

// inWord narrows the candidates. They are sorted: those that fit stand together.
func (s jsonState) inWord(b byte) (jsonState, bool) {
	w := s.list.words
	lo := s.lo
	for lo < s.hi && (int(s.pos) >= len(w[lo]) || w[lo][s.pos] < b) {
		lo++
	}
	hi := lo
	open := false
	for hi < s.hi && int(s.pos) < len(w[hi]) && w[hi][s.pos] == b {
		open = open || s.free(hi)
		hi++
	}
	if !open {
		if s.wordEnded() >= 0 { // 1 of 1 and 12, and what follows a value
			return s.after().step(b)
		}
		return s, false
	}
	s.lo, s.hi, s.pos = lo, hi, s.pos+1
	if i := s.wordEnded(); i >= 0 && (s.key || hi == lo+1) {
		if !s.key {
			return s.after(), true
		}
		f := *s.top
		f.seen |= 1 << i
		return jsonState{top: &f, node: s.list.nodes[i], mode: atColon}, true
	}
	return s, true
}

// wordEnded is the candidate that is whole, -1 if none is.
func (s *jsonState) wordEnded() int {
	if s.lo < s.hi && len(s.list.words[s.lo]) == int(s.pos) && s.free(s.lo) {
		return int(s.lo)
	}
	return -1
}

func (s jsonState) inNumber(b byte) (jsonState, bool) {
	digit := b >= '0' && b <= '9'
	whole := s.node.kinds&kindNumber == 0 // an integer
	to := func(m jsonMode, n uint8) (jsonState, bool) {
		s.mode, s.n = m, n
		return s, true
	}
	switch s.mode {
	case inMinus:
		if b == '0' {
			return to(inZero, 0)
		}
		if digit {
			return to(inDigits, 1)
		}
		return s, false
	case inPoint:
		if digit {
			return to(inDecimal, 1)
		}
		return s, false
	case inExp:
		if b == '+' || b == '-' {
			return to(inExpSign, 0)
		}
		if digit {
			return to(inExpNum, 1)
		}
		return s, false
	case inExpSign:
		if digit {
			return to(inExpNum, 1)
		}
		return s, false
	case inDigits, inDecimal:
		if digit && s.n < jsonDigits {
			return to(s.mode, s.n+1)
		}
	case inExpNum:
		if digit {
			s.n++
			return s, s.n <= jsonExponent
		}
	}
	switch {
	case digit:
		return s, false
	case b == '.' && !whole && (s.mode == inZero || s.mode == inDigits):
		return to(inPoint, 0)
	case (b == 'e' || b == 'E') && !whole && s.mode != inExpNum:
		return to(inExp, 0)
	}
	return s.after().step(b)
}
