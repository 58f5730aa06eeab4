package cpu

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/tensorop"
)

// images is a graph of convolutions in the making, with what its values should be.
type images struct {
	t    *testing.T
	rng  *rand.Rand
	g    *model.Graph
	plan *runtime.TensorPlan
	want []*model.Tensor
	// tolerance of a value's elements: products of standard normals, summed in another
	// order, and in tiles of Winograd's with twice the error.
	eps []float64
}

func newImages(t *testing.T, seed uint64, shape ...int) *images {
	m := &images{t: t, rng: rand.New(rand.NewPCG(seed, 7)), g: &model.Graph{Opsets: map[string]int{"": 17}, Constants: map[model.ValueID]*model.Tensor{}}}
	m.plan = &runtime.TensorPlan{Graph: m.g}
	m.g.Inputs = []model.ValueID{m.value(model.F32Tensor(m.noise(size(shape)), shape...), 0)}
	return m
}

func (m *images) noise(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(m.rng.NormFloat64())
	}
	return x
}

func (m *images) value(want *model.Tensor, eps float64) model.ValueID {
	shape := append([]int{-1}, want.Shape[1:]...)
	m.g.Values = append(m.g.Values, model.Value{Name: fmt.Sprint("v", len(m.want)), Elem: want.Elem, Shape: shape})
	m.want, m.eps = append(m.want, want), append(m.eps, eps)
	return model.ValueID(len(m.want) - 1)
}

// conv adds a convolution; weights have the size that keeps outputs near 1.
func (m *images) conv(x model.ValueID, oc, kh, kw int, relu bool, layout sparse.Layout, attrs map[string]model.Attribute) model.ValueID {
	c := m.want[x].Shape[1]
	shape := []int{oc, c, kh, kw}
	w, bias := m.noise(size(shape)), m.noise(oc)
	for i := range w {
		w[i] /= float32(math.Sqrt(float64(c * kh * kw)))
	}
	n := &model.Node{Op: model.OpConv, Name: "conv", In: []model.ValueID{x}, Attr: &model.TensorOp{Version: 17, Attrs: attrs}}
	y, err := tensorop.Run(&tensorop.Call{Node: n, In: []*model.Tensor{m.want[x], model.F32Tensor(w, shape...), model.F32Tensor(bias, oc)}, Outs: 1})
	require.NoError(m.t, err)
	n.Weight = &model.Weight{Name: "w", Shape: shape, Data: sparse.NewDense(oc, c*kh*kw, w)}
	st := runtime.TensorStep{Node: n, Weight: n.Weight.Data, Shape: shape, Bias: bias, Relu: relu, Kernel: runtime.Kernel{Op: model.OpConv, Layout: layout, Weight: sparse.F32, Act: sparse.F32}}
	st.Choice = &runtime.Choice{Kernel: st.Kernel}
	return m.step(st, y[0], 1.5*m.eps[x]+1e-6*(3+math.Sqrt(float64(c))))
}

// op adds another node.
func (m *images) op(op model.Op, relu bool, attrs map[string]model.Attribute, in ...model.ValueID) model.ValueID {
	n := &model.Node{Op: op, Name: string(op), In: in, Attr: &model.TensorOp{Version: 17, Attrs: attrs}}
	var args []*model.Tensor
	eps := 0.0
	for _, v := range in {
		args, eps = append(args, m.want[v]), eps+m.eps[v]
	}
	y, err := tensorop.Run(&tensorop.Call{Node: n, In: args, Outs: 1})
	require.NoError(m.t, err)
	return m.step(runtime.TensorStep{Node: n, Relu: relu}, y[0], eps)
}

func (m *images) step(st runtime.TensorStep, y *model.Tensor, eps float64) model.ValueID {
	if st.Relu {
		y = model.F32Tensor(append([]float32(nil), y.Data.([]float32)...), y.Shape...)
		for i, v := range y.Data.([]float32) {
			y.Data.([]float32)[i] = max(v, 0)
		}
	}
	st.Out = m.value(y, eps)
	st.Node.Out, st.Node.Outs = st.Out, []model.ValueID{st.Out}
	m.g.Nodes = append(m.g.Nodes, st.Node)
	m.plan.Steps = append(m.plan.Steps, st)
	return st.Out
}

// check runs the graph for some of its values, twice: the second run's memory is the
// first one's.
func (m *images) check(threads int, what string, outs ...model.ValueID) *tensorProgram {
	m.t.Helper()
	m.g.Outputs = outs
	b := New(Threads(threads))
	p, err := b.CompileTensors(m.plan)
	require.NoError(m.t, err)
	defer func() { require.NoError(m.t, p.Close()) }()
	for range 2 {
		y, err := p.Run(context.Background(), []*model.Tensor{m.want[0]}, &runtime.Counters{})
		require.NoError(m.t, err, what)
		for k, v := range outs {
			require.Equal(m.t, m.want[v].Shape, y[k].Shape, what)
			for i, f := range m.want[v].Data.([]float32) {
				if g := y[k].Data.([]float32)[i]; f != g && !(math.Abs(float64(f-g)) <= m.eps[v]*(1+math.Abs(float64(f)))) {
					require.InDelta(m.t, f, g, m.eps[v], "%s: value %d of %v, element %d", what, v, m.want[v].Shape, i)
				}
			}
		}
	}
	return p.(*tensorProgram)
}

