package backendtest

import (
	"math"
	"testing"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
)

// embedding looks rows up in every form that a head may share with it, and
// multiplies by the same weight afterwards (a tied head).
func (s *suite) embedding(t *testing.T) {
	for _, k := range s.has() {
		for _, shape := range [][2]int{{1, 1}, {7, 33}, {50, 64}, {33, 172}} {
			vocab, width := shape[0], shape[1]
			id := name(k, " ", shape)
			r := rng(id)
			w := matrix("w", vocab, width, weights(r, k, vocab, width, 1))
			n := newNet(16, 16)
			n.kernel, n.plan.Group = k, 32
			n.g.Config = &model.Config{Vocab: vocab, Context: 64}
			tok, sel := n.input(1), n.input(1)
			x := n.node(model.OpEmbedding, width, nil, w, nil, tok)
			plan := n.output(n.node(model.OpSelect, width, nil, nil, nil, x, sel))
			f := w.Data
			rows := make([]float32, vocab*width)
			if err := f.ReadRows(rows, 0); err != nil {
				t.Fatal(err)
			}
			p := s.program(t, plan)
			tokens := []int32{int32(vocab - 1), 0, int32(vocab / 2), int32(vocab - 1), 0}
			pick := []int32{4, 0, 3, 2, 2, 1}
			got := run(t, p, len(pick), width, ints(tokens...), ints(pick...))
			want, bound := make([]float64, len(got)), make([]float64, len(got))
			for i, j := range pick {
				for c := range width {
					want[i*width+c] = float64(rows[int(tokens[j])*width+c])
					bound[i*width+c] = s.round * 8
				}
			}
			equal(t, id, got, want, bound)
			s.tied(t, k, w, rows, vocab, width)
		}
	}
}

// tied: logits of an embedding by itself.
func (s *suite) tied(t *testing.T, k runtime.Kernel, w *model.Weight, rows []float32, vocab, width int) {
	n := newNet(8, 8)
	n.kernel, n.plan.Group = k, 32
	tok, sel := n.input(1), n.input(1)
	x := n.node(model.OpEmbedding, width, nil, w, nil, tok)
	x = n.node(model.OpSelect, width, nil, nil, nil, x, sel)
	p := s.program(t, n.output(n.node(model.OpLinear, vocab, nil, w, nil, x)))
	got := run(t, p, 1, vocab, ints(int32(vocab-1), 0), ints(0))
	last := rows[(vocab-1)*width:]
	want, bound := make([]float64, vocab), make([]float64, vocab)
	var half float64 // of a step of int8 activations
	if k.Act == sparse.Int8 {
		for _, y := range last {
			half = max(half, math.Abs(float64(y))/254*1.001)
		}
	}
	for v := range vocab {
		for c, y := range last {
			q := float64(y) * float64(rows[v*width+c])
			want[v] += q
			bound[v] += math.Abs(q)*(float64(width+8)*unit+s.roundOf(k)) + math.Abs(float64(rows[v*width+c]))*half
		}
	}
	equal(t, name(k, " tied"), got, want, bound)
}
