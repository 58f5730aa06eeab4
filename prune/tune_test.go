package prune

import (
	"context"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/linalg"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// clusters are classes around centres that every seed shares.
func clusters(seed uint64, n, width, classes int) *train.Items {
	rng := rand.New(rand.NewPCG(5, 5))
	centres := make([]float32, classes*width)
	for i := range centres {
		centres[i] = float32(rng.NormFloat64())
	}
	rng = rand.New(rand.NewPCG(seed, 1))
	d := &train.Items{Width: width, X: make([]float32, n*width), Y: make([]int32, n)}
	for i := range d.Y {
		d.Y[i] = int32(rng.IntN(classes))
		for j := range width {
			d.X[i*width+j] = centres[int(d.Y[i])*width+j] + 1.2*float32(rng.NormFloat64())
		}
	}
	return d
}

// trainedMLP is 24-40-20-6, fitted to clusters.
func trainedMLP(t testing.TB, threads int) *train.Net {
	g, err := train.MLP(3, 24, 40, 20, 6)
	require.NoError(t, err)
	n, err := train.New(g, linalg.NewPool(threads))
	require.NoError(t, err)
	_, err = train.Fit(context.Background(), n, clusters(1, 1500, 24, 6), train.Options{Epochs: 4, Batch: 50, Rate: 5e-3}, nil)
	require.NoError(t, err)
	return n
}

func fineTune(epochs int) train.Options {
	return train.Options{Epochs: epochs, Batch: 50, Rate: 3e-3, Seed: 8, Eval: clusters(2, 600, 24, 6), EvalBatch: 200, KeepBest: true}
}

const mlpWeights = 24*40 + 40*20 + 20*6

// heldExactly: exactly so many weights masked, all of them zero.
func heldExactly(t testing.TB, n *train.Net, want int) {
	held := 0
	for _, p := range n.Prunable() {
		require.NotNil(t, p.Mask(), p.Name)
		for i, w := range p.W {
			if !unmasked(p, i) {
				held++
				require.Zero(t, w, "%s weight %d", p.Name, i)
			}
		}
	}
	require.Equal(t, want, held)
}

// TestTune: every schedule reaches its target exactly and holds it, fine-tuning helps, and the
// result is the same at any number of threads.
func TestTune(t *testing.T) {
	data := clusters(1, 1500, 24, 6)
	for _, c := range []struct {
		name string
		o    Tuning
		held int
		runs int
	}{
		{"oneshot", Tuning{Pattern: Unstructured{Sparsity: 0.9, Scope: ScopeGlobal}}, mlpWeights * 9 / 10, 1},
		{"layer", Tuning{Pattern: Unstructured{Sparsity: 0.9}, Schedule: Cubic}, 864 + 720 + 108, 1},
		{"linear", Tuning{Criterion: LAMP{}, Pattern: Unstructured{Sparsity: 0.9}, Schedule: Linear, Ramp: 1}, mlpWeights * 9 / 10, 1},
		{"exp rounds", Tuning{Criterion: MagnitudeStd{}, Pattern: Unstructured{Sparsity: 0.8}, Schedule: Exponential, Rounds: 3}, mlpWeights * 8 / 10, 3},
		{"rounds", Tuning{Pattern: Unstructured{Sparsity: 0.9, Scope: ScopeGlobal}, Schedule: Rounds}, mlpWeights * 9 / 10, 11},
		{"2:4", Tuning{Pattern: Pattern24}, mlpWeights / 2, 1},
		{"rates", Tuning{Pattern: Unstructured{Sparsity: 0}, Schedule: Cubic, Rates: map[string]float64{"fc1.weight": 0.95, "fc2.weight": 0.8, "fc3.weight": 0.5}}, 912 + 640 + 60, 1},
		{"snip", Tuning{Criterion: SNIP{Samples{Data: data, Batches: 2}}, Pattern: Unstructured{Sparsity: 0.8}, Schedule: Cubic, Updates: 5}, mlpWeights * 8 / 10, 1},
		{"movement", Tuning{Criterion: NewMovement(Samples{Data: data}), Pattern: Unstructured{Sparsity: 0.8}, Schedule: Cubic, Updates: 5}, 768 + 640 + 96, 1},
		{"splice", Tuning{Pattern: Unstructured{Sparsity: 0.9, Scope: ScopeGlobal}, Schedule: Cubic, Splice: &Splice{}}, mlpWeights * 9 / 10, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var first *train.Snapshot
			for _, threads := range []int{1, 3} {
				n := trainedMLP(t, threads)
				c.o.Train, c.o.Fit = data, fineTune(12)
				if _, ok := c.o.Criterion.(Movement); ok {
					c.o.Criterion = NewMovement(Samples{Data: data})
				}
				rep, err := TuneNet(context.Background(), n, c.o)
				require.NoError(t, err)
				heldExactly(t, n, c.held)
				require.InDelta(t, float64(c.held)/mlpWeights, rep.Sparsity, 1e-12)
				require.Len(t, rep.Rounds, c.runs)
				require.Equal(t, 360, rep.Steps)
				require.Greater(t, rep.Dense, 0.85)
				t.Logf("dense %.3f, pruned %.3f, tuned %.3f", rep.Dense, rep.Rounds[0].Pruned, rep.Value)
				require.Greater(t, rep.Value, rep.Dense-0.1)
				v, err := train.Evaluate(n, c.o.Fit.Eval, 200)
				require.NoError(t, err)
				require.Equal(t, rep.Value, v.Accuracy(), "the report is of the weights that stayed")
				if first == nil {
					first = n.Snapshot()
				} else {
					require.Equal(t, first, n.Snapshot(), "threads")
				}
			}
		})
	}
}

