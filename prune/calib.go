package prune

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
)

// Calib is the text that a method may look at: windows of token ids, all of one
// length, each a sequence of its own.
type Calib struct {
	Windows [][]int32
	// For the recipe only: the seed that CalibWindows drew with, and the SHA-256 of the text the ids
	// came from, where there was one.
	Seed       uint64
	TextSHA256 string
}

// CalibWindows cuts count windows of length tokens out of a tokenised text. Seed
// 0 takes the first ones, side by side; any other seed draws starting points at
// random (PCG), which may overlap.
func CalibWindows(ids []int32, length, count int, seed uint64) (Calib, error) {
	if length < 1 || count < 1 || len(ids) < length || (seed == 0 && len(ids)/length < count) {
		return Calib{}, fmt.Errorf("prune: calibration: want %d windows of %d tokens, text has %d tokens: %w", count, length, len(ids), ErrCalib)
	}
	c := Calib{Windows: make([][]int32, count), Seed: seed}
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range c.Windows {
		at := i * length
		if seed != 0 {
			at = rng.IntN(len(ids) - length + 1)
		}
		c.Windows[i] = ids[at : at+length]
	}
	return c, nil
}

// describe checks the windows and hashes them.
func (c Calib) describe(vocab int) (*Calibration, error) {
	if len(c.Windows) == 0 || len(c.Windows[0]) == 0 {
		return nil, fmt.Errorf("prune: calibration: no tokens: %w", ErrCalib)
	}
	n := len(c.Windows[0])
	h := sha256.New()
	buf := make([]byte, 0, 4*n)
	for i, w := range c.Windows {
		if len(w) != n {
			return nil, fmt.Errorf("prune: calibration: window %d: want %d tokens, got %d: %w", i, n, len(w), ErrCalib)
		}
		buf = buf[:0]
		for _, id := range w {
			if id < 0 || int(id) >= vocab {
				return nil, fmt.Errorf("prune: calibration: window %d: token %d of a vocabulary of %d: %w", i, id, vocab, ErrCalib)
			}
			buf = binary.LittleEndian.AppendUint32(buf, uint32(id))
		}
		h.Write(buf)
	}
	return &Calibration{SHA256: hex.EncodeToString(h.Sum(nil)), Tokens: n * len(c.Windows), Windows: len(c.Windows), Window: n, Seed: c.Seed, Text: c.TextSHA256}, nil
}
