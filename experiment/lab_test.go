package experiment

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/prune"
	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/train"
)

// digits are images of ten classes around random centres, as wide as MNIST's.
func digits(seed uint64, n int) *train.Items {
	rng := rand.New(rand.NewPCG(9, 9))
	centres := make([]float32, 10*784)
	for i := range centres {
		centres[i] = float32(rng.NormFloat64())
	}
	rng = rand.New(rand.NewPCG(seed, 2))
	d := &train.Items{Width: 784, X: make([]float32, n*784), Y: make([]int32, n)}
	for i := range d.Y {
		d.Y[i] = int32(rng.IntN(10))
		for j := range 784 {
			d.X[i*784+j] = centres[int(d.Y[i])*784+j]/8 + float32(rng.NormFloat64())
		}
	}
	return d
}

func testLab(t testing.TB, journal string, jobs int) *Lab {
	j, err := OpenJournal(journal)
	require.NoError(t, err)
	return &Lab{Train: digits(1, 480), Valid: digits(2, 200), Test: digits(3, 300), Journal: j, Jobs: jobs}
}

var tinyLottery = Lottery{Seeds: 2, Rounds: []int{0, 1, 2}, Steps: 12, Short: 8, Every: 4, Rewind: 4, RewindSeeds: 1, RewindTo: 1}

// TestLottery: a run that is stopped again and again, each time in another place, ends with the
// results of one that was not, on any number of jobs; and then it has nothing left to do.
func TestLottery(t *testing.T) {
	dir := t.TempDir()
	whole, err := testLab(t, filepath.Join(dir, "whole"), 1).Lottery(context.Background(), tinyLottery)
	require.NoError(t, err)
	// Dense, then tickets and two controls at two rounds, of two seeds, and one rewound at round 1.
	require.Len(t, whole, 2*(1+2*3)+1)
	for _, r := range whole {
		want := 1.0
		for range r.Round {
			want *= 0.8
		}
		require.InDelta(t, want, r.Kept, 2e-3, "%s round %d", r.Kind, r.Round)
		require.Contains(t, []int{4, 8, 12}, r.EarlyStop)
		require.Len(t, r.Curve, map[bool]int{true: 2, false: 3}[strings.HasPrefix(r.Kind, Rewound)], r.Kind)
		require.Greater(t, r.AtEnd, 0.2)
	}
	path := filepath.Join(dir, "cut")
	var cut []LotteryRun
	stops := 0
	for at := int64(30); ; at += 60 {
		l := testLab(t, path, 2)
		ctx, stop := context.WithCancel(context.Background())
		var ticks atomic.Int64
		l.Progress = func(p LabProgress) {
			if ticks.Add(1) == at {
				stop()
			}
			if p.Share < 0 || p.Share > 1 || p.Left < 0 {
				t.Errorf("progress %+v", p)
			}
		}
		cut, err = l.Lottery(ctx, tinyLottery)
		stop()
		if err == nil {
			break
		}
		require.ErrorIs(t, err, context.Canceled)
		stops++
		// A crash may leave half a line.
		f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY|os.O_CREATE, 0o644)
		require.NoError(t, err)
		_, err = f.WriteString(`{"key":"lottery seed 1 rew`)
		require.NoError(t, err)
		require.NoError(t, f.Close())
	}
	require.Positive(t, stops)
	require.Equal(t, whole, cut)

	l := testLab(t, path, 2)
	l.Progress = func(LabProgress) { t.Error("work was done that the journal has") }
	again, err := l.Lottery(context.Background(), tinyLottery)
	require.NoError(t, err)
	require.Equal(t, whole, again)

	l = testLab(t, filepath.Join(dir, "empty"), 2)
	l.Offline = true
	none, err := l.Lottery(context.Background(), tinyLottery)
	require.NoError(t, err)
	require.Empty(t, none)
	for _, p := range []Lottery{{}, {Rounds: []int{1}, Steps: 1, Short: 1, Every: 1}, {Rounds: []int{0, 2, 1}, Steps: 1, Short: 1, Every: 1}} {
		_, err := l.Lottery(context.Background(), p)
		require.ErrorIs(t, err, ErrOption)
	}
}

