package prune

import (
	"context"
	goruntime "runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
)

func TestMaxMemoryRefusesBeforeWork(t *testing.T) {
	cfg := tinyConfig()
	c := randomCalib(cfg.Vocab, 6, 40)
	for _, m := range []calibrated{Wanda{Calib: c}, SparseGPT{Calib: c}, Best{Calib: c}} {
		rep, err := Run(context.Background(), randomGraph(t, cfg, 1), m, Pattern24, Options{})
		require.NoError(t, err)
		require.Positive(t, rep.PeakBytes)
		o := Options{MaxMemory: rep.PeakBytes, Progress: func(int, int, LayerReport) {}}
		_, err = Run(context.Background(), randomGraph(t, cfg, 1), m, Pattern24, o)
		require.NoError(t, err)
		o.MaxMemory--
		o.Progress = func(int, int, LayerReport) { t.Error("work was done") }
		_, err = Run(context.Background(), randomGraph(t, cfg, 1), m, Pattern24, o)
		require.ErrorIs(t, err, ErrMemory)
	}
}

// The account must match what the heap does, within the slack that the garbage
// collector takes.
func TestMemoryAccountMatchesTheHeap(t *testing.T) {
	cfg := model.Config{Arch: "llama", Vocab: 64, Hidden: 128, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 32, FFN: 320,
		Context: 128, RMSEps: 1e-5, RopeTheta: 10000, Tied: true}
	c := randomCalib(cfg.Vocab, 60, 128)
	for _, m := range []calibrated{SparseGPT{Calib: c}, Best{Calib: c}} {
		g := randomGraph(t, cfg, 1)
		var stats goruntime.MemStats
		goruntime.GC()
		goruntime.ReadMemStats(&stats)
		before, top := stats.HeapAlloc, uint64(0)
		o := Options{Progress: func(int, int, LayerReport) {
			goruntime.GC()
			goruntime.ReadMemStats(&stats)
			top = max(top, stats.HeapAlloc)
		}}
		rep, err := Run(context.Background(), g, m, Pattern24, o)
		require.NoError(t, err)
		used := int64(top) - int64(before)
		t.Logf("%s: account %d KB, heap at most %d KB", m.Name(), rep.PeakBytes>>10, used>>10)
		require.Less(t, used, rep.PeakBytes)
		require.Greater(t, used, rep.PeakBytes/5)
	}
}
