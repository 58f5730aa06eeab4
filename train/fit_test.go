package train

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/sparse"
)

// blobs are classes around random centres.
func blobs(seed uint64, n, width, classes int) *Items {
	rng := rand.New(rand.NewPCG(77, 77))
	centres := randomVector(rng, classes*width, 1)
	rng = rand.New(rand.NewPCG(seed, 1))
	d := &Items{Width: width, X: randomVector(rng, n*width, 0.7), Y: make([]int32, n)}
	for i := range d.Y {
		c := rng.IntN(classes)
		d.Y[i] = int32(c)
		linalg.Add(d.X[i*width:(i+1)*width], d.X[i*width:(i+1)*width], centres[c*width:(c+1)*width])
	}
	return d
}

func mlp(t *testing.T, threads int, widths ...int) *Net {
	g, err := MLP(5, widths...)
	require.NoError(t, err)
	n, err := New(g, linalg.NewPool(threads))
	require.NoError(t, err)
	return n
}

// halfMask drops a seeded half of a matrix.
func halfMask(p *Param) *sparse.Mask {
	rng := rand.New(rand.NewPCG(3, 3))
	m := sparse.NewMask(p.Rows, p.Cols)
	for r := range p.Rows {
		for c := range p.Cols {
			if rng.IntN(2) == 0 {
				m.Keep(r, c)
			}
		}
	}
	return m
}

// TestMaskHolds: with every optimiser, a mask set at the start, or in the middle when momentum
// is already there, leaves exact zeros after every step, and everything else moves.
func TestMaskHolds(t *testing.T) {
	data := blobs(1, 600, 20, 4)
	for name, o := range map[string]Optimiser{
		"sgd": SGD{}, "momentum": SGD{Momentum: 0.9, Decay: 1e-3}, "nesterov": SGD{Momentum: 0.9, Nesterov: true},
		"adam": Adam{Decay: 1e-2}, "adamw": AdamW(0.1),
	} {
		for _, from := range []int{0, 7} {
			t.Run(name, func(t *testing.T) {
				n := mlp(t, 2, 20, 33, 4)
				p := n.Param("fc1.weight")
				m := halfMask(p)
				steps := 0
				rep, err := Fit(context.Background(), n, data, Options{Epochs: 3, Batch: 50, Rate: 0.02, Optimiser: o, Clip: 1,
					OnStep: func(step, _ int, n *Net) error {
						if step == from {
							require.NoError(t, p.SetMask(m))
						}
						if step >= from {
							steps++
							for i, w := range p.W {
								kept := m.Kept(i/p.Cols, i%p.Cols)
								require.Equal(t, kept, w != 0, "step %d weight %d: %g", step, i, w)
							}
						}
						return nil
					}}, nil)
				require.NoError(t, err)
				require.Equal(t, 36, rep.Steps)
				require.Equal(t, 36-from, steps)
				require.Equal(t, len(p.drop), rep.Masked)
				require.Equal(t, 20*33+33+33*4+4, rep.Parameters)
				require.NoError(t, n.Store())
				stored, err := sparse.Read(n.graph.Weights[0].Data)
				require.NoError(t, err)
				zeros := 0
				for i, w := range stored {
					require.Equal(t, m.Kept(i/p.Cols, i%p.Cols), w != 0)
					if w == 0 {
						zeros++
					}
				}
				require.Equal(t, len(p.drop), zeros)
			})
		}
	}
}