// TestNextRound: exactly a share of the survivors of each matrix goes, the smallest; a weight that is
// zero but alive counts, one that is masked does not.
func TestNextRound(t *testing.T) {
	n, _, err := network("lenet-300-100", 1)
	require.NoError(t, err)
	targets := n.Prunable()
	targets[2].W[7] = 0
	first := nextRound(targets)
	require.NoError(t, setBits(targets, first))
	for i, want := range []int{188160, 24000, 900} {
		require.Equal(t, want, targets[i].Mask().Count())
	}
	require.False(t, targets[2].Mask().Kept(0, 7))
	targets[2].W[9] = 0 // alive or not, it is the smallest of the next round only if it is alive
	alive := targets[2].Mask().Kept(0, 9)
	require.NoError(t, setBits(targets, nextRound(targets)))
	for i, want := range []int{150528, 19200, 810} {
		require.Equal(t, want, targets[i].Mask().Count())
		kept, err := first[i].mask(targets[i].Rows, targets[i].Cols)
		require.NoError(t, err)
		for r := range targets[i].Rows {
			for w, x := range targets[i].Mask().Row(r) {
				require.Zero(t, x&^kept.Row(r)[w], "a pruned weight returned")
			}
		}
	}
	require.True(t, alive)
	require.False(t, targets[2].Mask().Kept(0, 9))
	random, err := shuffled(targets, first, 5)
	require.NoError(t, err)
	require.NotEqual(t, first, random)
	require.NoError(t, setBits(targets, random))
	require.Equal(t, 188160, targets[0].Mask().Count())
}

// TestJournalForms: weights and masks survive JSON to the bit.
func TestJournalForms(t *testing.T) {
	in := lotteryCell{Next: []bits{{0, ^uint64(0), 0x7fa00000_ff800001}}}
	raw, err := json.Marshal(in)
	require.NoError(t, err)
	var out lotteryCell
	require.NoError(t, json.Unmarshal(raw, &out))
	require.Equal(t, in.Next, out.Next)
	f := floats{0, -1.5, 3e-42}
	raw, err = json.Marshal(f)
	require.NoError(t, err)
	var g floats
	require.NoError(t, json.Unmarshal(raw, &g))
	require.Equal(t, f, g)
	require.Error(t, json.Unmarshal([]byte(`"AAA="`), &g))
	_, err = bits{1}.mask(3, 100)
	require.ErrorIs(t, err, ErrOption)
}

// TestFootprint by hand: LeNet-300-100 with 10 weights left in fc1 and all in the others.
func TestFootprint(t *testing.T) {
	n, _, err := network("lenet-300-100", 1)
	require.NoError(t, err)
	dense, err := footprint(n)
	require.NoError(t, err)
	require.Equal(t, 266610, dense.Parameters)
	require.Equal(t, int64(4*266610), dense.DenseBytes)
	require.Equal(t, dense.DenseBytes, dense.Bytes)
	require.Equal(t, 1.0, dense.Smaller())
	p := n.Param("fc1.weight")
	m := sparse.NewMask(300, 784)
	for i := range 10 {
		m.Keep(7*i, 11*i)
	}
	require.NoError(t, p.SetMask(m))
	f, err := footprint(n)
	require.NoError(t, err)
	require.Equal(t, 10+30000+1000+410, f.Kept)
	csr, err := sparse.Pack(sparse.NewDense(300, 784, p.W), sparse.LayoutCSR, sparse.F32, 0)
	require.NoError(t, err)
	require.Less(t, csr.Bytes().Total(), int64(300*784/8), "CSR is smaller here than a bitmask")
	require.Equal(t, csr.Bytes().Total()+4*(30000+1000+410), f.Bytes)
	require.InDelta(t, 10./235200, f.Layers[0].Kept, 1e-12)
	// The sparsity for a factor meets it with biases counted.
	for _, c := range []struct {
		net    string
		factor float64
		keep   int // weights
	}{{"lenet-300-100", 12, 22217 - 410}, {"lenet-5", 50, 8621 - 580}, {"lenet-5", 100, 4310 - 580}} {
		n, _, err := network(c.net, 1)
		require.NoError(t, err)
		_, err = prune.TuneNet(context.Background(), n, prune.Tuning{Pattern: prune.Unstructured{Sparsity: sparsityFor(n, c.factor), Scope: prune.ScopeGlobal}})
		require.NoError(t, err)
		f, err := footprint(n)
		require.NoError(t, err)
		biases := 410
		if c.net == "lenet-5" {
			biases = 580
		}
		require.Equal(t, c.keep, f.Kept-biases)
		require.GreaterOrEqual(t, f.Fewer(), c.factor)
	}
}

