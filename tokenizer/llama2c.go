package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// FromLlama2C reads llama2.c's tokenizer.bin: the longest token's length
// (int32), then per token a score (float32), a length (int32) and its bytes,
// all little-endian. It gives no count: tokens go on to the end. Ids 0, 1, 2
// are unknown, BOS and EOS, ids 3 to 258 the bytes; spaces are plain spaces.
// Texts begin with BOS and a dummy space, as llama2.c encodes them.
func FromLlama2C(bin []byte) (*Tokenizer, error) {
	s, err := readLlama2C(bin)
	if err == nil {
		var t *Tokenizer
		if t, err = newFromSpec(s); err == nil {
			return t, nil
		}
	}
	return nil, fmt.Errorf("tokenizer: llama2.c: %w", err)
}

const llama2cBytes = 3 // id of byte 0

func readLlama2C(bin []byte) (Spec, error) {
	s := Spec{Model: "llama", BOS: 1, EOS: 2, UNK: 0, PAD: -1, AddBOS: true, AddSpacePrefix: true}
	if len(bin) < 4 {
		return s, fmt.Errorf("want a header of 4 bytes, got %d: %w", len(bin), ErrFormat)
	}
	most := int(int32(binary.LittleEndian.Uint32(bin)))
	if most < 1 || most > maxTokenBytes {
		return s, fmt.Errorf("offset 0: want a longest token of 1 to %d bytes, got %d: %w", maxTokenBytes, most, ErrFormat)
	}
	text := string(bin) // tokens are parts of one copy
	for at := 4; at < len(bin); {
		id := len(s.Tokens)
		if len(bin)-at < 8 {
			return s, fmt.Errorf("token %d: offset %d: want 8 bytes, got %d: %w", id, at, len(bin)-at, ErrFormat)
		}
		if id == maxTokens {
			return s, fmt.Errorf("want at most %d tokens: %w", maxTokens, ErrFormat)
		}
		score := math.Float32frombits(binary.LittleEndian.Uint32(bin[at:]))
		n := int(int32(binary.LittleEndian.Uint32(bin[at+4:])))
		at += 8
		if n < 1 || n > most || n > len(bin)-at {
			return s, fmt.Errorf("token %d: offset %d: want a length of 1 to %d, got %d: %w",
				id, at-4, min(most, len(bin)-at), n, ErrFormat)
		}
		token := text[at : at+n]
		at += n
		kind := int32(1)
		switch {
		case id == s.UNK:
			kind = 2
		case id == s.BOS || id == s.EOS:
			kind = 3
		case id < llama2cBytes+256:
			kind = 6
			if want := fmt.Sprintf("<0x%02X>", id-llama2cBytes); token != want {
				return s, fmt.Errorf("token %d: want %s, got %.40q: %w", id, want, token, ErrFormat)
			}
		default:
			token = strings.ReplaceAll(token, " ", blank)
		}
		s.Tokens = append(s.Tokens, token)
		s.Scores = append(s.Scores, score)
		s.Types = append(s.Types, kind)
	}
	return s, nil
}