// TestMaskedMomentum: what a mask dropped leaves nothing behind in the optimiser; when the mask is
// lifted, a weight without gradient stays where it is.
func TestMaskedMomentum(t *testing.T) {
	for name, o := range map[string]Optimiser{"momentum": SGD{Momentum: 0.9}, "adam": Adam{}} {
		p := &Param{Name: "w", Rows: 1, Cols: 4, W: []float32{1, 2, 3, 4}, Grad: make([]float32, 4)}
		m := sparse.NewMask(1, 4)
		m.Keep(0, 1)
		require.NoError(t, p.SetMask(m))
		st := o.start([]*Param{p})
		for step := range 5 {
			copy(p.Grad, []float32{1, 1, 1, 1})
			stepAll(nil, st, []*Param{p}, 0.1, step+1)
		}
		require.NoError(t, p.SetMask(nil))
		clear(p.Grad)
		stepAll(nil, st, []*Param{p}, 0.1, 6)
		require.Equal(t, []float32{0, p.W[1], 0, 0}, p.W, name)
		require.NotEqual(t, float32(2), p.W[1])
	}
}

func TestKeepZeros(t *testing.T) {
	n := mlp(t, 1, 20, 33, 4)
	p := n.Param("fc1.weight")
	m := halfMask(p)
	require.NoError(t, m.Apply(p.W))
	held, err := n.KeepZeros()
	require.NoError(t, err)
	require.Equal(t, len(p.W)-m.Count(), held)
	require.Equal(t, m.Bits, p.Mask().Bits)
	require.Nil(t, n.Param("fc2.weight").Mask())
	require.Nil(t, n.Param("fc1.bias").Mask(), "zero biases are no pruned weights")
	require.ErrorIs(t, p.SetMask(sparse.NewMask(2, 2)), sparse.ErrShape)
	require.NoError(t, p.SetMask(nil))
	require.Nil(t, p.Mask())
}

// TestDeterministic: equal bits at 1, 2 and 5 threads, for a convolutional network and a language
// model; another seed gives others.
func TestDeterministic(t *testing.T) {
	items := blobs(2, 90, 28*28, 10)
	small := func() *model.Graph {
		b := newBuilder("small", 11, model.Image{C: 1, H: 28, W: 28})
		b.conv("conv1", 3, 5, 2, 1, false)
		b.batchNorm("bn")
		b.relu("relu")
		b.maxPool("pool", 2)
		b.linear("fc", 10)
		return b.finish()
	}
	rng := rand.New(rand.NewPCG(6, 6))
	var docs [][]int32
	for range 9 {
		d := make([]int32, 3+rng.IntN(60))
		for i := range d {
			d[i] = int32(rng.IntN(11))
		}
		docs = append(docs, d)
	}
	text, err := NewText(docs, 40)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		graph func() *model.Graph
		data  Data
	}{"conv": {small, items}, "llama": {func() *model.Graph { return tinyLlama(t, true, true, true, 0) }, text}} {
		t.Run(name, func(t *testing.T) {
			var first []float64
			var weights [][]float32
			for _, run := range []struct {
				threads int
				seed    uint64
			}{{1, 1}, {2, 1}, {5, 1}, {1, 2}} {
				n, err := New(c.graph(), linalg.NewPool(run.threads))
				require.NoError(t, err)
				rep, err := Fit(context.Background(), n, c.data, Options{Epochs: 2, Batch: 20, Seed: run.seed, Optimiser: AdamW(0.01), Clip: 0.5, Schedule: Warmup(2, Cosine(0.1))}, nil)
				require.NoError(t, err)
				if first == nil {
					first, weights = rep.TrainLossCurve, n.Snapshot().w
					continue
				}
				if run.seed == 1 {
					require.Equal(t, first, rep.TrainLossCurve, "%+v", run)
					require.Equal(t, weights, n.Snapshot().w, "%+v", run)
				} else {
					require.NotEqual(t, first, rep.TrainLossCurve)
				}
			}
		})
	}
}

