package simdriver

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/cuda/ptxsim"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/sparse"
)

// TestLockstep: a step of a prompt and two texts, one of which reads a page of the
// other's, and hidden states: as on the CPU.
func TestLockstep(t *testing.T) {
	if testing.Short() {
		t.Skip("a model on the simulator")
	}
	b, _ := open(t, ptxsim.Config{})
	g := stories(t, false)
	o := runtime.Options{DType: sparse.F32, Context: 128, Chunk: 48, Select: 4, Hidden: true, Sparse: runtime.SparseOff}
	var logits [2][][]float32
	var hidden [2][]float32
	for i, be := range []runtime.Backend{b, cpu.New(cpu.Threads(1))} {
		s, err := runtime.New(g, be, runtime.WithOptions(o))
		require.NoError(t, err)
		l := s.NewLockstep()
		prompt := make([]int32, 34)
		for k := range prompt {
			prompt[k] = int32(1 + 13*k%500)
		}
		a, c := s.NewSequence(), s.NewSequence()
		require.NoError(t, l.Add(a, prompt, 1))
		require.NoError(t, l.Run(context.Background()))
		keep := func(part int) { logits[i] = append(logits[i], append([]float32(nil), l.Logits(part, 0)...)) }
		keep(0)
		require.NoError(t, c.Adopt(a.Pages()[0]))
		l.Reset()
		require.NoError(t, l.Add(a, []int32{7}, 1))
		require.NoError(t, l.Add(c, []int32{8, 9, 10}, 1))
		require.NoError(t, l.WantHidden())
		require.NoError(t, l.Run(context.Background()))
		keep(0)
		keep(1)
		hidden[i] = make([]float32, s.Graph().Config.Hidden)
		l.Hidden(1, 2, hidden[i])
		require.NoError(t, s.Close())
	}
	for k := range logits[0] {
		for v, want := range logits[1][k] {
			require.InDelta(t, want, logits[0][k][v], 2e-3, "step %d, token %d", k, v)
		}
	}
	for c, want := range hidden[1] {
		require.InDelta(t, want, hidden[0][c], 2e-3)
	}
}
