package tokenizer

import (
	"fmt"
	"hash/maphash"
)

// Limits of what a file may ask for. Real vocabularies reach 262,144 tokens
// and about 600,000 merges; the bounds keep the tables below 64 MB.
const (
	maxTokens     = 1 << 20
	maxMerges     = 1 << 20
	maxTokenBytes = 1 << 16
	// Added tokens are looked for at every place of a text.
	maxAddedBytes = 512
	// How many times longer a text may become by replacements and how many
	// steps it may go through: twenty replacements of a by aa are a bomb.
	maxGrowth = 64
	maxSteps  = 64
)

// vocab maps token text to id. It is an open-addressing table of ids beside
// the token list, because a Go map of strings costs three times the bytes and
// a file may ask for a million tokens.
type vocab struct {
	tokens []string
	slots  []int32 // id+1, 0 = empty; a power of two, at most half full
	seed   maphash.Seed
}

// newVocab indexes tokens. skip names ids that have no text (holes of the id
// range, unused entries); any other text may occur only once.
func newVocab(tokens []string, skip func(id int) bool) (*vocab, error) {
	size := 16
	for size < 2*len(tokens) {
		size *= 2
	}
	v := &vocab{tokens: tokens, slots: make([]int32, size), seed: maphash.MakeSeed()}
	for id, s := range tokens {
		if skip(id) {
			continue
		}
		if len(s) > maxTokenBytes {
			return nil, fmt.Errorf("token %d: want at most %d bytes, got %d: %w", id, maxTokenBytes, len(s), ErrFormat)
		}
		i := maphash.String(v.seed, s)
		for ; ; i++ {
			slot := &v.slots[i&uint64(size-1)]
			if *slot == 0 {
				*slot = int32(id) + 1
				break
			}
			if tokens[*slot-1] == s {
				return nil, fmt.Errorf("token %d: %.40q is token %d already: %w", id, s, *slot-1, ErrFormat)
			}
		}
	}
	return v, nil
}

// id returns the token whose text is s, or -1.
func (v *vocab) id(s string) int32 {
	mask := uint64(len(v.slots) - 1)
	for i := maphash.String(v.seed, s); ; i++ {
		slot := v.slots[i&mask]
		if slot == 0 {
			return -1
		}
		if v.tokens[slot-1] == s {
			return slot - 1
		}
	}
}

// idBytes is id without the need of a string.
func (v *vocab) idBytes(b []byte) int32 {
	mask := uint64(len(v.slots) - 1)
	for i := maphash.Bytes(v.seed, b); ; i++ {
		slot := v.slots[i&mask]
		if slot == 0 {
			return -1
		}
		if v.tokens[slot-1] == string(b) {
			return slot - 1
		}
	}
}
