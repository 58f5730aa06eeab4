package experiment

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/codebook"
	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/train"
)

// silent is a lab whose journals must have everything already.
func silent(t *testing.T, l *Lab) *Lab {
	l.Progress = func(LabProgress) { t.Error("work was done that the journal has") }
	return l
}

// TestDeep: a plan ends with a file of the size it says, and with as many weights as asked for; what the
// journal has is not run again; nothing is found where nothing ran.
func TestDeep(t *testing.T) {
	dir := t.TempDir()
	lab := testLab(t, filepath.Join(dir, "j"), 2)
	lab.whole = func() (*train.MNIST, error) { return &train.MNIST{Train: lab.Train, Test: lab.Test}, nil }
	o := train.Options{Epochs: 6, Batch: 30, Rate: 1e-3}
	plan := Compression{Net: "lenet-300-100", Dense: o, Prune: o, Share: o, Keep: []float64{0.1, 0.2, 0.5}, Bits: []int{3, 4, 2},
		Teach: train.Distill{Temperature: 3, Weight: 0.7}, Seeds: 2, Samples: 480, Goal: Goal{10, 100}}
	runs, err := lab.Deep(context.Background(), []Compression{plan}, dir)
	require.NoError(t, err)
	require.Len(t, runs, 2)
	for i, r := range runs {
		require.Equal(t, uint64(i+1), r.Seed)
		require.Equal(t, 266610, r.Parameters)
		require.InDelta(t, 23520+6000+500+410, r.Kept, 20, "a weight may become zero by itself")
		st, err := os.Stat(filepath.Join(dir, "lenet-300-100-"+string(rune('1'+i))+".srcb"))
		require.NoError(t, err)
		require.Equal(t, st.Size(), r.FileBytes)
		require.InDelta(t, 4*266610/float64(st.Size()), r.Ratio, 1e-9)
		require.Greater(t, r.PlainBytes, int64(0))
		require.Greater(t, r.Coded, 0.2)
	}
	require.NotEqual(t, runs[0].Coded+float64(runs[0].FileBytes), runs[1].Coded+float64(runs[1].FileBytes), "seeds differ")
	b, err := os.ReadFile(filepath.Join(dir, "lenet-300-100-1.srcb"))
	require.NoError(t, err)
	f, err := codebook.Read(b, 1<<20)
	require.NoError(t, err)
	st, err := f.Tensors[0].Stats()
	require.NoError(t, err)
	require.LessOrEqual(t, st.Entries, 8)

	again, err := silent(t, testLab(t, filepath.Join(dir, "j"), 1)).Deep(context.Background(), []Compression{plan}, dir)
	require.NoError(t, err)
	require.Equal(t, runs, again)
	off := testLab(t, filepath.Join(dir, "j"), 1)
	off.Offline = true
	none, err := off.Deep(context.Background(), []Compression{plan}, t.TempDir())
	require.NoError(t, err)
	require.Empty(t, none)

	claims := DeepClaims([]Compression{plan}, runs)
	require.Equal(t, []bool{true, true}, []bool{claims[0].Holds, claims[1].Holds})
	strict := plan
	strict.Goal = Goal{1000, -100}
	claims = DeepClaims([]Compression{strict}, runs)
	require.Equal(t, []bool{false, false}, []bool{claims[0].Holds, claims[1].Holds})
	require.Empty(t, DeepClaims([]Compression{plan}, nil))
	var md, csv bytes.Buffer
	require.NoError(t, DeepTable([]Compression{plan}, runs).Markdown(&md))
	require.Equal(t, 2+2+1, strings.Count(md.String(), "\n| "), md.String())
	require.NoError(t, DeepCSV(&csv, runs))
	require.Equal(t, 3, strings.Count(csv.String(), "\n"))
	plan.Net = "alexnet"
	_, err = lab.Deep(context.Background(), []Compression{plan}, dir)
	require.ErrorIs(t, err, ErrOption)
	// A plan that does not say how much of every matrix stays.
	plan.Net, plan.Keep = "lenet-300-100", []float64{0.5}
	_, err = lab.Deep(context.Background(), []Compression{plan}, dir)
	require.ErrorIs(t, err, ErrOption)
}

