package main

import (
	"bytes"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/sparserun/sparserun/testenv"
)

func TestRun(t *testing.T) {
	var out bytes.Buffer
	require.NoError(t, run(&out, filepath.Dir(testenv.Data(t, "stories260K/config.json")), "Once upon a time"))
	require.Contains(t, out.String(), "Once upon a time")
	require.Contains(t, out.String(), "magnitude 2:4: 50.00% of 35 matrices zero")
}
