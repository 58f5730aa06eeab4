package train

import (
	"fmt"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
)

// Batch is what one step sees. A language model takes Tokens, a plain network X.
type Batch struct {
	Rows    int
	X       []float32 // [Rows, width of the input]
	Tokens  []int32   // [Rows]
	Seqs    []int     // lengths of the sequences that Tokens are cut into; their sum is Rows
	Targets []int32   // [Rows] class or next token; negative: the row counts for nothing
	// Teacher holds the logits of a teacher [Rows, classes], for Distill.
	Teacher []float32
}

// state holds the activations of a step, all kept for the backward pass.
type state struct {
	pool      *linalg.Pool
	graph     *model.Graph
	rows      int
	batch     *Batch
	training  bool
	values    [][]float32
	grads     [][]float32
	written   []bool // grads that hold something in this backward pass
	positions []int
}

func (s *state) init(g *model.Graph, pool *linalg.Pool) {
	s.pool, s.graph = pool, g
	s.values, s.grads, s.written = make([][]float32, len(g.Values)), make([][]float32, len(g.Values)), make([]bool, len(g.Values))
}

func (s *state) width(v model.ValueID) int { return s.graph.Values[v].Width }

// start checks a batch and lets the inputs point to it.
func (s *state) start(b *Batch, g *model.Graph, training bool) error {
	s.rows, s.batch, s.training = b.Rows, b, training
	for i := range s.written {
		s.written[i] = false
	}
	if b.Rows < 1 {
		return fmt.Errorf("train: batch of %d rows: %w", b.Rows, ErrData)
	}
	if g.Config == nil {
		in := g.Inputs[0]
		if len(b.X) != b.Rows*s.width(in) {
			return fmt.Errorf("train: input: want [%d %d], got %d numbers: %w", b.Rows, s.width(in), len(b.X), ErrData)
		}
		s.values[in] = b.X
		return nil
	}
	s.positions = s.positions[:0]
	for _, n := range b.Seqs {
		if n > g.Config.Context {
			return fmt.Errorf("train: sequence of %d tokens: want at most %d: %w", n, g.Config.Context, ErrData)
		}
		for i := range n {
			s.positions = append(s.positions, i)
		}
	}
	if len(b.Tokens) != b.Rows || len(s.positions) != b.Rows {
		return fmt.Errorf("train: batch of %d rows: %d tokens in sequences of %d: %w", b.Rows, len(b.Tokens), len(s.positions), ErrData)
	}
	for i, t := range b.Tokens {
		if t < 0 || int(t) >= g.Config.Vocab {
			return fmt.Errorf("train: token %d: want 0..%d, got %d: %w", i, g.Config.Vocab-1, t, ErrData)
		}
	}
	return nil
}

// resize gives x n elements, with the old storage where it is large enough.
func resize[T any](x []T, n int) []T {
	if cap(x) < n {
		return make([]T, n)
	}
	return x[:n]
}

// value is the storage of a value that a layer writes.
func (s *state) value(v model.ValueID) []float32 {
	s.values[v] = resize(s.values[v], s.rows*s.width(v))
	return s.values[v]
}

// gradFor is the gradient of a value, to be overwritten whole.
func (s *state) gradFor(v model.ValueID) []float32 {
	s.grads[v] = resize(s.grads[v], s.rows*s.width(v))
	s.written[v] = true
	return s.grads[v]
}

// gradTo is the gradient of a value, to be added to: zero if nothing was added yet.
func (s *state) gradTo(v model.ValueID) []float32 {
	if !s.written[v] {
		clear(s.gradFor(v))
	}
	return s.grads[v]
}

// gradBeta is gradTo for a product: beta 0 if the gradient is to be overwritten.
func (s *state) gradBeta(v model.ValueID) ([]float32, float32) {
	if s.written[v] {
		return s.grads[v], 1
	}
	return s.gradFor(v), 0
}

// grad is the gradient that came back to an output; zero where nothing read it.
func (s *state) grad(v model.ValueID) []float32 { return s.gradTo(v) }

// isInput reports whether nobody wants a value's gradient.
func (s *state) isInput(v model.ValueID) bool {
	for _, in := range s.graph.Inputs {
		if in == v {
			return true
		}
	}
	return false
}

// eachRow runs f over ranges of rows; work is the cost of a row in elements, so that small
// batches stay on one goroutine.
func (s *state) eachRow(work int, f func(lo, hi int)) {
	if s.rows*work < 1<<13 {
		f(0, s.rows)
		return
	}
	s.pool.Split(s.rows, 1, f)
}

// eachColumn runs f over ranges of columns, for sums over rows in a fixed order.
func (s *state) eachColumn(width int, f func(lo, hi int)) {
	if s.rows*width < 1<<14 {
		f(0, width)
		return
	}
	s.pool.Split(width, 16, f)
}
