package loader

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/sparse"
	"github.com/sparserun/sparserun/testenv"
)

func TestOpenSmolLM2(t *testing.T) {
	start := time.Now()
	g, err := Open(testenv.Model(t))
	require.NoError(t, err)
	defer g.Close()
	t.Log("open", time.Since(start))
	start = time.Now()
	for _, w := range g.Weights {
		_, err := sparse.Read(w.Data)
		require.NoError(t, err)
	}
	t.Log("read all", time.Since(start), g.Parameters(), g.WeightBytes())
	t.Logf("%+v", *g.Config)
}

func TestOpenStories(t *testing.T) {
	g, err := Open(testenv.Data(t, "stories260K"))
	require.NoError(t, err)
	defer g.Close()
	t.Logf("%+v", *g.Config)
	require.NotNil(t, g.Tokenizer)
	g, err = Open(testenv.Data(t, "stories260K/model.safetensors"))
	require.NoError(t, err)
	defer g.Close()
}
