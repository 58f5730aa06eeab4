package cpu_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/model"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

func TestTimer(t *testing.T) {
	b := cpu.New(cpu.Threads(2))
	defer b.Close()
	require.Contains(t, b.Machine(), "2 threads")
	ctx := context.Background()
	k := runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutDense, Weight: sparse.F16, Act: sparse.F32}
	small, err := b.Time(ctx, k, 256, 256, 1, 1)
	require.NoError(t, err)
	large, err := b.Time(ctx, k, 2048, 2048, 1, 1)
	require.NoError(t, err)
	require.Greater(t, large, 2*small, "64 times the work") // loose: the machine may be busy
	for _, l := range sparse.Layouts {
		for _, batch := range []int{1, 64} {
			k.Layout = l
			d, err := b.Time(ctx, k, 576, 576, 0.5, batch)
			require.NoError(t, err)
			require.Positive(t, d)
			t.Logf("%v batch %d: %v", k, batch, d)
		}
	}
	_, err = b.Time(ctx, k, 0, 576, 0.5, 1)
	require.ErrorIs(t, err, runtime.ErrShape)
	_, err = b.Time(ctx, runtime.Kernel{Op: model.OpLinear, Layout: sparse.LayoutDense, Weight: sparse.FP8}, 64, 64, 1, 1)
	require.ErrorIs(t, err, runtime.ErrUnsupported)
	ctx, cancel := context.WithCancel(ctx)
	cancel()
	_, err = b.Time(ctx, k, 64, 64, 0.5, 1)
	require.ErrorIs(t, err, context.Canceled)
}