func eachConvISA(t *testing.T, f func(isa linalg.InstructionSet)) {
	before := linalg.ISA()
	defer func() { _, _ = linalg.ForceISA(before) }()
	for _, isa := range linalg.ISAs() {
		_, err := linalg.ForceISA(isa)
		require.NoError(t, err)
		f(isa)
	}
}

// TestConvBlock compares convolutions of odd geometries with the reference of tensorop:
// every number of channel blocks and of pixels at once, padding, strides, dilation,
// plain inputs and such in blocks, whole and cut tiles.
func TestConvBlock(t *testing.T) {
	pad := func(a ...int64) map[string]model.Attribute { return map[string]model.Attribute{"pads": ints(a...)} }
	eachConvISA(t, func(isa linalg.InstructionSet) {
		for i, c := range []struct {
			n, ch, h, w, oc, kh, kw int
			attrs                   map[string]model.Attribute
		}{
			{1, 1, 1, 1, 16, 1, 1, nil},
			{2, 3, 7, 5, 14, 3, 3, pad(1, 1, 1, 1)},
			{1, 7, 1, 33, 33, 1, 3, pad(0, 1, 0, 1)},
			{3, 20, 9, 8, 33, 1, 1, nil},
			{1, 3, 23, 21, 96, 7, 7, map[string]model.Attribute{"strides": ints(2, 2)}},
			{1, 17, 9, 9, 65, 1, 1, pad(1, 1, 1, 1)},
			{2, 16, 11, 13, 31, 3, 5, map[string]model.Attribute{"pads": ints(0, 2, 1, 3), "strides": ints(2, 3)}},
			{1, 5, 10, 10, 80, 3, 2, map[string]model.Attribute{"dilations": ints(2, 3), "strides": ints(2, 1), "pads": ints(2, 0, 0, 1)}},
			{1, 33, 6, 40, 47, 2, 3, pad(-1, 1, 0, -2)},
			{1, 18, 5, 5, 48, 3, 3, map[string]model.Attribute{"auto_pad": {Kind: model.AttrString, S: "SAME_LOWER"}, "strides": ints(2, 2)}},
			{1, 24, 7, 7, 130, 1, 1, map[string]model.Attribute{"strides": ints(2, 2)}},
			// Winograd: tiles of all kinds, a batch over parts, no padding, much of it.
			{1, 8, 3, 3, 12, 3, 3, nil},
			{2, 16, 32, 32, 16, 3, 3, pad(1, 1, 1, 1)},
			{5, 33, 9, 13, 64, 3, 3, pad(1, 1, 1, 1)},
			{1, 64, 8, 8, 80, 3, 3, pad(0, 0, 0, 0)},
			{1, 20, 5, 6, 100, 3, 3, pad(3, 2, 0, 1)},
			{1, 16, 14, 9, 16, 3, 3, pad(-1, 1, 2, -2)},
			// Halves of vectors on either side.
			{2, 8, 9, 7, 8, 3, 3, pad(1, 1, 1, 1)},
			{1, 24, 13, 8, 24, 3, 3, pad(1, 1, 1, 1)},
			{3, 40, 6, 6, 56, 3, 3, pad(1, 0, 1, 2)},
			{1, 22, 10, 11, 101, 3, 3, pad(1, 1, 1, 1)},
			{1, 8, 12, 9, 24, 3, 3, map[string]model.Attribute{"strides": ints(2, 2), "pads": ints(1, 1, 1, 1)}},
			{17, 48, 4, 4, 192, 3, 3, map[string]model.Attribute{"auto_pad": {Kind: model.AttrString, S: "SAME_UPPER"}}},
		} {
			relu, threads := i%2 == 0, 1+i%2
			m := newImages(t, uint64(i), c.n, c.ch, c.h, c.w)
			y := m.conv(0, c.oc, c.kh, c.kw, relu, sparse.LayoutDense, c.attrs)
			m.check(threads, fmt.Sprint(isa, " ", c, " plain"), y)
			// The same behind a 1x1 convolution: its input is in blocks.
			m = newImages(t, uint64(i), c.n, 3, c.h, c.w)
			x := m.conv(0, c.ch, 1, 1, false, sparse.LayoutDense, nil)
			y = m.conv(x, c.oc, c.kh, c.kw, !relu, sparse.LayoutDense, c.attrs)
			m.check(threads, fmt.Sprint(isa, " ", c, " blocks"), y)
		}
		// Rows of every length: all tiles of pixels, of half a vector to four.
		for oc := 8; oc <= 64; oc += 8 {
			for w := 1; w <= 17; w++ {
				m := newImages(t, uint64(w), 1, 2, 2, w)
				m.check(1, fmt.Sprint(isa, " row of ", w), m.conv(0, oc, 1, 2, true, sparse.LayoutDense, pad(0, 1, 0, 0)))
			}
		}
	})
}

