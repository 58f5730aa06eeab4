package tokenizer

import "unicode/utf8"

// Byte-level vocabularies write each byte as one printable rune: bytes that
// are printable in Latin-1 stand for themselves, the others for U+0100 onward
// in order (GPT-2, Radford et al. 2019). So a space is written as U+0120.
var byteRune, runeByte = byteTables()

func byteTables() (runes [256]rune, bytes [0x144]int16) {
	for i := range bytes {
		bytes[i] = -1
	}
	next := rune(0x100)
	for b := range runes {
		r := rune(b)
		if b < '!' || b > '~' && b < 0xA1 || b == 0xAD {
			r = next
			next++
		}
		runes[b], bytes[r] = r, int16(b)
	}
	return runes, bytes
}

// appendByteLevel appends the written form of the bytes of s.
func appendByteLevel(dst []byte, s string) []byte {
	for i := range len(s) {
		dst = utf8.AppendRune(dst, byteRune[s[i]])
	}
	return dst
}

// appendBytes appends the bytes that the written form s stands for. A token
// with any other rune was never written byte by byte and is taken as it is.
func appendBytes(dst []byte, s string) []byte {
	n := len(dst)
	for _, r := range s {
		if int(r) >= len(runeByte) || runeByte[r] < 0 {
			return append(dst[:n], s...)
		}
		dst = append(dst, byte(runeByte[r]))
	}
	return dst
}
