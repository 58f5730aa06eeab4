package prune

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
)

func TestInterruptedRunsResumeBitForBit(t *testing.T) {
	cfg := tinyConfig()
	cfg.Layers = 4
	c := randomCalib(cfg.Vocab, 4, 30)
	for _, m := range []Method{SparseGPT{Calib: c}, Best{Calib: c}} {
		for _, store := range []Store{{DType: sparse.F32}, {}, {DType: sparse.Int8, Layout: sparse.LayoutCSR}, {Layout: sparse.LayoutDense}} {
			if _, slow := m.(Best); slow && store.DType != sparse.F32 {
				continue
			}
			whole := randomGraph(t, cfg, 1)
			want, err := Run(context.Background(), whole, m, Pattern24, Options{Store: store})
			require.NoError(t, err)
			for _, stop := range []int{1, 9, 20} { // in the first, second, third block
				dir := filepath.Join(t.TempDir(), "journal")
				ctx, cancel := context.WithCancel(context.Background())
				_, err = Run(ctx, randomGraph(t, cfg, 1), m, Pattern24, Options{Store: store, Journal: dir, Threads: 1,
					Progress: func(done, _ int, _ LayerReport) {
						if done == stop {
							cancel()
						}
					}})
				require.ErrorIs(t, err, context.Canceled)
				left, _ := filepath.Glob(filepath.Join(dir, "*"))
				require.Len(t, left, stop/7)

				g := randomGraph(t, cfg, 1)
				fresh := 0
				got, err := Run(context.Background(), g, m, Pattern24, Options{Store: store, Journal: dir, Threads: 3,
					Progress: func(done, _ int, _ LayerReport) { fresh++ }})
				require.NoError(t, err)
				require.Equal(t, 28, fresh)
				require.Equal(t, want.Recipe, got.Recipe)
				require.Equal(t, want.Layers, got.Layers)
				require.Equal(t, readAll(t, whole), readAll(t, g))

				require.NoError(t, ClearJournal(dir))
				require.NoDirExists(t, dir)
			}
		}
	}
}

func TestJournalRefuses(t *testing.T) {
	cfg := tinyConfig()
	c := randomCalib(cfg.Vocab, 2, 30)
	dir := t.TempDir()
	run := func(m Method, p Pattern, seed uint64) error {
		_, err := Run(context.Background(), randomGraph(t, cfg, seed), m, p, Options{Journal: dir})
		return err
	}
	require.NoError(t, run(Wanda{Calib: c}, Pattern24, 1))
	require.NoError(t, run(Wanda{Calib: c}, Pattern24, 1)) // its own journal, complete
	require.ErrorIs(t, run(Wanda{Calib: c}, NM{1, 4}, 1), ErrJournal)
	require.ErrorIs(t, run(SparseGPT{Calib: c}, Pattern24, 1), ErrJournal)
	require.ErrorIs(t, run(Wanda{Calib: randomCalib(cfg.Vocab, 3, 30)}, Pattern24, 1), ErrJournal)
	require.ErrorIs(t, run(Wanda{Calib: c}, Pattern24, 2), ErrJournal) // other weights

	name := filepath.Join(dir, "block-0001.prune")
	good, err := os.ReadFile(name)
	require.NoError(t, err)
	for _, bad := range [][]byte{nil, good[:10], good[:len(good)-1], append(append([]byte{}, good[:100]...), append([]byte{good[100] ^ 1}, good[101:]...)...)} {
		require.NoError(t, os.WriteFile(name, bad, 0o644))
		require.ErrorIs(t, run(Wanda{Calib: c}, Pattern24, 1), ErrJournal)
	}
	require.NoError(t, os.WriteFile(name, good, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), nil, 0o644)) // not ours
	require.NoError(t, ClearJournal(dir))
	require.FileExists(t, filepath.Join(dir, "notes.txt"))
	require.NoFileExists(t, name)
}