// TestTuneControl: at nine tenths, random pruning does worse than magnitude and Taylor, before and
// after fine-tuning.
func TestTuneControl(t *testing.T) {
	data := clusters(1, 1500, 24, 6)
	value := map[string]Round{}
	for _, c := range []Criterion{Random{Seed: 1}, Magnitude{}, Taylor{Samples{Data: data}}, Fisher{Samples{Data: data, Batches: 2}}} {
		rep, err := TuneNet(context.Background(), trainedMLP(t, 2), Tuning{Criterion: c, Pattern: Unstructured{Sparsity: 0.9, Scope: ScopeGlobal}, Train: data, Fit: fineTune(3)})
		require.NoError(t, err)
		value[c.Name()] = rep.Rounds[0]
		t.Logf("%s: dense %.3f, pruned %.3f, tuned %.3f", c.Name(), rep.Dense, rep.Rounds[0].Pruned, rep.Value)
	}
	for _, name := range []string{"magnitude", "taylor", "fisher"} {
		require.Greater(t, value[name].Pruned, value["random"].Pruned, name)
		require.Greater(t, value[name].Value, value["random"].Value, name)
	}
}

// TestTuneGate: rounds stop at the last network that is good enough; where none is, the dense network
// comes back, bit for bit and without masks.
func TestTuneGate(t *testing.T) {
	data := clusters(1, 1500, 24, 6)
	n := trainedMLP(t, 2)
	o := Tuning{Pattern: Unstructured{Sparsity: 0.995, Scope: ScopeGlobal}, Schedule: Rounds, Train: data, Fit: fineTune(12), Gate: true, MaxLoss: 0.01}
	rep, err := TuneNet(context.Background(), n, o)
	require.NoError(t, err)
	require.True(t, rep.Gate)
	last := rep.Rounds[len(rep.Rounds)-1]
	require.False(t, last.Met)
	require.Less(t, last.Value, rep.Dense-0.01)
	good := rep.Rounds[len(rep.Rounds)-2]
	require.True(t, good.Met)
	require.Equal(t, good.Value, rep.Value)
	require.Equal(t, good.Sparsity, rep.Sparsity)
	v, err := train.Evaluate(n, o.Fit.Eval, 200)
	require.NoError(t, err)
	require.Equal(t, rep.Value, v.Accuracy())

	n = trainedMLP(t, 2)
	before := n.Snapshot()
	for _, s := range []Schedule{OneShot, Cubic} {
		o.Schedule, o.Fit = s, fineTune(1)
		rep, err = TuneNet(context.Background(), n, o)
		require.ErrorIs(t, err, ErrGate)
		require.Zero(t, rep.Sparsity)
		require.Equal(t, before, n.Snapshot())
		for _, p := range n.Prunable() {
			require.Nil(t, p.Mask())
		}
	}
}

