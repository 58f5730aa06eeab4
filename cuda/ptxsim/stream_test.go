package ptxsim

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestGraphReplay captures a kernel and a copy, and replays them.
func TestGraphReplay(t *testing.T) {
	d := NewDevice(Config{})
	m, err := d.Load(kern("ld.global.u32 %r1, [%rd0]; add.u32 %r1, %r1, 5; st.global.u32 [%rd0], %r1;"))
	require.NoError(t, err)
	k, err := m.Kernel("k")
	require.NoError(t, err)
	p, err := d.Alloc(4)
	require.NoError(t, err)
	s, err := d.NewStream()
	require.NoError(t, err)
	e0, err := d.NewEvent(true)
	require.NoError(t, err)
	e1, err := d.NewEvent(true)
	require.NoError(t, err)
	_, err = e1.Since(e0)
	require.ErrorIs(t, err, ErrInvalidHandle, "never recorded")

	out := make([]byte, 4)
	_, err = s.EndCapture()
	require.ErrorIs(t, err, ErrIllegalState)
	require.NoError(t, s.Memset32(p, 1, 1))
	require.NoError(t, s.BeginCapture())
	require.ErrorIs(t, s.BeginCapture(), ErrIllegalState)
	require.ErrorIs(t, s.Synchronize(), ErrStreamCaptureUnsupported)
	require.NoError(t, s.Launch(k, Dim3{}, Dim3{}, 0, p))
	require.NoError(t, s.DtoH(out, p))
	g, err := s.EndCapture()
	require.NoError(t, err)
	require.Equal(t, 2, g.Nodes())
	require.Equal(t, byte(0), out[0], "captured, not done")

	exec, err := g.Instantiate()
	require.NoError(t, err)
	require.NoError(t, s.Record(e0))
	for i := 1; i <= 3; i++ {
		require.NoError(t, exec.Launch(s))
		require.NoError(t, s.Synchronize())
		require.Equal(t, byte(1+5*i), out[0])
	}
	require.NoError(t, s.Record(e1))
	took, err := e1.Since(e0)
	require.NoError(t, err)
	require.Positive(t, took)

	// A graph may become part of another one.
	require.NoError(t, s.BeginCapture())
	require.NoError(t, exec.Launch(s))
	require.NoError(t, exec.Launch(s))
	twice, err := s.EndCapture()
	require.NoError(t, err)
	both, err := twice.Instantiate()
	require.NoError(t, err)
	d.FailOn("cuGraphLaunch", 2, ErrOutOfMemory)
	require.ErrorIs(t, both.Launch(s), ErrOutOfMemory)
	require.NoError(t, both.Launch(s))
	require.Equal(t, byte(1+5*5), out[0])
}