// pixels are images of ten classes for a network of 3x32x32.
func pixels(n int) *train.Items {
	small := digits(4, n)
	d := &train.Items{Width: 3 * 32 * 32, X: make([]float32, n*3*32*32), Y: small.Y}
	for i := range d.X {
		d.X[i] = small.X[i/d.Width*784+i%d.Width%784]
	}
	return d
}

// TestResNet20: every image is tested once; the file has the structure that the report says; latencies
// are measured once and kept; a journal with a fold too few is no result.
func TestResNet20(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "net.onnx")
	g, err := train.Tensors(train.ResNet20(3))
	require.NoError(t, err)
	require.NoError(t, loader.SaveContext(context.Background(), g, file, loader.SaveOptions{}))
	s := ResNet20Slimming()
	s.Tune.Epochs, s.Tune.Batch, s.Images, s.Seeds, s.Points = 1, 5, 20, 1, 100
	lab := &Lab{Jobs: 2}
	runs, err := lab.ResNet20(context.Background(), s, file, pixels(30), dir, 1)
	require.NoError(t, err)
	require.Len(t, runs, 1)
	r := runs[0]
	require.Equal(t, 20, r.Images)
	require.LessOrEqual(t, float64(r.MACs[1]), 0.7*float64(r.MACs[0]))
	require.Len(t, r.Latency, len(latencyBatches))
	small, err := loader.Open(filepath.Join(dir, "resnet20-1.onnx"))
	require.NoError(t, err)
	defer small.Close()
	n, err := train.New(small, nil)
	require.NoError(t, err)
	var params int64
	for _, p := range n.Params {
		params += int64(len(p.W))
	}
	require.Less(t, params, r.Parameters[0])
	claims := SlimClaims(s, runs)
	require.Len(t, claims, 3)
	require.True(t, claims[0].Holds && claims[1].Holds)

	again, err := silent(t, &Lab{Jobs: 1, Offline: true}).ResNet20(context.Background(), s, "nowhere", nil, dir, 1)
	require.NoError(t, err)
	require.Equal(t, runs, again)
	// The first line is the first of the folds to finish.
	b, err := os.ReadFile(filepath.Join(dir, "resnet20.jsonl"))
	require.NoError(t, err)
	lines := strings.SplitAfter(string(b), "\n")
	part := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(part, "resnet20.jsonl"), []byte(lines[0]+lines[1]), 0o644))
	none, err := (&Lab{Jobs: 1, Offline: true}).ResNet20(context.Background(), s, "nowhere", nil, part, 1)
	require.NoError(t, err)
	require.Empty(t, none)

	// Without latencies the table says so.
	r.Latency = nil
	var md, csv bytes.Buffer
	require.NoError(t, ResNet20Table(s, []Slimmed{r, runs[0]}).Markdown(&md))
	require.Equal(t, 2+2+1, strings.Count(md.String(), "\n| "), md.String())
	require.Equal(t, 6, strings.Count(md.String(), " - |"), md.String())
	require.NoError(t, ResNet20CSV(&csv, []Slimmed{r, runs[0]}))
	require.Equal(t, 3, strings.Count(csv.String(), "\n"))
	require.Len(t, SlimClaims(s, []Slimmed{r}), 2)
	require.Empty(t, SlimClaims(s, nil))

	_, err = lab.ResNet20(context.Background(), s, file, pixels(19), dir, 1)
	require.ErrorIs(t, err, ErrOption, "fewer images than the plan wants")
	s.Folds = 1
	_, err = lab.ResNet20(context.Background(), s, file, pixels(30), dir, 1)
	require.ErrorIs(t, err, ErrOption)
}