// TestHanAndLevels on images that are none: shapes of the tables, resumption, exact compression, and
// that a variant goes on from another's weights.
func TestHanAndLevels(t *testing.T) {
	path := filepath.Join(t.TempDir(), "j")
	plan := Compact{Net: "lenet-300-100", Epochs: 1, Batch: 60, Rate: 1e-3, Again: 1, Seeds: 2, Goals: []Goal{{12, 100}, {30, -100}}, Variants: []Variant{
		{Name: "a", Factor: 12, Criterion: prune.LAMP{}, Schedule: prune.Cubic, Epochs: 1, Rate: 1e-3, Distill: true},
		{Name: "b", Factor: 30, Criterion: prune.Magnitude{}, Scope: prune.ScopeGlobal, Schedule: prune.Cubic, Splice: true, Epochs: 1, Rate: 1e-3, From: "a"}}}
	runs, err := testLab(t, path, 2).Han(context.Background(), []Compact{plan})
	require.NoError(t, err)
	require.Len(t, runs, 6)
	rows := HanRows(runs)
	require.Len(t, rows, 3)
	for i, factor := range []float64{1, 12, 30} {
		require.InDelta(t, factor, rows[i].Fewer, factor*2e-3)
		require.Equal(t, 2, rows[i].Error.N)
	}
	claims := HanClaims([]Compact{plan}, rows)
	require.Len(t, claims, 2)
	require.True(t, claims[0].Holds)
	require.False(t, claims[1].Holds)
	l := testLab(t, path, 2)
	l.Progress = func(LabProgress) { t.Error("work was done that the journal has") }
	again, err := l.Han(context.Background(), []Compact{plan})
	require.NoError(t, err)
	require.Equal(t, runs, again)

	p := Levels{Net: "lenet-300-100", Methods: []string{"magnitude", "gradient", "sensitivity", "random"}, Sparsity: []float64{0.5, 0.9}, Gradual: []bool{false, true}, Epochs: 1, Tune: 1, Batch: 60, Rate: 1e-3, Seeds: 1}
	l = testLab(t, path, 2)
	levels, err := l.Levels(context.Background(), p)
	require.NoError(t, err)
	require.Len(t, levels, 16)
	dense := LevelsDense(levels)
	require.Equal(t, 1-runs[0].Dense, dense.Mean, "the dense runs of both experiments are the same")
	lr := LevelRows(levels)
	require.Len(t, lr, 8)
	table := LevelTable(p, lr, dense)
	var md, csv bytes.Buffer
	require.NoError(t, table.Markdown(&md))
	require.NoError(t, HanTable(rows).Markdown(&md))
	require.NoError(t, ClaimTable(append(claims, LevelClaims(lr)...)).Markdown(&md))
	require.Equal(t, 3+(2+8)+(2+3)+(2+2+6+6), strings.Count(md.String(), "\n| ")+strings.Count(md.String(), "## "), md.String())
	require.NoError(t, LevelsCSV(&csv, levels))
	require.NoError(t, HanCSV(&csv, runs))
	require.Equal(t, 17+7, strings.Count(csv.String(), "\n"))
	require.NoError(t, Chart(filepath.Join(t.TempDir(), "x.png"), "t", "x", "y", append(LevelLines(p, lr, dense), HanLines(rows)...)))

	for _, bad := range []error{
		errOf(l.Levels(context.Background(), Levels{Net: "alexnet"})),
		errOf(l.Levels(context.Background(), Levels{Net: "lenet-5", Methods: []string{"luck"}})),
		errOf(l.Han(context.Background(), []Compact{{Net: "vgg"}})),
		errOf(l.Han(context.Background(), []Compact{{Net: "lenet-300-100", Epochs: 1, Batch: 60, Rate: 1e-3, Seeds: 1, Variants: []Variant{{Name: "x", From: "y"}}}})),
	} {
		require.ErrorIs(t, bad, ErrOption)
	}
}