// TestConvChain: convolutions with what stands between them, in blocks, and values that
// somebody wants otherwise.
func TestConvChain(t *testing.T) {
	pad := map[string]model.Attribute{"pads": ints(1, 1, 1, 1)}
	pool := func(k, s, p int64, ceil int64) map[string]model.Attribute {
		return map[string]model.Attribute{"kernel_shape": ints(k, k), "strides": ints(s, s), "pads": ints(p, p, p, p), "ceil_mode": {Kind: model.AttrInt, I: ceil}}
	}
	axis := map[string]model.Attribute{"axis": {Kind: model.AttrInt, I: 1}}
	dense := sparse.LayoutDense
	eachConvISA(t, func(isa linalg.InstructionSet) {
		for _, threads := range []int{1, 2} {
			for _, batch := range []int{1, 3} {
				// Residual blocks: the other operand before, after, plain, and an operand twice.
				m := newImages(t, 1, batch, 3, 13, 11)
				a := m.conv(0, 32, 3, 3, true, dense, pad)
				b := m.conv(a, 32, 3, 3, true, dense, pad)
				c := m.op(model.OpAdd, true, nil, m.conv(b, 32, 3, 3, false, dense, pad), a)
				d := m.op(model.OpAdd, false, nil, c, m.conv(c, 32, 1, 1, false, dense, nil))
				e := m.op(model.OpAdd, true, nil, m.conv(d, 32, 3, 3, false, dense, pad), m.conv(d, 32, 1, 1, false, dense, nil))
				f := m.conv(e, 40, 1, 1, false, dense, nil)
				ff := m.op(model.OpAdd, true, nil, f, f)
				soft := m.op(model.OpSoftmax, false, map[string]model.Attribute{"axis": {Kind: model.AttrInt, I: 1}}, e)
				g := m.op(model.OpAdd, false, nil, m.conv(e, 32, 3, 3, false, dense, pad), soft)
				h := m.op(model.OpGlobalAveragePool, false, nil, m.op("LeakyRelu", false, nil, ff))
				what := fmt.Sprint(isa, " residual, batch ", batch, ", threads ", threads)
				p := m.check(threads, what, g, h)
				if blocks() != nil {
					require.Len(t, p.order.steps, len(m.plan.Steps)-4, "four Adds go into convolutions: %s", what)
				}
				m.check(threads, what, g, h, c, e, f)
				// Concat: written in place, copied (one has another reader), and of an odd
				// number of channels; pools with every kind of edge.
				m = newImages(t, 2, batch, 3, 14, 17)
				a = m.op(model.OpMaxPool, false, pool(3, 2, 0, 1), m.conv(0, 48, 3, 3, true, dense, nil))
				b = m.op("Concat", false, axis, m.conv(a, 64, 1, 1, true, dense, nil), m.conv(a, 16, 3, 3, true, dense, pad), m.conv(a, 32, 1, 1, false, dense, nil))
				c = m.op(model.OpMaxPool, false, pool(3, 1, 1, 0), b)
				d = m.conv(c, 16, 1, 1, true, dense, nil)
				e = m.op("Concat", false, axis, d, m.conv(d, 16, 3, 3, true, dense, pad), c)
				f = m.op("Concat", false, axis, e, m.conv(e, 24, 1, 1, false, dense, nil))
				g = m.op(model.OpMaxPool, false, pool(5, 3, 2, 1), m.conv(f, 20, 3, 3, false, sparse.LayoutCSR, pad))
				h = m.op(model.OpMaxPool, false, pool(2, 2, 0, 1), m.conv(e, 50, 3, 3, false, dense, pad))
				what = fmt.Sprint(isa, " concat, batch ", batch, ", threads ", threads)
				p = m.check(threads, what, g, h)
				if blocks() != nil {
					require.Len(t, p.order.steps, len(m.plan.Steps)-1, "one Concat is written in place: %s", what)
				}
				m.check(threads, what, b, g, h, d)
			}
		}
	})
}

// TestBlockPoolNaN: a NaN is the largest of its window, wherever it stands.
func TestBlockPoolNaN(t *testing.T) {
	eachConvISA(t, func(isa linalg.InstructionSet) {
		if blocks() == nil {
			return
		}
		for at := range 9 {
			src, dst := make([]float32, 9*blockLanes), make([]float32, blockLanes)
			src[at*blockLanes+11] = float32(math.NaN())
			s := &blockPool{win: &tensorop.Window{In: []int{3, 3}, Out: []int{1, 1}, Kernel: []int{3, 3}, Stride: []int{1, 1}, Dilation: []int{1, 1}, Before: []int{0, 0}, After: []int{0, 0}},
				src: src, dst: dst, bufs: make([]poolBuffer, 1)}
			for k := range 9 {
				s.off = append(s.off, int32(64*k))
			}
			s.part(0, 0)
			for k, v := range dst {
				require.Equal(t, k == 11, v != v, "%s, lane %d, NaN at %d", isa, k, at)
			}
		}
	})
}