func TestFitLearns(t *testing.T) {
	n := mlp(t, 2, 20, 32, 4)
	var last Progress
	rep, err := Fit(context.Background(), n, blobs(1, 2000, 20, 4), Options{Epochs: 5, Batch: 64, Rate: 0.05, Optimiser: SGD{Momentum: 0.9},
		Eval: blobs(9, 500, 20, 4), KeepBest: true}, func(p Progress) { last = p })
	require.NoError(t, err)
	require.Greater(t, rep.Value, 0.97)
	require.Equal(t, "accuracy", rep.Metric)
	require.Len(t, rep.History, 5)
	require.Equal(t, 160, last.Step)
	require.Equal(t, 4, last.Epoch)
	// The kept weights are those of the best evaluation.
	v, err := Evaluate(n, blobs(9, 500, 20, 4), 100)
	require.NoError(t, err)
	require.InDelta(t, rep.EvalLoss, v.NLL, 1e-9)
	require.InDelta(t, rep.Value, float64(v.Correct)/500, 1e-9)
}

func TestFitEnds(t *testing.T) {
	data := blobs(1, 200, 20, 4)
	t.Run("patience", func(t *testing.T) {
		// Random labels: the evaluation soon gets worse.
		noise := blobs(3, 100, 20, 4)
		for i := range noise.Y {
			noise.Y[i] = int32(i % 4)
		}
		rep, err := Fit(context.Background(), mlp(t, 1, 20, 64, 4), data, Options{Epochs: 200, Batch: 20, Rate: 0.1, Optimiser: SGD{Momentum: 0.9}, Eval: noise, Patience: 3}, nil)
		require.NoError(t, err)
		require.True(t, rep.StoppedEarly)
		require.Less(t, rep.Steps, 2000)
		require.Equal(t, rep.BestStep+30, rep.Steps)
	})
	t.Run("cancelled", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		rep, err := Fit(ctx, mlp(t, 1, 20, 64, 4), data, Options{Epochs: 200}, func(p Progress) {
			if p.Step == 3 {
				cancel()
			}
		})
		require.ErrorIs(t, err, context.Canceled)
		require.Equal(t, 3, rep.Steps)
		require.True(t, rep.Interrupted)
	})
	t.Run("diverges", func(t *testing.T) {
		_, err := Fit(context.Background(), mlp(t, 1, 20, 64, 64, 4), data, Options{Epochs: 50, Rate: 1e30, Optimiser: SGD{}}, nil)
		require.ErrorIs(t, err, ErrNaN)
	})
	t.Run("hook", func(t *testing.T) {
		boom := errors.New("boom")
		_, err := Fit(context.Background(), mlp(t, 1, 20, 4), data, Options{OnStep: func(int, int, *Net) error { return boom }}, nil)
		require.ErrorIs(t, err, boom)
	})
}

func TestDistillation(t *testing.T) {
	data := blobs(1, 1000, 20, 4)
	teacher := mlp(t, 1, 20, 64, 4)
	_, err := Fit(context.Background(), teacher, data, Options{Epochs: 5, Batch: 50, Rate: 0.05, Optimiser: SGD{Momentum: 0.9}}, nil)
	require.NoError(t, err)
	// Without labels (weight 1) the student still learns what the teacher knows.
	student := mlp(t, 1, 20, 16, 4)
	_, err = Fit(context.Background(), student, data, Options{Epochs: 8, Batch: 50, Rate: 0.05, Optimiser: SGD{Momentum: 0.9}, Teacher: teacher, Loss: Distill{Temperature: 2, Weight: 1}}, nil)
	require.NoError(t, err)
	v, err := Evaluate(student, blobs(9, 500, 20, 4), 100)
	require.NoError(t, err)
	require.Greater(t, float64(v.Correct)/500, 0.97)
}

