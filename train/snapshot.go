package train

import "fmt"

// Snapshot is a copy of all weights and running statistics of a network, for rewinding.
type Snapshot struct{ w, stats [][]float32 }

// Snapshot copies the weights.
func (n *Net) Snapshot() *Snapshot {
	s := &Snapshot{}
	for _, p := range n.Params {
		s.w = append(s.w, append([]float32(nil), p.W...))
	}
	for _, b := range n.stats {
		s.stats = append(s.stats, append([]float32(nil), b.mean...), append([]float32(nil), b.variance...))
	}
	return s
}

// Restore puts the weights back; the masks in force now are then applied to them.
func (n *Net) Restore(s *Snapshot) error {
	if len(s.w) != len(n.Params) || len(s.stats) != 2*len(n.stats) {
		return fmt.Errorf("train: snapshot of %d weights and %d statistics for a network of %d and %d: %w", len(s.w), len(s.stats), len(n.Params), 2*len(n.stats), ErrGraph)
	}
	for i, p := range n.Params {
		if len(s.w[i]) != len(p.W) {
			return fmt.Errorf("train: snapshot of %q: want %d weights, got %d: %w", p.Name, len(p.W), len(s.w[i]), ErrGraph)
		}
	}
	for i, p := range n.Params {
		copy(p.W, s.w[i])
		p.apply(p.W)
	}
	for i, b := range n.stats {
		copy(b.mean, s.stats[2*i])
		copy(b.variance, s.stats[2*i+1])
	}
	return nil
}