func errOf[T any](_ T, err error) error { return err }

// TestClaims: what does not hold is said.
func TestClaims(t *testing.T) {
	at := func(x float64) Stat { return Stat{Mean: x, N: 5} }
	rows := []LotteryRow{
		{DenseRun, 0, 1, at(4700), at(0.97), at(0.98)}, {Ticket, 3, 0.513, at(1700), at(0.975), at(0.981)}, {Ticket, 7, 0.211, at(5000), at(0.969), at(0.981)},
		{Reinit, 7, 0.211, at(4000), at(0.96), at(0.97)}, {Ticket, 15, 0.036, at(3000), at(0.96), at(0.9795)}, {Reinit, 15, 0.036, at(3000), at(0.96), at(0.9799)},
	}
	var holds []bool
	for _, c := range LotteryClaims(FullLottery(), rows) {
		holds = append(holds, c.Holds)
	}
	require.Equal(t, []bool{false, true, true, false, true, false, true}, holds)
	require.Empty(t, LotteryClaims(FullLottery(), rows[1:]))
	level := LevelRows([]LevelRun{
		{Method: "magnitude", Sparsity: 0.9, Dense: 0.98, Accuracy: 0.97}, {Method: "magnitude", Sparsity: 0.95, Dense: 0.98, Accuracy: 0.9},
		{Method: "random", Sparsity: 0.95, Dense: 0.98, Accuracy: 0.91}})
	claims := LevelClaims(level)
	require.Len(t, claims, 3)
	require.True(t, claims[0].Holds)
	require.False(t, claims[1].Holds)
	require.False(t, claims[2].Holds, "random was better")
}

// TestChartCorner: the legend stands where the curves are not.
func TestChartCorner(t *testing.T) {
	for _, c := range []struct {
		y         []float64
		top, left bool
	}{{[]float64{0, 8, 9, 10}, false, false}, {[]float64{10, 10, 9, 0}, false, true}, {[]float64{0, 0, 1, 10}, true, true}, {[]float64{10, 1, 0, 0}, true, false}} {
		top, left := emptiest([]Line{{"", []float64{0, 1, 2, 3}, c.y}})
		require.Equal(t, [2]bool{c.top, c.left}, [2]bool{top, left}, "%v", c.y)
	}
}

// TestWork: the first error stops the other tasks, and is the one that is returned.
func TestWork(t *testing.T) {
	l := &Lab{Jobs: 2}
	broken := errors.New("broken")
	var ran atomic.Int64
	tasks := []task{{"a", 1, func(context.Context) error { return broken }}, {"b", 1, func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}}
	for range 50 {
		tasks = append(tasks, task{"c", 1, func(context.Context) error { ran.Add(1); return nil }})
	}
	require.ErrorIs(t, l.work(context.Background(), tasks), broken)
	require.Less(t, ran.Load(), int64(50))
}

// TestRecipe: a variant that goes on from another is another one when that one changes.
func TestRecipe(t *testing.T) {
	p := Compacts()[1]
	last := p.Variants[len(p.Variants)-1]
	require.NotEmpty(t, last.From)
	before := p.recipe(last)
	p.Variants[0].Epochs++ // two steps before it
	require.NotEqual(t, before, p.recipe(last))
}