func TestErrors(t *testing.T) {
	data := blobs(1, 20, 20, 4)
	for name, c := range map[string]struct {
		o    Options
		data Data
		want error
	}{
		"rate":    {Options{Rate: math.NaN()}, data, ErrOption},
		"batch":   {Options{Batch: -1}, data, ErrOption},
		"teacher": {Options{Loss: Distill{}}, data, ErrOption},
		"empty":   {Options{}, &Items{Width: 20}, ErrData},
		"width":   {Options{}, blobs(1, 20, 19, 4), ErrData},
		"class":   {Options{}, &Items{Width: 20, X: make([]float32, 20), Y: []int32{4}}, ErrData},
	} {
		_, err := Fit(context.Background(), mlp(t, 1, 20, 4), c.data, c.o, nil)
		require.ErrorIs(t, err, c.want, name)
	}
	g, err := MLP(1, 3, 2)
	require.NoError(t, err)
	g.Nodes[0].Op = "Einsum"
	_, err = New(g, nil)
	require.ErrorIs(t, err, ErrGraph)
	require.ErrorContains(t, err, `"fc1"`)
	require.ErrorContains(t, err, "Einsum")

	llama, err := New(tinyLlama(t, true, false, false, 0), nil)
	require.NoError(t, err)
	for _, b := range []*Batch{
		{Rows: 1, Tokens: []int32{11}, Seqs: []int{1}}, {Rows: 1, Tokens: []int32{-1}, Seqs: []int{1}}, {Rows: 2, Tokens: []int32{1, 2}, Seqs: []int{1}},
		{Rows: 129, Tokens: make([]int32, 129), Seqs: []int{129}}, {},
	} {
		_, err := llama.Forward(b, false)
		require.ErrorIs(t, err, ErrData)
	}
	_, err = NewText([][]int32{{1}}, 8)
	require.ErrorIs(t, err, ErrData)
	_, err = NewText([][]int32{{1, 2}}, 1)
	require.ErrorIs(t, err, ErrOption)
}

func TestSchedules(t *testing.T) {
	for name, c := range map[string]struct {
		s    Schedule
		want map[int]float64
	}{
		"constant": {Constant(), map[int]float64{0: 1, 99: 1}},
		"cosine":   {Cosine(0.1), map[int]float64{0: 1, 50: 0.55, 100: 0.1}},
		"linear":   {Linear(0), map[int]float64{0: 1, 25: 0.75, 100: 0}},
		"steps":    {Steps(0.1, 0.5, 0.75), map[int]float64{0: 1, 49: 1, 50: 0.1, 75: 0.01}},
		"warmup":   {Warmup(10, Linear(0)), map[int]float64{0: 0.1, 9: 1, 10: 1, 55: 0.5, 100: 0}},
	} {
		for step, want := range c.want {
			require.InDelta(t, want, c.s(step, 100), 1e-12, "%s at %d", name, step)
		}
	}
}

// TestText: windows overlap by one token, so every token but a document's first is predicted once.
func TestText(t *testing.T) {
	text, err := NewText([][]int32{{1, 2, 3, 4, 5, 6, 7}, {9}, {8, 9}}, 4)
	require.NoError(t, err)
	require.Equal(t, 3, text.Len())
	require.Equal(t, 7, text.Tokens())
	var b Batch
	text.Fill(&b, []int{1, 2})
	require.Equal(t, Batch{Rows: 4, Tokens: []int32{4, 5, 6, 8}, Targets: []int32{5, 6, 7, 9}, Seqs: []int{3, 1}}, b)
}

// TestSparseAdam: where few weights are kept the optimiser visits those alone; it moves them as it
// does when it visits all, to the bit.
func TestSparseAdam(t *testing.T) {
	n, ref := mlp(t, 2, 200, 150, 4), mlp(t, 2, 200, 150, 4)
	for _, net := range []*Net{n, ref} {
		m := sparse.NewMask(150, 200)
		for i := range 150 * 200 {
			if i%7 == 3 {
				m.Keep(i/200, i%200)
			}
		}
		require.NoError(t, net.Params[0].SetMask(m))
	}
	require.Len(t, n.Params[0].keep, (150*200+3)/7)
	ref.Params[0].keep = nil
	for _, net := range []*Net{n, ref} {
		_, err := Fit(context.Background(), net, blobs(1, 300, 200, 4), Options{Epochs: 2, Batch: 30, Rate: 1e-2, Optimiser: Adam{Decay: 1e-3}}, nil)
		require.NoError(t, err)
	}
	require.Equal(t, ref.Snapshot(), n.Snapshot())
}