// TestTuneStops: patience ends a fit long before its steps, and never while sparsity still rises.
func TestTuneStops(t *testing.T) {
	o := Tuning{Pattern: Unstructured{Sparsity: 0.5}, Schedule: Linear, Ramp: 0.2, Train: clusters(1, 1500, 24, 6), Fit: fineTune(50)}
	o.Fit.Patience, o.Fit.EvalEvery, o.Fit.Rate = 3, 10, 0.03
	rep, err := TuneNet(context.Background(), trainedMLP(t, 2), o)
	require.NoError(t, err)
	require.Less(t, rep.Steps, 1500)
	require.Greater(t, rep.Steps, 300)
	require.Equal(t, rep.Rounds[0].BestStep+30, rep.Steps)
	require.InDelta(t, 0.5, rep.Sparsity, 1e-12)
}

// TestTuneDistils: with all weight on the teacher and labels that are all wrong, the student still
// learns what the teacher knows.
func TestTuneDistils(t *testing.T) {
	lies := clusters(1, 1500, 24, 6)
	for i := range lies.Y {
		lies.Y[i] = (lies.Y[i] + 1) % 6
	}
	for _, taught := range []bool{false, true} {
		o := Tuning{Pattern: Unstructured{Sparsity: 0.9, Scope: ScopeGlobal}, Train: lies, Fit: fineTune(12), Distill: &train.Distill{Temperature: 2, Weight: 1}}
		_, err := TuneNet(context.Background(), trainedMLP(t, 2), o)
		require.ErrorIs(t, err, ErrMethod, "no teacher")
		if taught {
			with := *lies
			require.NoError(t, with.Teach(trainedMLP(t, 2), 64))
			o.Train = &with
		} else {
			o.Fit.Teacher = trainedMLP(t, 2)
		}
		rep, err := TuneNet(context.Background(), trainedMLP(t, 2), o)
		require.NoError(t, err)
		require.Greater(t, rep.Value, rep.Dense-0.1)
	}
}

// TestSplice: behind the masks all weights learn, also the pruned ones; one that grows beyond the upper
// threshold returns, one between the thresholds stays what it was.
func TestSplice(t *testing.T) {
	g, err := train.MLP(1, 4, 2)
	require.NoError(t, err)
	n, err := train.New(g, linalg.NewPool(1))
	require.NoError(t, err)
	p := n.Prunable()[0]
	copy(p.W, []float32{1, 0.9, 0.8, 0.5, -0.4, 0.3, 0.2, 0.1})
	s := newSplicer(&tuner{n: n, targets: n.Prunable(), to: 0.5, o: Tuning{Pattern: Unstructured{Sparsity: 0.5, Scope: ScopeGlobal}}}, Splice{Every: 1, Gamma: 1e-12})
	require.NoError(t, s.step(0, 10, 0.5))
	// The cut is at 0.4: below 0.36 goes, above 0.44 stays, 0.4 was kept and so stays.
	require.Equal(t, []float32{1, 0.9, 0.8, 0.5, -0.4, 0, 0, 0}, p.W)
	require.Nil(t, p.Mask(), "the optimiser moves pruned weights too")
	// An optimiser's step: the pruned last weight grows by 0.75, the first loses as much.
	p.W[0] -= 0.75
	p.W[7] += 0.75
	require.NoError(t, s.step(1, 10, 0.5))
	require.InDelta(t, 0.85, float64(s.dense[0][7]), 1e-6, "0.1 and what it learned")
	// Sizes are now 0.25 0.9 0.8 0.5 0.4 0.3 0.2 0.85, the cut again at 0.4.
	require.InDeltaSlice(t, []float32{0, 0.9, 0.8, 0.5, -0.4, 0, 0, 0.85}, p.W, 1e-6)
	require.Equal(t, 1, s.returned)
	p.W[5] += 0.12 // a pruned weight of 0.3 grows to 0.42, between the thresholds: it stays away
	require.NoError(t, s.step(2, 10, 0.5))
	require.Zero(t, p.W[5])
	require.NoError(t, s.step(10, 10, 0.5)) // the end: exactly half, 0.42 before 0.4
	require.NotNil(t, p.Mask())
	require.InDeltaSlice(t, []float32{0, 0.9, 0.8, 0.5, 0, 0, 0, 0.85}, p.W, 1e-6)
	p.W[0] = 7
	require.NoError(t, s.step(11, 10, 0.5), "over")
}

