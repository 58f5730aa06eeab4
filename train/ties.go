package train

import "fmt"

// ties make weights one: a codebook's entries are fine-tuned as the weights that share them
// (Han et al. 2016), each by the sum of its weights' gradients.
type ties struct {
	code  []int32   // [len(W)] which group a weight is of; negative: none
	first []int32   // a weight of every group, -1 where it has none
	sum   []float32 // of the gradients, by group
}

// Tie makes all weights of one code equal, those of the group's first, and keeps them so: a
// step moves them together, by the sum of their gradients. Codes are 0..groups-1; a negative
// one leaves a weight on its own. nil unties.
func (p *Param) Tie(code []int32, groups int) error {
	p.ties = nil
	if code == nil {
		return nil
	}
	if len(code) != len(p.W) || groups < 0 || groups > len(p.W) {
		return fmt.Errorf("train: %q: ties: want %d codes of at most as many groups, got %d of %d: %w", p.Name, len(p.W), len(code), groups, ErrOption)
	}
	t := &ties{code: code, first: make([]int32, groups), sum: make([]float32, groups)}
	for i := range t.first {
		t.first[i] = -1
	}
	for i, c := range code {
		if int(c) >= groups {
			return fmt.Errorf("train: %q: ties: code %d of weight %d: want at most %d: %w", p.Name, c, i, groups-1, ErrOption)
		}
		if c >= 0 && t.first[c] < 0 {
			t.first[c] = int32(i)
		}
	}
	p.ties = t
	t.spread(p.W)
	return nil
}

// gather replaces gradients by the sums of their groups.
func (t *ties) gather(grad []float32) {
	if t == nil {
		return
	}
	clear(t.sum)
	for i, c := range t.code {
		if c >= 0 {
			t.sum[c] += grad[i]
		}
	}
	for i, c := range t.code {
		if c >= 0 {
			grad[i] = t.sum[c]
		}
	}
}

// spread gives every weight its group's value. Equal weights with equal gradients and equal
// histories move alike; this holds them to it whatever history they had before they were tied.
func (t *ties) spread(w []float32) {
	if t == nil {
		return
	}
	for i, c := range t.code {
		if c >= 0 {
			w[i] = w[t.first[c]]
		}
	}
}
