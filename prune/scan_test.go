package prune

import (
	"bytes"
	"context"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/train"
)

// TestScan: each point is the network with that one matrix pruned, and afterwards the network is
// what it was.
func TestScan(t *testing.T) {
	n, data := trainedMLP(t, 2), clusters(2, 600, 24, 6)
	before := n.Snapshot()
	calls := 0
	s, err := ScanNet(context.Background(), n, data, ScanOptions{Levels: []float64{0, 0.5, 0.9, 1}, Batch: 200, Progress: func(done, total int, _ ScanPoint) {
		calls++
		require.Equal(t, calls, done)
		require.Equal(t, 12, total)
	}})
	require.NoError(t, err)
	require.Equal(t, before, n.Snapshot())
	require.Len(t, s.Points, 12)
	require.Equal(t, []ScanLayer{{"fc1.weight", 960}, {"fc2.weight", 800}, {"fc3.weight", 120}}, s.Layers)
	for i, p := range n.Prunable() {
		require.Nil(t, p.Mask())
		require.Equal(t, s.Loss, s.Points[4*i].Loss, "level 0 is the network itself")
		require.Greater(t, s.Points[4*i+3].Loss, s.Loss+0.1, "a network without a matrix")
		clear(p.W)
		v, err := train.Evaluate(n, data, 200)
		require.NoError(t, err)
		require.Equal(t, v.NLL, s.Points[4*i+3].Loss)
		require.NoError(t, n.Restore(before))
	}
	var b bytes.Buffer
	require.NoError(t, s.CSV(&b))
	lines := strings.Split(strings.TrimSpace(b.String()), "\n")
	require.Len(t, lines, 13)
	require.Equal(t, "layer,sparsity,loss,accuracy", lines[0])
	require.True(t, strings.HasPrefix(lines[2], "fc1.weight,0.5,"))

	for _, f := range []func(float64) (map[string]float64, error){s.Budget, s.Greedy} {
		for _, want := range []float64{0, 0.3, 0.75, 0.9, 1} {
			rates, err := f(want)
			require.NoError(t, err)
			require.InDelta(t, want, (960*rates["fc1.weight"]+800*rates["fc2.weight"]+120*rates["fc3.weight"])/1880, 1e-6)
		}
	}
	rates, err := s.Budget(0.8)
	require.NoError(t, err)
	o := Tuning{Pattern: Unstructured{Sparsity: 0.8}, Rates: rates, Train: clusters(1, 1500, 24, 6), Fit: fineTune(6)}
	rep, err := TuneNet(context.Background(), n, o)
	require.NoError(t, err)
	require.InDelta(t, 0.8, rep.Sparsity, 2e-3)
}

// TestScanRates by hand: a has 100 weights and costs 0.1 per half, b has 300 and costs 0.6, then 2 more.
func TestScanRates(t *testing.T) {
	s := &Scan{Loss: 1, Layers: []ScanLayer{{"a", 100}, {"b", 300}}, Points: []ScanPoint{
		{"a", 0, 1, 0}, {"a", 0.5, 1.1, 0}, {"a", 1, 1.2, 0},
		{"b", 0, 1, 0}, {"b", 0.5, 1.6, 0}, {"b", 1, 3.6, 0}}}
	// Together 175 of 400: at a rise of 0.2 all of a is gone and a sixth of b (50): 150; at 0.3: 100 + 75.
	r, err := s.Budget(175. / 400)
	require.NoError(t, err)
	require.InDelta(t, 1, r["a"], 1e-9)
	require.InDelta(t, 0.25, r["b"], 1e-9)
	// 60: at a rise r, a gives 500 r and b 250 r, so r = 0.08.
	r, err = s.Budget(60. / 400)
	require.NoError(t, err)
	require.InDelta(t, 0.4, r["a"], 1e-9)
	require.InDelta(t, 0.08/0.6*0.5, r["b"], 1e-9)
	// Greedy: a's halves cost 0.002 a weight, b's first 0.004: a goes whole, then b.
	r, err = s.Greedy(175. / 400)
	require.NoError(t, err)
	require.Equal(t, map[string]float64{"a": 1, "b": 0.25}, r)
	r, err = s.Greedy(60. / 400)
	require.NoError(t, err)
	require.InDelta(t, 0.6, r["a"], 1e-12)
	require.Zero(t, r["b"])
	// A dip counts as flat, a point that is no number as a wall.
	s.Points[1].Loss, s.Points[5].Loss = 0.7, math.NaN()
	r, err = s.Budget(0.5)
	require.NoError(t, err)
	require.InDelta(t, 1, r["a"], 1e-9)
	require.InDelta(t, 1./3, r["b"], 1e-9)
	s.Points[5].Sparsity = 0.6
	_, err = s.Budget(0.8)
	require.ErrorIs(t, err, ErrPattern, "b was scanned to 0.6 only")
	_, err = s.Greedy(0.8)
	require.ErrorIs(t, err, ErrPattern)
	_, err = (&Scan{}).Budget(0.5)
	require.ErrorIs(t, err, ErrTarget)
}

func TestScanRejects(t *testing.T) {
	n, data := trainedMLP(t, 1), clusters(2, 60, 24, 6)
	for _, c := range []struct {
		o    ScanOptions
		d    train.Data
		want error
	}{
		{ScanOptions{}, nil, ErrMethod}, {ScanOptions{Levels: []float64{0.5, 0.1}}, data, ErrMethod}, {ScanOptions{Levels: []float64{2}}, data, ErrPattern},
		{ScanOptions{Batch: -1}, data, ErrMethod}, {ScanOptions{Include: []string{"x"}}, data, ErrTarget}, {ScanOptions{Criterion: SNIP{}}, data, ErrCalib},
	} {
		_, err := ScanNet(context.Background(), n, c.d, c.o)
		require.ErrorIs(t, err, c.want)
	}
}