// TestTuneGraph: the graph ends with packed weights that are the trained ones, a recipe that Verify
// accepts, and after a failure it is untouched.
func TestTuneGraph(t *testing.T) {
	rows, err := train.MLP(3, 24, 40, 20, 6)
	require.NoError(t, err)
	g, err := train.Tensors(rows)
	require.NoError(t, err)
	data := clusters(1, 1500, 24, 6)
	o := Tuning{Criterion: LAMP{}, Pattern: Unstructured{Sparsity: 0.9}, Schedule: Cubic, Train: data, Fit: fineTune(4), Distill: &train.Distill{Temperature: 2, Weight: 0.5}}
	rep, tuned, err := Tune(context.Background(), g, o, Options{Threads: 2, SourceSHA256: "abc"})
	require.NoError(t, err)
	require.Equal(t, mlpWeights*9/10, int(rep.Sparsity*mlpWeights+0.5))
	require.Equal(t, "lamp", rep.Method)
	require.Equal(t, "0.9/global", rep.Pattern)
	require.Less(t, rep.After.Bytes, rep.Before.Bytes/3)
	checks, err := Verify(g, rep.Recipe)
	require.NoError(t, err)
	require.Len(t, checks, 3)
	for _, node := range g.Linears() {
		require.NotEqual(t, sparse.LayoutDense, node.Weight.Data.Layout(), node.Name)
	}
	again, err := train.New(g, linalg.NewPool(1))
	require.NoError(t, err)
	v, err := train.Evaluate(again, o.Fit.Eval, 200)
	require.NoError(t, err)
	require.Equal(t, tuned.Value, v.Accuracy())

	before := g.Linears()[0].Weight.Data
	o.Gate, o.MaxLoss, o.Pattern, o.Schedule = true, 0, Unstructured{Sparsity: 0.999}, OneShot
	o.Fit.Epochs = 1
	_, tuned, err = Tune(context.Background(), g, o, Options{KeepZeros: true})
	require.ErrorIs(t, err, ErrGate)
	require.True(t, tuned.Gate)
	require.Same(t, before, g.Linears()[0].Weight.Data)
}

// TestTuneRejects: what makes no sense is an error before anything changes.
func TestTuneRejects(t *testing.T) {
	data := clusters(1, 100, 24, 6)
	half := Unstructured{Sparsity: 0.5}
	for name, c := range map[string]struct {
		o    Tuning
		want error
	}{
		"no pattern":    {Tuning{}, ErrPattern},
		"sparsity":      {Tuning{Pattern: Unstructured{Sparsity: 2}}, ErrPattern},
		"schedule":      {Tuning{Pattern: half, Schedule: "soon"}, ErrMethod},
		"n:m gradual":   {Tuning{Pattern: Pattern24, Schedule: Cubic, Train: data, Fit: fineTune(1)}, ErrMethod},
		"no steps":      {Tuning{Pattern: half, Schedule: Cubic}, ErrMethod},
		"no data":       {Tuning{Pattern: half, Fit: train.Options{Steps: 5}}, ErrMethod},
		"gate":          {Tuning{Pattern: half, Gate: true}, ErrMethod},
		"splice rounds": {Tuning{Pattern: half, Schedule: Rounds, Splice: &Splice{}, Train: data, Fit: fineTune(1)}, ErrMethod},
		"rates":         {Tuning{Pattern: half, Rates: map[string]float64{"fc1.weight": 0.5}}, ErrTarget},
		"rate":          {Tuning{Pattern: half, Rates: map[string]float64{"fc1.weight": 0.5, "fc2.weight": 1.5, "fc3.weight": 0}}, ErrPattern},
		"too many":      {Tuning{Pattern: half, Rates: map[string]float64{"fc1.weight": 0.5, "fc2.weight": 0.5, "fc3.weight": 0, "fc4.weight": 0}}, ErrTarget},
		"include":       {Tuning{Pattern: half, Include: []string{"conv*"}}, ErrTarget},
		"ramp":          {Tuning{Pattern: half, Ramp: 2}, ErrMethod},
	} {
		n := trainedMLP(t, 1)
		before := n.Snapshot()
		_, err := TuneNet(context.Background(), n, c.o)
		require.ErrorIs(t, err, c.want, name)
		require.Equal(t, before, n.Snapshot(), name)
	}
	n := trainedMLP(t, 1)
	_, err := TuneNet(context.Background(), n, Tuning{Pattern: Unstructured{Sparsity: 0.9, Scope: ScopeGlobal}})
	require.NoError(t, err)
	_, err = TuneNet(context.Background(), n, Tuning{Pattern: half})
	require.ErrorIs(t, err, ErrPattern, "more is zero already")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = TuneNet(ctx, trainedMLP(t, 1), Tuning{Pattern: half, Train: data, Fit: fineTune(1)})
	require.ErrorIs(t, err, context.Canceled)
}
