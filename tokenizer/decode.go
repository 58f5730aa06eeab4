package tokenizer

import (
	"bytes"
	"strings"
	"unicode/utf8"
)

// decoding is how tokens become bytes again.
type decoding struct {
	byteLevel bool
	replace   [][2]string // in order, on normal tokens
	// strip is what is taken off the start of a text, at most stripMost times:
	// the space that encoding put there.
	strip     string
	stripMost int
}

// Token returns the bytes that id stands for, nil for an id out of range. They
// may be part of a UTF-8 sequence.
func (t *Tokenizer) Token(id int32) []byte { return t.appendToken(nil, id) }

func (t *Tokenizer) appendToken(dst []byte, id int32) []byte {
	if !t.valid(id) {
		return dst
	}
	s := t.tokens[id]
	switch t.kinds[id] {
	case normal:
		if t.out.byteLevel {
			return appendBytes(dst, s)
		}
		for _, r := range t.out.replace {
			s = strings.ReplaceAll(s, r[0], r[1])
		}
	case byteKind:
		if b, ok := parseByte(s); ok {
			return append(dst, b)
		}
	case unused:
		return dst
	}
	return append(dst, s...)
}

// parseByte reads <0xHH>.
func parseByte(s string) (byte, bool) {
	if len(s) != 6 || s[:3] != "<0x" || s[5] != '>' {
		return 0, false
	}
	hi, lo := strings.IndexByte(hexDigits, s[3]), strings.IndexByte(hexDigits, s[4])
	return byte(hi<<4 | lo), hi >= 0 && lo >= 0
}

const hexDigits = "0123456789ABCDEF"

// DecodeOptions changes how ids become text. The zero value is for a whole
// text, special tokens written out.
type DecodeOptions struct {
	// SkipSpecial leaves out control tokens.
	SkipSpecial bool
	// Continue means that the ids go on from earlier ones: a leading space is
	// then part of the text.
	Continue bool
}

// Decode returns the text of a whole sequence of ids, special tokens written
// out, bytes that are not UTF-8 replaced by U+FFFD. Ids out of range have no
// text.
func (t *Tokenizer) Decode(ids []int32) string { return t.DecodeWith(ids, DecodeOptions{}) }

// DecodeWith is Decode with options.
func (t *Tokenizer) DecodeWith(ids []int32, o DecodeOptions) string {
	text, _ := appendText(nil, t.DecodeBytes(ids, o), true)
	return string(text)
}

// DecodeBytes is DecodeWith without the replacement of what is not UTF-8.
func (t *Tokenizer) DecodeBytes(ids []int32, o DecodeOptions) []byte {
	var out []byte
	for _, id := range ids {
		if !(o.SkipSpecial && t.Special(id)) {
			out = t.appendToken(out, id)
		}
	}
	if !o.Continue {
		strip := []byte(t.out.strip)
		for n := 0; n < t.out.stripMost && bytes.HasPrefix(out, strip); n++ {
			out = out[len(strip):]
		}
	}
	return out
}

// Decoder turns a stream of ids into text that is valid UTF-8 at every step.
// It is not safe for concurrent use.
type Decoder struct {
	// SkipSpecial leaves out control tokens.
	SkipSpecial bool

	t    *Tokenizer
	held []byte // an unfinished UTF-8 sequence
	tmp  []byte
}

// NewDecoder returns a Decoder for ids that go on from a prompt: a leading
// space is kept.
func (t *Tokenizer) NewDecoder() *Decoder { return &Decoder{t: t} }

// Push returns the text that id completes; bytes of an unfinished rune are held
// back until the next one.
func (d *Decoder) Push(id int32) string {
	if d.SkipSpecial && d.t.Special(id) {
		return ""
	}
	d.held = d.t.appendToken(d.held, id)
	var n int
	d.tmp, n = appendText(d.tmp[:0], d.held, false)
	d.held = d.held[:copy(d.held, d.held[n:])]
	return string(d.tmp)
}

// Flush ends the stream: what is still held becomes U+FFFD.
func (d *Decoder) Flush() string {
	d.tmp, _ = appendText(d.tmp[:0], d.held, true)
	d.held = d.held[:0]
	return string(d.tmp)
}

// appendText appends b to dst with each maximal part of a broken sequence
// replaced by one U+FFFD (the Unicode standard's practice, section 3.9). Unless
// last, an unfinished sequence at the end is left. It returns how many bytes
// of b were used.
func appendText(dst, b []byte, last bool) ([]byte, int) {
	i := 0
	for i < len(b) {
		r, n := utf8.DecodeRune(b[i:])
		if r != utf8.RuneError || n != 1 {
			dst = append(dst, b[i:i+n]...)
			i += n
			continue
		}
		if !last && !utf8.FullRune(b[i:]) {
			break
		}
		dst = append(dst, "\uFFFD"...)
		i += brokenLen(b[i:])
	}
	return dst, i
}

// brokenLen is the length of the longest prefix of b that could have begun a
// valid sequence, at least 1. b does not begin with a valid one.
func brokenLen(b []byte) int {
	n := 1
	for n < len(b) && n < utf8.UTFMax && !utf8.FullRune(b[:n]) {
		if utf8.FullRune(b[:n+1]) {
			// The next byte ends it, by making it invalid.
			break
		}
		n++
	}
	return n
}
