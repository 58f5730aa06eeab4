package train

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// FuzzLower makes chains of image ops with the numbers that the fuzzer wants: New must refuse
// them with ErrGraph or give a network whose passes do not panic.
func FuzzLower(f *testing.F) {
	f.Add([]byte{0, 3, 3, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0, 0, 0, 1, 0})
	f.Add([]byte{1, 3, 1, 2, 2, 0, 5, 0, 5, 1, 0, 3, 2, 2, 0, 0, 1})
	f.Add([]byte{2, 3, 4, 5, 3, 1, 0, 2, 6, 4, 7, 1, 2, 3})
	f.Fuzz(func(t *testing.T, b []byte) {
		next := func() int64 {
			if len(b) == 0 {
				return 1
			}
			v := int64(b[0])
			b = b[1:]
			if v > 250 { // now and then something absurd
				v = 1<<40 + v
			} else if v > 240 {
				v = 240 - v
			}
			return v
		}
		g := newTensorGraph(-1, 2, 6, 5)
		channels := int64(2)
		for range 6 {
			if len(b) == 0 {
				break
			}
			op := next() % 8
			attrs := map[string]model.Attribute{"strides": ints(next()%5, next()%5), "pads": ints(next(), next(), next(), next()), "dilations": ints(1+next()%3, 1)}
			kh, kw := 1+next()&3, 1+next()&3
			attrs["kernel_shape"] = ints(kh, kw)
			attrs["ceil_mode"] = model.Attribute{I: next() & 1}
			switch op {
			case 0:
				attrs["group"] = model.Attribute{I: next() % 4}
				w := &model.Weight{Name: "w", Shape: []int{2, int(channels), int(kh), int(kw)}, Data: sparse.NewDense(2, int(channels*kh*kw), make([]float32, 2*channels*kh*kw))}
				channels = 2
				g.node("Conv", "conv", attrs, w, nil, g.at)
			case 1, 2:
				delete(attrs, "dilations")
				attrs["count_include_pad"] = model.Attribute{I: next() & 1}
				g.node([]model.Op{"MaxPool", "AveragePool"}[op-1], "pool", attrs, nil, nil, g.at)
			case 3:
				g.node("Relu", "relu", nil, nil, nil, g.at)
			case 4:
				before, after := next(), next()
				g.node("Pad", "pad", nil, nil, nil, g.at, g.ints(0, before, 0, 0, 0, after, 0, 0))
				channels += max(-1, min(before, 1<<20)) + max(-1, min(after, 1<<20))
			case 5:
				g.node("Slice", "slice", nil, nil, nil, g.at, g.ints(0, 0), g.ints(99, 99), g.ints(2, 3), g.ints(next(), next()))
			case 6:
				g.node("Flatten", "flat", nil, nil, nil, g.at)
			case 7:
				g.node("GlobalAveragePool", "gap", nil, nil, nil, g.at)
			}
			if channels < 1 || channels > 1<<10 {
				return
			}
		}
		if len(g.g.Nodes) == 0 {
			return
		}
		n, err := New(g.finish(), linalg.NewPool(1))
		if err != nil {
			require.ErrorIs(t, err, ErrGraph)
			return
		}
		for _, v := range n.graph.Values {
			if v.Width > 1<<16 {
				return // right, but slow
			}
		}
		batch := &Batch{Rows: 2, X: make([]float32, 120)}
		_, err = n.Gradients(batch, project{make([]float32, 2*n.Width())})
		require.NoError(t, err)
	})
}
