package servetest_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/loader"
	"github.com/sparserun/sparserun/runtime"
	"github.com/sparserun/sparserun/runtime/cpu"
	"github.com/sparserun/sparserun/serve/servetest"
)

func TestModels(t *testing.T) {
	g, err := loader.Open(servetest.Alphabet(t))
	require.NoError(t, err)
	s, err := runtime.New(g, cpu.New(), runtime.WithDense())
	require.NoError(t, err)
	defer s.Close()
	r, err := s.Generate(t.Context(), "start here: ", runtime.GenerateOptions{})
	require.NoError(t, err)
	require.Equal(t, "abcdefghijklm\u00e9nopqrstuvwxyz", r.Text)
	require.Equal(t, "stop", r.Finish)
	require.NotEmpty(t, g.Tokenizer.ChatTemplate())

	n, err := loader.Open(servetest.Affine(t))
	require.NoError(t, err)
	ns, err := runtime.New(n, cpu.New(), runtime.WithDense())
	require.NoError(t, err)
	defer ns.Close()
	y, err := ns.RunFloats(t.Context(), []float32{1, 0, 0, 0, 1, 1}, 2, 3)
	require.NoError(t, err)
	require.Equal(t, []float32{1, 2, 8, 10}, y)
}
